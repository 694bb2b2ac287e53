/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving.
 *
 * How much to offer for a frame is not known before it is read. Offered are buffers for the largest frame of late, and
 * behind them a spill area of our own, so that any frame is read whole. What lands there is copied on, into further
 * buffers; the next frames are then offered more. So large frames are not copied. While there are only small ones they
 * are all read into that area: copying them costs less than it costs the kernel to take a list of places from us, by a
 * twentieth of all that a frame of 60 bytes costs, and what is looked at is what the driver gets.
 *
 * A frame that needs more buffers than the driver has given waits for them if its ring can hold so many, and nothing else
 * is read meanwhile: the backend's queue fills, and the host drops. With no buffers at all nothing is read. So a flood costs
 * neither memory nor, as the backend is watched edge-triggered, time.
 */
#include "rx.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "count.h"
#include "crash.h"
#include "log.h"
#include "offload.h"
#include "port.h"
#include "rx_buf.h"
#include "rx_wait.h"
#include "vec.h"

#define BUDGET   64  /* frames in a pass */
#define FAST     256 /* while they come fast: fewer passes, and the driver is called less often */
#define WANT_MIN (NET_HDR_BYTES + 1514)
#define PEAK_OF  64 /* frames, the largest of which says how much to offer */
#define LOOK_NS  (3 * NS_PER_US)
#define SPILL    (NET_PACKET_MAX + 1) /* so that what is longer is seen to be */
#define NUM_AT   offsetof(struct virtio_net_hdr_v1, num_buffers)

static void on_timer(void *arg)
{
	struct rx *rx = arg;

	rx->limited = false;
	server_run(rx->server);
}

static void watch(struct rx *rx)
{
	pair_watch(&rx->port->pair[rx->pair]);
}

static void on_pace(void *arg)
{
	struct rx *rx = arg;

	if (rx->pace.stuck && pace_forget(&rx->pace))
		watch(rx);
	rx->readable = !rx->gone;
	server_run(rx->server);
}

int rx_open(struct rx *rx, struct port *port, unsigned pair)
{
	rx->port = port;
	rx->pair = pair;
	rx->want = WANT_MIN;
	rx->spill = malloc(SPILL);
	return rx->spill ? rx_buf_open(rx) : -ENOMEM;
}

int rx_attach(struct rx *rx, struct loop *loop)
{
	int err = pace_open(&rx->pace, loop, on_pace, rx);

	/* The limit is asked again. */
	rx->limited = false;
	return err ? err : loop_add_timer(loop, on_timer, rx, &rx->timer);
}

void rx_detach(struct rx *rx)
{
	loop_del_timer(rx->timer);
	rx->timer = NULL;
	pace_close(&rx->pace);
}

void rx_close(struct rx *rx)
{
	rx_buf_close(rx);
	free(rx->spill);
}

static void forget_buffers(struct rx *rx)
{
	rx->first = rx->end = rx->iov_end = 0;
	rx->room = 0;
}

void rx_ring(struct rx *rx, bool on)
{
	uint64_t features = on ? server_features(rx->server) : 0;

	forget_buffers(rx);
	rx_wait_drop(rx, &rx->stats.no_buffer);
	pace_forget(&rx->pace); /* whoever tells of the ring has the pair watched anew */
	rx->on = on;
	rx->readable = !rx->gone;
	rx->mergeable = features & NET_BIT(VIRTIO_NET_F_MRG_RXBUF);
	rx->legacy = on && !port_header_is_ours(features);
	rx->want = WANT_MIN;
}

void rx_release(struct rx *rx)
{
	rx_wait_unplace(rx);
	while (rx->end > rx->first)
		server_unpop(rx->server, rx->buf[--rx->end].head);
	forget_buffers(rx);
}

/* ---- reading ---- */

/* A frame that was read: the first bytes into the driver's buffers, the rest into the spill area. */
struct frame {
	uint32_t len;     /* with the header */
	uint32_t placed;  /* bytes of it in the buffers */
	uint64_t offered; /* what the buffers there can hold of a frame */
	uint64_t needs;   /* features, for what of it is unfinished */
	uint8_t head[FILTER_LOOK];
	size_t head_len;
};

/* Whether all goes to the spill area first. */
static bool reads_aside(const struct rx *rx)
{
	return rx->want == WANT_MIN;
}

/* The bytes of a header that the backend does not give. */
static uint32_t no_header(const struct rx *rx)
{
	return rx->port->backend.ops->vnet ? 0 : NET_HDR_BYTES;
}

/* Reads behind the first skip bytes of the vectors, which are more. */
static ssize_t read_behind(struct rx *rx, struct iovec *iov, int n, size_t skip)
{
	struct backend *b = &rx->port->backend;
	struct iovec whole;
	ssize_t len;

	while (skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		n--;
	}
	whole = *iov;
	iov->iov_base = (uint8_t *)iov->iov_base + skip;
	iov->iov_len -= skip;
	len = b->ops->receive(b, rx->pair, iov, n);
	*iov = whole;
	return len;
}

/* The features that a frame needs, by its header. */
static uint64_t offloads_of(const struct iovec *iov, int n)
{
	struct virtio_net_hdr h = { .flags = 0 };

	vec_get(iov, n, 0, &h, sizeof(h));
	return offload_needs(&offload_received, h.flags, h.gso_type);
}

/* Reads the next frame: 1, 0 if it was none for the driver, or -errno. */
static int read_frame(struct rx *rx, struct frame *f)
{
	uint32_t skip = no_header(rx);
	struct iovec *iov = rx_buf_vectors(rx), behind;
	int n = reads_aside(rx) ? 0 : MIN(rx_buf_count(rx), NET_IOV);
	uint64_t direct = n == rx_buf_count(rx) ? rx->room : vec_len(iov, n);
	ssize_t len;

	behind = iov[n];
	iov[n] = (struct iovec) { .iov_base = rx->spill, .iov_len = SPILL };
	len = read_behind(rx, iov, n + 1, skip);
	f->needs = skip || len < 0 ? 0 : offloads_of(iov, n + 1);
	f->head_len = 0;
	if (len >= 0 && !filter_is_open(&rx->filter))
		f->head_len = vec_get(iov, n + 1, NET_HDR_BYTES, f->head, FILTER_LOOK);
	iov[n] = behind;
	if (len < 0)
		return (int)len;
	f->len = (uint32_t)len + skip;
	f->placed = (uint32_t)MIN(f->len, direct);
	f->offered = rx->mergeable ? rx->room : rx->buf[rx->first].len;
	return 1;
}

static bool passes(const struct rx *rx, const struct frame *f)
{
	return filter_is_open(&rx->filter) ||
	       filter_passes(&rx->filter, f->head, MIN(f->head_len, f->len - NET_HDR_BYTES));
}

/* Whether the driver is to have it, as unfinished as it is: the host may have kept it since it was for another driver. */
static bool wanted(struct rx *rx, const struct frame *f)
{
	if (f->len < NET_HDR_BYTES + NET_ETH_BYTES) {
		count_add(&rx->stats.too_short, 1);
		return false;
	}
	if (!(f->needs & ~rx->offloads) && passes(rx, f))
		return true;
	count_add(&rx->stats.filtered, 1);
	return false;
}

/* ---- delivering ---- */

/* Offers as much for the next frames as the largest of the last ones needed. */
static void adapt(struct rx *rx, uint32_t len)
{
	rx->peak = MAX(rx->peak, len);
	if (++rx->since < PEAK_OF)
		return;
	rx->want = MIN(MAX(rx->peak, WANT_MIN), NET_PACKET_MAX);
	rx->peak = rx->since = 0;
}

/* The header's part that is ours: all of it if the backend has none. */
static void finish_header(struct rx *rx, const struct iovec *iov, int n, uint16_t buffers)
{
	struct virtio_net_hdr_v1 header = { .num_buffers = buffers };

	if (!rx->port->backend.ops->vnet) {
		vec_put(iov, n, 0, &header, sizeof(header));
		return;
	}
	vec_put(iov, n, NUM_AT, &buffers, sizeof(buffers));
	if (!(rx->offloads & NET_BIT(VIRTIO_NET_F_GUEST_CSUM)))
		vec_put(iov, n, offsetof(struct virtio_net_hdr_v1, flags), &header.flags, 1);
}

static void mark_dirty(struct rx *rx, const struct iovec *iov, uint32_t len)
{
	const struct mem *mem = server_mem(rx->server);

	if (!mem_logging(mem))
		return;
	for (uint32_t n; len; len -= n, iov++) {
		n = (uint32_t)MIN(len, iov->iov_len);
		mem_dirty_ptr(mem, iov->iov_base, n);
	}
}

/* Gives the driver the frame of len bytes, header included, in the first buffers. So much of it is placed there, the rest
 * stands in the spill area, where nobody wrote a header if the backend has none. */
static void deliver(struct rx *rx, uint32_t len, uint32_t placed)
{
	uint32_t from = MAX(placed, no_header(rx));
	const struct iovec *iov = rx_buf_vectors(rx);
	int n = rx_buf_count(rx);
	uint16_t buffers = 0;
	uint32_t left = len;

	while (left) {
		const struct rx_buf *buf = &rx->buf[rx->first++];
		uint32_t part = MIN(left, buf->len);

		assert(rx->first <= rx->end); /* it was looked whether there is room for it */
		server_push(rx->server, buf->head, part, 0);
		rx->room -= buf->len;
		left -= part;
		buffers++;
	}
	if (from < len)
		vec_put(iov, n, from, rx->spill + (from - placed), len - from);
	CRASH_POINT("header before");
	finish_header(rx, iov, n, buffers);
	mark_dirty(rx, iov, len); /* after the last write */
	if (rx->first == rx->end)
		rx->first = rx->end = rx->iov_end = 0;
	throttle_passed(&rx->turn);
	count_add(&rx->stats.packets, 1);
	count_add(&rx->stats.bytes, len - NET_HDR_BYTES);
	adapt(rx, len);
}

/* False: the frame that waits goes on waiting. */
static bool finish_held(struct rx *rx)
{
	if (!rx_wait_over(rx))
		return false;
	if (rx->held)
		deliver(rx, rx->held, rx->held_at);
	rx_wait_end(rx);
	return true;
}

/* True if the next frame may be read. */
static bool take_frame(struct rx *rx, struct frame *f)
{
	if (!wanted(rx, f))
		return true;
	if (f->len > NET_PACKET_MAX || (f->len > f->offered && !rx->mergeable)) {
		count_add(&rx->stats.too_large, 1);
		return true;
	}
	if (!rx_wait_pay(rx, f->len)) {
		count_add(&rx->stats.limited, 1);
		rx_wait(rx, f->len, f->placed, f->needs, false);
		return false;
	}
	if (f->len > f->offered || (reads_aside(rx) && f->len > rx->want)) {
		count_add(&rx->stats.spilled, 1);
		if (f->len > rx->want)
			rx->want = NET_PACKET_MAX;
	}
	if (f->len <= f->offered) {
		deliver(rx, f->len, f->placed);
		return true;
	}
	rx_wait(rx, f->len, f->placed, f->needs, true);
	return finish_held(rx);
}

/* ---- passes ---- */

/* The backend has no frame now, or never again, or is out of order. */
static void stop_reading(struct rx *rx, int err)
{
	rx->readable = false;
	if (err == -EPIPE ? pace_forget(&rx->pace) : pace_empty(&rx->pace))
		watch(rx);
	if (err == -EAGAIN)
		return;
	if (err == -EPIPE) {
		rx->gone = true;
		port_lost(rx->port);
		return;
	}
	count_add(&rx->stats.errors, 1);
	log_warn_limited("%s: no frame can be read: %s", rx->port->backend.name, strerrordesc_np(-err));
}

/* What comes while the link is down is lost, and so is what waited, in the memory that is read into here. */
static bool discard(struct rx *rx)
{
	const struct iovec iov = { .iov_base = rx->spill, .iov_len = SPILL };
	struct backend *b = &rx->port->backend;
	unsigned n;

	if (rx->held)
		rx_wait_drop(rx, &rx->stats.link_down);
	for (n = 0; rx->readable && n < BUDGET; n++) {
		ssize_t len = b->ops->receive(b, rx->pair, &iov, 1);

		if (len < 0)
			stop_reading(rx, (int)len);
		else
			count_add(&rx->stats.link_down, 1);
	}
	return n > 1;
}

/* Whether to ask the backend: it announced a frame, or we are polling and last asked some time ago. */
static bool may_read(struct rx *rx)
{
	uint64_t now;

	if (rx->readable)
		return true;
	if (rx->gone || rx->pace.fast || rx->first == rx->end)
		return false;
	now = clock_ns();
	if (now - rx->looked < LOOK_NS)
		return false;
	rx->looked = now;
	return true;
}

static void take_changes(struct rx *rx)
{
	struct port_shared *shared = &rx->port->shared;
	struct driver_coalesce coalesce;

	lock_take(&shared->lock);
	rx->filter = shared->filter;
	rx->offloads = shared->offloads;
	coalesce = shared->rx;
	lock_drop(&shared->lock);
	if (rx->held && rx->held_needs & ~rx->offloads)
		rx_wait_drop(rx, &rx->stats.filtered);
	server_coalesce(rx->server, coalesce.enough, coalesce.us);
}

/* Whether the host gives this pair anything. */
static bool takes_part(const struct rx *rx)
{
	return rx->pair < atomic_load_explicit(&rx->port->shared.pairs, memory_order_relaxed);
}

static bool link_is_up(const struct rx *rx)
{
	return atomic_load_explicit(&rx->port->shared.link, memory_order_relaxed);
}

static bool receive(struct rx *rx)
{
	struct frame f;
	unsigned n = 0;

	if (port_has_changed(rx->port, &rx->seen))
		take_changes(rx);
	if (!link_is_up(rx))
		return discard(rx);
	if (rx->held) {
		if (!finish_held(rx))
			return false;
		n++;
	}
	while (n < (rx->pace.fast ? FAST : BUDGET) && may_read(rx)) {
		int got;

		rx_buf_prepare(rx);
		if (rx->first == rx->end)
			break;
		CRASH_POINT("receive before");
		got = read_frame(rx, &f);
		CRASH_POINT("receive after");
		if (got < 0) {
			stop_reading(rx, got);
			break;
		}
		rx->readable = true;
		n++;
		if (pace_read(&rx->pace, f.len))
			watch(rx);
		if (!take_frame(rx, &f))
			break;
	}
	return n > 0;
}

bool rx_service(struct rx *rx)
{
	bool did;

	if (!rx->on || !takes_part(rx)) {
		if (pace_forget(&rx->pace))
			watch(rx);
		return false;
	}
	did = receive(rx);
	if (rx->readable && !rx_pending(rx))
		pace_stuck(&rx->pace);
	return did;
}

unsigned rx_held(const struct rx *rx)
{
	return rx->pace.fast;
}

void rx_hung_up(struct rx *rx)
{
	/* A tap leaves nothing. */
	if (!rx->gone && (rx->first == rx->end || rx->port->backend.ops->once))
		port_lost(rx->port);
}

/* What is taken is taken for a frame: with none to be read, or none wanted, entries of the ring are no work. What changes
 * that runs the queue: the backend's event, the limit's timer, pair_poked. */
bool rx_has_room(const struct rx *rx)
{
	if (!rx->on || !takes_part(rx) || !link_is_up(rx))
		return false;
	if (rx->held)
		return !rx->limited && rx->room < rx->held;
	if (!rx->readable)
		return false;
	return rx_buf_wants(rx);
}

bool rx_pending(const struct rx *rx)
{
	if (!rx->on || !rx->readable || !takes_part(rx))
		return false;
	return !link_is_up(rx) || (!rx->held && rx->first < rx->end);
}
