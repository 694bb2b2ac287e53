/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/attach: messages of the descriptor socket, and a flight recorder's memory that is not what it should be. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "core.h"
#include "fd.h"
#include "flight.h"

/* ---- the rest of the core ---- */

static struct core_device device;
static unsigned attached;
static int socket_fd = -1;
static struct flight *region, *before;

const char *device_id(const struct device *d)
{
	(void)d;
	return "disk0";
}

int device_attach(struct device *d, unsigned index, int fd, struct flight *flight, struct flight *front)
{
	(void)d;
	(void)index;
	if (socket_fd >= 0)
		close(socket_fd);
	flight_free(region);
	flight_free(before);
	socket_fd = fd;
	region = flight;
	before = front;
	attached++;
	return 0;
}

struct core_device *core_find_device(struct core *core, const char *id, size_t len)
{
	(void)core;
	return strncmp(id, "disk0", len) ? NULL : &device;
}

void control_device_pending(struct core_device *d)
{
	(void)d;
}

/* ---- a supervisor ---- */

static struct options opts;
static struct core core = { .opts = &opts };
static int ours = -1;
static ino_t connection; /* the socket that is sent */
static int sent = -1;

static void set_up(void)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	ours = pair[0];
	opts.desc_fd = pair[1];
	cr_assert_eq(loop_new("test", &core.loop), 0);
	cr_assert_eq(attach_start(&core), 0);
}

static void tear_down(void)
{
	flight_free(region);
	flight_free(before);
	if (socket_fd >= 0)
		close(socket_fd);
	if (sent >= 0)
		close(sent);
	loop_del_fd(core.desc_watch);
	loop_free(core.loop);
	close(ours);
	close(opts.desc_fd);
}

TestSuite(core_attach, .init = set_up, .fini = tear_down, .timeout = 60);

static ino_t inode(int fd)
{
	struct stat st;

	cr_assert_eq(fstat(fd, &st), 0);
	return st.st_ino;
}

/* Sends a new socket and, after it, n more descriptors, and has the core read it. */
static void send_with(const char *id, const int *more, size_t n)
{
	char message[32] = { 0 };
	int fds[4], pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	close(pair[1]);
	if (sent >= 0)
		close(sent);
	sent = fds[0] = pair[0];
	connection = inode(pair[0]);
	for (size_t i = 0; i < n; i++)
		fds[i + 1] = more[i];
	snprintf(message, sizeof(message), "%s", id);
	cr_assert_eq(fd_send(ours, message, sizeof(message), fds, n + 1), 32);
	cr_assert_eq(loop_run_once(core.loop, 0), 0);
}

/* It was attached, without health words. */
static void expect_refused(int fd, const char *what)
{
	unsigned n = attached;

	send_with("disk0", &fd, 1);
	cr_assert_eq(attached, n + 1, "%s", what);
	cr_assert_eq(inode(socket_fd), connection, "%s", what);
	cr_assert_null(region, "%s", what);
}

Test(core_attach, one_descriptor_is_the_connection)
{
	send_with("disk0", NULL, 0);
	cr_assert_eq(attached, 1);
	cr_assert_eq(inode(socket_fd), connection);
	cr_assert_null(region);
}

Test(core_attach, the_second_one_is_the_flight_recorder)
{
	CLEAN_FD int fd = flight_create(2);
	CLEAN_FD int reader = flight_reader(fd);
	struct flight_ring ring;
	struct flight *writer;

	cr_assert_geq(reader, 0);
	cr_assert_eq(flight_map(fd, true, &writer), 0);
	send_with("disk0", &reader, 1);
	cr_assert_eq(inode(socket_fd), connection);
	cr_assert_not_null(region);
	cr_assert_null(before);
	flight_open_queue(writer, 1, &ring);
	flight_set(&ring.queue->held, 7);
	cr_assert_eq(flight_get(&flight_queue(region, 1)->held), 7, "it is the same memory");
	flight_free(writer);
}

Test(core_attach, the_third_one_is_that_of_what_stands_before)
{
	CLEAN_FD int fd = flight_create(2), window = flight_create(2);
	const int two[] = { fd, window };
	struct flight_ring ring;
	struct flight *writer;

	cr_assert_eq(flight_map(window, true, &writer), 0);
	send_with("disk0", two, 2);
	cr_assert_eq(inode(socket_fd), connection);
	cr_assert_not_null(region);
	cr_assert_not_null(before);
	flight_open_queue(writer, 1, &ring);
	flight_set(&ring.queue->held, 7);
	cr_assert_eq(flight_get(&flight_queue(before, 1)->held), 7, "it is the same memory");
	cr_assert_eq(flight_get(&flight_queue(region, 1)->held), 0, "and not the other one");
	flight_free(writer);
}

Test(core_attach, a_device_that_is_not_declared)
{
	CLEAN_FD int fd = flight_create(1);

	send_with("disk1", &fd, 1);
	cr_assert_eq(attached, 0);
}

Test(core_attach, fault_37_extra_descriptors_and_messages_of_the_wrong_size)
{
	CLEAN_FD int fd = flight_create(1);
	const int two[] = { fd, fd }, three[] = { fd, fd, fd };
	int first = dup(fd), after;

	send_with("disk0", three, 3);
	cr_assert_eq(attached, 0, "four descriptors");
	cr_assert_eq(fd_send(ours, "disk0", 5, &fd, 1), 5);
	cr_assert_eq(loop_run_once(core.loop, 0), 0);
	cr_assert_eq(fd_send(ours, two, sizeof(two), two, 2), sizeof(two));
	cr_assert_eq(loop_run_once(core.loop, 0), 0);
	cr_assert_eq(attached, 0, "too short");
	close(first);
	after = dup(fd);
	cr_assert_eq(after, first, "a descriptor was kept");
	close(after);
	send_with("disk0", NULL, 0);
	cr_assert_eq(attached, 1, "the socket goes on");
}

Test(core_attach, fault_39_a_flight_recorder_that_could_shrink_is_refused)
{
	CLEAN_FD int sealed = flight_create(1);
	CLEAN_FD int unsealed = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CLEAN_FD int growing = memfd_create("growing", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct stat st;

	cr_assert_eq(fstat(sealed, &st), 0);
	cr_assert_eq(ftruncate(unsealed, st.st_size), 0);
	expect_refused(unsealed, "not sealed");
	cr_assert_eq(ftruncate(growing, st.st_size), 0);
	cr_assert_eq(fcntl(growing, F_ADD_SEALS, F_SEAL_GROW), 0);
	expect_refused(growing, "sealed against growing alone");
	cr_assert_eq(ftruncate(growing, 0), 0);

	send_with("disk0", &sealed, 1);
	cr_assert_not_null(region);
	cr_assert(ftruncate(sealed, 0) < 0 && errno == EPERM, "a sealed one can't shrink under us");
	cr_assert_eq(flight_get(&flight_queue(region, 0)->passes), 0, "and is still there");
}

Test(core_attach, fault_39_memory_of_another_size_or_kind_is_refused)
{
	CLEAN_FD int small = fd_sealed_memfd("small", 8191);
	CLEAN_FD int empty = fd_sealed_memfd("empty", 0);
	CLEAN_FD int null = open("/dev/zero", O_RDWR | O_CLOEXEC);
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	expect_refused(small, "too small");
	expect_refused(empty, "empty");
	expect_refused(null, "a device");
	expect_refused(ends[0], "a pipe");
	expect_refused(ours, "a socket");
	close(ends[0]);
	close(ends[1]);
}
