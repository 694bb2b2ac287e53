/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a port's frames come from and go to: a tap, a packet socket, a stream. What differs between them is in the ops;
 * rx.c and tx.c know none of them.
 *
 * Threads: a pair's descriptor belongs to the I/O thread of its rings, which alone calls send, receive and flush for it.
 * attach and set_offload are the main thread's.
 */
#ifndef BACKEND_H
#define BACKEND_H

#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define NET_PAIRS_MAX  31    /* two rings each and one for control are at most 64 */
#define NET_IOV        1022  /* vectors of a chain: the kernel takes 1024, two are ours */
#define NET_HDR_BYTES  12    /* struct virtio_net_hdr_v1 */
#define NET_ETH_BYTES  14    /* the least that is a frame */
#define NET_FRAME_MAX  65553 /* an IP packet of 64 KiB with Ethernet and VLAN headers */
#define NET_PACKET_MAX (NET_HDR_BYTES + NET_FRAME_MAX)
_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_HDR_BYTES, "virtio 1.2 §5.1.6");

#define NET_BIT(bit) (1ULL << (bit))
/* Not in every <linux/virtio_net.h>. */
#define NET_F_GUEST_USO4 54
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO   56
#define NET_F_NOTF_COAL  53
#define NET_GSO_UDP_L4   5

#define NET_CTRL_NOTF_COAL        6
#define NET_CTRL_NOTF_COAL_TX_SET 0
#define NET_CTRL_NOTF_COAL_RX_SET 1

#define PEER_LINES 1 /* a second, of one that comes and goes: ten times a second, as it may for ever */

struct backend;

struct backend_ops {
	const char *name;
	bool anew; /* each process has a connection of its own, which who is behind it must learn of */
	bool vnet; /* frames have the virtio header in front, which tells of offloads */
	bool once; /* who is gone stays away, from successors, too, and EPOLLERR tells of it */

	/*
	 * Sends the frame in iov, whose first vector is the header, vnet or not, and the backend's to change: 0.
	 * -EAGAIN: would block, and EPOLLOUT tells when not. Another -errno: this frame can't be sent. -EPIPE: the peer
	 * is gone.
	 */
	int (*send)(struct backend *b, unsigned pair, struct iovec *iov, int n);
	/*
	 * Reads the next frame into iov, the header in front only if vnet: its bytes. -EAGAIN: there is none, and EPOLLIN
	 * tells of the next. -EPIPE: the peer is gone and there will be none.
	 */
	ssize_t (*receive)(struct backend *b, unsigned pair, const struct iovec *iov, int n);
	/* Goes on with a frame that was accepted in part. 0, or as send. NULL: frames are whole. */
	int (*flush)(struct backend *b, unsigned pair);
	/* A pair takes part, or does not: the host gives it nothing then. NULL: all always do. 0, or -errno as send. */
	int (*attach)(struct backend *b, unsigned pair, bool on);
	/* The driver's features (GUEST_CSUM and its like) from now on. NULL: there are none. 0, or -errno as send. */
	int (*set_offload)(struct backend *b, uint64_t features);
	/* Goes on with another connection, which is the backend's from here on. NULL: there is never another. */
	void (*join)(struct backend *b, int fd);
	void (*close)(struct backend *b);
};

struct backend {
	const struct backend_ops *ops;
	const char *name;  /* for log lines */
	uint64_t features; /* offloads that it carries, as virtio feature bits */
	unsigned pairs;
	int fd[NET_PAIRS_MAX]; /* non-blocking; -1: none, or none yet */
	void *own;             /* the backend's */
	int listener;          /* whose connections, one at a time, are fd[0]; -1: none */
	bool gone;             /* the peer was so before we were there */
	char tap[IFNAMSIZ];    /* the interface's name when it was opened */
};

/* Each opens its kind for b->pairs pairs, before the sandbox, and logs why not. 0 or -errno. */
int backend_open_tap(struct backend *b, const char *name);
int backend_open_tap_fds(struct backend *b, const char *fds);
int backend_open_packet(struct backend *b, int fd);
int backend_open_stream(struct backend *b, const char *path);
int backend_open_stream_fd(struct backend *b, int fd);
int backend_open_listen_fd(struct backend *b, int fd);

/* Whether fd is open; made non-blocking and close-on-exec. Logs, calling it option. */
int backend_take_fd(int fd, const char *option);

/* readv and writev, which in the C library are cancellation points: in a process of several threads that costs as much as
 * a tenth of a small frame. For one place there is read, as the kernel takes longer over a list, be it of one. */
static inline ssize_t backend_readv(int fd, const struct iovec *iov, int n)
{
	if (n == 1)
		return syscall(SYS_read, fd, iov->iov_base, iov->iov_len);
	return syscall(SYS_readv, fd, iov, n);
}

static inline ssize_t backend_writev(int fd, const struct iovec *iov, int n)
{
	return syscall(SYS_writev, fd, iov, n);
}

/* Closes all descriptors. */
void backend_close_fds(struct backend *b);

#endif
