/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost's back end against front ends that break the protocol, by mistake or by intent. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"
#include "vhost-peer.h"

static int64_t ask_u64(struct peer *p, uint32_t request, uint64_t value, int fd)
{
	return peer_ask_u64(p->loop, p->sock, request, value, fd);
}

static int64_t ask_state(struct peer *p, uint32_t request, uint32_t index, uint32_t num)
{
	return peer_ask_state(p->loop, p->sock, request, index, num);
}

static int64_t ask_addr(struct peer *p, uint32_t index, uint64_t at)
{
	struct vhost_addr a = { .index = index,
				.desc = PEER_USER + at,
				.avail = PEER_USER + at + 0x1000,
				.used = PEER_USER + at + 0x2000 };

	return peer_ask(p->loop, p->sock, VHOST_SET_VRING_ADDR, &a, sizeof(a), -1);
}

/* Brings ring 0 to work. */
static void start_ring(struct peer *p)
{
	int kick = peer_eventfd();

	peer_give_memory(p);
	cr_assert_eq(ask_state(p, VHOST_SET_VRING_NUM, 0, 8), 0);
	cr_assert_eq(ask_addr(p, 0, 0), 0);
	cr_assert_eq(ask_u64(p, VHOST_SET_VRING_KICK, 0, kick), 0);
	cr_assert_not(p->dev.rings[0].running, "it is not enabled yet");
	cr_assert_eq(ask_state(p, VHOST_SET_VRING_ENABLE, 0, 1), 0);
	cr_assert(p->dev.rings[0].running);
	close(kick);
}

/* ---- framing ---- */

Test(vhost_be, message_that_comes_byte_by_byte_is_one_message)
{
	struct vhost_hdr hdr = { .request = VHOST_GET_FEATURES, .flags = VHOST_HDR_VERSION };
	struct vhost_msg msg;
	struct peer p;

	peer_open_raw(&p);
	for (size_t i = 0; i < sizeof(hdr); i++) {
		cr_assert_eq(send(p.sock, (char *)&hdr + i, 1, 0), 1);
		peer_settle(p.loop);
	}
	cr_assert(peer_recv(p.loop, p.sock, &msg));
	cr_assert_eq(msg.payload.u64, PEER_FEATURES | VHOST_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
	peer_close(&p);
}

Test(vhost_be, end_between_messages_is_ordinary)
{
	struct peer p;

	peer_open(&p);
	shutdown(p.sock, SHUT_RDWR);
	peer_expect_closed(&p, 0);
	peer_close(&p);
}

Test(vhost_be, fault_35_end_within_a_message)
{
	struct vhost_hdr hdr = { .request = VHOST_SET_FEATURES, .flags = VHOST_HDR_VERSION, .size = 8 };
	struct peer p;

	peer_open_raw(&p);
	cr_assert_eq(send(p.sock, &hdr, sizeof(hdr), 0), sizeof(hdr));
	shutdown(p.sock, SHUT_WR);
	peer_expect_closed(&p, -EPROTO);
	peer_close(&p);
}

Test(vhost_be, fault_35_half_a_message_then_silence_costs_nothing)
{
	struct vhost_hdr hdr = { .request = VHOST_SET_FEATURES, .flags = VHOST_HDR_VERSION, .size = 8 };
	struct peer p;

	peer_open_raw(&p);
	cr_assert_eq(send(p.sock, &hdr, sizeof(hdr) - 1, 0), sizeof(hdr) - 1);
	peer_settle(p.loop); /* fails if the loop spins */
	cr_assert_not(p.dev.closed);
	peer_close(&p);
}

Test(vhost_be, fault_35_size_of_four_gigabytes)
{
	struct vhost_hdr hdr = { .request = VHOST_SET_FEATURES,
				 .flags = VHOST_HDR_VERSION,
				 .size = UINT32_MAX };
	struct peer p;

	peer_open_raw(&p);
	cr_assert_eq(send(p.sock, &hdr, sizeof(hdr), 0), sizeof(hdr));
	peer_expect_closed(&p, -EPROTO);
	peer_close(&p);
}

Test(vhost_be, fault_38_replies_that_are_not_read_hold_the_sender_not_us)
{
	struct vhost_hdr hdr = { .request = VHOST_GET_FEATURES, .flags = VHOST_HDR_VERSION };
	unsigned sent = 0, got = 0;
	struct vhost_msg msg;
	struct peer p;

	peer_open_raw(&p);
	for (int idle = 0; idle < 3;) {
		if (send(p.sock, &hdr, sizeof(hdr), MSG_NOSIGNAL) == sizeof(hdr)) {
			sent++;
			idle = 0;
		} else {
			idle++;
		}
		cr_assert_eq(loop_run_once(p.loop, 0), 0);
	}
	peer_settle(p.loop); /* fails if the loop spins on the full socket */
	cr_assert_not(p.dev.closed);
	while (got < sent && peer_recv(p.loop, p.sock, &msg))
		got++;
	cr_assert_eq(got, sent);
	peer_close(&p);
}

/* ---- requests as a whole ---- */

Test(vhost_be, requests_that_are_wrong_in_themselves)
{
	static const struct {
		const char *what;
		uint32_t request, flags;
		size_t size;
		unsigned fds;
	} cases[] = {
		{ "unknown", 0, 0, 0, 0 },
		{ "unknown", 19, 0, 8, 0 },
		{ "unknown", 41, 0, 0, 0 },
		{ "unknown", UINT32_MAX, 0, 0, 0 },
		{ "unknown that wants a reply", 99, VHOST_HDR_NEED_REPLY, 0, 0 },
		{ "a reply", VHOST_GET_FEATURES, VHOST_HDR_REPLY, 8, 0 },
		{ "version 3", VHOST_GET_FEATURES, 2, 0, 0 },
		{ "payload where none belongs", VHOST_GET_FEATURES, 0, 8, 0 },
		{ "short u64", VHOST_SET_FEATURES, 0, 4, 0 },
		{ "long u64", VHOST_SET_FEATURES, 0, 16, 0 },
		{ "short ring", VHOST_SET_VRING_NUM, 0, 4, 0 },
		{ "short address", VHOST_SET_VRING_ADDR, 0, 39, 0 },
		{ "long address", VHOST_SET_VRING_ADDR, 0, 48, 0 },
		{ "short table", VHOST_SET_MEM_TABLE, 0, 4, 0 },
		{ "short config", VHOST_GET_CONFIG, 0, 11, 0 },
		{ "long config", VHOST_GET_CONFIG, 0, 269, 0 },
		{ "short in-flight", VHOST_SET_INFLIGHT_FD, 0, 16, 1 },
		{ "no descriptor", VHOST_SET_INFLIGHT_FD, 0, 24, 0 },
		{ "no descriptor", VHOST_ADD_MEM_REG, 0, 40, 0 },
		{ "no descriptor", VHOST_SET_LOG_BASE, 0, 16, 0 },
		{ "no descriptor", VHOST_SET_BACKEND_REQ_FD, 0, 0, 0 },
		{ "extra descriptor", VHOST_GET_FEATURES, 0, 0, 1 },
		{ "extra descriptor", VHOST_SET_FEATURES, 0, 8, 1 },
		{ "extra descriptor", VHOST_SET_VRING_KICK, 0, 8, 2 },
		{ "extra descriptor", VHOST_ADD_MEM_REG, 0, 40, 2 },
		{ "more descriptors than any message has", VHOST_SET_MEM_TABLE, 0, 264, 9 },
		{ "many descriptors", VHOST_SET_MEM_TABLE, 0, 264, FD_PASS_MAX },
	};
	unsigned before = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char payload[512] = { 0 };
		int fds[FD_PASS_MAX];
		struct peer p;

		peer_open(&p);
		for (unsigned n = 0; n < cases[i].fds; n++)
			fds[n] = p.ram;
		peer_send(p.sock, cases[i].request, cases[i].flags, payload, cases[i].size, fds,
			  cases[i].fds);
		cr_assert(peer_until(p.loop, &p.dev.closed), "case %u, %s: the connection stays", i,
			  cases[i].what);
		cr_assert_eq(p.dev.closed_err, -EPROTO);
		peer_close(&p);
		if (i == 0)
			before = peer_open_fds();
		cr_assert_eq(peer_open_fds(), before, "case %u, %s: leaks descriptors", i, cases[i].what);
	}
}

Test(vhost_be, nothing_before_its_protocol_feature)
{
	static const struct {
		uint32_t request;
		size_t size;
		unsigned fds;
	} cases[] = {
		{ VHOST_GET_CONFIG, 16, 0 },        { VHOST_SET_CONFIG, 16, 0 },
		{ VHOST_GET_QUEUE_NUM, 0, 0 },      { VHOST_SET_LOG_BASE, 16, 1 },
		{ VHOST_GET_INFLIGHT_FD, 24, 0 },   { VHOST_SET_STATUS, 8, 0 },
		{ VHOST_SET_INFLIGHT_FD, 24, 1 },   { VHOST_RESET_DEVICE, 0, 0 },
		{ VHOST_GET_STATUS, 0, 0 },         { VHOST_ADD_MEM_REG, 40, 1 },
		{ VHOST_REM_MEM_REG, 40, 0 },       { VHOST_GET_MAX_MEM_SLOTS, 0, 0 },
		{ VHOST_SET_BACKEND_REQ_FD, 0, 1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char payload[64] = { 0 };
		struct peer p;

		peer_open_raw(&p);
		peer_send(p.sock, cases[i].request, 0, payload, cases[i].size, &p.ram, cases[i].fds);
		peer_expect_closed(&p, -EPROTO);
		peer_close(&p);
	}
}

Test(vhost_be, refusal_is_told_to_whoever_asked_and_else_ends_it)
{
	uint64_t bad = 1ULL << 60;
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_u64(&p, VHOST_SET_FEATURES, bad, -1), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_PROTOCOL_FEATURES, bad, -1), 1);
	cr_assert_not(p.dev.closed);
	peer_send(p.sock, VHOST_SET_FEATURES, 0, &bad, sizeof(bad), NULL, 0);
	peer_expect_closed(&p, -EPROTO);
	peer_close(&p);
}

/* ---- rings ---- */

Test(vhost_be, impossible_rings_are_refused)
{
	struct peer p;
	int kick = peer_eventfd();

	peer_open(&p);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, PEER_QUEUES, 8), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, UINT32_MAX, 8), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_BASE, PEER_QUEUES, 0), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_ENABLE, PEER_QUEUES, 1), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_ENABLE, 0, 2), 1);
	cr_assert_eq(ask_addr(&p, PEER_QUEUES, 0), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, PEER_QUEUES, kick), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, 0x200, kick), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, VHOST_VRING_NOFD, kick), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, 0, -1), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, 0), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, VQ_SIZE_MAX + 1), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, 65536 + 8), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, VHOST_VRING_NOFD, -1), 1);
	cr_assert_not(p.dev.closed);
	peer_send(p.sock, VHOST_GET_VRING_BASE, 0, &(struct vhost_state) { .index = 77 },
		  sizeof(struct vhost_state), NULL, 0);
	peer_expect_closed(&p, -EPROTO);
	peer_close(&p);
	close(kick);
}

Test(vhost_be, ring_that_is_not_complete_does_not_start)
{
	int kick = peer_eventfd();
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_ENABLE, 0, 1), 0);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 1, "no memory");
	peer_give_memory(&p);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 1, "no size");
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, 12), 0);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 1, "no addresses");
	cr_assert_eq(ask_addr(&p, 0, 0), 0);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 1, "a split ring of 12");
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, 8), 0);
	cr_assert_eq(p.dev.rings[0].starts, 0);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 0);
	cr_assert_eq(p.dev.rings[0].starts, 1);
	peer_close(&p);
	close(kick);
}

Test(vhost_be, running_ring_is_not_set_up_again)
{
	int kick = peer_eventfd();
	struct peer p;

	peer_open(&p);
	start_ring(&p);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_NUM, 0, 16), 1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_BASE, 0, 16), 1);
	cr_assert_eq(ask_addr(&p, 0, 0x8000), 1);
	cr_assert_eq(ask_addr(&p, 0, 0), 0, "the same addresses are no change");
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, kick), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_FEATURES, F_EVENT_IDX | VHOST_F_PROTOCOL_FEATURES, -1), 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_PROTOCOL_FEATURES, VHOST_PF_MQ, -1), 1);
	cr_assert_eq(p.dev.rings[0].starts, 1);
	cr_assert(p.dev.rings[0].running);
	peer_close(&p);
	close(kick);
}

Test(vhost_be, running_ring_takes_a_new_call_and_is_disabled)
{
	int call = peer_eventfd();
	struct peer p;

	peer_open(&p);
	start_ring(&p);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, 0, call), 0);
	cr_assert_eq(p.dev.rings[0].calls, 1);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, VHOST_VRING_NOFD, -1), 0);
	cr_assert_eq(p.dev.rings[0].ring.call, -1);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_ENABLE, 0, 0), 0);
	cr_assert_not(p.dev.rings[0].enabled);
	cr_assert_eq(ask_state(&p, VHOST_SET_VRING_ENABLE, 0, 1), 0);
	cr_assert(p.dev.rings[0].enabled);
	peer_close(&p);
	close(call);
}

Test(vhost_be, without_protocol_features_a_kick_is_enough)
{
	struct vhost_region r = { .size = PEER_RAM, .user_addr = PEER_USER };
	struct vhost_mem_table t = { .n = 1, .regions = { r } };
	struct vhost_addr a = { .desc = PEER_USER, .avail = PEER_USER + 0x1000, .used = PEER_USER + 0x2000 };
	struct vhost_state num = { .num = 8 };
	uint64_t features = F_VERSION_1, index = 0;
	int kick = peer_eventfd();
	struct peer p;

	peer_open_raw(&p);
	peer_send(p.sock, VHOST_SET_FEATURES, 0, &features, sizeof(features), NULL, 0);
	peer_send(p.sock, VHOST_SET_MEM_TABLE, 0, &t, 40, &p.ram, 1);
	peer_send(p.sock, VHOST_SET_VRING_NUM, 0, &num, sizeof(num), NULL, 0);
	peer_send(p.sock, VHOST_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
	peer_send(p.sock, VHOST_SET_VRING_KICK, 0, &index, sizeof(index), &kick, 1);
	cr_assert(peer_until(p.loop, &p.dev.rings[0].running));
	peer_close(&p);
	close(kick);
}

static bool is_quiet(const struct peer *p)
{
	uint8_t byte;

	peer_settle(p->loop);
	return recv(p->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

Test(vhost_be, configuration_space_may_come_later)
{
	const struct vhost_config want = { .offset = 4, .size = 4 };
	struct vhost_msg msg;
	struct peer p;

	peer_open(&p);
	p.dev.no_config = true;
	peer_send(p.sock, VHOST_GET_CONFIG, 0, &want, VHOST_CONFIG_HDR + 4, NULL, 0);
	peer_send(p.sock, VHOST_GET_STATUS, 0, NULL, 0, NULL, 0);
	cr_assert(is_quiet(&p), "nothing else is answered first");
	vhost_be_config_ready(p.dev.be);
	cr_assert(is_quiet(&p), "it is not there yet after all");
	p.dev.no_config = false;
	vhost_be_config_ready(p.dev.be);
	cr_assert(peer_recv(p.loop, p.sock, &msg));
	cr_assert_eq(msg.hdr.request, VHOST_GET_CONFIG);
	cr_assert_eq(msg.payload.config.size, 4);
	cr_assert_eq(msg.payload.config.data[0], 4);
	cr_assert(peer_recv(p.loop, p.sock, &msg));
	cr_assert_eq(msg.hdr.request, VHOST_GET_STATUS);
	vhost_be_config_ready(p.dev.be); /* for nobody */
	cr_assert(is_quiet(&p));
	/* Who goes away while it waits takes nothing along. */
	p.dev.no_config = true;
	peer_send(p.sock, VHOST_GET_CONFIG, 0, &want, VHOST_CONFIG_HDR + 4, NULL, 0);
	cr_assert(is_quiet(&p));
	vhost_be_config_ready(p.dev.be);
	peer_close(&p);
}

/* ---- descriptors of the wrong kind (FAULTS 36) ---- */

Test(vhost_be, fault_36_descriptors_of_the_wrong_kind)
{
	struct vhost_mem_reg reg = { .region = { .size = 4096, .user_addr = PEER_USER } };
	struct vhost_inflight inflight = { .size = inflight_queue_bytes(8, false),
					   .queues = 1,
					   .queue_size = 8 };
	int pipes[2], wrong[4];
	struct peer p;

	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	wrong[0] = pipes[0];
	wrong[1] = pipes[1];
	wrong[2] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	wrong[3] = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	peer_open(&p);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, wrong[i]), 1, "kick %u", i);
		cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, 0, wrong[i]), 1, "call %u", i);
		cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_ERR, 0, wrong[i]), 1, "err %u", i);
		cr_assert_eq(peer_ask_table(&p, 1, &reg.region, 1, wrong[i], 1), 1, "table %u", i);
		cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_ADD_MEM_REG, &reg, sizeof(reg), wrong[i]), 1,
			     "region %u", i);
		cr_assert_eq(
		    peer_ask(p.loop, p.sock, VHOST_SET_INFLIGHT_FD, &inflight, sizeof(inflight), wrong[i]), 1,
		    "in-flight %u", i);
		cr_assert_eq(peer_ask(p.loop, p.sock, VHOST_SET_BACKEND_REQ_FD, NULL, 0, wrong[i]), 1,
			     "channel %u", i);
	}
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_KICK, 0, p.ram), 1, "a file as an eventfd");
	cr_assert_not(p.dev.closed);
	peer_close(&p);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		close(wrong[i]);
}

Test(vhost_be, fault_46_call_descriptor_can_not_block_us)
{
	int call = eventfd(0, EFD_CLOEXEC);
	struct peer p;

	peer_open(&p);
	cr_assert_eq(ask_u64(&p, VHOST_SET_VRING_CALL, 0, call), 0);
	cr_assert(fcntl(call, F_GETFL) & O_NONBLOCK);
	peer_close(&p);
	close(call);
}
