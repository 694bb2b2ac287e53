/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user connection of a server, on the main loop: turns what the back end (lib/vhost) decodes into orders
 * for the queues and hands their answers back. One front end is served after another; while one is connected the
 * next waits in the listener's backlog. A connection that ends has its rings stopped, which finishes every
 * request that was taken, before anything of it is freed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "num.h"
#include "server_priv.h"

#define RING_FEATURES                                                                                        \
	(1ULL << 28 /* INDIRECT_DESC */ | 1ULL << 29 /* EVENT_IDX */ | 1ULL << 32 /* VERSION_1 */ |          \
	 1ULL << 34 /* RING_PACKED */)

static void front_listen(struct server *s);

/* ---- the connection's end ---- */

/* Frees the back end, outside of its callbacks and with no queue using its memory. */
static void on_free(void *arg)
{
	struct server *s = arg;
	struct front *f = &s->front;

	vhost_be_free(f->be);
	f->be = NULL;
	recovery_forget(s);
	if (s->ending) {
		f->state = FRONT_GONE;
		server_front_gone(s);
	} else if (f->listener >= 0) {
		front_listen(s);
	} else {
		f->state = FRONT_GONE;
		if (!s->opts.bus)
			server_end(s);
	}
}

static void maybe_free(struct front *f)
{
	if (f->state == FRONT_CLOSING && !f->stopping && !f->mem_pending)
		loop_bh_post(&f->freer);
}

static void stopped(struct server *s, struct order *o)
{
	struct front *f = &s->front;

	f->stopping--;
	if (f->state == FRONT_CONNECTED)
		vhost_be_ring_stopped(f->be, o->queue->index, o->base);
	maybe_free(f);
}

/* Has ring index stopped, unless it does not run or is being stopped already. When the process ends there will be another
 * that goes on with what is parked; a front end that only wants its ring stopped wants all answered. */
static bool stop_ring(struct server *s, unsigned index)
{
	struct order *o = &s->front.stop[index];

	if (!s->front.started[index])
		return false;
	s->front.started[index] = false;
	flight_say(&s->log, FLIGHT_FRONT, index, "ring stop");
	*o = (struct order) { .type = ORDER_STOP, .done = stopped, .kept = true, .hand_over = s->ending };
	s->front.stopping++;
	queue_post(&s->queue[index], o);
	return true;
}

static void close_connection(struct server *s)
{
	struct front *f = &s->front;

	f->state = FRONT_CLOSING;
	for (unsigned i = 0; i < s->rings; i++)
		stop_ring(s, i);
	maybe_free(f);
}

static void be_closed(void *arg, int err, const char *why)
{
	struct server *s = arg;

	flight_say(&s->log, FLIGHT_FRONT, (uint32_t)-err, "closed");
	if (err)
		log_warn("the front end's connection is over: %s", why ? why : strerrordesc_np(-err));
	else
		log_info("the front end closed its connection");
	if (s->front.state == FRONT_CONNECTED)
		close_connection(s);
}

/* ---- what the front end asks for ---- */

static int be_get_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	struct server *s = arg;

	return s->device->get_config(s->dev, off, len, buf);
}

static int be_set_config(void *arg, uint32_t off, uint32_t len, const uint8_t *buf)
{
	struct server *s = arg;

	return s->device->set_config ? s->device->set_config(s->dev, off, len, buf) : -EINVAL;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static bool any_started(const struct server *s)
{
	for (unsigned i = 0; i < s->rings; i++)
		if (s->front.started[i])
			return true;
	return false;
}

/* The order that starts a ring, with its queue made and what was in flight recovered. 0 or -errno. */
static int make_start(struct server *s, unsigned index, const struct vhost_be_ring *ring, struct order **out)
{
	struct vq_config config = ring->config;
	struct order *o;
	int err;

	if (s->front.state != FRONT_CONNECTED)
		return -ESHUTDOWN;
	o = server_order(s, index, ORDER_START, NULL);
	config.iov_max = s->device->iov_max;
	config.buffers = s->queue[index].buffers;
	err = vq_new(&config, &o->vq);
	if (err) {
		log_warn_limited("queue %u: its ring can't be served: %s", index, strerrordesc_np(-err));
		free(o);
		return err;
	}
	o->mem = mem_get(config.mem);
	o->features = config.features;
	o->kick = ring->kick;
	o->call = ring->call;
	o->err = ring->err;
	o->live = ring->live;
	*out = o;
	return 0;
}

static int be_ring_start(void *arg, unsigned index, const struct vhost_be_ring *ring)
{
	struct server *s = arg;
	struct order *o;
	int err = make_start(s, index, ring, &o);

	if (err) {
		close_fd(ring->kick);
		close_fd(ring->call);
		close_fd(ring->err);
		return err;
	}
	if (!any_started(s)) {
		/* Another process may have served it since this one was opened as a spare. */
		threads_catch_up(s);
		if (s->device->started)
			s->device->started(s->dev, ring->live && !ring->fresh, ring->config.features);
	}
	s->front.started[index] = true;
	recovery_expect(s, ring->live);
	flight_say(&s->log, FLIGHT_FRONT, index, "ring start");
	queue_post(&s->queue[index], o);
	log_debug("queue %u: started, size %u", index, ring->config.size);
	return 0;
}

static void be_ring_stop(void *arg, unsigned index)
{
	struct server *s = arg;

	/* While the connection is closing it waits for an answer in vain, and so reads no further message. */
	if (!stop_ring(s, index) && s->front.state == FRONT_CONNECTED)
		vhost_be_ring_stopped(s->front.be, index, 0);
}

static void set_fd_order(struct server *s, unsigned index, enum order_type type, int fd)
{
	struct order *o = server_order(s, index, type, NULL);

	o->fd = fd;
	queue_post(&s->queue[index], o);
}

static void be_ring_set_call(void *arg, unsigned index, int call)
{
	set_fd_order(arg, index, ORDER_CALL, call);
}

static void be_ring_set_err(void *arg, unsigned index, int err)
{
	set_fd_order(arg, index, ORDER_ERR, err);
}

static void be_ring_enable(void *arg, unsigned index, bool on)
{
	struct server *s = arg;
	struct order *o = server_order(s, index, ORDER_ENABLE, NULL);

	o->on = on;
	queue_post(&s->queue[index], o);
}

static void mem_taken(struct server *s, struct order *o)
{
	struct front *f = &s->front;

	mem_put(o->mem);
	o->mem = NULL;
	f->mem_pending--;
	if (!f->mem_pending && f->state == FRONT_CONNECTED)
		vhost_be_mem_taken(f->be);
	maybe_free(f);
}

static void be_mem_changed(void *arg, struct mem *mem)
{
	struct server *s = arg;
	struct front *f = &s->front;

	for (unsigned i = 0; i < s->rings; i++) {
		struct order *o;

		if (!f->started[i])
			continue;
		o = server_order(s, i, ORDER_MEM, mem_taken);
		o->mem = mem_get(mem);
		f->mem_pending++;
		queue_post(&s->queue[i], o);
	}
	if (!f->mem_pending && f->state == FRONT_CONNECTED)
		vhost_be_mem_taken(f->be);
}

static void be_reset(void *arg)
{
	(void)arg; /* what a device keeps beyond its rings begins anew with the first of them */
}

/* ---- what the device has to say ---- */

static void on_config(void *arg)
{
	struct server *s = arg;
	int err;

	if (s->front.state != FRONT_CONNECTED)
		return; /* the next one reads it as it is by then */
	err = vhost_be_config_changed(s->front.be);
	if (err)
		log_warn_errno(err, "the front end can't be told that configuration space changed");
}

void front_config_changed(struct server *s)
{
	loop_bh_post(&s->front.config);
}

/* ---- connections ---- */

static int front_take(struct server *s, int fd)
{
	int err = vhost_be_new(s->main, fd, &s->front.ops, s, &s->front.be);

	if (!err) {
		s->front.state = FRONT_CONNECTED;
		flight_say(&s->log, FLIGHT_FRONT, 0, "connected");
	}
	return err;
}

static void on_connection(void *arg, uint32_t events)
{
	struct server *s = arg;
	struct front *f = &s->front;
	int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), err;

	(void)events;
	if (fd < 0)
		return;
	loop_del_fd(f->watch);
	f->watch = NULL;
	err = front_take(s, fd);
	if (!err) {
		log_info("a front end connected");
		return;
	}
	log_error_errno(err, "a front end connected and can't be served");
	close(fd);
	front_listen(s);
}

static void front_listen(struct server *s)
{
	struct front *f = &s->front;
	int err = loop_add_fd(s->main, f->listener, EPOLLIN, on_connection, s, &f->watch);

	f->state = FRONT_LISTENING;
	if (err) {
		log_error_errno(err, "the socket can't be watched");
		server_end(s);
	}
}

int front_init(struct server *s, int listener, int vhost_fd)
{
	struct front *f = &s->front;

	f->listener = listener;
	f->state = FRONT_GONE;
	loop_bh_init(&f->freer, s->main, on_free, s);
	loop_bh_init(&f->config, s->main, on_config, s);
	f->ops = (struct vhost_be_ops) {
		.features = s->features | RING_FEATURES,
		.queues = (uint16_t)s->rings,
		.counted = (uint16_t)s->opts.queues,
		.get_config = be_get_config,
		.set_config = be_set_config,
		.ring_start = be_ring_start,
		.ring_stop = be_ring_stop,
		.ring_set_call = be_ring_set_call,
		.ring_set_err = be_ring_set_err,
		.ring_enable = be_ring_enable,
		.mem_changed = be_mem_changed,
		.reset = be_reset,
		.closed = be_closed,
	};
	if (listener < 0)
		return front_take(s, vhost_fd);
	front_listen(s);
	return 0;
}

void front_end(struct server *s)
{
	struct front *f = &s->front;

	loop_del_fd(f->watch);
	f->watch = NULL;
	switch (f->state) {
	case FRONT_LISTENING:
	case FRONT_GONE:
		f->state = FRONT_GONE;
		server_front_gone(s);
		break;
	case FRONT_CONNECTED:
		close_connection(s);
		break;
	case FRONT_CLOSING:
		break;
	}
}

void front_fini(struct server *s)
{
	loop_bh_cancel(&s->front.config);
	loop_del_fd(s->front.watch);
	vhost_be_free(s->front.be);
	if (s->front.listener >= 0)
		close(s->front.listener);
}
