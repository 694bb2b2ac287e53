/* SPDX-License-Identifier: Apache-2.0 */
/* A back end that a test plays, message by message, and the front end under test. */
#include "fake_be.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vhost-peer.h"

static void on_lost(void *arg, int err, const char *why)
{
	struct fake_be *f = arg;

	cr_assert_not(f->lost, "lost twice");
	cr_assert_not_null(why);
	f->lost = true;
	f->lost_err = err;
}

static void on_changed(void *arg)
{
	struct fake_be *f = arg;

	f->changed = true;
	f->changes++;
}

void fake_be_done(void *arg, int err)
{
	struct fake_be *f = arg;

	cr_assert_not(f->done, "done twice");
	f->done = true;
	f->done_err = err;
}

int fake_be_send_buffer;

void fake_be_open(struct fake_be *f, uint64_t timeout_ns)
{
	static const struct vhost_fe_ops ops = { .lost = on_lost, .config_changed = on_changed };
	int ends[2];

	memset(f, 0, sizeof(*f));
	cr_assert_eq(loop_new("test", &f->loop), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	if (fake_be_send_buffer)
		setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &fake_be_send_buffer, sizeof(fake_be_send_buffer));
	cr_assert_eq(vhost_fe_new(f->loop, ends[0], timeout_ns, &ops, f, &f->fe), 0);
	f->sock = ends[1];
}

void fake_be_close(struct fake_be *f)
{
	vhost_fe_free(f->fe);
	loop_free(f->loop);
	close(f->sock);
}

void fake_be_reply(struct fake_be *f, uint32_t request, const void *payload, size_t size)
{
	peer_send(f->sock, request, VHOST_HDR_REPLY, payload, size, NULL, 0);
}

void fake_be_reply_u64(struct fake_be *f, uint32_t request, uint64_t value)
{
	fake_be_reply(f, request, &value, sizeof(value));
}

void fake_be_expect(struct fake_be *f, uint32_t request, struct vhost_msg *msg)
{
	cr_assert(peer_recv(f->loop, f->sock, msg), "no request, %u was expected", request);
	cr_assert_eq(msg->hdr.request, request, "request %u in place of %u", msg->hdr.request, request);
}

void fake_be_expect_lost(struct fake_be *f, int err)
{
	cr_assert(peer_until(f->loop, &f->lost), "the connection stays");
	cr_assert_eq(f->lost_err, err, "lost by %d", f->lost_err);
}

int fake_be_answer_probe(struct fake_be *f, struct vhost_fe_info *info, uint64_t features, uint64_t protocol)
{
	struct vhost_msg msg;
	int channel = -1;

	vhost_fe_probe(f->fe, 0, info, fake_be_done, f);
	fake_be_expect(f, VHOST_SET_OWNER, &msg);
	fake_be_expect(f, VHOST_GET_FEATURES, &msg);
	fake_be_reply_u64(f, VHOST_GET_FEATURES, features);
	if (features & VHOST_F_PROTOCOL_FEATURES) {
		fake_be_expect(f, VHOST_GET_PROTOCOL_FEATURES, &msg);
		fake_be_reply_u64(f, VHOST_GET_PROTOCOL_FEATURES, protocol);
		fake_be_expect(f, VHOST_SET_PROTOCOL_FEATURES, &msg);
		cr_assert_eq(msg.payload.u64 & ~protocol, 0);
	}
	if (protocol & VHOST_PF_MQ) {
		fake_be_expect(f, VHOST_GET_QUEUE_NUM, &msg);
		fake_be_reply_u64(f, VHOST_GET_QUEUE_NUM, 2);
	}
	if (protocol & VHOST_PF_CONFIGURE_MEM_SLOTS) {
		fake_be_expect(f, VHOST_GET_MAX_MEM_SLOTS, &msg);
		fake_be_reply_u64(f, VHOST_GET_MAX_MEM_SLOTS, 32);
	}
	if (protocol & VHOST_PF_BACKEND_REQ) {
		fake_be_expect(f, VHOST_SET_BACKEND_REQ_FD, &msg);
		cr_assert_eq(msg.n_fds, 1);
		channel = msg.fds[0];
		if (protocol & VHOST_PF_REPLY_ACK)
			fake_be_reply_u64(f, VHOST_SET_BACKEND_REQ_FD, 0);
	}
	cr_assert(peer_until(f->loop, &f->done));
	cr_assert_eq(f->done_err, 0);
	f->done = false;
	return channel;
}

struct vhost_fe_info fake_be_info;

void fake_be_open_waiting(struct fake_be *f)
{
	static const uint8_t byte = 1;
	struct vhost_msg msg;

	fake_be_open(f, PEER_WAIT_NS);
	fake_be_answer_probe(f, &fake_be_info, VHOST_F_PROTOCOL_FEATURES,
			     VHOST_PF_REPLY_ACK | VHOST_PF_CONFIG);
	vhost_fe_set_config(f->fe, 0, 1, &byte, fake_be_done, f);
	fake_be_expect(f, VHOST_SET_CONFIG, &msg);
	cr_assert(msg.hdr.flags & VHOST_HDR_NEED_REPLY);
}
