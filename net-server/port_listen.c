/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket that a port's peers connect to, one after the other. The main thread's; a connection is then the first pair's.
 *
 * All processes of a port have the socket, one that serves and one that waits to take over, so none takes a connection
 * before its driver is there. One at a time: the next one waits until this one is gone, and some time after it, or after a
 * failure, so that neither peers that come and go nor too few descriptors keep us busy.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "clock.h"
#include "log.h"
#include "port.h"

#define PAUSE_NS (100 * NS_PER_MS) /* from one connection to the next, at least */

/* To be watched again takes what the kernel may not have at the moment. */
static void listen_again(void *arg)
{
	struct port *port = arg;
	int err = port->listen_watch ? loop_mod_fd(port->listen_watch, EPOLLIN) : 0;

	if (!err)
		return;
	log_warn_limited("%s: who connects can't be waited for: %s", port->backend.name,
			 strerrordesc_np(-err));
	loop_arm_timer(port->listen_timer, clock_ns() + PAUSE_NS);
}

static void on_connection(void *arg, uint32_t events)
{
	struct port *port = arg;
	int fd = accept4(port->backend.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int err = fd < 0 ? errno : 0;

	(void)events;
	/* Another process that has the socket has shut it. */
	if (err == EINVAL) {
		log_error("%s: nobody can connect any more", port->backend.name);
		loop_del_fd(port->listen_watch);
		port->listen_watch = NULL;
		return;
	}
	loop_mod_fd(port->listen_watch, 0);
	port->listen_at = clock_ns() + PAUSE_NS;
	if (err) {
		log_warn_limited("%s: no connection can be taken: %s", port->backend.name,
				 strerrordesc_np(err));
		loop_arm_timer(port->listen_timer, port->listen_at);
		return;
	}
	atomic_store(&port->shared.connection, fd);
	server_poke(port->pair[0].rx.server);
}

int port_listen_open(struct port *port, struct loop *loop)
{
	int err = loop_add_timer(loop, listen_again, port, &port->listen_timer);

	if (err)
		return err;
	return loop_add_fd(loop, port->backend.listener, 0, on_connection, port, &port->listen_watch);
}

void port_listen_close(struct port *port)
{
	loop_del_fd(port->listen_watch);
	loop_del_timer(port->listen_timer);
}

void port_listen(struct port *port)
{
	if (!port->listens)
		listen_again(port);
	port->listens = true;
}

void port_listen_next(struct port *port)
{
	if (port->listen_watch)
		loop_arm_timer(port->listen_timer, port->listen_at);
}
