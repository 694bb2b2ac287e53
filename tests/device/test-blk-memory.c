/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 54: no memory. An allocation fails, each one in turn (fail-alloc.c says which are spared), over a server's
 * start on rings that were served before, and its service; and the kernel kills a server for want of memory. Whatever
 * becomes of the server, it does not crash, and no request is lost, completed twice or failed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "config.h"
#include "crashes.h"
#include "load.h"
#include "note.h"

TestSuite(blk_memory, .timeout = 3600);

#define EACH_UP_TO 150 /* each of the first so many; of those after it, every one only if all are wanted */

static bool told(int log, char *text, size_t size)
{
	ssize_t n = pread(log, text, size - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return strstr(text, FAIL_ALLOC_TOLD);
}

/* Leaves a few requests in flight, so that each start is one on rings with something to be recovered. */
static void end_server(struct load *l)
{
	l->depth = 0;
	load_until(l, !load_in_flight(l));
	l->depth = 4;
	load_step(l);
	rig_kill(&l->rig);
	load_died(l);
}

Test(blk_memory, fault_54_allocation_failure_at_every_call)
{
	static struct load l;
	char order[64] = "alloc=any:1000000000", text[4096];
	struct rig_options options = { .crash = order, .queues = 2, .io_threads = 2, .may_refuse = true };
	bool all = getenv("BULKHEAD_LONG") && *getenv("BULKHEAD_LONG");
	unsigned n = 0, tried = 0, ended = 0, refused = 0;
	bool failed = true;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer's own allocator is in the way");
#endif
	options.log_fd = memfd_create("log", MFD_CLOEXEC);
	load_start(&l, &options);
	while (failed) {
		uint64_t enough;

		n += all || n < EACH_UP_TO ? 1 : 1 + n / 20;
		tried++;
		if (!l.rig.lost)
			end_server(&l);
		snprintf(order, sizeof(order), "alloc=any:%u", n);
		cr_assert_eq(ftruncate(options.log_fd, 0), 0);
		lseek(options.log_fd, 0, SEEK_SET);
		if (rig_try_respawn(&l.rig)) {
			enough = l.completed + 100;
			load_until(&l, !l.at_death && l.completed >= enough);
		}
		failed = told(options.log_fd, text, sizeof(text));
		if (l.rig.lost) {
			int status = rig_reap(&l.rig);

			/* In order: 0 where it ended with the connection that it gave up. */
			cr_assert_leq(status, 2, "allocation %u: status %d: %s", n, status, text);
			cr_assert(failed, "the server ended without a failure: %s", text);
			load_died(&l);
			ended++;
		} else if (l.rig.refused) {
			/* What the core does with it leads to this. */
			rig_kill(&l.rig);
			load_died(&l);
			l.rig.lost = true;
			refused++;
		}
	}
	cr_expect_gt(tried, 30U, "only %u allocations failed", tried);
	cr_expect_gt(ended, 0U, "no failure was noticed");
	note("a server makes %u allocations; %u failed: %u servers gave up, %u refused the rings, %u went on",
	     n - 1, tried - 1, ended, refused, tried - 1 - ended - refused);
	load_stop(&l);
	close(options.log_fd);
}

/* ---- the kernel's way ---- */

struct group {
	char dir[128];
	const char *limit; /* name of the file */
};

static int put(const char *dir, const char *file, const char *text)
{
	char path[256];
	CLEAN_FD int fd = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

/* A memory group of its own for process pid, of either version; false if this host gives none. */
static bool make_group(struct group *g, pid_t pid)
{
	static const struct {
		const char *top, *limit;
	} kinds[] = { { "/sys/fs/cgroup", "memory.max" },
		      { "/sys/fs/cgroup/memory", "memory.limit_in_bytes" } };
	char number[16];

	snprintf(number, sizeof(number), "%d", (int)pid);
	for (size_t i = 0; i < 2; i++) {
		snprintf(g->dir, sizeof(g->dir), "%s/bulkhead-test-%d", kinds[i].top, (int)getpid());
		g->limit = kinds[i].limit;
		if (mkdir(g->dir, 0755))
			continue;
		if (!put(g->dir, g->limit, "64M") && !put(g->dir, "cgroup.procs", number))
			return true;
		rmdir(g->dir);
	}
	return false;
}

Test(blk_memory, fault_54_killed_for_want_of_memory, .timeout = 120)
{
	struct rig_options options = { .queues = 1 };
	int slots[16], status;
	struct group g;
	struct rig rig;
	uint64_t gpa, end;

	rig_start(&rig, &options);
	if (!make_group(&g, rig.pid)) {
		rig_stop(&rig);
		cr_skip_test("this host gives no memory cgroup");
	}
	/* What the server has already counts elsewhere or can't be given back; what it will need for misaligned
	 * buffers is too much. */
	put(g.dir, "memory.swap.max", "0");
	put(g.dir, g.limit, "131072");
	gpa = rig_alloc(&rig, 16 * 65536 + 4096, 4096);
	memset(rig_ptr(&rig, gpa), 0x5a, 16 * 65536 + 1);
	for (unsigned i = 0; i < 16; i++)
		slots[i] = rig_add(&rig, 0, VIRTIO_BLK_T_OUT, i * 128, gpa + i * 65536 + 1, 65536);
	end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	while (!rig.lost && clock_ns() < end)
		cr_assert_eq(loop_run_once(rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	cr_assert(rig.lost, "the server lives on");
	status = rig_reap(&rig);
	cr_expect_eq(status, 128 + SIGKILL, "the server ended with status %d", status);
	rmdir(g.dir);
	rig_respawn(&rig);
	for (unsigned i = 0; i < 16; i++) {
		struct rig_done done = rig_wait(&rig, 0);

		cr_expect_eq(done.status, VIRTIO_BLK_S_OK);
		for (unsigned k = 0; k < 16; k++)
			if (slots[k] == done.slot)
				slots[k] = -1;
	}
	for (unsigned k = 0; k < 16; k++)
		cr_expect_eq(slots[k], -1, "request %u was not completed", k);
	rig_stop(&rig);
}
