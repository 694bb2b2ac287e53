/* SPDX-License-Identifier: Apache-2.0 */
/* A net-server whose supervisor is the test. */
#ifndef NET_BUS_H
#define NET_BUS_H

#include <stdio.h>

#include "net.h"
#include "supervise.h"

/* Starts it with a bus, whose arguments are added to the options, and waits until it is ready; has it end. */
void net_bus_start(struct net *n, struct supervisor *s, struct net_options *options);
void net_bus_stop(struct net *n, struct supervisor *s);

/* The same with what it and its successors log going to a file, which the caller closes. */
FILE *net_bus_start_logged(struct net *n, struct supervisor *s, struct net_options *options);

/* What is in it, which must be something. */
void net_bus_said(FILE *text, char *said, size_t size);

/* Waits until the I/O threads pass over their rings no more: a while in which they had every reason to and did not. */
void net_bus_falls_asleep(struct net *n, struct supervisor *s);

#endif
