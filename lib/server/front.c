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

static void front_listen(struct export *e);

/* A ring's number among those of the process, by which the recorder has it. */
static uint32_t number_of(const struct export *e, unsigned index)
{
	return (uint32_t)(e->queue - e->server->queue) + index;
}

/* ---- the connection's end ---- */

/* Frees the back end, outside of its callbacks and with no queue using its memory. */
static void on_free(void *arg)
{
	struct export *e = arg;
	struct front *f = &e->front;

	vhost_be_free(f->be);
	f->be = NULL;
	recovery_forget(e);
	if (f->listener >= 0 && !e->server->ending) {
		front_listen(e);
		return;
	}
	f->state = FRONT_GONE;
	server_front_gone(e->server);
}

static void maybe_free(struct front *f)
{
	if (f->state == FRONT_CLOSING && !f->stopping && !f->mem_pending)
		loop_bh_post(&f->freer);
}

static void stopped(struct server *s, struct order *o)
{
	struct front *f = &o->queue->export->front;

	(void)s;
	f->stopping--;
	if (f->state == FRONT_CONNECTED)
		vhost_be_ring_stopped(f->be, o->queue->index, o->base);
	maybe_free(f);
}

/* Has ring index stopped, unless it does not run or is being stopped already. When the process ends there will be another
 * that goes on with what is parked; a front end that only wants its ring stopped wants all answered. */
static bool stop_ring(struct export *e, unsigned index)
{
	struct order *o = &e->front.stop[index];

	if (!e->front.started[index])
		return false;
	e->front.started[index] = false;
	flight_say(&e->server->log, FLIGHT_FRONT, number_of(e, index), "ring stop");
	*o = (struct order) {
		.type = ORDER_STOP, .done = stopped, .kept = true, .hand_over = e->server->ending
	};
	e->front.stopping++;
	queue_post(&e->queue[index], o);
	return true;
}

static void close_connection(struct export *e)
{
	struct front *f = &e->front;

	f->state = FRONT_CLOSING;
	for (unsigned i = 0; i < e->rings; i++)
		stop_ring(e, i);
	maybe_free(f);
}

static void be_closed(void *arg, int err, const char *why)
{
	struct export *e = arg;

	flight_say(&e->server->log, FLIGHT_FRONT, (uint32_t)-err, "closed");
	if (err)
		log_warn("%sthe front end's connection is over: %s", e->prefix,
			 why ? why : strerrordesc_np(-err));
	else
		log_info("%sthe front end closed its connection", e->prefix);
	if (e->front.state == FRONT_CONNECTED)
		close_connection(e);
}

/* ---- what the front end asks for ---- */

static int be_get_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	struct export *e = arg;

	return e->server->device->get_config(e->dev, off, len, buf);
}

static int be_set_config(void *arg, uint32_t off, uint32_t len, const uint8_t *buf)
{
	struct export *e = arg;

	return e->server->device->set_config ? e->server->device->set_config(e->dev, off, len, buf) : -EINVAL;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static bool any_started(const struct export *e)
{
	for (unsigned i = 0; i < e->rings; i++)
		if (e->front.started[i])
			return true;
	return false;
}

/* The order that starts a ring, with its queue made and what was in flight recovered. 0 or -errno. */
static int make_start(struct export *e, unsigned index, const struct vhost_be_ring *ring, struct order **out)
{
	struct vq_config config = ring->config;
	struct order *o;
	int err;

	if (e->front.state != FRONT_CONNECTED)
		return -ESHUTDOWN;
	o = server_order(&e->queue[index], ORDER_START, NULL);
	config.iov_max = e->server->device->iov_max;
	config.buffers = e->queue[index].buffers;
	config.trials = &e->server->trials;
	err = vq_new(&config, &o->vq);
	if (err) {
		log_warn_limited("%squeue %u: its ring can't be served: %s", e->prefix, index,
				 strerrordesc_np(-err));
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
	struct export *e = arg;
	struct order *o;
	int err = make_start(e, index, ring, &o);

	if (err) {
		close_fd(ring->kick);
		close_fd(ring->call);
		close_fd(ring->err);
		return err;
	}
	if (!any_started(e)) {
		/* Another process may have served it since this one was opened as a spare. */
		threads_catch_up(e->server);
		if (e->server->device->started)
			e->server->device->started(e->dev, ring->live && !ring->fresh, ring->config.features);
	}
	e->front.started[index] = true;
	recovery_expect(e, ring->live);
	flight_say(&e->server->log, FLIGHT_FRONT, number_of(e, index), "ring start");
	queue_post(&e->queue[index], o);
	log_debug("%squeue %u: started, size %u", e->prefix, index, ring->config.size);
	return 0;
}

static void be_ring_stop(void *arg, unsigned index)
{
	struct export *e = arg;

	/* While the connection is closing it waits for an answer in vain, and so reads no further message. */
	if (!stop_ring(e, index) && e->front.state == FRONT_CONNECTED)
		vhost_be_ring_stopped(e->front.be, index, 0);
}

static void set_fd_order(struct export *e, unsigned index, enum order_type type, int fd)
{
	struct order *o = server_order(&e->queue[index], type, NULL);

	o->fd = fd;
	queue_post(&e->queue[index], o);
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
	struct export *e = arg;
	struct order *o = server_order(&e->queue[index], ORDER_ENABLE, NULL);

	o->on = on;
	queue_post(&e->queue[index], o);
}

static void mem_taken(struct server *s, struct order *o)
{
	struct front *f = &o->queue->export->front;

	(void)s;
	mem_put(o->mem);
	o->mem = NULL;
	f->mem_pending--;
	if (!f->mem_pending && f->state == FRONT_CONNECTED)
		vhost_be_mem_taken(f->be);
	maybe_free(f);
}

static void be_mem_changed(void *arg, struct mem *mem)
{
	struct export *e = arg;
	struct front *f = &e->front;

	for (unsigned i = 0; i < e->rings; i++) {
		struct order *o;

		if (!f->started[i])
			continue;
		o = server_order(&e->queue[i], ORDER_MEM, mem_taken);
		o->mem = mem_get(mem);
		f->mem_pending++;
		queue_post(&e->queue[i], o);
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
	struct export *e = arg;
	int err;

	if (e->front.state != FRONT_CONNECTED)
		return; /* the next one reads it as it is by then */
	err = vhost_be_config_changed(e->front.be);
	if (err)
		log_warn_errno(err, "%sthe front end can't be told that configuration space changed",
			       e->prefix);
}

void front_config_changed(struct export *e)
{
	loop_bh_post(&e->front.config);
}

void front_config_ready(struct export *e)
{
	if (e->front.state == FRONT_CONNECTED)
		vhost_be_config_ready(e->front.be);
}

/* ---- connections ---- */

static int front_take(struct export *e, int fd)
{
	int err = vhost_be_new(e->server->main, fd, &e->front.ops, e, &e->front.be);

	if (!err) {
		e->front.state = FRONT_CONNECTED;
		flight_say(&e->server->log, FLIGHT_FRONT, 0, "connected");
	}
	return err;
}

static void on_connection(void *arg, uint32_t events)
{
	struct export *e = arg;
	struct front *f = &e->front;
	int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), err;

	(void)events;
	if (fd < 0)
		return;
	loop_del_fd(f->watch);
	f->watch = NULL;
	err = front_take(e, fd);
	if (!err) {
		log_info("%sa front end connected", e->prefix);
		return;
	}
	log_error_errno(err, "%sa front end connected and can't be served", e->prefix);
	close(fd);
	front_listen(e);
}

static void front_listen(struct export *e)
{
	struct front *f = &e->front;
	int err = loop_add_fd(e->server->main, f->listener, EPOLLIN, on_connection, e, &f->watch);

	f->state = FRONT_LISTENING;
	if (err) {
		log_error_errno(err, "%sthe socket can't be watched", e->prefix);
		server_end(e->server);
	}
}

int front_init(struct export *e)
{
	struct front *f = &e->front;

	f->state = FRONT_GONE;
	loop_bh_init(&f->freer, e->server->main, on_free, e);
	loop_bh_init(&f->config, e->server->main, on_config, e);
	f->ops = (struct vhost_be_ops) {
		.features = e->features | RING_FEATURES,
		.queues = (uint16_t)e->rings,
		.counted = (uint16_t)e->opts.queues,
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
	if (f->listener < 0)
		return front_take(e, e->opts.vhost_fd);
	front_listen(e);
	return 0;
}

void front_end(struct export *e)
{
	struct front *f = &e->front;

	loop_del_fd(f->watch);
	f->watch = NULL;
	switch (f->state) {
	case FRONT_LISTENING:
	case FRONT_GONE:
		f->state = FRONT_GONE;
		break;
	case FRONT_CONNECTED:
		close_connection(e);
		break;
	case FRONT_CLOSING:
		break;
	}
}

void front_fini(struct export *e)
{
	loop_bh_cancel(&e->front.config);
	loop_del_fd(e->front.watch);
	vhost_be_free(e->front.be);
	if (e->front.listener >= 0)
		close(e->front.listener);
}
