/* SPDX-License-Identifier: Apache-2.0 */
/* A pair of rings and the backend's descriptor that they share. */
#include <sys/epoll.h>
#include <unistd.h>

#include "log.h"
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
		p->tx.blocked = false;
		pair_watch(p);
		server_run(p->tx.server);
	}
}

void pair_watch(struct pair *p)
{
	uint32_t events = 0;
	int err;

	/* Without rings none: two processes may have the descriptor, a server and its spare. */
	if (p->rx.on || p->tx.on)
		events = EVENTS_IN;
	if (p->tx.blocked)
		events |= EPOLLOUT;
	err = loop_mod_fd(p->watch, events);
	if (!err)
		return;
	log_error_errno(err, "%s can't be watched: ending, so that a successor does it",
			p->port->backend.name);
	_exit(1);
}

int pair_open(struct pair *pair, struct port *port, unsigned index, struct loop *loop)
{
	pair->port = port;
	pair->index = index;
	return loop_add_fd(loop, port->backend.fd[index], 0, on_events, pair, &pair->watch);
}

void pair_close(struct pair *pair)
{
	loop_del_fd(pair->watch);
	pair->watch = NULL;
}
