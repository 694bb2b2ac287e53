/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost's front end against back ends that break the protocol, lack parts of it, or fall silent. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "num.h"
#include "vhost-peer.h"
#include "vhost_fe.h"

TestSuite(vhost_fe, .timeout = 60);

struct fake {
	struct loop *loop;
	struct vhost_fe *fe;
	int sock; /* the back end's end */
	bool lost, changed;
	int lost_err;
	unsigned changes;
	bool done;
	int done_err;
};

static void on_lost(void *arg, int err, const char *why)
{
	struct fake *f = arg;

	cr_assert_not(f->lost, "lost twice");
	cr_assert_not_null(why);
	f->lost = true;
	f->lost_err = err;
}

static void on_changed(void *arg)
{
	struct fake *f = arg;

	f->changed = true;
	f->changes++;
}

static void on_done(void *arg, int err)
{
	struct fake *f = arg;

	cr_assert_not(f->done, "done twice");
	f->done = true;
	f->done_err = err;
}

static int send_buffer; /* of the front end's socket, in bytes; 0: as it comes */

static void open_fake(struct fake *f, uint64_t timeout_ns)
{
	static const struct vhost_fe_ops ops = { .lost = on_lost, .config_changed = on_changed };
	int ends[2];

	memset(f, 0, sizeof(*f));
	cr_assert_eq(loop_new("test", &f->loop), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	if (send_buffer)
		setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
	cr_assert_eq(vhost_fe_new(f->loop, ends[0], timeout_ns, &ops, f, &f->fe), 0);
	f->sock = ends[1];
}

static void close_fake(struct fake *f)
{
	vhost_fe_free(f->fe);
	loop_free(f->loop);
	close(f->sock);
}

static void reply(struct fake *f, uint32_t request, const void *payload, size_t size)
{
	peer_send(f->sock, request, VHOST_HDR_REPLY, payload, size, NULL, 0);
}

static void reply_u64(struct fake *f, uint32_t request, uint64_t value)
{
	reply(f, request, &value, sizeof(value));
}

static void expect(struct fake *f, uint32_t request, struct vhost_msg *msg)
{
	cr_assert(peer_recv(f->loop, f->sock, msg), "no request, %u was expected", request);
	cr_assert_eq(msg->hdr.request, request, "request %u in place of %u", msg->hdr.request, request);
}

static void expect_lost(struct fake *f, int err)
{
	cr_assert(peer_until(f->loop, &f->lost), "the connection stays");
	cr_assert_eq(f->lost_err, err, "lost by %d", f->lost_err);
}

/* Answers a probe as a back end with these protocol features. The BACKEND_REQ channel's end, or -1. */
static int answer_probe(struct fake *f, struct vhost_fe_info *info, uint64_t features, uint64_t protocol)
{
	struct vhost_msg msg;
	int channel = -1;

	vhost_fe_probe(f->fe, 0, info, on_done, f);
	expect(f, VHOST_SET_OWNER, &msg);
	expect(f, VHOST_GET_FEATURES, &msg);
	reply_u64(f, VHOST_GET_FEATURES, features);
	if (features & VHOST_F_PROTOCOL_FEATURES) {
		expect(f, VHOST_GET_PROTOCOL_FEATURES, &msg);
		reply_u64(f, VHOST_GET_PROTOCOL_FEATURES, protocol);
		expect(f, VHOST_SET_PROTOCOL_FEATURES, &msg);
		cr_assert_eq(msg.payload.u64 & ~protocol, 0);
	}
	if (protocol & VHOST_PF_MQ) {
		expect(f, VHOST_GET_QUEUE_NUM, &msg);
		reply_u64(f, VHOST_GET_QUEUE_NUM, 2);
	}
	if (protocol & VHOST_PF_CONFIGURE_MEM_SLOTS) {
		expect(f, VHOST_GET_MAX_MEM_SLOTS, &msg);
		reply_u64(f, VHOST_GET_MAX_MEM_SLOTS, 32);
	}
	if (protocol & VHOST_PF_BACKEND_REQ) {
		expect(f, VHOST_SET_BACKEND_REQ_FD, &msg);
		cr_assert_eq(msg.n_fds, 1);
		channel = msg.fds[0];
		if (protocol & VHOST_PF_REPLY_ACK)
			reply_u64(f, VHOST_SET_BACKEND_REQ_FD, 0);
	}
	cr_assert(peer_until(f->loop, &f->done));
	cr_assert_eq(f->done_err, 0);
	f->done = false;
	return channel;
}

static struct vhost_fe_info info;

/* A connected front end that has sent SET_CONFIG and waits for its acknowledgement. */
static void open_waiting(struct fake *f)
{
	static const uint8_t byte = 1;
	struct vhost_msg msg;

	open_fake(f, PEER_WAIT_NS);
	answer_probe(f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK | VHOST_PF_CONFIG);
	vhost_fe_set_config(f->fe, 0, 1, &byte, on_done, f);
	expect(f, VHOST_SET_CONFIG, &msg);
	cr_assert(msg.hdr.flags & VHOST_HDR_NEED_REPLY);
}

Test(vhost_fe, back_end_without_protocol_features)
{
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, F_VERSION_1, 0);
	cr_assert_eq(info.features, F_VERSION_1);
	cr_assert_eq(info.protocol_features, 0);
	cr_assert_eq(info.queues, 1);
	close_fake(&f);
}

Test(vhost_fe, only_what_is_offered_and_known_is_agreed_on)
{
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES,
		     VHOST_PF_MQ | VHOST_PF_STATUS | 1ULL << 14 | 1ULL << 60);
	cr_assert_eq(info.protocol_features, VHOST_PF_MQ | VHOST_PF_STATUS);
	cr_assert_eq(info.queues, 2);
	close_fake(&f);
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
	struct fake f;

	s.regions = &region;
	s.fds = &ram;
	s.rings = &ring;
	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, F_VERSION_1, 0);
	cr_assert_eq(vhost_fe_start(f.fe, &s, on_done, &f), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		cr_assert_not(f.done);
		expect(&f, order[i], &msg);
		cr_assert_not(msg.hdr.flags & VHOST_HDR_NEED_REPLY);
		vhost_msg_drop_fds(&msg);
	}
	peer_settle(f.loop);
	cr_assert_not(f.done, "it counts as done before the back end can have read it");
	reply_u64(&f, VHOST_GET_FEATURES, F_VERSION_1);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	close_fake(&f);
	close(ram);
	close(ring.kick);
}

Test(vhost_fe, what_was_not_agreed_on_is_not_sent)
{
	struct mem_region region = { .size = 4096 };
	uint8_t buf[4];
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	vhost_fe_get_config(f.fe, 0, 4, buf, on_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	f.done = false;
	vhost_fe_set_log(f.fe, f.sock, 4096, on_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	f.done = false;
	vhost_fe_add_region(f.fe, &region, f.sock, on_done, &f);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EOPNOTSUPP);
	close_fake(&f);
}

Test(vhost_fe, refusal_ends_one_operation_only)
{
	uint8_t buf[1] = { 0 };
	struct vhost_msg msg;
	struct fake f;

	open_waiting(&f);
	reply_u64(&f, VHOST_SET_CONFIG, 5);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EREMOTEIO);
	f.done = false;
	vhost_fe_get_config(f.fe, 0, 1, buf, on_done, &f);
	expect(&f, VHOST_GET_CONFIG, &msg);
	msg.payload.config.data[0] = 42;
	reply(&f, VHOST_GET_CONFIG, &msg.payload, msg.hdr.size);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	cr_assert_eq(buf[0], 42);
	cr_assert_not(f.lost);
	close_fake(&f);
}

#define REQUESTS_MAX 16

/* Starts one ring on a back end that acknowledges; all requests of that are taken, none is answered. How many. */
static unsigned start_unanswered(struct fake *f, uint32_t requests[REQUESTS_MAX])
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

	open_fake(f, PEER_WAIT_NS);
	answer_probe(f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	cr_assert_eq(vhost_fe_start(f->fe, &s, on_done, f), 0);
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
	struct fake f;
	unsigned n = start_unanswered(&f, requests);

	cr_assert_eq(n, 9);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_not(f.done);
		reply_u64(&f, requests[i], 0);
	}
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, 0);
	close_fake(&f);
}

Test(vhost_fe, after_a_refusal_the_other_answers_are_taken)
{
	uint32_t requests[REQUESTS_MAX];
	struct vhost_msg msg;
	struct fake f;
	unsigned n = start_unanswered(&f, requests);

	for (unsigned i = 0; i + 1 < n; i++)
		reply_u64(&f, requests[i], i == 1);
	peer_settle(f.loop);
	cr_assert_not(f.done, "an answer is still to come");
	reply_u64(&f, requests[n - 1], 0);
	cr_assert(peer_until(f.loop, &f.done));
	cr_assert_eq(f.done_err, -EREMOTEIO);
	f.done = false;
	vhost_fe_stop_ring(f.fe, 0, NULL, NULL);
	expect(&f, VHOST_GET_VRING_BASE, &msg);
	cr_assert_not(f.lost);
	close_fake(&f);
}

/* More requests than the socket holds: the first one is refused before the last ones are sent. */
Test(vhost_fe, nothing_more_is_sent_after_a_refusal)
{
	struct vhost_fe_start s = { .inflight_fd = -1, .n_regions = 1, .n_rings = VHOST_FE_QUEUES_MAX };
	struct vhost_fe_ring rings[VHOST_FE_QUEUES_MAX];
	struct mem_region region = { .size = 4096 };
	int kick = peer_eventfd(), ram = peer_memfd(4096);
	struct vhost_msg msg;
	struct fake f;
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++)
		rings[i] = (struct vhost_fe_ring) { .size = 8, .kick = kick, .call = -1, .err = -1 };
	s.rings = rings;
	s.regions = &region;
	s.fds = &ram;
	send_buffer = 1; /* the kernel makes it a few messages */
	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_REPLY_ACK);
	cr_assert_eq(vhost_fe_start(f.fe, &s, on_done, &f), 0);
	while (!f.done && n < VHOST_FE_QUEUES_MAX) {
		cr_assert(peer_recv(f.loop, f.sock, &msg));
		vhost_msg_drop_fds(&msg);
		reply_u64(&f, msg.hdr.request, !n++);
		peer_settle(f.loop);
	}
	cr_assert(f.done, "it goes on, or the socket takes all");
	cr_assert_eq(f.done_err, -EREMOTEIO);
	close_fake(&f);
	close(kick);
	close(ram);
}

Test(vhost_fe, missed_deadline)
{
	struct fake f;
	uint64_t began = clock_ns();

	open_fake(&f, 30 * NS_PER_MS);
	vhost_fe_probe(f.fe, 0, &info, on_done, &f);
	expect_lost(&f, -ETIMEDOUT);
	cr_assert(f.done);
	cr_assert_eq(f.done_err, -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 30 * NS_PER_MS);
	close_fake(&f);
}

Test(vhost_fe, half_an_answer_is_a_missed_deadline)
{
	struct vhost_hdr hdr = { .request = VHOST_GET_FEATURES,
				 .flags = VHOST_HDR_VERSION | VHOST_HDR_REPLY,
				 .size = 8 };
	struct vhost_msg msg;
	struct fake f;

	open_fake(&f, 100 * NS_PER_MS);
	vhost_fe_probe(f.fe, 0, &info, on_done, &f);
	expect(&f, VHOST_SET_OWNER, &msg);
	expect(&f, VHOST_GET_FEATURES, &msg);
	cr_assert_eq(send(f.sock, &hdr, sizeof(hdr), 0), sizeof(hdr));
	expect_lost(&f, -ETIMEDOUT);
	close_fake(&f);
}

Test(vhost_fe, peer_that_never_reads_is_a_missed_deadline)
{
	struct vhost_fe_start s = { .inflight_fd = -1, .n_regions = 1, .n_rings = VHOST_FE_QUEUES_MAX };
	struct vhost_fe_ring rings[VHOST_FE_QUEUES_MAX];
	struct mem_region region = { .size = 4096 };
	int kick = peer_eventfd(), ram = peer_memfd(4096);
	struct fake f;

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++)
		rings[i] = (struct vhost_fe_ring) { .size = 8, .kick = kick, .call = -1, .err = -1 };
	s.rings = rings;
	s.regions = &region;
	s.fds = &ram;
	open_fake(&f, 50 * NS_PER_MS);
	answer_probe(&f, &info, 0, 0);
	/* More messages than the socket holds, none of them acknowledged. */
	cr_assert_eq(vhost_fe_start(f.fe, &s, on_done, &f), 0);
	expect_lost(&f, -ETIMEDOUT);
	cr_assert_eq(f.done_err, -ETIMEDOUT);
	close_fake(&f);
	close(kick);
	close(ram);
}

Test(vhost_fe, answers_that_are_wrong)
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
		struct fake f;

		open_waiting(&f);
		for (unsigned n = 0; n < cases[i].fds; n++)
			fds[n] = f.sock;
		peer_send(f.sock, cases[i].request, cases[i].flags, payload, cases[i].size, fds,
			  cases[i].fds);
		cr_assert(peer_until(f.loop, &f.lost), "an answer %s is taken", cases[i].what);
		cr_assert_eq(f.lost_err, -EPROTO);
		cr_assert(f.done);
		cr_assert_eq(f.done_err, -EPROTO);
		close_fake(&f);
		if (i == 0)
			before = peer_open_fds();
		cr_assert_eq(peer_open_fds(), before, "an answer %s leaks descriptors", cases[i].what);
	}
}

Test(vhost_fe, unsolicited_answer)
{
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	reply_u64(&f, VHOST_GET_FEATURES, 0);
	expect_lost(&f, -EPROTO);
	close_fake(&f);
}

Test(vhost_fe, doubled_answer)
{
	struct fake f;

	open_waiting(&f);
	reply_u64(&f, VHOST_SET_CONFIG, 0);
	reply_u64(&f, VHOST_SET_CONFIG, 0);
	expect_lost(&f, -EPROTO);
	cr_assert(f.done);
	cr_assert_eq(f.done_err, 0, "the first was right");
	close_fake(&f);
}

Test(vhost_fe, answers_out_of_order)
{
	uint8_t buf[4];
	struct fake f;

	open_waiting(&f);
	vhost_fe_get_config(f.fe, 0, 4, buf, NULL, NULL);
	reply_u64(&f, VHOST_GET_CONFIG, 0);
	expect_lost(&f, -EPROTO);
	close_fake(&f);
}

Test(vhost_fe, configuration_of_another_place)
{
	struct vhost_config c = { .offset = 4, .size = 4 };
	uint8_t buf[4] = { 9, 9, 9, 9 };
	struct vhost_msg msg;
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_CONFIG);
	vhost_fe_get_config(f.fe, 0, 4, buf, on_done, &f);
	expect(&f, VHOST_GET_CONFIG, &msg);
	reply(&f, VHOST_GET_CONFIG, &c, VHOST_CONFIG_HDR + 4);
	expect_lost(&f, -EPROTO);
	cr_assert_eq(buf[0], 9);
	close_fake(&f);
}

Test(vhost_fe, base_of_another_ring)
{
	struct vhost_state s = { .index = 1 };
	struct vhost_msg msg;
	struct fake f;

	open_fake(&f, PEER_WAIT_NS);
	answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, 0);
	vhost_fe_stop_ring(f.fe, 0, NULL, NULL);
	expect(&f, VHOST_GET_VRING_BASE, &msg);
	reply(&f, VHOST_GET_VRING_BASE, &s, sizeof(s));
	expect_lost(&f, -EPROTO);
	close_fake(&f);
}

Test(vhost_fe, end_within_an_answer)
{
	struct fake f;

	open_waiting(&f);
	cr_assert_eq(send(f.sock, "abc", 3, 0), 3);
	shutdown(f.sock, SHUT_RDWR);
	expect_lost(&f, -EPROTO);
	close_fake(&f);
}

Test(vhost_fe, end_between_answers)
{
	struct fake f;

	open_waiting(&f);
	shutdown(f.sock, SHUT_RDWR);
	expect_lost(&f, -EPIPE);
	cr_assert_eq(f.done_err, -EPIPE);
	close_fake(&f);
}

/* ---- the back end's requests ---- */

Test(vhost_fe, flood_of_config_changes_is_few_calls)
{
	struct vhost_hdr hdr = { .request = VHOST_BACKEND_CONFIG_CHANGE, .flags = VHOST_HDR_VERSION };
	unsigned sent = 0;
	struct fake f;
	int channel;

	open_fake(&f, PEER_WAIT_NS);
	channel = answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG);
	while (sent < 1000 && send(channel, &hdr, sizeof(hdr), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(hdr))
		sent++;
	peer_settle(f.loop);
	cr_assert_gt(sent, 50);
	cr_assert_gt(f.changes, 0);
	cr_assert_leq(f.changes, sent / 8);
	cr_assert_not(f.lost);
	close_fake(&f);
	close(channel);
}

Test(vhost_fe, config_change_is_acknowledged_if_asked)
{
	struct vhost_msg msg;
	struct fake f;
	int channel;

	open_fake(&f, PEER_WAIT_NS);
	channel = answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES,
			       VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG | VHOST_PF_REPLY_ACK);
	peer_send(channel, VHOST_BACKEND_CONFIG_CHANGE, VHOST_HDR_NEED_REPLY, NULL, 0, NULL, 0);
	cr_assert(peer_recv(f.loop, channel, &msg));
	cr_assert_eq(msg.hdr.flags, VHOST_HDR_VERSION | VHOST_HDR_REPLY);
	cr_assert_eq(msg.payload.u64, 0);
	cr_assert(peer_until(f.loop, &f.changed));
	close_fake(&f);
	close(channel);
}

Test(vhost_fe, request_of_the_back_end_that_is_not_known)
{
	struct fake f;
	int channel;

	open_fake(&f, PEER_WAIT_NS);
	channel = answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_BACKEND_REQ);
	peer_send(channel, 1, 0, NULL, 0, NULL, 0);
	expect_lost(&f, -EPROTO);
	close_fake(&f);
	close(channel);
}

Test(vhost_fe, back_end_may_close_its_channel)
{
	struct fake f;
	int channel;

	open_fake(&f, PEER_WAIT_NS);
	channel = answer_probe(&f, &info, VHOST_F_PROTOCOL_FEATURES, VHOST_PF_BACKEND_REQ);
	close(channel);
	peer_settle(f.loop); /* fails if the loop spins on the hang-up */
	cr_assert_not(f.lost);
	close_fake(&f);
}

/* ---- at random ---- */

Test(vhost_fe, anything_for_an_answer, .timeout = 60)
{
	static const uint32_t likely[] = { VHOST_GET_FEATURES,       VHOST_GET_PROTOCOL_FEATURES,
					   VHOST_GET_QUEUE_NUM,      VHOST_GET_MAX_MEM_SLOTS,
					   VHOST_SET_BACKEND_REQ_FD, VHOST_GET_CONFIG };
	unsigned before = peer_open_fds(), ended = 0, probed = 0;

	srandom(4242);
	for (unsigned round = 0; round < 3000; round++) {
		struct fake f;

		open_fake(&f, PEER_WAIT_NS);
		vhost_fe_probe(f.fe, random() % 2 ? 16 : 0, &info, on_done, &f);
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
		close_fake(&f);
	}
	cr_assert_eq(peer_open_fds(), before);
	cr_assert_gt(ended, 100);
	cr_assert_gt(probed, 100);
}
