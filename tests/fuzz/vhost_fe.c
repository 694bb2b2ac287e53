/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-vhost-fe: the front end's side of vhost-user against a back end that answers what it likes: mostly the right thing,
 * now and then another request, size, flags or descriptors, in pieces, unasked, or on the channel of its own.
 *
 * Everything that was asked for is called back once, the loss of the connection last; no descriptor is left open.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "vhost_fe.h"
#include "wire.h"

#define QUEUES  3
#define PENDING 32

static struct world {
	struct loop *loop;
	struct vhost_fe *fe;
	int sock, channel; /* of the back end's own requests; -1: none */
	bool lost, probed;
	unsigned asked, answered;
	struct vhost_fe_info info;
	uint8_t config[VHOST_FE_CONFIG_MAX];
} w;

/* ---- what the user of the front end is told ---- */

static void lost(void *arg, int err, const char *why)
{
	(void)arg;
	MUST(!w.lost && err < 0 && why);
	MUST(w.asked == w.answered);
	w.lost = true;
}

static void config_changed(void *arg)
{
	(void)arg;
	MUST(!w.lost);
}

static void done(void *arg, int err)
{
	(void)arg;
	(void)err;
	MUST(!w.lost);
	w.answered++;
}

static void done_probe(void *arg, int err)
{
	w.probed = !err;
	MUST(err || w.info.config_len <= VHOST_FE_CONFIG_MAX);
	done(arg, err);
}

static void done_u64(void *arg, int err, uint64_t value)
{
	(void)value;
	done(arg, err);
}

static const struct vhost_fe_ops ops = { .lost = lost, .config_changed = config_changed };

/* ---- what it asks for ---- */

static void start(struct input *in)
{
	struct vhost_fe_ring rings[QUEUES];
	struct mem_region region = { WIRE_GPA, WIRE_RAM, WIRE_USER, 0 };
	int fd = wire_fd(0);
	struct vhost_fe_start s = { .features = 1ULL << 32 | (in_u8(in) & 1 ? 1ULL << 34 : 0),
				    .regions = &region,
				    .fds = &fd,
				    .n_regions = 1,
				    .inflight_fd = -1,
				    .rings = rings,
				    .n_rings = 1 + in_below(in, QUEUES) };

	memset(rings, 0, sizeof(rings));
	for (unsigned i = 0; i < s.n_rings; i++) {
		uint8_t how = in_u8(in);

		rings[i] = (struct vhost_fe_ring) { .size = how & 1 ? 0 : (uint16_t)(1U << how % 8),
						    .desc = WIRE_USER,
						    .avail = WIRE_USER + 0x1000,
						    .used = WIRE_USER + 0x2000,
						    .kick = wire_fd(1),
						    .call = how & 2 ? -1 : wire_fd(1),
						    .err = -1 };
	}
	if (in_u8(in) & 1) {
		s.inflight_fd = wire_fd(0);
		s.inflight_size = WIRE_RAM;
		s.inflight_queues = QUEUES;
		s.inflight_queue_size = 128;
	}
	if (vhost_fe_start(w.fe, &s, done, NULL) == 0)
		w.asked++;
}

static void ask(struct input *in)
{
	struct mem_region region = { WIRE_GPA + WIRE_RAM, 0x4000, WIRE_USER + WIRE_RAM, 0 };
	uint8_t what = in_u8(in);

	if (w.lost || w.asked - w.answered >= PENDING)
		return;
	if (what % 10 == 1) {
		start(in);
		return;
	}
	w.asked++;
	switch (what % 10) {
	case 2:
		vhost_fe_stop_ring(w.fe, in_below(in, QUEUES), done_u64, NULL);
		break;
	case 3:
		vhost_fe_reset(w.fe, done, NULL);
		break;
	case 4:
		vhost_fe_get_config(w.fe, in_u8(in), in_u8(in) % 64, w.config, done, NULL);
		break;
	case 5:
		vhost_fe_set_config(w.fe, in_u8(in), in_u8(in) % 64, w.config, done, NULL);
		break;
	case 6:
		vhost_fe_set_log(w.fe, what & 128 ? -1 : wire_fd(0), WIRE_RAM, done, NULL);
		break;
	case 7:
		vhost_fe_add_region(w.fe, &region, wire_fd(0), done, NULL);
		break;
	case 8:
		vhost_fe_remove_region(w.fe, &region, done, NULL);
		break;
	default:
		vhost_fe_probe(w.fe, in_below(in, VHOST_FE_CONFIG_MAX + 1U), &w.info, done_probe, NULL);
		break;
	}
}

/* ---- the back end ---- */

static void run(void)
{
	for (int i = 0; i < 2; i++)
		MUST(loop_run_once(w.loop, 0) == 0);
}

/* The right answer to a request, its size; 0: none is due. */
static size_t right(struct input *in, const struct vhost_msg *req, struct vhost_msg *answer)
{
	uint8_t how = in_u8(in);

	switch (req->hdr.request) {
	case VHOST_GET_FEATURES:
		answer->payload.u64 = how & 1 ? in_u64(in) : ~0ULL;
		return 8;
	case VHOST_GET_PROTOCOL_FEATURES:
		answer->payload.u64 = how & 1 ? in_u64(in) : ~0ULL;
		return 8;
	case VHOST_GET_QUEUE_NUM:
	case VHOST_GET_MAX_MEM_SLOTS:
		answer->payload.u64 = how & 1 ? in_u64(in) : 8;
		return 8;
	case VHOST_GET_STATUS:
		answer->payload.u64 = how & 1 ? in_u64(in) : 0;
		return 8;
	case VHOST_SET_LOG_BASE:
		answer->payload.u64 = how & 1 ? in_u64(in) : 0;
		return 8;
	case VHOST_GET_VRING_BASE:
		answer->payload.state = req->payload.state;
		answer->payload.state.num = how & 1 ? in_u32(in) : 5;
		if (how & 2)
			answer->payload.state.index = in_u32(in);
		return 8;
	case VHOST_GET_CONFIG:
		answer->payload.config = req->payload.config;
		in_bytes(in, answer->payload.config.data, 8);
		if (how & 1)
			answer->payload.config.size = in_u32(in);
		if (how & 2)
			answer->payload.config.offset = in_u32(in);
		return how & 4 ? 0 : req->hdr.size;
	default:
		if (!(req->hdr.flags & VHOST_HDR_NEED_REPLY))
			return 0;
		answer->payload.u64 = how & 1 ? in_u64(in) : 0;
		return 8;
	}
}

/* Takes a request and answers it, or does not. False: there was none. */
static bool reply(struct input *in)
{
	struct vhost_msg req, answer;
	uint8_t how = in_u8(in);
	int fds[4], fd;
	unsigned n = 0;
	size_t len;

	memset(&req, 0, sizeof(req));
	memset(&answer, 0, sizeof(answer));
	if (!wire_receive(w.sock, &req, &fd) && !(how & 64))
		return false;
	if (fd >= 0 && req.hdr.request == VHOST_SET_BACKEND_REQ_FD && w.channel < 0)
		w.channel = fd;
	else if (fd >= 0)
		close(fd);
	len = right(in, &req, &answer);
	if (!len && !(how & 64))
		return true;
	answer.hdr =
	    (struct vhost_hdr) { req.hdr.request, VHOST_HDR_VERSION | VHOST_HDR_REPLY, (uint32_t)len };
	if (how & 128) {
		uint8_t wrong = in_u8(in);

		for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
			fds[i] = wire_fd(in_u8(in));
		if (wrong & 1)
			n = in_below(in, ARRAY_SIZE(fds) + 1);
		if (wrong & 2)
			answer.hdr.flags = in_u32(in);
		if (wrong & 4)
			answer.hdr.size = in_u32(in);
		if (wrong & 8)
			answer.hdr.request = in_u8(in);
		if (wrong & 16)
			len = in_u16(in) % sizeof(answer.payload);
	}
	wire_send(w.sock, &answer, sizeof(answer.hdr) + len, fds, n);
	return true;
}

/* All that was asked, with what an input that is at its end gives. */
static void reply_well(struct input *in)
{
	struct input none = { in->at, 0 };

	for (unsigned i = 0; i < 60 && reply(&none); i++)
		run();
}

static void channel(struct input *in)
{
	uint8_t how = in_u8(in);
	struct vhost_msg msg = { .hdr = { VHOST_BACKEND_CONFIG_CHANGE,
					  VHOST_HDR_VERSION | (how & 1 ? VHOST_HDR_NEED_REPLY : 0), 0 } };
	int fd = wire_fd(1);

	if (w.channel < 0)
		return;
	if (how & 2)
		msg.hdr.request = in_u8(in);
	if (how & 4)
		msg.hdr.size = in_u32(in);
	if (how & 8)
		msg.hdr.flags = in_u32(in);
	if (how & 32) {
		close(w.channel);
		w.channel = -1;
		return;
	}
	wire_send(w.channel, &msg, sizeof(msg.hdr), &fd, how >> 4 & 1);
	if (wire_receive(w.channel, &msg, &fd) && fd >= 0)
		close(fd);
}

static void operate(struct input *in)
{
	uint8_t what = in_u8(in), bytes[64];

	switch (what % 12) {
	case 0:
	case 1:
	case 2:
		ask(in);
		break;
	case 3:
		reply_well(in);
		break;
	case 4:
		channel(in);
		break;
	case 5: {
		size_t n = in_below(in, sizeof(bytes));

		in_bytes(in, bytes, n);
		if (what < 24 && send(w.sock, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			return;
		break;
	}
	case 6:
		if (what < 12)
			shutdown(w.sock, SHUT_WR);
		break;
	default:
		reply(in);
		break;
	}
	run();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	int tested;

	if (len > 4096)
		return 0;
	memset(&w, 0, sizeof(w));
	w.channel = -1;
	tested = wire_begin(&w.loop, &w.sock);
	MUST(vhost_fe_new(w.loop, tested, 3600 * NS_PER_S, &ops, NULL, &w.fe) == 0);
	while (in.left && !w.lost)
		operate(&in);
	/* The peer goes: whatever is under way ends. */
	close(w.sock);
	run();
	MUST(w.lost);
	vhost_fe_free(w.fe);
	if (w.channel >= 0)
		close(w.channel);
	wire_end(w.loop);
	return 0;
}
