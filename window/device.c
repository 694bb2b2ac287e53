/* SPDX-License-Identifier: Apache-2.0 */
/* The device as lib/server wants it: its memory, its queues, its server's connection. */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "log.h"
#include "loop.h"
#include "num.h"
#include "syscalls.h"
#include "window.h"

#define BYTES_DEFAULT (64ULL << 20)
#define CONFIG_BYTES  sizeof(struct virtio_blk_config) /* as blk-server has it */
#define DEVICE_BITS                                                                                          \
	(((1ULL << 24) - 1) | ~((1ULL << 50) - 1)) /* virtio 1.2 §2.2: device types' own features */

static int reach_server(struct window *w)
{
	int err = 0;

	if (w->server) {
		w->back.fd = fd_connect(w->server);
		err = MIN(w->back.fd, 0);
		if (err)
			log_error_errno(err, "--server %s", w->server);
		return err;
	}
	err = fd_check_connected(w->back.fd);
	if (err)
		log_error_errno(err, "--server-fd %d: must be a connected unix stream socket", w->back.fd);
	return err;
}

static int window_open(void *dev, const struct server_settings *settings, uint64_t *features)
{
	struct window *w = dev;
	int err;

	*features = 0;
	w->lanes = settings->queues;
	w->supervised = settings->supervised;
	if (!w->server == (w->back.fd < 0)) {
		log_error("give --server PATH or --server-fd N, one of them");
		return -EINVAL;
	}
	err = share_open(&w->share, w->bytes, w->lanes);
	if (err == -ENOSPC)
		log_error("--size: must be at least %lluM for %u queues", w->lanes * (SHARE_PART_MIN >> 20),
			  w->lanes);
	else if (err)
		log_error_errno(err, "the window's memory");
	return err ? err : reach_server(w);
}

static void window_close(void *dev)
{
	struct window *w = dev;

	back_close(&w->back);
	share_close(&w->share);
}

/* What the driver is offered is what the server has for it; the rings are the window's own. */
static int window_confined(void *dev, uint64_t *features)
{
	struct window *w = dev;
	int err = back_ask(&w->back, CONFIG_BYTES, w->supervised);

	/* What a server died of at its start is to be told by its own end: none of our options was wrong. */
	if (err && w->supervised)
		_exit(1);
	if (err)
		return err;
	if (w->back.info.queues < w->lanes) {
		log_error("--queues %u: the disk's server has %u", w->lanes, w->back.info.queues);
		return -EINVAL;
	}
	*features = (w->back.info.features & DEVICE_BITS) | 1ULL << VIRTIO_BLK_F_SIZE_MAX;
	return 0;
}

/* Segments of so many bytes that the largest request finds room in a part of the window (virtio 1.2 §5.2.4). */
static void limit_segments(const struct window *w, struct virtio_blk_config *config)
{
	uint32_t pages, segments = MAX(le32toh(config->seg_max), 1U);

	share_pages(&w->share, 0, &pages);
	/* Two pages more: what is written and what is read begins with one each. */
	config->size_max = htole32(MAX((pages - 2) / segments, 1U) * SHARE_PAGE);
}

static int window_get_config(void *dev, uint32_t off, uint32_t len, uint8_t *buf)
{
	struct window *w = dev;
	struct virtio_blk_config config;
	int err = back_get_config(&w->back, off, len, buf);

	if (err)
		return err;
	memcpy(&config, w->back.config, sizeof(config));
	limit_segments(w, &config);
	memcpy(buf, (const uint8_t *)&config + off, len);
	return 0;
}

static int window_set_config(void *dev, uint32_t off, uint32_t len, const uint8_t *buf)
{
	return back_set_config(&((struct window *)dev)->back, off, len, buf);
}

static void window_started(void *dev, bool live, uint64_t features)
{
	struct window *w = dev;

	(void)live; /* a disk's server need not know: what was under way is in the driver's rings */
	atomic_store(&w->up, false);
	back_start(&w->back, features);
}

static void window_stats(void *dev, server_stat_fn add, void *arg)
{
	const struct window *w = dev;
	uint64_t into = 0, out_of = 0, waits = 0;

	for (unsigned i = 0; i < w->lanes; i++) {
		into += w->lane[i]->stats.into;
		out_of += w->lane[i]->stats.out_of;
		waits += w->lane[i]->stats.waits;
	}
	add(arg, "bytes_into_window", into);
	add(arg, "bytes_out_of_window", out_of);
	add(arg, "waits_for_window", waits);
}

/* ---- its server ---- */

static void prepare(void *arg)
{
	struct window *w = arg;

	share_reset_inflight(&w->share);
	for (unsigned i = 0; i < w->lanes; i++)
		lane_prepare(w->lane[i], back_has_event_idx(&w->back));
}

static void poke_all(struct window *w)
{
	for (unsigned i = 0; i < w->lanes; i++)
		server_poke(w->lane[i]->queue);
}

/*
 * Without a driver's ring the server is to have none either: what it opens for them, another one may be about to. A ring that
 * comes at this moment is counted before anything is done with it, so either it is seen here, or up is not by it.
 */
static void on_rings(void *arg)
{
	struct window *w = arg;
	bool up;

	if (atomic_load(&w->on)) {
		back_start_again(&w->back);
		return;
	}
	up = atomic_exchange(&w->up, false);
	if (!atomic_load(&w->on)) {
		back_stop(&w->back);
		return;
	}
	atomic_store(&w->up, up);
	poke_all(w);
}

void window_count_ring(struct window *w, bool on)
{
	if (on ? !atomic_fetch_add(&w->on, 1) : atomic_fetch_sub(&w->on, 1) == 1)
		loop_bh_post(&w->rings);
}

static void on_up(void *arg)
{
	struct window *w = arg;

	atomic_store(&w->up, true);
	poke_all(w);
}

/* Of a server that is gone who started both knows: he ends this one, in order or not, and starts two others, for which the
 * driver's requests wait. */
static void on_lost(void *arg, bool closed)
{
	struct window *w = arg;

	if (!w->supervised || !closed) {
		log_error("without the disk's server: ending");
		_exit(1);
	}
	atomic_store(&w->lost, true);
	poke_all(w);
}

static void on_config_changed(void *arg)
{
	server_config_changed(((struct window *)arg)->lane[0]->queue);
}

static void on_config_ready(void *arg)
{
	server_config_ready(((struct window *)arg)->lane[0]->queue);
}

static const struct back_ops back_ops = { .up = on_up,
					  .lost = on_lost,
					  .prepare = prepare,
					  .config_changed = on_config_changed,
					  .config_ready = on_config_ready };

/* ---- queues ---- */

static int open_queue(void *dev, struct server_queue *queue, void **state)
{
	struct window *w = dev;
	unsigned i = server_index(queue);
	struct lane *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	*state = w->lane[i] = l;
	err = lane_open(l, w, queue);
	w->back.kick[i] = l->kick;
	w->back.call[i] = l->call;
	w->back.err[i] = l->err;
	/* With the last one all is there that the server is told. */
	if (!err && i + 1 == w->lanes)
		err = back_open(&w->back, server_main_loop(queue));
	if (!err && i == 0)
		loop_bh_init(&w->rings, server_main_loop(queue), on_rings, w);
	return err;
}

static void close_queue(void *state)
{
	struct lane *l = state;

	/* The loop is there until all queues are closed. */
	if (l->window->rings.loop)
		loop_bh_cancel(&l->window->rings);
	back_close(&l->window->back);
	lane_close(l);
	free(l);
}

static int attach(void *state)
{
	return lane_attach(state);
}

static void detach(void *state)
{
	lane_detach(state);
}

static void ring(void *state, bool on)
{
	lane_set_ring(state, on);
}

static void kicked(void *state)
{
	lane_kicked(state);
}

static bool service(void *state)
{
	return lane_service(state);
}

static bool has_room(void *state)
{
	return lane_has_room(state);
}

static unsigned held(void *state)
{
	return ((const struct lane *)state)->taken;
}

static bool pending(void *state)
{
	return lane_pending(state);
}

/* When the server is gone nothing is under way any more, and what was is the driver's next device process's. */
static unsigned parked(void *state)
{
	const struct lane *l = state;

	return atomic_load(&l->window->lost) ? l->taken : 0;
}

static void forget(void *state)
{
	lane_forget(state);
}

const struct server_device window_device = {
	.program = "window",
	.kind = "window",
	.summary = "show a disk's server a window in place of the guest's memory",
	.options = window_options,
	.iov_max = LANE_IOV,
	.stage_one = window_stage_one,
	.steady = window_steady,
	.io = window_io,
	.open = window_open,
	.confined = window_confined,
	.close = window_close,
	.get_config = window_get_config,
	.set_config = window_set_config,
	.started = window_started,
	.queue_open = open_queue,
	.queue_close = close_queue,
	.attach = attach,
	.detach = detach,
	.ring = ring,
	.kicked = kicked,
	.service = service,
	.has_room = has_room,
	.held = held,
	.pending = pending,
	.parked = parked,
	.forget = forget,
	.stats = window_stats,
};

void window_init(struct window *w)
{
	*w = (struct window) { .bytes = BYTES_DEFAULT,
			       .back = { .fd = -1, .share = &w->share, .ops = &back_ops, .arg = w } };
}
