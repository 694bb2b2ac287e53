/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost's front end against back ends that break the protocol or fall silent. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fake_be.h"
#include "fd.h"
#include "num.h"
#include "vhost-peer.h"
#include "vhost_fe.h"

TestSuite(vhost_fe_wrong, .timeout = 60);

/* A deadline that is waited for, and until which a busy machine gets the answers that come before. */
#define MISSED_NS (NS_PER_S / 2)

Test(vhost_fe_wrong, missed_deadline)
{
	struct fake_be f;
	uint64_t began = clock_ns();

	fake_be_open(&f, 30 * NS_PER_MS);
	vhost_fe_probe(f.fe, 0, &fake_be_info, fake_be_done, &f);
	fake_be_expect_lost(&f, -ETIMEDOUT);
	cr_assert(f.done);
	cr_assert_eq(f.done_err, -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 30 * NS_PER_MS);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, fault_35_half_an_answer_is_a_missed_deadline)
{
	struct vhost_hdr hdr = { .request = VHOST_GET_FEATURES,
				 .flags = VHOST_HDR_VERSION | VHOST_HDR_REPLY,
				 .size = 8 };
	struct vhost_msg msg;
	struct fake_be f;

	fake_be_open(&f, MISSED_NS);
	vhost_fe_probe(f.fe, 0, &fake_be_info, fake_be_done, &f);
	fake_be_expect(&f, VHOST_SET_OWNER, &msg);
	fake_be_expect(&f, VHOST_GET_FEATURES, &msg);
	cr_assert_eq(send(f.sock, &hdr, sizeof(hdr), 0), sizeof(hdr));
	fake_be_expect_lost(&f, -ETIMEDOUT);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, peer_that_never_reads_is_a_missed_deadline)
{
	struct vhost_fe_start s = { .inflight_fd = -1, .n_regions = 1, .n_rings = VHOST_FE_QUEUES_MAX };
	struct vhost_fe_ring rings[VHOST_FE_QUEUES_MAX];
	struct mem_region region = { .size = 4096 };
	int kick = peer_eventfd(), ram = peer_memfd(4096);
	struct fake_be f;

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++)
		rings[i] = (struct vhost_fe_ring) { .size = 8, .kick = kick, .call = -1, .err = -1 };
	s.rings = rings;
	s.regions = &region;
	s.fds = &ram;
	fake_be_open(&f, MISSED_NS);
	fake_be_answer_probe(&f, &fake_be_info, 0, 0);
	/* More messages than the socket holds, none of them acknowledged. */
	cr_assert_eq(vhost_fe_start(f.fe, &s, fake_be_done, &f), 0);
	fake_be_expect_lost(&f, -ETIMEDOUT);
	cr_assert_eq(f.done_err, -ETIMEDOUT);
	fake_be_close(&f);
	close(kick);
	close(ram);
}

Test(vhost_fe_wrong, answers_that_are_wrong)
{
	static const struct {
		const char *what;
		uint32_t request, flags, size;
		unsigned fds;
	} cases[] = {
		{ "to another request", VHOST_GET_CONFIG, VHOST_HDR_REPLY, 8, 0 },
		{ "to no known request", 4711, VHOST_HDR_REPLY, 8, 0 },
		{ "without the reply flag", VHOST_SET_CONFIG, 0, 8, 0 },
		{ "of another version", VHOST_SET_CONFIG, VHOST_HDR_REPLY | 2, 8, 0 },
		{ "too short", VHOST_SET_CONFIG, VHOST_HDR_REPLY, 4, 0 },
		{ "too long", VHOST_SET_CONFIG, VHOST_HDR_REPLY, 16, 0 },
		{ "larger than any", VHOST_SET_CONFIG, VHOST_HDR_REPLY, 1000, 0 },
		{ "with a descriptor", VHOST_SET_CONFIG, VHOST_HDR_REPLY, 8, 1 },
		{ "with many descriptors", VHOST_SET_CONFIG, VHOST_HDR_REPLY, 8, FD_PASS_MAX },
	};
	unsigned before = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		char payload[1024] = { 0 };
		int fds[FD_PASS_MAX];
		struct fake_be f;

		fake_be_open_waiting(&f);
		for (unsigned n = 0; n < cases[i].fds; n++)
			fds[n] = f.sock;
		peer_send(f.sock, cases[i].request, cases[i].flags, payload, cases[i].size, fds,
			  cases[i].fds);
		cr_assert(peer_until(f.loop, &f.lost), "an answer %s is taken", cases[i].what);
		cr_assert_eq(f.lost_err, -EPROTO);
		cr_assert(f.done);
		cr_assert_eq(f.done_err, -EPROTO);
		fake_be_close(&f);
		if (i == 0)
			before = peer_open_fds();
		cr_assert_eq(peer_open_fds(), before, "an answer %s leaks descriptors", cases[i].what);
	}
}

Test(vhost_fe_wrong, fault_47_unsolicited_answer)
{
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_reply_u64(&f, VHOST_GET_FEATURES, 0);
	fake_be_expect_lost(&f, -EPROTO);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, fault_47_doubled_answer)
{
	struct fake_be f;

	fake_be_open_waiting(&f);
	fake_be_reply_u64(&f, VHOST_SET_CONFIG, 0);
	fake_be_reply_u64(&f, VHOST_SET_CONFIG, 0);
	fake_be_expect_lost(&f, -EPROTO);
	cr_assert(f.done);
	cr_assert_eq(f.done_err, 0, "the first was right");
	fake_be_close(&f);
}

Test(vhost_fe_wrong, fault_47_answers_out_of_order)
{
	uint8_t buf[4];
	struct fake_be f;

	fake_be_open_waiting(&f);
	vhost_fe_get_config(f.fe, 0, 4, buf, NULL, NULL);
	fake_be_reply_u64(&f, VHOST_GET_CONFIG, 0);
	fake_be_expect_lost(&f, -EPROTO);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, configuration_of_another_place)
{
	struct vhost_config c = { .offset = 4, .size = 4 };
	uint8_t buf[4] = { 9, 9, 9, 9 };
	struct vhost_msg msg;
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_CONFIG);
	vhost_fe_get_config(f.fe, 0, 4, buf, fake_be_done, &f);
	fake_be_expect(&f, VHOST_GET_CONFIG, &msg);
	fake_be_reply(&f, VHOST_GET_CONFIG, &c, VHOST_CONFIG_HDR + 4);
	fake_be_expect_lost(&f, -EPROTO);
	cr_assert_eq(buf[0], 9);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, base_of_another_ring)
{
	struct vhost_state s = { .index = 1 };
	struct vhost_msg msg;
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, 0);
	vhost_fe_stop_ring(f.fe, 0, NULL, NULL);
	fake_be_expect(&f, VHOST_GET_VRING_BASE, &msg);
	fake_be_reply(&f, VHOST_GET_VRING_BASE, &s, sizeof(s));
	fake_be_expect_lost(&f, -EPROTO);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, fault_35_end_within_an_answer)
{
	struct fake_be f;

	fake_be_open_waiting(&f);
	cr_assert_eq(send(f.sock, "abc", 3, 0), 3);
	shutdown(f.sock, SHUT_RDWR);
	fake_be_expect_lost(&f, -EPROTO);
	fake_be_close(&f);
}

Test(vhost_fe_wrong, end_between_answers)
{
	struct fake_be f;

	fake_be_open_waiting(&f);
	shutdown(f.sock, SHUT_RDWR);
	fake_be_expect_lost(&f, -EPIPE);
	cr_assert_eq(f.done_err, -EPIPE);
	fake_be_close(&f);
}

/* ---- the back end's requests ---- */

Test(vhost_fe_wrong, fault_38_flood_of_config_changes_is_few_calls)
{
	struct vhost_hdr hdr = { .request = VHOST_BACKEND_CONFIG_CHANGE, .flags = VHOST_HDR_VERSION };
	unsigned sent = 0;
	struct fake_be f;
	int channel;

	fake_be_open(&f, PEER_WAIT_NS);
	channel = fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES,
				       VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG);
	while (sent < 1000 && send(channel, &hdr, sizeof(hdr), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(hdr))
		sent++;
	peer_settle(f.loop);
	cr_assert_gt(sent, 50);
	cr_assert_gt(f.changes, 0);
	cr_assert_leq(f.changes, sent / 8);
	cr_assert_not(f.lost);
	fake_be_close(&f);
	close(channel);
}

Test(vhost_fe_wrong, config_change_is_acknowledged_if_asked)
{
	struct vhost_msg msg;
	struct fake_be f;
	int channel;

	fake_be_open(&f, PEER_WAIT_NS);
	channel = fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES,
				       VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG | VHOST_PF_REPLY_ACK);
	peer_send(channel, VHOST_BACKEND_CONFIG_CHANGE, VHOST_HDR_NEED_REPLY, NULL, 0, NULL, 0);
	cr_assert(peer_recv(f.loop, channel, &msg));
	cr_assert_eq(msg.hdr.flags, VHOST_HDR_VERSION | VHOST_HDR_REPLY);
	cr_assert_eq(msg.payload.u64, 0);
	cr_assert(peer_until(f.loop, &f.changed));
	fake_be_close(&f);
	close(channel);
}

Test(vhost_fe_wrong, request_of_the_back_end_that_is_not_known)
{
	struct fake_be f;
	int channel;

	fake_be_open(&f, PEER_WAIT_NS);
	channel = fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_BACKEND_REQ);
	peer_send(channel, 1, 0, NULL, 0, NULL, 0);
	fake_be_expect_lost(&f, -EPROTO);
	fake_be_close(&f);
	close(channel);
}

Test(vhost_fe_wrong, back_end_may_close_its_channel)
{
	struct fake_be f;
	int channel;

	fake_be_open(&f, PEER_WAIT_NS);
	channel = fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_BACKEND_REQ);
	close(channel);
	peer_settle(f.loop); /* fails if the loop spins on the hang-up */
	cr_assert_not(f.lost);
	fake_be_close(&f);
}

/* ---- at random ---- */

Test(vhost_fe_wrong, anything_for_an_answer, .timeout = 60)
{
	static const uint32_t likely[] = { VHOST_GET_FEATURES,       VHOST_GET_PROTOCOL_FEATURES,
					   VHOST_GET_QUEUE_NUM,      VHOST_GET_MAX_MEM_SLOTS,
					   VHOST_SET_BACKEND_REQ_FD, VHOST_GET_CONFIG };
	unsigned before = peer_open_fds(), ended = 0, probed = 0;

	srandom(4242);
	for (unsigned round = 0; round < 3000; round++) {
		struct fake_be f;

		fake_be_open(&f, PEER_WAIT_NS);
		vhost_fe_probe(f.fe, random() % 2 ? 16 : 0, &fake_be_info, fake_be_done, &f);
		for (unsigned n = 0; n < 30 && !f.lost && !f.done; n++) {
			struct vhost_transfer in = { .done = 0 };
			uint64_t words[40];
			uint32_t request = likely[random() % 6];
			size_t size = random() % 8 ? 8 : (size_t)random() % sizeof(words);

			loop_run_once(f.loop, 0);
			if (vhost_msg_recv(f.sock, &in) == 1)
				request = random() % 16 ? in.msg.hdr.request : request;
			else if (random() % 16)
				continue;
			vhost_msg_drop_fds(&in.msg);
			for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
				words[i] = random() % 2 ? VHOST_F_PROTOCOL_FEATURES : (uint64_t)random();
			if (request != VHOST_SET_OWNER && request != VHOST_SET_PROTOCOL_FEATURES && !f.lost)
				peer_send(f.sock, request, random() % 16 ? VHOST_HDR_REPLY : 0, words, size,
					  &f.sock, random() % 32 == 0);
			loop_run_once(f.loop, 0);
		}
		ended += f.lost;
		probed += f.done && f.done_err == 0;
		fake_be_close(&f);
	}
	cr_assert_eq(peer_open_fds(), before);
	cr_assert_gt(ended, 100);
	cr_assert_gt(probed, 100);
}
