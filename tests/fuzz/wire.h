/* SPDX-License-Identifier: Apache-2.0 */
/* What the two vhost-user targets share: the connection, descriptors of all kinds to be passed, and the count of open ones. */
#ifndef FUZZ_WIRE_H
#define FUZZ_WIRE_H

#include "fuzz.h"
#include "loop.h"
#include "vhost_msg.h"

#define WIRE_RAM  0x10000U /* bytes of the sealed memfd */
#define WIRE_USER 0x7f0000000000ULL
#define WIRE_GPA  0x100000ULL

/* Begins an input: a loop and a connection in it, of which *sock is ours. Returns the end that is tested. */
int wire_begin(struct loop **loop, int *sock);

/* Ends it, when both ends are closed: as many descriptors must be open as before. */
void wire_end(struct loop *loop);

/* One of those that outlive the input; it stays ours. kind 0: memory. 1: an eventfd. Others: what fits nowhere. */
int wire_fd(unsigned kind);

/* Sends it with copies of the descriptors, as far as the socket takes it. */
void wire_send(int sock, const struct vhost_msg *msg, size_t len, const int *fds, unsigned n);

/* Takes one message off, closing its descriptors but the first, which goes to *fd (-1: there was none). Whether there was
 * one. */
bool wire_receive(int sock, struct vhost_msg *msg, int *fd);

#endif
