/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's network: libslirp between the socket to net-server and the host's sockets. */
#ifndef NET_USER_NET_H
#define NET_USER_NET_H

#include "loop.h"
#include "options.h"

#define NET_FILES_MAX 2048 /* descriptors of this process; one for each connection of the guest */

struct net;

/* Opens all there is to open, the forwarded ports too; logs one line why not. 0 or -errno. */
int net_open(struct loop *loop, const struct options *opts, struct net **out);
void net_close(struct net *net);

/* One pass of the loop. 0 or -errno; -EPIPE once the other end of the socket is closed for good. */
int net_run_once(struct net *net);

/* Any thread. */
typedef void (*net_stat_fn)(void *arg, const char *name, uint64_t value);
void net_stats(const struct net *net, net_stat_fn add, void *arg);

#endif
