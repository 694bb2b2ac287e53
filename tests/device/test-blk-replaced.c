/* SPDX-License-Identifier: Apache-2.0 */
/* What a successor makes of requests that its predecessors died with, failed, or were stopped over. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "crashes.h"
#include "fd.h"
#include "rig.h"

TestSuite(blk_replaced, .timeout = 120);

#define BLOCK     4096
#define NEIGHBOUR 8    /* requests on each side of the one that servers die of */
#define POISON    640U /* its sector */

/* Waits for a server to end by itself, with that status. */
static void await_death(struct rig *rig, int status)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	while (!rig->lost) {
		cr_assert(clock_ns() < end, "the server lives");
		cr_assert_eq(loop_run_once(rig->loop, (int64_t)(20 * NS_PER_MS)), 0);
	}
	cr_assert_eq(rig_reap(rig), status);
}

/* ---- 48: a request that servers die of ---- */

struct poisoning {
	struct rig rig;
	int slot[RIG_QUEUES_MAX][2 * NEIGHBOUR + 1];
	uint64_t gpa;
};

/* Requests of every kind in every queue, and amid those of the first the one that kills. */
static void stage_all(struct poisoning *p)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH };

	for (unsigned q = 0; q < p->rig.queues; q++) {
		for (unsigned i = 0; i < 2 * NEIGHBOUR + 1; i++) {
			uint64_t gpa = p->gpa + (q * 32ULL + i) * BLOCK;
			bool kills = q == 0 && i == NEIGHBOUR;
			uint32_t type = kills ? VIRTIO_BLK_T_OUT : types[i % 3];

			p->slot[q][i] = rig_stage(&p->rig, q, type, kills ? POISON : (q * 32 + i) * 8, gpa,
						  type == VIRTIO_BLK_T_FLUSH ? 0 : BLOCK);
		}
		rig_publish(&p->rig, q);
	}
}

/* Takes what answers there are; all of them are good but the one. How many. */
static unsigned take_answers(struct poisoning *p)
{
	struct rig_done done;
	unsigned n = 0;

	for (unsigned q = 0; q < p->rig.queues; q++) {
		for (; rig_get(&p->rig, q, &done); n++) {
			bool kills = q == 0 && done.slot == p->slot[0][NEIGHBOUR];

			cr_expect_eq(done.status, kills ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK,
				     "queue %u, slot %d: status %u", q, done.slot, done.status);
		}
	}
	return n;
}

static void check_log(FILE *log, unsigned deaths)
{
	char text[8192] = "", want[200];
	ssize_t n = pread(fileno(log), text, sizeof(text) - 1, 0);

	cr_assert_gt(n, 0, "nothing was logged");
	snprintf(want, sizeof(want),
		 "a request that %u servers died with is answered with an error: type 1, sector %u\n", deaths,
		 POISON);
	cr_expect(strstr(text, want), "%s", text);
}

/* Servers die where they come with one request, until there is one that is done with it; after so many deaths. */
static void poison(uint64_t features, const char *where, unsigned deaths)
{
	static struct poisoning p;
	CLEAN_FILE FILE *log = tmpfile();
	char order[64];
	struct rig_options options = {
		.ring_features = features, .queues = 2, .io_threads = 2, .crash = order, .log_fd = fileno(log)
	};
	unsigned died = 0, answered = 0;

	snprintf(order, sizeof(order), "at=%s:%u", where, POISON);
	rig_start(&p.rig, &options);
	p.gpa = rig_alloc(&p.rig, 64ULL * BLOCK, BLOCK);
	stage_all(&p);
	while (answered < p.rig.queues * (2 * NEIGHBOUR + 1)) {
		cr_assert_eq(loop_run_once(p.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
		answered += take_answers(&p);
		if (!p.rig.lost)
			continue;
		cr_assert_eq(rig_reap(&p.rig), CRASHES_STATUS);
		cr_assert_leq(++died, deaths, "servers go on dying");
		rig_try_respawn(&p.rig);
	}
	cr_expect_eq(died, deaths, "%u deaths", died);
	check_log(log, deaths);
	cr_expect_eq(rig_request(&p.rig, 1, VIRTIO_BLK_T_IN, 0, p.gpa, BLOCK).status, VIRTIO_BLK_S_OK);
	rig_stop(&p.rig);
}

/* A server that dies while it works on a request is known by that. */
Test(blk_replaced, f48_a_request_that_kills_at_once_split)
{
	poison(RING_F_EVENT_IDX, "poison", 3);
}

Test(blk_replaced, f48_a_request_that_kills_at_once_packed)
{
	poison(RING_F_PACKED | RING_F_INDIRECT, "poison", 3);
}

/* One that dies when it has let go of the request has to be watched doing it with that one alone. */
Test(blk_replaced, f48_a_request_that_kills_later_split)
{
	poison(RING_F_INDIRECT, "submitted", 5);
}

Test(blk_replaced, f48_a_request_that_kills_later_packed)
{
	poison(RING_F_PACKED | RING_F_EVENT_IDX, "submitted", 5);
}

/* ---- 50: a flush that failed ---- */

/* The kernel tells of lost data once, so a successor that flushed again would be told that all is well. */
static void fail_flush(uint64_t features)
{
	struct rig_options options = { .ring_features = features,
				       .crash = "result=flush:-5;die=failure after:1" };
	struct rig rig;

	rig_start(&rig, &options);
	rig_add(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	await_death(&rig, CRASHES_STATUS);
	rig.options.crash = "die=status after:1"; /* once more, this time with the answer in hand */
	rig_try_respawn(&rig);
	await_death(&rig, CRASHES_STATUS);
	rig.options.crash = NULL;
	rig_respawn(&rig);
	cr_expect_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_IOERR);
	cr_expect_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_IOERR);
	rig_stop(&rig);
}

Test(blk_replaced, f50_failed_flush_is_not_replayed_into_success_split)
{
	fail_flush(RING_F_EVENT_IDX);
}

Test(blk_replaced, f50_failed_flush_is_not_replayed_into_success_packed)
{
	fail_flush(RING_F_PACKED);
}

/* ---- 54: no memory to pass on what the front end asked for ---- */

static void on_region(void *arg, int err)
{
	*(int *)arg = err;
}

/* A memory region that a ring was never told of would be missed much later. The server ends instead, and its successor is
 * told again. */
Test(blk_replaced, f54_what_a_queue_cannot_be_told_is_not_left_out)
{
	struct rig_options options = { .ring_features = RING_F_EVENT_IDX, .crash = "answer=order:0" };
	struct mem_region region = { .gpa = 1ULL << 32, .size = 1 << 20, .user_addr = 1ULL << 46 };
	CLEAN_FD int fd = fd_sealed_memfd("more", region.size);
	struct rig rig;
	uint64_t gpa;
	int err = 0;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, BLOCK, BLOCK);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, BLOCK).status, VIRTIO_BLK_S_OK);
	rig_go(&rig);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, BLOCK);
	vhost_fe_add_region(rig.fe, &region, fd, on_region, &err);
	await_death(&rig, 1);
	cr_expect_lt(err, 0, "it was promised");
	rig.options.crash = NULL;
	rig_respawn(&rig);
	cr_expect_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	rig_stop(&rig);
}

/* ---- 53: a server that is stopped, replaced, and continued ---- */

#define WRITES 32

static void stage_writes(struct rig *rig, uint64_t gpa, uint64_t seed)
{
	for (unsigned i = 0; i < WRITES; i++) {
		rig_fill(rig_ptr(rig, gpa + i * BLOCK), i * BLOCK, BLOCK, seed);
		rig_stage(rig, 0, VIRTIO_BLK_T_OUT, i * 8, gpa + i * BLOCK, BLOCK);
	}
	rig_publish(rig, 0);
}

static void finish_writes(struct rig *rig)
{
	for (unsigned i = 0; i < WRITES; i++)
		cr_assert_eq(rig_wait(rig, 0).status, VIRTIO_BLK_S_OK);
}

/* How many blocks of the image hold what was written with this seed. */
static unsigned blocks_with(struct rig *rig, uint64_t seed)
{
	uint8_t buf[BLOCK];
	unsigned n = 0;

	for (unsigned i = 0; i < WRITES; i++) {
		rig_read_image(rig, i * BLOCK, buf, BLOCK);
		n += rig_check(buf, i * BLOCK, BLOCK, seed);
	}
	return n;
}

static void stop_server(struct rig *rig)
{
	siginfo_t info;

	cr_assert_eq(kill(rig->pid, SIGSTOP), 0);
	cr_assert_eq(waitid(P_PID, (id_t)rig->pid, &info, WSTOPPED | WNOWAIT), 0);
}

/* Stopped with writes in its ring and in the kernel, for however long; then as the supervisor does it: killed and
 * reaped before there is a successor. */
static void stop_and_replace(struct rig *rig, uint64_t gpa, uint64_t seed, bool early)
{
	int old;

	if (early)
		stop_server(rig);
	stage_writes(rig, gpa, seed);
	if (!early)
		stop_server(rig);
	old = fcntl(rig->pidfd, F_DUPFD_CLOEXEC, 3);
	cr_assert_geq(old, 0);
	rig_kill(rig);
	rig_respawn(rig);
	finish_writes(rig);
	stage_writes(rig, gpa, seed + 1);
	finish_writes(rig);
	/* Nothing is left to be continued. */
	cr_expect_eq(syscall(SYS_pidfd_send_signal, old, SIGCONT, NULL, 0), -1);
	cr_expect_eq(errno, ESRCH);
	close(old);
	cr_expect_eq(blocks_with(rig, seed + 1), WRITES);
}

static void f53(uint64_t features)
{
	struct rig_options options = { .ring_features = features };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, WRITES * BLOCK, BLOCK);
	for (unsigned i = 0; i < 10; i++)
		stop_and_replace(&rig, gpa, 100 + 2 * i, i % 2);
	rig_stop(&rig);
}

Test(blk_replaced, f53_stopped_replaced_and_continued_split)
{
	f53(RING_F_EVENT_IDX);
}

Test(blk_replaced, f53_stopped_replaced_and_continued_packed)
{
	f53(RING_F_PACKED | RING_F_INDIRECT);
}

/* What the fence is for, and that the check above would see it: a stopped server that nobody ended goes on where it was,
 * and what it writes lands over what its successor wrote. */
Test(blk_replaced, f53_without_the_fence_old_writes_land)
{
	struct rig_options options = { .ring_features = RING_F_EVENT_IDX };
	struct vhost_fe *fe;
	struct rig rig;
	int pid, pidfd;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, WRITES * BLOCK, BLOCK);
	stop_server(&rig);
	stage_writes(&rig, gpa, 1);
	pid = rig.pid;
	pidfd = rig.pidfd;
	/* Its connection stays: with the end of it before its eyes it might stop its rings before it looks at them. */
	fe = rig.fe;
	rig.fe = NULL;
	rig_respawn(&rig);
	finish_writes(&rig);
	cr_assert_eq(blocks_with(&rig, 1), WRITES);
	for (unsigned i = 0; i < WRITES; i++)
		rig_fill(rig_ptr(&rig, gpa + i * BLOCK), i * BLOCK, BLOCK, 2);
	cr_assert_eq(kill(pid, SIGCONT), 0);
	rig_until(&rig, blocks_with(&rig, 2) == WRITES);
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	close(pidfd);
	vhost_fe_free(fe);
	rig_stop(&rig);
}
