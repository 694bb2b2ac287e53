/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slow-file FILE BACKING: a file whose reads and writes the kernel holds for as long as wanted, mounted over FILE by FUSE. It has
 * BACKING's bytes. SIGUSR1: answers no reads and writes from now on; SIGHUP: answers those that come now, but not those that it
 * holds; SIGUSR2: answers all again; SIGTERM: ends. Prints "ready" once it is mounted, "held" for each request that it holds, and
 * "holding", "passing" or "free" when it has done what a signal asked for.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REQUEST_MAX (1U << 18)
#define BACKGROUND  1024 /* requests that the kernel passes on at a time: more than a queue has */

enum mode { FREE, PASSING, HOLDING };

struct held {
	struct held *next;
	uint32_t len;
	_Alignas(uint64_t) char request[];
};

static int fuse_fd, backing_fd;
static struct held *first, **last = &first;
static volatile sig_atomic_t mode = FREE, ending;

static void on_signal(int sig)
{
	if (sig == SIGTERM)
		ending = 1;
	else
		mode = sig == SIGUSR1 ? HOLDING : sig == SIGHUP ? PASSING : FREE;
}

static void reply(const struct fuse_in_header *in, int error, const void *data, size_t len)
{
	struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + len),
				       .error = error,
				       .unique = in->unique };
	struct iovec iov[] = { { &out, sizeof(out) }, { (void *)(uintptr_t)data, len } };

	/* A request that was interrupted meanwhile is not there any more. */
	if (writev(fuse_fd, iov, 2) < 0 && errno != ENOENT)
		perror("slow-file: reply");
}

static void init(const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_init_in *want = arg;
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
				     .minor = FUSE_KERNEL_MINOR_VERSION,
				     .max_readahead = want->max_readahead,
				     .flags =
					 want->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES),
				     .max_background = BACKGROUND,
				     .congestion_threshold = BACKGROUND,
				     .max_write = 1U << 17,
				     .time_gran = 1 };

	reply(in, 0, &out, sizeof(out));
}

static void get_attr(const struct fuse_in_header *in)
{
	struct fuse_attr_out out = { .attr_valid = 3600 };
	struct stat st;

	if (fstat(backing_fd, &st) < 0) {
		reply(in, -errno, NULL, 0);
		return;
	}
	out.attr.ino = FUSE_ROOT_ID;
	out.attr.size = (uint64_t)st.st_size;
	out.attr.blocks = (uint64_t)st.st_blocks;
	out.attr.mode = S_IFREG | 0666;
	out.attr.nlink = 1;
	out.attr.blksize = 4096;
	reply(in, 0, &out, sizeof(out));
}

static void transfer(const struct fuse_in_header *in, const void *arg)
{
	static char data[REQUEST_MAX];
	const struct fuse_read_in *r = arg;
	const struct fuse_write_in *w = arg;
	struct fuse_write_out out = { 0 };
	ssize_t n;

	if (in->opcode == FUSE_READ) {
		n = r->size > sizeof(data) ? -1 : pread(backing_fd, data, r->size, (off_t)r->offset);
		reply(in, n < 0 ? -EIO : 0, data, n < 0 ? 0 : (size_t)n);
		return;
	}
	n = pwrite(backing_fd, w + 1, w->size, (off_t)w->offset);
	out.size = n < 0 ? 0 : (uint32_t)n;
	reply(in, n < 0 ? -EIO : 0, &out, n < 0 ? 0 : sizeof(out));
}

static void hold(const struct fuse_in_header *in)
{
	struct held *h = malloc(sizeof(*h) + in->len);

	if (!h)
		abort();
	h->next = NULL;
	h->len = in->len;
	memcpy(h->request, in, in->len);
	*last = h;
	last = &h->next;
	puts("held");
	fflush(stdout);
}

static void release(void)
{
	while (first) {
		struct held *h = first;
		struct fuse_in_header in;

		memcpy(&in, h->request, sizeof(in));
		transfer(&in, h->request + sizeof(in));
		first = h->next;
		free(h);
	}
	last = &first;
}

static void serve(const struct fuse_in_header *in)
{
	const void *arg = in + 1;
	const struct fuse_open_out open_out = { .fh = 1 };
	const struct fuse_statfs_out statfs_out = { .st = { .bsize = 4096, .frsize = 4096 } };

	switch (in->opcode) {
	case FUSE_INIT:
		init(in, arg);
		break;
	case FUSE_GETATTR:
		get_attr(in);
		break;
	case FUSE_OPEN:
		reply(in, 0, &open_out, sizeof(open_out));
		break;
	case FUSE_STATFS:
		reply(in, 0, &statfs_out, sizeof(statfs_out));
		break;
	case FUSE_READ:
	case FUSE_WRITE:
		if (mode == HOLDING)
			hold(in);
		else
			transfer(in, arg);
		break;
	case FUSE_FSYNC:
		reply(in, fsync(backing_fd) ? -errno : 0, NULL, 0);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_DESTROY:
		reply(in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break; /* have no answer */
	default:
		reply(in, -ENOSYS, NULL, 0);
	}
}

static int mount_it(const char *file, const char *backing)
{
	char data[128];

	backing_fd = open(backing, O_RDWR | O_CLOEXEC);
	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (backing_fd < 0 || fuse_fd < 0)
		return -1;
	snprintf(data, sizeof(data), "fd=%d,rootmode=100000,user_id=0,group_id=0,allow_other", fuse_fd);
	return mount("slow-file", file, "fuse", MS_NOSUID | MS_NODEV, data);
}

static void tell(enum mode now)
{
	static const char *const names[] = { [FREE] = "free", [PASSING] = "passing", [HOLDING] = "holding" };

	puts(names[now]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static union {
		struct fuse_in_header in;
		char bytes[REQUEST_MAX];
	} buf;
	struct sigaction sa = { .sa_handler = on_signal };
	struct pollfd p = { .events = POLLIN };
	enum mode was = FREE;
	sigset_t block, open;

	sigemptyset(&block);
	for (unsigned i = 0; i < 4; i++) {
		static const int signals[] = { SIGUSR1, SIGHUP, SIGUSR2, SIGTERM };

		sigaddset(&block, signals[i]);
		sigaction(signals[i], &sa, NULL);
	}
	sigprocmask(SIG_BLOCK, &block, &open);
	if (argc != 3 || mount_it(argv[1], argv[2])) {
		perror("slow-file");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	p.fd = fuse_fd;
	while (!ending) {
		if (ppoll(&p, 1, NULL, &open) > 0 &&
		    read(fuse_fd, &buf, sizeof(buf)) >= (ssize_t)sizeof(buf.in))
			serve(&buf.in);
		else if (p.revents & POLLERR)
			break; /* unmounted */
		if (mode == FREE)
			release();
		if (was != (enum mode)mode)
			tell(was = (enum mode)mode);
	}
	release();
	umount2(argv[1], MNT_DETACH);
	return 0;
}
