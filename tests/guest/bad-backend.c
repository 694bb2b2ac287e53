/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bad-backend HOW SOCKET: a disk of 16 MiB for whoever connects, which on the first request
 *   ahead   moves the used index by 40000
 *   ids     completes a descriptor that no ring has
 *   full    makes the kick's eventfd blocking, fills it up, and completes nothing
 * and nothing else, ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fd.h"
#include "vhost_be.h"

static struct loop *loop;
static struct vhost_be *be;
static struct loop_fd *kick_watch;
static const char *how;
static struct vhost_be_ring ring = { .kick = -1, .call = -1, .err = -1 };
static struct mem *memory;

static void forget(void)
{
	loop_del_fd(kick_watch);
	kick_watch = NULL;
	mem_put(memory);
	memory = NULL;
	for (int *fd = (int[]) { ring.kick, ring.call, ring.err, -2 }; *fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	ring.kick = ring.call = ring.err = -1;
}

/* The first kick that announces a request. */
static void on_kick(void *arg, uint32_t events)
{
	const uint64_t most = UINT64_MAX - 1;
	uint16_t *avail = mem_at_user(memory, ring.config.avail, 4);
	uint32_t *used = mem_at_user(memory, ring.config.used, 12);
	uint16_t *idx;

	(void)arg;
	(void)events;
	if (!avail || !used || __atomic_load_n(&avail[1], __ATOMIC_ACQUIRE) == 0)
		return;
	idx = (uint16_t *)(void *)used + 1;
	loop_mod_fd(kick_watch, 0);
	if (!strcmp(how, "full")) {
		fd_event_clear(ring.kick);
		fcntl(ring.kick, F_SETFL, 0);
		if (write(ring.kick, &most, sizeof(most)) != sizeof(most))
			perror("bad-backend: the kick");
	} else {
		used[1] = 999;
		__atomic_store_n(idx, !strcmp(how, "ids") ? 1 : 40000, __ATOMIC_SEQ_CST);
	}
	puts("done");
	fflush(stdout);
}

static int get_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	static const uint64_t config[32] = { (16U << 20) / 512 };

	(void)arg;
	if (off > sizeof(config) || len > sizeof(config) - off)
		return -EINVAL;
	memcpy(buf, (const uint8_t *)config + off, len);
	return 0;
}

static int ring_start(void *arg, unsigned index, const struct vhost_be_ring *r)
{
	(void)arg;
	(void)index;
	ring = *r;
	memory = mem_get(r->config.mem);
	return loop_add_fd(loop, ring.kick, EPOLLIN | EPOLLET, on_kick, NULL, &kick_watch);
}

static void ring_stop(void *arg, unsigned index)
{
	(void)arg;
	forget();
	vhost_be_ring_stopped(be, index, 0);
}

static void set_fd(void *arg, unsigned index, int fd)
{
	(void)arg;
	(void)index;
	if (fd >= 0)
		close(fd);
}

static void ring_enable(void *arg, unsigned index, bool on)
{
	(void)arg;
	(void)index;
	(void)on;
}

static void mem_changed(void *arg, struct mem *mem)
{
	(void)arg;
	(void)mem;
	vhost_be_mem_taken(be);
}

static void reset(void *arg)
{
	(void)arg;
}

static void closed(void *arg, int err, const char *why)
{
	(void)arg;
	(void)err;
	(void)why;
	forget();
	vhost_be_free(be);
	be = NULL;
}

static void on_connection(void *arg, uint32_t events)
{
	static const struct vhost_be_ops ops = {
		.features = 1ULL << VIRTIO_F_VERSION_1,
		.queues = 1,
		.get_config = get_config,
		.ring_start = ring_start,
		.ring_stop = ring_stop,
		.ring_set_call = set_fd,
		.ring_set_err = set_fd,
		.ring_enable = ring_enable,
		.mem_changed = mem_changed,
		.reset = reset,
		.closed = closed,
	};
	int fd = accept4(*(int *)arg, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd >= 0 && (be || vhost_be_new(loop, fd, &ops, NULL, &be)))
		close(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct loop_fd *watch;
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc != 3 || strlen(argv[2]) >= sizeof(addr.sun_path))
		return 2;
	how = argv[1];
	strcpy(addr.sun_path, argv[2]);
	if (listener < 0 || bind(listener, (const struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(listener, 4) || loop_new("bad", &loop) ||
	    loop_add_fd(loop, listener, EPOLLIN, on_connection, &listener, &watch)) {
		perror("bad-backend");
		return 1;
	}
	return loop_run(loop) ? 1 : 0;
}
