/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window between a driver and a blk-server: the driver's data is right and each request's fate is one, over both ring
 * formats and whoever of the two dies; the server maps the window and nothing of the guest's memory. And between a driver and a server
 * that was taken over, which the test plays: nothing that it writes into its ring does more than end the window.
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "load.h"
#include "note.h"
#include "num.h"
#include "vhost_be.h"

TestSuite(window, .timeout = 600);

/* ---- data ---- */

static void write_and_read(struct rig *rig, unsigned queue, uint32_t len, uint32_t shift, uint64_t seed)
{
	uint64_t gpa = rig_alloc(rig, len + 8192, 4096) + shift;
	struct rig_done done;

	rig_fill(rig_ptr(rig, gpa), 0, len, seed);
	done = rig_request(rig, queue, VIRTIO_BLK_T_OUT, 8, gpa, len);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "write of %u at shift %u", len, shift);
	cr_assert_eq(done.len, 1);
	memset(rig_ptr(rig, gpa - shift), 0xee, len + 8192);
	done = rig_request(rig, queue, VIRTIO_BLK_T_IN, 8, gpa, len);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.len, len + 1);
	cr_assert(rig_check(rig_ptr(rig, gpa), 0, len, seed), "%u bytes, shift %u", len, shift);
	cr_assert_eq(*rig_ptr(rig, gpa + len), 0xee, "one byte too many");
}

static void data_over(uint64_t ring_features)
{
	static const uint32_t lens[] = { 512, 4096, 4096 + 512, 65536, 1280 * 1024 };
	static const uint32_t shifts[] = { 0, 8, 512, 2052 };
	struct rig_options options = { .window = true, .queues = 2, .ring_features = ring_features };
	struct rig rig;

	rig_start(&rig, &options);
	for (unsigned i = 0; i < ARRAY_SIZE(lens) * ARRAY_SIZE(shifts); i++)
		write_and_read(&rig, i % 2, lens[i % ARRAY_SIZE(lens)], shifts[i / ARRAY_SIZE(lens)], i + 1);
	rig_stop(&rig);
}

Test(window, data_is_right_over_split_rings)
{
	data_over(RING_F_EVENT_IDX | RING_F_INDIRECT);
}

Test(window, data_is_right_over_packed_rings)
{
	data_over(RING_F_PACKED | RING_F_EVENT_IDX);
}

/* Vectors of any lengths, in any numbers. */
Test(window, chains_may_be_cut_anywhere)
{
	struct rig_options options = { .window = true };
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT, .sector = 3 };
	struct ring_buf bufs[48];
	struct rig rig;
	uint64_t at;
	unsigned n = 0;

	rig_start(&rig, &options);
	at = rig_alloc(&rig, 65536, 4096);
	memcpy(rig_ptr(&rig, at), &header, sizeof(header));
	for (unsigned i = 0; i < 16; i++)
		bufs[n++] = (struct ring_buf) { .gpa = at + i, .len = 1 };
	rig_fill(rig_ptr(&rig, at + 4096), 0, 1024, 7);
	for (uint32_t i = 0; i < 1024; i += 64)
		bufs[n++] = (struct ring_buf) { .gpa = at + 4096 + i, .len = 64 };
	bufs[n++] = (struct ring_buf) { .gpa = at + 100, .len = 1, .write = true };
	cr_assert_eq(rig_raw(&rig, 0, bufs, n), 1);
	cr_assert_eq(*rig_ptr(&rig, at + 100), VIRTIO_BLK_S_OK);

	/* Read back, with the status in one vector with data. */
	header.type = VIRTIO_BLK_T_IN;
	memcpy(rig_ptr(&rig, at), &header, sizeof(header));
	memset(rig_ptr(&rig, at + 8192), 0xee, 1032);
	n = 0;
	bufs[n++] = (struct ring_buf) { .gpa = at, .len = sizeof(header) };
	bufs[n++] = (struct ring_buf) { .gpa = at + 8192, .len = 3, .write = true };
	bufs[n++] = (struct ring_buf) { .gpa = at + 8195, .len = 1000, .write = true };
	bufs[n++] = (struct ring_buf) { .gpa = at + 9195, .len = 22, .write = true };
	cr_assert_eq(rig_raw(&rig, 0, bufs, n), 1025);
	cr_assert(rig_check(rig_ptr(&rig, at + 8192), 0, 1024, 7));
	cr_assert_eq(*rig_ptr(&rig, at + 9216), VIRTIO_BLK_S_OK);
	cr_assert_eq(*rig_ptr(&rig, at + 9217), 0xee, "one byte too many");
	rig_stop(&rig);
}

/* What the server refuses has its status, wherever that lies, and no data. */
Test(window, a_refusal_comes_through)
{
	struct rig_options options = { .window = true };
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 8192, 4096);
	memset(rig_ptr(&rig, gpa), 0xee, 8192);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, rig.config.capacity, gpa, 4096);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(done.len, 1);
	for (unsigned i = 0; i < 4096; i++)
		cr_assert_eq(*rig_ptr(&rig, gpa + i), 0xee);
	done = rig_request(&rig, 0, 77, 0, gpa, 512);
	cr_assert_eq(done.status, VIRTIO_BLK_S_UNSUPP);
	rig_stop(&rig);
}

/* More than it holds: what has no room waits, and all of it is done. */
Test(window, a_full_window_is_waited_for)
{
	enum { N = 40, LEN = 256 * 1024 };
	struct rig_options options = { .window = true };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, (uint64_t)N * LEN, 4096);
	for (unsigned i = 0; i < N; i++) {
		rig_fill(rig_ptr(&rig, gpa + i * LEN), i * LEN, LEN, 3);
		rig_stage(&rig, 0, VIRTIO_BLK_T_OUT, i * LEN / 512, gpa + i * LEN, LEN);
	}
	rig_publish(&rig, 0);
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	memset(rig_ptr(&rig, gpa), 0, (size_t)N * LEN);
	for (unsigned i = 0; i < N; i++)
		rig_stage(&rig, 0, VIRTIO_BLK_T_IN, i * LEN / 512, gpa + i * LEN, LEN);
	rig_publish(&rig, 0);
	for (unsigned i = 0; i < N; i++)
		cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	cr_assert(rig_check(rig_ptr(&rig, gpa), 0, N * LEN, 3));
	rig_stop(&rig);
}

/* Its driver may be another one soon, with other features. */
Test(window, a_driver_follows_a_driver)
{
	struct rig_options options = { .window = true, .queues = 2, .ring_features = RING_F_EVENT_IDX };
	struct rig rig;

	rig_start(&rig, &options);
	write_and_read(&rig, 0, 4096, 0, 1);
	rig_reset_driver(&rig);
	write_and_read(&rig, 1, 4096, 0, 2);
	rig_reset_driver(&rig);
	write_and_read(&rig, 0, 65536, 8, 3);
	rig_stop(&rig);
}

/* Rings that are all stopped, and begin again as they were. */
Test(window, a_driver_rests_and_goes_on)
{
	struct rig_options options = { .window = true, .queues = 2, .ring_features = RING_F_EVENT_IDX };
	struct rig rig;

	rig_start(&rig, &options);
	for (unsigned i = 0; i < 5; i++) {
		write_and_read(&rig, i % 2, 4096, 0, i + 1);
		rig_stop_ring(&rig, 0);
		rig_stop_ring(&rig, 1);
		rig_restart_rings(&rig);
	}
	write_and_read(&rig, 0, 4096, 0, 9);
	rig_stop(&rig);
}

/* Write-through or write-back: what the driver writes there is the server's to know. */
Test(window, configuration_space_goes_through)
{
	struct rig_options options = { .window = true };
	struct rig rig;
	uint8_t wce = 9;

	rig_start(&rig, &options);
	cr_assert_eq(rig.config.capacity, (16ULL << 20) / 512);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(rig_set_config(&rig, offsetof(struct virtio_blk_config, wce), i % 2), 0);
		rig_get_config(&rig, offsetof(struct virtio_blk_config, wce), &wce, 1);
		cr_assert_eq(wce, i % 2);
	}
	/* One that the server refuses: after a while it is not shown any more, and the driver told. */
	cr_assert_eq(rig_set_config(&rig, 0, 0xff), 0);
	rig_until(&rig, rig.config_changes);
	rig_get_config(&rig, 0, &rig.config.capacity, sizeof(rig.config.capacity));
	cr_assert_eq(rig.config.capacity, (16ULL << 20) / 512);
	rig_stop(&rig);
}

/* ---- what the server has ---- */

Test(window, the_server_maps_nothing_of_the_guests)
{
	struct rig_options options = { .window = true };
	struct rig rig;
	char path[64], line[512];
	unsigned guest = 0, window = 0;
	FILE *maps;

	rig_start(&rig, &options);
	write_and_read(&rig, 0, 65536, 0, 1);
	for (unsigned turn = 0; turn < 2; turn++) {
		snprintf(path, sizeof(path), "/proc/%d/maps", (int)(turn ? rig.window_pid : rig.pid));
		maps = fopen(path, "re");
		if (!maps)
			cr_skip_test("%s can't be read by this user", path);
		guest = window = 0;
		while (fgets(line, sizeof(line), maps)) {
			guest += strstr(line, "/memfd:guest ") != NULL;
			window += strstr(line, "/memfd:window ") != NULL;
		}
		fclose(maps);
		cr_assert_gt(window, 0, "the window is mapped");
		if (turn)
			cr_assert_gt(guest, 0, "the test sees what is mapped");
		else
			cr_assert_eq(guest, 0, "the server maps the guest's memory");
	}
	for (int fd = 0; fd < 512; fd++) {
		char link[64], what[256] = "";

		snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)rig.pid, fd);
		if (readlink(link, what, sizeof(what) - 1) > 0)
			cr_assert_null(strstr(what, "memfd:guest"), "descriptor %d is %s", fd, what);
	}
	rig_stop(&rig);
}

/* ---- deaths ---- */

static unsigned kills(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return all && *all ? 300 : 10;
}

static void storm(uint64_t ring_features, unsigned queues, bool window_first)
{
	static struct load l;
	struct rig_options options = { .window = true,
				       .window_first = window_first,
				       .queues = queues,
				       .io_threads = queues > 1 ? 2 : 1,
				       .ring_features = ring_features };

	load_start(&l, &options);
	for (unsigned i = 0; i < kills(); i++) {
		uint64_t until = clock_ns() + load_random(&l, 20 * NS_PER_MS);

		load_until(&l, clock_ns() >= until && (i % 2 || !l.at_death));
		rig_kill(&l.rig);
		load_died(&l);
		rig_respawn(&l.rig);
	}
	load_stop(&l);
	note("%llu requests, %u kills", (unsigned long long)l.completed, kills());
}

Test(window, dies_after_its_server_split)
{
	storm(RING_F_EVENT_IDX | RING_F_INDIRECT, 2, false);
}

Test(window, dies_after_its_server_packed)
{
	storm(RING_F_PACKED | RING_F_EVENT_IDX, 1, false);
}

Test(window, dies_before_its_server_split)
{
	storm(RING_F_EVENT_IDX, 1, true);
}

Test(window, dies_before_its_server_packed)
{
	storm(RING_F_PACKED | RING_F_INDIRECT, 2, true);
}

/* ---- a hostile driver ---- */

static bool is_broken(struct rig *rig, unsigned queue)
{
	struct pollfd err = { .fd = rig->queue[queue].err, .events = POLLIN };

	return poll(&err, 1, 0) == 1;
}

Test(window, broken_rings_of_the_driver_are_given_up)
{
	struct rig_options options = { .window = true, .queues = 3, .ring_features = RING_F_INDIRECT };
	struct ring_buf bufs[2] = { { .len = 16 }, { .len = 1, .write = true } };
	struct ring_desc loop = { .len = 16, .id = 5, .flags = RING_NEXT };
	struct ring *ring;
	struct rig rig;

	rig_start(&rig, &options);
	/* A descriptor that leads to itself. */
	ring = &rig.queue[0].ring;
	loop.addr = rig_alloc(&rig, 4096, 4096);
	ring_write_desc(ring, 5, loop);
	ring_put_avail(ring, 5);
	rig_publish(&rig, 0);
	cr_assert_eq(fd_event_set(rig.queue[0].kick), 0);
	rig_until(&rig, is_broken(&rig, 0));
	/* An address outside of memory. */
	bufs[0].gpa = 1ULL << 50;
	bufs[1].gpa = loop.addr;
	cr_assert_eq(rig_raw(&rig, 1, bufs, 2), -1);
	/* And the third is served as ever. */
	write_and_read(&rig, 2, 4096, 0, 5);
	rig_stop(&rig);
}

Test(window, a_request_larger_than_the_window_breaks_its_ring)
{
	struct rig_options options = { .window = true, .queues = 2 };
	struct ring_buf bufs[3] = { { .len = 16 }, { .len = 3 << 20 }, { .len = 1, .write = true } };
	struct rig rig;

	rig_start(&rig, &options);
	for (unsigned i = 0; i < ARRAY_SIZE(bufs); i++)
		bufs[i].gpa = rig_alloc(&rig, bufs[i].len, 4096);
	cr_assert_eq(rig_raw(&rig, 0, bufs, 3), -1);
	write_and_read(&rig, 1, 4096, 0, 5);
	rig_stop(&rig);
}

/* What only the server finds wrong: there is no room for a status. */
Test(window, a_ring_that_the_server_gives_up_is_given_up)
{
	struct rig_options options = { .window = true, .queues = 2, .ring_features = RING_F_EVENT_IDX };
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT };
	struct ring_buf buf = { .len = sizeof(header) };
	struct rig rig;

	rig_start(&rig, &options);
	buf.gpa = rig_alloc(&rig, 4096, 4096);
	memcpy(rig_ptr(&rig, buf.gpa), &header, sizeof(header));
	cr_assert_eq(rig_raw(&rig, 0, &buf, 1), -1);
	write_and_read(&rig, 1, 4096, 0, 5);
	rig_reset_driver(&rig);
	write_and_read(&rig, 0, 4096, 0, 6);
	rig_stop(&rig);
}

/* ---- a hostile server ---- */

#define PLAYED_SIZE 1024 /* of the ring in the window */

static struct {
	struct vhost_be *be;
	struct vhost_be_ring ring;
	struct mem *mem;
	bool started;
} played;

static int played_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	(void)arg;
	(void)off;
	memset(buf, 0, len);
	return 0;
}

static int played_start(void *arg, unsigned index, const struct vhost_be_ring *ring)
{
	(void)arg;
	cr_assert_eq(index, 0);
	played.ring = *ring;
	played.mem = mem_get(ring->config.mem);
	played.started = true;
	return 0;
}

static void played_stop(void *arg, unsigned index)
{
	(void)arg;
	vhost_be_ring_stopped(played.be, index, 0);
}

static void played_fd(void *arg, unsigned index, int fd)
{
	(void)arg;
	(void)index;
	if (fd >= 0)
		close(fd);
}

static void played_enable(void *arg, unsigned index, bool on)
{
	(void)arg;
	(void)index;
	(void)on;
}

static void played_mem(void *arg, struct mem *mem)
{
	(void)arg;
	(void)mem;
	vhost_be_mem_taken(played.be);
}

static void played_reset(void *arg)
{
	(void)arg;
}

static void played_closed(void *arg, int err, const char *why)
{
	(void)arg;
	(void)err;
	(void)why;
	vhost_be_free(TAKE_PTR(played.be));
}

static void play(struct rig *rig, int fd)
{
	static const struct vhost_be_ops ops = {
		.features = 1ULL << 32 | 1ULL << 29 | 1ULL << VIRTIO_BLK_F_FLUSH,
		.queues = 1,
		.get_config = played_config,
		.ring_start = played_start,
		.ring_stop = played_stop,
		.ring_set_call = played_fd,
		.ring_set_err = played_fd,
		.ring_enable = played_enable,
		.mem_changed = played_mem,
		.reset = played_reset,
		.closed = played_closed,
	};

	cr_assert_eq(vhost_be_new(rig->loop, fd, &ops, NULL, &played.be), 0);
}

static uint16_t *at_user(uint64_t addr, size_t len)
{
	uint16_t *p = mem_at_user(played.mem, addr, len);

	cr_assert_not_null(p);
	return p;
}

/* Writes an element of the used ring, then its index, and calls. */
static void use(uint16_t at, uint32_t id, uint32_t len, uint16_t idx)
{
	uint16_t *used = at_user(played.ring.config.used, 4 + 8 * PLAYED_SIZE);
	uint32_t element[2] = { id, len };

	memcpy(&used[2 + 4 * at], element, sizeof(element));
	__atomic_store_n(&used[1], idx, __ATOMIC_RELEASE);
	cr_assert_eq(fd_event_set(played.ring.call), 0);
}

/* How many requests the window made available so far. */
static uint16_t offered(void)
{
	return played.started ? __atomic_load_n(&at_user(played.ring.config.avail, 4)[1], __ATOMIC_ACQUIRE)
			      : 0;
}

static uint16_t head_at(uint16_t i)
{
	return at_user(played.ring.config.avail, 4 + 2 * PLAYED_SIZE)[2 + i];
}

static void start_played(struct rig *rig, uint64_t ring_features)
{
	struct rig_options options = { .window = true, .play = play, .ring_features = ring_features };

	memset(&played, 0, sizeof(played));
	rig_start(rig, &options);
}

/* The window has ended, by itself, and the driver was told of nothing. */
static void expect_end(struct rig *rig)
{
	struct rig_done done;

	rig_until(rig, rig->lost || rig_get(rig, 0, &done));
}

struct lie {
	uint32_t id, len;
	uint16_t idx;
	const char *what;
};

static void tell(const struct lie *lie, uint64_t ring_features)
{
	struct pollfd end = { .events = POLLIN };
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;

	start_played(&rig, ring_features);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 8, gpa, 4096);
	rig_until(&rig, offered() == 2);
	cr_assert_eq(head_at(0), 0);
	cr_assert_eq(head_at(1), 4);
	use(0, lie->id, lie->len, lie->idx);
	end.fd = rig.window_pidfd;
	while (poll(&end, 1, 0) == 0)
		cr_assert_eq(loop_run_once(rig.loop, (int64_t)(5 * NS_PER_MS)), 0);
	cr_assert_not(rig_get(&rig, 0, &done), "%s: the driver was told of it", lie->what);
	cr_assert_eq(rig_reap(&rig), 1, "%s", lie->what);
	/* Both requests are the successor's. */
	rig.options.play = NULL;
	rig_respawn(&rig);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	vhost_be_free(TAKE_PTR(played.be));
	mem_put(played.mem);
	rig_stop(&rig);
}

static const struct lie lies[] = {
	{ 0, 4097, 3, "an index beyond what is out" },
	{ 0, 4097, 40000, "an index far away" },
	{ 0, 4097, 65535, "an index behind" },
	{ 1, 4097, 1, "a descriptor in the middle of a request" },
	{ 8, 4097, 1, "a request that is not out" },
	{ PLAYED_SIZE, 4097, 1, "an id beyond the ring" },
	{ 0xffffffff, 4097, 1, "the largest id" },
	{ 0, 4098, 1, "one byte more than there is room for" },
	{ 0, 0xffffffff, 1, "the largest length" },
};

Test(window, lies_of_the_server_end_it_split)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++)
		tell(&lies[i], RING_F_EVENT_IDX);
}

Test(window, lies_of_the_server_end_it_packed)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i += 3)
		tell(&lies[i], RING_F_PACKED);
}

/* The same request twice: once is right, and counts. */
Test(window, a_request_completed_twice_ends_it)
{
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 8, gpa, 4096);
	rig_until(&rig, offered() == 2);
	use(0, 4, 4097, 1);
	done = rig_wait(&rig, 0);
	cr_assert_eq(done.len, 4097);
	use(1, 4, 4097, 2);
	expect_end(&rig);
	cr_assert(rig.lost);
	cr_assert_eq(rig_reap(&rig), 1);
	rig.options.play = NULL;
	rig_respawn(&rig);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK, "the other one is the successor's");
	vhost_be_free(TAKE_PTR(played.be));
	mem_put(played.mem);
	rig_stop(&rig);
}

/* What it writes over the window's side of the ring, and over what it was given to read, leads nowhere but to itself. */
Test(window, what_the_server_writes_elsewhere_is_not_read)
{
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;
	uint8_t *in;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 8192, 4096);
	memset(rig_ptr(&rig, gpa), 0xee, 8192);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_until(&rig, offered() == 1);
	/* The first page, where what it reads for the request lies, and then the whole ring but what is used. */
	in = (uint8_t *)at_user(played.ring.config.desc, 1);
	memset(in + 16 * PLAYED_SIZE + 4096 + 12288 + 64 * 256, 0x5a, 4096);
	memset(in, 0xa5, 16 * PLAYED_SIZE + 4096);
	in[16 * PLAYED_SIZE + 4096 + 12288 + 32] = VIRTIO_BLK_S_OK;
	use(0, 0, 4097, 1);
	done = rig_wait(&rig, 0);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 4096; i++)
		cr_assert_eq(*rig_ptr(&rig, gpa + i), 0x5a);
	cr_assert_eq(*rig_ptr(&rig, gpa + 4096), 0xee);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 512);
	rig_until(&rig, offered() == 2);
	use(1, head_at(1), 513, 2);
	rig_wait(&rig, 0);
	mem_put(played.mem);
	rig_disconnect(&rig);
	rig_reap(&rig);
	vhost_be_free(TAKE_PTR(played.be));
	rig.options.play = NULL;
	rig_respawn(&rig);
	rig_stop(&rig);
}

/* Whoever watches the driver's ring kicks it to see whether it is looked at: that is asked of the server. */
Test(window, a_kick_for_nothing_reaches_the_server)
{
	struct pollfd kick = { .events = POLLIN };
	struct rig rig;
	uint64_t gpa, n;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_until(&rig, offered() == 1);
	kick.fd = played.ring.kick;
	rig_until(&rig, poll(&kick, 1, 0) == 1);
	cr_assert_eq(read(kick.fd, &n, sizeof(n)), sizeof(n));
	cr_assert_eq(fd_event_set(rig.queue[0].kick), 0);
	rig_until(&rig, poll(&kick, 1, 0) == 1);
	use(0, 0, 4097, 1);
	rig_wait(&rig, 0);
	mem_put(played.mem);
	rig_disconnect(&rig);
	rig_reap(&rig);
	vhost_be_free(TAKE_PTR(played.be));
	rig.options.play = NULL;
	rig_respawn(&rig);
	rig_stop(&rig);
}
