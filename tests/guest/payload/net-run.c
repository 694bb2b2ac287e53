/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the bare guest does with a network device: it sends as fast as it can, counts what comes, or sends back what
 * comes with the addresses swapped. Frames are UDP over IPv4, or one large TCP segment to be cut by the device, with a
 * number in their payload, by which a receiver tells what was lost and what came twice.
 */
#include "frame.h"
#include "net.h"
#include "window.h"

#define FRAME_TOP 2048  /* of a frame of ours that lie in one part */
#define SEGMENT   1448  /* bytes of payload in each packet that a large segment is cut to */
#define SUPER     65226 /* a large segment's frame: 45 such packets */
#define HISTORY   65536 /* numbers that are remembered */
#define IDLE      30    /* looks at the ring, some µs, before it sleeps; what sends may need the processor */
#define UDP_AT    34
#define TCP_AT    34

static uint8_t frames[NET_RING][NET_HEADER + FRAME_TOP] __attribute__((aligned(64)));
static uint8_t filling[65536];
static uint64_t history[HISTORY / 64];

static struct {
	uint64_t sequence, expected;
	uint64_t packets, bytes, lost, twice, strange, errors;
	const char *kind;
	bool link;
} run;
static struct window window;

/* A frame of size bytes with its header, of which the first FRAME_TOP are here; from and to are in 198.18.0.0/15, which
 * is for measurements. */
static void make_frame(uint8_t *at, uint32_t size, bool tso)
{
	static const uint8_t to[6] = { 2, 0, 0, 0, 0, 1 }, from[6] = { 2, 0, 0, 0, 0, 2 };
	struct net_header *header = (struct net_header *)(void *)at;
	uint8_t *frame = at + NET_HEADER, *ip = frame + 14, *l4 = ip + 20;

	memset(at, 0, NET_HEADER + FRAME_TOP);
	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	put16(frame + 12, 0x0800);
	put16(ip, 0x4500);
	put16(ip + 2, size - 14);
	put16(ip + 6, 0x4000); /* don't fragment */
	put16(ip + 8, 64u << 8 | (tso ? 6 : 17));
	put16(ip + 12, 198 << 8 | 18);
	put16(ip + 14, 2);
	put16(ip + 16, 198 << 8 | 18);
	put16(ip + 18, 1);
	put16(ip + 10, ~sum16(ip, 20, 0));
	put16(l4, 9);
	put16(l4 + 2, 9);
	if (!tso) {
		put16(l4 + 4, size - UDP_AT); /* no checksum, as UDP over IPv4 may */
		return;
	}
	l4[12] = 5 << 4; /* words of header */
	l4[13] = 0x10;   /* ACK */
	put16(l4 + 14, 0xffff);
	/* Of the checksum only the pseudo-header is here: the device does the rest for each packet. */
	put16(l4 + 16, sum16(ip + 12, 8, 6 + size - TCP_AT));
	*header = (struct net_header) { NET_NEEDS_CSUM, NET_GSO_TCPV4, TCP_AT + 20, SEGMENT, TCP_AT, 16, 0 };
}

static unsigned mark_at(const uint8_t *frame)
{
	return frame[23] == 6 ? TCP_AT + 20 : UDP_AT + 8;
}

static void number(uint8_t *at, uint64_t sequence)
{
	struct frame_mark m = { FRAME_MARK, sequence };

	memcpy(at + NET_HEADER + mark_at(at + NET_HEADER), &m, sizeof(m));
}

/* ---- windows ---- */

static void tell(uint64_t us)
{
	print("net ");
	print(run.kind);
	print_count("packets", run.packets);
	print_count("bytes", run.bytes);
	print_count("us", us);
	print_count("lost", run.lost);
	print_count("twice", run.twice);
	print_count("strange", run.strange);
	print("\n");
}

static void clear(void)
{
	run.packets = run.bytes = run.lost = run.twice = run.strange = 0;
	run.expected = 0;
}

/* Now and then: the host's word or the window's end, and the link. */
static void look(const struct vdev *d)
{
	if (window_look(&window) && d->features & NET_F_STATUS) {
		bool up = MMIO_READ(uint16_t, d->device + 6) & 1;

		if (up != run.link)
			print(up ? "!link up\n" : "!link down\n");
		run.link = up;
	}
}

static bool start(struct vdev *d, const struct net_options *o, const char *kind)
{
	bool ok = net_start(d, o->irq);

	report(ok, "the network device starts");
	if (!ok)
		return false;
	run.kind = kind;
	run.link = true;
	print("# features ");
	print_hex(d->features);
	print(" mac");
	for (unsigned i = 0; i < 6; i++) {
		uint8_t byte = MMIO_READ(uint8_t, d->device + i);

		print(byte < 16 ? ":0" : ":");
		print_hex(byte);
	}
	print("\n");
	window = (struct window) { .seconds = o->seconds, .clear = clear, .tell = tell };
	window_open(&window);
	return true;
}

/* ---- the three things to do ---- */

void net_transmit(struct vdev *d, const struct net_options *o)
{
	uint32_t size = o->tso ? SUPER : o->size;
	static struct net_frame f;
	unsigned next = 0;

	if (!start(d, o, "tx"))
		return;
	if ((o->tso && !(d->features & NET_F_HOST_TSO4)) || size < 60 || (!o->tso && size > FRAME_TOP)) {
		report(false, "the device can send frames of this size");
		return;
	}
	for (unsigned i = 0; i < NET_RING; i++)
		make_frame(frames[i], size, o->tso);
	while (!window.quit) {
		unsigned sent = net_reclaim();

		run.packets += sent;
		run.bytes += (uint64_t)sent * size;
		/* Completions come in order, or nearly so: NET_RING frames later nobody reads this one. */
		while (window.running && net_under_way() < NET_RING) {
			uint32_t top = o->tso ? TCP_AT + 32 : size;

			number(frames[next], run.sequence++);
			f.part[0] = (struct net_part) { frames[next], NET_HEADER + top };
			f.parts = 1;
			for (uint32_t done = top; done < size; f.parts++) {
				uint32_t n = size - done < NET_BUFFER ? size - done : NET_BUFFER;

				f.part[f.parts] = (struct net_part) { filling + done - top, n };
				done += n;
			}
			if (!net_send(&f)) {
				report(false, "a frame of several parts can be sent");
				return;
			}
			next = (next + 1) % NET_RING;
			if (next % 32 == 0)
				break;
		}
		net_publish();
		look(d);
		if (!sent)
			__asm__ volatile("pause");
	}
}

/* Numbers may come in another order; one that is remembered and comes again came twice. */
static void note_number(const struct net_frame *f)
{
	const uint8_t *frame = (const uint8_t *)f->part[0].at + NET_HEADER;
	unsigned at = mark_at(frame);
	uint64_t *word, bit;
	struct frame_mark m;

	if (f->part[0].len < NET_HEADER + at + sizeof(m)) {
		run.strange++;
		return;
	}
	memcpy(&m, frame + at, sizeof(m));
	if (m.mark != FRAME_MARK) {
		run.strange++;
		return;
	}
	word = &history[m.sequence % HISTORY / 64];
	bit = 1ull << m.sequence % 64;
	if (!run.expected)
		run.expected = m.sequence; /* the first of a window */
	if (m.sequence >= run.expected) {
		run.lost += m.sequence - run.expected;
		for (; run.expected < m.sequence; run.expected++)
			history[run.expected % HISTORY / 64] &= ~(1ull << run.expected % 64);
		run.expected++;
	} else if (m.sequence + HISTORY < run.expected || *word & bit) {
		run.twice++;
	} else if (run.lost) {
		run.lost--;
	}
	*word |= bit;
}

/* What is there now, up to a ring's worth; how many frames. */
static unsigned take(bool echo)
{
	struct net_frame f;
	unsigned n = 0;
	int got = 0;

	while (n < 64 && (got = net_receive(&f)) == 1) {
		uint8_t *frame = (uint8_t *)f.part[0].at + NET_HEADER, other[6];

		n++;
		run.packets++;
		run.bytes += f.len;
		note_number(&f);
		if (echo) {
			struct net_header *header = f.part[0].at;

			memcpy(other, frame, 6);
			memcpy(frame, frame + 6, 6);
			memcpy(frame + 6, other, 6);
			header->num_buffers = 0;
			header->flags &= NET_NEEDS_CSUM;
		}
		if (!echo || !net_send(&f))
			net_drop(&f);
	}
	run.errors += got < 0;
	if (got < 0)
		window.quit = true;
	return n;
}

static void receive(struct vdev *d, const struct net_options *o, bool echo)
{
	unsigned idle = 0;

	if (!start(d, o, echo ? "echo" : "rx"))
		return;
	while (!window.quit) {
		unsigned n = take(echo);

		if (echo)
			n += net_reclaim();
		net_publish();
		look(d);
		idle = n ? 0 : idle + 1;
		if (n)
			continue;
		/* Asleep it would not see the host's word; frames come all the time while it matters. */
		if (o->irq && window.running && !o->seconds && idle > IDLE)
			net_sleep();
		else
			__asm__ volatile("pause");
	}
	report(!run.errors, "the receive ring is sound");
}

void net_count(struct vdev *d, const struct net_options *o)
{
	receive(d, o, false);
}

void net_echo(struct vdev *d, const struct net_options *o)
{
	receive(d, o, true);
}
