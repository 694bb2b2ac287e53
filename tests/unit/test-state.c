/* SPDX-License-Identifier: Apache-2.0 */
/* lib/state: what a successor finds, wherever the process before it died and whatever it had written. */
#include "state.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "crash.h"
#include "fd.h"

/* ---- the crash points of state.c, which is compiled into this test ---- */

static const char *die_at;
static int steps; /* points passed */

void crash_here(const struct crash_point *point)
{
	steps++;
	if (die_at && !strcmp(point->label, die_at))
		_exit(0);
}

static struct state *map(int fd)
{
	struct state *s;

	cr_assert_eq(state_map(fd, &s), 0);
	return s;
}

static int make(void)
{
	int fd = state_create();

	cr_assert_geq(fd, 0);
	return fd;
}

/* A record of one byte over and over, whose length tells which. */
static void save(struct state *s, uint8_t what, size_t len)
{
	uint8_t data[STATE_RECORD_MAX];

	memset(data, what, len);
	cr_assert_eq(state_save(s, STATE_DEVICE, data, len), 0);
}

/* True if the record is the whole one of that byte. */
static bool holds(struct state *s, uint8_t what, size_t len)
{
	uint8_t data[STATE_RECORD_MAX] = { 0 };

	if (state_load(s, STATE_DEVICE, data, sizeof(data)) != (ssize_t)len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (data[i] != what)
			return false;
	return true;
}

Test(state, empty_at_first)
{
	CLEAN_FD int fd = make();
	struct state *s = map(fd);
	char buf[8];

	cr_assert_eq(state_load(s, STATE_DEVICE, buf, sizeof(buf)), -ENOENT);
	for (unsigned i = 0; i < STATE_WORDS; i++)
		cr_assert_eq(atomic_load(&state_words(s)[i]), 0);
	state_free(s);
	state_free(NULL);
}

Test(state, a_successor_finds_what_was_saved_last)
{
	CLEAN_FD int fd = make();
	struct state *s = map(fd);

	for (unsigned i = 1; i < 9; i++) {
		save(s, (uint8_t)i, i * 400);
		atomic_store(&state_words(s)[STATE_WORDS - 1], i);
		state_free(s);
		s = map(fd);
		cr_assert(holds(s, (uint8_t)i, i * 400));
		cr_assert_eq(atomic_load(&state_words(s)[STATE_WORDS - 1]), i);
	}
	save(s, 0, 0);
	cr_assert(holds(s, 0, 0), "an empty one is one too");
	state_free(s);
}

Test(state, the_largest_record_and_a_larger_one)
{
	CLEAN_FD int fd = make();
	struct state *s = map(fd);
	uint8_t data[STATE_RECORD_MAX + 1] = { 1 };

	save(s, 7, STATE_RECORD_MAX);
	save(s, 8, STATE_RECORD_MAX);
	cr_assert_eq(state_save(s, STATE_DEVICE, data, sizeof(data)), -E2BIG);
	cr_assert(holds(s, 8, STATE_RECORD_MAX));
	cr_assert_eq(atomic_load(&state_words(s)[0]), 0, "the words are not part of it");
	state_free(s);
}

Test(state, a_reader_with_less_room_gets_what_fits)
{
	struct state *s;
	char buf[4] = "";

	cr_assert_eq(state_alloc(&s), 0);
	cr_assert_eq(state_save(s, STATE_DEVICE, "abcdef", 6), 0);
	cr_assert_eq(state_load(s, STATE_DEVICE, buf, 3), 6);
	cr_assert_str_eq(buf, "abc");
	state_free(s);
}

/* FAULTS 52 */
Test(state, a_death_at_any_point_leaves_the_old_or_the_new)
{
	static const char *const points[] = { "state before", "state length", "state written",
					      "state after" };

	for (unsigned round = 0; round < 4 * 3; round++) {
		CLEAN_FD int fd = make();
		struct state *s = map(fd);
		unsigned before = round / 4;
		pid_t pid;
		int status;

		for (unsigned i = 0; i < before; i++)
			save(s, 1, 3000);
		pid = fork();
		cr_assert_geq(pid, 0);
		if (!pid) {
			die_at = points[round % 4];
			save(s, 2, 1000);
			_exit(1);
		}
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0, "it died at %s", points[round % 4]);
		state_free(s);
		s = map(fd);
		if (round % 4 == 3)
			cr_assert(holds(s, 2, 1000));
		else if (before)
			cr_assert(holds(s, 1, 3000), "%s", points[round % 4]);
		else
			cr_assert_eq(state_load(s, STATE_DEVICE, &status, sizeof(status)), -ENOENT);
		/* And the successor can go on. */
		save(s, 3, 2000);
		cr_assert(holds(s, 3, 2000));
		state_free(s);
	}
	cr_assert_gt(steps, 0);
}

/* Killed from outside, anywhere, a thousand times: the whole of one of the records. */
Test(state, fault_50_kills_while_it_saves, .timeout = 120)
{
	CLEAN_FD int fd = make();
	unsigned changes = 0, last = 0;

	for (unsigned i = 0; i < 1000; i++) {
		uint8_t data[STATE_RECORD_MAX];
		struct state *s = map(fd);
		ssize_t len;
		pid_t pid = fork();

		cr_assert_geq(pid, 0);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is ended leaves none behind */
			for (uint8_t what = (uint8_t)(i * 7);; what++) {
				save(s, what, 1 + what * 13U);
				atomic_store(&state_words(s)[0], i + 1);
			}
		}
		while (atomic_load(&state_words(s)[0]) != i + 1)
			sched_yield();
		for (volatile unsigned spin = i * 37 % 20000; spin; spin--)
			;
		kill(pid, SIGKILL);
		cr_assert_eq(waitpid(pid, NULL, 0), pid);
		len = state_load(s, STATE_DEVICE, data, sizeof(data));
		cr_assert_gt(len, 0);
		cr_assert_eq(len, 1 + data[0] * 13U);
		for (ssize_t k = 1; k < len; k++)
			cr_assert_eq(data[k], data[0], "a mixture");
		changes += data[0] != last;
		last = data[0];
		state_free(s);
	}
	cr_assert_gt(changes, 500, "the children did save");
}

Test(state, contents_that_anybody_wrote)
{
	CLEAN_FD int fd = make();
	uint8_t data[STATE_RECORD_MAX], bytes[STATE_BYTES];
	struct state *s = map(fd);
	unsigned refused = 0;

	srand(11);
	for (unsigned i = 0; i < 20000; i++) {
		ssize_t len;

		for (unsigned k = 0; k < STATE_BYTES; k++)
			bytes[k] = (uint8_t)rand();
		memset(bytes, 0, 4);
		bytes[0] = (uint8_t)(i % 5); /* what decides where the record is */
		if (i % 3 == 0)
			memset(bytes, rand(), 8);
		cr_assert_eq(fd_pwrite_full(fd, bytes, STATE_BYTES, 0), 0);
		len = state_load(s, STATE_DEVICE, data, sizeof(data));
		cr_assert(len == -ENOENT || len == -EPROTO || (len >= 0 && len <= STATE_RECORD_MAX));
		refused += len == -EPROTO;
		save(s, 5, 100);
		cr_assert(holds(s, 5, 100), "and it can be written over");
	}
	cr_assert_gt(refused, 1000);
	state_free(s);
}

Test(state, descriptors_that_are_no_state)
{
	CLEAN_FD int small = fd_sealed_memfd("small", STATE_BYTES - 4096);
	CLEAN_FD int large = fd_sealed_memfd("large", STATE_BYTES + 4096);
	CLEAN_FD int loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CLEAN_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct state *s = NULL;

	cr_assert_eq(ftruncate(loose, STATE_BYTES), 0);
	cr_assert_eq(state_map(small, &s), -EINVAL);
	cr_assert_eq(state_map(large, &s), -EINVAL);
	cr_assert_eq(state_map(loose, &s), -EPERM);
	cr_assert_lt(state_map(null, &s), 0);
	cr_assert_lt(state_map(-1, &s), 0);
	cr_assert_null(s);
}

/* ---- threads ---- */

static void *saver(void *arg)
{
	for (unsigned i = 0; i < 3000; i++)
		save(arg, (uint8_t)i, 1 + (i & 0xff) * 13U);
	return NULL;
}

Test(state, threads_save_one_after_the_other)
{
	pthread_t threads[3];
	struct state *s;
	uint8_t data[STATE_RECORD_MAX];

	cr_assert_eq(state_alloc(&s), 0);
	save(s, 0, 1);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, saver, s), 0);
	for (unsigned i = 0; i < 3000; i++) {
		ssize_t len = state_load(s, STATE_DEVICE, data, sizeof(data));

		cr_assert_eq(len, 1 + data[0] * 13U);
		cr_assert_eq(data[len - 1], data[0]);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	state_free(s);
}
