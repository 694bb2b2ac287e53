/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile driver or a flooding host can do to net-server: by the numbers of the fault list. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "flight.h"
#include "net.h"
#include "note.h"
#include "num.h"

TestSuite(net_faults, .timeout = 120);

static struct net n;
static struct net_frame f;
static uint8_t frame[NET_BYTES];

static void start(enum net_kind kind, uint64_t ring_features)
{
	struct net_options options = { .kind = kind, .rig = { .ring_features = ring_features } };

	net_start(&n, &options);
}

static void still_serves(void)
{
	net_serves(&n);
}

/* ---- 16, 17: headers in pieces ---- */

static void send_cut(uint32_t len, const uint32_t *cuts, unsigned count, uint32_t number)
{
	net_fill(rig_ptr(&n.rig, n.frame), len, number);
	cr_assert_eq(net_send(&n, 0, len, cuts, count), 0, "FAULTS 20: used.len");
	cr_assert_eq(net_peer_receive(&n, frame), len);
	cr_assert(net_check(frame, len, number));
}

static void headers_in_pieces(enum net_kind kind, uint64_t ring_features)
{
	uint32_t bytes[16] = { 0 };
	const uint32_t rx[] = { 1, 1, 9, 2, 3, 500, 1000 };

	start(kind, ring_features);
	for (uint32_t first = 1; first < NET_HEADER; first++) {
		const uint32_t cuts[] = { first, NET_HEADER - first, 1, 99 };

		send_cut(100, cuts, 4, first);
	}
	for (unsigned i = 0; i < 15; i++)
		bytes[i] = 1;
	bytes[15] = 100 + NET_HEADER - 15;
	send_cut(100, bytes, 16, 1);
	send_cut(100, (const uint32_t[]) { NET_HEADER + 100 }, 1, 2);
	send_cut(100, (const uint32_t[]) { NET_HEADER + 7, 93 }, 2, 3);
	for (uint32_t i = 0; i < 10; i++) {
		net_post(&n, 0, rx, ARRAY_SIZE(rx));
		net_kick(&n, 0);
		net_fill(frame, 60 + 100 * i, i);
		net_peer_send(&n, frame, 60 + 100 * i);
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, 60 + 100 * i);
		cr_assert_eq(f.header.num_buffers, 1);
		cr_assert(net_check(f.bytes, f.len, i));
	}
	net_stop(&n);
}

#define PIECES(name, kind, features)                                                                         \
	Test(net_faults, f17_headers_in_pieces_##name)                                                       \
	{                                                                                                    \
		headers_in_pieces(kind, features);                                                           \
	}

PIECES(packet_split, NET_PACKET, 0)
PIECES(packet_packed_indirect, NET_PACKET, RING_F_PACKED | RING_F_INDIRECT)
PIECES(tap_split_indirect, NET_TAP, RING_F_INDIRECT)
PIECES(tap_packed, NET_TAP, RING_F_PACKED)

/* ---- 17: too little, too much, or nonsense ---- */

static uint64_t sent_nothing(const struct ring_buf *bufs, unsigned count)
{
	int64_t used = rig_raw(&n.rig, 1, bufs, count);

	cr_assert_eq(used, 0);
	return net_peer_is_quiet(&n);
}

Test(net_faults, f17_frames_that_are_none)
{
	const struct virtio_net_hdr_v1 wrong[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000, .hdr_len = 54 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 1000 },
		{ .gso_type = 0x7f },
		{ .gso_type = VIRTIO_NET_HDR_GSO_ECN },
	};
	struct ring_buf bufs[2], pieces[3];

	start(NET_PACKET, RING_F_INDIRECT);
	bufs[0] = (struct ring_buf) { .gpa = n.header, .len = NET_HEADER };
	for (uint32_t len = 1; len < ETH_HLEN; len++) {
		bufs[1] = (struct ring_buf) { .gpa = n.frame, .len = len };
		cr_assert(sent_nothing(bufs, 2), "%u bytes", len);
	}
	for (uint32_t len = 1; len <= NET_HEADER; len++) {
		bufs[0].len = len;
		cr_assert(sent_nothing(bufs, 1), "a header of %u bytes", len);
	}
	bufs[0].len = NET_HEADER;
	bufs[1] = (struct ring_buf) { .gpa = n.memory, .len = 70000 };
	cr_assert(sent_nothing(bufs, 2), "70000 bytes");
	bufs[1].len = 8U << 20;
	cr_assert(sent_nothing(bufs, 2), "8 MiB");
	net_fill(rig_ptr(&n.rig, n.frame), 100, 1);
	bufs[1] = (struct ring_buf) { .gpa = n.frame, .len = 100 };
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		memcpy(rig_ptr(&n.rig, n.header), &wrong[i], NET_HEADER);
		pieces[0] = (struct ring_buf) { .gpa = n.header, .len = 1 };
		pieces[1] = (struct ring_buf) { .gpa = n.header + 1, .len = NET_HEADER - 1 };
		pieces[2] = bufs[1];
		cr_assert(sent_nothing(pieces, 3), "header %u, in pieces", i);
		cr_assert(sent_nothing(bufs, 2), "header %u asks for what was not agreed on", i);
	}
	memset(rig_ptr(&n.rig, n.header), 0, NET_HEADER);
	still_serves();
	net_stop(&n);
}

/* What a tap can't make sense of is dropped, not retried for ever. */
Test(net_faults, f17_headers_that_the_host_refuses)
{
	const struct virtio_net_hdr_v1 wrong[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 65535, .csum_offset = 65535 },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0, .hdr_len = 54 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		  .gso_type = VIRTIO_NET_HDR_GSO_TCPV6,
		  .gso_size = 1,
		  .hdr_len = 65535 },
	};

	start(NET_TAP, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		net_fill(rig_ptr(&n.rig, n.frame), 100, 1);
		memcpy(rig_ptr(&n.rig, n.header), &wrong[i], NET_HEADER);
		cr_assert_eq(net_send(&n, 0, 100, NULL, 0), 0);
	}
	memset(rig_ptr(&n.rig, n.header), 0, NET_HEADER);
	still_serves();
	net_stop(&n);
}

/* ---- 22: lengths that add up to more than there is ---- */

/* Chains of gigabytes, each of many descriptors that name the same memory. */
Test(net_faults, f22_buffers_of_gigabytes)
{
	struct ring_buf bufs[RING_TABLE_MAX];
	uint16_t id;
	uint32_t len;
	unsigned got = 0;

	start(NET_PACKET, RING_F_INDIRECT);
	for (unsigned i = 0; i < RING_TABLE_MAX; i++)
		bufs[i] = (struct ring_buf) { .gpa = GUEST_GPA, .len = 60U << 20, .write = true };
	/* The frames land at the start of the guest's memory, where the rings are: behind all that is in use. */
	bufs[0] = (struct ring_buf) { .gpa = n.memory + (7U << 20), .len = NET_HEADER, .write = true };
	bufs[1] = (struct ring_buf) { .gpa = n.memory + (7U << 20), .len = 1U << 20, .write = true };
	for (unsigned i = 0; i < 60; i++)
		cr_assert_geq(ring_add(&n.rig.queue[0].ring, bufs, RING_TABLE_MAX, true), 0);
	rig_publish(&n.rig, 0);
	for (unsigned i = 0; i < 60; i++) {
		net_fill(frame, 1000 + i, i);
		net_peer_send(&n, frame, 1000 + i);
	}
	while (got < 60) {
		rig_until(&n.rig, ring_get(&n.rig.queue[0].ring, &id, &len) == 1 ||
				      (ring_enable_calls(&n.rig.queue[0].ring) &&
				       ring_get(&n.rig.queue[0].ring, &id, &len) == 1));
		cr_assert_eq(len, NET_HEADER + 1000 + got);
		got++;
	}
	still_serves();
	net_stop(&n);
}

/* ---- receive buffers that are none ---- */

static bool is_given_up(const struct ring_buf *bufs, unsigned count)
{
	struct pollfd err = { .events = POLLIN };

	start(NET_PACKET, RING_F_INDIRECT);
	for (unsigned i = 0; i < count; i++)
		cr_assert_geq(ring_add(&n.rig.queue[0].ring, bufs, count, true), 0);
	rig_publish(&n.rig, 0);
	net_fill(frame, 100, 1);
	net_peer_send(&n, frame, 100);
	err.fd = n.rig.queue[0].err;
	rig_until(&n.rig, poll(&err, 1, 0) == 1);
	/* The other ring goes on. */
	net_fill(rig_ptr(&n.rig, n.frame), 300, 78);
	cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	cr_assert_eq(net_peer_receive(&n, frame), 300);
	net_stop(&n);
	return true;
}

Test(net_faults, f8_readable_receive_buffer)
{
	const struct ring_buf bufs[] = { { .gpa = GUEST_GPA + (32U << 20), .len = 2000 } };

	cr_assert(is_given_up(bufs, 1));
}

Test(net_faults, f20_receive_buffer_shorter_than_a_header)
{
	const struct ring_buf bufs[] = {
		{ .gpa = GUEST_GPA + (32U << 20), .len = NET_HEADER - 1, .write = true }
	};

	cr_assert(is_given_up(bufs, 1));
}

/* Neither more, which would show what stood there, nor less; what lies behind is checked with each buffer. */
Test(net_faults, f20_used_length_is_what_was_written)
{
	static const uint32_t lens[] = { 60, 288, 289, 1000 };

	start(NET_PACKET, RING_F_EVENT_IDX);
	net_post_many(&n, 0, 300, 16);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		uint32_t used = 0;

		net_fill(frame, lens[i], i);
		net_peer_send(&n, frame, lens[i]);
		net_receive(&n, 0, &f);
		for (unsigned b = 0; b < f.buffers; b++)
			used += f.used[b];
		cr_assert(used == NET_HEADER + lens[i] && net_check(f.bytes, lens[i], i));
	}
	net_stop(&n);
}

/* Nobody writes a header for a packet but the server, which dies before it: no bytes of its own stand there. */
Test(net_faults, f20_memory_of_the_server_is_not_shown)
{
	struct net_options options = { .kind = NET_PACKET, .rig = { .crash = "later=header before:1" } };
	const uint8_t *buffer;

	net_start(&n, &options);
	buffer = rig_ptr(&n.rig, n.memory);
	net_post_many(&n, 0, 1526, 1);
	rig_go(&n.rig);
	net_fill(frame, 200, 1);
	net_peer_send(&n, frame, 200);
	cr_assert_eq(rig_reap(&n.rig), CRASHES_STATUS);
	cr_assert(!memcmp(buffer + NET_HEADER, frame, 200), "it died too early");
	for (unsigned i = 0; i < NET_HEADER; i++)
		cr_assert_eq(buffer[i], 0xee, "byte %u of the header is %u", i, buffer[i]);
	n.rig.options.crash = "";
	rig_respawn(&n.rig);
	still_serves();
	net_stop(&n);
}

/* ---- 25: what is unmapped while it is used ---- */

/* Buffers wait to be filled while the front end replaces the memory: they are given back first, and used then. */
Test(net_faults, f25_memory_changes_under_waiting_buffers)
{
	struct mem_region extra = { .gpa = 1ULL << 32, .size = 1 << 20, .user_addr = 1ULL << 46 };
	int fd = fd_sealed_memfd("more", extra.size);

	start(NET_TAP, RING_F_EVENT_IDX);
	net_post_many(&n, 0, 1526, 64);
	for (unsigned i = 0; i < 20; i++) {
		net_fill(frame, 100 + i, i);
		net_peer_send(&n, frame, 100 + i);
		rig_change_memory(&n.rig, &extra, fd, i % 2 == 0);
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, 100 + i);
		cr_assert(net_check(f.bytes, f.len, i));
	}
	close(fd);
	net_stop(&n);
}

/*
 * A frame has filled some buffers and waits for more while the memory of those goes away: nothing is written there any more,
 * neither the rest nor the number of buffers, which comes last and first of all (CVE-2021-3748).
 */
Test(net_faults, f25_memory_goes_under_a_frame_that_waits)
{
	struct mem_region extra = { .gpa = 1ULL << 32, .size = 1 << 20, .user_addr = 1ULL << 46 };
	struct ring_buf buf = { .gpa = extra.gpa, .len = 300, .write = true };
	int fd = fd_sealed_memfd("more", extra.size);
	uint8_t *there = mmap(NULL, extra.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct pollfd err = { .events = POLLIN };

	start(NET_PACKET, 0);
	/* From a large frame on they are read into the driver's buffers at once. */
	net_fill(frame, 9000, 0);
	net_post_many(&n, 0, 1526, 6);
	net_peer_send(&n, frame, 9000);
	net_receive(&n, 0, &f);
	cr_assert_eq(f.buffers, 6);
	rig_change_memory(&n.rig, &extra, fd, true);
	for (unsigned i = 0; i < 2; i++, buf.gpa += 4096)
		cr_assert_geq(ring_add(&n.rig.queue[0].ring, &buf, 1, false), 0);
	rig_publish(&n.rig, 0);
	net_fill(frame, 1500, 1);
	net_peer_send(&n, frame, 1500);
	rig_until(&n.rig, there[NET_HEADER] == 0xff && there[4096] == frame[300 - NET_HEADER]);
	rig_change_memory(&n.rig, &extra, fd, false);
	memset(there, 0xcd, extra.size);
	/* The two are in the ring again, where there is no such memory: it is given up. */
	err.fd = n.rig.queue[0].err;
	rig_until(&n.rig, poll(&err, 1, 0) == 1);
	net_post_many(&n, 0, 1526, 4);
	net_fill(rig_ptr(&n.rig, n.frame), 300, 78);
	cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	cr_assert_eq(net_peer_receive(&n, frame), 300);
	for (unsigned i = 0; i < extra.size; i++)
		cr_assert_eq(there[i], 0xcd, "byte %u", i);
	munmap(there, extra.size);
	close(fd);
	net_stop(&n);
}

/* A queue stops with buffers out and frames on their way; none of them is written to afterwards. */
Test(net_faults, f25_nothing_is_written_after_the_stop)
{
	uint64_t first;

	start(NET_PACKET, 0);
	first = n.memory;
	net_post_many(&n, 0, 1526, 64);
	still_serves();
	rig_stop_ring(&n.rig, 0);
	memset(rig_ptr(&n.rig, first), 0xcd, 64 * 1542);
	net_fill(frame, 900, 1);
	for (unsigned i = 0; i < 20; i++)
		net_peer_send(&n, frame, 900);
	net_fill(rig_ptr(&n.rig, n.frame), 300, 78);
	cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	for (unsigned i = 0; i < 64 * 1542; i++)
		cr_assert_eq(rig_ptr(&n.rig, first)[i], 0xcd, "byte %u", i);
	net_stop(&n);
}

/* ---- 31, 32: floods ---- */

static uint64_t rss_kib(void)
{
	char path[64];
	unsigned long pages;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)n.rig.pid);
	file = fopen(path, "re");
	cr_assert_not_null(file);
	cr_assert_eq(fscanf(file, "%*u %lu", &pages), 1);
	fclose(file);
	return pages * 4;
}

/* It costs what it takes, and nothing once it is over. */
Test(net_faults, f31_kick_flood)
{
	struct net_options options = { .kind = NET_TAP, .rig = { .flight_fd = flight_create(3) } };
	struct flight *words;
	uint64_t passes, end;

	cr_assert_eq(flight_map(options.rig.flight_fd, false, &words), 0);
	net_start(&n, &options);
	still_serves();
	for (unsigned i = 0; i < 200000; i++)
		fd_event_set(n.rig.queue[i % 2].kick);
	still_serves();
	passes = flight_get(&flight_queue(words, 1)->passes);
	for (end = clock_ns() + 300 * NS_PER_MS; clock_ns() < end;)
		cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	cr_assert_leq(flight_get(&flight_queue(words, 1)->passes) - passes, 20000,
		      "it goes on without kicks");
	net_stop(&n);
	flight_free(words);
	close(options.rig.flight_fd);
}

Test(net_faults, f31_log_flood)
{
	struct net_options options = { .kind = NET_TAP,
				       .rig = { .log_fd = memfd_create("log", MFD_CLOEXEC) } };
	struct virtio_net_hdr_v1 wrong = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .hdr_len = 54 };

	net_start(&n, &options);
	memcpy(rig_ptr(&n.rig, n.header), &wrong, NET_HEADER);
	net_fill(rig_ptr(&n.rig, n.frame), 100, 1);
	for (unsigned i = 0; i < 2000; i++)
		cr_assert_eq(net_send(&n, 0, 100, NULL, 0), 0);
	cr_assert_gt(lseek(options.rig.log_fd, 0, SEEK_END), 0, "nothing is said");
	cr_assert_lt(lseek(options.rig.log_fd, 0, SEEK_END), 20000, "2000 frames, a line for each");
	net_stop(&n);
	close(options.rig.log_fd);
}

#define PASSES 5000

/* A driver that posts no buffers, and a host that sends all the same. */
static void ingress_flood(enum net_kind kind)
{
	struct net_options options = { .kind = kind, .rig = { .flight_fd = flight_create(3) } };
	uint64_t end, before, rss, sent = 0, refused = 0, passes;
	struct flight *words;

	cr_assert_eq(flight_map(options.rig.flight_fd, false, &words), 0);
	net_start(&n, &options);
	still_serves();
	net_fill(frame, 1000, 1);
	rss = rss_kib();
	/* Until the host's queue is full each frame may wake the server, which then polls; from there on none does. */
	for (unsigned i = 0; i < 5000; i++)
		sent += write(n.peer, frame, 1000) == 1000;
	before = flight_get(&flight_queue(words, 0)->passes);
	end = clock_ns() + 500 * NS_PER_MS;
	while (clock_ns() < end) {
		if (write(n.peer, frame, 1000) == 1000)
			sent++;
		else
			refused++;
	}
	passes = flight_get(&flight_queue(words, 0)->passes) - before;
	note("%llu frames sent, %llu refused, without a buffer: %llu passes, RSS %llu KiB more",
	     (unsigned long long)sent, (unsigned long long)refused, (unsigned long long)passes,
	     (unsigned long long)(rss_kib() - rss));
	cr_assert_leq(rss_kib(), rss + 1024, "the flood is stored");
	cr_assert_leq(passes, PASSES, "%llu passes: the server looks all the time",
		      (unsigned long long)passes);
	/* What the host kept comes as soon as there are buffers. */
	net_post_many(&n, 0, 1526, 100);
	net_receive(&n, 0, &f);
	cr_assert(net_check(f.bytes, 1000, 1));
	net_stop(&n);
	flight_free(words);
	close(options.rig.flight_fd);
}

Test(net_faults, f32_ingress_flood_packet)
{
	ingress_flood(NET_PACKET);
}

Test(net_faults, f32_ingress_flood_tap)
{
	ingress_flood(NET_TAP);
}

/* The other end takes nothing: frames wait, and a ring that is stopped does not wait for them. */
Test(net_faults, f32_the_other_end_does_not_read)
{
	unsigned i;

	start(NET_PACKET, 0);
	net_fill(rig_ptr(&n.rig, n.frame), 1000, 5);
	for (i = 0; i < RIG_SIZE / 2; i++)
		net_send_start(&n, 0, 1000);
	for (unsigned left = i; left; left--) {
		cr_assert_eq(net_peer_receive(&n, frame), 1000);
		cr_assert(net_check(frame, 1000, 5));
	}
	net_stop(&n);
	start(NET_PACKET, 0);
	net_fill(rig_ptr(&n.rig, n.frame), 60000, 5);
	for (i = 0; i < RIG_SIZE / 2; i++)
		net_send_start(&n, 0, 60000);
	rig_until(&n.rig, !net_peer_is_quiet(&n));
	rig_stop_ring(&n.rig, 1);
	net_stop(&n);
}
