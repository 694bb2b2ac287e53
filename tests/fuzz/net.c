/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-net: net-server's rings (transmit, receive, control) and all that a driver, a backend and a supervisor can do to
 * them, with a backend of the target's own that checks what it is handed.
 *
 * As long as an input keeps to what a driver may do, each frame and command that it gives must come back exactly once,
 * whatever else happens: rings that stop, memory tables, deaths.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <sys/epoll.h>

#include "clock.h"
#include "nethost.h"
#include "port.h"
#include "rig.h"

#define PIECES  8
#define PENDING 64
#define DEATHS  4 /* more than a request outlives */
#define CONTROL (2 * NETHOST_PAIRS)

static struct rig rig;
static struct port port;
static unsigned deaths;

/* ---- the process ---- */

static unsigned command_ring(void)
{
	return nethost_agreed(VIRTIO_NET_F_MQ) ? CONTROL : 2;
}

static void boot(uint64_t features)
{
	/* The pairs that are not there are half a megabyte. */
	memset(&port, 0, offsetof(struct port, pair[NETHOST_PAIRS]));
	memset(&port.queue, 0, sizeof(port) - offsetof(struct port, queue));
	port.stream_fd = port.listen_fd = -1;
	port.mac_given = true;
	port.mac[0] = 2;
	rig_boot(&rig, NETHOST_PAIRS, 2 * NETHOST_PAIRS + 1, features);
}

static void die(void)
{
	uint64_t features = rig.features;
	bool was[RIG_RINGS];

	/* Orders are carried out, and rings stopped, before it dies: their memory is not the queues' yet. */
	still_run(rig.loop, RIG_PASSES);
	memcpy(was, rig.up, sizeof(was));
	rig_die(&rig);
	boot(features);
	rig_start_again(&rig, was);
}

/* ---- what the driver does ---- */

static uint64_t some_address(struct input *in, uint32_t len)
{
	static const uint32_t bases[] = { RIG_DATA, RIG_DATA, RIG_DATA + RIG_BYTES, RIG_APART };
	uint8_t where = in_u8(in);
	uint32_t off = in_u8(in) * 256U;

	/* Over the edge of two regions that adjoin, or up to the end of one. */
	if (where & 4)
		return RIG_DATA + RIG_BYTES - MIN(len, 1 + off % 64U);
	if (where & 8 && len <= RIG_BYTES)
		return RIG_APART + RIG_BYTES - len;
	return bases[where % 4] + (off < RIG_BYTES - MIN(len, RIG_BYTES) ? off : 0);
}

/* Lays len bytes out in pieces, the first bytes of which are those of head. */
static unsigned pieces(struct input *in, struct ring_buf *bufs, unsigned max, uint32_t len,
		       const uint8_t *head, uint32_t head_len, bool write)
{
	unsigned n = 1 + in_below(in, max);

	for (unsigned i = 0; i < n; i++) {
		uint32_t part = i + 1 < n ? 1 + in_below(in, MIN(MAX(len / 2, 1U), 256U)) : len;

		if (part >= len)
			part = len;
		bufs[i] = (struct ring_buf) { .gpa = some_address(in, part), .len = part, .write = write };
		for (uint32_t k = 0; k < part && head_len; k++, head++, head_len--)
			rig_put(&rig, bufs[i].gpa + k, head, 1);
		len -= part;
		if (!len)
			return i + 1;
	}
	return n;
}

static void add(struct input *in, unsigned ring, const struct ring_buf *bufs, unsigned n)
{
	bool indirect = in_u8(in) & 1 && rig.features & RING_F_INDIRECT;

	ring_add(&rig.ring[ring], bufs, n, indirect);
}

static uint32_t some_length(struct input *in)
{
	static const uint32_t lens[] = {
		14, 60, 64, 1514, 9014, 65535, NET_FRAME_MAX, NET_FRAME_MAX + 1, 2 * RIG_BYTES - NET_HDR_BYTES
	};
	uint8_t pick = in_u8(in);

	return pick < ARRAY_SIZE(lens) ? lens[pick] : pick < 128 ? pick : (pick - 128U) * 37;
}

/* A frame with a header of any bytes, of any length that a chain may have. */
static void op_frame(struct input *in)
{
	struct ring_buf bufs[PIECES];
	unsigned ring = in_u8(in) & 1 && nethost_agreed(VIRTIO_NET_F_MQ) ? 3 : 1;
	uint32_t len = NET_HDR_BYTES + some_length(in);
	uint8_t header[NET_HDR_BYTES];

	in_bytes(in, header, sizeof(header));
	/* No piece is longer than a region, so the longest frames are those of several. */
	if (len > RIG_BYTES) {
		bufs[0] = (struct ring_buf) { .gpa = RIG_DATA, .len = RIG_BYTES };
		bufs[1] = (struct ring_buf) { .gpa = RIG_DATA, .len = len - RIG_BYTES };
		rig_put(&rig, RIG_DATA, header, sizeof(header));
		add(in, ring, bufs, 2);
		return;
	}
	add(in, ring, bufs, pieces(in, bufs, PIECES, len, header, sizeof(header), false));
}

static void add_command(struct input *in, const uint8_t *command, uint32_t given, uint32_t len)
{
	struct ring_buf bufs[PIECES + 1];
	unsigned n = pieces(in, bufs, PIECES, len, command, given, false);

	bufs[n] = (struct ring_buf) { .gpa = some_address(in, 1), .len = 1, .write = true };
	add(in, command_ring(), bufs, n + 1);
}

/* Any bytes, and sometimes many more: longer than a command may be. */
static void op_command(struct input *in)
{
	static const uint8_t lens[] = { 0, 1, 2, 4, 6, 8, 14, 20, 64 };
	uint8_t command[2 + 72], pick = in_u8(in);
	uint32_t len = 2U + (pick < ARRAY_SIZE(lens) ? lens[pick] : pick % 72U);

	in_bytes(in, command, len);
	add_command(in, command, len, pick == 255 ? CONTROL_BYTES + 1 : pick == 254 ? RIG_BYTES - 1U : len);
}

/* Two tables of addresses, as long as they say or not. */
static void op_table(struct input *in)
{
	uint8_t command[2 + 2 * (4 + 256 * ETH_ALEN)] = { VIRTIO_NET_CTRL_MAC,
							  VIRTIO_NET_CTRL_MAC_TABLE_SET };
	uint32_t n_uni = in_u8(in), n_multi = in_u8(in), len = 2 + 8 + (n_uni + n_multi) * ETH_ALEN;
	uint8_t lie = in_u8(in), address = in_u8(in);
	uint32_t says_uni = lie & 1 ? in_u32(in) : n_uni, says_multi = lie & 2 ? in_u32(in) : n_multi;

	memset(command + 6, address, len - 6);
	memcpy(command + 2, &says_uni, 4);
	memcpy(command + 6 + n_uni * ETH_ALEN, &says_multi, 4);
	add_command(in, command, len, len);
}

static void op_buffers(struct input *in)
{
	unsigned ring = in_u8(in) & 1 && nethost_agreed(VIRTIO_NET_F_MQ) ? 2 : 0;

	for (unsigned i = 1 + in_below(in, 8); i; i--) {
		struct ring_buf bufs[PIECES];
		uint32_t len = NET_HDR_BYTES + some_length(in);

		add(in, ring, bufs, pieces(in, bufs, 4, MIN(len, RIG_BYTES), NULL, 0, true));
	}
}

static uint64_t any_address(struct input *in)
{
	uint8_t pick = in_u8(in);

	if (pick < 8)
		return in_u64(in);
	if (pick < 32) /* about the edges */
		return (pick & 1 ? RIG_APART + RIG_BYTES : RIG_DATA) - 32 + in_below(in, 64);
	if (pick < 64) /* rings themselves */
		return 0x10000U + in_u16(in);
	return some_address(in, 16);
}

static uint32_t any_length(struct input *in)
{
	uint8_t pick = in_u8(in);

	return pick < 8 ? in_u32(in) : pick < 64 ? pick - 8U : some_length(in);
}

static void op_any_chain(struct input *in)
{
	struct ring_buf bufs[RING_TABLE_MAX];
	unsigned ring = in_below(in, rig.rings), n = 1 + in_below(in, RING_TABLE_MAX);

	rig.honest = false;
	for (unsigned i = 0; i < n; i++)
		bufs[i] = (struct ring_buf) { .gpa = any_address(in),
					      .len = any_length(in),
					      .write = in_u8(in) & 1 };
	add(in, ring, bufs, n);
}

static struct ring_desc any_desc(struct input *in)
{
	struct ring_desc d = { .addr = any_address(in), .len = any_length(in) };
	uint8_t how = in_u8(in);

	d.id = how & 1 ? in_u16(in) : (uint16_t)in_below(in, RIG_SIZE);
	d.flags = how & 2 ? in_u16(in) : (uint16_t)in_below(in, 8);
	if (how & 4)
		d.len = 16 * in_below(in, 20);
	return d;
}

/* Of a ring, at once or while the device works, or of a table. */
static void op_write_over(struct input *in)
{
	unsigned ring = in_below(in, rig.rings), at = in_below(in, RIG_SIZE);
	struct ring *r = &rig.ring[ring];
	uint8_t how = in_u8(in);

	rig.honest = false;
	if (how % 4 == 0) {
		nethost.rewrite = true;
		nethost.ring = ring;
		nethost.at = at;
		nethost.desc = any_desc(in);
	} else if (how % 4 == 1 && rig.features & RING_F_INDIRECT) {
		ring_write_table(r, r->tables + at * RING_TABLE_MAX * 16U,
				 (uint16_t)in_below(in, RING_TABLE_MAX), any_desc(in));
	} else if (how % 4 == 2 && !r->packed) {
		if (how & 4)
			ring_put_avail(r, in_u16(in));
		else
			ring_set_avail_idx(r, (uint16_t)(r->avail_idx + in_u8(in)));
	} else {
		ring_write_desc(r, (uint16_t)at, any_desc(in));
	}
}

static void op_kick(struct input *in)
{
	uint8_t which = in_u8(in), calls = in_u8(in);

	for (unsigned i = 0; i < rig.rings; i++)
		if (rig.up[i] && !(which >> i & 1) && calls >> i & 1)
			ring_enable_calls(&rig.ring[i]);
	rig_kick(&rig, which);
	if (which & 0x80)
		still_run(rig.loop, 1 + (which >> 5 & 3U));
	else
		still_run(rig.loop, RIG_PASSES);
}

static void op_collect(struct input *in)
{
	(void)in;
	rig_collect(&rig, 0);
}

/* ---- what the others do ---- */

static void op_backend(struct input *in)
{
	static const int answers[] = { 0, -EAGAIN, -EIO, -EPIPE, -ENOBUFS, -EINVAL };
	uint8_t what = in_u8(in);
	unsigned pair = what & 1;

	if (what & 2) {
		nethost.answer = answers[(what >> 2) % ARRAY_SIZE(answers)];
		return;
	}
	still_raise(nethost.fd[pair], EPOLLOUT);
	if (nethost.answer == -EAGAIN)
		nethost.answer = 0;
	if (what & 4)
		still_raise(nethost.fd[pair], EPOLLHUP);
	still_run(rig.loop, RIG_PASSES);
}

static void op_receive(struct input *in)
{
	uint8_t what = in_u8(in);

	nethost.frames = MIN(nethost.frames + 1 + (what >> 1) % 16U, PENDING);
	nethost.len = some_length(in) + (nethost.vnet ? NET_HDR_BYTES : 0);
	in_bytes(in, nethost.head, 12 + 18);
	/* Of any bytes few are offloads that were agreed on, and frames with others are dropped. */
	if (nethost.vnet && what & 32)
		memset(nethost.head, 0, 2);
	still_raise(nethost.fd[what & 1], EPOLLIN);
	still_run(rig.loop, RIG_PASSES);
}

static void op_set(struct input *in)
{
	static const char *const sets[][2] = {
		{ "link", "down" },       { "link", "up" },         { "announce", "on" },
		{ "tx-bytes", "1M/64K" }, { "tx-bytes", "0" },      { "tx-packets", "1K/2" },
		{ "tx-packets", "0" },    { "rx-bytes", "1M/64K" }, { "rx-bytes", "0" },
		{ "rx-packets", "1K/2" }, { "rx-packets", "0" },    { "link", "sideways" },
		{ "tx-bytes", "1K/100" }, { "rx-bytes", "1K/1" },
	};
	const char *const *set = sets[in_below(in, ARRAY_SIZE(sets))];
	char why[64];

	rig.device->set(&port, set[0], set[1], why, sizeof(why));
	still_run(rig.loop, RIG_PASSES);
}

static void op_time(struct input *in)
{
	still_advance((uint64_t)in_u16(in) * 10000);
	still_run(rig.loop, RIG_PASSES);
}

static void op_order(struct input *in)
{
	uint8_t what = in_u8(in);
	unsigned i = what % rig.rings;

	if (!rig.up[i]) {
		MUST(rig_start(&rig, i, false) || !rig.honest);
	} else {
		switch (in_u8(in) % 8) {
		case 0:
			rig_stop(&rig, i, false);
			break;
		case 1:
			rig_enable(&rig, i, false);
			break;
		case 2:
			rig_enable(&rig, i, true);
			break;
		case 3:
			rig_drain(&rig, i, true);
			break;
		case 4:
			rig_drain(&rig, i, false);
			break;
		case 5:
			rig_move(&rig, (what >> 4) % NETHOST_PAIRS);
			break;
		default:
			rig_set_mem(&rig, i, what >> 4 & 1);
			break;
		}
	}
	still_run(rig.loop, RIG_PASSES);
}

static void op_config(struct input *in)
{
	uint32_t off = in_u8(in), len = in_u8(in);
	uint8_t *buf = malloc(len ? len : 1);

	/* As lib/vhost has it: at most 256 bytes. */
	if (len)
		rig.device->get_config(&port, off, len, buf);
	free(buf);
}

static void op_die(struct input *in)
{
	(void)in;
	if (rig.tracked && deaths++ < DEATHS)
		die();
}

static void (*const ops[])(struct input *in) = {
	op_frame,     op_frame,      op_kick,    op_command, op_table,   op_kick,
	op_buffers,   op_collect,    op_receive, op_set,     op_backend, op_time,
	op_any_chain, op_write_over, op_order,   op_die,     op_config,
};

/* ---- an input ---- */

static uint64_t features(struct input *in)
{
	static const uint8_t may_lack[] = { VIRTIO_NET_F_CSUM,      VIRTIO_NET_F_HOST_TSO4,
					    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN,
					    NET_F_HOST_USO,         VIRTIO_NET_F_GUEST_CSUM,
					    VIRTIO_NET_F_CTRL_RX,   VIRTIO_NET_F_CTRL_VLAN };
	uint8_t how = in_u8(in), lacks = in_u8(in);
	uint64_t all = rig_features(how);

	if (how & 8)
		all &= ~NET_BIT(VIRTIO_NET_F_MQ);
	if (how & 16)
		all &= ~NET_BIT(VIRTIO_NET_F_MRG_RXBUF);
	nethost.vnet = how & 32;
	rig.tracked = !(how & 64);
	if (how & 128)
		for (unsigned i = 0; i < ARRAY_SIZE(may_lack); i++)
			if (lacks >> i & 1)
				all &= ~NET_BIT(may_lack[i]);
	if ((how & 128) && lacks == 0xff) {
		all &= ~NET_BIT(32); /* a driver of before virtio 1.0; merged buffers or not */
		rig.honest = false;
	}
	return all;
}

/* With nothing in the way any more, all that was given comes back. */
static void settle(void)
{
	static const char *const lifted[] = { "tx-bytes", "tx-packets" };
	char why[64];

	nethost.answer = 0;
	nethost.frames = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(lifted); i++)
		rig.device->set(&port, lifted[i], "0", why, sizeof(why));
	for (unsigned i = 0; i < NETHOST_PAIRS; i++)
		still_raise(nethost.fd[i], EPOLLOUT);
	still_run(rig.loop, RIG_PASSES);
	rig_let_go(&rig);
	still_advance(NS_PER_S);
	still_run(rig.loop, RIG_PASSES);
	rig_collect(&rig, 0);
	for (unsigned i = 0; i < rig.rings; i++)
		if (i == command_ring() || (i % 2 && i < command_ring()))
			MUST(rig.ring[i].n_free == RIG_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	uint64_t wanted;

	if (len > 4096)
		return 0;
	rig_reset(&rig, &net_device, &port);
	nethost = (struct nethost) { .rig = &rig, .port = &port };
	deaths = 0;
	wanted = features(&in);
	boot(wanted);
	rig_lay_out(&rig);
	rig_start_all(&rig);
	while (in.left)
		ops[in_below(&in, ARRAY_SIZE(ops))](&in);
	if (rig.honest)
		settle();
	else
		still_run(rig.loop, RIG_PASSES);
	rig_end(&rig);
	return 0;
}
