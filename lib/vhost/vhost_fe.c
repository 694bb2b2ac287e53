/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end's connection: a queue of operations, each a list of requests, one operation on the wire at a
 * time.
 *
 * An operation's requests are sent without waiting for answers in between: to wait for each would take as many turns of
 * two processes as there are requests, and a recovery has two dozen of them. Answers come in order, so each belongs
 * to the first request that waits for one: an answer when none does, or to another request, breaks the protocol
 * and ends the connection. After a refusal nothing more of the operation is sent, and the answers to what was are
 * waited for. A peer without REPLY_ACK does not answer setters; each operation then ends with a GET_FEATURES, whose
 * answer tells that all before it was read. All callbacks are made from one bottom half, so that they never run within
 * a call of the user's, and may free the front end.
 */
#include "vhost_fe_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"

#define CHANGES_PER_PASS 16 /* messages of the BACKEND_REQ channel that one pass of the loop reads */

/* ---- operations and requests ---- */

static void free_req(struct fe_req *req)
{
	vhost_msg_drop_fds(&req->msg);
	free(req);
}

static void pop_req(struct fe_op *op)
{
	struct fe_req *req = op->first;

	op->first = req->next;
	if (!op->first)
		op->last = NULL;
	free_req(req);
}

void fe_op_free(struct fe_op *op)
{
	while (op->first)
		pop_req(op);
	free(op);
}

struct fe_req *fe_add(struct fe_op *op, uint32_t request, size_t size)
{
	struct fe_req *req = calloc(1, sizeof(*req));

	if (!req) {
		op->err = -ENOMEM;
		return NULL;
	}
	vhost_msg_init(&req->msg, request, 0, size);
	if (op->last)
		op->last->next = req;
	else
		op->first = req;
	op->last = req;
	return req;
}

struct fe_req *fe_add_u64(struct fe_op *op, uint32_t request, uint64_t value)
{
	struct fe_req *req = fe_add(op, request, sizeof(value));

	if (req)
		req->msg.payload.u64 = value;
	return req;
}

void fe_add_fd(struct fe_op *op, struct fe_req *req, int fd)
{
	int own;

	if (!req)
		return;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		op->err = -errno;
	else
		req->msg.fds[req->msg.n_fds++] = own;
}

void fe_answer(struct fe_req *req, uint32_t min, uint32_t max,
	       int (*reply)(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer))
{
	if (!req)
		return;
	req->answers = true;
	req->reply_min = min;
	req->reply_max = max;
	req->reply = reply;
}

/* ---- reporting ---- */

static void finish_first(struct vhost_fe *fe, int err)
{
	struct fe_op *op = fe->ops_first;

	fe->ops_first = op->next;
	if (!fe->ops_first)
		fe->ops_last = NULL;
	op->next = NULL;
	if (!op->err)
		op->err = err;
	if (fe->done_last)
		fe->done_last->next = op;
	else
		fe->done_first = op;
	fe->done_last = op;
	loop_bh_post(&fe->report);
}

static void stop_watching(struct vhost_fe *fe)
{
	loop_del_fd(fe->watch);
	loop_del_fd(fe->backend_watch);
	fe->watch = fe->backend_watch = NULL;
	loop_disarm_timer(fe->timer);
}

void fe_fail(struct vhost_fe *fe, int err, const char *why)
{
	if (fe->state != FE_OPEN)
		return;
	fe->state = FE_FAILED;
	fe->err = err;
	fe->why = why;
	stop_watching(fe);
	while (fe->ops_first)
		finish_first(fe, err);
	loop_bh_post(&fe->report);
}

static void call_done(struct fe_op *op)
{
	int err = op->err;
	uint64_t value = op->value;
	vhost_fe_done_fn done = op->done;
	vhost_fe_u64_fn done_u64 = op->done_u64;
	void *arg = op->arg;

	fe_op_free(op);
	if (done)
		done(arg, err);
	if (done_u64)
		done_u64(arg, err, value);
}

static void on_report(void *arg)
{
	struct vhost_fe *fe = arg;

	fe->reporting = true;
	while (!fe->freed && fe->done_first) {
		struct fe_op *op = fe->done_first;

		fe->done_first = op->next;
		if (!fe->done_first)
			fe->done_last = NULL;
		call_done(op);
	}
	if (!fe->freed && fe->config_changed) {
		fe->config_changed = false;
		if (fe->ops->config_changed)
			fe->ops->config_changed(fe->arg);
	}
	if (!fe->freed && fe->state == FE_FAILED) {
		fe->state = FE_REPORTED;
		fe->ops->lost(fe->arg, fe->err, fe->why);
	}
	fe->reporting = false;
	if (fe->freed)
		free(fe);
}

/* ---- the wire ---- */

static bool wants_answer(const struct fe_req *req)
{
	return req->answers || (req->msg.hdr.flags & VHOST_HDR_NEED_REPLY);
}

/* Nothing more of the operation is to be sent. */
static void drop_unsent(struct vhost_fe *fe, struct fe_op *op)
{
	struct fe_req **at = &op->first, *req;

	op->last = NULL;
	while ((req = *at)) {
		if (req->sent || req == fe->sending) {
			op->last = req;
			at = &req->next;
		} else {
			*at = req->next;
			free_req(req);
		}
	}
}

/* Forgets what is sent and wants no answer, up to the first request that waits for one; ends the operation when nothing
 * is left of it. */
static void settle(struct vhost_fe *fe)
{
	struct fe_op *op = fe->ops_first;

	if (op->err)
		drop_unsent(fe, op);
	while (op->first && op->first->sent && !wants_answer(op->first))
		pop_req(op);
	if (!op->first)
		finish_first(fe, 0);
}

static bool waiting(const struct vhost_fe *fe)
{
	const struct fe_op *op = fe->ops_first;

	return op && op->first && (op->first->sent || op->first == fe->sending);
}

/* The next sign of progress, which whoever makes some asks for. */
static void set_deadline(struct vhost_fe *fe)
{
	if (waiting(fe))
		loop_arm_timer(fe->timer, clock_ns() + fe->timeout_ns);
	else
		loop_disarm_timer(fe->timer);
}

/* The first request that is to be sent yet, of the operation whose turn it is; NULL if there is none. */
static struct fe_req *next_request(struct vhost_fe *fe)
{
	struct fe_req *req;

	while (fe->ops_first && (fe->ops_first->err || !fe->ops_first->first)) {
		settle(fe);
		if (waiting(fe))
			return NULL;
	}
	if (!fe->ops_first)
		return NULL;
	for (req = fe->ops_first->first; req && req->sent; req = req->next)
		;
	return req;
}

/* Takes the next request up; false if there is none. */
static bool begin_request(struct vhost_fe *fe)
{
	struct fe_req *req = next_request(fe);

	if (!req)
		return false;
	if (!req->answers && !req->plain && fe_has(fe, VHOST_PF_REPLY_ACK))
		req->msg.hdr.flags |= VHOST_HDR_NEED_REPLY;
	fe->out.msg = req->msg;
	fe->out.done = 0;
	fe->sending = req;
	set_deadline(fe);
	return true;
}

/* Sends what is left of the request; false if the socket is full or the connection has ended. */
static bool send_request(struct vhost_fe *fe)
{
	int sent = vhost_msg_send(fe->fd, &fe->out);
	int err = sent < 0 ? 0 : loop_mod_fd(fe->watch, sent ? EPOLLIN : EPOLLIN | EPOLLOUT);

	if (sent < 0)
		fe_fail(fe, sent == -ECONNRESET ? -EPIPE : sent, "the back end closed the connection");
	else if (err)
		fe_fail(fe, err, "the connection can't be watched");
	if (err || sent <= 0)
		return false;
	fe->sending->sent = true;
	vhost_msg_drop_fds(&fe->sending->msg);
	fe->sending = NULL;
	settle(fe);
	set_deadline(fe);
	return true;
}

static void advance(struct vhost_fe *fe)
{
	while (fe->state == FE_OPEN)
		if ((!fe->sending && !begin_request(fe)) || !send_request(fe))
			return;
}

static const char *check_answer(const struct vhost_fe *fe, const struct vhost_msg *answer)
{
	const struct fe_req *req = fe->ops_first ? fe->ops_first->first : NULL;
	uint32_t min = sizeof(uint64_t), max = sizeof(uint64_t);

	if (!req || !req->sent || !wants_answer(req))
		return "an answer that nobody waits for";
	if ((answer->hdr.flags & ~VHOST_HDR_NEED_REPLY) != (VHOST_HDR_VERSION | VHOST_HDR_REPLY))
		return "an answer with wrong flags";
	if (answer->hdr.request != req->msg.hdr.request)
		return "an answer to another request";
	if (req->answers) {
		min = req->reply_min;
		max = req->reply_max;
	}
	if (answer->hdr.size < min || answer->hdr.size > max)
		return "an answer of the wrong size";
	if (answer->n_fds)
		return "an answer with a descriptor";
	return NULL;
}

static void take_answer(struct vhost_fe *fe)
{
	struct vhost_msg *answer = &fe->in.msg;
	const char *wrong = check_answer(fe, answer);
	struct fe_op *op;
	struct fe_req *req;
	int err = 0;

	fe->in.done = 0;
	vhost_msg_drop_fds(answer);
	if (wrong) {
		fe_fail(fe, -EPROTO, wrong);
		return;
	}
	op = fe->ops_first;
	req = op->first;
	if (!req->answers)
		err = answer->payload.u64 ? -EREMOTEIO : 0;
	else if (req->reply)
		err = req->reply(fe, op, answer);
	if (err == -EPROTO) {
		fe_fail(fe, err, "an answer that contradicts its request");
		return;
	}
	if (!op->err)
		op->err = err;
	pop_req(op);
	settle(fe);
	set_deadline(fe);
}

static void on_socket(void *arg, uint32_t events)
{
	struct vhost_fe *fe = arg;

	(void)events;
	/* Ends soon: there are no more answers than requests that were sent. */
	while (fe->state == FE_OPEN) {
		int got = vhost_msg_recv(fe->fd, &fe->in);

		if (got == 0)
			break;
		if (got == 1)
			take_answer(fe);
		else if (got == -ENODATA || (got == -ECONNRESET && fe->in.done == 0))
			fe_fail(fe, -EPIPE, "the back end closed the connection");
		else if (got == -ECONNRESET)
			fe_fail(fe, -EPROTO, "the connection ended within an answer");
		else if (got == -EMSGSIZE || got == -E2BIG)
			fe_fail(fe, -EPROTO, "an answer larger than any known");
		else
			fe_fail(fe, got, "the connection can't be read");
	}
	advance(fe);
}

static void on_timer(void *arg)
{
	fe_fail(arg, -ETIMEDOUT, "the back end did not answer in time");
}

void fe_submit(struct vhost_fe *fe, struct fe_op *op)
{
	/* Where setters are not acknowledged, an answer to something tells that they were read. */
	if (!op->err && op->last && !op->last->answers && !fe_has(fe, VHOST_PF_REPLY_ACK))
		fe_answer(fe_add(op, VHOST_GET_FEATURES, 0), sizeof(uint64_t), sizeof(uint64_t), NULL);
	if (fe->ops_last)
		fe->ops_last->next = op;
	else
		fe->ops_first = op;
	fe->ops_last = op;
	if (fe->state != FE_OPEN)
		finish_first(fe, fe->err);
	else
		advance(fe);
}

/* ---- the BACKEND_REQ channel ---- */

static void stop_listening(struct vhost_fe *fe)
{
	loop_del_fd(fe->backend_watch);
	fe->backend_watch = NULL;
	if (fe->backend_fd >= 0)
		close(fe->backend_fd);
	fe->backend_fd = -1;
}

static void take_backend_request(struct vhost_fe *fe)
{
	struct vhost_msg *msg = &fe->backend_in.msg;
	bool wrong = msg->hdr.request != VHOST_BACKEND_CONFIG_CHANGE || msg->hdr.size || msg->n_fds ||
		     (msg->hdr.flags & ~VHOST_HDR_NEED_REPLY) != VHOST_HDR_VERSION;
	struct vhost_transfer ack = { .done = 0 };

	fe->backend_in.done = 0;
	vhost_msg_drop_fds(msg);
	if (wrong) {
		fe_fail(fe, -EPROTO, "a request of the back end that is not known");
		return;
	}
	fe->config_changed = true;
	loop_bh_post(&fe->report);
	if (!(msg->hdr.flags & VHOST_HDR_NEED_REPLY) || !fe_has(fe, VHOST_PF_REPLY_ACK))
		return;
	vhost_msg_init(&ack.msg, msg->hdr.request, VHOST_HDR_REPLY, sizeof(uint64_t));
	if (vhost_msg_send(fe->backend_fd, &ack) != 1)
		fe_fail(fe, -EPROTO, "the back end does not read the answers to its requests");
}

static void on_backend(void *arg, uint32_t events)
{
	struct vhost_fe *fe = arg;

	(void)events;
	for (int n = 0; fe->state == FE_OPEN && n < CHANGES_PER_PASS; n++) {
		int got = vhost_msg_recv(fe->backend_fd, &fe->backend_in);

		if (got == 0)
			return;
		if (got == 1) {
			take_backend_request(fe);
		} else if (got == -EMSGSIZE || got == -E2BIG) {
			fe_fail(fe, -EPROTO, "a request of the back end larger than any known");
		} else {
			/* The channel is the back end's to use or not. */
			stop_listening(fe);
			return;
		}
	}
}

int fe_listen(struct vhost_fe *fe, int fd)
{
	int err;

	stop_listening(fe);
	err = loop_add_fd(fe->loop, fd, EPOLLIN, on_backend, fe, &fe->backend_watch);
	if (!err)
		fe->backend_fd = fd;
	return err;
}

/* ---- life ---- */

int vhost_fe_new(struct loop *loop, int fd, uint64_t timeout_ns, const struct vhost_fe_ops *ops, void *arg,
		 struct vhost_fe **out)
{
	struct vhost_fe *fe = calloc(1, sizeof(*fe));
	int err;

	if (!fe)
		return -ENOMEM;
	fe->loop = loop;
	fe->fd = fe->backend_fd = -1;
	fe->timeout_ns = timeout_ns;
	fe->ops = ops;
	fe->arg = arg;
	loop_bh_init(&fe->report, loop, on_report, fe);
	err = fd_set_nonblock(fd, true);
	if (!err)
		err = loop_add_timer(loop, on_timer, fe, &fe->timer);
	if (!err)
		err = loop_add_fd(loop, fd, EPOLLIN, on_socket, fe, &fe->watch);
	if (err) {
		vhost_fe_free(fe);
		return err;
	}
	fe->fd = fd;
	*out = fe;
	return 0;
}

static void free_ops(struct fe_op *op)
{
	while (op) {
		struct fe_op *next = op->next;

		fe_op_free(op);
		op = next;
	}
}

void vhost_fe_free(struct vhost_fe *fe)
{
	if (!fe)
		return;
	loop_bh_cancel(&fe->report);
	loop_del_fd(fe->watch);
	stop_listening(fe);
	loop_del_timer(fe->timer);
	vhost_msg_drop_fds(&fe->in.msg);
	vhost_msg_drop_fds(&fe->backend_in.msg);
	free_ops(fe->ops_first);
	free_ops(fe->done_first);
	if (fe->fd >= 0)
		close(fe->fd);
	fe->freed = true;
	if (!fe->reporting)
		free(fe);
}
