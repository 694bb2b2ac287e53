/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-vhost-be: the back end's side of vhost-user, told anything by a front end: messages mostly of the right form, with
 * any descriptors, in any order, in pieces, against a device that answers at once or later, or refuses.
 *
 * A ring that is to be served can be made a queue of, or is refused; no descriptor is left open.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inflight.h"
#include "vhost_be.h"
#include "virtq.h"
#include "wire.h"

#define QUEUES 3
#define CONFIG 60
#define PROTOCOL                                                                                             \
	(VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG |    \
	 VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE | VHOST_PF_CONFIGURE_MEM_SLOTS | VHOST_PF_STATUS)

static struct world {
	struct loop *loop;
	struct vhost_be *be;
	int sock;
	bool closed, later, refuse;
	bool running[QUEUES];
	bool stopping[QUEUES], mem_waits;
	struct vq *vq[QUEUES];
	uint8_t config[CONFIG];
} w;

/* ---- the device ---- */

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static int get_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	(void)arg;
	if (off > CONFIG || len > CONFIG - off)
		return -EINVAL;
	memcpy(buf, w.config + off, len);
	return 0;
}

static int set_config(void *arg, uint32_t off, uint32_t len, const uint8_t *buf)
{
	(void)arg;
	if (off > CONFIG || len > CONFIG - off)
		return -EINVAL;
	memcpy(w.config + off, buf, len);
	return 0;
}

static void use_queue(struct vq *vq)
{
	struct iovec iov[16];
	struct vq_chain chain = { .iov = iov };

	for (int i = 0; i < 4 && vq_pop(vq, &chain) == 1; i++)
		vq_push(vq, chain.head, 1);
	vq_publish(vq);
	vq_enable_kicks(vq);
}

static int ring_start(void *arg, unsigned index, const struct vhost_be_ring *ring)
{
	struct vq_config config = ring->config;
	int err;

	(void)arg;
	MUST(index < QUEUES && !w.running[index] && ring->kick >= 0);
	MUST(config.mem && config.size && config.size <= VQ_SIZE_MAX);
	close_fd(ring->kick);
	close_fd(ring->call);
	close_fd(ring->err);
	config.iov_max = 16;
	err = w.refuse ? -ENOMEM : vq_new(&config, &w.vq[index]);
	if (err)
		return err;
	w.running[index] = true;
	use_queue(w.vq[index]);
	return 0;
}

static void forget(unsigned index)
{
	vq_free(w.vq[index]);
	w.vq[index] = NULL;
	w.running[index] = w.stopping[index] = false;
}

static void stopped(unsigned index)
{
	uint32_t base = w.vq[index] ? vq_base(w.vq[index]) : 0;

	forget(index);
	if (!w.closed)
		vhost_be_ring_stopped(w.be, index, base);
}

static void ring_stop(void *arg, unsigned index)
{
	(void)arg;
	MUST(index < QUEUES);
	if (w.later)
		w.stopping[index] = true;
	else
		stopped(index);
}

static void ring_set_fd(void *arg, unsigned index, int fd)
{
	(void)arg;
	MUST(index < QUEUES && w.running[index]);
	close_fd(fd);
}

static void ring_enable(void *arg, unsigned index, bool on)
{
	(void)arg;
	(void)on;
	MUST(index < QUEUES);
}

static void mem_changed(void *arg, struct mem *mem)
{
	(void)arg;
	for (unsigned i = 0; i < QUEUES; i++)
		if (w.vq[i] && vq_set_mem(w.vq[i], mem) == 0)
			use_queue(w.vq[i]);
	if (w.later)
		w.mem_waits = true;
	else
		vhost_be_mem_taken(w.be);
}

static void reset(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < QUEUES; i++)
		MUST(!w.running[i]);
}

static void closed(void *arg, int err, const char *why)
{
	(void)arg;
	MUST(!w.closed && (!err || why));
	w.closed = true;
}

static const struct vhost_be_ops ops = { .features = 1ULL << 28 | 1ULL << 29 | 1ULL << 32 | 1ULL << 34,
					 .queues = QUEUES,
					 .get_config = get_config,
					 .set_config = set_config,
					 .ring_start = ring_start,
					 .ring_stop = ring_stop,
					 .ring_set_call = ring_set_fd,
					 .ring_set_err = ring_set_fd,
					 .ring_enable = ring_enable,
					 .mem_changed = mem_changed,
					 .reset = reset,
					 .closed = closed };

/* ---- the front end ---- */

static void run(void)
{
	struct vhost_msg answer;
	int fd;

	for (int i = 0; i < 6; i++)
		MUST(loop_run_once(w.loop, 0) == 0);
	while (wire_receive(w.sock, &answer, &fd))
		close_fd(fd);
}

static uint64_t some_user(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 4)
		return in_u64(in);
	return WIRE_USER + (how < 16 ? in_u16(in) : how % 16 * 0x1000U);
}

static struct vhost_region some_region(struct input *in)
{
	uint8_t how = in_u8(in), part = how & 3;
	struct vhost_region r = { .gpa = WIRE_GPA + part * 0x4000U,
				  .size = 0x4000,
				  .user_addr = WIRE_USER + part * 0x4000U,
				  .mmap_offset = part * 0x4000U };

	if (how & 4)
		r = (struct vhost_region) { .gpa = WIRE_GPA, .size = WIRE_RAM, .user_addr = WIRE_USER };
	if (how & 8)
		r.size = how & 16 ? in_u64(in) : in_u16(in);
	if (how & 32)
		r.gpa = in_u64(in);
	if (how & 64)
		r.user_addr = in_u64(in);
	if (how & 128)
		r.mmap_offset = in_u64(in);
	return r;
}

/* What goes with a request, as long as it is: its payload's size. */
static size_t payload(struct input *in, uint32_t request, union vhost_payload *p)
{
	uint8_t index = in_u8(in);
	uint32_t ring = index < 240 ? index % QUEUES : in_u32(in);

	switch (request) {
	case VHOST_SET_FEATURES:
		p->u64 = index & 1 ? in_u64(in) : ops.features & ~(index & 2 ? 1ULL << 34 : 0);
		p->u64 |= index & 4 ? VHOST_F_PROTOCOL_FEATURES : 0;
		p->u64 |= index & 8 ? VHOST_F_LOG_ALL : 0;
		return 8;
	case VHOST_SET_PROTOCOL_FEATURES:
		p->u64 = index & 1 ? in_u64(in) : PROTOCOL;
		return 8;
	case VHOST_SET_MEM_TABLE:
		p->table.n = index < 200 ? index % 5 : in_u32(in);
		for (unsigned i = 0; i < MIN(p->table.n, (uint32_t)VHOST_TABLE_REGIONS); i++)
			p->table.regions[i] = some_region(in);
		return offsetof(struct vhost_mem_table, regions) +
		       MIN(p->table.n, (uint32_t)VHOST_TABLE_REGIONS) * sizeof(struct vhost_region);
	case VHOST_ADD_MEM_REG:
	case VHOST_REM_MEM_REG:
		p->reg.region = some_region(in);
		return sizeof(p->reg);
	case VHOST_SET_LOG_BASE:
		p->log.size = index & 1 ? in_u64(in) : 64;
		p->log.offset = index & 2 ? in_u64(in) : 0;
		return sizeof(p->log);
	case VHOST_SET_VRING_NUM:
		p->state = (struct vhost_state) { ring, index & 16 ? in_u32(in) : 1U << index % 9 };
		return 8;
	case VHOST_SET_VRING_BASE:
	case VHOST_GET_VRING_BASE:
		p->state = (struct vhost_state) { ring, index & 16 ? in_u32(in) : 0x80008000 };
		return 8;
	case VHOST_SET_VRING_ENABLE:
		p->state = (struct vhost_state) { ring, index & 16 ? in_u32(in) : 1 };
		return 8;
	case VHOST_SET_VRING_ADDR:
		p->addr.index = ring;
		p->addr.flags = index & 16 ? in_u32(in) : index >> 5 & 1;
		p->addr.desc = some_user(in);
		p->addr.avail = some_user(in);
		p->addr.used = some_user(in);
		p->addr.log = index & 16 ? in_u64(in) : WIRE_GPA;
		return sizeof(p->addr);
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
	case VHOST_SET_VRING_ERR:
		p->u64 = index & 16 ? in_u64(in) : ring & 0xff;
		return 8;
	case VHOST_GET_CONFIG:
	case VHOST_SET_CONFIG:
		p->config.offset = index & 1 ? in_u32(in) : index % CONFIG;
		p->config.size = index & 2 ? in_u32(in) : in_u8(in);
		p->config.flags = index & 4 ? in_u32(in) : 0;
		in_bytes(in, p->config.data, 8);
		return VHOST_CONFIG_HDR + MIN(p->config.size, (uint32_t)VHOST_CONFIG_MAX);
	case VHOST_GET_INFLIGHT_FD:
	case VHOST_SET_INFLIGHT_FD:
		p->inflight.size = index & 1 ? in_u64(in) : QUEUES * inflight_queue_bytes(256, index & 2);
		p->inflight.offset = index & 4 ? in_u64(in) : 0;
		p->inflight.queues = index & 8 ? in_u16(in) : QUEUES;
		p->inflight.queue_size = index & 16 ? in_u16(in) : (uint16_t)(1U << index % 9);
		return index & 32 ? sizeof(p->inflight) : VHOST_INFLIGHT_MIN;
	case VHOST_SET_STATUS:
		p->u64 = index & 1 ? in_u64(in) : index & 2 ? VHOST_STATUS_DRIVER_OK : 0;
		return 8;
	default:
		return 0;
	}
}

/* How many descriptors belong to it. */
static unsigned wants_fds(uint32_t request, const union vhost_payload *p)
{
	switch (request) {
	case VHOST_SET_MEM_TABLE:
		return MIN(p->table.n, (uint32_t)VHOST_FDS_MAX);
	case VHOST_ADD_MEM_REG:
	case VHOST_SET_LOG_BASE:
	case VHOST_SET_LOG_FD:
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
	case VHOST_SET_VRING_ERR:
	case VHOST_SET_BACKEND_REQ_FD:
	case VHOST_SET_INFLIGHT_FD:
		return 1;
	default:
		return 0;
	}
}

static unsigned kind_of(uint32_t request)
{
	switch (request) {
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
	case VHOST_SET_VRING_ERR:
		return 1;
	case VHOST_SET_BACKEND_REQ_FD:
		return 5;
	default:
		return 0;
	}
}

static void op_message(struct input *in, uint32_t request)
{
	struct vhost_msg msg;
	uint8_t how = in_u8(in);
	int fds[VHOST_FDS_MAX + 4];
	unsigned n;
	size_t len;

	memset(&msg, 0, sizeof(msg));
	msg.hdr.request = request;
	msg.hdr.flags = VHOST_HDR_VERSION | (how & 1 ? VHOST_HDR_NEED_REPLY : 0);
	len = payload(in, request, &msg.payload);
	msg.hdr.size = (uint32_t)len;
	n = wants_fds(request, &msg.payload);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = wire_fd(kind_of(request));
	if (how & 128) { /* now and then what none should send */
		uint8_t wrong = in_u8(in);

		if (wrong & 1)
			n = in_below(in, ARRAY_SIZE(fds) + 1);
		if (wrong & 2)
			fds[0] = wire_fd(in_u8(in));
		if (wrong & 4)
			msg.hdr.flags = in_u32(in);
		if (wrong & 8)
			msg.hdr.size = in_u32(in);
		if (wrong & 16)
			len = in_u16(in) % sizeof(msg.payload);
		if (wrong & 32)
			msg.hdr.request = in_u32(in);
	}
	wire_send(w.sock, &msg, sizeof(msg.hdr) + len, fds, n);
}

/* A ring from its size to its kick. */
static void op_ring(struct input *in)
{
	static const uint32_t steps[] = { VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_SET_VRING_CALL,
					  VHOST_SET_VRING_ERR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_ENABLE };
	uint8_t ring = in_u8(in) % QUEUES, size = in_u8(in) % 9;

	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		struct vhost_msg msg = { .hdr = { steps[i], VHOST_HDR_VERSION, 8 } };
		int fd = wire_fd(1);
		bool with = i >= 2 && i <= 4;

		msg.payload.state = (struct vhost_state) { ring, i == 0 ? 1U << size : i == 5 ? 1 : 0 };
		wire_send(w.sock, &msg, sizeof(msg.hdr) + 8, &fd, with);
		if (i == 0) {
			msg.hdr = (struct vhost_hdr) { VHOST_SET_VRING_ADDR, VHOST_HDR_VERSION,
						       sizeof(struct vhost_addr) };
			msg.payload.addr =
			    (struct vhost_addr) { .index = ring,
						  .desc = WIRE_USER + ring * 0x4000U,
						  .avail = WIRE_USER + ring * 0x4000U + 0x1000,
						  .used = WIRE_USER + ring * 0x4000U + 0x2000 };
			wire_send(w.sock, &msg, sizeof(msg.hdr) + sizeof(struct vhost_addr), NULL, 0);
		}
		run();
	}
}

static void op_begin(void)
{
	struct vhost_msg msg = { .hdr = { VHOST_SET_FEATURES, VHOST_HDR_VERSION, 8 } };
	int fd = wire_fd(0);

	msg.payload.u64 = (ops.features & ~(1ULL << 34)) | VHOST_F_PROTOCOL_FEATURES;
	wire_send(w.sock, &msg, sizeof(msg.hdr) + 8, NULL, 0);
	msg.hdr.request = VHOST_SET_PROTOCOL_FEATURES;
	msg.payload.u64 = PROTOCOL;
	wire_send(w.sock, &msg, sizeof(msg.hdr) + 8, NULL, 0);
	msg.hdr =
	    (struct vhost_hdr) { VHOST_SET_MEM_TABLE, VHOST_HDR_VERSION, 8 + sizeof(struct vhost_region) };
	memset(&msg.payload, 0, sizeof(msg.payload));
	msg.payload.table.n = 1;
	msg.payload.table.regions[0] = (struct vhost_region) { WIRE_GPA, WIRE_RAM, WIRE_USER, 0 };
	wire_send(w.sock, &msg, sizeof(msg.hdr) + msg.hdr.size, &fd, 1);
	run();
}

static void answer(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (w.stopping[i])
			stopped(i);
	if (w.mem_waits && !w.closed)
		vhost_be_mem_taken(w.be);
	w.mem_waits = false;
}

static void operate(struct input *in)
{
	uint8_t what = in_u8(in), bytes[64];

	if (what < 160) {
		op_message(in, what % 44);
	} else if (what < 192) {
		op_ring(in);
	} else if (what < 200) {
		op_begin();
	} else if (what < 210) {
		w.later = what & 1;
	} else if (what < 215) {
		w.refuse = what & 1;
	} else if (what < 235) {
		answer();
	} else if (what < 240) {
		if (!w.closed)
			vhost_be_config_changed(w.be);
	} else if (what < 245) {
		size_t n = in_below(in, sizeof(bytes));

		in_bytes(in, bytes, n);
		if (send(w.sock, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			return;
	} else if (what < 248) {
		shutdown(w.sock, SHUT_WR);
	}
	if (!(what & 1) || what >= 160)
		run();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	int tested;

	if (len > 4096)
		return 0;
	memset(&w, 0, sizeof(w));
	tested = wire_begin(&w.loop, &w.sock);
	MUST(vhost_be_new(w.loop, tested, &ops, NULL, &w.be) == 0);
	while (in.left && !w.closed)
		operate(&in);
	answer();
	run();
	for (unsigned i = 0; i < QUEUES; i++)
		forget(i);
	vhost_be_free(w.be);
	close(w.sock);
	wire_end(w.loop);
	return 0;
}
