/* SPDX-License-Identifier: Apache-2.0 */
/* A pair of rings and the backend's descriptor that they share. */
#include <errno.h>
#include <sys/epoll.h>

#include "port.h"

/* Edge-triggered: while nothing is read, as the driver has no buffers, a flood does not wake anybody again and again. */
#define EVENTS_IN (EPOLLIN | EPOLLET)

static void on_events(void *arg, uint32_t events)
{
	struct pair *p = arg;

	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
		p->rx.readable = !p->rx.gone;
		server_run(p->rx.server);
	}
	if (p->tx.blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		pair_await_room(p, false);
		p->tx.blocked = false;
		server_run(p->tx.server);
	}
}

void pair_await_room(struct pair *pair, bool wanted)
{
	/* It can't fail: the descriptor is registered and only the mask changes. */
	loop_mod_fd(pair->watch, wanted ? EVENTS_IN | EPOLLOUT : EVENTS_IN);
}

int pair_open(struct pair *pair, struct port *port, unsigned index, struct loop *loop)
{
	pair->port = port;
	pair->index = index;
	return loop_add_fd(loop, port->backend.fd[index], EVENTS_IN, on_events, pair, &pair->watch);
}

void pair_close(struct pair *pair)
{
	loop_del_fd(pair->watch);
	pair->watch = NULL;
}
