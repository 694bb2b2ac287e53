/* SPDX-License-Identifier: Apache-2.0 */
/* A blk-server under test, with a front end and drivers of our own. */
#include "rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"
#include "sandbox.h"

#define MEMORY_BYTES (64ULL << 20)
#define HEADER_STEP  32
#define STATUS_AT    16 /* behind the header */

extern char **environ;

static void on_lost(void *arg, int err, const char *why)
{
	struct rig *rig = arg;

	(void)err;
	(void)why;
	rig->lost = true;
}

static const struct vhost_fe_ops fe_ops = { .lost = on_lost };

/* ---- the server ---- */

#ifdef BH_SANITIZE
#define SANDBOX false
#else
#define SANDBOX true
#endif

static const char *server_path(void)
{
	static char path[4096];
	const char *top = getenv("top_builddir");

	snprintf(path, sizeof(path), "%s/blk-server/blk-server", top ? top : "../..");
	return realpath(path, NULL);
}

/* Starts a server with its end of a new socketpair as descriptor 3 and the image as 4; our end. */
static int spawn(struct rig *rig)
{
	const char *level = getenv("RIG_LOG");
	char queues[16], threads[16];
	const char *argv[RIG_ARGS_MAX] = { "blk-server",
					   "--vhost-fd",
					   "3",
					   "--image-fd",
					   "4",
					   "--queues",
					   queues,
					   "--io-threads",
					   threads,
					   "--sandbox",
					   SANDBOX ? "on" : "off",
					   "--log-level",
					   level ? level : "error" };
	struct rlimit old, limit;
	struct sandbox_spawn how = { .path = server_path(),
				     .argv = (char *const *)(uintptr_t)argv,
				     .envp = SANDBOX ? NULL : environ,
				     .nfds = 2,
				     .stderr_fd = 2,
				     .namespaces = SANDBOX,
				     .uid = SANDBOX_NOBODY,
				     .die_with_parent = true };
	const char *what = "";
	unsigned n = 13;
	int pair[2], fds[3], err;

	snprintf(queues, sizeof(queues), "%u", rig->queues);
	snprintf(threads, sizeof(threads), "%u", MAX(rig->options.io_threads, 1U));
	if (rig->options.readonly)
		argv[n++] = "--readonly";
	for (const char *const *arg = rig->options.args; arg && *arg; arg++)
		argv[n++] = *arg;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fds[0] = pair[1];
	fds[1] = rig->lock_fd;
	if (rig->options.flight_fd) {
		fds[how.nfds++] = rig->options.flight_fd;
		argv[n++] = "--flight-fd";
		argv[n++] = "5";
	}
	how.fds = fds;
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit) { .rlim_cur = rig->options.file_limit, .rlim_max = old.rlim_max };
	if (rig->options.file_limit)
		setrlimit(RLIMIT_FSIZE, &limit);
	err = sandbox_spawn(&how, &rig->pid, &rig->pidfd, &what);
	setrlimit(RLIMIT_FSIZE, &old);
	cr_assert_eq(err, 0, "spawn: %s: %s", what, strerror(-err));
	close(pair[1]);
	return pair[0];
}

/* The program as a descriptor, since a test that is no longer root may not reach the folder it is in. */
static int program_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open(server_path(), O_PATH | O_CLOEXEC);
	cr_assert(fd >= 0, "%s: %s", server_path(), strerror(errno));
	return fd;
}

void rig_become_user(void)
{
	program_fd();
	if (geteuid() == 0)
		cr_assert(setgid(65533) == 0 && setuid(65533) == 0);
}

/* fork and exec, with standard error to err (-1: as it is). */
static pid_t start_program(const char *const *args, int err)
{
	int fd = program_fd();
	pid_t pid = fork();

	cr_assert(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
		if (err >= 0)
			dup2(err, 2);
		fexecve(fd, (char *const *)(uintptr_t)args, environ);
		_exit(127);
	}
	return pid;
}

int rig_run(const char *const *args, char *out, size_t size)
{
	int ends[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = start_program(args, ends[1]);
	close(ends[1]);
	while (out && len + 1 < size && (n = read(ends[0], out + len, size - 1 - len)) > 0)
		len += (size_t)n;
	if (out)
		out[len] = '\0';
	close(ends[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Connects to the server's socket as soon as it listens. */
static int dial(struct rig *rig)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0);
	memcpy(addr.sun_path, rig->socket, strlen(rig->socket));
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		cr_assert(clock_ns() < end, "nobody listens on %s", rig->socket);
		sched_yield();
	}
	return fd;
}

static int spawn_by_hand(struct rig *rig)
{
	const char *argv[RIG_ARGS_MAX] = {
		"blk-server",           "--socket",    rig->socket, "--image", rig->image, "--sandbox",
		SANDBOX ? "on" : "off", "--log-level", "error"
	};
	unsigned n = 9;

	for (const char *const *arg = rig->options.args; arg && *arg; arg++)
		argv[n++] = *arg;
	rig->pid = start_program(argv, -1);
	rig->pidfd = (int)syscall(SYS_pidfd_open, rig->pid, 0);
	cr_assert(rig->pidfd >= 0);
	return dial(rig);
}

void rig_disconnect(struct rig *rig)
{
	vhost_fe_free(rig->fe);
	rig->fe = NULL;
}

static void reap(struct rig *rig, bool killed)
{
	struct pollfd p = { .fd = rig->pidfd, .events = POLLIN };
	int status;

	cr_assert_eq(poll(&p, 1, RIG_DEADLINE_S * 1000), 1, "the server does not end");
	cr_assert_eq(waitpid(rig->pid, &status, 0), rig->pid);
	close(rig->pidfd);
	rig->pid = 0;
	if (!killed)
		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the server ended with status %#x",
			  status);
}

/* ---- the handshake ---- */

struct waiter {
	bool done;
	int err;
};

static void on_done(void *arg, int err)
{
	struct waiter *w = arg;

	w->done = true;
	w->err = err;
}

static void connect_fe(struct rig *rig, int fd)
{
	struct vhost_fe_ring rings[RIG_QUEUES_MAX] = { 0 };
	struct vhost_fe_start start = { 0 };
	struct waiter w = { 0 };
	int fds[GUEST_REGIONS];
	uint64_t own = (1ULL << 34 | 1ULL << 29 | 1ULL << 28) & ~rig->options.ring_features;

	rig->lost = false;
	cr_assert_eq(vhost_fe_new(rig->loop, fd, RIG_DEADLINE_S * NS_PER_S, &fe_ops, rig, &rig->fe), 0);
	vhost_fe_probe(rig->fe, sizeof(struct virtio_blk_config), &rig->info, on_done, &w);
	rig_until(rig, w.done);
	cr_assert(w.done && w.err == 0, "probe: %d", w.err);
	memcpy(&rig->config, rig->info.config, sizeof(rig->config));
	for (unsigned i = 0; i < rig->queues; i++) {
		struct rig_queue *q = &rig->queue[i];

		rings[i] = (struct vhost_fe_ring) { .size = RIG_SIZE,
						    .desc = guest_user(&rig->guest, q->ring.desc),
						    .avail = guest_user(&rig->guest, q->ring.avail),
						    .used = guest_user(&rig->guest, q->ring.used),
						    .used_gpa = q->ring.used,
						    .base = q->ring.packed ? 0x80008000U : 0,
						    .kick = q->kick,
						    .call = q->call,
						    .err = q->err };
	}
	for (unsigned i = 0; i < rig->guest.n; i++)
		fds[i] = rig->guest.fd;
	start = (struct vhost_fe_start) { .features = rig->info.features & ~own & ~rig->options.refuse &
						      ~(1ULL << 26),
					  .regions = rig->guest.regions,
					  .fds = fds,
					  .n_regions = rig->guest.n,
					  .inflight_fd = rig->inflight_fd,
					  .inflight_size = rig->inflight_bytes,
					  .inflight_queues = (uint16_t)rig->queues,
					  .inflight_queue_size = RIG_SIZE,
					  .rings = rings,
					  .n_rings = rig->queues };
	w = (struct waiter) { 0 };
	cr_assert_eq(vhost_fe_start(rig->fe, &start, on_done, &w), 0);
	rig_until(rig, w.done);
	cr_assert(w.done && w.err == 0, "start: %d", w.err);
}

/* ---- what outlives a server ---- */

static void make_image(struct rig *rig)
{
	const char *dir = rig->options.directory ? rig->options.directory : getenv("TMPDIR");

	snprintf(rig->dir, sizeof(rig->dir), "%s/bulkhead-device.XXXXXX", dir ? dir : "/tmp");
	cr_assert_not_null(mkdtemp(rig->dir));
	snprintf(rig->image, sizeof(rig->image), "%s/image", rig->dir);
	snprintf(rig->socket, sizeof(rig->socket), "%s/socket", rig->dir);
	if (rig->options.device) {
		snprintf(rig->image, sizeof(rig->image), "%s", rig->options.device);
		rig->image_fd = open(rig->image, O_RDWR | O_CLOEXEC);
		cr_assert(rig->image_fd >= 0);
	} else {
		rig->image_fd = open(rig->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		cr_assert(rig->image_fd >= 0);
		cr_assert_eq(ftruncate(rig->image_fd, (off_t)rig->options.image_bytes), 0);
	}
	rig->lock_fd = open(rig->image, (rig->options.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	cr_assert(rig->lock_fd >= 0);
}

static void on_call(void *arg, uint32_t events)
{
	struct rig_queue *q = arg;
	uint64_t count;

	(void)events;
	cr_assert(read(q->call, &count, sizeof(count)) == sizeof(count));
	q->calls++;
}

static void make_queue(struct rig *rig, struct rig_queue *q)
{
	cr_assert_eq(ring_init(&q->ring, &rig->guest, RIG_SIZE, rig->options.ring_features), 0);
	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->headers = rig_alloc(rig, RIG_SLOTS * HEADER_STEP, 64);
	for (unsigned i = 0; i < RIG_SIZE; i++)
		q->slot_of[i] = -1;
	cr_assert_eq(loop_add_fd(rig->loop, q->call, EPOLLIN, on_call, q, &q->watch), 0);
}

static void make_inflight(struct rig *rig)
{
	bool packed = rig->options.ring_features & RING_F_PACKED;
	size_t step = inflight_queue_bytes(RIG_SIZE, packed);

	rig->inflight_bytes = step * rig->queues;
	rig->inflight_fd = fd_sealed_memfd("inflight", rig->inflight_bytes);
	cr_assert(rig->inflight_fd >= 0);
	rig->inflight =
	    mmap(NULL, rig->inflight_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rig->inflight_fd, 0);
	cr_assert(rig->inflight != MAP_FAILED);
	for (unsigned i = 0; i < rig->queues; i++)
		inflight_init(rig->inflight + i * step, RIG_SIZE, packed, packed ? 0x8000 : 0);
}

void rig_start(struct rig *rig, const struct rig_options *options)
{
	*rig = (struct rig) { .options = *options };
	if (!rig->options.image_bytes)
		rig->options.image_bytes = 16ULL << 20;
	rig->queues = MAX(options->queues, 1U);
	make_image(rig);
	cr_assert_eq(loop_new("test", &rig->loop), 0);
	cr_assert_eq(guest_init(&rig->guest, MEMORY_BYTES), 0);
	for (unsigned i = 0; i < rig->queues; i++)
		make_queue(rig, &rig->queue[i]);
	make_inflight(rig);
	rig_respawn(rig);
}

void rig_kill(struct rig *rig)
{
	kill(rig->pid, SIGKILL);
	reap(rig, true);
	vhost_fe_free(rig->fe);
	rig->fe = NULL;
}

void rig_respawn(struct rig *rig)
{
	connect_fe(rig, rig->options.by_hand ? spawn_by_hand(rig) : spawn(rig));
}

void rig_connect(struct rig *rig)
{
	connect_fe(rig, dial(rig));
}

void rig_stop(struct rig *rig)
{
	vhost_fe_free(rig->fe);
	if (rig->options.by_hand)
		kill(rig->pid, SIGTERM);
	reap(rig, false);
	for (unsigned i = 0; i < rig->queues; i++) {
		struct rig_queue *q = &rig->queue[i];

		loop_del_fd(q->watch);
		close(q->kick);
		close(q->call);
		close(q->err);
		ring_free(&q->ring);
	}
	loop_free(rig->loop);
	munmap(rig->inflight, rig->inflight_bytes);
	close(rig->inflight_fd);
	guest_free(&rig->guest);
	close(rig->image_fd);
	close(rig->lock_fd);
	if (!rig->options.device)
		unlink(rig->image);
	cr_assert_eq(access(rig->socket, F_OK), -1, "the socket is left behind");
	rmdir(rig->dir);
}

/* ---- requests ---- */

uint64_t rig_alloc(struct rig *rig, uint64_t len, uint64_t align)
{
	uint64_t gpa = guest_alloc(&rig->guest, len, align);

	cr_assert(gpa, "guest memory is used up");
	return gpa;
}

uint8_t *rig_ptr(struct rig *rig, uint64_t gpa)
{
	uint8_t *p = guest_ptr(&rig->guest, gpa, 1);

	cr_assert_not_null(p);
	return p;
}

int rig_stage(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	struct rig_queue *q = &rig->queue[queue];
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	bool indirect = rig->options.ring_features & RING_F_INDIRECT;
	struct ring_buf bufs[3];
	unsigned n = 0;
	uint64_t at;
	int slot = 0, id;

	while (slot < RIG_SLOTS && q->slot_used[slot])
		slot++;
	cr_assert(slot < RIG_SLOTS, "too many requests at once");
	at = q->headers + (uint64_t)slot * HEADER_STEP;
	memcpy(rig_ptr(rig, at), &header, sizeof(header));
	*rig_ptr(rig, at + STATUS_AT) = 0xff;
	bufs[n++] = (struct ring_buf) { .gpa = at, .len = sizeof(header) };
	if (len)
		bufs[n++] = (struct ring_buf) { .gpa = gpa, .len = len, .write = in };
	bufs[n++] = (struct ring_buf) { .gpa = at + STATUS_AT, .len = 1, .write = true };
	id = ring_add(&q->ring, bufs, n, indirect);
	cr_assert(id >= 0 && id < RIG_SIZE, "ring_add: %d", id);
	q->slot_used[slot] = true;
	q->slot_of[id] = slot;
	return slot;
}

void rig_publish(struct rig *rig, unsigned queue)
{
	struct rig_queue *q = &rig->queue[queue];

	if (ring_publish(&q->ring))
		cr_assert_eq(fd_event_set(q->kick), 0);
}

int rig_add(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	int slot = rig_stage(rig, queue, type, sector, gpa, len);

	rig_publish(rig, queue);
	return slot;
}

bool rig_get(struct rig *rig, unsigned queue, struct rig_done *done)
{
	struct rig_queue *q = &rig->queue[queue];
	uint16_t id;
	int n = ring_get(&q->ring, &id, &done->len);

	cr_assert(n >= 0, "a completion that nobody waits for");
	if (!n)
		return false;
	done->slot = q->slot_of[id];
	cr_assert(done->slot >= 0);
	q->slot_of[id] = -1;
	q->slot_used[done->slot] = false;
	done->status = *rig_ptr(rig, q->headers + (uint64_t)done->slot * HEADER_STEP + STATUS_AT);
	return true;
}

/* A completion, or calls are enabled and it will be signalled. */
static bool get_or_arm(struct rig *rig, unsigned queue, struct rig_done *done)
{
	return rig_get(rig, queue, done) ||
	       (ring_enable_calls(&rig->queue[queue].ring) && rig_get(rig, queue, done));
}

struct rig_done rig_wait(struct rig *rig, unsigned queue)
{
	struct rig_done done;

	rig_until(rig, get_or_arm(rig, queue, &done));
	return done;
}

struct rig_done rig_request(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa,
			    uint32_t len)
{
	rig_add(rig, queue, type, sector, gpa, len);
	return rig_wait(rig, queue);
}

int64_t rig_raw(struct rig *rig, unsigned queue, const struct ring_buf *bufs, unsigned n)
{
	struct rig_queue *q = &rig->queue[queue];
	struct pollfd err = { .fd = q->err, .events = POLLIN };
	uint32_t len = 0;
	uint16_t id;
	int got = 0;

	cr_assert(ring_add(&q->ring, bufs, n, rig->options.ring_features & RING_F_INDIRECT) >= 0);
	rig_publish(rig, queue);
	ring_enable_calls(&q->ring);
	rig_until(rig, (got = ring_get(&q->ring, &id, &len)) || poll(&err, 1, 0) == 1);
	cr_assert(got >= 0);
	return got ? (int64_t)len : -1;
}

/* ---- contents ---- */

void rig_read_image(struct rig *rig, uint64_t off, uint8_t *buf, uint32_t len)
{
	cr_assert_eq(fd_pread_full(rig->image_fd, buf, len, (off_t)off), 0);
}

static uint64_t word(uint64_t off, uint64_t seed)
{
	uint64_t v = off * 0x9e3779b97f4a7c15ULL + seed * 0xd1b54a32d192ed03ULL + 1;

	v ^= v >> 29;
	return v * 0xbf58476d1ce4e5b9ULL;
}

void rig_fill(uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = word(off + i, seed);

		memcpy(buf + i, &v, sizeof(v));
	}
}

bool rig_check(const uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = word(off + i, seed);

		if (memcmp(buf + i, &v, sizeof(v)))
			return false;
	}
	return true;
}
