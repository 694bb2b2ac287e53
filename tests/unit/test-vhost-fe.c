/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost's front end against back ends that lack parts of the protocol or refuse: what is sent, and in which order. */
#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "fake_be.h"
#include "num.h"
#include "vhost-peer.h"
#include "vhost_fe.h"

TestSuite(vhost_fe, .timeout = 60);

Test(vhost_fe, back_end_without_protocol_features)
{
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, F_VERSION_1, 0);
	cr_assert_eq(fake_be_info.features, F_VERSION_1);
	cr_assert_eq(fake_be_info.protocol_features, 0);
	cr_assert_eq(fake_be_info.queues, 1);
	fake_be_close(&f);
}

Test(vhost_fe, only_what_is_offered_and_known_is_agreed_on)
{
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES,
			     VHOST_PF_MQ | VHOST_PF_STATUS | 1ULL << 14 | 1ULL << 60);
	cr_assert_eq(fake_be_info.protocol_features, VHOST_PF_MQ | VHOST_PF_STATUS);
	cr_assert_eq(fake_be_info.queues, 2);
	fake_be_close(&f);
}

Test(vhost_fe, setters_without_acknowledgement_end_with_a_question)
{
	struct vhost_fe_start s = {
		.features = F_VERSION_1, .inflight_fd = -1, .n_regions = 1, .n_rings = 1
	};
	static const uint32_t order[] = { VHOST_SET_FEATURES,   VHOST_SET_MEM_TABLE,  VHOST_SET_VRING_NUM,
					  VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_ERR,
					  VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK, VHOST_GET_FEATURES };
	struct mem_region region = { .size = 4096 };
	struct vhost_fe_ring ring = { .size = 8, .kick = peer_eventfd(), .call = -1, .err = -1 };
	int ram = peer_memfd(4096);
	struct vhost_msg msg;
	struct fake_be f;

	s.regions = &region;
	s.fds = &ram;
	s.rings = &ring;
	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, F_VERSION_1, 0);
	cr_assert_eq(vhost_fe_start(f.fe, &s, fake_be_done, &f), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		cr_assert_not(f.done);
		fake_be_expect(&f, order[i], &msg);
		cr_assert_not(msg.hdr.flags & VHOST_HDR_NEED_REPLY);
		vhost_msg_drop_fds(&msg);
	}
	peer_settle(f.loop);
	cr_assert_not(f.done, "it counts as done before the back end can have read it");
	fake_be_reply_u64(&f, VHOST_GET_FEATURES, F_VERSION_1);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	fake_be_close(&f);
	close(ram);
	close(ring.kick);
}

Test(vhost_fe, what_was_not_agreed_on_is_not_sent)
{
	struct mem_region region = { .size = 4096 };
	uint8_t buf[4];
	struct fake_be f;

	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	vhost_fe_get_config(f.fe, 0, 4, buf, fake_be_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	f.done = false;
	vhost_fe_set_log(f.fe, f.sock, 4096, fake_be_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	f.done = false;
	vhost_fe_add_region(f.fe, &region, f.sock, fake_be_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	fake_be_close(&f);
}

Test(vhost_fe, refusal_ends_one_operation_only)
{
	uint8_t buf[1] = { 0 };
	struct vhost_msg msg;
	struct fake_be f;

	fake_be_open_waiting(&f);
	fake_be_reply_u64(&f, VHOST_SET_CONFIG, 5);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EREMOTEIO);
	f.done = false;
	vhost_fe_get_config(f.fe, 0, 1, buf, fake_be_done, &f);
	fake_be_expect(&f, VHOST_GET_CONFIG, &msg);
	msg.payload.config.data[0] = 42;
	fake_be_reply(&f, VHOST_GET_CONFIG, &msg.payload, msg.hdr.size);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	cr_assert_eq(buf[0], 42);
	cr_assert_not(f.lost);
	fake_be_close(&f);
}

#define REQUESTS_MAX 16

/* Starts one ring on a back end that acknowledges; all requests of that are taken, none is answered. How many. */
static unsigned start_unanswered(struct fake_be *f, uint32_t requests[REQUESTS_MAX])
{
	int kick = peer_eventfd(), ram = peer_memfd(4096);
	struct mem_region region = { .size = 4096 };
	struct vhost_fe_ring ring = { .size = 8, .kick = kick, .call = -1, .err = -1 };
	struct vhost_fe_start s = { .inflight_fd = -1,
				    .n_regions = 1,
				    .regions = &region,
				    .fds = &ram,
				    .n_rings = 1,
				    .rings = &ring };
	struct vhost_msg msg;
	unsigned n = 0;

	fake_be_open(f, PEER_WAIT_NS);
	fake_be_answer_probe(f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	cr_assert_eq(vhost_fe_start(f->fe, &s, fake_be_done, f), 0);
	do {
		cr_assert(peer_recv(f->loop, f->sock, &msg), "it waits for an answer after %u requests", n);
		cr_assert(msg.hdr.flags & VHOST_HDR_NEED_REPLY);
		requests[n++] = msg.hdr.request;
		vhost_msg_drop_fds(&msg);
	} while (msg.hdr.request != VHOST_SET_VRING_ENABLE && n < REQUESTS_MAX);
	close(kick);
	close(ram);
	return n;
}

Test(vhost_fe, answers_are_not_waited_for_within_an_operation)
{
	uint32_t requests[REQUESTS_MAX];
	struct fake_be f;
	unsigned n = start_unanswered(&f, requests);

	cr_assert_eq(n, 9);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_not(f.done);
		fake_be_reply_u64(&f, requests[i], 0);
	}
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	fake_be_close(&f);
}

Test(vhost_fe, after_a_refusal_the_other_answers_are_taken)
{
	uint32_t requests[REQUESTS_MAX];
	struct vhost_msg msg;
	struct fake_be f;
	unsigned n = start_unanswered(&f, requests);

	for (unsigned i = 0; i + 1 < n; i++)
		fake_be_reply_u64(&f, requests[i], i == 1);
	peer_settle(f.loop);
	cr_assert_not(f.done, "an answer is still to come");
	fake_be_reply_u64(&f, requests[n - 1], 0);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EREMOTEIO);
	f.done = false;
	vhost_fe_stop_ring(f.fe, 0, NULL, NULL);
	fake_be_expect(&f, VHOST_GET_VRING_BASE, &msg);
	cr_assert_not(f.lost);
	fake_be_close(&f);
}

/* More requests than the socket holds: the first one is refused before the last ones are sent. */
Test(vhost_fe, nothing_more_is_sent_after_a_refusal)
{
	struct vhost_fe_start s = { .inflight_fd = -1, .n_regions = 1, .n_rings = VHOST_FE_QUEUES_MAX };
	struct vhost_fe_ring rings[VHOST_FE_QUEUES_MAX];
	struct mem_region region = { .size = 4096 };
	int kick = peer_eventfd(), ram = peer_memfd(4096);
	struct vhost_msg msg;
	struct fake_be f;
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++)
		rings[i] = (struct vhost_fe_ring) { .size = 8, .kick = kick, .call = -1, .err = -1 };
	s.rings = rings;
	s.regions = &region;
	s.fds = &ram;
	fake_be_send_buffer = 1; /* the kernel makes it a few messages */
	fake_be_open(&f, PEER_WAIT_NS);
	fake_be_answer_probe(&f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	cr_assert_eq(vhost_fe_start(f.fe, &s, fake_be_done, &f), 0);
	while (!f.done && n < VHOST_FE_QUEUES_MAX) {
		cr_assert(peer_recv(f.loop, f.sock, &msg));
		vhost_msg_drop_fds(&msg);
		fake_be_reply_u64(&f, msg.hdr.request, !n++);
		peer_settle(f.loop);
	}
	cr_assert(f.done, "it goes on, or the socket takes all");
	cr_assert_eq(f.done_err, -EREMOTEIO);
	fake_be_close(&f);
	close(kick);
	close(ram);
}
