/* SPDX-License-Identifier: Apache-2.0 */
/* The tests' front end: its connection, and what outlives it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "frontend_priv.h"
#include "inflight.h"
#include "num.h"

#define F_VERSION_1 (1ULL << 32)

struct answer {
	bool done;
	int err;
	uint64_t value;
};

/* ---- callbacks and waiting ---- */

static void on_done(void *arg, int err)
{
	struct answer *a = arg;

	a->done = true;
	a->err = err;
}

static void on_u64(void *arg, int err, uint64_t value)
{
	((struct answer *)arg)->value = value;
	on_done(arg, err);
}

static void on_lost(void *arg, int err, const char *why)
{
	struct frontend *f = arg;

	(void)why;
	f->lost = err;
	f->ended = true;
}

bool frontend_run(struct frontend *f, const bool *flag, uint64_t timeout_ns)
{
	uint64_t end = clock_ns() + timeout_ns;

	while (!*flag) {
		uint64_t now = clock_ns();

		if (now >= end || loop_run_once(f->loop, (int64_t)(end - now)) < 0)
			break;
	}
	return *flag;
}

static int finish(struct frontend *f, struct answer *a)
{
	return frontend_run(f, &a->done, FRONTEND_WAIT_NS) ? a->err : -ETIMEDOUT;
}

/* ---- life ---- */

int frontend_new(const struct frontend_options *options, struct frontend **out)
{
	struct frontend *f = calloc(1, sizeof(*f));
	struct frontend_options *o;
	int err;

	if (!f)
		return -ENOMEM;
	o = &f->options;
	*o = *options;
	o->queues = o->queues ? o->queues : 1;
	o->queue_size = o->queue_size ? o->queue_size : 128;
	o->io_max = o->io_max ? (uint32_t)num_align_up(o->io_max, 4096) : 65536;
	o->features = (o->features ? o->features : RING_F_EVENT_IDX | RING_F_INDIRECT) | F_VERSION_1;
	f->inflight_fd = -1;
	f->queues = calloc(o->queues, sizeof(*f->queues));
	err = f->queues ? loop_new("frontend", &f->loop) : -ENOMEM;
	if (!err)
		err =
		    guest_init(&f->guest, o->queues * frontend_queue_bytes(o) + num_align_up(o->extra, 4096));
	for (unsigned i = 0; i < o->queues && f->queues; i++)
		f->queues[i].f = f, f->queues[i].kick = f->queues[i].call = -1;
	if (err) {
		f->guest.base = NULL;
		frontend_free(f);
		return err;
	}
	*out = f;
	return 0;
}

void frontend_free(struct frontend *f)
{
	if (!f)
		return;
	vhost_fe_free(f->fe);
	for (unsigned i = 0; i < f->options.queues && f->queues; i++)
		frontend_queue_free(f, &f->queues[i]);
	free(f->queues);
	loop_free(f->loop);
	if (f->inflight)
		munmap(f->inflight, f->inflight_stride * f->options.queues);
	if (f->inflight_fd >= 0)
		close(f->inflight_fd);
	if (f->guest.base)
		guest_free(&f->guest);
	free(f);
}

int frontend_dial(const char *path, uint64_t timeout_ns)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t end = clock_ns() + timeout_ns;

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if ((errno != ENOENT && errno != ECONNREFUSED) || clock_ns() >= end)
			return -errno;
		/* Nothing tells of a socket that is about to appear; a millisecond is between two looks. */
		nanosleep(&(struct timespec) { .tv_nsec = NS_PER_MS }, NULL);
	}
	return take_fd(&fd);
}

/* ---- starting ---- */

static int make_inflight(struct frontend *f)
{
	const struct frontend_options *o = &f->options;
	bool packed = f->features & RING_F_PACKED;
	size_t bytes;

	f->inflight_stride = inflight_queue_bytes(o->queue_size, packed);
	bytes = f->inflight_stride * o->queues;
	f->inflight_fd = fd_sealed_memfd("inflight", bytes);
	if (f->inflight_fd < 0)
		return f->inflight_fd;
	f->inflight = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->inflight_fd, 0);
	if (f->inflight == MAP_FAILED) {
		f->inflight = NULL;
		return -errno;
	}
	for (unsigned i = 0; i < o->queues; i++)
		inflight_init(frontend_inflight(f, i), o->queue_size, packed, packed ? 0x8000 : 0);
	return 0;
}

static int make_rings(struct frontend *f)
{
	int err = 0;

	f->features = f->options.features & f->info.features;
	for (unsigned i = 0; i < f->options.queues && !err; i++)
		err = frontend_queue_init(f, &f->queues[i]);
	if (!err && !f->options.no_inflight)
		err = make_inflight(f);
	return err;
}

static struct vhost_fe_ring describe(const struct frontend_queue *q)
{
	struct vq_config c;

	ring_config(&q->ring, NULL, &c);
	return (struct vhost_fe_ring) { .size = c.size,
					.desc = c.desc,
					.avail = c.avail,
					.used = c.used,
					.used_gpa = q->ring.used,
					.base = c.base,
					.kick = q->kick,
					.call = q->call,
					.err = -1 };
}

static int start(struct frontend *f)
{
	struct vhost_fe_ring rings[VHOST_FE_QUEUES_MAX];
	const unsigned n = f->options.queues;
	int fds[GUEST_REGIONS] = { f->guest.fd, f->guest.fd, f->guest.fd, f->guest.fd };
	struct answer a = { .done = false };
	struct vhost_fe_start s = { .features = f->features,
				    .regions = f->guest.regions,
				    .fds = fds,
				    .n_regions = f->guest.n,
				    .inflight_fd = f->inflight_fd,
				    .inflight_size = f->inflight_stride * n,
				    .inflight_queues = (uint16_t)n,
				    .inflight_queue_size = f->options.queue_size,
				    .rings = rings,
				    .n_rings = n };
	int err;

	for (unsigned i = 0; i < n; i++)
		rings[i] = describe(&f->queues[i]);
	err = vhost_fe_start(f->fe, &s, on_done, &a);
	return err ? err : finish(f, &a);
}

static int probe(struct frontend *f)
{
	struct answer a = { .done = false };
	int err;

	vhost_fe_probe(f->fe, 60, &f->info, on_done, &a);
	err = finish(f, &a);
	if (err)
		return err;
	if (f->info.queues < f->options.queues || !(f->info.features & F_VERSION_1) ||
	    (f->features & ~f->info.features))
		return -EOPNOTSUPP;
	return f->features ? 0 : make_rings(f);
}

int frontend_attach(struct frontend *f, int fd)
{
	static const struct vhost_fe_ops ops = { .lost = on_lost };
	int err;

	frontend_detach(f);
	f->lost = 0;
	f->ended = false;
	err = vhost_fe_new(f->loop, fd, FRONTEND_WAIT_NS, &ops, f, &f->fe);
	if (err) {
		close(fd);
		return err;
	}
	err = probe(f);
	if (!err)
		err = start(f);
	if (err)
		frontend_detach(f);
	return err;
}

void frontend_detach(struct frontend *f)
{
	vhost_fe_free(f->fe);
	f->fe = NULL;
	f->lost = -ENOTCONN;
}

int frontend_stop(struct frontend *f)
{
	struct answer a = { .done = false };
	int err = 0;

	if (!f->fe)
		return -ENOTCONN;
	for (unsigned i = 0; i < f->options.queues && !err; i++) {
		a.done = false;
		vhost_fe_stop_ring(f->fe, i, on_u64, &a);
		err = finish(f, &a);
	}
	if (err)
		return err;
	a.done = false;
	vhost_fe_reset(f->fe, on_done, &a);
	return finish(f, &a);
}

/* ---- looking ---- */

int frontend_lost(const struct frontend *f)
{
	return f->lost;
}

const struct vhost_fe_info *frontend_info(const struct frontend *f)
{
	return &f->info;
}

uint64_t frontend_capacity(const struct frontend *f)
{
	uint64_t sectors;

	memcpy(&sectors, f->info.config, sizeof(sectors));
	return sectors;
}

struct guest *frontend_guest(struct frontend *f)
{
	return &f->guest;
}

struct ring *frontend_ring(struct frontend *f, unsigned queue)
{
	return &f->queues[queue].ring;
}

struct vhost_fe *frontend_fe(struct frontend *f)
{
	return f->fe;
}

struct loop *frontend_loop(struct frontend *f)
{
	return f->loop;
}

int frontend_kick_fd(const struct frontend *f, unsigned queue)
{
	return f->queues[queue].kick;
}

int frontend_call_fd(const struct frontend *f, unsigned queue)
{
	return f->queues[queue].call;
}

void *frontend_inflight(const struct frontend *f, unsigned queue)
{
	return f->inflight ? f->inflight + queue * f->inflight_stride : NULL;
}
