/* SPDX-License-Identifier: Apache-2.0 */
/* A net-server whose supervisor is the test. */
#ifndef NET_BUS_H
#define NET_BUS_H

#include "net.h"
#include "supervise.h"

/* Starts it with a bus, whose arguments are added to the options, and waits until it is ready; has it end. */
void net_bus_start(struct net *n, struct supervisor *s, struct net_options *options);
void net_bus_stop(struct net *n, struct supervisor *s);

/* Waits until the I/O threads pass over their rings no more: a while in which they had every reason to and did not. */
void net_bus_falls_asleep(struct net *n, struct supervisor *s);

#endif
