/* SPDX-License-Identifier: Apache-2.0 */
/* Sending. */
#include "tx.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "count.h"
#include "crash.h"
#include "log.h"
#include "offload.h"
#include "port.h"
#include "vec.h"

#define BUDGET 64 /* frames in a pass */

static void on_timer(void *arg)
{
	struct tx *tx = arg;

	tx->limited = false;
	server_run(tx->server);
}

void tx_open(struct tx *tx, struct port *port, unsigned pair)
{
	tx->port = port;
	tx->pair = pair;
}

int tx_attach(struct tx *tx, struct loop *loop)
{
	/* The limit is asked again. */
	tx->limited = false;
	return loop_add_timer(loop, on_timer, tx, &tx->timer);
}

void tx_detach(struct tx *tx)
{
	loop_del_timer(tx->timer);
	tx->timer = NULL;
}

/* The frame in hand, if there is one, is not sent now. */
static void forget(struct tx *tx)
{
	throttle_leave(&tx->port->throttle, THROTTLE_TX, &tx->turn);
	tx->have = false;
}

void tx_ring(struct tx *tx, bool on)
{
	tx->on = on;
	forget(tx);
	tx->blocked = tx->limited = false;
	loop_disarm_timer(tx->timer);
	tx->features = on ? server_features(tx->server) : 0;
	tx->legacy = on && !port_header_is_ours(tx->features);
}

void tx_release(struct tx *tx)
{
	if (tx->have)
		server_unpop(tx->server, tx->head);
	forget(tx);
}

/* ---- the header ---- */

/* Whether the header asks only for what was agreed on. What the host makes of it, the host checks. */
static bool header_is_good(const struct tx *tx, const struct virtio_net_hdr_v1 *h)
{
	return !(offload_needs(&offload_sent, h->flags, h->gso_type) & ~tx->features);
}

/*
 * Puts a copy of the header in the first place of what is sent, however the driver has spread it, so that what was checked
 * is what the host sees. The chain's vectors begin at iov[1].
 */
static bool split_header(struct tx *tx, const struct vq_chain *chain)
{
	struct iovec *iov = tx->iov + 1;
	int n = chain->out_num;
	size_t skip = NET_HDR_BYTES;

	if (chain->out_len < NET_HDR_BYTES + NET_ETH_BYTES || chain->out_len > NET_PACKET_MAX)
		return false;
	vec_get(iov, n, 0, &tx->header, NET_HDR_BYTES);
	if (!header_is_good(tx, &tx->header))
		return false;
	tx->header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	tx->header.num_buffers = 0;
	for (; skip >= iov->iov_len; iov++, n--)
		skip -= iov->iov_len;
	iov->iov_base = (uint8_t *)iov->iov_base + skip;
	iov->iov_len -= skip;
	iov[-1] = (struct iovec) { .iov_base = &tx->header, .iov_len = NET_HDR_BYTES };
	tx->at = (int)(iov - 1 - tx->iov);
	tx->n = n + 1;
	tx->len = chain->out_len - NET_HDR_BYTES;
	return true;
}

/* ---- passes ---- */

static void finish(struct tx *tx)
{
	server_push(tx->server, tx->head, 0, 0);
	tx->have = false;
}

static void drop(struct tx *tx, _Atomic uint64_t *why)
{
	count_add(why, 1);
	finish(tx);
}

/* Servers died of it: another is not given the chance. Said again by each that dies before the driver was told. */
static void give_up(struct tx *tx, const struct vq_chain *chain)
{
	log_warn_limited("%s: a frame that %u servers died with is dropped: %u bytes with its header",
			 tx->port->backend.name, chain->deaths, chain->out_len);
	server_poisoned(tx->server, tx->head);
	drop(tx, &tx->stats.poisoned);
}

static bool link_is_up(const struct tx *tx)
{
	return atomic_load_explicit(&tx->port->shared.link, memory_order_relaxed);
}

/* Takes the next frame in hand, or drops it; false: there is none. */
static bool take(struct tx *tx)
{
	struct vq_chain chain = { .iov = tx->iov + 1 };

	if (server_pop(tx->server, &chain) != 1)
		return false;
	if (tx->legacy) {
		server_break(tx->server, PORT_LEGACY);
		return false;
	}
	tx->head = chain.head;
	tx->have = true;
	if (chain.poisoned)
		give_up(tx, &chain);
	else if (!split_header(tx, &chain))
		drop(tx, &tx->stats.malformed);
	else if (chain.resubmitted && link_is_up(tx))
		count_add(&tx->stats.resent, 1);
	return true;
}

/* The backend takes nothing now. */
static void block(struct tx *tx)
{
	tx->blocked = true;
	count_add(&tx->stats.blocked, 1);
	pair_watch(&tx->port->pair[tx->pair]);
}

static void refused(struct tx *tx, int err)
{
	if (err == -EPIPE) {
		port_lost(tx->port);
		drop(tx, &tx->stats.link_down);
		return;
	}
	drop(tx, &tx->stats.errors);
	log_warn_limited("%s: a frame can't be sent: %s", tx->port->backend.name, strerrordesc_np(-err));
}

/* Asks the limit for the frame in hand; false: not yet. */
static bool pay(struct tx *tx)
{
	bool asked = tx->turn.taken;
	uint64_t at = throttle_wait(&tx->port->throttle, THROTTLE_TX, &tx->turn, tx->len);

	if (!at)
		return true;
	if (!asked)
		count_add(&tx->stats.limited, 1);
	tx->limited = true;
	loop_arm_timer(tx->timer, at);
	return false;
}

/* Sends the frame in hand. False: the backend, or the limit, takes nothing now. */
static bool send_frame(struct tx *tx)
{
	struct backend *b = &tx->port->backend;
	int err;

	if (!pay(tx))
		return false;
	CRASH_POINT_AT("poison", tx->len);
	CRASH_POINT("send before");
	err = b->ops->send(b, tx->pair, tx->iov + tx->at, tx->n);
	CRASH_POINT("send after");
	if (err == -EAGAIN) {
		block(tx);
		return false;
	}
	throttle_passed(&tx->turn);
	if (err) {
		refused(tx, err);
		return true;
	}
	count_add(&tx->stats.packets, 1);
	count_add(&tx->stats.bytes, tx->len);
	finish(tx);
	return true;
}

static void take_changes(struct tx *tx)
{
	struct port_shared *shared = &tx->port->shared;
	struct driver_coalesce coalesce;

	lock_take(&shared->lock);
	coalesce = shared->tx;
	lock_drop(&shared->lock);
	server_coalesce(tx->server, coalesce.enough, coalesce.us);
}

/* With the link down a frame goes at once, whatever held it up. */
static void lose(struct tx *tx)
{
	throttle_leave(&tx->port->throttle, THROTTLE_TX, &tx->turn);
	tx->limited = false;
	loop_disarm_timer(tx->timer);
	drop(tx, &tx->stats.link_down);
}

/* Does something about the next frame; false: there is none, or it waits. */
static bool next_frame(struct tx *tx)
{
	bool up = link_is_up(tx);

	if (up && (tx->blocked || tx->limited))
		return false;
	if (tx->have)
		server_take_up(tx->server, tx->head); /* it waited, and is worked on again */
	else if (!take(tx))
		return false;
	if (tx->have && up)
		return send_frame(tx);
	if (tx->have)
		lose(tx);
	return true;
}

bool tx_service(struct tx *tx)
{
	struct backend *b = &tx->port->backend;
	unsigned n = 0;

	if (!tx->on)
		return false;
	if (port_has_changed(tx->port, &tx->seen))
		take_changes(tx);
	while (n < BUDGET && next_frame(tx))
		n++;
	server_lay_down(tx->server);
	/* What went in part must not wait for the next frame. */
	if (b->ops->flush && !tx->blocked && b->ops->flush(b, tx->pair) == -EAGAIN)
		block(tx);
	return n > 0;
}

bool tx_has_room(const struct tx *tx)
{
	return tx->on && !tx->have && (!tx->blocked || !link_is_up(tx));
}

unsigned tx_held(const struct tx *tx)
{
	/* A frame that went in part is the driver's again, and the backend's doing all the same. */
	return tx->have || tx->blocked;
}
