/* SPDX-License-Identifier: Apache-2.0 */
/* net-server/port_listen: whoever connects is taken sooner or later, whatever the kernel refuses meanwhile. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "port.h"

#define REFUSED 3 /* attempts in a row */

TestSuite(net_listen, .timeout = 60);

static struct loop *loop;
static struct port port;
static unsigned poked, refuse;

int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	if (op == EPOLL_CTL_DEL || fd != port.backend.listener || !refuse)
		return __real_epoll_ctl(epfd, op, fd, event);
	refuse--;
	errno = ENOSPC;
	return -1;
}

/* In the place of lib/server's. */
void server_poke(struct server_queue *queue)
{
	(void)queue;
	poked++;
}

static void set_up(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	cr_assert_eq(loop_new("test", &loop), 0);
	port.backend.name = "test";
	port.backend.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	atomic_store(&port.shared.connection, -1);
	/* Without a name it gets one of its own. */
	cr_assert_eq(bind(port.backend.listener, (const struct sockaddr *)&addr, sizeof(addr.sun_family)), 0);
	cr_assert_eq(listen(port.backend.listener, 4), 0);
	cr_assert_eq(port_listen_open(&port, loop), 0);
}

static void tear_down(void)
{
	port_listen_close(&port);
	loop_free(loop);
	close(port.backend.listener);
}

/* Somebody connects, and is taken. */
static void connects(void)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unsigned before = poked;

	cr_assert_eq(getsockname(port.backend.listener, (struct sockaddr *)&addr, &len), 0);
	cr_assert_eq(connect(fd, (const struct sockaddr *)&addr, len), 0);
	while (poked == before) {
		cr_assert_lt(clock_ns(), end, "nobody takes it");
		cr_assert_eq(loop_run_once(loop, (int64_t)(20 * NS_PER_MS)), 0);
	}
	cr_assert_eq(refuse, 0);
	close(atomic_exchange(&port.shared.connection, -1));
	close(fd);
}

Test(net_listen, the_first_one_is_taken_when_it_can_be, .init = set_up, .fini = tear_down)
{
	refuse = REFUSED;
	port_listen(&port);
	connects();
}

Test(net_listen, the_next_one_is_taken_when_it_can_be, .init = set_up, .fini = tear_down)
{
	port_listen(&port);
	connects();
	refuse = REFUSED;
	port_listen_next(&port);
	connects();
}
