/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NBD server that breaks the protocol, refuses or falls silent: requests fail, or take longer, and never come with
 * other data than was written; blk-server does not die of it, and nbd-dial makes no more connections than it should.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "dial.h"
#include "nbd.h"
#include "nbd_fake.h"
#include "note.h"
#include "num.h"
#include "rig.h"
#include "supervise.h"

TestSuite(blk_nbd_hostile, .timeout = 300);

#define BLOCK   4096
#define SHORTLY (300 * NS_PER_MS) /* in which an answer that will not come would have come */

/* For requests that are to fail without a connection; a busy machine may take its time to make one. */
static const char *const hasty[] = { "--reconnect", "1", NULL };

static struct {
	struct rig rig;
	struct nbd nbd;
	struct fake *fake;
	uint64_t gpa;
	unsigned at; /* the next block; each is used once */
} t;

static void set_up_as(const char *const *words, bool multi)
{
	struct rig_options options = { .queues = 1, .args = words };

	t.fake = fake_new();
	atomic_store(&t.fake->multi, multi);
	nbd_start_fake(&t.nbd, &options, t.fake);
	rig_start(&t.rig, &options);
	t.gpa = rig_alloc(&t.rig, BLOCK, BLOCK);
}

static void set_up_with(const char *const *words)
{
	set_up_as(words, false);
}

static void set_up(void)
{
	set_up_with(NULL);
}

static void tear_down(void)
{
	rig_stop(&t.rig);
	nbd_stop(&t.nbd);
	fake_free(t.fake);
}

/* ---- one request ---- */

static uint8_t *on_disk(void)
{
	return t.fake->image + (uint64_t)t.at * BLOCK;
}

/* Asks for the next block, which the server has filled, or for something to be written there. */
static void ask(uint32_t type)
{
	t.at++;
	if (type == VIRTIO_BLK_T_IN)
		rig_fill(on_disk(), (uint64_t)t.at * BLOCK, BLOCK, t.at);
	if (type == VIRTIO_BLK_T_OUT)
		rig_fill(rig_ptr(&t.rig, t.gpa), (uint64_t)t.at * BLOCK, BLOCK, t.at);
	else
		memset(rig_ptr(&t.rig, t.gpa), 0xee, BLOCK);
	rig_add(&t.rig, 0, type, (uint64_t)t.at * (BLOCK / 512), t.gpa, BLOCK);
}

/* Its answer, which is the truth if it is a good one. */
static uint8_t answer(void)
{
	uint8_t status = rig_wait(&t.rig, 0).status;

	if (status == VIRTIO_BLK_S_OK) {
		cr_assert(rig_check(rig_ptr(&t.rig, t.gpa), (uint64_t)t.at * BLOCK, BLOCK, t.at),
			  "wrong data");
		cr_assert(rig_check(on_disk(), (uint64_t)t.at * BLOCK, BLOCK, t.at), "not written");
	}
	return status;
}

static void works(void)
{
	fake_be(t.fake, FAKE_NOTHING, 0);
	ask(VIRTIO_BLK_T_OUT);
	cr_assert_eq(answer(), VIRTIO_BLK_S_OK);
	ask(VIRTIO_BLK_T_IN);
	cr_assert_eq(answer(), VIRTIO_BLK_S_OK);
}

/* Until there is a connection again all fail at once. */
static void comes_back(void)
{
	uint64_t until = clock_ns(), end = until + RIG_DEADLINE_S * NS_PER_S;

	fake_be(t.fake, FAKE_NOTHING, 0);
	for (ask(VIRTIO_BLK_T_IN); answer() != VIRTIO_BLK_S_OK; ask(VIRTIO_BLK_T_IN)) {
		until = clock_ns() + SHORTLY;
		rig_until(&t.rig, clock_ns() >= until);
		cr_assert_lt(until, end);
	}
	works();
}

static void misbehaves(enum fake_how how, unsigned times, uint32_t type)
{
	works();
	fake_be(t.fake, how, times);
	ask(type);
}

/* ---- its misdeeds ---- */

/* Those that are tried one as the other: each to requests of all kinds, to reads or to connections. */
enum victim { ANY_REQUEST = 1, A_READ, A_CONNECTION };

static const struct {
	const char *name;
	enum victim to;
} misdeeds[FAKE_HOWS] = {
	[FAKE_WRONG_COOKIE] = { "another's cookie", ANY_REQUEST },
	[FAKE_BAD_MAGIC] = { "no magic number", ANY_REQUEST },
	[FAKE_TWICE] = { "an answer twice", ANY_REQUEST },
	[FAKE_UNASKED] = { "an answer that nobody waits for", ANY_REQUEST },
	[FAKE_CLOSE] = { "the end amid an answer", ANY_REQUEST },
	[FAKE_SIMPLE] = { "an answer of a kind that was ruled out", A_READ },
	[FAKE_LONG] = { "more data", A_READ },
	[FAKE_HUGE] = { "a chunk of 4 GiB", A_READ },
	[FAKE_BEHIND] = { "data of elsewhere", A_READ },
	[FAKE_STRANGE_CHUNK] = { "a chunk of no kind", A_READ },
	[FAKE_SHORT_ERROR] = { "an error that is too short", A_READ },
	[FAKE_HANG_UP] = { "the end at once", A_CONNECTION },
	[FAKE_GARBAGE] = { "no hello of NBD", A_CONNECTION },
	[FAKE_HALF_HELLO] = { "half a hello", A_CONNECTION },
	[FAKE_NO_EXPORT] = { "no such export", A_CONNECTION },
	[FAKE_LONG_OPTION] = { "an option's answer of 4 GiB", A_CONNECTION },
	[FAKE_INFOS] = { "an option's answers without end", A_CONNECTION },
	[FAKE_SMALLER] = { "an export that has shrunk", A_CONNECTION },
	[FAKE_READ_ONLY] = { "an export that is read-only", A_CONNECTION },
};

static void try_all(enum victim to, void (*attempt)(enum fake_how how))
{
	for (unsigned how = 0; how < FAKE_HOWS; how++)
		if (misdeeds[how].to == to)
			attempt(how);
}

/* ---- what it answers ---- */

/* The request is sent again over another connection, or fails. */
static void breaks(enum fake_how how, uint32_t type)
{
	unsigned before;
	uint8_t status;

	misbehaves(how, 1, type);
	before = atomic_load(&t.fake->connections);
	status = answer();
	cr_assert_eq(atomic_load(&t.fake->done), 1, "%s", misdeeds[how].name);
	works();
	note("%s, to a %s: status %u, %u new connections", misdeeds[how].name,
	     type == VIRTIO_BLK_T_IN ? "read" : "write", status, atomic_load(&t.fake->connections) - before);
}

static void breaks_reads(enum fake_how how)
{
	breaks(how, VIRTIO_BLK_T_IN);
}

static void breaks_writes(enum fake_how how)
{
	breaks(how, VIRTIO_BLK_T_OUT);
}

Test(blk_nbd_hostile, answers_that_break_the_protocol)
{
	set_up();
	try_all(ANY_REQUEST, breaks_reads);
	try_all(ANY_REQUEST, breaks_writes);
	try_all(A_READ, breaks_reads);
	tear_down();
}

/* Not for ever. */
Test(blk_nbd_hostile, always_the_same)
{
	set_up();
	misbehaves(FAKE_WRONG_COOKIE, UINT32_MAX, VIRTIO_BLK_T_IN);
	cr_assert_eq(answer(), VIRTIO_BLK_S_IOERR);
	comes_back();
	tear_down();
}

Test(blk_nbd_hostile, errors)
{
	static const enum fake_how all[] = { FAKE_ERROR, FAKE_STRANGE_ERROR, FAKE_NO_DATA };

	set_up();
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		misbehaves(all[i], 1, VIRTIO_BLK_T_IN);
		cr_assert_eq(answer(), VIRTIO_BLK_S_IOERR, "%zu", i);
	}
	misbehaves(FAKE_ERROR, 1, VIRTIO_BLK_T_OUT);
	cr_assert_eq(answer(), VIRTIO_BLK_S_IOERR);
	works();
	tear_down();
}

/* ---- what it does not answer ---- */

static bool is_answered(void)
{
	struct rig_done done;

	return rig_get(&t.rig, 0, &done);
}

static void stalls(enum fake_how how, uint32_t type)
{
	uint64_t until;

	misbehaves(how, 1, type);
	rig_until(&t.rig, atomic_load(&t.fake->done));
	until = clock_ns() + SHORTLY;
	rig_until(&t.rig, clock_ns() >= until || is_answered());
	cr_assert_geq(clock_ns(), until, "it is answered");
	nbd_kill(&t.nbd);
	nbd_up(&t.nbd);
	cr_assert_eq(answer(), VIRTIO_BLK_S_OK);
}

Test(blk_nbd_hostile, silence_amid_an_answer)
{
	set_up();
	stalls(FAKE_SILENT, VIRTIO_BLK_T_IN);
	stalls(FAKE_SILENT, VIRTIO_BLK_T_OUT);
	stalls(FAKE_ENDLESS, VIRTIO_BLK_T_IN);
	tear_down();
}

/* What a dead process sent is waited for, and only as long as the connection is there. */
Test(blk_nbd_hostile, silence_towards_a_successor)
{
	set_up();
	for (unsigned i = 0; i < 2; i++) {
		misbehaves(FAKE_SILENT, 1, i ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
		rig_until(&t.rig, atomic_load(&t.fake->done));
		rig_kill(&t.rig);
		rig_respawn(&t.rig);
		nbd_kill(&t.nbd);
		nbd_up(&t.nbd);
		cr_assert_eq(answer(), VIRTIO_BLK_S_OK);
	}
	tear_down();
}

/* ---- connections ---- */

static unsigned descriptors(pid_t pid)
{
	char path[64];
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	cr_assert(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* The server comes back as another: requests fail after --reconnect seconds, and go on when it is itself again. */
static void refuses(enum fake_how how)
{
	unsigned before, fds = descriptors(t.nbd.dial), made;
	uint64_t since = clock_ns();

	works();
	nbd_kill(&t.nbd);
	fake_be(t.fake, how, UINT32_MAX);
	nbd_up(&t.nbd);
	before = atomic_load(&t.fake->connections);
	ask(VIRTIO_BLK_T_IN);
	cr_assert_eq(answer(), VIRTIO_BLK_S_IOERR, "%s", misdeeds[how].name);
	made = atomic_load(&t.fake->connections) - before;
	note("%s: fails after %llu ms, %u connections", misdeeds[how].name,
	     (unsigned long long)((clock_ns() - since) / NS_PER_MS), made);
	/* After 20 ms at first, and twice as long each time. */
	cr_assert_leq(made, 10, "%s", misdeeds[how].name);
	cr_assert_leq(descriptors(t.nbd.dial), fds + 1, "%s", misdeeds[how].name);
	nbd_kill(&t.nbd);
	nbd_up(&t.nbd);
	comes_back();
}

Test(blk_nbd_hostile, another_server_than_before)
{
	set_up_with(hasty);
	try_all(A_CONNECTION, refuses);
	tear_down();
}

/* A busy machine may take its time. */
static void ask_size(struct supervisor *s)
{
	unsigned tries = 5;

	while (supervisor_set(s, "size", "image", NULL))
		cr_assert(--tries);
}

static void on_pong(void *arg, int err, const struct bus_msg *reply)
{
	(void)reply;
	cr_assert_eq(err, 0);
	*(bool *)arg = true;
}

/* How large the export is now is asked for over a connection of its own, and over those in use only where that says
 * nothing; and not waited for much longer than that takes, with other questions answered meanwhile. */
Test(blk_nbd_hostile, a_size_that_is_not_told)
{
	static const char *words[] = { "--id", "disk0", "--bus", NULL, NULL };
	struct bus_msg set = { .type = BUS_SET, .set = { .key = "size", .value = "image" } };
	const struct bus_msg ping = { .type = BUS_PING };
	bool pong = false;
	ino_t used;
	struct supervisor s;
	const char *why;

	supervisor_open(&s);
	words[3] = s.dir;
	set_up_with(words);
	supervisor_expect(&s, &t.rig);
	works();
	used = nbd_kept(&t.nbd, 0);
	ask_size(&s);
	cr_assert_eq(supervisor_set(&s, "size", "17M", &why), -EINVAL);
	cr_expect(strstr(why, "must enlarge it first"), "%s", why);
	cr_assert_eq(nbd_kept(&t.nbd, 0), used);
	cr_assert_eq(nbd_kept(&t.nbd, DIAL_ASIDE), 0);
	fake_be(t.fake, FAKE_HALF_HELLO, UINT32_MAX);
	supervisor_ask(&s, &set);
	cr_assert_eq(bus_request(s.bus, &ping, RIG_DEADLINE_S * NS_PER_S, on_pong, &pong), 0);
	supervisor_until(&s, pong);
	cr_assert_not(s.answered);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, -ETIMEDOUT);
	nbd_kill(&t.nbd);
	nbd_up(&t.nbd);
	comes_back();
	ask_size(&s);
	works();
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	tear_down();
	supervisor_close(&s);
}

/* ---- connections that this test makes, in the place of nbd-dial ---- */

static struct supervisor s;

static void set_up_dialler(bool multi)
{
	static const char *words[] = { "--id", "disk0", "--bus", NULL, NULL };

	supervisor_open(&s);
	words[3] = s.dir;
	set_up_as(words, multi);
	supervisor_expect(&s, &t.rig);
	works();
	nbd_dial_kill(&t.nbd);
}

static void tear_down_dialler(void)
{
	nbd_dial_start(&t.nbd);
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	tear_down();
	supervisor_close(&s);
}

static void ask_size_then_hear(struct dial_question *q)
{
	struct bus_msg set = { .type = BUS_SET, .set = { .key = "size", .value = "image" } };

	supervisor_ask(&s, &set);
	supervisor_until(&s, nbd_dial_hear(&t.nbd, q));
	cr_assert_eq(q->what, DIAL_NEW);
	cr_assert_eq(q->slot, DIAL_ASIDE);
}

/* With all of the server's answers in it. */
static int connection_ahead(void)
{
	unsigned before = atomic_load(&t.fake->ahead);
	int fd;

	fake_be(t.fake, FAKE_AHEAD, UINT32_MAX);
	fd = nbd_connect(&t.nbd);
	rig_until(&t.rig, atomic_load(&t.fake->ahead) != before);
	return fd;
}

/* Libnbd is done with it as soon as it has it, and nothing comes over it any more. */
Test(blk_nbd_hostile, a_server_that_answers_before_it_is_asked)
{
	struct dial_question q;
	unsigned tries = 5;

	set_up_dialler(true);
	do {
		cr_assert(tries--);
		ask_size_then_hear(&q);
		nbd_dial_say(&t.nbd, &q, connection_ahead());
		supervisor_until(&s, s.answered);
	} while (s.err); /* a busy machine may take its time */
	nbd_kill(&t.nbd);
	nbd_up(&t.nbd);
	rig_until(&t.rig, nbd_dial_hear(&t.nbd, &q));
	cr_assert_eq(q.slot, 0);
	nbd_dial_say(&t.nbd, &q, connection_ahead());
	works();
	tear_down_dialler();
}

/* A server that takes one connection at a time would wait for what comes over it. */
Test(blk_nbd_hostile, a_connection_that_comes_too_late_is_closed)
{
	struct dial_question q;
	int pair[2];
	char byte;

	set_up_dialler(true);
	ask_size_then_hear(&q);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, -ETIMEDOUT);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	nbd_dial_say(&t.nbd, &q, pair[0]);
	supervisor_until(&s, recv(pair[1], &byte, 1, MSG_DONTWAIT) == 0);
	close(pair[1]);
	tear_down_dialler();
}

/* EAGAIN is what nbd-dial is told then, and no answer that has yet to come. */
Test(blk_nbd_hostile, a_server_whose_queue_of_connections_is_full)
{
	struct dial_question q;
	uint64_t since;

	set_up_dialler(false);
	ask_size_then_hear(&q);
	nbd_dial_say(&t.nbd, &q, -EAGAIN);
	supervisor_until(&s, nbd_dial_hear(&t.nbd, &q));
	cr_assert_eq(q.slot, 0, "the connection in use is to be made anew");
	since = clock_ns();
	nbd_dial_say(&t.nbd, &q, -EAGAIN);
	supervisor_until(&s, nbd_dial_hear(&t.nbd, &q));
	note("asks again after %llu ms", (unsigned long long)((clock_ns() - since) / NS_PER_MS));
	cr_assert_lt(clock_ns() - since, 5 * NS_PER_S);
	nbd_dial_say(&t.nbd, &q, nbd_connect(&t.nbd));
	supervisor_until(&s, s.answered);
	works();
	tear_down_dialler();
}
