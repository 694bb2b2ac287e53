/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of an IP packet, in bytes, that the supervisor, net-server and net-user agree on. */
#ifndef BASE_MTU_H
#define BASE_MTU_H

#define MTU_MIN 576   /* of IPv4; IPv6 wants 1280, which is the guest's to know */
#define MTU_MAX 65521 /* with an Ethernet header it is the largest frame that net-user takes */
/* User mode's own: no wire asks for less, and each packet costs the same. But segments of it must fit twice in the window that
 * Linux begins with, 64240 bytes, or libslirp and the guest wait for each other once frames are late. */
#define MTU_USER 32000

#endif
