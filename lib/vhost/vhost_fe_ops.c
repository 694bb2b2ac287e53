/* SPDX-License-Identifier: Apache-2.0 */
/* The front end's conversations: which requests each of vhost_fe.h's functions consists of. */
#include "vhost_fe_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "num.h"

#define U64 sizeof(uint64_t)

#define WANTED                                                                                               \
	(VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG |    \
	 VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE | VHOST_PF_CONFIGURE_MEM_SLOTS | VHOST_PF_STATUS)

/* A new operation; NULL if there is no memory for one, and then the connection is lost. */
static struct fe_op *new_op(struct vhost_fe *fe, vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = calloc(1, sizeof(*op));

	if (!op) {
		fe_fail(fe, -ENOMEM, "no memory for a request");
		return NULL;
	}
	op->done = done;
	op->arg = arg;
	return op;
}

static void add_state(struct fe_op *op, uint32_t request, unsigned index, uint32_t num)
{
	struct fe_req *req = fe_add(op, request, sizeof(struct vhost_state));

	if (req)
		req->msg.payload.state = (struct vhost_state) { .index = index, .num = num };
}

static uint64_t feature_word(const struct vhost_fe *fe)
{
	return fe->driver_features | (fe->features & VHOST_F_PROTOCOL_FEATURES) |
	       (fe->logging ? VHOST_F_LOG_ALL : 0);
}

/* ---- probe ---- */

static void add_get_config(struct fe_op *op, uint32_t off, uint32_t len);

static int got_queue_num(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	(void)fe;
	op->info->queues = (uint32_t)MIN(answer->payload.u64, (uint64_t)VHOST_FE_QUEUES_MAX);
	return 0;
}

static int got_mem_slots(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	(void)fe;
	op->info->mem_slots = (uint32_t)MIN(answer->payload.u64, (uint64_t)UINT32_MAX);
	return 0;
}

static void add_backend_channel(struct vhost_fe *fe, struct fe_op *op)
{
	struct fe_req *req = fe_add(op, VHOST_SET_BACKEND_REQ_FD, 0);
	CLEAN_FD int theirs = -1;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
		op->err = -errno;
		return;
	}
	theirs = ends[1];
	fe_add_fd(op, req, theirs);
	op->err = op->err ? op->err : fe_listen(fe, ends[0]);
	if (op->err)
		close(ends[0]);
}

static int got_protocol_features(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	struct fe_req *req;

	fe->protocol = answer->payload.u64 & WANTED;
	op->info->protocol_features = fe->protocol;
	req = fe_add_u64(op, VHOST_SET_PROTOCOL_FEATURES, fe->protocol);
	if (req)
		req->plain = true; /* only what follows is under the rules that it sets */
	if (fe_has(fe, VHOST_PF_MQ))
		fe_answer(fe_add(op, VHOST_GET_QUEUE_NUM, 0), U64, U64, got_queue_num);
	if (fe_has(fe, VHOST_PF_CONFIGURE_MEM_SLOTS))
		fe_answer(fe_add(op, VHOST_GET_MAX_MEM_SLOTS, 0), U64, U64, got_mem_slots);
	if (fe_has(fe, VHOST_PF_BACKEND_REQ))
		add_backend_channel(fe, op);
	if (fe_has(fe, VHOST_PF_CONFIG) && op->config_len) {
		op->config = op->info->config;
		op->info->config_len = op->config_len;
		add_get_config(op, 0, op->config_len);
	}
	return op->err;
}

static int got_features(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	fe->features = answer->payload.u64;
	fe->probed = true;
	op->info->features = fe->features & ~(VHOST_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
	if (fe->features & VHOST_F_PROTOCOL_FEATURES)
		fe_answer(fe_add(op, VHOST_GET_PROTOCOL_FEATURES, 0), U64, U64, got_protocol_features);
	return op->err;
}

void vhost_fe_probe(struct vhost_fe *fe, uint32_t config_len, struct vhost_fe_info *info,
		    vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);

	if (!op)
		return;
	if (config_len > VHOST_FE_CONFIG_MAX)
		op->err = -EINVAL;
	*info = (struct vhost_fe_info) { .queues = 1 };
	op->info = info;
	op->config_len = config_len;
	fe_add(op, VHOST_SET_OWNER, 0);
	fe_answer(fe_add(op, VHOST_GET_FEATURES, 0), U64, U64, got_features);
	fe_submit(fe, op);
}

/* ---- start ---- */

static struct vhost_region to_region(const struct mem_region *r)
{
	return (struct vhost_region) {
		.gpa = r->gpa, .size = r->size, .user_addr = r->user_addr, .mmap_offset = r->mmap_offset
	};
}

static void add_region_request(struct fe_op *op, uint32_t request, const struct mem_region *region, int fd)
{
	struct fe_req *req = fe_add(op, request, sizeof(struct vhost_mem_reg));

	if (req)
		req->msg.payload.reg.region = to_region(region);
	if (fd >= 0)
		fe_add_fd(op, req, fd);
}

static void add_memory(struct fe_op *op, const struct vhost_fe_start *start)
{
	unsigned n = MIN(start->n_regions, (unsigned)VHOST_TABLE_REGIONS);
	size_t size = offsetof(struct vhost_mem_table, regions) + n * sizeof(struct vhost_region);
	struct fe_req *req = fe_add(op, VHOST_SET_MEM_TABLE, size);

	if (req)
		req->msg.payload.table.n = n;
	for (unsigned i = 0; req && i < n; i++) {
		req->msg.payload.table.regions[i] = to_region(&start->regions[i]);
		fe_add_fd(op, req, start->fds[i]);
	}
	for (unsigned i = n; i < start->n_regions; i++)
		add_region_request(op, VHOST_ADD_MEM_REG, &start->regions[i], start->fds[i]);
}

static void add_inflight(struct fe_op *op, const struct vhost_fe_start *start)
{
	struct fe_req *req = fe_add(op, VHOST_SET_INFLIGHT_FD, sizeof(struct vhost_inflight));

	if (req)
		req->msg.payload.inflight =
		    (struct vhost_inflight) { .size = start->inflight_size,
					      .queues = start->inflight_queues,
					      .queue_size = start->inflight_queue_size };
	fe_add_fd(op, req, start->inflight_fd);
}

static void add_eventfd(struct fe_op *op, uint32_t request, unsigned index, int fd)
{
	struct fe_req *req = fe_add_u64(op, request, index | (fd < 0 ? VHOST_VRING_NOFD : 0));

	if (fd >= 0)
		fe_add_fd(op, req, fd);
}

static void add_addr(struct vhost_fe *fe, struct fe_op *op, unsigned index)
{
	struct fe_req *req = fe_add(op, VHOST_SET_VRING_ADDR, sizeof(struct vhost_addr));

	fe->rings[index].addr.flags = fe->logging ? VHOST_ADDR_LOG : 0;
	if (req)
		req->msg.payload.addr = fe->rings[index].addr;
}

static void add_ring(struct vhost_fe *fe, struct fe_op *op, unsigned index, const struct vhost_fe_ring *ring)
{
	fe->rings[index].started = true;
	fe->rings[index].addr = (struct vhost_addr) { .index = index,
						      .desc = ring->desc,
						      .used = ring->used,
						      .avail = ring->avail,
						      .log = ring->used_gpa };
	add_state(op, VHOST_SET_VRING_NUM, index, ring->size);
	add_state(op, VHOST_SET_VRING_BASE, index, ring->base);
	add_addr(fe, op, index);
	add_eventfd(op, VHOST_SET_VRING_ERR, index, ring->err);
	add_eventfd(op, VHOST_SET_VRING_CALL, index, ring->call);
	add_eventfd(op, VHOST_SET_VRING_KICK, index, ring->kick);
	if (fe->features & VHOST_F_PROTOCOL_FEATURES)
		add_state(op, VHOST_SET_VRING_ENABLE, index, 1);
}

static int check_start(const struct vhost_fe *fe, const struct vhost_fe_start *start)
{
	if (!fe->probed || start->n_regions == 0 || start->n_rings > VHOST_FE_QUEUES_MAX)
		return -EINVAL;
	if (start->features & ~fe->features)
		return -EINVAL;
	if (start->n_regions > VHOST_TABLE_REGIONS && !fe_has(fe, VHOST_PF_CONFIGURE_MEM_SLOTS))
		return -E2BIG;
	return 0;
}

int vhost_fe_start(struct vhost_fe *fe, const struct vhost_fe_start *start, vhost_fe_done_fn done, void *arg)
{
	int err = check_start(fe, start);
	struct fe_op *op;

	if (err)
		return err;
	op = calloc(1, sizeof(*op));
	if (!op)
		return -ENOMEM;
	op->done = done;
	op->arg = arg;
	fe->driver_features = start->features & ~(VHOST_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
	fe_add_u64(op, VHOST_SET_FEATURES, feature_word(fe));
	if (start->inflight_fd >= 0 && fe_has(fe, VHOST_PF_INFLIGHT_SHMFD))
		add_inflight(op, start);
	add_memory(op, start);
	for (unsigned i = 0; i < start->n_rings; i++) {
		if (start->rings[i].size)
			add_ring(fe, op, i, &start->rings[i]);
	}
	if (fe_has(fe, VHOST_PF_STATUS))
		fe_add_u64(op, VHOST_SET_STATUS, VHOST_STATUS_DRIVER_OK);
	if (op->err) {
		err = op->err;
		fe_op_free(op);
		return err;
	}
	fe_submit(fe, op);
	return 0;
}

/* ---- stop and reset ---- */

static int got_vring_base(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	const struct vhost_state *s = &answer->payload.state;

	if (s->index != op->first->msg.payload.state.index)
		return -EPROTO;
	fe->rings[s->index].started = false;
	op->value = s->num;
	return 0;
}

static void add_stop(struct fe_op *op, unsigned index)
{
	struct fe_req *req = fe_add(op, VHOST_GET_VRING_BASE, sizeof(struct vhost_state));

	if (req)
		req->msg.payload.state.index = index;
	fe_answer(req, sizeof(struct vhost_state), sizeof(struct vhost_state), got_vring_base);
}

void vhost_fe_stop_ring(struct vhost_fe *fe, unsigned index, vhost_fe_u64_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, NULL, arg);

	if (!op)
		return;
	op->done_u64 = done;
	if (index >= VHOST_FE_QUEUES_MAX)
		op->err = -EINVAL;
	else
		add_stop(op, index);
	fe_submit(fe, op);
}

void vhost_fe_reset(struct vhost_fe *fe, vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);

	if (!op)
		return;
	for (unsigned i = 0; i < VHOST_FE_QUEUES_MAX; i++) {
		if (fe->rings[i].started)
			add_stop(op, i);
	}
	if (fe_has(fe, VHOST_PF_STATUS))
		fe_add_u64(op, VHOST_SET_STATUS, 0);
	if (fe_has(fe, VHOST_PF_RESET_DEVICE))
		fe_add(op, VHOST_RESET_DEVICE, 0);
	fe_submit(fe, op);
}

/* ---- configuration space ---- */

static int got_config(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer)
{
	const struct vhost_config *want = &op->first->msg.payload.config, *got = &answer->payload.config;

	(void)fe;
	if (answer->hdr.size == 0)
		return -EREMOTEIO; /* how a back end refuses */
	if (answer->hdr.size != op->first->msg.hdr.size || got->size != want->size ||
	    got->offset != want->offset)
		return -EPROTO;
	memcpy(op->config, got->data, want->size);
	return 0;
}

static void add_get_config(struct fe_op *op, uint32_t off, uint32_t len)
{
	struct fe_req *req = fe_add(op, VHOST_GET_CONFIG, VHOST_CONFIG_HDR + len);

	if (!req)
		return;
	req->msg.payload.config.offset = off;
	req->msg.payload.config.size = len;
	fe_answer(req, 0, (uint32_t)(VHOST_CONFIG_HDR + len), got_config);
}

static int check_config(const struct vhost_fe *fe, uint32_t len)
{
	if (!fe_has(fe, VHOST_PF_CONFIG))
		return -EOPNOTSUPP;
	return len == 0 || len > VHOST_FE_CONFIG_MAX ? -EINVAL : 0;
}

void vhost_fe_get_config(struct vhost_fe *fe, uint32_t off, uint32_t len, uint8_t *buf, vhost_fe_done_fn done,
			 void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);

	if (!op)
		return;
	op->config = buf;
	op->err = check_config(fe, len);
	if (!op->err)
		add_get_config(op, off, len);
	fe_submit(fe, op);
}

void vhost_fe_set_config(struct vhost_fe *fe, uint32_t off, uint32_t len, const uint8_t *buf,
			 vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);
	struct fe_req *req;

	if (!op)
		return;
	op->err = check_config(fe, len);
	req = op->err ? NULL : fe_add(op, VHOST_SET_CONFIG, VHOST_CONFIG_HDR + len);
	if (req) {
		req->msg.payload.config.offset = off;
		req->msg.payload.config.size = len;
		memcpy(req->msg.payload.config.data, buf, len);
	}
	fe_submit(fe, op);
}

/* ---- dirty log and memory ---- */

void vhost_fe_set_log(struct vhost_fe *fe, int fd, uint64_t size, vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);
	struct fe_req *req;

	if (!op)
		return;
	if (!fe_has(fe, VHOST_PF_LOG_SHMFD) || !(fe->features & VHOST_F_LOG_ALL)) {
		op->err = -EOPNOTSUPP;
		fe_submit(fe, op);
		return;
	}
	if (fd >= 0) {
		req = fe_add(op, VHOST_SET_LOG_BASE, sizeof(struct vhost_log));
		if (req)
			req->msg.payload.log.size = size;
		fe_add_fd(op, req, fd);
		/* The value of the answer means nothing; there are back ends that put the size there. */
		fe_answer(req, 0, sizeof(union vhost_payload), NULL);
	}
	fe->logging = fd >= 0;
	for (unsigned i = 0; i < VHOST_FE_QUEUES_MAX; i++) {
		if (fe->rings[i].started)
			add_addr(fe, op, i);
	}
	fe_add_u64(op, VHOST_SET_FEATURES, feature_word(fe));
	fe_submit(fe, op);
}

static void change_memory(struct vhost_fe *fe, uint32_t request, const struct mem_region *region, int fd,
			  vhost_fe_done_fn done, void *arg)
{
	struct fe_op *op = new_op(fe, done, arg);

	if (!op)
		return;
	op->err = fe_has(fe, VHOST_PF_CONFIGURE_MEM_SLOTS) ? 0 : -EOPNOTSUPP;
	if (!op->err)
		add_region_request(op, request, region, fd);
	fe_submit(fe, op);
}

void vhost_fe_add_region(struct vhost_fe *fe, const struct mem_region *region, int fd, vhost_fe_done_fn done,
			 void *arg)
{
	change_memory(fe, VHOST_ADD_MEM_REG, region, fd, done, arg);
}

void vhost_fe_remove_region(struct vhost_fe *fe, const struct mem_region *region, vhost_fe_done_fn done,
			    void *arg)
{
	change_memory(fe, VHOST_REM_MEM_REG, region, -1, done, arg);
}
