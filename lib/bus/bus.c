/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint of the control bus: its connection, and what comes in and goes out.
 *
 * Theory of operation
 *
 * The socket is an nng pair0 without a send buffer. All sending and receiving is done by the loop's thread, without
 * waiting, when nng's two event descriptors say so; nng's threads run only pipe_event, which decides under the lock
 * who may connect and posts to the loop.
 *
 * One connection at a time is admitted: pipe_event sets pipe_admitted before nng starts the pipe and clears it when
 * the pipe is gone, and refuses every other meanwhile (a peer that reconnects quickly is refused once and redials).
 * The loop follows in sync_pipe. Every message carries the id of its pipe. Those of the pipe that is gone are read
 * before its end is told, so a child's last words arrive; those of a peer that bus_expect replaced are dropped.
 *
 * nng 1.5.2 loses an event now and then: a dialer whose greeting fails with EPIPE gives up for good, and its
 * descriptors have been seen to stay silent. So while something is queued, or there is no connection, a timer tries
 * again; at rest there is none. The supervisor's side looks then whether nng still accepts.
 *
 * What goes out waits in our own queue, not in nng's, and the queue goes with the connection; so nothing that was
 * meant for one process reaches its successor.
 */
#include "bus.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/transport/ipc/ipc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

#define RETRY_MIN_NS (5 * NS_PER_MS)
#define RETRY_MAX_NS NS_PER_S
#define CUT_NS       (100 * NS_PER_MS) /* from the moment that a connection is not read any more to its end */
#define RECV_BATCH   16                /* messages taken in one pass of the loop */
#define RECV_BUFFER  16                /* messages that nng reads ahead */

/* ---- the connection ---- */

/* Who is at the other end of a new pipe. */
struct caller {
	uint64_t pid; /* 0 if not known */
	bool ours;    /* of our user, or root */
};

static bool may_connect(struct bus *bus, const struct caller *caller) REQUIRES(bus->lock)
{
	if (bus->pipe_admitted || bus->expected == BUS_NOBODY)
		return false;
	if (bus->side == BUS_CHILD)
		return true;
	return bus->expected ? caller->pid == (uint64_t)bus->expected : caller->ours;
}

/* On a thread of nng's. */
static void pipe_event(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct bus *bus = arg;
	uint32_t id = (uint32_t)nng_pipe_id(pipe);
	bool changed = false, refuse = false;
	struct caller caller = { 0 };

	/* A child asks nothing: its sandbox has no system call for it. */
	if (ev == NNG_PIPE_EV_ADD_PRE && bus->side == BUS_SUPERVISOR) {
		caller.ours = bus_wire_peer_is_ours(pipe);
		if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_PID, &caller.pid) != 0)
			caller.pid = 0;
	}
	lock_take(&bus->lock);
	if (ev == NNG_PIPE_EV_ADD_PRE) {
		refuse = !may_connect(bus, &caller);
		changed = !refuse;
		if (!refuse)
			bus->pipe_admitted = id;
	} else if (ev == NNG_PIPE_EV_REM_POST && bus->pipe_admitted == id) {
		bus->pipe_admitted = 0;
		changed = true;
	}
	lock_drop(&bus->lock);
	if (refuse) {
		atomic_fetch_add_explicit(&bus->refused_peers, 1, memory_order_relaxed);
		nng_pipe_close(pipe);
	}
	if (changed)
		loop_bh_post(&bus->pipe_bh);
}

static void arm_retry(struct bus *bus, uint64_t ns)
{
	bus->retry_ns = MIN(ns, RETRY_MAX_NS);
	loop_arm_timer(bus->retry, clock_ns() + bus->retry_ns);
}

static void drop_queue(struct bus *bus)
{
	for (; bus->queue_count; bus->queue_count--)
		nng_msg_free(bus->queue[bus->queue_first++ % BUS_SEND_MAX]);
	if (bus->send_fd)
		loop_mod_fd(bus->send_fd, 0);
}

/* Tells the end of the connection that the loop knows of. */
static void went_down(struct bus *bus)
{
	if (!bus->pipe)
		return;
	bus->pipe = 0;
	drop_queue(bus);
	loop_disarm_timer(bus->retry);
	arm_retry(bus, RETRY_MAX_NS);
	bus_request_end_all(bus, -EPIPE);
	if (!bus->closed && bus->ops->connected)
		bus->ops->connected(bus->arg, false);
}

static void went_up(struct bus *bus, uint32_t id)
{
	bus->pipe = id;
	loop_disarm_timer(bus->retry);
	if (bus->ops->connected)
		bus->ops->connected(bus->arg, true);
}

/* The connection that there is by now; one that we closed counts no more. */
static uint32_t admitted(struct bus *bus)
{
	uint32_t id;

	lock_take(&bus->lock);
	id = bus->pipe_admitted;
	lock_drop(&bus->lock);
	return id == bus->pipe_cut ? 0 : id;
}

/*
 * Is done with the present connection, whether the loop knows of it or not, and lets only expected come from now on.
 * nng 1.5.2 must not close a connection between the head and the body of a message that comes in: it would lose that
 * receive, wait for it for ever, and never close anything again. So what is cut is not read any more, which soon
 * brings a peer that keeps sending to a stand, and is closed a little later unless its end came first.
 */
static void cut(struct bus *bus, pid_t expected)
{
	nng_pipe pipe = NNG_PIPE_INITIALIZER;

	lock_take(&bus->lock);
	bus->expected = expected;
	pipe.id = bus->pipe_admitted;
	lock_drop(&bus->lock);
	if (!pipe.id)
		return;
	bus->pipe_cut = pipe.id;
	loop_arm_timer(bus->cut_timer, clock_ns() + CUT_NS);
}

/* True while a connection that was cut is still there. */
static bool cut_pending(struct bus *bus)
{
	bool pending;

	lock_take(&bus->lock);
	pending = bus->pipe_admitted && bus->pipe_admitted == bus->pipe_cut;
	lock_drop(&bus->lock);
	return pending;
}

static void cut_late(void *arg)
{
	struct bus *bus = arg;
	nng_pipe pipe = { .id = bus->pipe_cut };

	if (cut_pending(bus))
		nng_pipe_close(pipe);
}

/* ---- receiving ---- */

static void malformed(struct bus *bus, uint64_t id, const char *what)
{
	unsigned count = ++bus->malformed;

	bus->counters.malformed++;
	if (id)
		bus_reply_error(bus, id, -EBADMSG, what);
	if (count == BUS_FENCE_AFTER) {
		bus->fenced = true;
		cut(bus, BUS_NOBODY);
	}
	if (bus->ops->malformed)
		bus->ops->malformed(bus->arg, count, what);
}

static void handle(struct bus *bus, const void *data, size_t len)
{
	const struct bus_type_info *info;
	const char *what;
	struct bus_msg msg;
	int err = bus_codec_decode(&bus->arena, data, len, &msg, &what);

	info = &bus_types[msg.type];
	if (!err && !(info->sender & (BUS_BOTH - bus->side))) {
		err = -EBADMSG;
		what = "a message that this side does not take";
	}
	if (err) {
		/* Only what may be a request is answered, or two peers could answer each other for ever. */
		malformed(bus, msg.type && info->kind != BUS_KIND_REQUEST ? 0 : msg.id, what);
		return;
	}
	bus->counters.received++;
	if (info->kind != BUS_KIND_REPLY)
		bus->ops->message(bus->arg, &msg);
	else if (!bus_request_reply(bus, &msg) && !bus->closed)
		malformed(bus, 0, "a reply that does not answer the request");
}

/* Handles one message if there is one of the connection id. One of a connection that came after it is kept for
 * later; one of any other is dropped. */
static bool receive_one(struct bus *bus, uint32_t id)
{
	nng_msg *m = bus->held;
	uint32_t from;

	bus->held = NULL;
	if (!m && nng_recvmsg(bus->sock, &m, NNG_FLAG_NONBLOCK) != 0)
		return false;
	from = (uint32_t)nng_msg_get_pipe(m).id;
	if (from != id && from == admitted(bus)) {
		bus->held = m;
		return false;
	}
	if (from == id && !bus->fenced)
		handle(bus, nng_msg_body(m), nng_msg_len(m));
	nng_msg_free(m);
	return true;
}

/* Follows the connection as nng's threads see it. */
static void sync_pipe(struct bus *bus)
{
	uint32_t now = admitted(bus);

	if (now == bus->pipe)
		return;
	/* What the connection that is gone left behind; nng holds no more than this. */
	for (int i = 0; bus->pipe && i < RECV_BUFFER + 2; i++)
		if (!receive_one(bus, bus->pipe) || bus->closed)
			break;
	if (!bus->closed)
		went_down(bus);
	now = bus->closed ? 0 : admitted(bus);
	if (now)
		went_up(bus, now);
}

static void recv_ready(void *arg, uint32_t events)
{
	struct bus *bus = arg;

	(void)events;
	bus_enter(bus);
	for (int i = 0; i < RECV_BATCH && !bus->closed; i++) {
		sync_pipe(bus);
		if (bus->closed)
			break;
		loop_mod_fd(bus->recv_fd, cut_pending(bus) ? 0 : EPOLLIN);
		if (cut_pending(bus) || (!receive_one(bus, bus->pipe) && !bus->held))
			break;
	}
	/* nng's descriptor says nothing of the message that we keep. */
	if (bus->held)
		loop_bh_post(&bus->pipe_bh);
	bus_leave(bus);
}

static void pipe_changed(void *arg)
{
	recv_ready(arg, 0);
}

/* ---- sending ---- */

/* Gives nng what it takes; watches for room while something is left, and tries again in retry_ns whatever nng's
 * descriptor says. True if it took something. */
static bool pump(struct bus *bus, uint64_t retry_ns)
{
	unsigned before = bus->queue_count;

	while (bus->queue_count) {
		unsigned at = bus->queue_first % BUS_SEND_MAX;

		if (nng_sendmsg(bus->sock, bus->queue[at], NNG_FLAG_NONBLOCK) != 0)
			break;
		bus->queue_first++;
		bus->queue_count--;
		bus->counters.sent++;
	}
	loop_mod_fd(bus->send_fd, bus->queue_count ? EPOLLIN : 0);
	if (bus->queue_count)
		arm_retry(bus, bus->queue_count < before ? RETRY_MIN_NS : retry_ns);
	else if (bus->pipe)
		loop_disarm_timer(bus->retry);
	return bus->queue_count < before;
}

static void send_ready(void *arg, uint32_t events)
{
	(void)events;
	pump(arg, RETRY_MIN_NS);
}

static int redial(struct bus *bus)
{
	if (bus->dialer.id)
		nng_dialer_close(bus->dialer);
	bus->dialer.id = 0;
	arm_retry(bus, RETRY_MAX_NS);
	return bus_wire_dial(bus->sock, bus->path, BUS_MSG_MAX, 0, &bus->dialer);
}

/* Whoever reaches the folder may knock: a child has a user of its own, and its pid is what counts. */
static int listen_if_deaf(struct bus *bus)
{
	arm_retry(bus, RETRY_MAX_NS);
	/* Not without need: nng loses what is connecting when a listener is closed. */
	if (bus->listener.id && !bus_wire_is_deaf(bus->listener, &bus->accept_errors))
		return 0;
	if (bus->listener.id)
		nng_listener_close(bus->listener);
	bus->listener.id = 0;
	bus->accept_errors = 0;
	return bus_wire_listen(bus->sock, bus->path, 0666, BUS_MSG_MAX, &bus->listener);
}

static void retry(void *arg)
{
	struct bus *bus = arg;

	bus_enter(bus);
	sync_pipe(bus);
	if (!bus->closed && bus->queue_count)
		pump(bus, 2 * bus->retry_ns);
	else if (!bus->closed && !bus->pipe)
		bus->side == BUS_CHILD ? redial(bus)
				       : listen_if_deaf(bus); /* if that fails, again next time */
	bus_leave(bus);
}

int bus_send(struct bus *bus, const struct bus_msg *msg)
{
	nng_msg *m;
	int err;

	if (bus->closed || !bus->pipe || bus->fenced || bus->queue_count == BUS_SEND_MAX)
		return -EAGAIN;
	if (msg->type > BUS_NONE && msg->type < BUS_TYPE_COUNT && !(bus_types[msg->type].sender & bus->side))
		return -EINVAL;
	err = bus_codec_encode(msg, &m);
	if (err)
		return err;
	bus->queue[(bus->queue_first + bus->queue_count++) % BUS_SEND_MAX] = m;
	pump(bus, RETRY_MIN_NS);
	return 0;
}

int bus_event(struct bus *bus, const struct bus_msg *msg)
{
	struct bus_msg plain = *msg;

	if (msg->type <= BUS_NONE || msg->type >= BUS_TYPE_COUNT ||
	    bus_types[msg->type].kind != BUS_KIND_EVENT)
		return -EINVAL;
	plain.id = 0;
	return bus_send(bus, &plain);
}

int bus_reply(struct bus *bus, uint64_t id, const struct bus_msg *body)
{
	struct bus_msg numbered = *body;

	if (!id || body->type <= BUS_NONE || body->type >= BUS_TYPE_COUNT ||
	    bus_types[body->type].kind != BUS_KIND_REPLY)
		return -EINVAL;
	numbered.id = id;
	return bus_send(bus, &numbered);
}

int bus_reply_error(struct bus *bus, uint64_t id, int err, const char *text)
{
	struct bus_msg msg = { .type = BUS_ERROR, .error.err = err };

	strncpy(msg.error.text, text, sizeof(msg.error.text) - 1);
	return bus_reply(bus, id, &msg);
}

int bus_flush(struct bus *bus, uint64_t timeout_ns)
{
	uint64_t now = clock_ns(), end;

	if (!num_add(now, timeout_ns, &end))
		end = UINT64_MAX;
	/* Without a send buffer nng takes a message only once the one before is in the kernel's socket. */
	for (; bus->pipe && admitted(bus) == bus->pipe; now = clock_ns()) {
		/* Not longer than this at once, so that the end of the connection is seen too. */
		uint64_t wait = now < end ? MIN(end - now, 10 * NS_PER_MS) : 0;
		struct timespec ts = { .tv_nsec = (long)wait };
		struct epoll_event ev;

		if (epoll_pwait2(bus->flush_fd, &ev, 1, &ts, NULL) > 0) {
			if (!bus->queue_count)
				return 0;
			pump(bus, RETRY_MIN_NS);
		} else if (now >= end) {
			return -ETIMEDOUT;
		}
	}
	return -EPIPE;
}

/* ---- life ---- */

void bus_enter(struct bus *bus)
{
	bus->depth++;
}

void bus_leave(struct bus *bus)
{
	if (--bus->depth || !bus->closed)
		return;
	lock_destroy(&bus->lock);
	if (bus->flush_fd >= 0)
		close(bus->flush_fd);
	free(bus->path);
	free(bus);
}

static int watch(struct bus *bus)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int recv_fd, send_fd, err;

	err = nng_socket_get_int(bus->sock, NNG_OPT_RECVFD, &recv_fd);
	if (!err)
		err = nng_socket_get_int(bus->sock, NNG_OPT_SENDFD, &send_fd);
	if (err)
		return bus_nng_errno(err);
	/* An epoll set of its own, so that bus_flush needs no system call that the loop does not. */
	bus->flush_fd = epoll_create1(EPOLL_CLOEXEC);
	if (bus->flush_fd < 0 || epoll_ctl(bus->flush_fd, EPOLL_CTL_ADD, send_fd, &ev) < 0)
		return -errno;
	err = loop_add_fd(bus->loop, recv_fd, EPOLLIN, recv_ready, bus, &bus->recv_fd);
	if (!err)
		err = loop_add_fd(bus->loop, send_fd, 0, send_ready, bus, &bus->send_fd);
	return err;
}

static int configure(struct bus *bus)
{
	int err = nng_socket_set_int(bus->sock, NNG_OPT_SENDBUF, 0);

	if (!err)
		err = nng_socket_set_int(bus->sock, NNG_OPT_RECVBUF, RECV_BUFFER);
	if (!err)
		err = nng_pipe_notify(bus->sock, NNG_PIPE_EV_ADD_PRE, pipe_event, bus);
	if (!err)
		err = nng_pipe_notify(bus->sock, NNG_PIPE_EV_REM_POST, pipe_event, bus);
	if (err)
		return bus_nng_errno(err);
	err = loop_add_timer(bus->loop, retry, bus, &bus->retry);
	if (!err)
		err = loop_add_timer(bus->loop, cut_late, bus, &bus->cut_timer);
	if (!err)
		err = watch(bus);
	return err ? err : bus_request_init(bus);
}

static int open_bus(struct loop *loop, enum bus_side side, pid_t expected, const struct bus_ops *ops,
		    void *arg, struct bus **out)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	int err;

	if (!bus)
		return -ENOMEM;
	bus->loop = loop;
	bus->side = side;
	bus->ops = ops;
	bus->arg = arg;
	bus->expected = expected;
	bus->flush_fd = -1;
	lock_init(&bus->lock);
	loop_bh_init(&bus->pipe_bh, loop, pipe_changed, bus);
	err = nng_pair0_open(&bus->sock);
	if (err) {
		lock_destroy(&bus->lock);
		free(bus);
		return bus_nng_errno(err);
	}
	err = configure(bus);
	if (err) {
		bus_close(bus);
		return err;
	}
	*out = bus;
	return 0;
}

int bus_listen(struct loop *loop, const char *path, pid_t peer_pid, const struct bus_ops *ops, void *arg,
	       struct bus **out)
{
	struct bus *bus;
	int err = open_bus(loop, BUS_SUPERVISOR, peer_pid, ops, arg, &bus);

	if (err)
		return err;
	bus->path = strdup(path);
	err = bus->path ? listen_if_deaf(bus) : -ENOMEM;
	if (err)
		bus_close(bus);
	else
		*out = bus;
	return err;
}

int bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg, struct bus **out)
{
	struct bus *bus;
	int err = open_bus(loop, BUS_CHILD, 0, ops, arg, &bus);

	if (err)
		return err;
	bus->path = strdup(path);
	err = bus->path ? redial(bus) : -ENOMEM;
	if (err)
		bus_close(bus);
	else
		*out = bus;
	return err;
}

int bus_expect(struct bus *bus, pid_t peer_pid)
{
	int err = 0;

	bus_enter(bus);
	cut(bus, BUS_NOBODY);
	went_down(bus);
	if (!bus->closed) {
		bus->fenced = false;
		bus->malformed = 0;
		err = listen_if_deaf(bus);
		cut(bus, peer_pid);
	}
	bus_leave(bus);
	return err;
}

void bus_close(struct bus *bus)
{
	if (!bus || bus->closed)
		return;
	bus_enter(bus);
	bus->closed = true;
	bus->pipe = 0;
	drop_queue(bus);
	bus_request_end_all(bus, -ECANCELED);
	loop_del_timer(bus->timer);
	loop_del_timer(bus->retry);
	loop_del_timer(bus->cut_timer);
	loop_del_fd(bus->recv_fd);
	loop_del_fd(bus->send_fd);
	/* Returns when no thread of nng's is or will be in pipe_event. */
	nng_close(bus->sock);
	loop_bh_cancel(&bus->pipe_bh);
	if (bus->held)
		nng_msg_free(bus->held);
	bus->held = NULL;
	bus_leave(bus);
}

bool bus_is_connected(const struct bus *bus)
{
	return bus->pipe;
}

bool bus_is_fenced(const struct bus *bus)
{
	return bus->fenced;
}

void bus_get_counters(const struct bus *bus, struct bus_counters *out)
{
	*out = bus->counters;
	out->refused_peers = atomic_load_explicit(&bus->refused_peers, memory_order_relaxed);
}
