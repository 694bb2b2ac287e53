/* SPDX-License-Identifier: Apache-2.0 */
/* What blk-server leaves behind in the flight recorder when it is killed, and what it does not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "config.h"
#include "flight.h"
#include "inject.h"
#include "rig.h"
#include "smaps.h"

TestSuite(blk_flight, .timeout = 60);

#define SECRET      "the guest's own words"
#define SECRET_STEP 32

static struct flight *start(struct rig *rig, unsigned queues, int *fd)
{
	struct rig_options options = { .queues = queues, .io_threads = queues };
	struct flight *f = NULL;

	*fd = options.flight_fd = flight_create(queues);
	cr_assert_geq(*fd, 0);
	cr_assert_eq(flight_map(*fd, true, &f), 0);
	rig_start(rig, &options);
	return f;
}

static char *text_of(const struct flight *f)
{
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	cr_assert_eq(flight_dump(f, to), 0);
	fclose(to);
	return text;
}

Test(blk_flight, a_killed_server_leaves_its_last_requests)
{
	CLEAN_FREE char *text = NULL;
	struct flight *f;
	struct rig rig;
	uint64_t gpa;
	int fd;

	f = start(&rig, 2, &fd);
	gpa = rig_alloc(&rig, 4096, 4096);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 8 * i, gpa, 4096).status,
			     VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 1, VIRTIO_BLK_T_IN, 4096, gpa, 512).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 1, 77, 0, gpa, 512).status, VIRTIO_BLK_S_UNSUPP);
	rig_until(&rig, flight_get(&flight_queue(f, 0)->done) == 3);
	rig_until(&rig, flight_get(&flight_queue(f, 1)->done) == 2);
	cr_expect_eq(flight_get(&flight_queue(f, 0)->taken), 3);
	cr_expect_eq(flight_get(&flight_queue(f, 0)->held), 0);
	rig_kill(&rig);
	text = text_of(f);
	cr_expect(strstr(text, "queue 0   request   write sector 16 bytes 4096 descriptor "), "%s", text);
	cr_expect(strstr(text, "queue 0   done      descriptor "), "%s", text);
	cr_expect(strstr(text, "queue 1   request   read sector 4096 bytes 512 descriptor "), "%s", text);
	cr_expect(strstr(text, "queue 1   request   type 77 sector 0 bytes 512 descriptor "), "%s", text);
	cr_expect(strstr(text, " written 1 result 2\n"), "%s", text);
	cr_expect(strstr(text, "queue 1   order     start\n"), "%s", text);
	cr_expect(strstr(text, "main      state     ready\n"), "%s", text);
	cr_expect(strstr(text, "main      front end ring start 1\n"), "%s", text);
	rig_respawn(&rig);
	rig_stop(&rig);
	flight_free(f);
	close(fd);
}

/* A kick makes a server pass over the ring even if nothing is in it: how a watcher tells it from one that hangs. */
Test(blk_flight, every_kick_is_seen_to_be_answered)
{
	struct flight *f;
	struct rig rig;
	uint64_t passes;
	int fd;

	f = start(&rig, 1, &fd);
	for (unsigned i = 0; i < 3; i++) {
		passes = flight_get(&flight_queue(f, 0)->passes);
		cr_assert_eq(eventfd_write(rig.queue[0].kick, 1), 0);
		rig_until(&rig, flight_get(&flight_queue(f, 0)->passes) > passes);
	}
	rig_stop(&rig);
	flight_free(f);
	close(fd);
}

/* Neither what the guest writes and reads, nor where in its memory that is. */
Test(blk_flight, nothing_of_the_guest_is_recorded)
{
	struct flight *f;
	struct rig rig;
	uint8_t *buf, *region;
	size_t size;
	uint64_t gpa, user;
	int fd;

	f = start(&rig, 1, &fd);
	gpa = rig_alloc(&rig, 65536, 4096);
	buf = rig_ptr(&rig, gpa);
	for (unsigned i = 0; i < 65536; i += SECRET_STEP)
		memcpy(buf + i, SECRET, sizeof(SECRET));
	for (unsigned i = 0; i < FLIGHT_RECORDS; i++)
		cr_assert_eq(
		    rig_request(&rig, 0, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 0, gpa, 65536).status,
		    VIRTIO_BLK_S_OK);
	rig_kill(&rig);
	size = (size_t)lseek(fd, 0, SEEK_END);
	region = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	cr_assert_neq(region, MAP_FAILED);
	cr_expect_gt(flight_get(&flight_queue(f, 0)->records), 2 * FLIGHT_RECORDS);
	for (unsigned i = 0; i + 8 < sizeof(SECRET); i++)
		cr_expect_null(memmem(region, size, &buf[i], 8), "guest data is in the region");
	user = guest_user(&rig.guest, gpa);
	cr_expect_null(memmem(region, size, &gpa, sizeof(gpa)), "a guest address is in the region");
	cr_expect_null(memmem(region, size, &user, sizeof(user)), "an address is in the region");
	munmap(region, size);
	rig_respawn(&rig);
	rig_stop(&rig);
	flight_free(f);
	close(fd);
}

/* ---- a forbidden call of the real server ---- */

/* The server's end, and what it left of it. */
static void forbid(const char *thread, long nr, bool by_32, uint32_t arch)
{
	struct flight_trap trap = { 0 };
	siginfo_t info = { 0 };
	struct flight *f;
	struct rig rig;
	uint64_t gpa;
	int fd, err;

	f = start(&rig, 1, &fd);
	gpa = rig_alloc(&rig, 4096, 4096);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	err = inject_call(rig.pid, thread, nr, by_32);
	if (err == -EPERM || err == -EACCES) {
		rig_kill(&rig);
		cr_skip_test("this user may not trace the server");
	}
	cr_assert_eq(err, 0, "%s", strerror(-err));
	cr_assert_eq(waitid(P_PIDFD, (id_t)rig.pidfd, &info, WEXITED | WNOWAIT), 0);
	cr_expect(info.si_code != CLD_EXITED && info.si_status == SIGSYS, "code %d, status %d", info.si_code,
		  info.si_status);
	cr_expect(flight_get_trap(f, &trap));
	cr_expect_eq(trap.nr, nr);
	cr_expect_eq(trap.arch, arch);
	cr_expect_str_eq(trap.thread, thread);
	rig_kill(&rig);
	flight_reset(f);
	rig_respawn(&rig);
	cr_expect_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	rig_stop(&rig);
	flight_free(f);
	close(fd);
}

Test(blk_flight, a_forbidden_call_of_an_io_thread)
{
#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	forbid("io0", SYS_socket, false, AUDIT_ARCH_X86_64);
}

Test(blk_flight, a_forbidden_call_of_the_main_thread)
{
#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	forbid("blk-server", SYS_execve, false, AUDIT_ARCH_X86_64);
}

Test(blk_flight, a_forbidden_call_by_the_32_bit_interface)
{
#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	forbid("io0", 102 /* socketcall */, true, AUDIT_ARCH_I386);
}

/* Nor is it in a core dump, if there ever were one: neither RAM nor what passes through bounce buffers. */
Test(blk_flight, guest_memory_is_left_out_of_core_dumps)
{
	struct rig_options options = { .queues = 1 };
	unsigned found = 0, bounce __attribute__((unused)) = 0;
	struct rig rig;
	uint64_t gpa;
	int without;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 8192, 4096);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa + 1, 4096).status, VIRTIO_BLK_S_OK);
	without = smaps_without(rig.pid, "/memfd:guest ", "", "dd", &found);
	if (without == -EACCES || without == -EPERM) {
		rig_stop(&rig);
		cr_skip_test("this user may not see the server's mappings");
	}
	cr_expect_eq(without, 0, "%d mappings of guest memory are dumped", without);
	cr_expect_geq(found, 1U);
#ifndef BH_SANITIZE /* whose shadow memory is like that, too */
	/* Memory made without reserving it (nr) has the bounce buffers. */
	cr_expect_eq(smaps_without(rig.pid, " 00:00 0 ", "nr", "dd", &bounce), 0);
	cr_expect_geq(bounce, 1U);
#endif
	rig_stop(&rig);
}
