/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that does anything: chains of any lengths and addresses on the receive, transmit and control rings, headers and
 * commands of any bytes, descriptors and indices written over, while a peer sends frames of any kind. The server may give
 * a ring up; it may not die, nor write where it was given nothing.
 *
 * BULKHEAD_FUZZ=N has each kind of ring driven for N seconds; BULKHEAD_SEED=N begins with another seed.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "net.h"
#include "note.h"
#include "num.h"

TestSuite(net_fuzz, .timeout = 3600);

#define OPERATIONS 300 /* with one server */
#define PIECES     16
#define GUARD      (1U << 20)
#define GUARD_BYTE 0x5a

static struct net n;
static uint8_t bytes[NET_BYTES];
static uint64_t seed, executions, servers, broken;
static uint64_t began; /* with this seed, the present server */
static uint64_t guard; /* guest memory that no descriptor names */

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint32_t below(uint32_t limit)
{
	return (uint32_t)(draw() % limit);
}

static bool one_in(uint32_t times)
{
	return below(times) == 0;
}

static uint32_t some_length(void)
{
	static const uint32_t lens[] = { 1,  2,    10,   11,   12,    13,    14,    26,
					 60, 1514, 1526, 4096, 65535, 65553, 65565, 65566 };

	if (one_in(20))
		return (uint32_t)draw();
	return one_in(2) ? lens[below(ARRAY_SIZE(lens))] : 1 + below(3000);
}

/* Mostly room of the test's own, behind which the guard begins; sometimes nowhere. */
static uint64_t some_address(uint32_t len)
{
	if (one_in(40))
		return draw();
	return len < (4U << 20) ? n.memory + below((4U << 20) - len) : n.memory;
}

static void fill_some(uint64_t gpa, uint32_t len)
{
	for (uint32_t i = 0; i < MIN(len, 64U); i++)
		*rig_ptr(&n.rig, gpa + i) = one_in(2) ? (uint8_t)below(9) : (uint8_t)draw();
}

static void add_chain(unsigned ring)
{
	struct ring_buf bufs[PIECES];
	unsigned count = 1 + below(one_in(4) ? PIECES : 3);
	bool receive = ring == 0, indirect = one_in(2) && n.rig.options.ring_features & RING_F_INDIRECT;

	for (unsigned i = 0; i < count; i++) {
		uint32_t len = some_length();

		bufs[i] = (struct ring_buf) { .gpa = some_address(len),
					      .len = len,
					      .write = one_in(30) ? !receive : receive };
		if (ring == 2 && i == count - 1)
			bufs[i].write = !one_in(10);
		if (!bufs[i].write && bufs[i].gpa >= n.memory && bufs[i].gpa < n.memory + (4U << 20))
			fill_some(bufs[i].gpa, len);
	}
	ring_add(&n.rig.queue[ring].ring, bufs, count, indirect);
}

static void add_command(void)
{
	static const uint8_t lens[] = { 0, 1, 2, 4, 6, 8, 14, 20 };
	uint32_t len = lens[below(ARRAY_SIZE(lens))];
	uint64_t at = n.memory + below(1U << 20);
	struct ring_buf bufs[] = { { .gpa = at, .len = 2 + len },
				   { .gpa = at + 64, .len = 1, .write = true } };
	uint8_t *p = rig_ptr(&n.rig, at);

	p[0] = (uint8_t)below(8);
	p[1] = (uint8_t)below(7);
	fill_some(at + 2, len);
	ring_add(&n.rig.queue[2].ring, bufs, 2, false);
}

static void add_frame(void)
{
	uint32_t len = 14 + below(2000);
	uint64_t at = n.memory + below(3U << 20);
	struct ring_buf bufs[] = { { .gpa = at, .len = NET_HEADER }, { .gpa = at + 16, .len = len } };

	memset(rig_ptr(&n.rig, at), 0, NET_HEADER);
	if (one_in(3))
		fill_some(at, NET_HEADER);
	ring_add(&n.rig.queue[1].ring, bufs, 2, false);
}

/* Writes over what only the driver writes: a descriptor, or the index. */
static void write_over(unsigned ring)
{
	struct ring *r = &n.rig.queue[ring].ring;
	struct ring_desc d = { .addr = some_address(4096),
			       .len = some_length(),
			       .id = (uint16_t)(one_in(4) ? draw() : below(RIG_SIZE)),
			       .flags = (uint16_t)(one_in(4) ? draw() : below(8)) };

	ring_write_desc(r, (uint16_t)below(RIG_SIZE), d);
	if (!r->packed && one_in(20))
		ring_set_avail_idx(r, (uint16_t)(r->avail_idx + below(200)));
}

static void peer(void)
{
	uint32_t len = one_in(10) ? 1 + below(65550) : 14 + below(2000);

	for (uint32_t i = 0; i < MIN(len, 64U); i++)
		bytes[i] = (uint8_t)draw();
	if (write(n.peer, bytes, len) < 0 && one_in(2))
		while (read(n.peer, bytes, sizeof(bytes)) > 0)
			;
}

static void operate(void)
{
	switch (below(10)) {
	case 0:
		write_over(below(3));
		break;
	case 1:
	case 2:
		add_chain(below(3));
		break;
	case 3:
		add_command();
		break;
	case 4:
	case 5:
		add_frame();
		break;
	case 6:
		peer();
		break;
	case 7:
		for (unsigned q = 0; q < 3; q++) {
			uint16_t id;
			uint32_t len;

			while (ring_get(&n.rig.queue[q].ring, &id, &len) == 1)
				;
		}
		break;
	default:
		add_chain(0);
		break;
	}
	executions++;
}

static void with_one_server(uint64_t features)
{
	struct net_options options = { .kind = NET_PACKET,
				       .control = true,
				       .rig = { .ring_features = features } };
	const uint8_t *p;

	net_start(&n, &options);
	guard = rig_alloc(&n.rig, GUARD, 4096);
	memset(rig_ptr(&n.rig, guard), GUARD_BYTE, GUARD);
	for (unsigned i = 0; i < OPERATIONS; i++) {
		operate();
		if (!one_in(4))
			continue;
		for (unsigned q = 0; q < 3; q++) {
			ring_publish(&n.rig.queue[q].ring);
			fd_event_set(n.rig.queue[q].kick);
		}
		cr_assert_eq(loop_run_once(n.rig.loop, 0), 0);
		cr_assert(!n.rig.lost, "the server died, seed %llu", (unsigned long long)began);
	}
	for (unsigned q = 0; q < 3; q++) {
		uint64_t count;

		broken += fd_set_nonblock(n.rig.queue[q].err, true) == 0 &&
			  read(n.rig.queue[q].err, &count, sizeof(count)) == sizeof(count);
	}
	rig_stop_ring(&n.rig, 0);
	p = rig_ptr(&n.rig, guard);
	for (uint32_t i = 0; i < GUARD; i++)
		cr_assert_eq(p[i], GUARD_BYTE, "byte %u was written, seed %llu", i,
			     (unsigned long long)began);
	net_stop(&n);
	servers++;
}

static void for_a_while(const char *what, uint64_t features)
{
	const char *seconds = getenv("BULKHEAD_FUZZ"), *first = getenv("BULKHEAD_SEED");
	uint64_t end = clock_ns() + (seconds ? strtoull(seconds, NULL, 10) : 2) * NS_PER_S;

	seed = first ? strtoull(first, NULL, 10) : 88172645463325252ULL;
	while (clock_ns() < end) {
		began = seed;
		with_one_server(features);
	}
	note("%s: %llu operations, %llu servers, %llu rings given up, 0 crashes", what,
	     (unsigned long long)executions, (unsigned long long)servers, (unsigned long long)broken);
}

Test(net_fuzz, split)
{
	for_a_while("split", RING_F_EVENT_IDX | RING_F_INDIRECT);
}

Test(net_fuzz, packed)
{
	for_a_while("packed", RING_F_PACKED | RING_F_INDIRECT);
}
