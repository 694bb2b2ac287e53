/* SPDX-License-Identifier: Apache-2.0 */
/* A device process's whole life: options, sandbox, bus, vhost-user, queues on I/O threads, recovery,
 * statistics. */
#ifndef SERVER_H
#define SERVER_H

#endif
