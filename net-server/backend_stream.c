/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of frames, each with its length in front in 32 bits, big-endian: what passt speaks, and QEMU's "-netdev stream".
 *
 * A stream can be cut anywhere. What comes is read into memory of our own, as much as there is, and frames are copied from
 * there; what goes is written from where it lies, and the rest of a frame that did not go whole is kept, after which
 * nothing else may go first.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend.h"
#include "clean.h"
#include "fd.h"
#include "log.h"
#include "vec.h"

#define LENGTH_BYTES 4
#define IN_BYTES     (256U << 10) /* more than any frame */

struct stream {
	uint32_t length; /* of the frame that is sent, as it stands in front of it */
	size_t in_at, in_end;
	size_t out_at, out_end;
	uint8_t in[IN_BYTES];
	uint8_t out[LENGTH_BYTES + NET_FRAME_MAX];
};

static int gone(int err)
{
	return err == -ECONNRESET ? -EPIPE : err;
}

static int stream_flush(struct backend *b, unsigned pair)
{
	struct stream *s = b->own;

	while (s->out_at < s->out_end) {
		const struct iovec rest = { .iov_base = s->out + s->out_at,
					    .iov_len = s->out_end - s->out_at };
		ssize_t done = backend_writev(b->fd[pair], &rest, 1);

		if (done < 0)
			return gone(-errno);
		s->out_at += (size_t)done;
	}
	return 0;
}

static int stream_send(struct backend *b, unsigned pair, struct iovec *iov, int n)
{
	struct stream *s = b->own;
	int err = stream_flush(b, pair);
	size_t len = 0;
	ssize_t done;

	if (err)
		return err;
	for (int i = 1; i < n; i++)
		len += iov[i].iov_len;
	s->length = htobe32((uint32_t)len);
	iov[0] = (struct iovec) { .iov_base = &s->length, .iov_len = LENGTH_BYTES };
	len += LENGTH_BYTES;
	done = backend_writev(b->fd[pair], iov, n);
	if (done < 0)
		return gone(-errno);
	s->out_at = 0;
	s->out_end = vec_get(iov, n, (size_t)done, s->out, len - (size_t)done);
	return 0;
}

/* Reads more of the stream. 0 or -errno. */
static int fill(struct stream *s, int fd)
{
	struct iovec room;
	ssize_t got;

	if (s->in_at) {
		memmove(s->in, s->in + s->in_at, s->in_end - s->in_at);
		s->in_end -= s->in_at;
		s->in_at = 0;
	}
	room = (struct iovec) { .iov_base = s->in + s->in_end, .iov_len = IN_BYTES - s->in_end };
	got = backend_readv(fd, &room, 1);
	if (got <= 0)
		return got ? gone(-errno) : -EPIPE;
	s->in_end += (size_t)got;
	return 0;
}

static ssize_t stream_receive(struct backend *b, unsigned pair, const struct iovec *iov, int n)
{
	struct stream *s = b->own;

	for (;;) {
		size_t have = s->in_end - s->in_at;
		uint32_t len = 0;
		int err;

		if (have >= LENGTH_BYTES) {
			memcpy(&len, s->in + s->in_at, LENGTH_BYTES);
			len = be32toh(len);
			if (!len || len > NET_FRAME_MAX) {
				log_limited(LOG_LEVEL_ERROR, PEER_LINES,
					    "%s: a frame of %u bytes: that is no stream of frames", b->name,
					    len);
				return -EPIPE;
			}
			if (have >= LENGTH_BYTES + len) {
				vec_put(iov, n, 0, s->in + s->in_at + LENGTH_BYTES, len);
				s->in_at += LENGTH_BYTES + len;
				return (ssize_t)len;
			}
		}
		err = fill(s, b->fd[pair]);
		if (err)
			return err;
	}
}

/* Nothing of the last connection's frames belongs to this one. */
static void stream_join(struct backend *b, int fd)
{
	struct stream *s = b->own;

	backend_close_fds(b);
	b->fd[0] = fd;
	s->in_at = s->in_end = s->out_at = s->out_end = 0;
}

static void stream_close(struct backend *b)
{
	backend_close_fds(b);
	if (b->listener >= 0)
		close(b->listener);
	free(b->own);
	b->own = NULL;
}

static const struct backend_ops stream_ops = {
	.name = "stream",
	.anew = true,
	.send = stream_send,
	.receive = stream_receive,
	.flush = stream_flush,
	.join = stream_join,
	.close = stream_close,
};

static int use(struct backend *b, int fd, const char *name)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s) {
		log_error("no memory for a stream");
		return -ENOMEM;
	}
	b->ops = &stream_ops;
	b->name = name;
	b->own = s;
	b->fd[0] = fd;
	return 0;
}

static int check_pairs(const struct backend *b, const char *option)
{
	if (b->pairs == 1)
		return 0;
	log_error("--%s has one queue, and --queues says %u", option, b->pairs);
	return -EINVAL;
}

int backend_open_stream_fd(struct backend *b, int fd)
{
	socklen_t len = sizeof(int);
	int type = 0, err = check_pairs(b, "stream-fd");

	if (!err)
		err = backend_take_fd(fd, "stream-fd");
	if (err)
		return err;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM) {
		log_error("--stream-fd %d: must be a connected stream socket", fd);
		return -EINVAL;
	}
	return use(b, fd, "of --stream-fd");
}

int backend_open_listen_fd(struct backend *b, int fd)
{
	socklen_t len = sizeof(int);
	int on = 0, err = check_pairs(b, "listen-fd");

	if (!err)
		err = backend_take_fd(fd, "listen-fd");
	if (err)
		return err;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0 || !on) {
		log_error("--listen-fd %d: must be a listening stream socket", fd);
		return -EINVAL;
	}
	err = use(b, -1, "of --listen-fd");
	if (!err)
		b->listener = fd;
	return err;
}

int backend_open_stream(struct backend *b, const char *path)
{
	CLEAN_FD int fd = -1;
	int err = check_pairs(b, "stream");

	if (err)
		return err;
	fd = fd_connect(path);
	if (fd == -ENAMETOOLONG)
		log_error("--stream %s: must be at most %d bytes", path, FD_SOCKET_MAX);
	else if (fd < 0)
		log_error_errno(fd, "--stream %s: nobody can be connected to", path);
	if (fd < 0)
		return fd;
	err = backend_take_fd(fd, "stream");
	if (!err)
		err = use(b, fd, path);
	if (!err)
		take_fd(&fd);
	return err;
}
