/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server started by hand: one front end after another, sockets and images that are taken, the end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "frontend.h"
#include "inflight.h"
#include "num.h"
#include "rig.h"
#include "temp_dir.h"
#include "vhost_msg.h"

TestSuite(blk_socket, .timeout = 60);

static void check_alive(struct rig *rig)
{
	uint64_t gpa = rig_alloc(rig, 4096, 4096);

	cr_assert_eq(rig_request(rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
}

static void ask(int fd, uint32_t request, const void *payload, uint32_t size)
{
	struct vhost_hdr hdr = { .request = request, .flags = VHOST_HDR_VERSION, .size = size };
	char bytes[64];

	memcpy(bytes, &hdr, sizeof(hdr));
	memcpy(bytes + sizeof(hdr), payload, size);
	cr_assert_eq(write(fd, bytes, sizeof(hdr) + size), (ssize_t)(sizeof(hdr) + size));
}

static void one_after_another(const char *const *args)
{
	struct rig_options options = { .by_hand = true, .args = args, .ring_features = RING_F_EVENT_IDX };
	struct rig rig;

	rig_start(&rig, &options);
	for (int i = 0; i < 5; i++) {
		check_alive(&rig);
		rig_disconnect(&rig);
		rig_connect(&rig);
	}
	check_alive(&rig);
	rig_stop(&rig);
}

Test(blk_socket, one_front_end_after_another)
{
	one_after_another(NULL);
}

/* Its filter is another: both that of a server with a bus, where nobody listens here, and that of one with a socket. */
Test(blk_socket, one_front_end_after_another_beside_a_bus)
{
	char dir[64];
	const char *const args[] = { "--bus", dir, NULL };

	cr_assert(temp_dir_make(dir, sizeof(dir)));
	one_after_another(args);
	cr_assert_eq(rmdir(dir), 0);
}

/* QEMU has the back end make the in-flight region. */
Test(blk_socket, a_front_end_asks_for_an_in_flight_region)
{
	static const uint64_t protocol = VHOST_PF_INFLIGHT_SHMFD;
	static const struct vhost_inflight want = { .queues = 1, .queue_size = RIG_SIZE };
	struct vhost_inflight its;
	char said[sizeof(struct vhost_hdr) + sizeof(its)];
	struct rig_options options = { .by_hand = true };
	int region = -1, fd;
	struct stat st;
	struct rig rig;
	size_t n = 0;

	rig_start(&rig, &options);
	rig_disconnect(&rig);
	fd = frontend_dial(rig.socket, 20 * NS_PER_S);
	cr_assert_geq(fd, 0);
	ask(fd, VHOST_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
	ask(fd, VHOST_GET_INFLIGHT_FD, &want, sizeof(want));
	cr_assert_eq(fd_recv(fd, said, sizeof(said), &region, 1, &n), (ssize_t)sizeof(said));
	cr_assert_eq(n, 1);
	memcpy(&its, said + sizeof(struct vhost_hdr), sizeof(its));
	cr_assert_eq(fstat(region, &st), 0);
	cr_expect_eq(its.size, inflight_queue_bytes(RIG_SIZE, false));
	cr_expect_eq((uint64_t)st.st_size, its.size);
	cr_expect_eq(fd_check_unshrinkable(region), 0);
	close(region);
	close(fd);
	rig_connect(&rig);
	check_alive(&rig);
	rig_stop(&rig);
}

/* FAULTS 64: a squatter is respected, what a dead server left behind is not. */
Test(blk_socket, f64_live_socket_is_refused)
{
	struct rig_options options = { .by_hand = true };
	struct rig rig;
	char out[512], other[200];

	rig_start(&rig, &options);
	snprintf(other, sizeof(other), "%s/other", rig.dir);
	{
		const char *const args[] = { "blk-server", "--socket", rig.socket, "--image", other, NULL };

		cr_assert_eq(mknod(other, S_IFREG | 0600, 0), 0);
		cr_assert_eq(truncate(other, 1 << 20), 0);
		cr_assert_eq(rig_run(args, out, sizeof(out)), 2);
		cr_assert_not_null(strstr(out, "another server listens there"), "%s", out);
	}
	unlink(other);
	check_alive(&rig);
	rig_stop(&rig);
}

Test(blk_socket, f64_stale_socket_is_replaced)
{
	struct rig_options options = { .by_hand = true };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct rig rig;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	rig_start(&rig, &options);
	check_alive(&rig);
	rig_kill(&rig);
	cr_assert_eq(access(rig.socket, F_OK), 0, "the test needs the socket that a killed guardian leaves");
	unlink(rig.socket);
	memcpy(addr.sun_path, rig.socket, strlen(rig.socket));
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	rig_respawn(&rig);
	check_alive(&rig);
	rig_stop(&rig);
}

/* FAULTS 68. */
Test(blk_socket, f68_image_in_use_is_refused)
{
	struct rig_options options = { .by_hand = true };
	struct rig rig;
	char out[512], other[200];

	rig_start(&rig, &options);
	snprintf(other, sizeof(other), "%s/other", rig.dir);
	{
		const char *const args[] = { "blk-server", "--socket", other, "--image", rig.image, NULL };
		const char *const reader[] = { "blk-server", "--socket",   other, "--image",
					       rig.image,    "--readonly", NULL };

		cr_assert_eq(rig_run(args, out, sizeof(out)), 2);
		cr_assert_not_null(strstr(out, "in use by another process"), "%s", out);
		cr_assert_not_null(strstr(out, rig.image), "%s", out);
		cr_assert_eq(rig_run(reader, out, sizeof(out)), 2);
	}
	cr_assert_eq(access(other, F_OK), -1);
	rig_stop(&rig);
}

/* Requests are in flight when the guardian is told to end the server: they are finished, not dropped. */
Test(blk_socket, sigterm_finishes_requests)
{
	struct rig_options options = { .by_hand = true };
	struct rig_done done;
	struct rig rig;
	unsigned finished = 0;
	uint64_t gpa;
	int status;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 32 * 65536, 4096);
	for (unsigned i = 0; i < 32; i++)
		rig_add(&rig, 0, VIRTIO_BLK_T_OUT, i * 128, gpa + i * 65536, 65536);
	kill(rig.pid, SIGTERM);
	cr_assert_eq(waitpid(rig.pid, &status, 0), rig.pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	while (rig_get(&rig, 0, &done)) {
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		finished++;
	}
	cr_assert_eq(access(rig.socket, F_OK), -1);
	rig_disconnect(&rig);
	rig_respawn(&rig);
	while (finished < 32) {
		done = rig_wait(&rig, 0);
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		finished++;
	}
	rig_stop(&rig);
}

/* As an ordinary user, if this is root. */
Test(blk_socket, ordinary_user)
{
	struct rig_options options = { .by_hand = true };
	struct rig rig;

	rig_become_user();
	rig_start(&rig, &options);
	check_alive(&rig);
	rig_stop(&rig);
}
