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
		/* Without buffers nothing is read, and so no end. */
		if ((events & EPOLLHUP) && !p->port->backend.ops->vnet)
			rx_hung_up(&p->rx);
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

	if (!p->watch)
		return;
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

static void on_join(void *arg)
{
	struct pair *p = arg;
	struct backend *b = &p->port->backend;
	int err;

	loop_del_fd(p->watch);
	p->watch = NULL;
	b->ops->join(b, atomic_exchange(&p->port->shared.connection, -1));
	err = loop_add_fd(p->loop, b->fd[p->index], 0, on_events, p, &p->watch);
	if (err) {
		log_error_errno(err, "%s can't be watched: ending, so that a successor does it", b->name);
		_exit(1);
	}
	p->rx.gone = false;
	p->rx.readable = true;
	p->tx.blocked = false;
	pair_watch(p);
	port_joined(p->port);
}

static void on_wake(void *arg)
{
	struct pair *p = arg;

	p->rx.limited = p->tx.limited = false;
	server_run(p->rx.server);
	server_run(p->tx.server);
}

void pair_wake(struct pair *pair)
{
	loop_bh_post(&pair->wake);
}

void pair_join(struct pair *pair)
{
	loop_bh_post(&pair->join);
}

int pair_open(struct pair *pair, struct port *port, unsigned index, struct loop *loop)
{
	pair->port = port;
	pair->index = index;
	pair->loop = loop;
	loop_bh_init(&pair->join, loop, on_join, pair);
	loop_bh_init(&pair->wake, loop, on_wake, pair);
	pair->rx.gone = port->backend.fd[index] < 0;
	if (pair->rx.gone)
		return 0;
	return loop_add_fd(loop, port->backend.fd[index], 0, on_events, pair, &pair->watch);
}

void pair_close(struct pair *pair)
{
	loop_bh_cancel(&pair->join);
	loop_bh_cancel(&pair->wake);
	loop_del_fd(pair->watch);
	pair->watch = NULL;
}
