/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of disks: what goes through in a time is what they say, of one disk and of a group; a restart gives nothing, and a
 * change holds. BULKHEAD_LONG=1 measures for 10 s each.
 */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "fd.h"
#include "note.h"
#include "num.h"
#include "quota.h"
#include "rig.h"
#include "state.h"
#include "supervise.h"

TestSuite(blk_limits, .timeout = 300);

#define DEPTH   8 /* requests of a queue at a time */
#define QUEUES  2
#define TRIES   3
#define DISKS   2
#define WARM_UP (300 * NS_PER_MS) /* burst and debt are used up by then */

struct disk {
	struct rig rig;
	uint64_t gpa;
	uint32_t bytes;      /* of a request */
	uint64_t done, next; /* requests */
};

static uint64_t measured_ns(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return (all && *all ? 10 : 2) * NS_PER_S;
}

static void start(struct disk *d, const char *const *args, int state_fd, int group_fd, uint32_t bytes)
{
	struct rig_options options = { .args = args,
				       .queues = QUEUES,
				       .io_threads = QUEUES,
				       .state_fd = state_fd,
				       .group_fd = group_fd };

	memset(d, 0, sizeof(*d));
	rig_start(&d->rig, &options);
	d->bytes = bytes;
	d->gpa = rig_alloc(&d->rig, bytes, 4096);
}

static void add(struct disk *d, unsigned queue)
{
	rig_add(&d->rig, queue, VIRTIO_BLK_T_IN, d->next++ % 16 * (d->bytes / 512), d->gpa, d->bytes);
}

static void fill(struct disk *d)
{
	for (unsigned i = 0; i < DEPTH * QUEUES; i++)
		add(d, i % QUEUES);
}

/* Takes what is done and asks for as much again. */
static bool step(struct disk *d)
{
	struct rig_done done;
	bool any = false;

	for (unsigned q = 0; q < QUEUES; q++)
		while (rig_get(&d->rig, q, &done)) {
			cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
			d->done++;
			add(d, q);
			any = true;
		}
	return any;
}

/* Sleeps until one of the disks calls, or a moment. */
static void wait_for_call(struct disk *d, size_t n)
{
	struct pollfd fds[DISKS * QUEUES];
	nfds_t count = 0;

	for (size_t i = 0; i < n; i++)
		for (unsigned q = 0; q < QUEUES; q++)
			fds[count++] = (struct pollfd) { .fd = d[i].rig.queue[q].call, .events = POLLIN };
	cr_assert_geq(poll(fds, count, 20), 0);
	for (nfds_t i = 0; i < count; i++)
		if (fds[i].revents)
			fd_event_clear(fds[i].fd);
}

static void run(struct disk *d, size_t n, uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (clock_ns() < end) {
		bool any = false;

		for (size_t i = 0; i < n; i++) {
			cr_assert_not(d[i].rig.lost);
			any |= step(&d[i]);
		}
		if (!any)
			wait_for_call(d, n);
	}
}

/* The rates at which disks go on together, in requests and in bytes. */
static void measure(struct disk *d, size_t n, double *requests, double *bytes)
{
	uint64_t begin, before[2];
	double s;

	run(d, n, WARM_UP);
	for (size_t i = 0; i < n; i++)
		before[i] = d[i].done;
	begin = clock_ns();
	run(d, n, measured_ns());
	s = (double)(clock_ns() - begin) / (double)NS_PER_S;
	*requests = *bytes = 0;
	for (size_t i = 0; i < n; i++) {
		*requests += (double)(d[i].done - before[i]) / s;
		*bytes += (double)(d[i].done - before[i]) * d[i].bytes / s;
	}
}

/* More never goes through; that less did may be this machine's fault, and is tried again. */
static void expect_rates(struct disk *d, size_t n, double iops, double bps)
{
	double requests, bytes, share = 0;

	for (int i = 0; i < TRIES && share < 0.95; i++) {
		measure(d, n, &requests, &bytes);
		share = iops ? requests / iops : bytes / bps;
		note("%.0f requests, %.0f bytes a second: %.1f %%", requests, bytes, 100 * share);
		cr_assert_leq(share, 1.05, "%.0f requests, %.0f bytes a second", requests, bytes);
	}
	cr_assert_geq(share, 0.95, "%.0f requests, %.0f bytes a second", requests, bytes);
}

static void drain(struct disk *d)
{
	struct rig_done done;

	for (unsigned i = 0; i < DEPTH * QUEUES; i++) {
		rig_until(&d->rig, rig_get(&d->rig, 0, &done) || rig_get(&d->rig, 1, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
}

static void check_rate(const char *const *args, uint32_t bytes, double iops, double bps)
{
	static struct disk d;

	start(&d, args, 0, 0, bytes);
	fill(&d);
	expect_rates(&d, 1, iops, bps);
	drain(&d);
	rig_stop(&d.rig);
}

Test(blk_limits, bytes)
{
	const char *const args[] = { "--bps", "16M", NULL };

	check_rate(args, 65536, 0, 16 << 20);
}

Test(blk_limits, operations)
{
	const char *const args[] = { "--iops", "2000", "--iops-burst", "200", NULL };

	check_rate(args, 4096, 2000, 0);
}

/* What is larger than a burst passes, too. */
Test(blk_limits, both)
{
	const char *const args[] = { "--iops", "1000", "--bps", "32M", "--bps-burst", "100K", NULL };

	check_rate(args, 1 << 20, 0, 32 << 20);
}

Test(blk_limits, a_group_shares_what_it_has)
{
	const char *const first[] = { "--bps", "6M", NULL };
	const uint64_t numbers[QUOTA_KEYS] = { [QUOTA_BPS] = 16 << 20 };
	static struct disk d[DISKS];
	struct state *state;
	int fd = state_create();

	cr_assert_eq(state_map(fd, &state), 0);
	quota_init(state_words(state), numbers);
	start(&d[0], first, 0, fd, 65536);
	start(&d[1], NULL, 0, fd, 65536);
	fill(&d[0]);
	fill(&d[1]);
	expect_rates(d, 2, 0, 16 << 20);
	cr_assert_leq(d[0].done, d[1].done, "its own limit is less than half");
	/* One dies, whatever it is doing, and the other has it all. */
	rig_kill(&d[0].rig);
	expect_rates(d + 1, 1, 0, 16 << 20);
	rig_respawn(&d[0].rig);
	drain(&d[0]);
	drain(&d[1]);
	rig_stop(&d[0].rig);
	rig_stop(&d[1].rig);
	state_free(state);
	close(fd);
}

/* A guest that kicks without end has its server ask all the time; the other sleeps until it is to be its turn. Neither wins. */
Test(blk_limits, a_group_is_not_his_who_kicks)
{
	const uint64_t numbers[QUOTA_KEYS] = { [QUOTA_IOPS] = 200, [QUOTA_IOPS_BURST] = 1 };
	static struct disk d[DISKS];
	struct state *state;
	int fd = state_create();
	uint64_t end, all;

	cr_assert_eq(state_map(fd, &state), 0);
	quota_init(state_words(state), numbers);
	start(&d[0], NULL, 0, fd, 4096);
	start(&d[1], NULL, 0, fd, 4096);
	fill(&d[0]);
	fill(&d[1]);
	for (end = clock_ns() + measured_ns(); clock_ns() < end;) {
		for (unsigned q = 0; q < QUEUES; q++)
			fd_event_set(d[0].rig.queue[q].kick);
		step(&d[0]);
		step(&d[1]);
	}
	fprintf(stderr, "# %llu requests of who kicks, %llu of the other\n", (unsigned long long)d[0].done,
		(unsigned long long)d[1].done);
	all = d[0].done + d[1].done;
	cr_assert_geq(d[0].done, all * 2 / 5);
	cr_assert_geq(d[1].done, all * 2 / 5);
	quota_set(state_words(state), QUOTA_IOPS, 0, clock_ns());
	drain(&d[0]);
	drain(&d[1]);
	rig_stop(&d[0].rig);
	rig_stop(&d[1].rig);
	state_free(state);
	close(fd);
}

/* ---- what costs how much ---- */

/* Has so many ranges, each of so many sectors, discarded or zeroed. */
static void ask_ranges(struct disk *d, uint32_t type, unsigned n, uint32_t sectors)
{
	struct virtio_blk_discard_write_zeroes range[4] = { 0 };

	for (unsigned i = 0; i < n; i++)
		range[i] = (struct virtio_blk_discard_write_zeroes) { .sector = htole64(i * sectors),
								      .num_sectors = htole32(sectors) };
	memcpy(rig_ptr(&d->rig, d->gpa), range, n * sizeof(range[0]));
	cr_assert_eq(rig_request(&d->rig, 0, type, 0, d->gpa, n * (uint32_t)sizeof(range[0])).status,
		     VIRTIO_BLK_S_OK);
}

Test(blk_limits, zeroes_cost_bytes_and_discards_operations)
{
	const uint64_t numbers[QUOTA_KEYS] = { [QUOTA_BPS] = 1 << 20, [QUOTA_IOPS] = 10 };
	static struct disk d;
	struct quota_turn turn;
	struct state *state;
	int fd = state_create();
	uint64_t now;

	cr_assert_eq(state_map(fd, &state), 0);
	quota_init(state_words(state), numbers);
	start(&d, NULL, 0, fd, 4096);
	ask_ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, 2, 4096);
	now = clock_ns();
	quota_take(state_words(state), now, 1, 0, &turn);
	cr_expect_gt(quota_wait(state_words(state), now, &turn), NS_PER_S, "4 MiB at 1 MiB a second");
	cr_expect_lt(quota_wait(state_words(state), now, &turn), 4 * NS_PER_S);
	quota_set(state_words(state), QUOTA_BPS, 0, now);
	quota_set(state_words(state), QUOTA_BPS, 1 << 20, now);
	quota_set(state_words(state), QUOTA_IOPS, 0, now);
	quota_set(state_words(state), QUOTA_IOPS, 1, now);
	ask_ranges(&d, VIRTIO_BLK_T_DISCARD, 4, 8);
	now = clock_ns();
	quota_take(state_words(state), now, 1, 0, &turn);
	cr_expect_eq(quota_wait(state_words(state), now, &turn), 0, "it moves no bytes");
	quota_take(state_words(state), now, 0, 1, &turn);
	cr_expect_gt(quota_wait(state_words(state), now, &turn), 2 * NS_PER_S, "four at one a second");
	rig_stop(&d.rig);
	state_free(state);
	close(fd);
}

static void took(uint64_t since, unsigned ms)
{
	uint64_t t = clock_ns() - since;

	cr_assert_geq(t, ms * NS_PER_MS, "%llu ms", (unsigned long long)(t / NS_PER_MS));
}

Test(blk_limits, a_restart_gives_nothing)
{
	const char *const args[] = { "--iops", "20", "--iops-burst", "10", NULL };
	static struct disk d;
	uint64_t since = clock_ns();

	start(&d, args, state_create(), 0, 4096);
	for (unsigned i = 0; i < 30; i++) {
		cr_assert_eq(rig_request(&d.rig, i % QUEUES, VIRTIO_BLK_T_IN, 0, d.gpa, 4096).status,
			     VIRTIO_BLK_S_OK);
		if (i % 5)
			continue;
		rig_kill(&d.rig);
		rig_respawn(&d.rig);
	}
	took(since, 1000 * (30 - 10 - 1) / 20);
	rig_stop(&d.rig);
}

static void set_up(struct supervisor *s, struct disk *d, const char *iops)
{
	static const char *args[] = { "--id", "disk0", "--iops", NULL, "--bus", NULL, NULL };

	supervisor_open(s);
	args[3] = iops;
	args[5] = s->dir;
	start(d, args, state_create(), 0, 4096);
	supervisor_expect(s, &d->rig);
}

static void tear_down(struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	rig_stop(s->rig);
	supervisor_close(s);
}

/* What waits for a limit is held, not stuck, and goes on when the limit is lifted; a successor knows of the change. */
Test(blk_limits, a_change_holds)
{
	static struct supervisor s;
	static struct disk d;
	struct rig_done done;
	uint64_t since = clock_ns();

	set_up(&s, &d, "1");
	for (unsigned i = 0; i < 4; i++)
		add(&d, 0);
	supervisor_until(&s, rig_get(&d.rig, 0, &done));
	supervisor_until(&s, supervisor_stat(&s, "throttled") > 0);
	cr_assert_eq(supervisor_set(&s, "iops", "100000", NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		supervisor_until(&s, rig_get(&d.rig, 0, &done));
	rig_kill(&d.rig);
	s.hello = s.ready = false;
	rig_respawn(&d.rig);
	bus_expect(s.bus, d.rig.pid);
	supervisor_until(&s, s.ready);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(rig_request(&d.rig, 0, VIRTIO_BLK_T_IN, 0, d.gpa, 4096).status, VIRTIO_BLK_S_OK);
	cr_assert_lt(clock_ns() - since, 15 * NS_PER_S, "one a second");
	tear_down(&s);
}

Test(blk_limits, what_can_not_be_set)
{
	static struct supervisor s;
	static struct disk d;

	set_up(&s, &d, "0");
	cr_expect_eq(supervisor_set(&s, "bps", "x", NULL), -EINVAL);
	cr_expect_eq(supervisor_set(&s, "bps", "-1", NULL), -EINVAL);
	cr_expect_eq(supervisor_set(&s, "bps", "2T", NULL), -ERANGE);
	cr_expect_eq(supervisor_set(&s, "group-bps", "1M", NULL), -ENOENT);
	cr_expect_eq(supervisor_set(&s, "bps-burst", "1M", NULL), 0);
	tear_down(&s);
}

/* A drain does not wait for the limit, nor does what waits for it get ahead of it. */
Test(blk_limits, a_drain_does_not_wait)
{
	static struct supervisor s;
	static struct disk d;
	struct rig_done done;

	set_up(&s, &d, "1");
	for (unsigned i = 0; i < 30; i++)
		add(&d, 0);
	supervisor_until(&s, rig_get(&d.rig, 0, &done));
	supervisor_until(&s, supervisor_stat(&s, "throttled") > 0);
	supervisor_ask_ok(&s, BUS_DRAIN);
	cr_assert_eq(supervisor_set(&s, "iops", "0", NULL), 0);
	cr_assert_leq(supervisor_stat(&s, "completed"), 2, "it goes on though it is drained");
	supervisor_ask_ok(&s, BUS_RESUME);
	for (unsigned i = 1; i < 30; i++) {
		supervisor_until(&s, rig_get(&d.rig, 0, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	tear_down(&s);
}
