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
		/* Without buffers nothing is read, and so no end. Of a tap EPOLLERR says that it is unregistered. */
		if (events & (p->port->backend.ops->once ? EPOLLERR : EPOLLHUP))
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
	if ((p->rx.on || p->tx.on) && !p->rx.pace.fast)
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

/* Another connection. */
static void join(struct pair *p, int fd)
{
	struct backend *b = &p->port->backend;
	int err;

	loop_del_fd(p->watch);
	p->watch = NULL;
	b->ops->join(b, fd);
	err = loop_add_fd(server_loop(p->rx.server), b->fd[p->index], 0, on_events, p, &p->watch);
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

void pair_poked(struct pair *p)
{
	int fd = p->index ? -1 : atomic_exchange(&p->port->shared.connection, -1);

	if (fd >= 0)
		join(p, fd);
	p->rx.limited = p->tx.limited = false;
	server_run(p->rx.server);
	server_run(p->tx.server);
}

void pair_open(struct pair *pair, struct port *port, unsigned index)
{
	pair->port = port;
	pair->index = index;
	pair->rx.gone = port->backend.fd[index] < 0;
}

int pair_attach(struct pair *pair)
{
	int err, fd = pair->port->backend.fd[pair->index];

	if (fd < 0)
		return 0;
	err = loop_add_fd(server_loop(pair->rx.server), fd, 0, on_events, pair, &pair->watch);
	if (!err)
		pair_watch(pair);
	return err;
}

void pair_detach(struct pair *pair)
{
	loop_del_fd(pair->watch);
	pair->watch = NULL;
}
