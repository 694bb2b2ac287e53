/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console relay. Two rings: what the guest said and the user's end has not taken yet, and what the user typed
 * and the core has not taken yet. Which descriptors are watched for what follows from the rings alone (watch_all),
 * so that a full ring is the back-pressure. The terminal is given back by console_close, or by the keeper if the
 * supervisor dies.
 */
#include "console_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "files.h"
#include "num.h"

#define CHUNK      1024U /* bytes for one write to a terminal, so that it is never long */
#define ESCAPE_KEY 0x01  /* Ctrl-A */

/* ---- rings ---- */

static void ring_put(struct ring *r, const char *bytes, size_t n, bool lossy)
{
	for (size_t i = 0; i < n; i++) {
		if (r->len == RING_SIZE && !lossy)
			return;
		if (r->len == RING_SIZE) {
			r->head = (r->head + 1) % RING_SIZE;
			r->len--;
		}
		r->bytes[(r->head + r->len++) % RING_SIZE] = bytes[i];
	}
}

/* Writes what is there, in pieces; -errno of the write that failed (-EAGAIN: later). */
static int ring_write(struct ring *r, int fd, uint32_t piece)
{
	while (r->len) {
		uint32_t n = MIN(MIN(r->len, RING_SIZE - r->head), piece);
		struct pollfd ready = { .fd = fd, .events = POLLOUT };
		ssize_t done;

		/* A standard stream that is a socket can't be opened anew, and may be a blocking one. */
		if (poll(&ready, 1, 0) == 0)
			return -EAGAIN;
		done = write(fd, r->bytes + r->head, n);
		if (done < 0)
			return -errno;
		r->head = (r->head + (uint32_t)done) % RING_SIZE;
		r->len -= (uint32_t)done;
	}
	return 0;
}

/* ---- watching ---- */

static void end_set(struct end *e, uint32_t events)
{
	if (e->watch && events != e->events)
		loop_mod_fd(e->watch, events);
	e->events = events;
}

static void end_close(struct end *e)
{
	loop_del_fd(TAKE_PTR(e->watch));
	clean_fd(&e->fd);
	e->fd = -1;
}

static int end_watch(struct console *c, struct end *e, loop_fd_fn fn)
{
	int err;

	/* Something must be asked for, or epoll would not say whether it can watch this at all. */
	if (!e->events)
		e->events = EPOLLERR;
	err = loop_add_fd(c->loop, e->fd, e->events, fn, c, &e->watch);
	if (err != -EPERM)
		return err;
	e->always = true;
	return 0;
}

static void watch_all(struct console *c)
{
	bool user_room = c->lossy || c->to_user.len < RING_SIZE - CHUNK;
	uint32_t from_user = c->to_guest.len < RING_SIZE - CHUNK && c->core.fd >= 0 ? EPOLLIN : 0;

	end_set(&c->core, (user_room ? EPOLLIN : 0) | (c->to_guest.len ? EPOLLOUT : 0));
	end_set(&c->in, from_user);
	end_set(&c->out, (c->to_user.len ? EPOLLOUT : 0) | (c->both_ways ? from_user : 0));
}

/* ---- towards the user ---- */

static void user_gone(struct console *c)
{
	/* A pty stays, for the next one who opens it; a socket's client is replaced by the next to connect. */
	if (c->kind == CONSOLE_SOCKET || c->kind == CONSOLE_STDIO)
		end_close(&c->out);
}

static void flush_user(struct console *c)
{
	int err;

	if (c->out.fd < 0) {
		if (!c->lossy)
			c->to_user.len = 0;
		return;
	}
	err = ring_write(&c->to_user, c->out.fd, CHUNK);
	if (err && err != -EAGAIN && err != -EINTR)
		user_gone(c);
}

static void tell_user(struct console *c, const char *text)
{
	ring_put(&c->to_user, text, strlen(text), true);
	flush_user(c);
}

/* ---- towards the guest ---- */

static void typed(struct console *c, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool escaped = c->escaped;

		c->escaped = c->terminal && !escaped && bytes[i] == ESCAPE_KEY;
		if (c->escaped)
			continue;
		if (!escaped || bytes[i] == ESCAPE_KEY) {
			ring_put(&c->to_guest, bytes + i, 1, false);
		} else if (bytes[i] == 'x') {
			tell_user(c, "\nbulkhead: ending the machine\n");
			c->on_quit(c->arg);
		} else {
			tell_user(c, "\nCtrl-A x  end the machine at once\nCtrl-A h  this help\n"
				     "Ctrl-A Ctrl-A  send Ctrl-A to the guest\n");
		}
	}
}

static void flush_guest(struct console *c)
{
	if (c->core.fd < 0)
		return;
	/* An error here is seen as the end of the core's socket, by reading. */
	ring_write(&c->to_guest, c->core.fd, RING_SIZE);
}

/* Reads once from the user; false at the end of input. */
static bool read_user(struct console *c, int fd)
{
	char buf[CHUNK];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR || (errno == EIO && c->kind == CONSOLE_PTY);
	typed(c, buf, (size_t)n);
	flush_guest(c);
	return n > 0;
}

/* A regular file as input never waits: as much of it as the ring holds, whenever there is room. */
static void pump_file(struct console *c)
{
	while (c->in.always && c->in.fd >= 0 && c->core.fd >= 0 && c->to_guest.len < RING_SIZE - CHUNK)
		if (!read_user(c, c->in.fd))
			end_close(&c->in);
}

/* ---- handlers ---- */

static void on_core(void *arg, uint32_t events)
{
	struct console *c = arg;
	char buf[CHUNK];
	ssize_t n = 0;

	if (events & EPOLLOUT) {
		flush_guest(c);
		pump_file(c);
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		n = read(c->core.fd, buf, sizeof(buf));
		if (n > 0) {
			ring_put(&c->to_user, buf, (size_t)n, c->lossy);
			flush_user(c);
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
			end_close(&c->core);
		}
	}
	watch_all(c);
}

static void on_in(void *arg, uint32_t events)
{
	struct console *c = arg;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !read_user(c, c->in.fd))
		end_close(&c->in);
	watch_all(c);
}

static void on_out(void *arg, uint32_t events)
{
	struct console *c = arg;

	if (c->both_ways && events & (EPOLLIN | EPOLLHUP) && !read_user(c, c->out.fd))
		user_gone(c);
	else if (events & EPOLLERR)
		user_gone(c);
	if (c->out.fd >= 0)
		flush_user(c);
	watch_all(c);
}

static void on_client(void *arg, uint32_t events)
{
	struct console *c = arg;
	int fd =
	    accept(c->listener.fd, NULL, NULL); /* nothing is executed from here on that could inherit it */

	(void)events;
	if (fd < 0)
		return;
	fd_set_nonblock(fd, true);
	if (c->out.fd >= 0) {
		static const char busy[] = "bulkhead: the console has a client already\r\n";

		fd_send(fd, busy, sizeof(busy) - 1, NULL, 0);
		close(fd);
		return;
	}
	c->out = (struct end) { .fd = fd };
	if (end_watch(c, &c->out, on_out))
		end_close(&c->out);
	watch_all(c);
}

int console_terminal(const struct console *c, struct termios *settings)
{
	*settings = c->settings;
	return c->terminal ? STDIN_FILENO : -1;
}

const char *console_where(const struct console *c)
{
	return c->where;
}

int console_start(struct console *c, struct loop *loop, void (*on_quit)(void *arg), void *arg)
{
	int err = 0;

	c->loop = loop;
	c->on_quit = on_quit;
	c->arg = arg;
	if (c->listener.fd >= 0)
		err = end_watch(c, &c->listener, on_client);
	if (!err && c->in.fd >= 0)
		err = end_watch(c, &c->in, on_in);
	if (!err && c->out.fd >= 0)
		err = end_watch(c, &c->out, on_out);
	return err;
}

int console_core_fd(const struct console *c)
{
	return c->core.fd;
}

int console_take_core(struct console *c, int *core_fd)
{
	int err;

	end_close(&c->core);
	c->core.fd = take_fd(core_fd);
	c->core.events = EPOLLIN;
	err = end_watch(c, &c->core, on_core);
	if (err) {
		end_close(&c->core);
		return err;
	}
	pump_file(c);
	watch_all(c);
	return 0;
}

int console_connect(struct console *c, int *core_fd)
{
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	fd_set_nonblock(pair[0], true);
	err = console_take_core(c, &pair[0]);
	if (err)
		close(pair[1]);
	else
		*core_fd = pair[1];
	return err;
}

void console_restore(const struct console *c)
{
	if (c->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &c->settings);
}

void console_close(struct console *c)
{
	if (!c)
		return;
	while (c->core.fd >= 0) {
		char buf[CHUNK];
		ssize_t n = read(c->core.fd, buf, sizeof(buf));

		if (n <= 0)
			break;
		ring_put(&c->to_user, buf, (size_t)n, true);
		flush_user(c);
	}
	flush_user(c);
	end_close(&c->core);
	end_close(&c->in);
	end_close(&c->out);
	end_close(&c->listener);
	clean_fd(&c->slave_fd);
	console_restore(c);
	if (c->socket_path)
		unlink(c->socket_path);
	free(c->socket_path);
	free(c);
}
