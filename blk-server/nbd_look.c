/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How large the export is now, for a disk that is to grow. A connection of its own is told (LOOKING); if that says another
 * size than the disk has, or the server may be one that takes no other connection, each link in use connects anew (RENEWING),
 * and the smallest that one was told counts.
 */
#include <errno.h>
#include <libnbd.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "disk.h"
#include "nbd_priv.h"
#include "num.h"

/* Together less than the supervisor waits for an answer. */
#define LOOK_NS  NS_PER_S
#define RENEW_NS (3 * NS_PER_S)

static void hang_up(struct nbd_look *look)
{
	if (!look->handle)
		return;
	loop_del_fd(look->watch);
	look->watch = NULL;
	nbd_aio_disconnect(look->handle, 0);
	nbd_close(look->handle);
	close(look->fd);
	look->handle = NULL;
}

static void stop(struct nbd_look *look)
{
	hang_up(look);
	loop_del_fd(look->renewed);
	loop_del_timer(look->timer);
	*look = (struct nbd_look) { .answers = look->answers };
}

void nbd_look_end(struct disk *disk)
{
	struct nbd_look *look = disk->nbd ? &disk->nbd->look : NULL;

	if (!look)
		return;
	stop(look);
	loop_del_fd(look->answers);
	look->answers = NULL;
}

static void finish(struct nbd *nbd, int err, uint64_t bytes)
{
	nbd_looked_fn done = nbd->look.done;

	stop(&nbd->look);
	done(nbd->disk, err, bytes);
}

/* ---- RENEWING ---- */

/* The smallest that a link was told. 0 or -errno: -EAGAIN if one is not connected anew yet. */
static int smallest(struct nbd *nbd, uint64_t *bytes)
{
	int err = -ENOTCONN;

	*bytes = UINT64_MAX;
	for (unsigned i = 0; i < nbd->nlinks; i++) {
		uint64_t its;
		int e = nbd_link_bytes(&nbd->link[i], &its);

		if (e == -EAGAIN)
			return e;
		if (e)
			continue;
		*bytes = MIN(*bytes, its);
		err = 0;
	}
	return err;
}

static void on_renewed(void *arg, uint32_t events)
{
	struct nbd *nbd = arg;
	uint64_t n, bytes;
	int err;

	(void)events;
	(void)!read(nbd->renewed, &n, sizeof(n));
	err = smallest(nbd, &bytes);
	if (err != -EAGAIN)
		finish(nbd, err, bytes);
}

static void renew(struct nbd *nbd)
{
	struct nbd_look *look = &nbd->look;
	int err;

	hang_up(look);
	look->asked = false;
	for (unsigned i = 0; i < nbd->nlinks; i++)
		nbd_link_renew(&nbd->link[i]);
	loop_arm_timer(look->timer, clock_ns() + RENEW_NS);
	err = loop_add_fd(look->loop, nbd->renewed, EPOLLIN, on_renewed, nbd, &look->renewed);
	if (err)
		finish(nbd, err, 0);
	else
		on_renewed(nbd, 0);
}

/* ---- LOOKING ---- */

static void on_told(struct nbd *nbd)
{
	uint64_t bytes;

	if (!nbd_fits(nbd, nbd->look.handle, &bytes))
		finish(nbd, -ESTALE, 0);
	else if (bytes == disk_bytes(nbd->disk))
		finish(nbd, 0, bytes);
	else
		renew(nbd);
}

static uint32_t events_of(struct nbd_handle *h)
{
	unsigned direction = nbd_aio_get_direction(h);

	return (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0U) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0U);
}

/* libnbd may have come to the end of it already when it was given the connection. */
static void go_on(struct nbd *nbd)
{
	struct nbd_handle *h = nbd->look.handle;

	if (nbd_aio_is_ready(h))
		on_told(nbd);
	else if (nbd_is_over(h))
		finish(nbd, -ECONNRESET, 0);
	else
		loop_mod_fd(nbd->look.watch, events_of(h));
}

static void on_connection(void *arg, uint32_t events)
{
	struct nbd *nbd = arg;
	struct nbd_handle *h = nbd->look.handle;
	uint32_t wanted = events_of(h);

	/* Libnbd would wait for what is not there. */
	if (events & EPOLLOUT && wanted & EPOLLOUT)
		nbd_aio_notify_write(h);
	else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && wanted & EPOLLIN)
		nbd_aio_notify_read(h);
	go_on(nbd);
}

static void on_answer(void *arg, uint32_t events)
{
	struct nbd *nbd = arg;
	struct nbd_look *look = &nbd->look;
	int fd, err = dial_take(&nbd->dial, &fd);

	(void)events;
	if (err == -EAGAIN)
		return;
	/* Given up meanwhile: a server that takes one connection at a time would wait for what comes over it. */
	if (!look->asked) {
		if (!err)
			close(fd);
		return;
	}
	look->asked = false;
	if (!err) {
		look->handle = nbd_shake(nbd, fd);
		look->fd = fd;
		if (!look->handle) {
			close(fd);
			err = -EIO;
		}
	}
	if (!err)
		err = loop_add_fd(look->loop, fd, events_of(look->handle), on_connection, nbd, &look->watch);
	if (err == -EBUSY && !(nbd->flags & NBD_MULTI))
		renew(nbd); /* it takes no other now */
	else if (err)
		finish(nbd, err, 0);
	else
		go_on(nbd);
}

static void on_time(void *arg)
{
	struct nbd *nbd = arg;

	if (nbd->look.renewed || nbd->flags & NBD_MULTI)
		finish(nbd, -ETIMEDOUT, 0);
	else
		renew(nbd);
}

int nbd_look(struct disk *disk, struct loop *loop, nbd_looked_fn done)
{
	struct nbd *nbd = disk->nbd;
	struct nbd_look *look = &nbd->look;
	int err;

	if (look->loop)
		return -EBUSY;
	look->loop = loop;
	look->done = done;
	err = loop_add_timer(loop, on_time, nbd, &look->timer);
	if (!err && !look->answers)
		err = loop_add_fd(loop, nbd->dial.mine, EPOLLIN, on_answer, nbd, &look->answers);
	if (!err)
		err = dial_ask(&nbd->dial, DIAL_NEW, DIAL_ASIDE);
	if (err) {
		stop(look);
		return err;
	}
	look->asked = true;
	loop_arm_timer(look->timer, clock_ns() + LOOK_NS);
	return 0;
}
