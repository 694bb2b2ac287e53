/* SPDX-License-Identifier: Apache-2.0 */
/* lib/flight: regions that survive their writer, and readers that survive their contents. */
#include "flight.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"

#define LINE_MAX_BYTES 160

static void clean_flight(struct flight **f)
{
	flight_free(*f);
}
#define CLEAN_FLIGHT __attribute__((cleanup(clean_flight)))

/* The dump as text, checked to be printable lines of bounded length; the caller's. */
static char *dump(const struct flight *f)
{
	char *text = NULL;
	size_t size = 0, column = 0;
	FILE *to = open_memstream(&text, &size);

	cr_assert_eq(flight_dump(f, to), 0);
	fclose(to);
	for (size_t i = 0; i < size; i++) {
		cr_assert(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'), "byte %d at %zu", text[i],
			  i);
		column = text[i] == '\n' ? 0 : column + 1;
		cr_assert_lt(column, (size_t)LINE_MAX_BYTES);
	}
	cr_assert_eq(strlen(text), size);
	return text;
}

static int create(unsigned queues)
{
	int fd = flight_create(queues);

	cr_assert_geq(fd, 0);
	return fd;
}

static struct flight *map(int fd, bool writable)
{
	struct flight *f = NULL;

	cr_assert_eq(flight_map(fd, writable, &f), 0);
	return f;
}

Test(flight, records_and_words_survive_sigkill)
{
	CLEAN_FD int fd = create(2);
	CLEAN_FLIGHT struct flight *f = map(fd, false);
	CLEAN_FREE char *text = NULL;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		static struct flight *mine; /* for valgrind, which looks for leaks at this end, too */
		struct flight_ring main_ring, ring;

		mine = map(fd, true);
		flight_begin(mine);
		flight_open_main(mine, &main_ring);
		flight_open_queue(mine, 1, &ring);
		flight_say(&main_ring, FLIGHT_STATE, 0, "serving");
		flight_request(&ring, 1, 4096, 17, 65536);
		flight_set(&ring.queue->held, 3);
		raise(SIGKILL);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	cr_assert_eq(flight_get(&flight_queue(f, 1)->held), 3);
	cr_assert_eq(flight_get(&flight_queue(f, 0)->held), 0);
	cr_assert_null(flight_queue(f, 2));
	text = dump(f);
	cr_assert(strstr(text, "main      state     serving\n"), "%s", text);
	cr_assert(strstr(text, "queue 1   request   write sector 4096 bytes 65536 descriptor 17\n"), "%s",
		  text);
}

Test(flight, a_ring_keeps_the_last_records_in_order)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FREE char *text = NULL;
	struct flight_ring ring;
	char *at;

	cr_assert_eq(flight_alloc(1, &f), 0);
	flight_open_queue(f, 0, &ring);
	for (uint32_t i = 0; i < FLIGHT_RECORDS + 44; i++)
		flight_note(&ring, FLIGHT_DONE, i, 0, 0);
	text = dump(f);
	cr_assert_null(strstr(text, "descriptor 43 "));
	at = text;
	for (unsigned i = 44; i < FLIGHT_RECORDS + 44; i++) {
		char want[32];

		snprintf(want, sizeof(want), "descriptor %u ", i);
		at = strstr(at, want);
		cr_assert(at, "%s is missing or out of order", want);
	}
	cr_assert_eq(flight_get(&flight_queue(f, 0)->records), FLIGHT_RECORDS + 44);
}

Test(flight, rings_are_merged_by_time)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FREE char *text = NULL;
	struct flight_ring a, b;
	char *first, *second, *third;

	cr_assert_eq(flight_alloc(2, &f), 0);
	flight_open_queue(f, 0, &a);
	flight_open_queue(f, 1, &b);
	b.now = 1000000;
	flight_note(&b, FLIGHT_DONE, 1, 0, 0);
	a.now = 2000000;
	flight_note(&a, FLIGHT_DONE, 2, 0, 0);
	b.now = 3000000;
	flight_note(&b, FLIGHT_DONE, 3, 0, 5);
	text = dump(f);
	first = strstr(text, "-0.002000  queue 1   done      descriptor 1 written 0\n");
	second = strstr(text, "-0.001000  queue 0   done      descriptor 2 ");
	third = strstr(text, "-0.000000  queue 1   done      descriptor 3 written 0 result 5\n");
	cr_assert(first && second > first && third > second, "%s", text);
}

Test(flight, the_clock_is_asked_once_in_a_pass)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	struct flight_ring ring;
	uint64_t now;

	cr_assert_eq(flight_alloc(1, &f), 0);
	flight_open_queue(f, 0, &ring);
	flight_pass(&ring);
	flight_note(&ring, FLIGHT_DONE, 1, 0, 0);
	now = ring.now;
	cr_assert_neq(now, 0);
	while (clock_ns() == now)
		;
	flight_note(&ring, FLIGHT_DONE, 2, 0, 0);
	cr_assert_eq(ring.record[1].time, now);
	flight_pass(&ring);
	flight_note(&ring, FLIGHT_DONE, 3, 0, 0);
	cr_assert_gt(ring.record[2].time, now);
}

Test(flight, hostile_contents_are_only_looked_at)
{
	CLEAN_FD int fd = create(FLIGHT_QUEUES_MAX);
	CLEAN_FLIGHT struct flight *f = map(fd, false);
	size_t size = (size_t)lseek(fd, 0, SEEK_END);
	uint32_t *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	cr_assert_neq(words, MAP_FAILED);
	srand(3);
	for (int round = 0; round < 8; round++) {
		CLEAN_FREE char *text = NULL;
		struct flight_trap trap;

		for (size_t i = 0; i < size / sizeof(*words); i++)
			words[i] = round == 0 ? 0xffffffff : (uint32_t)rand() * 2654435761U;
		/* Kinds that exist too, with whatever is in them; and sometimes a trap. */
		for (size_t i = 0; round > 3 && i < size / sizeof(*words); i++)
			if (i % 8 == 2)
				words[i] = (words[i] & 0xffff0000) | words[i] % (FLIGHT_KIND_COUNT + 1);
		if (round % 2)
			words[6] = 2;
		text = dump(f);
		cr_assert_eq(flight_get_trap(f, &trap), round % 2);
		if (round % 2)
			cr_assert_lt(strlen(trap.thread), (size_t)FLIGHT_THREAD);
		cr_assert_eq(flight_queues(f), FLIGHT_QUEUES_MAX);
	}
	munmap(words, size);
}

Test(flight, the_first_forbidden_call_counts)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FREE char *text = NULL;
	const char *thread = "io0\n\033[2Jxxxxxxxxxxxxxxxxxxxxxxxxx";
	struct flight_trap got;

	cr_assert_eq(flight_alloc(0, &f), 0);
	cr_assert_not(flight_get_trap(f, &got));
	flight_note_trap(f, 41, 0xc000003e, thread);
	flight_note_trap(f, 42, 0xc000003e, thread);
	cr_assert(flight_get_trap(f, &got));
	cr_assert_eq(got.nr, 41);
	cr_assert_eq(got.arch, 0xc000003e);
	cr_assert_str_eq(got.thread, "io0??[2Jxxxxxxx");
	text = dump(f);
	cr_assert(strstr(text, "forbidden system call 41, architecture 0xc000003e, thread io0??[2J"), "%s",
		  text);
}

Test(flight, a_long_word_is_cut_without_a_terminator)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FREE char *text = NULL;
	struct flight_ring ring;

	cr_assert_eq(flight_alloc(0, &f), 0);
	flight_open_main(f, &ring);
	flight_say(&ring, FLIGHT_BUS, 7, "0123456789abcdefgh");
	text = dump(f);
	cr_assert(strstr(text, "bus       0123456789abcdef 7\n"), "%s", text);
}

Test(flight, a_reader_cannot_write)
{
	CLEAN_FD int fd = create(1);
	CLEAN_FD int reader = flight_reader(fd);
	CLEAN_FLIGHT struct flight *f = NULL;

	cr_assert_geq(reader, 0);
	cr_assert_eq(flight_map(reader, true, &f), -EACCES);
	cr_assert_eq(flight_map(reader, false, &f), 0);
	cr_assert_lt(write(reader, "x", 1), 0);
	cr_assert_lt(ftruncate(fd, 0), 0, "the region could shrink");
}

Test(flight, what_is_no_region_is_refused)
{
	CLEAN_FD int unsealed = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CLEAN_FD int odd = fd_sealed_memfd("odd", 12345);
	CLEAN_FD int small = fd_sealed_memfd("small", 8192);
	CLEAN_FD int large = fd_sealed_memfd("large", 8192UL * (FLIGHT_QUEUES_MAX + 3));
	CLEAN_FD int largest = fd_sealed_memfd("largest", 8192UL * (FLIGHT_QUEUES_MAX + 2));
	CLEAN_FLIGHT struct flight *f = NULL;
	int pair[2];

	cr_assert_eq(ftruncate(unsealed, 16384), 0);
	cr_expect_eq(flight_map(unsealed, false, &f), -EPERM);
	cr_expect_eq(flight_map(odd, false, &f), -EINVAL);
	cr_expect_eq(flight_map(small, false, &f), -EINVAL);
	cr_expect_eq(flight_map(large, false, &f), -EINVAL);
	cr_assert_eq(pipe2(pair, O_CLOEXEC), 0);
	cr_expect_lt(flight_map(pair[0], false, &f), 0);
	close(pair[0]);
	close(pair[1]);
	cr_expect_eq(flight_map(-1, false, &f), -EBADF);
	cr_expect_eq(flight_create(FLIGHT_QUEUES_MAX + 1), -EINVAL);
	cr_assert_null(f);
	cr_assert_eq(flight_map(largest, false, &f), 0);
	cr_expect_eq(flight_queues(f), FLIGHT_QUEUES_MAX);
}

Test(flight, a_saved_region_is_loaded_from_the_middle_of_a_file)
{
	CLEAN_FD int file = memfd_create("file", MFD_CLOEXEC);
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FLIGHT struct flight *copy = NULL;
	CLEAN_FREE char *text = NULL;
	CLEAN_FREE char *again = NULL;
	struct flight_ring ring;
	struct flight *none = NULL;
	off_t end;

	cr_assert_eq(flight_alloc(3, &f), 0);
	flight_begin(f);
	flight_open_queue(f, 2, &ring);
	flight_note(&ring, FLIGHT_POISON, 9, 0, 0);
	cr_assert_eq(write(file, "head\n\n", 6), 6);
	cr_assert_eq(flight_save(f, file), 0);
	end = lseek(file, 0, SEEK_END);
	cr_assert_eq(flight_load(file, 6, &copy), 0);
	text = dump(f);
	again = dump(copy);
	cr_assert_str_eq(text, again);
	cr_assert(strstr(again, "queue 2   poison    descriptor 9\n"), "%s", again);
	/* Elsewhere in it, past its end, and cut short, there is none. */
	cr_expect_eq(flight_load(file, 5, &none), -EINVAL);
	cr_expect_eq(flight_load(file, end, &none), -EINVAL);
	cr_expect_eq(flight_load(file, end + 1, &none), -EINVAL);
	cr_assert_eq(ftruncate(file, end - 1), 0);
	cr_expect_eq(flight_load(file, 6, &none), -EINVAL);
	/* Of the right size, but not one that a process has begun. */
	cr_assert_eq(ftruncate(file, 0), 0);
	cr_assert_eq(ftruncate(file, end), 0);
	cr_expect_eq(flight_load(file, 6, &none), -EINVAL);
}

Test(flight, a_reset_region_is_empty)
{
	CLEAN_FLIGHT struct flight *f = NULL;
	CLEAN_FREE char *text = NULL;
	struct flight_trap trap;
	struct flight_ring ring;

	cr_assert_eq(flight_alloc(1, &f), 0);
	flight_open_queue(f, 0, &ring);
	flight_note(&ring, FLIGHT_DONE, 1, 0, 0);
	flight_set(&ring.queue->passes, 5);
	flight_note_trap(f, 1, 0, "");
	flight_reset(f);
	text = dump(f);
	cr_assert_str_eq(text, "0 records; seconds before the newest:\n");
	cr_assert_not(flight_get_trap(f, &trap));
}
