/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end's connection: takes messages one at a time, checks each against a table, answers it.
 *
 * One message is in work at any time. Where the answer has to wait (for the device to stop rings or to take a
 * memory table, for the socket to take the reply) the socket is not read, so a peer that floods us is held by
 * its own socket buffer. Refusals come in two sorts: a request that is well-formed and can't be granted is
 * answered with an error if the peer asked for an answer; one that breaks the protocol (size, descriptors,
 * flags), and one that nobody waits for, ends the connection, because the two sides no longer agree on what
 * the device's state is.
 */
#include "vhost_be_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "num.h"

#define MESSAGES_PER_PASS 64 /* then the loop's other handlers have their turn */

#define PROTOCOL_FEATURES                                                                                    \
	(VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_BACKEND_REQ |                      \
	 VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE | VHOST_PF_CONFIGURE_MEM_SLOTS | VHOST_PF_STATUS)

union vhost_payload *be_reply(struct vhost_be *be, const struct vhost_msg *msg, size_t size)
{
	vhost_msg_init(&be->out.msg, msg->hdr.request, VHOST_HDR_REPLY, size);
	be->out.done = 0;
	return &be->out.msg.payload;
}

static int reply_u64(struct vhost_be *be, const struct vhost_msg *msg, uint64_t value)
{
	be_reply(be, msg, sizeof(uint64_t))->u64 = value;
	return BE_REPLY;
}

/* ---- messages about the connection as a whole ---- */

static uint64_t offered_features(const struct vhost_be *be)
{
	return be->ops->features | VHOST_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;
}

static uint64_t offered_protocol(const struct vhost_be *be)
{
	return PROTOCOL_FEATURES | (be->ops->get_config ? VHOST_PF_CONFIG : 0);
}

static int get_features(struct vhost_be *be, struct vhost_msg *msg)
{
	return reply_u64(be, msg, offered_features(be));
}

static int set_features(struct vhost_be *be, struct vhost_msg *msg)
{
	uint64_t features = msg->payload.u64, changed = be->features ^ features;

	if (features & ~offered_features(be))
		return be_refuse(be, -EINVAL, "features that were not offered");
	if (be_rings_live(be) && (changed & ~VHOST_F_LOG_ALL))
		return be_refuse(be, -EBUSY, "features changed while rings run");
	be->features = features;
	be->have_features = true;
	for (unsigned i = 0; i < be->ops->queues; i++) {
		if (!(features & VHOST_F_PROTOCOL_FEATURES) && be->rings[i].state == RING_STOPPED)
			be->rings[i].enabled = true;
	}
	return changed & VHOST_F_LOG_ALL ? be_apply_log(be) : BE_OK;
}

static int set_owner(struct vhost_be *be, struct vhost_msg *msg)
{
	(void)be, (void)msg;
	return BE_OK; /* a connection has one owner by its nature */
}

static int get_protocol_features(struct vhost_be *be, struct vhost_msg *msg)
{
	return reply_u64(be, msg, offered_protocol(be));
}

static int set_protocol_features(struct vhost_be *be, struct vhost_msg *msg)
{
	if (msg->payload.u64 & ~offered_protocol(be))
		return be_refuse(be, -EINVAL, "protocol features that were not offered");
	if (be_rings_live(be) && msg->payload.u64 != be->protocol)
		return be_refuse(be, -EBUSY, "protocol features changed while rings run");
	be->protocol = msg->payload.u64;
	return BE_OK;
}

static int get_queue_num(struct vhost_be *be, struct vhost_msg *msg)
{
	return reply_u64(be, msg, be->ops->counted ? be->ops->counted : be->ops->queues);
}

static int get_max_mem_slots(struct vhost_be *be, struct vhost_msg *msg)
{
	return reply_u64(be, msg, MEM_REGIONS_MAX);
}

static int get_status(struct vhost_be *be, struct vhost_msg *msg)
{
	return reply_u64(be, msg, be->status);
}

/* The optional eventfd that tells of log writes: the front end that sends one reads the log all the same. */
static int set_log_fd(struct vhost_be *be, struct vhost_msg *msg)
{
	(void)be, (void)msg;
	return BE_OK;
}

static int set_backend_req_fd(struct vhost_be *be, struct vhost_msg *msg)
{
	struct stat st;

	if (fstat(msg->fds[0], &st) < 0 || !S_ISSOCK(st.st_mode) || fd_set_nonblock(msg->fds[0], true) < 0)
		return be_refuse(be, -EINVAL, "the back-end request channel is no socket");
	if (be->backend_req >= 0)
		close(be->backend_req);
	be->backend_req = take_fd(&msg->fds[0]);
	return BE_OK;
}

/* True if the message is as long as its own header says the configuration data are. */
static bool config_fits(const struct vhost_msg *msg)
{
	const struct vhost_config *c = &msg->payload.config;

	return c->size <= VHOST_CONFIG_MAX && msg->hdr.size == VHOST_CONFIG_HDR + c->size;
}

static int read_config(struct vhost_be *be)
{
	const struct vhost_msg *msg = &be->in.msg;
	const struct vhost_config *want = &msg->payload.config;
	struct vhost_config *c = &be_reply(be, msg, msg->hdr.size)->config;
	int err;

	c->offset = want->offset;
	c->size = want->size;
	err = be->ops->get_config(be->arg, want->offset, want->size, c->data);
	if (err == -EINPROGRESS) {
		be->wait = BE_CONFIG;
		be->after_wait = read_config;
		return BE_WAIT;
	}
	if (err < 0)
		be_reply(be, msg, 0);
	return BE_REPLY;
}

static int get_config(struct vhost_be *be, struct vhost_msg *msg)
{
	if (!config_fits(msg))
		return be_refuse(be, -EINVAL, "a configuration size that contradicts the message's");
	return read_config(be);
}

static int set_config(struct vhost_be *be, struct vhost_msg *msg)
{
	const struct vhost_config *c = &msg->payload.config;

	if (!config_fits(msg))
		return be_refuse(be, -EINVAL, "a configuration size that contradicts the message's");
	if (!be->ops->set_config || c->flags > 1 ||
	    be->ops->set_config(be->arg, c->offset, c->size, c->data) < 0)
		return be_refuse(be, -EINVAL, "a configuration write that the device refuses");
	return BE_OK;
}

/* ---- the table ---- */

struct message {
	be_handler fn;
	uint32_t size_min, size_max;
	uint8_t fds_min, fds_max;
	uint64_t protocol; /* allowed only with one of these agreed on; 0: always */
	bool answers; /* has a reply of its own, so that a refusal can't be told: it ends the connection */
};

#define SIZE(type) .size_min = sizeof(type), .size_max = sizeof(type)
#define FDS(n)     .fds_min = (n), .fds_max = (n)

static const struct message messages[VHOST_REQUEST_MAX] = {
	[VHOST_GET_FEATURES] = { .fn = get_features, .answers = true },
	[VHOST_SET_FEATURES] = { .fn = set_features, SIZE(uint64_t) },
	[VHOST_SET_OWNER] = { .fn = set_owner },
	/* Deprecated; the specification's advice is to ignore it. */
	[VHOST_RESET_OWNER] = { .fn = set_owner },
	[VHOST_SET_MEM_TABLE] = { .fn = be_set_mem_table,
				  .size_min = offsetof(struct vhost_mem_table, regions),
				  .size_max = sizeof(struct vhost_mem_table),
				  .fds_max = VHOST_TABLE_REGIONS },
	[VHOST_SET_LOG_BASE] = { .fn = be_set_log_base,
				 SIZE(struct vhost_log),
				 FDS(1),
				 .protocol = VHOST_PF_LOG_SHMFD,
				 .answers = true },
	[VHOST_SET_LOG_FD] = { .fn = set_log_fd, FDS(1) },
	[VHOST_SET_VRING_NUM] = { .fn = be_set_vring_num, SIZE(struct vhost_state) },
	[VHOST_SET_VRING_ADDR] = { .fn = be_set_vring_addr, SIZE(struct vhost_addr) },
	[VHOST_SET_VRING_BASE] = { .fn = be_set_vring_base, SIZE(struct vhost_state) },
	[VHOST_GET_VRING_BASE] = { .fn = be_get_vring_base, SIZE(struct vhost_state), .answers = true },
	[VHOST_SET_VRING_KICK] = { .fn = be_set_vring_kick, SIZE(uint64_t), .fds_max = 1 },
	[VHOST_SET_VRING_CALL] = { .fn = be_set_vring_call, SIZE(uint64_t), .fds_max = 1 },
	[VHOST_SET_VRING_ERR] = { .fn = be_set_vring_err, SIZE(uint64_t), .fds_max = 1 },
	[VHOST_GET_PROTOCOL_FEATURES] = { .fn = get_protocol_features, .answers = true },
	[VHOST_SET_PROTOCOL_FEATURES] = { .fn = set_protocol_features, SIZE(uint64_t) },
	[VHOST_GET_QUEUE_NUM] = { .fn = get_queue_num, .protocol = VHOST_PF_MQ, .answers = true },
	[VHOST_SET_VRING_ENABLE] = { .fn = be_set_vring_enable, SIZE(struct vhost_state) },
	[VHOST_SET_BACKEND_REQ_FD] = { .fn = set_backend_req_fd, FDS(1), .protocol = VHOST_PF_BACKEND_REQ },
	[VHOST_GET_CONFIG] = { .fn = get_config,
			       .size_min = VHOST_CONFIG_HDR,
			       .size_max = sizeof(struct vhost_config),
			       .protocol = VHOST_PF_CONFIG,
			       .answers = true },
	[VHOST_SET_CONFIG] = { .fn = set_config,
			       .size_min = VHOST_CONFIG_HDR,
			       .size_max = sizeof(struct vhost_config),
			       .protocol = VHOST_PF_CONFIG },
	[VHOST_GET_INFLIGHT_FD] = { .fn = be_get_inflight,
				    .size_min = VHOST_INFLIGHT_MIN,
				    .size_max = sizeof(struct vhost_inflight),
				    .protocol = VHOST_PF_INFLIGHT_SHMFD,
				    .answers = true },
	[VHOST_SET_INFLIGHT_FD] = { .fn = be_set_inflight,
				    .size_min = VHOST_INFLIGHT_MIN,
				    .size_max = sizeof(struct vhost_inflight),
				    FDS(1),
				    .protocol = VHOST_PF_INFLIGHT_SHMFD },
	[VHOST_RESET_DEVICE] = { .fn = be_reset_device, .protocol = VHOST_PF_RESET_DEVICE },
	[VHOST_GET_MAX_MEM_SLOTS] = { .fn = get_max_mem_slots,
				      .protocol = VHOST_PF_CONFIGURE_MEM_SLOTS,
				      .answers = true },
	[VHOST_ADD_MEM_REG] = { .fn = be_add_mem_reg,
				SIZE(struct vhost_mem_reg),
				FDS(1),
				.protocol = VHOST_PF_CONFIGURE_MEM_SLOTS },
	/* Some front ends send a descriptor along, which the specification lets us close unused. */
	[VHOST_REM_MEM_REG] = { .fn = be_rem_mem_reg,
				SIZE(struct vhost_mem_reg),
				.fds_max = 1,
				.protocol = VHOST_PF_CONFIGURE_MEM_SLOTS },
	[VHOST_SET_STATUS] = { .fn = be_set_status, SIZE(uint64_t), .protocol = VHOST_PF_STATUS },
	[VHOST_GET_STATUS] = { .fn = get_status, .protocol = VHOST_PF_STATUS, .answers = true },
};

/* ---- the connection ---- */

/* The end: nothing of be is touched after closed, which may free it. */
static void be_close(struct vhost_be *be, int err, const char *why)
{
	be->wait = BE_DEAD;
	loop_bh_cancel(&be->resume);
	loop_del_fd(be->watch);
	be->watch = NULL;
	vhost_msg_drop_fds(&be->in.msg);
	be->ops->closed(be->arg, err, why);
}

static const char *check_message(const struct vhost_be *be, const struct vhost_msg *msg,
				 const struct message **out)
{
	const struct message *m = msg->hdr.request < VHOST_REQUEST_MAX ? &messages[msg->hdr.request] : NULL;

	if ((msg->hdr.flags & VHOST_HDR_VERSION_MASK) != VHOST_HDR_VERSION ||
	    (msg->hdr.flags & VHOST_HDR_REPLY))
		return "a message with a wrong version, or a reply that nobody asked for";
	if (!m || !m->fn)
		return "an unknown request";
	if (msg->hdr.size < m->size_min || msg->hdr.size > m->size_max)
		return "a request of the wrong size";
	if (msg->n_fds < m->fds_min || msg->n_fds > m->fds_max)
		return "a request with the wrong number of descriptors";
	if (m->protocol && !be_has(be, m->protocol))
		return "a request whose protocol feature was not agreed on";
	*out = m;
	return NULL;
}

/* How a step ended. After GONE be may be freed memory. */
enum step { ON, PAUSED, GONE };

/* What follows from a handler's result; sets be->wait. */
static enum step conclude(struct vhost_be *be, int result)
{
	const struct vhost_msg *msg = &be->in.msg;
	bool ack = (msg->hdr.flags & VHOST_HDR_NEED_REPLY) && be_has(be, VHOST_PF_REPLY_ACK);

	if (result == BE_WAIT)
		return PAUSED;
	be->wait = BE_READING;
	if (result < 0 && (!ack || be->device_failed || messages[msg->hdr.request].answers)) {
		be_close(be, -EPROTO, be->why);
		return GONE;
	}
	if (result != BE_REPLY && ack)
		result = reply_u64(be, msg, result < 0);
	if (result == BE_REPLY)
		be->wait = BE_REPLYING;
	vhost_msg_drop_fds(&be->in.msg);
	be->in.done = 0;
	return ON;
}

/* Sends what is left of the reply. */
static enum step send_reply(struct vhost_be *be)
{
	int sent = vhost_msg_send(be->fd, &be->out);

	if (sent == 0)
		return PAUSED;
	vhost_msg_drop_fds(&be->out.msg);
	if (sent < 0) {
		be_close(be, sent == -EPIPE || sent == -ECONNRESET ? 0 : sent, "the reply can't be sent");
		return GONE;
	}
	be->wait = BE_READING;
	return ON;
}

static enum step dispatch(struct vhost_be *be)
{
	const struct message *m = NULL;
	const char *wrong = check_message(be, &be->in.msg, &m);

	if (wrong) {
		be_close(be, -EPROTO, wrong);
		return GONE;
	}
	be->why = "the device refuses";
	return conclude(be, m->fn(be, &be->in.msg));
}

static enum step receive(struct vhost_be *be)
{
	int got = vhost_msg_recv(be->fd, &be->in);

	if (got == 1)
		return dispatch(be);
	if (got == 0)
		return PAUSED;
	if (got == -ENODATA || (got == -ECONNRESET && be->in.done == 0))
		be_close(be, 0, "the front end closed the connection");
	else if (got == -ECONNRESET)
		be_close(be, -EPROTO, "the connection ended within a message");
	else if (got == -EMSGSIZE)
		be_close(be, -EPROTO, "a message larger than any known");
	else if (got == -E2BIG)
		be_close(be, -EPROTO, "a message with more descriptors than any may have");
	else
		be_close(be, got, "the connection can't be read");
	return GONE;
}

/* Watches the socket for what the connection now waits for. */
static void watch(struct vhost_be *be)
{
	static const uint32_t events[] = {
		[BE_READING] = EPOLLIN, [BE_REPLYING] = EPOLLOUT, [BE_STOPPING] = 0,
		[BE_MEM] = 0,           [BE_CONFIG] = 0,          [BE_DEAD] = 0,
	};
	int err = loop_mod_fd(be->watch, events[be->wait]);

	if (err)
		be_close(be, err, "the connection can't be watched");
}

/* Works until there is nothing to read, the device or the socket must be waited for, or others have a turn. */
static void run(struct vhost_be *be)
{
	enum step step = ON;

	for (int n = 0; step == ON && n < MESSAGES_PER_PASS; n++) {
		if (be->wait == BE_REPLYING)
			step = send_reply(be);
		else if (be->wait == BE_READING)
			step = receive(be);
		else
			step = PAUSED;
	}
	if (step != GONE)
		watch(be);
}

static void on_socket(void *arg, uint32_t events)
{
	(void)events;
	run(arg);
}

/* The device has answered: the message that waited for it is concluded. */
static void on_resume(void *arg)
{
	struct vhost_be *be = arg;

	if (conclude(be, be->after_wait(be)) != GONE)
		run(be);
}

/* ---- for the device ---- */

int vhost_be_new(struct loop *loop, int fd, const struct vhost_be_ops *ops, void *arg, struct vhost_be **out)
{
	struct vhost_be *be;
	int err;

	if (ops->queues == 0 || ops->queues > VHOST_VRING_INDEX + 1)
		return -EINVAL;
	be = calloc(1, sizeof(*be));
	if (!be)
		return -ENOMEM;
	be->loop = loop;
	be->fd = be->backend_req = be->log_fd = -1;
	be->ops = ops;
	be->arg = arg;
	loop_bh_init(&be->resume, loop, on_resume, be);
	err = be_rings_init(be);
	if (!err)
		err = fd_set_nonblock(fd, true);
	if (!err)
		err = loop_add_fd(loop, fd, EPOLLIN, on_socket, be, &be->watch);
	if (err) {
		vhost_be_free(be);
		return err;
	}
	be->fd = fd;
	*out = be;
	return 0;
}

void vhost_be_free(struct vhost_be *be)
{
	if (!be)
		return;
	loop_bh_cancel(&be->resume);
	loop_del_fd(be->watch);
	vhost_msg_drop_fds(&be->in.msg);
	vhost_msg_drop_fds(&be->out.msg);
	be_rings_free(be);
	be_mem_free(be);
	if (be->backend_req >= 0)
		close(be->backend_req);
	if (be->fd >= 0)
		close(be->fd);
	free(be);
}

void vhost_be_ring_stopped(struct vhost_be *be, unsigned index, uint32_t base)
{
	struct be_ring *r;

	if (be->wait != BE_STOPPING || index >= be->ops->queues || be->rings[index].state != RING_STOPPING)
		return;
	r = &be->rings[index];
	r->state = RING_STOPPED;
	r->base = base;
	if (--be->rings_stopping == 0)
		loop_bh_post(&be->resume);
}

void vhost_be_mem_taken(struct vhost_be *be)
{
	if (be->wait == BE_MEM)
		loop_bh_post(&be->resume);
}

void vhost_be_config_ready(struct vhost_be *be)
{
	if (be->wait == BE_CONFIG)
		loop_bh_post(&be->resume);
}

int vhost_be_config_changed(struct vhost_be *be)
{
	struct vhost_transfer t = { .done = 0 };
	int sent;

	if (be->backend_req < 0 || !be_has(be, VHOST_PF_CONFIG))
		return 0;
	vhost_msg_init(&t.msg, VHOST_BACKEND_CONFIG_CHANGE, 0, 0);
	sent = vhost_msg_send(be->backend_req, &t);
	/* A full socket holds such messages that were not read yet: they will do. */
	return sent < 0 ? sent : 0;
}
