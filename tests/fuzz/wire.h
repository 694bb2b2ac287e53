/* SPDX-License-Identifier: Apache-2.0 */
/* What the two vhost-user targets share: descriptors of all kinds to be passed, and the count of those that are open. */
#ifndef FUZZ_WIRE_H
#define FUZZ_WIRE_H

#include "fuzz.h"
#include "vhost_msg.h"

#define WIRE_RAM  0x10000U /* bytes of the sealed memfd */
#define WIRE_USER 0x7f0000000000ULL
#define WIRE_GPA  0x100000ULL

/* One of those that outlive the input; it stays ours. kind 0: memory. 1: an eventfd. Others: what fits nowhere. */
int wire_fd(unsigned kind);

/* Sends it with copies of the descriptors, as far as the socket takes it. */
void wire_send(int sock, const struct vhost_msg *msg, size_t len, const int *fds, unsigned n);

/* Takes one message off, closing its descriptors but the first, which goes to *fd (-1: there was none). Whether there was
 * one. */
bool wire_receive(int sock, struct vhost_msg *msg, int *fd);

/* Remembers how many descriptors are open; and has to find as many again. */
void wire_count(void);
void wire_check(void);

#endif
