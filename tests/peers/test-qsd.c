/* SPDX-License-Identifier: Apache-2.0 */
/* Our front end against qemu-storage-daemon's vhost-user-blk export: data verified, its death survived. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "frontend.h"
#include "temp_dir.h"
#include "vhost_msg.h"

#define IMAGE_BYTES (16u << 20)
#define SECTORS     (IMAGE_BYTES / 512)
#define PROGRAM     "qemu-storage-daemon"

struct qsd {
	char dir[64], image[96], socket[96];
	pid_t pid;
	struct frontend *f;
};

/* ---- the peer ---- */

static bool in_path(const char *program)
{
	CLEAN_FREE char *path = strdup(getenv("PATH") ? getenv("PATH") : "");
	char *rest = path, *dir;

	while ((dir = strsep(&rest, ":"))) {
		char name[4096];

		snprintf(name, sizeof(name), "%s/%s", dir, program);
		if (access(name, X_OK) == 0)
			return true;
	}
	return false;
}

static void start_qsd(struct qsd *s)
{
	char blockdev[256], export[256];
	pid_t parent = getpid();

	unlink(s->socket);
	snprintf(blockdev, sizeof(blockdev), "driver=file,node-name=f,filename=%s,discard=unmap", s->image);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=%s,writable=on,num-queues=2",
		 s->socket);
	s->pid = fork();
	cr_assert_geq(s->pid, 0);
	if (s->pid == 0) {
		/* It must not outlive a test that fails. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			execlp(PROGRAM, PROGRAM, "--blockdev", blockdev, "--export", export, (char *)NULL);
		_exit(127);
	}
}

static void kill_qsd(struct qsd *s, int sig)
{
	kill(s->pid, sig);
	waitpid(s->pid, NULL, 0);
}

static int attach(struct qsd *s)
{
	int fd = frontend_dial(s->socket, FRONTEND_WAIT_NS);

	cr_assert_geq(fd, 0, "the export's socket does not appear");
	return frontend_attach(s->f, fd);
}

static void open_qsd(struct qsd *s, const struct frontend_options *options)
{
	int fd;

	if (!in_path(PROGRAM))
		cr_skip_test(PROGRAM " is not installed");
	memset(s, 0, sizeof(*s));
	cr_assert(temp_dir_make(s->dir, sizeof(s->dir)));
	snprintf(s->image, sizeof(s->image), "%s/image", s->dir);
	snprintf(s->socket, sizeof(s->socket), "%s/socket", s->dir);
	fd = open(s->image, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, IMAGE_BYTES), 0);
	close(fd);
	start_qsd(s);
	cr_assert_eq(frontend_new(options, &s->f), 0);
	cr_assert_eq(attach(s), 0);
}

static void close_qsd(struct qsd *s)
{
	frontend_free(s->f);
	kill_qsd(s, SIGTERM);
	unlink(s->image);
	unlink(s->socket);
	rmdir(s->dir);
}

/* ---- data ---- */

/* What belongs at a place of the disk in a generation: every sector differs from every other. */
static void pattern(uint8_t *buf, uint64_t sector, uint32_t len, uint32_t generation)
{
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t word =
		    ((sector + i / 512) << 24 | (uint64_t)generation << 16 | i % 512) * 0x9e3779b97f4a7c15ULL;

		memcpy(buf + i, &word, sizeof(word));
	}
}

static void expect_file(const struct qsd *s, uint64_t sector, const uint8_t *want, uint32_t len)
{
	CLEAN_FREE uint8_t *got = malloc(len);
	CLEAN_FD int fd = open(s->image, O_RDONLY | O_CLOEXEC);

	cr_assert_eq(fd_pread_full(fd, got, len, (off_t)(sector * 512)), 0);
	cr_assert_arr_eq(got, want, len);
}

static void write_and_check(struct qsd *s, unsigned queue, uint64_t sector, uint32_t len, uint32_t generation)
{
	CLEAN_FREE uint8_t *want = malloc(len), *got = malloc(len);

	pattern(want, sector, len, generation);
	memset(got, 0, len);
	cr_assert_eq(frontend_io(s->f, queue, BLK_OUT, sector, want, len), BLK_OK);
	cr_assert_eq(frontend_io(s->f, queue, BLK_IN, sector, got, len), BLK_OK);
	cr_assert_arr_eq(got, want, len, "sector %llu", (unsigned long long)sector);
	expect_file(s, sector, want, len);
}

Test(qsd, probe_agrees_on_what_both_have)
{
	const struct frontend_options o = { .queues = 2 };
	struct qsd s;

	open_qsd(&s, &o);
	cr_assert_eq(frontend_capacity(s.f), SECTORS);
	cr_assert_geq(frontend_info(s.f)->queues, 2);
	cr_assert(frontend_info(s.f)->protocol_features & VHOST_PF_REPLY_ACK);
	cr_assert(frontend_info(s.f)->protocol_features & VHOST_PF_CONFIG);
	close_qsd(&s);
}

Test(qsd, data_comes_back_as_written, .timeout = 60)
{
	const struct frontend_options o = { .queues = 2, .io_max = 1 << 20 };
	struct qsd s;

	open_qsd(&s, &o);
	for (uint32_t len = 512; len <= 1u << 20; len *= 2) {
		write_and_check(&s, 0, 0, len, 1);
		write_and_check(&s, 1, SECTORS - len / 512, len, 2);
	}
	cr_assert_eq(frontend_io(s.f, 0, BLK_FLUSH, 0, NULL, 0), BLK_OK);
	close_qsd(&s);
}

Test(qsd, direct_descriptors_without_event_index)
{
	const struct frontend_options o = { .features = 1ULL << 32, .queue_size = 16 };
	struct qsd s;

	open_qsd(&s, &o);
	for (unsigned i = 0; i < 100; i++)
		write_and_check(&s, 0, i * 8, 4096, i);
	close_qsd(&s);
}

Test(qsd, other_requests)
{
	const struct frontend_options o = { .queues = 1 };
	/* struct virtio_blk_discard_write_zeroes: sector, sectors, flags */
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} zeroes = { .sector = 16, .sectors = 8 };
	uint8_t id[20], buf[4096], zero[4096] = { 0 };
	struct qsd s;

	open_qsd(&s, &o);
	cr_assert_eq(frontend_io(s.f, 0, BLK_GET_ID, 0, id, sizeof(id)), BLK_OK);
	write_and_check(&s, 0, 16, 4096, 1);
	cr_assert_eq(frontend_io(s.f, 0, BLK_WRITE_ZEROES, 0, &zeroes, sizeof(zeroes)), BLK_OK);
	cr_assert_eq(frontend_io(s.f, 0, BLK_IN, 16, buf, sizeof(buf)), BLK_OK);
	cr_assert_arr_eq(buf, zero, sizeof(buf));
	cr_assert_eq(frontend_io(s.f, 0, BLK_IN, SECTORS, buf, sizeof(buf)), BLK_IOERR);
	cr_assert_eq(frontend_io(s.f, 0, 77, 0, NULL, 0), BLK_UNSUPP);
	close_qsd(&s);
}

Test(qsd, stopped_rings_start_again)
{
	const struct frontend_options o = { .queues = 2 };
	struct qsd s;

	open_qsd(&s, &o);
	write_and_check(&s, 0, 8, 4096, 1);
	cr_assert_eq(frontend_stop(s.f), 0);
	cr_assert_eq(attach(&s), 0);
	write_and_check(&s, 0, 8, 4096, 2);
	write_and_check(&s, 1, 64, 4096, 3);
	close_qsd(&s);
}

/* ---- death ---- */

/* Submits one write to each of n places, 4 KiB apart. */
static void submit_writes(struct qsd *s, unsigned n, uint32_t generation)
{
	for (unsigned i = 0; i < n; i++) {
		int slot = frontend_take(s->f, 0);

		cr_assert_geq(slot, 0);
		pattern(frontend_data(s->f, 0, slot), i * 8, 4096, generation);
		cr_assert_eq(frontend_submit(s->f, 0, slot, BLK_OUT, i * 8, 4096), 0);
	}
	frontend_kick(s->f, 0, true);
}

/* Fetches what is complete, waiting until at least n are, or all if the server stays. */
static unsigned fetch(struct qsd *s, unsigned n)
{
	struct frontend_done done;
	unsigned got = 0;

	while (got < n && frontend_wait(s->f, FRONTEND_WAIT_NS) == 1) {
		int r;

		while ((r = frontend_poll(s->f, 0, &done)) == 1) {
			cr_assert_eq(done.status, BLK_OK);
			frontend_release(s->f, 0, done.slot);
			got++;
		}
		cr_assert_eq(r, 0, "a request was completed twice");
	}
	return got;
}

Test(qsd, killed_daemon_loses_no_write, .timeout = 60)
{
	const struct frontend_options o = { .queues = 2, .queue_size = 64 };
	uint8_t want[4096];
	struct qsd s;

	open_qsd(&s, &o);
	if (!(frontend_info(s.f)->protocol_features & VHOST_PF_INFLIGHT_SHMFD)) {
		close_qsd(&s);
		cr_skip_test("this " PROGRAM " has no in-flight tracking");
	}
	for (uint32_t round = 1; round <= 10; round++) {
		unsigned got;

		submit_writes(&s, 50, round);
		got = fetch(&s, 1 + round * 4);
		kill_qsd(&s, SIGKILL);
		start_qsd(&s);
		cr_assert_eq(attach(&s), 0);
		got += fetch(&s, 50 - got);
		cr_assert_eq(got, 50, "round %u: %u of 50 were completed", round, got);
		cr_assert_eq(frontend_in_flight(s.f, 0), 0);
		for (unsigned i = 0; i < 50; i++) {
			pattern(want, i * 8, 4096, round);
			expect_file(&s, i * 8, want, 4096);
		}
	}
	close_qsd(&s);
}
