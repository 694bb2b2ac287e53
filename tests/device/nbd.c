/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server and nbd-dial. */
#include "nbd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "dial.h"
#include "fd.h"
#include "nbd_fake.h"
#include "note.h"
#include "num.h"
#include "sandbox.h"
#include "temp_dir.h"

#define IMAGE_BYTES (16 << 20)

const char *const nbd_kit[] = { "nbdkit", "--exit-with-parent", "-f", "-U", "SOCKET", "file", "IMAGE", NULL };
const char *const nbd_qemu[] = { "qemu-nbd",        "-t", "-e",     "8",     "-f", "raw",
				 "--discard=unmap", "-k", "SOCKET", "IMAGE", NULL };
const char *const nbd_qemu_one[] = { "qemu-nbd", "-t", "-f", "raw", "-k", "SOCKET", "IMAGE", NULL };

/* ---- the server ---- */

int nbd_connect(const struct nbd *n)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, n->socket, strlen(n->socket));
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool listens(const struct nbd *n)
{
	int fd = nbd_connect(n);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

void nbd_up(struct nbd *n)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	n->pid = fork();
	cr_assert(n->pid >= 0);
	if (n->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (n->fake)
			fake_serve(n->fake, n->socket);
		execvp(n->argv[0], (char *const *)(uintptr_t)n->argv);
		_exit(127);
	}
	while (!listens(n)) {
		cr_assert(clock_ns() < end && waitpid(n->pid, NULL, WNOHANG) == 0, "%s does not serve",
			  n->fake ? "the fake" : n->argv[0]);
		sched_yield();
	}
	/* blk-server's helpers are not who we are. */
	cr_assert_eq(chmod(n->socket, 0777), 0);
}

void nbd_kill(struct nbd *n)
{
	kill(n->pid, SIGKILL);
	cr_assert_eq(waitpid(n->pid, NULL, 0), n->pid);
	n->pid = 0;
	unlink(n->socket);
}

void nbd_revive(struct nbd *n)
{
	if (waitpid(n->pid, NULL, WNOHANG) != n->pid)
		return;
	note("%s died by itself, and was started again", n->argv[0]);
	unlink(n->socket);
	nbd_up(n);
}

static bool installed(const char *program)
{
	char command[128];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	return system(command) == 0;
}

/* ---- nbd-dial ---- */

void nbd_dial_start(struct nbd *n)
{
	const char *top = getenv("top_builddir"), *what = "", *level = getenv("RIG_LOG");
	const char *argv[] = { "nbd-dial",  "--uri", n->uri,        "--socket-fd",           "3",
			       "--sandbox", "on",    "--log-level", level ? level : "error", NULL };
	char program[4096];
	struct sandbox_spawn spawn = { .path = program,
				       .argv = (char *const *)(uintptr_t)argv,
				       .fds = &n->rig.its_fd,
				       .nfds = 1,
				       .stderr_fd = STDERR_FILENO,
				       .namespaces = true,
				       .host_network = true,
				       .uid = SANDBOX_NOBODY,
				       .die_with_parent = true };

#ifdef BH_SANITIZE
	argv[6] = "off";
	spawn.namespaces = false;
#endif
	snprintf(program, sizeof(program), "%s/nbd-dial/nbd-dial", top ? top : "../..");
	cr_assert_eq(sandbox_spawn(&spawn, &n->dial, &n->dial_pidfd, &what), 0, "%s", what);
}

void nbd_dial_kill(struct nbd *n)
{
	kill(n->dial, SIGKILL);
	cr_assert_eq(waitpid(n->dial, NULL, 0), n->dial);
	close(n->dial_pidfd);
}

bool nbd_dial_hear(struct nbd *n, struct dial_question *q)
{
	int fds[2] = { -1, -1 };
	size_t nfds = 0;
	ssize_t got = fd_recv(n->rig.its_fd, q, sizeof(*q), fds, ARRAY_SIZE(fds), &nfds);

	if (got == -EAGAIN)
		return false;
	cr_assert_eq(got, sizeof(*q));
	n->answer_to = fds[0];
	if (q->what != DIAL_KEEP)
		return true;
	/* For the one that died. */
	for (size_t i = 0; i < nfds; i++)
		close(fds[i]);
	return false;
}

void nbd_dial_say(struct nbd *n, const struct dial_question *q, int fd)
{
	struct dial_answer a = { .id = q->id, .err = fd < 0 ? fd : 0, .slot = q->slot };

	cr_assert_eq(fd_send(n->answer_to, &a, sizeof(a), &fd, fd >= 0), sizeof(a));
	close(n->answer_to);
	if (fd >= 0)
		close(fd);
}

ino_t nbd_kept(struct nbd *n, unsigned slot)
{
	struct dial dial;
	struct stat st;
	int fd, err;

	cr_assert_eq(dial_open(&dial, n->rig.fd), 0);
	cr_assert_eq(dial_ask(&dial, DIAL_OLD, slot), 0);
	err = dial_await(&dial, RIG_DEADLINE_S * 1000, &fd);
	dial_close(&dial);
	if (err == -ENOENT)
		return 0;
	cr_assert_eq(err, 0, "%s", strerror(-err));
	cr_assert_eq(fstat(fd, &st), 0);
	close(fd);
	return st.st_ino;
}

/* ---- both ---- */

void nbd_make(struct nbd *n)
{
	int fd;

	*n = (struct nbd) { .pid = 0 };
	cr_assert(temp_dir_make(n->dir, sizeof(n->dir)));
	cr_assert_eq(chmod(n->dir, 0755), 0);
	snprintf(n->image, sizeof(n->image), "%s/image", n->dir);
	snprintf(n->socket, sizeof(n->socket), "%s/nbd", n->dir);
	snprintf(n->uri, sizeof(n->uri), "nbd+unix:///?socket=%s", n->socket);
	fd = open(n->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, IMAGE_BYTES), 0);
	close(fd);
}

static void start(struct nbd *n, struct rig_options *options)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	n->rig = (struct rig_nbd) { .uri = n->uri, .fd = pair[0], .its_fd = pair[1] };
	nbd_up(n);
	nbd_dial_start(n);
	options->nbd = &n->rig;
	options->device = n->image;
	options->image_bytes = IMAGE_BYTES;
}

static void need_libnbd(void)
{
#ifndef HAVE_LIBNBD
	cr_skip_test("built without libnbd");
#endif
}

void nbd_start(struct nbd *n, struct rig_options *options, const char *const *words)
{
	need_libnbd();
	if (!installed(words[0]))
		cr_skip_test("the NBD server is not installed");
	if (!*n->dir)
		nbd_make(n);
	for (unsigned i = 0; words[i]; i++)
		n->argv[i] = !strcmp(words[i], "IMAGE")    ? n->image
			     : !strcmp(words[i], "SOCKET") ? n->socket
							   : words[i];
	start(n, options);
}

void nbd_start_fake(struct nbd *n, struct rig_options *options, struct fake *fake)
{
	need_libnbd();
	nbd_make(n);
	n->fake = fake;
	start(n, options);
}

void nbd_stop(struct nbd *n)
{
	if (n->pid)
		nbd_kill(n);
	nbd_dial_kill(n);
	close(n->rig.fd);
	close(n->rig.its_fd);
	unlink(n->socket);
	unlink(n->image);
	rmdir(n->dir);
}
