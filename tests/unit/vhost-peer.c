/* SPDX-License-Identifier: Apache-2.0 */
/* The device, the raw peer and the waiting that lib/vhost's tests share. */
#include "vhost-peer.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"

/* ---- the device ---- */

static int get_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	struct peer_device *dev = arg;

	if (off > PEER_CONFIG || len > PEER_CONFIG - off)
		return -EINVAL;
	if (dev->no_config)
		return -EINPROGRESS;
	memcpy(buf, dev->config + off, len);
	return 0;
}

static int set_config(void *arg, uint32_t off, uint32_t len, const uint8_t *buf)
{
	struct peer_device *dev = arg;

	if (off > PEER_CONFIG || len > PEER_CONFIG - off)
		return -EINVAL;
	memcpy(dev->config + off, buf, len);
	return 0;
}

static void replace_fd(int *fd, int by)
{
	if (*fd >= 0)
		close(*fd);
	*fd = by;
}

static void forget_ring(struct peer_ring *r)
{
	if (!r->running)
		return;
	r->running = false;
	replace_fd(&r->ring.kick, -1);
	replace_fd(&r->ring.call, -1);
	replace_fd(&r->ring.err, -1);
}

static int ring_start(void *arg, unsigned index, const struct vhost_be_ring *ring)
{
	struct peer_device *dev = arg;
	struct peer_ring *r = &dev->rings[index];

	cr_assert_lt(index, PEER_QUEUES);
	cr_assert_not(r->running, "ring %u was started twice", index);
	cr_assert_geq(ring->kick, 0);
	cr_assert_not_null(ring->config.mem);
	r->ring = *ring;
	r->running = r->enabled = true;
	r->starts++;
	if (dev->start_error)
		forget_ring(r);
	return dev->start_error;
}

static void ring_stop(void *arg, unsigned index)
{
	struct peer_device *dev = arg;

	cr_assert(dev->rings[index].running, "ring %u was stopped without running", index);
	dev->stops++;
	forget_ring(&dev->rings[index]);
	if (!dev->defer)
		vhost_be_ring_stopped(dev->be, index, dev->rings[index].ring.config.base + 3);
}

static void ring_set_call(void *arg, unsigned index, int call)
{
	struct peer_device *dev = arg;

	cr_assert(dev->rings[index].running);
	dev->rings[index].calls++;
	replace_fd(&dev->rings[index].ring.call, call);
}

static void ring_set_err(void *arg, unsigned index, int err)
{
	struct peer_device *dev = arg;

	cr_assert(dev->rings[index].running);
	replace_fd(&dev->rings[index].ring.err, err);
}

static void ring_enable(void *arg, unsigned index, bool on)
{
	struct peer_device *dev = arg;

	cr_assert(dev->rings[index].running);
	dev->rings[index].enabled = on;
}

static void mem_changed(void *arg, struct mem *mem)
{
	struct peer_device *dev = arg;

	mem_put(dev->mem);
	dev->mem = mem_get(mem);
	dev->mem_changes++;
	if (!dev->defer)
		vhost_be_mem_taken(dev->be);
}

static void reset(void *arg)
{
	struct peer_device *dev = arg;

	for (unsigned i = 0; i < PEER_QUEUES; i++)
		cr_assert_not(dev->rings[i].running, "reset with ring %u running", i);
	dev->resets++;
}

static void closed(void *arg, int err, const char *why)
{
	struct peer_device *dev = arg;

	cr_assert_not(dev->closed, "closed was called twice");
	dev->closed = true;
	dev->closed_err = err;
	dev->closed_why = why;
	for (unsigned i = 0; i < PEER_QUEUES; i++)
		forget_ring(&dev->rings[i]);
	vhost_be_free(dev->be);
	dev->be = NULL;
}

int peer_device_open(struct peer_device *dev, struct loop *loop)
{
	static const struct vhost_be_ops ops = {
		.features = PEER_FEATURES,
		.queues = PEER_QUEUES,
		.get_config = get_config,
		.set_config = set_config,
		.ring_start = ring_start,
		.ring_stop = ring_stop,
		.ring_set_call = ring_set_call,
		.ring_set_err = ring_set_err,
		.ring_enable = ring_enable,
		.mem_changed = mem_changed,
		.reset = reset,
		.closed = closed,
	};
	int ends[2];

	memset(dev, 0, sizeof(*dev));
	dev->loop = loop;
	for (unsigned i = 0; i < PEER_CONFIG; i++)
		dev->config[i] = (uint8_t)i;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	cr_assert_eq(vhost_be_new(loop, ends[0], &ops, dev, &dev->be), 0);
	return ends[1];
}

void peer_device_close(struct peer_device *dev)
{
	for (unsigned i = 0; i < PEER_QUEUES; i++)
		forget_ring(&dev->rings[i]);
	vhost_be_free(dev->be);
	mem_put(dev->mem);
	dev->be = NULL;
	dev->mem = NULL;
}

/* ---- waiting ---- */

bool peer_until(struct loop *loop, const bool *flag)
{
	uint64_t end = clock_ns() + PEER_WAIT_NS;

	while (!*flag && clock_ns() < end)
		cr_assert_eq(loop_run_once(loop, 20 * (int64_t)NS_PER_MS), 0);
	return *flag;
}

void peer_settle(struct loop *loop)
{
	struct loop_stats before, after;

	/* A pass that waited and found nothing ends it: it slept for its whole time. */
	for (int n = 0; n < 10000; n++) {
		uint64_t began = clock_ns();

		loop_get_stats(loop, &before);
		cr_assert_eq(loop_run_once(loop, 2 * (int64_t)NS_PER_MS), 0);
		loop_get_stats(loop, &after);
		if (after.sleeps > before.sleeps && clock_ns() - began >= 2 * NS_PER_MS)
			return;
	}
	cr_assert_fail("the loop does not come to rest");
}

/* ---- the raw peer ---- */

void peer_send(int sock, uint32_t request, uint32_t flags, const void *payload, size_t size, const int *fds,
	       size_t n)
{
	char buf[sizeof(struct vhost_hdr) + 4096];
	struct vhost_hdr hdr = { .request = request, .flags = flags | VHOST_HDR_VERSION };

	cr_assert_leq(size, 4096);
	hdr.size = (uint32_t)size;
	memcpy(buf, &hdr, sizeof(hdr));
	if (size)
		memcpy(buf + sizeof(hdr), payload, size);
	cr_assert_eq(fd_send(sock, buf, sizeof(hdr) + size, fds, n), (ssize_t)(sizeof(hdr) + size));
}

bool peer_recv(struct loop *loop, int sock, struct vhost_msg *msg)
{
	uint64_t end = clock_ns() + PEER_WAIT_NS;
	struct vhost_transfer in = { .done = 0 };
	int got = 0;

	while (got == 0 && clock_ns() < end) {
		cr_assert_eq(loop_run_once(loop, NS_PER_MS), 0);
		got = vhost_msg_recv(sock, &in);
	}
	*msg = in.msg;
	return got == 1;
}

int64_t peer_ask(struct loop *loop, int sock, uint32_t request, const void *payload, size_t size, int fd)
{
	struct vhost_msg msg;

	peer_send(sock, request, VHOST_HDR_NEED_REPLY, payload, size, &fd, fd >= 0);
	if (!peer_recv(loop, sock, &msg))
		return -1;
	cr_assert_eq(msg.hdr.request, request);
	cr_assert_eq(msg.hdr.flags, VHOST_HDR_VERSION | VHOST_HDR_REPLY);
	cr_assert_eq(msg.hdr.size, sizeof(uint64_t));
	return (int64_t)msg.payload.u64;
}

int64_t peer_ask_u64(struct loop *loop, int sock, uint32_t request, uint64_t value, int fd)
{
	return peer_ask(loop, sock, request, &value, sizeof(value), fd);
}

int64_t peer_ask_state(struct loop *loop, int sock, uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_state s = { .index = index, .num = num };

	return peer_ask(loop, sock, request, &s, sizeof(s), -1);
}

int peer_memfd(uint64_t size)
{
	int fd = fd_sealed_memfd("test", size);

	cr_assert_geq(fd, 0);
	return fd;
}

int peer_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	cr_assert_geq(fd, 0);
	return fd;
}

unsigned peer_open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- a raw front end ---- */

void peer_open_raw(struct peer *p)
{
	memset(p, 0, sizeof(*p));
	cr_assert_eq(loop_new("test", &p->loop), 0);
	p->sock = peer_device_open(&p->dev, p->loop);
	p->ram = peer_memfd(PEER_RAM);
}

/* With everything agreed on. */
void peer_open(struct peer *p)
{
	uint64_t all = PEER_ALL_PF;

	peer_open_raw(p);
	peer_send(p->sock, VHOST_SET_PROTOCOL_FEATURES, 0, &all, sizeof(all), NULL, 0);
	cr_assert_eq(
	    peer_ask_u64(p->loop, p->sock, VHOST_SET_FEATURES, F_VERSION_1 | VHOST_F_PROTOCOL_FEATURES, -1),
	    0);
}

void peer_close(struct peer *p)
{
	peer_device_close(&p->dev);
	close(p->sock);
	close(p->ram);
	loop_free(p->loop);
}

void peer_expect_closed(struct peer *p, int err)
{
	cr_assert(peer_until(p->loop, &p->dev.closed), "the connection stays");
	cr_assert_eq(p->dev.closed_err, err, "closed by %d: %s", p->dev.closed_err, p->dev.closed_why);
	cr_assert_not_null(p->dev.closed_why);
}

int64_t peer_ask_table(struct peer *p, uint32_t n, const struct vhost_region *regions, unsigned count, int fd,
		       unsigned n_fds)
{
	struct vhost_mem_table t = { .n = n };
	struct vhost_msg msg;
	int fds[FD_PASS_MAX];

	for (unsigned i = 0; i < count; i++)
		t.regions[i] = regions[i];
	for (unsigned i = 0; i < n_fds; i++)
		fds[i] = fd;
	peer_send(p->sock, VHOST_SET_MEM_TABLE, VHOST_HDR_NEED_REPLY, &t,
		  offsetof(struct vhost_mem_table, regions) + count * sizeof(t.regions[0]), fds, n_fds);
	return peer_recv(p->loop, p->sock, &msg) ? (int64_t)msg.payload.u64 : -1;
}

void peer_give_memory(struct peer *p)
{
	struct vhost_region r = { .size = PEER_RAM, .user_addr = PEER_USER };

	cr_assert_eq(peer_ask_table(p, 1, &r, 1, p->ram, 1), 0);
}
