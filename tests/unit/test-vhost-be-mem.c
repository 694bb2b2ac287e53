/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost's back end: memory tables, logs and in-flight regions that lie, and messages at random. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"
#include "temp_dir.h"
#include "vhost-peer.h"

Test(vhost_be_mem, tables_that_contradict_themselves)
{
	struct vhost_region r[8] = { { .size = 4096, .user_addr = PEER_USER } };
	struct vhost_region two[2] = { { .size = 8192, .user_addr = PEER_USER },
				       { .gpa = 4096, .size = 4096, .user_addr = PEER_USER + 0x10000 } };
	struct vhost_region wrap = { .gpa = UINT64_MAX - 100, .size = 4096, .user_addr = PEER_USER };
	struct vhost_region empty = { .user_addr = PEER_USER };
	struct vhost_region large = { .size = PEER_RAM + 4096, .user_addr = PEER_USER };
	struct vhost_region far = { .size = 4096, .user_addr = PEER_USER, .mmap_offset = UINT64_MAX - 4095 };
	struct peer p;

	peer_open(&p);
	cr_assert_eq(peer_ask_table(&p, 0, r, 0, p.ram, 0), 1, "no region");
	cr_assert_eq(peer_ask_table(&p, 2, r, 1, p.ram, 1), 1, "two, but one sent");
	cr_assert_eq(peer_ask_table(&p, 1, r, 2, p.ram, 1), 1, "one, but two sent");
	cr_assert_eq(peer_ask_table(&p, 1, r, 1, p.ram, 2), 1, "one, with two descriptors");
	cr_assert_eq(peer_ask_table(&p, UINT32_MAX, r, 8, p.ram, 8), 1, "four thousand million");
	cr_assert_eq(peer_ask_table(&p, 2, two, 2, p.ram, 2), 1, "overlap");
	cr_assert_eq(peer_ask_table(&p, 1, &wrap, 1, p.ram, 1), 1, "wraps");
	cr_assert_eq(peer_ask_table(&p, 1, &empty, 1, p.ram, 1), 1, "empty");
	cr_assert_eq(peer_ask_table(&p, 1, &large, 1, p.ram, 1), 1, "past its file's end");
	cr_assert_eq(peer_ask_table(&p, 1, &far, 1, p.ram, 1), 1, "an offset that wraps");
	cr_assert_eq(peer_ask_table(&p, 1, r, 1, p.ram, 1), 0, "and one that is right");
	peer_close(&p);
}

Test(vhost_be_mem, slots_have_an_end)
{
	struct peer p;

	peer_open(&p);
	for (unsigned i = 0; i <= MEM_REGIONS_MAX; i++) {
		struct vhost_mem_reg reg = {
			.region = { .gpa = i * 8192u, .size = 4096, .user_addr = PEER_USER + i * 8192u }
		};

		cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_ADD_MEM_REG, &reg, sizeof(reg), p.ram),
			     i == MEM_REGIONS_MAX);
	}
	peer_close(&p);
}

Test(vhost_be_mem, removal_may_carry_a_descriptor)
{
	struct vhost_mem_reg reg = { .region = { .size = PEER_RAM, .user_addr = PEER_USER } };
	unsigned before;
	struct peer p;

	peer_open(&p);
	peer_give_memory(&p);
	before = peer_open_fds();
	cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_REM_MEM_REG, &reg, sizeof(reg), p.ram), 0);
	cr_assert_eq(peer_open_fds(), before);
	peer_close(&p);
}

Test(vhost_be_mem, log_outside_its_file_ends_the_connection)
{
	static const struct vhost_log logs[] = {
		{ .size = 0 },
		{ .size = PEER_RAM + 1 },
		{ .size = 4096, .offset = PEER_RAM },
		{ .size = 4096, .offset = UINT64_MAX },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(logs); i++) {
		struct peer p;

		peer_open(&p);
		peer_send(p.sock, VHOST_SET_LOG_BASE, VHOST_HDR_NEED_REPLY, &logs[i], sizeof(logs[i]), &p.ram,
			  1);
		peer_expect_closed(&p, -EPROTO);
		peer_close(&p);
	}
}

static int64_t ask_inflight(struct peer *p, uint64_t size, uint64_t offset, uint16_t queues,
			    uint16_t queue_size)
{
	struct vhost_inflight d = {
		.size = size, .offset = offset, .queues = queues, .queue_size = queue_size
	};

	return peer_ask(p->loop, p->sock, VHOST_SET_INFLIGHT_FD, &d, sizeof(d), p->ram);
}

Test(vhost_be_mem, fault_40_inflight_regions_that_lie)
{
	const size_t one = inflight_queue_bytes(8, false);
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_inflight(&p, one, 0, 0, 8), 1, "no queue");
	cr_assert_eq(ask_inflight(&p, 100 * one, 0, PEER_QUEUES + 1, 8), 1, "more queues than there are");
	cr_assert_eq(ask_inflight(&p, PEER_RAM, 0, UINT16_MAX, 8), 1);
	cr_assert_eq(ask_inflight(&p, one, 0, 1, 0), 1, "queues of no size");
	cr_assert_eq(ask_inflight(&p, PEER_RAM, 0, 1, UINT16_MAX), 1, "queues too large");
	cr_assert_eq(ask_inflight(&p, one - 1, 0, 1, 8), 1, "too short");
	cr_assert_eq(ask_inflight(&p, one, 0, 2, 8), 1, "room for one of two");
	cr_assert_eq(ask_inflight(&p, UINT64_MAX, 0, 1, 8), 1, "past its file's end");
	cr_assert_eq(ask_inflight(&p, one, UINT64_MAX - 7, 1, 8), 1, "an offset that wraps");
	cr_assert_eq(ask_inflight(&p, one, PEER_RAM, 1, 8), 1, "an offset past the end");
	cr_assert_eq(ask_inflight(&p, one, 4, 1, 8), 1, "counters misaligned");
	cr_assert_eq(ask_inflight(&p, one, 64, 1, 8), 0, "and one that is right");
	cr_assert_not(p.dev.closed);
	peer_close(&p);
}

/* A front end could otherwise shrink it and so end us at our next look. */
Test(vhost_be_mem, fault_39_inflight_region_that_could_shrink_is_refused)
{
	const size_t one = inflight_queue_bytes(8, false);
	struct vhost_inflight d = { .size = one, .queues = 1, .queue_size = 8 };
	CLEAN_FD int unsealed = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CLEAN_FD int growing = memfd_create("growing", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	CLEAN_FD int file = open(temp_dir_base(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	const int bad[] = { unsealed, growing, file };
	struct peer p;

	peer_open(&p);
	for (unsigned i = 0; i < 3; i++) {
		if (bad[i] < 0 && bad[i] == file)
			continue; /* where there are no such files */
		cr_assert_eq(ftruncate(bad[i], 4096), 0);
		if (bad[i] == growing)
			cr_assert_eq(fcntl(growing, F_ADD_SEALS, F_SEAL_GROW), 0);
		cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_SET_INFLIGHT_FD, &d, sizeof(d), bad[i]), 1, "%u",
			     i);
	}
	cr_assert_eq(fcntl(growing, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_SET_INFLIGHT_FD, &d, sizeof(d), growing), 0);
	cr_assert_not(p.dev.closed);
	peer_close(&p);
}

/* Describes and kicks ring 0; what the last message is answered. */
static int64_t kick_ring(struct peer *p, uint32_t size)
{
	struct vhost_addr a = { .desc = PEER_USER,
				.avail = PEER_USER + 0x10000,
				.used = PEER_USER + 0x20000 };
	int kick = peer_eventfd();
	int64_t answer;

	peer_give_memory(p);
	cr_assert_eq(peer_ask_state(p->loop, p->sock, VHOST_SET_VRING_NUM, 0, size), 0);
	cr_assert_eq(peer_ask(p->loop, p->sock, VHOST_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
	cr_assert_eq(peer_ask_state(p->loop, p->sock, VHOST_SET_VRING_ENABLE, 0, 1), 0);
	answer = peer_ask_u64(p->loop, p->sock, VHOST_SET_VRING_KICK, 0, kick);
	close(kick);
	return answer;
}

Test(vhost_be_mem, ring_larger_than_its_inflight_part)
{
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_inflight(&p, inflight_queue_bytes(8, false), 0, 1, 8), 0);
	cr_assert_eq(kick_ring(&p, 16), 1);
	cr_assert_eq(p.dev.rings[0].starts, 0);
	peer_close(&p);
}

Test(vhost_be_mem, ring_made_packed_after_a_split_region)
{
	const uint64_t packed = F_VERSION_1 | F_PACKED | VHOST_F_PROTOCOL_FEATURES;
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_inflight(&p, inflight_queue_bytes(256, false), 0, 1, 256), 0);
	cr_assert_eq(peer_ask_u64(p.loop, p.sock, VHOST_SET_FEATURES, packed, -1), 0);
	cr_assert_eq(kick_ring(&p, 256), 1);
	cr_assert_eq(p.dev.rings[0].starts, 0);
	peer_close(&p);
}

Test(vhost_be_mem, inflight_region_of_ours_is_sealed_and_comes_back)
{
	struct vhost_inflight want = { .queues = 2, .queue_size = 8 };
	struct vhost_msg msg;
	struct peer p;
	struct stat st;
	int fd;

	peer_open(&p);
	peer_send(p.sock, VHOST_GET_INFLIGHT_FD, 0, &want, VHOST_INFLIGHT_MIN, NULL, 0);
	cr_assert(peer_recv(p.loop, p.sock, &msg));
	cr_assert_eq(msg.n_fds, 1);
	fd = msg.fds[0];
	cr_assert_eq(msg.payload.inflight.size, 2 * inflight_queue_bytes(8, false));
	cr_assert_eq(msg.payload.inflight.queues, 2);
	cr_assert_eq(msg.payload.inflight.queue_size, 8);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_geq((uint64_t)st.st_size, msg.payload.inflight.size);
	cr_assert_neq(ftruncate(fd, 0), 0, "it can be shrunk under us");
	cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_SET_INFLIGHT_FD, &msg.payload.inflight,
			      sizeof(msg.payload.inflight), fd),
		     0);
	cr_assert_eq(kick_ring(&p, 8), 0);
	cr_assert_not_null(p.dev.rings[0].ring.config.inflight);
	cr_assert_not(inflight_is_blank(p.dev.rings[0].ring.config.inflight));
	peer_close(&p);
	close(fd);
}

Test(vhost_be_mem, impossible_inflight_region_is_not_made)
{
	struct vhost_inflight want = { .queues = 60000, .queue_size = 60000 };
	struct peer p;

	peer_open(&p);
	peer_send(p.sock, VHOST_GET_INFLIGHT_FD, 0, &want, sizeof(want), NULL, 0);
	peer_expect_closed(&p, -EPROTO);
	peer_close(&p);
}

/* ---- at random ---- */

/* Payloads that get somewhere: small indices, sizes and counts, addresses near RAM. */
static void random_payload(uint8_t *payload, size_t size)
{
	uint64_t word;

	for (size_t i = 0; i + 4 <= size; i += 4) {
		switch (random() % 6) {
		case 0:
			word = (uint64_t)random() % 6;
			break;
		case 1:
			word = 1ULL << (random() % 32);
			break;
		case 2:
			word = (uint64_t)random();
			break;
		case 3:
			word = (uint64_t)(random() % 64) * 4096;
			break;
		case 4:
			word = PEER_USER >> 32;
			break;
		default:
			word = 0;
		}
		memcpy(payload + i, &word, 4);
	}
}

/* What a well-behaved peer would send, so that runs of it get past the first checks. */
static void plausible(uint32_t request, union vhost_payload *u)
{
	uint32_t ring = random() % 4 ? 0 : (uint32_t)random() % PEER_QUEUES;

	memset(u, 0, sizeof(*u));
	if (request == VHOST_SET_FEATURES)
		u->u64 = F_VERSION_1 | (random() % 2 ? VHOST_F_PROTOCOL_FEATURES : 0) |
			 (random() % 2 ? VHOST_F_LOG_ALL : 0) | (random() % 2 ? F_PACKED : 0);
	else if (request == VHOST_SET_PROTOCOL_FEATURES)
		u->u64 = PEER_ALL_PF;
	else if (request == VHOST_SET_MEM_TABLE)
		*u = (union vhost_payload) {
			.table = { .n = 1, .regions = { { .size = PEER_RAM, .user_addr = PEER_USER } } }
		};
	else if (request == VHOST_SET_VRING_NUM)
		u->state = (struct vhost_state) { .index = ring, .num = 8 };
	else if (request == VHOST_SET_VRING_ADDR)
		u->addr = (struct vhost_addr) { .index = ring,
						.desc = PEER_USER,
						.avail = PEER_USER + 0x1000,
						.used = PEER_USER + 0x2000 };
	else if (request == VHOST_SET_VRING_ENABLE)
		u->state = (struct vhost_state) { .index = ring, .num = 1 };
	else if (request == VHOST_SET_INFLIGHT_FD)
		u->inflight = (struct vhost_inflight) { .size = 4096, .queues = 1, .queue_size = 8 };
	else if (request == VHOST_SET_LOG_BASE)
		u->log.size = 4096;
	else
		u->u64 = ring;
}

static size_t usual_size(uint32_t request)
{
	switch (request) {
	case VHOST_SET_MEM_TABLE:
		return offsetof(struct vhost_mem_table, regions) + sizeof(struct vhost_region);
	case VHOST_SET_LOG_BASE:
		return sizeof(struct vhost_log);
	case VHOST_SET_VRING_ADDR:
		return sizeof(struct vhost_addr);
	case VHOST_GET_CONFIG:
	case VHOST_SET_CONFIG:
		return VHOST_CONFIG_HDR + 4;
	case VHOST_GET_INFLIGHT_FD:
	case VHOST_SET_INFLIGHT_FD:
		return sizeof(struct vhost_inflight);
	case VHOST_ADD_MEM_REG:
	case VHOST_REM_MEM_REG:
		return sizeof(struct vhost_mem_reg);
	case VHOST_GET_FEATURES:
	case VHOST_SET_OWNER:
	case VHOST_RESET_OWNER:
	case VHOST_GET_PROTOCOL_FEATURES:
	case VHOST_GET_QUEUE_NUM:
	case VHOST_RESET_DEVICE:
	case VHOST_GET_MAX_MEM_SLOTS:
	case VHOST_GET_STATUS:
	case VHOST_SET_LOG_FD:
	case VHOST_SET_BACKEND_REQ_FD:
		return 0;
	default:
		return sizeof(uint64_t);
	}
}

/* Mostly what brings a ring up, rarely something that ends the connection at once. */
static uint32_t random_request(void)
{
	static const uint32_t often[] = { VHOST_SET_MEM_TABLE, VHOST_SET_VRING_NUM, VHOST_SET_VRING_ADDR,
					  VHOST_SET_VRING_KICK, VHOST_SET_VRING_ENABLE };
	uint32_t request;

	if (random() % 2)
		return often[random() % 5];
	do
		request = 1 + (uint32_t)random() % (VHOST_REQUEST_MAX - 1);
	while (((request > VHOST_SET_VRING_ENABLE && request < VHOST_GET_CONFIG) ||
		(request > VHOST_SET_CONFIG && request < VHOST_GET_INFLIGHT_FD) || request == 33 ||
		request == 35) &&
	       random() % 32);
	return request;
}

static void send_random(struct peer *p, int event)
{
	uint32_t request = random_request(), flags = random() % 32 ? VHOST_HDR_NEED_REPLY : 0;
	size_t size = random() % 32 ? usual_size(request) : (size_t)random() % 300;
	union vhost_payload payload;
	bool ring_fd = request >= VHOST_SET_VRING_KICK && request <= VHOST_SET_VRING_ERR;
	bool mem_fd = request == VHOST_SET_MEM_TABLE || request == VHOST_SET_LOG_BASE ||
		      request == VHOST_SET_LOG_FD || request == VHOST_SET_INFLIGHT_FD ||
		      request == VHOST_ADD_MEM_REG;
	int fds[2] = { ring_fd ? event : p->ram, event };
	struct {
		struct vhost_hdr hdr;
		uint8_t payload[512];
	} wire = { .hdr = { .request = request, .flags = VHOST_HDR_VERSION | flags } };

	wire.hdr.size = (uint32_t)size;
	if (random() % 8)
		plausible(request, &payload);
	else
		random_payload((uint8_t *)&payload, sizeof(payload));
	memcpy(wire.payload, &payload, MIN(size, sizeof(payload)));
	/* A full socket or one that was closed drops it: the next round begins anew. */
	fd_send(p->sock, &wire, sizeof(wire.hdr) + size, fds,
		random() % 64 ? (size_t)(ring_fd || mem_fd) : (size_t)random() % 3);
}

Test(vhost_be_mem, anything_in_any_order, .timeout = 60)
{
	unsigned closed = 0, starts = 0, before = peer_open_fds();
	char sink[4096];

	srandom(20240229);
	for (unsigned round = 0; round < 2500; round++) {
		int event = peer_eventfd();
		struct peer p;

		peer_open(&p);
		for (unsigned n = 0; n < 40 && !p.dev.closed; n++) {
			send_random(&p, event);
			cr_assert_eq(loop_run_once(p.loop, 0), 0);
			cr_assert_eq(loop_run_once(p.loop, 0), 0);
			while (recv(p.sock, sink, sizeof(sink), 0) > 0)
				;
		}
		closed += p.dev.closed;
		for (unsigned i = 0; i < PEER_QUEUES; i++)
			starts += p.dev.rings[i].starts;
		peer_close(&p);
		close(event);
	}
	cr_assert_eq(peer_open_fds(), before);
	/* The figures show that the run got somewhere: not every connection ended, and rings did start. */
	cr_assert_gt(closed, 100);
	cr_assert_gt(starts, 20);
}
