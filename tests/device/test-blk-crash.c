/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 52: the server dies at every labelled point, in recovery too, and no request is lost, completed twice, failed
 * or has wrong bytes. The server is built from the same sources with the points of lib/base/crash.h.
 *
 * Each point has a scene of its own: new rings, whose indices wrap soon. The first server dies the first time that it
 * comes to the point, mostly before anything was completed. Others first finish what their predecessor died with, as
 * one request that dies with several servers in hand is a different matter (FAULTS 48), and die the nth time that
 * they come to the point thereafter. In turn with that, and always for a point within recovery, two die in a row: the
 * first while it publishes a batch, which leaves most to be done, the second at the point.
 *
 * BULKHEAD_HITS=N has each point hit N times, BULKHEAD_LONG=1 100 times.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "config.h"
#include "crashes.h"
#include "load.h"
#include "note.h"
#include "num.h"

TestSuite(blk_crash, .timeout = 3600);

#define POINTS_MAX 128
#define MISSES_MAX 50 /* deaths in a row after which a recovery did not come to the point */

static bool is_long(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return all && *all;
}

static unsigned wanted_hits(void)
{
	const char *hits = getenv("BULKHEAD_HITS");

	return hits ? (unsigned)atoi(hits) : is_long() ? 100 : 3;
}

struct table {
	char text[8192];
	const char *label[POINTS_MAX];
	unsigned hits[POINTS_MAX];
	unsigned n, deaths;
};

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static bool has_word(const char *text, const char *word)
{
	return strstr(text, word) != NULL;
}

/* Those where another engine does something else; with BULKHEAD_LONG all. */
static bool is_engines(const char *label)
{
	return is_long() || begins(label, "submit ") || begins(label, "completion ") ||
	       begins(label, "resubmit ");
}

/* The points of one ring format, as the program itself names them; a label may stand in several places. */
static void read_table(struct table *t, bool packed, bool qcow2, const char *engine)
{
	char *rest = t->text, *label;

	rig_crash_list(false, t->text, sizeof(t->text));
	while ((label = strsep(&rest, "\n"))) {
		unsigned i = 0;

		if (!*label || begins(label, packed ? "split " : "packed ") || has_word(label, "unmark") ||
		    begins(label, "move ") || /* test-blk-move's */
		    begins(label, "qcow2 ") != qcow2 || (engine && !is_engines(label)))
			continue;
		while (i < t->n && strcmp(t->label[i], label))
			i++;
		cr_assert_lt(i, POINTS_MAX);
		t->label[i] = label;
		t->n = MAX(t->n, i + 1);
	}
	cr_assert_gt(t->n, qcow2 || engine ? 2U : 30U, "only %u points", t->n);
}

static bool in_recovery(const char *label)
{
	return has_word(label, "recover-") || begins(label, "resubmit");
}

struct scene {
	struct load load;
	struct table *table;
	unsigned point;
	char order[160]; /* of the next server */
};

/* The next server dies at label, the nth time that it comes there; from the first moment, or from when it is told. */
static void arm(struct scene *s, bool later, const char *label, unsigned nth)
{
	snprintf(s->order, sizeof(s->order), "%s=%s:%u%s", later ? "later" : "die", label, nth,
		 begins(label, "failure") ? ";result=flush:-5" : "");
	s->load.rig.options.crash = s->order;
}

/* Has the server go to its death. */
static void await_death(struct scene *s)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	load_until(&s->load, clock_ns() >= end);
	cr_assert(s->load.rig.lost, "%s: never came there", s->order);
}

/* Finishes what the predecessor died with, then has the server go to its death. */
static void live(struct scene *s)
{
	struct load *l = &s->load;

	load_until(l, !l->at_death);
	if (!l->rig.lost)
		rig_go(&l->rig);
	await_death(s);
}

/* With one request at a time, what is lost is not made up for by others. */
static unsigned random_depth(struct scene *s)
{
	return load_random(&s->load, 3) ? 1 + load_random(&s->load, LOAD_DEPTH) : 1;
}

/* Buries a server that died at its point. */
static void bury(struct scene *s)
{
	int status = rig_reap(&s->load.rig);

	cr_assert_eq(status, CRASHES_STATUS, "%s: the server ended with status %d", s->order, status);
	s->table->deaths++;
	load_died(&s->load);
	if (s->load.rig.options.make)
		rig_judge_image(&s->load.rig);
	s->load.depth = random_depth(s);
	if (load_random(&s->load, 2))
		load_step(&s->load); /* the driver goes on meanwhile */
}

/* A death at a point that a server comes to while it serves. */
static void die_serving(struct scene *s, const char *label, unsigned nth)
{
	uint64_t failed = s->load.failed_flushes;

	arm(s, true, label, nth);
	rig_try_respawn(&s->load.rig);
	live(s);
	bury(s);
	if (!begins(label, "failure") || !strcmp(label, "failure before"))
		return;
	/* The failure was written down: the successor tells of it, and does not flush again. */
	failed = s->load.failed_flushes;
	arm(s, true, "fetch before", 1);
	rig_try_respawn(&s->load.rig);
	live(s);
	cr_assert_gt(s->load.failed_flushes, failed, "a flush that failed was replayed into success");
	bury(s);
}

/* Where the predecessor of a server that is to die in recovery dies: nothing is in hand then, so that no request is
 * taken for the one that servers die of. */
static const char *before_recovery(struct scene *s, const char *label)
{
	bool shown = has_word(label, "recover-batch") ||
		     (!has_word(label, "recover-available") && load_random(&s->load, 2));

	return shown ? "used-index after" : "used-index before";
}

/* A death at a point within recovery; false if this recovery had nothing to do there. */
static bool die_recovering(struct scene *s, const char *label, unsigned nth)
{
	s->load.depth = MAX(s->load.depth, 4U);
	die_serving(s, before_recovery(s, label), 1 + load_random(&s->load, 4));
	arm(s, false, label, nth);
	if (rig_try_respawn(&s->load.rig))
		load_until(&s->load, !s->load.at_death);
	if (!s->load.rig.lost) {
		rig_kill(&s->load.rig);
		load_died(&s->load);
		return false;
	}
	bury(s);
	return true;
}

/* A death at a point that a server comes to soon after it has recovered from another. */
static void die_early(struct scene *s, const char *label, unsigned nth)
{
	s->load.depth = 1 + load_random(&s->load, 4);
	die_serving(s, "used-index after", 1);
	s->load.depth = 1 + load_random(&s->load, 4);
	arm(s, false, label, nth);
	rig_try_respawn(&s->load.rig);
	await_death(s);
	bury(s);
}

static void hit(struct scene *s, const char *label)
{
	unsigned misses = 0, *hits = &s->table->hits[s->point];

	if (in_recovery(label)) {
		/* The more there is to be done, the further it may be got before the end. */
		while (!die_recovering(s, label, 1 + load_random(&s->load, misses ? 2 : 8)))
			cr_assert_lt(++misses, MISSES_MAX, "%s was not reached", label);
	} else {
		unsigned most = begins(label, "failure") ? 2 : 40;

		if (*hits % 2)
			die_early(s, label, 1 + load_random(&s->load, 2));
		else
			die_serving(s, label, 1 + load_random(&s->load, most));
	}
	++*hits;
}

/* Clusters as large as blocks, with the content of a file below. */
static const char make_qcow2[] =
    "truncate -s 16M base && qemu-img create -q -f qcow2 -o cluster_size=4096 -b base -F raw image 16M";

static void play(struct table *t, unsigned point, uint64_t features, bool qcow2, const char *engine)
{
	static struct scene s;
	struct rig_options options = { .ring_features = features,
				       .queues = 1 + point % 2,
				       .io_threads = 1 + point % 2,
				       .make = qcow2 ? make_qcow2 : NULL,
				       .backing = qcow2,
				       .engine = engine,
				       .crash = s.order };
	const char *label = t->label[point];
	bool packed = features & RING_F_PACKED, serving = !in_recovery(label);

	s.table = t;
	s.point = point;
	options.start_wrapped = packed && point % 4 > 1;
	options.start_at = (uint16_t)((packed ? RIG_SIZE : 65536) - 1 - 7 * (point % 16));
	arm(&s, false, label, 1);
	load_start(&s.load, &options);
	s.load.flushes_fail = begins(label, "failure");
	if (serving) {
		await_death(&s);
		bury(&s);
		t->hits[point]++;
	} else {
		rig_kill(&s.load.rig);
		load_died(&s.load);
	}
	while (t->hits[point] < wanted_hits())
		hit(&s, label);
	s.load.rig.options.crash = "";
	rig_respawn(&s.load.rig);
	load_stop(&s.load);
}

static void print(const struct table *t, const char *what)
{
	unsigned covered = 0, hits = 0;

	for (unsigned i = 0; i < t->n; i++) {
		note("%-14s  %-36s %5u hits", what, t->label[i], t->hits[i]);
		covered += t->hits[i] >= wanted_hits();
		hits += t->hits[i];
	}
	fprintf(stderr,
		"# %s: %u of %u points covered, %u hits, %u deaths; 0 requests lost, 0 twice, 0 wrong\n",
		what, covered, t->n, hits, t->deaths);
	cr_assert_eq(covered, t->n);
}

static void all_points(const char *what, uint64_t features, bool qcow2, const char *engine)
{
	static struct table t;

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("each of the many servers would wait for the thread sanitizer's start; "
		     "test-blk-kill does");
#endif
	read_table(&t, features & RING_F_PACKED, qcow2, engine);
	for (unsigned i = 0; i < t.n; i++)
		play(&t, i, features | (i % 3 ? RING_F_EVENT_IDX : 0), qcow2, engine);
	print(&t, what);
}

Test(blk_crash, f52_every_point_split_direct)
{
	all_points("split direct", 0, false, NULL);
}

Test(blk_crash, f52_every_point_split_indirect)
{
	all_points("split indirect", RING_F_INDIRECT, false, NULL);
}

Test(blk_crash, f52_every_point_packed_direct)
{
	all_points("packed direct", RING_F_PACKED, false, NULL);
}

Test(blk_crash, f52_every_point_packed_indirect)
{
	all_points("packed indirect", RING_F_PACKED | RING_F_INDIRECT, false, NULL);
}

Test(blk_crash, f52_every_point_io_uring)
{
	all_points("io_uring", RING_F_INDIRECT, false, "io_uring");
}

/* Those of the thread that owns a qcow2 image's tables; the image is judged after each death. */
Test(blk_crash, f52_every_point_qcow2)
{
	if (system("command -v qemu-img >/dev/null"))
		cr_skip_test("qemu-img (qemu-utils) is not installed");
	all_points("qcow2", RING_F_INDIRECT, true, NULL);
}
