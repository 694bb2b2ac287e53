/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window between a driver and a blk-server: the driver's data is right and each request's fate is one, over both ring
 * formats and whoever of the two dies; the server maps the window and nothing of the guest's memory.
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
	struct rig_options options = {
		.window = true, .window_first = window_first, .queues = queues, .ring_features = ring_features
	};

	load_storm(options, kills());
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

/* The largest that a driver may make by what it is told, in the smallest window. */
Test(window, the_largest_request_has_room)
{
	struct rig_options options = { .window = true };
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_OUT };
	struct ring_buf bufs[256];
	struct rig rig;
	unsigned n = 0;

	rig_start(&rig, &options);
	cr_assert(rig.info.features & 1ULL << VIRTIO_BLK_F_SIZE_MAX);
	cr_assert_leq(rig.config.seg_max, 254);
	cr_assert_geq(rig.config.size_max, 4096);
	bufs[n++] = (struct ring_buf) { .gpa = rig_alloc(&rig, 16, 4096), .len = 16 };
	memcpy(rig_ptr(&rig, bufs[0].gpa), &header, sizeof(header));
	while (n <= rig.config.seg_max)
		bufs[n++] = (struct ring_buf) { .gpa = rig_alloc(&rig, rig.config.size_max, 4096),
						.len = rig.config.size_max };
	bufs[n++] = (struct ring_buf) { .gpa = rig_alloc(&rig, 1, 1), .len = 1, .write = true };
	cr_assert_eq(rig_raw(&rig, 0, bufs, n), 1);
	cr_assert_eq(*rig_ptr(&rig, bufs[n - 1].gpa), VIRTIO_BLK_S_OK);
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
