/* SPDX-License-Identifier: Apache-2.0 */
/* A server under test, with a front end and drivers of our own. */
#include "rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"
#include "rig_priv.h"
#include "state.h"
#include "temp_dir.h"

#define MEMORY_BYTES (64ULL << 20)

static void on_lost(void *arg, int err, const char *why)
{
	struct rig *rig = arg;

	(void)err;
	(void)why;
	rig->lost = true;
}

static void on_config_changed(void *arg)
{
	((struct rig *)arg)->config_changes++;
}

static const struct vhost_fe_ops fe_ops = { .lost = on_lost, .config_changed = on_config_changed };

void rig_disconnect(struct rig *rig)
{
	vhost_fe_free(rig->fe);
	rig->fe = NULL;
}

/* ---- the handshake ---- */

struct waiter {
	bool done;
	int err;
};

static void on_done(void *arg, int err)
{
	struct waiter *w = arg;

	w->done = true;
	w->err = err;
}

/* Waits for the end of one of the handshake's steps. False: the server is gone. */
static bool step_done(struct rig *rig, const struct waiter *w, const char *what)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	while (!w->done && !rig->lost) {
		cr_assert(clock_ns() < end, "deadline: %s", what);
		cr_assert_eq(loop_run_once(rig->loop, (int64_t)(20 * NS_PER_MS)), 0);
	}
	rig->lost |= w->err == -EPIPE || w->err == -ECONNRESET;
	rig->refused = w->err && rig->options.may_refuse;
	if (rig->lost || rig->refused)
		return false;
	cr_assert_eq(w->err, 0, "%s: %d", what, w->err);
	return true;
}

static uint16_t ring_size(const struct rig *rig)
{
	return rig->options.ring_size ? rig->options.ring_size : RIG_SIZE;
}

/* Where the rings started, as the front end says it and, of packed rings, the lower half in the in-flight region. */
static uint32_t ring_base(const struct rig *rig)
{
	const struct rig_options *o = &rig->options;
	uint32_t at = o->start_at | (o->start_wrapped ? 0 : 0x8000U);

	return o->ring_features & RING_F_PACKED ? at << 16 | at : o->start_at;
}

static bool start_rings(struct rig *rig)
{
	struct vhost_fe_ring rings[RIG_QUEUES_MAX] = { 0 };
	struct vhost_fe_start start = { 0 };
	struct waiter w = { 0 };
	int fds[GUEST_REGIONS];
	uint64_t own = (1ULL << 34 | 1ULL << 29 | 1ULL << 28) & ~rig->options.ring_features;

	for (unsigned i = 0; i < rig->queues; i++) {
		struct rig_queue *q = &rig->queue[i];

		rings[i] = (struct vhost_fe_ring) { .size = ring_size(rig),
						    .desc = guest_user(&rig->guest, q->ring.desc),
						    .avail = guest_user(&rig->guest, q->ring.avail),
						    .used = guest_user(&rig->guest, q->ring.used),
						    .used_gpa = q->ring.used,
						    .base = ring_base(rig),
						    .kick = q->kick,
						    .call = q->call,
						    .err = q->err };
	}
	for (unsigned i = 0; i < rig->guest.n; i++)
		fds[i] = rig->guest.fd;
	start = (struct vhost_fe_start) { .features = rig->info.features & ~own & ~rig->options.refuse &
						      ~(1ULL << 26),
					  .regions = rig->guest.regions,
					  .fds = fds,
					  .n_regions = rig->guest.n,
					  .inflight_fd = rig->inflight_fd,
					  .inflight_size = rig->inflight_bytes,
					  .inflight_queues = (uint16_t)rig->queues,
					  .inflight_queue_size = ring_size(rig),
					  .rings = rings,
					  .n_rings = rig->queues };
	cr_assert_eq(vhost_fe_start(rig->fe, &start, on_done, &w), 0);
	return step_done(rig, &w, "start");
}

static bool try_connect(struct rig *rig, int fd)
{
	struct waiter w = { 0 };

	rig->lost = false;
	cr_assert_eq(vhost_fe_new(rig->loop, fd, RIG_DEADLINE_S * NS_PER_S, &fe_ops, rig, &rig->fe), 0);
	vhost_fe_probe(rig->fe, sizeof(struct virtio_blk_config), &rig->info, on_done, &w);
	if (!step_done(rig, &w, "probe"))
		return false;
	memcpy(&rig->config, rig->info.config, sizeof(rig->config));
	return start_rings(rig);
}

/* The same for the other disk of the process; what dies, dies of both. */
static bool try_connect_all(struct rig *rig, int fd)
{
	struct rig *lodger = rig->options.beside;
	bool good = try_connect(rig, fd);

	if (!lodger)
		return good;
	lodger->lost = !good;
	if (good)
		good = try_connect(lodger, take_fd(&lodger->its_fd));
	else
		close(take_fd(&lodger->its_fd));
	rig->lost |= lodger->lost;
	return good;
}

static void connect_fe(struct rig *rig, int fd)
{
	cr_assert(try_connect_all(rig, fd), "the server is gone");
}

void rig_get_config(struct rig *rig, uint32_t off, void *buf, uint32_t len)
{
	struct waiter w = { 0 };

	vhost_fe_get_config(rig->fe, off, len, buf, on_done, &w);
	cr_assert(step_done(rig, &w, "configuration"));
}

int rig_set_config(struct rig *rig, uint32_t off, uint8_t value)
{
	struct waiter w = { 0 };

	vhost_fe_set_config(rig->fe, off, 1, &value, on_done, &w);
	rig_until(rig, w.done);
	return w.err;
}

void rig_change_memory(struct rig *rig, const struct mem_region *region, int fd, bool add)
{
	struct waiter w = { 0 };

	if (add)
		vhost_fe_add_region(rig->fe, region, fd, on_done, &w);
	else
		vhost_fe_remove_region(rig->fe, region, on_done, &w);
	cr_assert(step_done(rig, &w, "memory"));
}

static void on_base(void *arg, int err, uint64_t base)
{
	(void)base;
	on_done(arg, err);
}

bool rig_try_stop_ring(struct rig *rig, unsigned queue)
{
	struct waiter w = { 0 };

	vhost_fe_stop_ring(rig->fe, queue, on_base, &w);
	return step_done(rig, &w, "stop");
}

void rig_stop_ring(struct rig *rig, unsigned queue)
{
	cr_assert(rig_try_stop_ring(rig, queue), "the server is gone");
}

void rig_restart_rings(struct rig *rig)
{
	cr_assert(start_rings(rig), "the server is gone");
}

static void init_inflight(struct rig *rig)
{
	bool packed = rig->options.ring_features & RING_F_PACKED;
	size_t step = inflight_queue_bytes(ring_size(rig), packed);

	for (unsigned i = 0; i < rig->queues; i++)
		inflight_init(rig->inflight + i * step, ring_size(rig), packed, (uint16_t)ring_base(rig));
}

void rig_reset_driver(struct rig *rig)
{
	for (unsigned i = 0; i < rig->queues; i++) {
		struct ring *ring = &rig->queue[i].ring;

		rig_stop_ring(rig, i);
		ring_free(ring);
		cr_assert_eq(ring_init(ring, &rig->guest, ring_size(rig), rig->options.ring_features), 0);
	}
	init_inflight(rig);
	rig_restart_rings(rig);
}

/* ---- what outlives a server ---- */

static void remove_qcow2(const struct rig *rig)
{
	static const char *const names[] = { "base", "copy" };
	char path[256];

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", rig->dir, names[i]);
		unlink(path);
	}
}

static void make_qcow2(struct rig *rig)
{
	char line[2048];

	snprintf(line, sizeof(line), "cd '%s' && %s", rig->dir, rig->options.make);
	cr_assert_eq(system(line), 0, "%s", line);
}

static void make_image(struct rig *rig)
{
	const char *base = rig->options.directory ? rig->options.directory : temp_dir_base();

	cr_assert(temp_dir_make_in(base, rig->dir, sizeof(rig->dir)));
	snprintf(rig->image, sizeof(rig->image), "%s/image", rig->dir);
	snprintf(rig->socket, sizeof(rig->socket), "%s/socket", rig->dir);
	if (rig->options.net) {
		rig->image_fd = rig->lock_fd = -1;
		return;
	}
	if (rig->options.device) {
		snprintf(rig->image, sizeof(rig->image), "%s", rig->options.device);
		rig->image_fd = open(rig->image, O_RDWR | O_CLOEXEC);
		cr_assert(rig->image_fd >= 0);
		if (rig->options.make)
			make_qcow2(rig);
	} else {
		rig->image_fd = open(rig->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		cr_assert(rig->image_fd >= 0);
		if (rig->options.make)
			make_qcow2(rig);
		else
			cr_assert_eq(ftruncate(rig->image_fd, (off_t)rig->options.image_bytes), 0);
	}
	rig->lock_fd = open(rig->image, (rig->options.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	cr_assert(rig->lock_fd >= 0);
}

static void on_call(void *arg, uint32_t events)
{
	struct rig_queue *q = arg;
	uint64_t count;

	(void)events;
	cr_assert(read(q->call, &count, sizeof(count)) == sizeof(count));
	q->calls++;
}

static void make_queue(struct rig *rig, struct rig_queue *q)
{
	cr_assert_eq(ring_init(&q->ring, &rig->guest, ring_size(rig), rig->options.ring_features), 0);
	if (rig->options.start_at || rig->options.start_wrapped)
		ring_start_at(&q->ring, rig->options.start_at, !rig->options.start_wrapped);
	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->headers = rig_alloc(rig, RIG_SLOTS * HEADER_STEP, 64);
	for (unsigned i = 0; i < RIG_SIZE; i++)
		q->slot_of[i] = -1;
	cr_assert_eq(loop_add_fd(rig->loop, q->call, EPOLLIN, on_call, q, &q->watch), 0);
}

static void make_inflight(struct rig *rig)
{
	bool packed = rig->options.ring_features & RING_F_PACKED;
	size_t step = inflight_queue_bytes(ring_size(rig), packed);

	rig->inflight_bytes = step * rig->queues;
	rig->inflight_fd = fd_sealed_memfd("inflight", rig->inflight_bytes);
	cr_assert(rig->inflight_fd >= 0);
	rig->inflight =
	    mmap(NULL, rig->inflight_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rig->inflight_fd, 0);
	cr_assert(rig->inflight != MAP_FAILED);
	init_inflight(rig);
}

/* What an engine needs: a kernel that has it, and memory in which its servers leave word to each other, which those of an
 * export need, too. */
static void prepare_engine(struct rig *rig)
{
	struct {
		uint32_t word[30];
	} params = { 0 };
	int fd;

	rig->state_fd = -1;
	if (!rig->options.engine && !rig->options.nbd && !rig->options.net)
		rig->options.engine = getenv("RIG_ENGINE");
	if (!rig->options.engine && !rig->options.nbd)
		return;
	if (rig->options.engine && !strcmp(rig->options.engine, "io_uring")) {
		fd = (int)syscall(SYS_io_uring_setup, 1, &params);
		if (fd < 0)
			cr_skip_test("no io_uring here: %s", strerror(errno));
		close(fd);
	}
	if (rig->options.state_fd)
		return;
	rig->state_fd = rig->options.state_fd = state_create();
	cr_assert_gt(rig->state_fd, 0);
}

void rig_start(struct rig *rig, const struct rig_options *options)
{
	*rig = (struct rig) { .options = *options };
	prepare_engine(rig);
	if (!rig->options.image_bytes)
		rig->options.image_bytes = 16ULL << 20;
	rig->queues = MAX(options->queues, 1U);
	if (options->net)
		rig->queues = 2 * rig->queues + options->net->control;
	cr_assert_leq(rig->queues, RIG_QUEUES_MAX);
	make_image(rig);
	rig->its_fd = -1;
	if (options->beside)
		rig->loop = options->beside->loop;
	else
		cr_assert_eq(loop_new("test", &rig->loop), 0);
	cr_assert_eq(guest_init(&rig->guest, MEMORY_BYTES), 0);
	for (unsigned i = 0; i < rig->queues; i++)
		make_queue(rig, &rig->queue[i]);
	make_inflight(rig);
	rig->go_fd = fd_sealed_memfd("go", sizeof(*rig->told));
	rig->told = mmap(NULL, sizeof(*rig->told), PROT_READ | PROT_WRITE, MAP_SHARED, rig->go_fd, 0);
	cr_assert(rig->told != MAP_FAILED);
	if (options->lodger)
		return;
	if (options->crash)
		rig_try_respawn(rig);
	else
		rig_respawn(rig);
}

void rig_kill(struct rig *rig)
{
	if (rig->options.by_hand)
		rig_kill_guarded(rig);
	else
		rig_kill_processes(rig);
	rig_reap(rig);
}

int rig_reap(struct rig *rig)
{
	int status = rig_wait_end(rig);

	rig_disconnect(rig);
	if (rig->options.beside)
		rig_disconnect(rig->options.beside);
	return status;
}

void rig_respawn(struct rig *rig)
{
	connect_fe(rig, rig->options.by_hand ? rig_spawn_by_hand(rig) : rig_spawn(rig));
}

void rig_respawn_spare(struct rig *rig, void (*meanwhile)(void *arg), void *arg)
{
	int fd = rig_spawn(rig);

	meanwhile(arg);
	connect_fe(rig, fd);
}

bool rig_try_respawn(struct rig *rig)
{
	return try_connect_all(rig, rig_spawn(rig));
}

void rig_connect(struct rig *rig)
{
	cr_assert(try_connect(rig, rig_dial(rig)), "the server is gone");
}

static void give_back(struct rig *rig)
{
	for (unsigned i = 0; i < rig->queues; i++) {
		struct rig_queue *q = &rig->queue[i];

		loop_del_fd(q->watch);
		close(q->kick);
		close(q->call);
		close(q->err);
		ring_free(&q->ring);
	}
	if (!rig->options.lodger)
		loop_free(rig->loop);
	munmap(rig->inflight, rig->inflight_bytes);
	close(rig->inflight_fd);
	munmap(rig->told, sizeof(*rig->told));
	close(rig->go_fd);
	if (rig->state_fd >= 0)
		close(rig->state_fd);
	guest_free(&rig->guest);
	if (!rig->options.net) {
		close(rig->image_fd);
		close(rig->lock_fd);
	}
	if (!rig->options.device && !rig->options.net)
		unlink(rig->image);
	if (rig->options.make)
		remove_qcow2(rig);
	cr_assert_eq(access(rig->socket, F_OK), -1, "the socket is left behind");
	rmdir(rig->dir);
}

void rig_stop(struct rig *rig)
{
	struct rig *lodger = rig->options.beside;
	int status;

	rig_disconnect(rig);
	if (lodger)
		rig_disconnect(lodger);
	if (rig->options.by_hand)
		kill(rig->pid, SIGTERM);
	status = rig_wait_end(rig);
	cr_assert_eq(status, 0, "the server ended with status %d", status);
	if (lodger)
		give_back(lodger);
	give_back(rig);
}
