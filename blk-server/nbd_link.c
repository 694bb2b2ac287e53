/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to an NBD server: made, lost and made again. */
#include <errno.h>
#include <libnbd.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd.h"
#include "log.h"
#include "nbd_priv.h"
#include "num.h"

#define PAUSE_MAX_NS NS_PER_S
#define ANSWER_NS    (10 * NS_PER_S) /* for nbd-dial, which may wait for another link's connection first */
#define SHAKE_NS     (10 * NS_PER_S)

/* ---- a connection is made; the link's thread ---- */

static void watch(struct nbd_link *l, int fd);
static void dial_new(struct nbd_link *l);

static void ask(struct nbd_link *l, enum nbd_link_state state, enum dial_what what, unsigned slot)
    REQUIRES(l->lock)
{
	l->state = state;
	/* One that does not get there is asked again. */
	l->next_at = clock_ns() + (dial_ask(&l->dial, what, slot) ? PAUSE_MAX_NS : ANSWER_NS);
}

static void dial_new(struct nbd_link *l) REQUIRES(l->lock)
{
	ask(l, NBD_DIALLING, DIAL_NEW, l->index);
}

static void set_lost(struct nbd_link *l, uint64_t lost_at) REQUIRES(l->lock)
{
	l->lost_at = lost_at;
	atomic_store(&l->away, lost_at);
	if (l->driver)
		nbd_engine_run(l->driver);
}

static void begin(struct nbd_link *l) REQUIRES(l->lock)
{
	set_lost(l, clock_ns());
	l->slot = l->index;
	if (l->settled)
		dial_new(l);
	else
		ask(l, NBD_ASKING, DIAL_OLD, l->slot);
}

static void pause_link(struct nbd_link *l) REQUIRES(l->lock)
{
	l->state = NBD_PAUSING;
	l->next_at = clock_ns() + l->pause_ns;
	l->pause_ns = MIN(2 * l->pause_ns, PAUSE_MAX_NS);
}

static void settle_next(struct nbd_link *l) REQUIRES(l->lock)
{
	l->slot += l->nbd->nlinks;
	l->settled = l->slot >= DIAL_SLOTS;
	if (l->settled)
		dial_new(l);
	else
		ask(l, NBD_ASKING, DIAL_OLD, l->slot);
}

static void settle(struct nbd_link *l) REQUIRES(l->lock)
{
	l->next_at = nbd_settle_go(&l->settle);
	if (l->next_at)
		return;
	watch(l, -1);
	nbd_settle_end(&l->settle);
	settle_next(l);
}

static void on_old(struct nbd_link *l, int err, int fd) REQUIRES(l->lock)
{
	if (err) {
		nbd_settle_forget(l->nbd->kept->sent[l->slot]);
		settle_next(l);
		return;
	}
	nbd_settle_begin(&l->settle, fd, l->nbd->kept->sent[l->slot]);
	l->state = NBD_SETTLING;
	watch(l, fd);
	settle(l);
}

static void on_new(struct nbd_link *l, int err, int fd) REQUIRES(l->lock)
{
	struct nbd_handle *h = err ? NULL : nbd_shake(l->nbd, fd);

	if (!h) {
		if (fd >= 0)
			close(fd);
		pause_link(l);
		return;
	}
	l->handle = h;
	l->fd = fd;
	l->state = NBD_SHAKING;
	l->next_at = clock_ns() + SHAKE_NS;
	watch(l, fd);
}

static void drop_handle(struct nbd_link *l) REQUIRES(l->lock)
{
	watch(l, -1);
	nbd_close(l->handle);
	close(l->fd);
	l->handle = NULL;
	l->leaving = false;
}

static void lose(struct nbd_link *l, const char *why) REQUIRES(l->lock)
{
	log_warn_limited("connection %u to the NBD server is lost: %s", l->index, why);
	drop_handle(l);
	nbd_take_back(l);
	set_lost(l, l->lost_at ? l->lost_at : clock_ns());
	pause_link(l);
}

static void shaken(struct nbd_link *l) REQUIRES(l->lock)
{
	if (!nbd_fits(l->nbd, l->handle, &l->bytes)) {
		lose(l, "the export is not what it was");
		return;
	}
	l->renew = false;
	fd_event_set(l->nbd->renewed);
	l->state = NBD_READY;
	l->next_at = 0;
	set_lost(l, 0);
	l->told = false;
	log_info("connection %u to the NBD server is there", l->index);
}

/* ---- libnbd goes on; the link's thread ---- */

/* Whether there is something to read, be it the end or an error. */
static bool is_readable(const struct nbd_link *l) REQUIRES(l->lock)
{
	uint8_t byte;

	return recv(l->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* libnbd takes one answer a call; called with none there it would wait for one, and send nothing until it comes. */
static void read_answers(struct nbd_link *l) REQUIRES(l->lock)
{
	unsigned left = NBD_COMMANDS;

	while (left-- && !nbd_is_over(l->handle) &&
	       nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_READ && is_readable(l))
		nbd_aio_notify_read(l->handle);
}

static void drive(struct nbd_link *l, uint32_t events) REQUIRES(l->lock)
{
	struct nbd_handle *h = l->handle;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		read_answers(l);
	if (events & EPOLLOUT && nbd_aio_get_direction(h) & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(h);
	if (l->leaving) {
		lose(l, "it is about to end");
	} else if (nbd_is_over(h)) {
		const char *why = nbd_get_error();

		lose(l, why ? why : "it ended it");
	} else if (l->state == NBD_SHAKING && nbd_aio_is_ready(h)) {
		shaken(l);
	} else {
		nbd_see_sent(l);
	}
}

/* All that was sent is answered, so nothing is lost with the connection. */
static void renew(struct nbd_link *l) REQUIRES(l->lock)
{
	nbd_aio_disconnect(l->handle, 0);
	drop_handle(l);
	begin(l);
}

static bool has_work(const struct nbd_link *l) REQUIRES(l->lock)
{
	return l->first || l->nwaiting;
}

static void check_outage(struct nbd_link *l) REQUIRES(l->lock)
{
	if (!l->lost_at || !has_work(l) || clock_ns() < l->lost_at + l->nbd->reconnect_ns)
		return;
	if (!l->told)
		log_warn("no connection to the NBD server for %llu s: requests fail from now on",
			 (unsigned long long)(l->nbd->reconnect_ns / NS_PER_S));
	l->told = true;
	nbd_fail_all(l);
}

/* Another nbd-dial has the connection from now on for whoever succeeds this process, or is asked once more. */
static void keep(struct nbd_link *l) REQUIRES(l->lock)
{
	l->unkept = false;
	if (l->handle)
		l->renew |= dial_keep(&l->dial, l->index, l->fd) != 0;
	else if (l->state == NBD_SETTLING)
		dial_keep(&l->dial, l->slot, l->settle.fd);
	else if (l->state == NBD_ASKING || l->state == NBD_DIALLING)
		l->next_at = clock_ns();
}

/* ---- its turn ---- */

static void on_time(struct nbd_link *l) REQUIRES(l->lock)
{
	switch (l->state) {
	case NBD_IDLE:
	case NBD_READY:
		break;
	case NBD_ASKING:
		ask(l, NBD_ASKING, DIAL_OLD, l->slot);
		break;
	case NBD_SETTLING:
		settle(l);
		break;
	case NBD_DIALLING:
	case NBD_PAUSING:
		dial_new(l);
		break;
	case NBD_SHAKING:
		lose(l, "it does not answer");
		break;
	}
}

/* When to come back, by a timer; and what the socket is watched for. */
static void rest(struct nbd_link *l) REQUIRES(l->lock)
{
	uint64_t at = l->next_at, end = l->lost_at + l->nbd->reconnect_ns;
	bool out = l->handle && nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_WRITE;

	if (l->lost_at && has_work(l))
		at = at ? MIN(at, end) : end;
	if (at)
		loop_arm_timer(l->timer, at);
	else
		loop_disarm_timer(l->timer);
	if (l->watch)
		loop_mod_fd(l->watch, out ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void turn(struct nbd_link *l, uint32_t events)
{
	lock_take(&l->lock);
	if (l->unkept)
		keep(l);
	if (l->handle)
		drive(l, events);
	else if (l->state == NBD_SETTLING && events)
		settle(l);
	else if (l->state == NBD_IDLE && (has_work(l) || l->renew))
		begin(l);
	if (l->renew && l->state == NBD_READY && !nbd_is_waiting(l))
		renew(l);
	if (l->next_at && clock_ns() >= l->next_at)
		on_time(l);
	check_outage(l);
	nbd_send(l);
	if (l->handle && nbd_is_over(l->handle))
		lose(l, "it ended it");
	rest(l);
	lock_drop(&l->lock);
}

static void on_event(void *arg, uint32_t events)
{
	turn(arg, events);
}

static void on_timer(void *arg)
{
	turn(arg, 0);
}

static void on_dial(void *arg, uint32_t events)
{
	struct nbd_link *l = arg;
	int fd, err = dial_take(&l->dial, &fd);

	(void)events;
	if (err == -EAGAIN)
		return;
	lock_take(&l->lock);
	if (l->state == NBD_ASKING)
		on_old(l, err, fd);
	else if (l->state == NBD_DIALLING)
		on_new(l, err, fd);
	else if (fd >= 0)
		close(fd);
	lock_drop(&l->lock);
	turn(l, 0);
}

static void on_news(void *arg, uint32_t events)
{
	struct nbd *nbd = arg;

	bool is_new = dial_is_new(&nbd->dial);

	if (events & EPOLLHUP) {
		log_warn("nbd-dial is gone, and there will be no other");
		loop_del_fd(nbd->news);
		nbd->news = NULL;
	}
	for (unsigned i = 0; is_new && i < nbd->nlinks; i++) {
		struct nbd_link *l = &nbd->link[i];

		lock_take(&l->lock);
		l->unkept = true;
		if (l->loop)
			loop_bh_post(&l->bh);
		lock_drop(&l->lock);
	}
}

/* Watches another descriptor, or none (-1). */
static void watch(struct nbd_link *l, int fd)
{
	loop_del_fd(l->watch);
	l->watch = NULL;
	if (fd >= 0 && l->loop && loop_add_fd(l->loop, fd, EPOLLIN, on_event, l, &l->watch))
		log_error("connection %u to the NBD server can't be watched", l->index);
}

void nbd_link_add(struct nbd_link *l, struct engine_io *io)
{
	lock_take(&l->lock);
	nbd_io(io)->next = NULL;
	if (l->last)
		nbd_io(l->last)->next = io;
	else
		l->first = io;
	l->last = io;
	nbd_send(l);
	/* What was not sent to the end, or a connection, is its thread's affair. */
	if ((l->state != NBD_READY || l->sending) && l->loop)
		loop_bh_post(&l->bh);
	lock_drop(&l->lock);
}

void nbd_link_renew(struct nbd_link *l)
{
	lock_take(&l->lock);
	l->renew = true;
	if (l->loop)
		loop_bh_post(&l->bh);
	lock_drop(&l->lock);
}

int nbd_link_bytes(struct nbd_link *l, uint64_t *bytes)
{
	int err;

	lock_take(&l->lock);
	*bytes = l->bytes;
	/* One that no queue is attached to is made anew before it sends anything. */
	err = !l->loop ? -ENOTCONN : l->renew ? -EAGAIN : 0;
	lock_drop(&l->lock);
	return err;
}

/* ---- its life ---- */

int nbd_link_open(struct nbd *nbd, unsigned index)
{
	struct nbd_link *l = &nbd->link[index];

	l->nbd = nbd;
	l->index = index;
	l->settle.fd = -1;
	lock_init(&l->lock);
	lock_take(&l->lock);
	l->pause_ns = NBD_PAUSE_MIN_NS;
	lock_drop(&l->lock);
	return dial_open(&l->dial, nbd->dial_fd);
}

void nbd_link_give(struct nbd *nbd, struct nbd_handle *h, int fd)
{
	struct nbd_link *l = &nbd->link[0];

	lock_take(&l->lock);
	l->handle = h;
	l->fd = fd;
	l->state = NBD_READY;
	l->settled = true;
	lock_drop(&l->lock);
}

void nbd_link_close(struct nbd_link *l)
{
	lock_take(&l->lock);
	if (l->handle) {
		nbd_aio_disconnect(l->handle, 0);
		drop_handle(l);
	}
	lock_drop(&l->lock);
	if (l->settle.fd >= 0)
		close(l->settle.fd); /* a successor goes on with it */
	dial_close(&l->dial);
	lock_destroy(&l->lock);
}

static int current_fd(struct nbd_link *l) REQUIRES(l->lock)
{
	return l->handle ? l->fd : l->settle.fd;
}

int nbd_link_attach(struct nbd_link *l, struct loop *loop)
{
	int err = loop_add_timer(loop, on_timer, l, &l->timer);

	if (!err)
		err = loop_add_fd(loop, l->dial.mine, EPOLLIN, on_dial, l, &l->answers);
	if (!err && l == l->nbd->link)
		err = loop_add_fd(loop, l->nbd->dial_fd, EPOLLIN, on_news, l->nbd, &l->nbd->news);
	if (err)
		return err;
	lock_take(&l->lock);
	l->loop = loop;
	loop_bh_init(&l->bh, loop, on_timer, l);
	watch(l, current_fd(l));
	/* What was handed in meanwhile. */
	loop_bh_post(&l->bh);
	lock_drop(&l->lock);
	return 0;
}

void nbd_link_detach(struct nbd_link *l)
{
	lock_take(&l->lock);
	l->loop = NULL;
	loop_bh_cancel(&l->bh);
	watch(l, -1);
	lock_drop(&l->lock);
	if (l == l->nbd->link) {
		loop_del_fd(l->nbd->news);
		l->nbd->news = NULL;
	}
	loop_del_fd(l->answers);
	loop_del_timer(l->timer);
	l->answers = NULL;
	l->timer = NULL;
}
