/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's system calls, beyond those that every server needs, with the reason for each: the disk's own, and each
 * engine's. */
#include "syscalls.h"

#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tables.h"

static const struct sandbox_rule steady[] = {
	{ .nr = __NR_fdatasync, .why = "flush, where the file system has no asynchronous one" },
	{ .nr = __NR_fallocate,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE } },
	  .why = "discard, and zeroes that give up the space" },
	{ .nr = __NR_fallocate,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE } },
	  .why = "zeroes that keep the space" },
	{ .nr = __NR_pwrite64, .why = "zeroes where fallocate has none; writes of parts of blocks" },
	{ .nr = __NR_pread64, .why = "the rest of a block of which a part is written" },
	{ .nr = __NR_lseek,
	  .args = { { .index = 2, .op = SANDBOX_EQ, .value = SEEK_END } },
	  .why = "the size of an image that was enlarged" },
	{ .why = NULL },
};

static const struct sandbox_rule stage_one[] = {
	SANDBOX_FCNTL(F_SETFL, 0, "the image's O_DIRECT"),
	{ .why = NULL },
};

/* ---- aio ---- */

static const struct sandbox_rule aio_setup[] = {
	{ .nr = __NR_io_setup, .why = "an aio context for each queue" },
	{ .why = NULL },
};

static const struct sandbox_rule aio_io[] = {
	{ .nr = __NR_io_submit, .why = "transfers to and from the image" },
	{ .nr = __NR_io_getevents, .why = "completions, where the mapped ring's layout is unknown" },
	{ .why = NULL },
};

static const struct sandbox_rule aio_end[] = {
	{ .nr = __NR_io_destroy, .why = "a queue's end" },
	{ .why = NULL },
};

static const struct sandbox_rule aio_drain[] = {
	{ .nr = __NR_io_getevents, .why = "what a dead process left to the kernel" },
	{ .why = NULL },
};

const struct sandbox_rule *const blk_aio_stage_one[] = {
	steady, stage_one, aio_setup, aio_io, aio_end, NULL
};
const struct sandbox_rule *const blk_aio_steady[] = { steady, aio_io, aio_end, NULL };
const struct sandbox_rule *const blk_aio_io[] = { aio_io, NULL };
const struct blk_calls blk_aio = {
	.stage_one = blk_aio_stage_one,
	.steady = blk_aio_steady,
	.io = blk_aio_io,
	.drain = aio_drain,
};

/* ---- io_uring ---- */

static const struct sandbox_rule uring_setup[] = {
	{ .nr = __NR_io_uring_setup, .why = "a ring for each queue" },
	{ .nr = __NR_io_uring_register,
	  .why = "its files, and its restriction to reading and writing these" },
	{ .why = NULL },
};

static const struct sandbox_rule uring_io[] = {
	{ .nr = __NR_io_uring_enter,
	  .why = "transfers to and from the image; the rings are restricted to these" },
	{ .why = NULL },
};

static const struct sandbox_rule uring_begin[] = {
	{ .nr = __NR_flock,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = LOCK_EX | LOCK_NB } },
	  .why = "to wait until no predecessor's ring is there" },
	{ .nr = __NR_flock,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = LOCK_SH } },
	  .why = "to have a successor wait" },
	{ .why = NULL },
};

static const struct sandbox_rule uring_drain[] = {
	{ .nr = __NR_clock_nanosleep, .why = "between looks at what a dead process left to the kernel" },
	{ .why = NULL },
};

const struct sandbox_rule *const blk_uring_stage_one[] = { steady,   stage_one,   uring_setup,
							   uring_io, uring_begin, NULL };
const struct sandbox_rule *const blk_uring_steady[] = { steady, uring_io, uring_begin, NULL };
const struct sandbox_rule *const blk_uring_io[] = { uring_io, NULL };
const struct blk_calls blk_uring = {
	.stage_one = blk_uring_stage_one,
	.steady = blk_uring_steady,
	.io = blk_uring_io,
	.drain = uring_drain,
	.locks_memory = true,
};

/* ---- an export of an NBD server, over connections that nbd-dial makes; nothing of a file's ---- */

static const struct sandbox_rule nbd[] = {
	{ .nr = __NR_sendto, .why = "requests to the NBD server" },
	{ .nr = __NR_recvfrom, .why = "its answers" },
	{ .nr = __NR_sendmsg, .why = "questions to nbd-dial, each with the socket for the answer" },
	{ .nr = __NR_recvmsg, .why = "its answers, with connections" },
	{ .nr = __NR_shutdown, .why = "a predecessor's connection is to end" },
	{ .nr = __NR_close, .why = "a connection is over" },
	{ .nr = __NR_poll,
	  .why = "waiting for nbd-dial and the NBD server at first, and when the size is asked for" },
	SANDBOX_FCNTL(F_GETFL, 0, "a connection is to be non-blocking"),
	SANDBOX_FCNTL(F_GETFL, O_NONBLOCK, "the same, whatever the third argument holds"),
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "the same"),
	SANDBOX_FCNTL(F_GETFD, 0, "a connection is to be closed on exec, though there is none"),
	SANDBOX_FCNTL(F_GETFD, O_NONBLOCK, "the same"),
	SANDBOX_FCNTL(F_SETFD, 0, "the same"),
	SANDBOX_FCNTL(F_DUPFD_CLOEXEC, 0, "libnbd closes a connection before the loop has let go of it"),
	{ .why = NULL },
};

static const struct sandbox_rule nbd_one[] = {
	{ .nr = __NR_socketpair, .why = "where answers of nbd-dial come" },
	{ .why = NULL },
};

static const struct sandbox_rule nbd_main[] = {
	{ .nr = __NR_read, .why = "an eventfd: links that were connected anew" },
	{ .why = NULL },
};

const struct sandbox_rule *const blk_nbd_stage_one[] = { nbd, nbd_one, nbd_main, NULL };
const struct sandbox_rule *const blk_nbd_steady[] = { nbd, nbd_main, NULL };
const struct sandbox_rule *const blk_nbd_io[] = { nbd, NULL };

/* ---- null ---- */

static const struct sandbox_rule nothing[] = { { .why = NULL } };

const struct blk_calls blk_nbd = {
	.stage_one = blk_nbd_stage_one,
	.steady = blk_nbd_steady,
	.io = blk_nbd_io,
	.drain = nothing,
};

static const struct sandbox_rule *const null_stage_one[] = { steady, stage_one, NULL };
static const struct sandbox_rule *const null_steady[] = { steady, NULL };
static const struct sandbox_rule *const null_io[] = { NULL };
const struct blk_calls blk_null = {
	.stage_one = null_stage_one,
	.steady = null_steady,
	.io = null_io,
	.drain = nothing,
};
