/* SPDX-License-Identifier: Apache-2.0 */
/* A device of lib/server in this process. */
#include "rig.h"

#include <sys/epoll.h>

#include "fd.h"
#include "inflight.h"
#include "log.h"
#include "server_priv.h"

#define RING_RAM  0x20000U
#define RING_GPA  0x10000U
#define LOG_BYTES 64

static struct server server;
static struct guest guest;
static struct mem *tables[RIG_TABLES];
static struct flight *flight;
static const struct mem_region regions[] = {
	{ .gpa = RING_GPA, .size = RING_RAM },
	{ .gpa = RIG_DATA, .size = RIG_BYTES },
	{ .gpa = RIG_DATA + RIG_BYTES, .size = RIG_BYTES },
	{ .gpa = RIG_APART, .size = RIG_BYTES },
};

static void make_memory(void)
{
	int log = fd_sealed_memfd("log", LOG_BYTES);

	MUST(guest_init_regions(&guest, regions, ARRAY_SIZE(regions)) == 0);
	tables[0] = guest_mem(&guest);
	MUST(tables[0] && log >= 0);
	MUST(mem_with_log(tables[0], log, 0, LOG_BYTES, &tables[RIG_LOGGED]) == 0);
}

void rig_reset(struct rig *r, const struct server_device *device, void *dev)
{
	if (!guest.n) {
		make_memory();
		MUST(flight_alloc(RIG_RINGS, &flight) == 0);
		log_set_level((enum log_level)0);
	}
	still_reset();
	memset(guest.base, 0, guest.size);
	guest.next = 0;
	*r = (struct rig) { .device = device, .dev = dev, .honest = true };
	MUST(state_alloc(&r->state) == 0);
}

bool rig_is_ram(const void *at, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		const uint8_t *base = rig_device_ptr(regions[i].gpa, regions[i].size);
		uintptr_t off = (uintptr_t)at - (uintptr_t)base;

		if (off < regions[i].size && len <= regions[i].size - off)
			return true;
	}
	return false;
}

const uint8_t *rig_device_ptr(uint64_t gpa, uint64_t len)
{
	return mem_at(tables[0], gpa, len);
}

uint8_t *rig_ptr(struct rig *r, uint64_t gpa, uint64_t len)
{
	(void)r;
	return guest_ptr(&guest, gpa, len);
}

void rig_put(struct rig *r, uint64_t gpa, const void *from, uint32_t len)
{
	uint8_t *at = rig_ptr(r, gpa, len);

	if (at)
		memcpy(at, from, len);
}

/* ---- the process ---- */

static void free_orders(struct order *o)
{
	while (o) {
		struct order *next = o->next;

		free(o);
		o = next;
	}
}

/* Nobody has the rings of those that were not carried out. */
static void drop_orders(struct order *all)
{
	for (struct order *o = all; o; o = o->next)
		if (o->type == ORDER_START)
			vq_free(o->vq);
	free_orders(all);
}

static void on_done(void *arg)
{
	struct rig *r = arg;
	struct order *all = order_list_take_all(&server.done);

	for (struct order *o = all; o; o = o->next) {
		unsigned i = o->queue->index;

		if (o->done)
			o->done(&server, o);
		if (o->type != ORDER_STOP)
			continue;
		r->up[i] = r->stopping[i] = false;
		r->base[i] = o->base;
		r->based[i] = true;
	}
	free_orders(all);
}

void rig_boot(struct rig *r, unsigned queues, unsigned rings, uint64_t features)
{
	struct server *s = &server;
	struct export *e = s->export;
	struct server_settings settings = { .id = "fuzz", .queues = queues };
	uint64_t offered = 0;

	memset(s, 0, sizeof(*s));
	s->device = r->device;
	s->flight = flight;
	s->exports = 1;
	*e = (struct export) {
		.server = s, .dev = r->dev, .state = r->state, .queue = s->queue, .set = s->set
	};
	settings.state = r->state;
	e->opts.queues = s->opts.placing.queues = queues;
	e->rings = s->rings = r->rings = rings;
	MUST(loop_new("still", &r->loop) == 0);
	s->main = s->io[0].loop = s->io[1].loop = r->loop;
	s->opts.placing.threads = 2;
	order_list_init(&s->done);
	loop_bh_init(&s->done_bh, r->loop, on_done, r);
	flight_open_main(flight, &s->log);
	MUST(r->device->open(e->dev, &settings, &offered) == 0);
	move_init(s);
	for (unsigned i = 0; i < rings; i++)
		MUST(queue_init(&s->queue[i]) == 0);
	for (unsigned i = 0; i < rings; i++)
		r->kick[i] = still_fd();
	r->features = features & (offered | RING_F_PACKED | RING_F_EVENT_IDX | RING_F_INDIRECT | 1ULL << 32);
}

void rig_die(struct rig *r)
{
	struct server *s = &server;

	for (unsigned i = 0; i < r->rings; i++) {
		struct server_queue *q = &s->queue[i];

		drop_orders(order_list_take_all(&q->mailbox));
		drop_orders(q->orders);
		q->orders = NULL;
		queue_fini(q);
		r->up[i] = r->stopping[i] = r->based[i] = false;
	}
	free_orders(order_list_take_all(&s->done));
	loop_bh_cancel(&s->done_bh);
	lock_destroy(&s->done.lock);
	r->device->close(r->dev);
	loop_free(r->loop);
	still_close();
}

void rig_end(struct rig *r)
{
	rig_die(r);
	for (unsigned i = 0; i < r->rings; i++) {
		ring_free(&r->ring[i]);
		free(r->region[i]);
	}
	state_free(r->state);
}

/* ---- rings ---- */

void rig_lay_out(struct rig *r)
{
	size_t len = inflight_queue_bytes(RIG_SIZE, r->features & RING_F_PACKED);

	for (unsigned i = 0; i < r->rings; i++) {
		MUST(ring_init(&r->ring[i], &guest, RIG_SIZE, r->features) == 0);
		r->region[i] = r->tracked ? calloc(1, len) : NULL;
	}
}

static struct order *make_order(unsigned i, enum order_type type)
{
	struct order *o = calloc(1, sizeof(*o));

	MUST(o);
	*o = (struct order) { .type = type, .kick = -1, .call = -1, .err = -1, .fd = -1 };
	o->queue = &server.queue[i];
	return o;
}

static bool any_started(const struct rig *r)
{
	for (unsigned i = 0; i < r->rings; i++)
		if (r->up[i] && !r->stopping[i])
			return true;
	return false;
}

bool rig_start(struct rig *r, unsigned i, bool live)
{
	struct server_queue *q = &server.queue[i];
	struct vq_config config;
	bool first = !any_started(r);
	struct order *o;
	struct vq *vq;

	ring_config(&r->ring[i], tables[0], &config);
	config.iov_max = r->device->iov_max;
	config.inflight = r->region[i];
	config.buffers = q->buffers;
	config.log_used = true;
	if (r->based[i])
		config.base = r->base[i];
	if (vq_new(&config, &vq))
		return false;
	o = make_order(i, ORDER_START);
	o->vq = vq;
	o->mem = mem_get(tables[0]);
	o->features = r->features;
	o->kick = r->kick[i];
	o->live = live;
	queue_post(q, o);
	r->up[i] = true;
	/* Which may be its end. */
	if (first && r->device->started)
		r->device->started(r->dev, live, r->features);
	return true;
}

void rig_stop(struct rig *r, unsigned i, bool hand_over)
{
	struct order *o;

	if (r->stopping[i])
		return;
	r->stopping[i] = true;
	o = make_order(i, ORDER_STOP);
	o->hand_over = hand_over;
	queue_post(&server.queue[i], o);
}

void rig_enable(struct rig *r, unsigned i, bool on)
{
	struct order *o = make_order(i, ORDER_ENABLE);

	(void)r;
	o->on = on;
	queue_post(&server.queue[i], o);
}

void rig_drain(struct rig *r, unsigned i, bool on)
{
	(void)r;
	queue_post(&server.queue[i], make_order(i, on ? ORDER_DRAIN : ORDER_RESUME));
}

void rig_set_mem(struct rig *r, unsigned i, unsigned table)
{
	struct order *o = make_order(i, ORDER_MEM);

	(void)r;
	o->mem = tables[table];
	queue_post(&server.queue[i], o);
}

void rig_move(struct rig *r, unsigned set)
{
	struct server_set *at = &server.set[set];

	(void)r;
	move_start(&server, at, at->thread == &server.io[0] ? &server.io[1] : &server.io[0], 0);
}

/* ---- all rings ---- */

uint64_t rig_features(uint8_t how)
{
	uint64_t all = ~(RING_F_PACKED | RING_F_EVENT_IDX | RING_F_INDIRECT);

	all |= how & 1 ? RING_F_PACKED : 0;
	all |= how & 2 ? RING_F_EVENT_IDX : 0;
	all |= how & 4 ? RING_F_INDIRECT : 0;
	return all;
}

void rig_start_all(struct rig *r)
{
	for (unsigned i = 0; i < r->rings; i++)
		MUST(rig_start(r, i, false));
	still_run(r->loop, RIG_PASSES);
}

void rig_start_again(struct rig *r, const bool *was)
{
	for (unsigned i = 0; i < r->rings; i++)
		if (was[i])
			MUST(rig_start(r, i, true) || !r->honest);
	still_run(r->loop, RIG_PASSES);
}

void rig_let_go(struct rig *r)
{
	for (unsigned i = 0; i < r->rings; i++) {
		if (!r->up[i])
			MUST(rig_start(r, i, false));
		rig_enable(r, i, true);
		rig_drain(r, i, false);
		ring_publish(&r->ring[i]);
		still_raise(r->kick[i], EPOLLIN);
	}
}

void rig_kick(struct rig *r, unsigned skip)
{
	for (unsigned i = 0; i < r->rings; i++)
		if (r->up[i] && !(skip >> i & 1) && ring_publish(&r->ring[i]))
			still_raise(r->kick[i], EPOLLIN);
}

void rig_collect(struct rig *r, uint32_t least)
{
	for (unsigned i = 0; i < r->rings; i++) {
		uint16_t id;
		uint32_t len;
		int got;

		/* What was put there by hand may come back before what was added. */
		if (!r->honest)
			ring_publish(&r->ring[i]);
		while ((got = ring_get(&r->ring[i], &id, &len)) == 1)
			MUST(len >= least || !r->honest);
		MUST(got == 0 || !r->honest);
	}
}

void rig_any_chain(struct rig *r, unsigned rings, struct input *in)
{
	struct ring_buf bufs[RING_TABLE_MAX];
	unsigned n = 1 + in_below(in, RING_TABLE_MAX);

	r->honest = false;
	for (unsigned i = 0; i < n; i++) {
		uint8_t how = in_u8(in);

		bufs[i] = (struct ring_buf) { .gpa = how & 1 ? in_u64(in) : RIG_DATA + in_u16(in),
					      .len = how & 2 ? in_u32(in) : in_u16(in),
					      .write = how & 4 };
	}
	ring_add(&r->ring[in_below(in, rings)], bufs, n, in_u8(in) & 1 && r->features & RING_F_INDIRECT);
}

void rig_write_over(struct rig *r, unsigned rings, struct input *in)
{
	struct ring *ring = &r->ring[in_below(in, rings)];
	uint8_t how = in_u8(in);
	struct ring_desc d = { .addr = how & 1 ? in_u64(in) : RIG_DATA + in_u16(in),
			       .len = how & 2 ? in_u32(in) : in_u8(in),
			       .id = (uint16_t)in_below(in, RIG_SIZE),
			       .flags = how & 4 ? in_u16(in) : (uint16_t)in_below(in, 8) };

	r->honest = false;
	if (how & 8 && !ring->packed)
		ring_put_avail(ring, in_u16(in));
	else if (how & 16 && r->features & RING_F_INDIRECT)
		ring_write_table(ring, ring->tables + in_below(in, RIG_SIZE) * RING_TABLE_MAX * 16U,
				 (uint16_t)in_below(in, RING_TABLE_MAX), d);
	else
		ring_write_desc(ring, (uint16_t)in_below(in, RIG_SIZE), d);
}

/* ---- what lib/server would do with the rest of the process ---- */

void front_config_changed(struct export *e)
{
	(void)e;
}

void front_config_ready(struct export *e)
{
	(void)e;
}

void control_recovered(struct export *e)
{
	(void)e;
}

void control_moved(struct server *s, uint64_t id)
{
	(void)s;
	(void)id;
}

void threads_save(struct server *s)
{
	(void)s;
}

void server_io_error(struct server_queue *queue, const char *text)
{
	(void)queue;
	(void)text;
}

struct order *server_order(struct server_queue *q, enum order_type type,
			   void (*done)(struct server *, struct order *))
{
	struct order *o = make_order(q->index, type);

	o->done = done;
	return o;
}
