/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue. Theory of operation: each request of the driver's becomes one of at most four descriptors in the window: its
 * first vector, if short (a header); what else the device reads; what it writes; and the last vector, if short (a status). Short
 * ones lie in the slot's small place, the rest in pages, so that what a disk transfers is aligned whatever stood before it.
 * What the driver wrote is copied in once, before the server sees it, and nothing of that is looked at again. What the
 * server wrote is copied out once, when it says so, and is of no meaning here: that it names a request it was given, and no
 * more bytes than that one has room for, is all that is checked, and all that there is to check.
 *
 * A server that breaks these rules was taken over, or is broken: the process ends, as with whatever else it can't go on
 * with. Its successor, and that server's, begin with the driver's requests as its in-flight region has them.
 *
 * Where the request has no room, nothing more is taken until others are answered, which the server's call tells; so nobody
 * is overtaken, and nothing spins.
 */
#include "lane.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fd.h"
#include "log.h"
#include "loop.h"
#include "num.h"
#include "window.h"

#define BATCH                                                                                                \
	8 /* requests that the server is shown at once, so that it works on them while others are copied */

static void count(_Atomic uint64_t *stat, uint64_t n)
{
	atomic_store_explicit(stat, atomic_load_explicit(stat, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static bool is_up(const struct lane *l)
{
	return atomic_load(&l->window->up) && !atomic_load(&l->window->lost) && l->on && !l->dead;
}

/* ---- slots ---- */

static void clear_slots(struct lane *l)
{
	for (int i = 0; i < OUTRING_SLOTS; i++) {
		l->slot[i].busy = false;
		l->slot[i].in = l->vectors + (size_t)i * LANE_IOV;
		l->slot[i].next = i + 1 < OUTRING_SLOTS ? i + 1 : -1;
	}
	l->free = 0;
	l->taken = 0;
	l->waiting = false;
	arena_clear(&l->arena);
}

static void put_slot(struct lane *l, struct lane_slot *s)
{
	if (s->pages)
		arena_give(&l->arena, s->first, s->pages);
	s->busy = false;
	s->next = l->free;
	l->free = (int)(s - l->slot);
	l->taken--;
}

static uint8_t *stub_of(const struct lane *l, const struct lane_slot *s)
{
	return share_stub(&l->window->share, l->index, (unsigned)(s - l->slot));
}

static uint8_t *bytes_of(const struct lane *l, const struct lane_slot *s)
{
	return l->pages + (size_t)s->first * SHARE_PAGE;
}

/* ---- into the window ---- */

static uint32_t pages_for(uint32_t bytes)
{
	return bytes / SHARE_PAGE + (bytes % SHARE_PAGE != 0);
}

/* A vector that is short enough, and not all that there is of its kind but where that is short, too. */
static uint16_t stub_len(const struct iovec *iov)
{
	return iov->iov_len <= SHARE_STUB ? (uint16_t)iov->iov_len : 0;
}

/* Where the request's bytes are to be, but for the pages themselves; so many it needs. */
static uint32_t lay_out(struct lane_slot *s, const struct vq_chain *c)
{
	uint32_t out;

	s->out_stub = c->out_num ? stub_len(&c->iov[0]) : 0;
	s->in_stub = c->in_num ? stub_len(&c->iov[c->out_num + c->in_num - 1]) : 0;
	out = c->out_len - s->out_stub;
	s->in_at = pages_for(out) * SHARE_PAGE;
	s->in_len = c->in_len;
	return pages_for(out) + pages_for(c->in_len - s->in_stub);
}

static void copy_into(struct lane *l, const struct lane_slot *s, const struct vq_chain *c)
{
	uint8_t *to = bytes_of(l, s);

	for (unsigned i = 0; i < c->out_num; i++) {
		const struct iovec *v = &c->iov[i];

		if (i == 0 && s->out_stub) {
			memcpy(stub_of(l, s), v->iov_base, v->iov_len);
			continue;
		}
		memcpy(to, v->iov_base, v->iov_len);
		to += v->iov_len;
	}
	count(&l->stats.into, c->out_len);
}

static void hand_on(struct lane *l, struct lane_slot *s, const struct vq_chain *c)
{
	const struct share *share = &l->window->share;
	uint64_t stub = share_gpa(share, stub_of(l, s)), pages = share_gpa(share, bytes_of(l, s));
	const struct outring_part all[OUTRING_PARTS] = {
		{ .gpa = stub, .len = s->out_stub },
		{ .gpa = pages, .len = c->out_len - s->out_stub },
		{ .gpa = pages + s->in_at, .len = s->in_len - s->in_stub, .write = true },
		{ .gpa = stub + SHARE_STUB, .len = s->in_stub, .write = true },
	};
	struct outring_part parts[OUTRING_PARTS];
	unsigned n = 0;

	for (unsigned i = 0; i < OUTRING_PARTS; i++)
		if (all[i].len)
			parts[n++] = all[i];
	outring_add(&l->ring, (uint16_t)(s - l->slot), parts, n);
}

/* Processes died of it, or it failed before: it is answered here. */
static void refuse(struct lane *l, const struct vq_chain *c)
{
	const struct iovec *last = &c->iov[c->out_num + c->in_num - 1];
	bool status = c->in_num;
	uint8_t *at = status ? (uint8_t *)last->iov_base + last->iov_len - 1 : NULL;

	if (c->poisoned)
		server_poisoned(l->queue, c->head);
	if (status) {
		*(volatile uint8_t *)at = VIRTIO_BLK_S_IOERR;
		mem_dirty_ptr(server_mem(l->queue), at, 1);
	}
	l->taken--;
	server_push(l->queue, c->head, status, VIRTIO_BLK_S_IOERR);
}

/* Gives l->chain to the server; false if it has to wait for room. */
static bool pass_one(struct lane *l)
{
	const struct vq_chain *c = &l->chain;
	struct lane_slot *s = &l->slot[l->free];
	uint32_t need;

	if (c->poisoned || c->failed) {
		refuse(l, c);
		return true;
	}
	need = lay_out(s, c);
	if (need > l->arena.pages) {
		l->taken--;
		server_break(l->queue, "a request larger than the window");
		return true;
	}
	s->pages = need;
	s->first = need ? arena_take(&l->arena, need) : 0;
	if (s->first == ARENA_NONE)
		return false;
	l->free = s->next;
	s->busy = true;
	s->head = c->head;
	s->in_num = c->in_num;
	memcpy(s->in, c->iov + c->out_num, c->in_num * sizeof(*s->in));
	copy_into(l, s, c);
	hand_on(l, s, c);
	return true;
}

static bool next_chain(struct lane *l)
{
	if (l->waiting)
		return l->free >= 0;
	if (l->free < 0)
		return false;
	l->chain.iov = l->iov;
	if (server_pop(l->queue, &l->chain) <= 0)
		return false;
	l->taken++;
	return true;
}

static void show(struct lane *l)
{
	if (l->ring.added != l->ring.shown && outring_show(&l->ring))
		fd_event_set(l->kick);
}

static bool pass_on(struct lane *l)
{
	unsigned n = 0;

	while (next_chain(l)) {
		bool waited = l->waiting;

		l->waiting = !pass_one(l);
		/* From here on it is no work of ours that a process could die of. */
		server_lay_down(l->queue);
		if (l->waiting) {
			if (!waited)
				count(&l->stats.waits, 1);
			break;
		}
		if (++n % BATCH == 0)
			show(l);
	}
	show(l);
	return n;
}

/* ---- out of the window ---- */

/* The bytes [from, to) of what the server wrote, into the driver's vectors. */
static void copy_out(struct lane *l, const struct lane_slot *s, uint32_t from, uint32_t to)
{
	const struct mem *mem = server_mem(l->queue);
	uint32_t at = 0, in_pages = s->in_len - s->in_stub;

	for (unsigned i = 0; i < s->in_num && at < to; i++) {
		uint32_t len = (uint32_t)s->in[i].iov_len, begin = MAX(at, from), end = MIN(at + len, to);
		const uint8_t *src = at < in_pages || !s->in_stub
					 ? bytes_of(l, s) + s->in_at + begin
					 : stub_of(l, s) + SHARE_STUB + (begin - in_pages);
		uint8_t *dst = (uint8_t *)s->in[i].iov_base + (begin - at);

		at += len;
		if (begin >= end)
			continue;
		memcpy(dst, src, end - begin);
		if (mem_logging(mem))
			mem_dirty_ptr(mem, dst, end - begin);
		count(&l->stats.out_of, end - begin);
	}
}

__attribute__((noreturn)) static void condemn(const struct lane *l, const char *what)
{
	log_error("queue %u: the device's server broke its ring (%s): ending, so that both are replaced",
		  l->index, what);
	_exit(1);
}

/* A status byte is the last one of all, and counts among those written wherever they end (virtio 1.2 §5.2.6). */
static void give_back(struct lane *l, struct lane_slot *s, uint32_t len)
{
	uint32_t data = len;

	if (len && len < s->in_len) {
		data = len - 1;
		copy_out(l, s, s->in_len - 1, s->in_len);
	}
	copy_out(l, s, 0, data);
	server_push(l->queue, s->head, len, 0);
	put_slot(l, s);
}

static bool take_back(struct lane *l)
{
	unsigned n = 0;
	uint16_t slot;
	uint32_t len;
	int got;

	while ((got = outring_take(&l->ring, &slot, &len)) == 1) {
		struct lane_slot *s = &l->slot[slot];

		if (!s->busy)
			condemn(l, "it completes what it was not given");
		if (len > s->in_len)
			condemn(l, "it wrote more than there is room for");
		give_back(l, s, len);
		n++;
	}
	if (got == -EPROTO)
		condemn(l, "its index jumps");
	if (got)
		condemn(l, "it names what is no request");
	return n;
}

/* ---- for lib/server ---- */

/* Whoever kicks where nothing new is wants to know if the device lives: that is for its server to show. */
static void ask(struct lane *l)
{
	if (l->taken)
		fd_event_set(l->kick);
}

bool lane_service(struct lane *l)
{
	bool did;

	if (!is_up(l))
		return false;
	did = take_back(l);
	did |= pass_on(l);
	if (l->asked && !did)
		ask(l);
	l->asked = false;
	return did;
}

void lane_kicked(struct lane *l)
{
	l->asked = true;
}

bool lane_has_room(const struct lane *l)
{
	return is_up(l) && l->free >= 0 && !l->waiting;
}

bool lane_pending(struct lane *l)
{
	return is_up(l) && outring_want_call(&l->ring);
}

void lane_set_ring(struct lane *l, bool on)
{
	bool before = l->on;

	/* One that is disabled goes on with what was taken. */
	l->on = on || l->taken;
	if (l->on != before)
		window_count_ring(l->window, l->on);
}

void lane_forget(struct lane *l)
{
	clear_slots(l);
}

/* No request is out: all were answered, or forgotten. */
void lane_prepare(struct lane *l, bool event_idx)
{
	outring_init(&l->ring, share_ring(&l->window->share, l->index), event_idx);
	l->dead = false;
}

static void on_call(void *arg, uint32_t events)
{
	struct lane *l = arg;

	(void)events;
	server_run(l->queue);
}

/* There is a request that the server can't answer, as one without room for a status: nothing that it has will be. */
static void on_err(void *arg, uint32_t events)
{
	struct lane *l = arg;

	(void)events;
	if (!is_up(l) || !l->taken)
		return;
	l->dead = true;
	for (unsigned n = l->taken; n; n--)
		server_break(l->queue, "its disk's server gave it up");
	clear_slots(l);
}

int lane_attach(struct lane *l)
{
	struct loop *loop = server_loop(l->queue);
	int err = loop_add_fd(loop, l->call, EPOLLIN | EPOLLET, on_call, l, &l->watch);

	return err ? err : loop_add_fd(loop, l->err, EPOLLIN | EPOLLET, on_err, l, &l->err_watch);
}

void lane_detach(struct lane *l)
{
	loop_del_fd(l->watch);
	loop_del_fd(l->err_watch);
	l->watch = l->err_watch = NULL;
}

int lane_open(struct lane *l, struct window *w, struct server_queue *queue)
{
	uint32_t pages;
	int err;

	l->window = w;
	l->queue = queue;
	l->index = server_index(queue);
	l->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->kick < 0 || l->call < 0 || l->err < 0)
		return -errno;
	l->pages = share_pages(&w->share, l->index, &pages);
	err = arena_init(&l->arena, pages);
	if (err)
		return err;
	/* Touched as far as chains are long. */
	l->vectors = calloc((size_t)OUTRING_SLOTS * LANE_IOV, sizeof(*l->vectors));
	if (!l->vectors)
		return -ENOMEM;
	clear_slots(l);
	return 0;
}

void lane_close(struct lane *l)
{
	if (l->kick >= 0)
		close(l->kick);
	if (l->call >= 0)
		close(l->call);
	if (l->err >= 0)
		close(l->err);
	arena_free(&l->arena);
	free(l->vectors);
}
