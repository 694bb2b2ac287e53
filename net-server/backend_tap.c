/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tap: one descriptor for each pair of rings. The virtio header goes through as it is, so checksums and segmentation
 * are the host's work where the driver wants that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "backend.h"
#include "clean.h"
#include "log.h"
#include "parse.h"

/* Not in every <linux/if_tun.h>. */
#define OFFLOAD_USO4 0x20U
#define OFFLOAD_USO6 0x40U
#define OFFLOAD_USO  (OFFLOAD_USO4 | OFFLOAD_USO6)

static const struct {
	unsigned guest; /* feature by which the driver takes such frames */
	unsigned host;  /* the one by which it sends them */
	unsigned flag;  /* TUNSETOFFLOAD's */
} offloads[] = {
	{ VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CSUM, TUN_F_CSUM },
	{ VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4 },
	{ VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6 },
	{ VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN },
	{ NET_F_GUEST_USO4, NET_F_HOST_USO, OFFLOAD_USO4 },
	{ NET_F_GUEST_USO6, NET_F_HOST_USO, OFFLOAD_USO6 },
};
#define OFFLOADS     (sizeof(offloads) / sizeof(offloads[0]))
#define OFFLOADS_OLD 4 /* those that every kernel has; the others came with Linux 6.2 */

/* The kernel's word for a queue whose interface was deleted, which never is one's again. */
static int gone(int err)
{
	return err == -EBADFD ? -EPIPE : err;
}

static int tap_send(struct backend *b, unsigned pair, struct iovec *iov, int n)
{
	return backend_writev(b->fd[pair], iov, n) < 0 ? gone(-errno) : 0;
}

static ssize_t tap_receive(struct backend *b, unsigned pair, const struct iovec *iov, int n)
{
	ssize_t len = backend_readv(b->fd[pair], iov, n);

	return len < 0 ? gone(-errno) : len;
}

static int tap_attach(struct backend *b, unsigned pair, bool on)
{
	struct ifreq ifr = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (ioctl(b->fd[pair], TUNSETQUEUE, &ifr) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* It is so already, as a predecessor left it, or there is no tap any more. */
	if (ioctl(b->fd[pair], TUNGETIFF, &ifr) < 0)
		return gone(-errno);
	return !(ifr.ifr_flags & IFF_DETACH_QUEUE) == on ? 0 : -EINVAL;
}

static int tap_set_offload(struct backend *b, uint64_t features)
{
	unsigned flags = 0;

	for (size_t i = 0; i < OFFLOADS; i++)
		if (features & NET_BIT(offloads[i].guest))
			flags |= offloads[i].flag;
	/* What the kernel refuses though a driver may accept it. */
	if (!(flags & (TUN_F_TSO4 | TUN_F_TSO6)))
		flags &= ~TUN_F_TSO_ECN;
	if ((flags & OFFLOAD_USO) != OFFLOAD_USO)
		flags &= ~OFFLOAD_USO;
	if (!(flags & TUN_F_CSUM))
		flags = 0;
	return ioctl(b->fd[0], TUNSETOFFLOAD, (unsigned long)flags) < 0 ? gone(-errno) : 0;
}

static const struct backend_ops tap_ops = {
	.name = "tap",
	.vnet = true,
	.once = true,
	.send = tap_send,
	.receive = tap_receive,
	.attach = tap_attach,
	.set_offload = tap_set_offload,
	.close = backend_close_fds,
};

/*
 * What this kernel can do: by its version, since trying would change a tap that another process, whose spare this one is,
 * serves meanwhile.
 */
static void find_features(struct backend *b)
{
	struct utsname system;
	unsigned long major = 0, minor = 0;
	size_t n = OFFLOADS_OLD;
	char *dot;

	if (uname(&system) == 0) {
		major = strtoul(system.release, &dot, 10);
		minor = *dot == '.' ? strtoul(dot + 1, NULL, 10) : 0;
	}
	if (major > 6 || (major == 6 && minor >= 2))
		n = OFFLOADS;
	for (size_t i = 0; i < n; i++)
		b->features |= NET_BIT(offloads[i].guest) | NET_BIT(offloads[i].host);
}

/* The header's size, and no more that can be set without privileges. */
static int set_up(struct backend *b, unsigned pair)
{
	int bytes = NET_HDR_BYTES;

	return ioctl(b->fd[pair], TUNSETVNETHDRSZ, &bytes) < 0 ? -errno : 0;
}

static int open_queue(const char *name, bool many, int *out)
{
	CLEAN_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct ifreq ifr = { .ifr_flags =
				 (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0)) };

	if (fd < 0)
		return -errno;
	memcpy(ifr.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		return -errno;
	*out = take_fd(&fd);
	return 0;
}

static int open_pair(struct backend *b, const char *name, unsigned pair)
{
	int err = open_queue(name, b->pairs > 1, &b->fd[pair]);

	/* One that was made for several queues can be had only so. */
	if (err == -EINVAL && b->pairs == 1)
		err = open_queue(name, true, &b->fd[pair]);
	return err ? err : set_up(b, pair);
}

int backend_open_tap(struct backend *b, const char *name)
{
	int err = 0;

	b->ops = &tap_ops;
	b->name = name;
	if (strlen(name) >= IFNAMSIZ) {
		log_error("--tap %s: must be at most %d characters", name, IFNAMSIZ - 1);
		return -ENAMETOOLONG;
	}
	for (unsigned i = 0; i < b->pairs && !err; i++)
		err = open_pair(b, name, i);
	if (err) {
		log_error_errno(err, "--tap %s can't be opened", name);
		backend_close_fds(b);
		return err;
	}
	find_features(b);
	return 0;
}

/* Whether fd is a queue of a tap as we need it; that one's name. */
static int check_queue(int fd, char name[IFNAMSIZ])
{
	struct ifreq ifr = { .ifr_flags = 0 };

	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return -errno;
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI) || !(ifr.ifr_flags & IFF_VNET_HDR))
		return -EINVAL;
	memcpy(name, ifr.ifr_name, IFNAMSIZ - 1);
	return 0;
}

static int take_queue(struct backend *b, unsigned pair, const char *word)
{
	uint64_t fd;
	int err;

	if (parse_u64(word, 3, 1023, &fd)) {
		log_error("--tap-fd %s: must be a descriptor from 3 to 1023", word);
		return -EINVAL;
	}
	b->fd[pair] = (int)fd;
	err = backend_take_fd((int)fd, "tap-fd");
	if (err)
		return err;
	err = check_queue((int)fd, b->tap);
	if (!err)
		err = set_up(b, pair);
	/* A predecessor may have served it until it was deleted: to end for that would only have us started anew. */
	if (err == -EBADFD) {
		b->gone = true;
		return 0;
	}
	if (err)
		log_error_errno(
		    err, "--tap-fd %s: must be a tap, without packet information, with vnet headers", word);
	return err;
}

static unsigned count_words(const char *list)
{
	unsigned n = 1;

	for (; *list; list++)
		n += *list == ',';
	return n;
}

int backend_open_tap_fds(struct backend *b, const char *fds)
{
	CLEAN_FREE char *copy = strdup(fds);
	char *rest = copy;
	int err = copy ? 0 : -ENOMEM;

	b->ops = &tap_ops;
	b->name = "the tap";
	if (count_words(fds) != b->pairs) {
		log_error("--tap-fd %s: must be as many descriptors as there are queues (%u)", fds, b->pairs);
		return -EINVAL;
	}
	for (unsigned i = 0; !err && i < b->pairs; i++)
		err = take_queue(b, i, strsep(&rest, ","));
	if (*b->tap)
		b->name = b->tap;
	if (err) {
		backend_close_fds(b);
		return err;
	}
	find_features(b);
	return 0;
}
