/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a control bus on one loop, and a peer that speaks the wire by hand. */
#include "bus_pair.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fd.h"
#include "temp_dir.h"

struct loop *loop;
char dir[64], path[96];
struct end sup, child;

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct end *e = arg;

	e->last = *msg;
	e->downs_at_last = e->downs;
	if (msg->id)
		e->ids[e->messages % 64] = msg->id;
	e->messages++;
	if (e->closing)
		bus_close(e->closing);
	else if (msg->id && !e->silent)
		bus_reply(e->bus, msg->id, &(struct bus_msg) { .type = BUS_OK });
}

static void on_connected(void *arg, bool up)
{
	struct end *e = arg;

	if (up)
		e->ups++;
	else
		e->downs++;
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	struct end *e = arg;

	cr_assert_not_null(what);
	e->malformed = (int)count;
}

const struct bus_ops bus_pair_ops = { on_message, on_connected, on_malformed };

void bus_pair_open(pid_t expected)
{
	signal(SIGPIPE, SIG_IGN);
	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/bus", dir);
	cr_assert_eq(loop_new("test", &loop), 0);
	cr_assert_eq(bus_listen(loop, path, expected, &bus_pair_ops, &sup, &sup.bus), 0);
}

void bus_pair_dial(void)
{
	cr_assert_eq(bus_dial(loop, path, &bus_pair_ops, &child, &child.bus), 0);
}

void bus_pair_close(void)
{
	bus_close(child.bus);
	bus_close(sup.bus);
	loop_free(loop);
	unlink(path);
	rmdir(dir);
}

void bus_pair_reply(void *arg, int err, const struct bus_msg *reply)
{
	struct result *r = arg;

	r->calls++;
	r->err = err;
	r->type = reply ? reply->type : BUS_NONE;
	if (reply)
		r->reply = *reply;
}

void bus_pair_ping(uint64_t timeout_ns, struct result *r)
{
	struct bus_msg msg = { .type = BUS_PING };

	cr_assert_eq(bus_request(sup.bus, &msg, timeout_ns, bus_pair_reply, r), 0);
}

struct bus_counters bus_pair_counters(struct bus *bus)
{
	struct bus_counters c;

	bus_get_counters(bus, &c);
	return c;
}

int raw_connect(const char *to)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(sa.sun_path, to);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0) {
		close(fd);
		return -1;
	}
	fd_set_nonblock(fd, false);
	return fd;
}

int raw_listen(const char *at)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int srv = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(sa.sun_path, at);
	cr_assert_eq(bind(srv, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(srv, 1), 0);
	return srv;
}

int raw_supervisor(int *fd)
{
	int srv;

	bus_pair_open(getpid());
	bus_close(sup.bus);
	sup.bus = NULL;
	srv = raw_listen(path);
	bus_pair_dial();
	*fd = accept(srv, NULL, NULL);
	cr_assert_geq(*fd, 0);
	RUN_UNTIL(child.ups);
	return srv;
}

struct bus_msg bus_pair_long_event(void)
{
	struct bus_msg down = { .type = BUS_DEVICE_DOWN };

	strcpy(down.device_down.device, "disk0");
	memset(down.device_down.reason, 'r', BUS_TEXT_MAX - 1);
	return down;
}

void raw_head(int fd, uint32_t len)
{
	const uint8_t head[4] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
				  (uint8_t)len };

	cr_assert_eq(write(fd, head, 4), 4);
}

void raw_send(int fd, const void *data, size_t len)
{
	raw_head(fd, (uint32_t)len);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
}

size_t raw_recv(int fd, uint8_t *buf, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint8_t head[4];
	size_t len = 0;

	RUN_UNTIL(poll(&p, 1, 0) > 0);
	cr_assert_eq(fd_read_full(fd, head, 4), 0);
	for (int i = 0; i < 4; i++)
		len = len << 8 | head[i];
	cr_assert_leq(len, size);
	cr_assert_eq(fd_read_full(fd, buf, len), 0);
	return len;
}

bool raw_is_closed(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c[512];
	ssize_t n;

	if (poll(&p, 1, 0) <= 0)
		return false;
	n = recv(fd, c, sizeof(c), MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN);
}
