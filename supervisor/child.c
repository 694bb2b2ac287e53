/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a machine. Theory of operation: a death is seen on the pidfd, and the process is reaped before
 * anything else is done, since the kernel completes its outstanding writes before it can be reaped and its successor
 * must not overtake them. Only then a new socketpair is made, the successor started, and the core given its end. The
 * successor is up when it has said READY and, if it serves a device, the core has said DEVICE_UP. Every start has a
 * deadline; nothing waits by sleeping.
 */
#include "child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "num.h"

#define BACKOFF_FIRST_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS   NS_PER_S
#define LONG_LIFE_NS     NS_PER_S /* of service, after which a death is not taken for the same fault again */
#define PING_EVERY_NS    (2 * NS_PER_S)
#define PING_ANSWER_NS   (5 * NS_PER_S)
#define PING_MISSES      2 /* in a row; one alone may be a supervisor that was itself stopped */
#define STATUS_WRONG     2 /* exit status of a child that refuses its options */

static double ms(uint64_t from, uint64_t to)
{
	return to > from ? (double)(to - from) / (double)NS_PER_MS : 0.0;
}

const char *child_state_name(const struct child *c)
{
	static const char *const names[] = {
		[CHILD_IDLE] = "idle",         [CHILD_STARTING] = "starting", [CHILD_UP] = "up",
		[CHILD_STOPPING] = "stopping", [CHILD_BACKOFF] = "waiting",   [CHILD_QUARANTINED] = "failed",
	};
	return names[c->state];
}

/* ---- becoming up ---- */

static void report_start(struct child *c)
{
	const struct child_times *t = &c->now;

	if (!c->recovering) {
		say_info("%s is up in %.1f ms", c->id, ms(t->begun, t->ready));
		return;
	}
	c->last = *t;
	if (c->kind == CHILD_EXTERNAL) {
		say_info("%s is back after %.1f ms", c->id, ms(t->sign, MAX(t->linked, t->ready)));
		return;
	}
	say_info("%s is back after %.1f ms: detect %.1f, reap %.1f, wait %.1f, spawn %.1f, hello %.1f, "
		 "handshake %.1f, "
		 "ready %.1f",
		 c->id, ms(t->sign, MAX(t->linked, t->ready)), ms(t->sign, t->noticed),
		 ms(t->noticed, t->reaped), ms(t->reaped, t->begun), ms(t->begun, t->spawned),
		 ms(t->spawned, t->hello), ms(t->hello, t->linked), ms(t->hello, t->ready));
}

static void check_up(struct child *c)
{
	bool linked = c->linked || c->kind == CHILD_CORE;

	if (c->state != CHILD_STARTING || !linked || !c->said_ready)
		return;
	c->state = CHILD_UP;
	loop_disarm_timer(c->timer);
	report_start(c);
	c->recovering = false;
	c->now.sign = 0; /* that was its predecessor's; there is none of its own yet */
	if (c->kind != CHILD_EXTERNAL)
		loop_arm_timer(c->ping_timer, clock_ns() + PING_EVERY_NS);
	c->ops->up(c->arg, c);
}

void child_linked(struct child *c)
{
	if (c->state != CHILD_STARTING || c->linked)
		return;
	c->linked = true;
	c->now.linked = clock_ns();
	if (c->kind == CHILD_EXTERNAL) {
		c->said_ready = true;
		c->now.ready = c->now.linked;
	}
	check_up(c);
}

/* ---- dying ---- */

static void start_later(struct child *c);

void child_kill(struct child *c, const char *reason)
{
	if (c->pidfd < 0 || c->killed)
		return;
	snprintf(c->reason, sizeof(c->reason), "%s", reason);
	c->killed = true;
	if (!c->now.sign)
		c->now.sign = clock_ns();
	say_warn("%s: killing %s (process %d): %s", c->id, c->process, (int)c->pid, reason);
	keeper_kill(c->keeper, c->index);
}

/* Counts a death; true if there were too many. */
static bool too_many(struct child *c)
{
	uint64_t now = clock_ns(), window = c->policy.restarts_s * NS_PER_S, recent = 0;

	c->death[c->ndeaths++ % CHILD_DEATHS_MAX] = now;
	for (size_t i = 0; i < MIN(c->ndeaths, (size_t)CHILD_DEATHS_MAX); i++)
		recent += now - c->death[i] <= window;
	return recent > c->policy.restarts;
}

/* A server is gone and reaped: starts it again, now or later, or gives it up. */
static void after_death(struct child *c, bool wrong)
{
	bool short_life = !c->now.ready || clock_ns() - c->now.ready < LONG_LIFE_NS;

	c->short_lives = short_life ? c->short_lives + 1 : 0;
	if (wrong || too_many(c)) {
		c->state = CHILD_QUARANTINED;
		if (!wrong)
			say_error("%s: given up, it died more than %u times in %u s; the guest's requests to "
				  "it wait for ever",
				  c->id, c->policy.restarts, c->policy.restarts_s);
		c->ops->given_up(c->arg, c, wrong);
		return;
	}
	c->nrestarts++;
	c->recovering = true;
	start_later(c);
}

static void start_later(struct child *c)
{
	uint64_t wait = 0;

	if (c->short_lives > 1)
		wait = MIN(BACKOFF_FIRST_NS << MIN(c->short_lives - 2, 10U), BACKOFF_MAX_NS);
	c->state = CHILD_BACKOFF;
	loop_arm_timer(c->timer, clock_ns() + wait);
}

static void describe_death(const struct child *c, int code, int status)
{
	if (c->killed)
		say_debug("%s: %s (process %d) was killed", c->id, c->process, (int)c->pid);
	else if (code == CLD_EXITED)
		say_warn("%s: %s (process %d) ended with status %d", c->id, c->process, (int)c->pid, status);
	else
		say_warn("%s: %s (process %d) died of signal %d (%s)%s", c->id, c->process, (int)c->pid,
			 status, strsignal(status),
			 status == SIGSYS ? ": a system call that its sandbox forbids" : "");
}

static void forget_process(struct child *c)
{
	loop_del_fd(TAKE_PTR(c->watch));
	clean_fd(&c->pidfd);
	c->pidfd = -1;
	logs_pipe_free(TAKE_PTR(c->log));
	loop_disarm_timer(c->timer);
	loop_disarm_timer(c->ping_timer);
}

static void on_death(void *arg, uint32_t events)
{
	struct child *c = arg;
	bool by_order = c->state == CHILD_STOPPING;
	int code = 0, status = 0, err;

	(void)events;
	c->now.noticed = clock_ns();
	if (!c->now.sign)
		c->now.sign = c->now.noticed;
	err = keeper_reap(c->keeper, c->index, &code, &status);
	c->now.reaped = clock_ns();
	if (err)
		say_error_errno(err, "%s: process %d can't be reaped", c->id, (int)c->pid);
	forget_process(c);
	if (!by_order)
		describe_death(c, code, status);
	else if (code != CLD_EXITED || status)
		say_debug("%s: ended with code %d, status %d", c->id, code, status);
	c->state = CHILD_IDLE;
	if (by_order || c->kind == CHILD_CORE)
		c->ops->ended(c->arg, c, by_order, code, status);
	else
		after_death(c,
			    !c->nrestarts && !c->now.ready && code == CLD_EXITED && status == STATUS_WRONG);
}

void child_unlinked(struct child *c, const char *reason)
{
	bool was = c->linked;

	if (!c->now.sign || c->state == CHILD_UP)
		c->now.sign = clock_ns();
	c->linked = false;
	if (c->kind == CHILD_EXTERNAL && (c->state == CHILD_UP || c->state == CHILD_STARTING)) {
		if (c->state == CHILD_UP)
			say_warn("%s: the back end is gone: %s", c->id, reason);
		c->now.noticed = c->now.reaped = clock_ns();
		after_death(c, false);
		return;
	}
	/*
	 * For one that is still starting this may be about its predecessor, whose end the core saw later than we did; if
	 * it is about this one, the deadline of its start will tell.
	 */
	if (was && c->state == CHILD_UP)
		child_kill(c, reason);
}

/* ---- signs of life ---- */

static void on_ping_answer(void *arg, int err, const struct bus_msg *reply)
{
	struct child *c = arg;

	(void)reply;
	if (c->state != CHILD_UP || err == -ECANCELED)
		return;
	c->missed = err == -ETIMEDOUT || err == -EPIPE ? c->missed + 1 : 0;
	if (c->missed >= PING_MISSES)
		child_kill(c, "it does not answer");
	else
		loop_arm_timer(c->ping_timer, clock_ns() + PING_EVERY_NS);
}

static void on_ping_timer(void *arg)
{
	struct child *c = arg;
	struct bus_msg ping = { .type = BUS_PING };

	if (c->state == CHILD_UP && bus_request(c->bus, &ping, PING_ANSWER_NS, on_ping_answer, c))
		on_ping_answer(c, -EPIPE, NULL);
}

/* ---- what it says ---- */

static void on_hello(struct child *c, const struct bus_msg *msg)
{
	const char *kind = c->kind == CHILD_CORE ? "core" : "blk";

	if (msg->hello.protocol != BUS_PROTOCOL || strcmp(msg->hello.kind, kind) ||
	    strcmp(msg->hello.name, c->id)) {
		say_error("%s: %s says it is %s %s with protocol %u, expected %s %s with %d", c->id,
			  c->process, msg->hello.kind, msg->hello.name, msg->hello.protocol, kind, c->id,
			  BUS_PROTOCOL);
		child_kill(c, "it is not what it should be");
		return;
	}
	if (!c->now.hello)
		c->now.hello = clock_ns();
}

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct child *c = arg;

	if (msg->id) {
		bus_reply_error(c->bus, msg->id, -EOPNOTSUPP, "the supervisor answers no requests");
		return;
	}
	say_debug("%s: message %d", c->id, (int)msg->type);
	if (c->killed)
		return;
	if (msg->type == BUS_HELLO) {
		on_hello(c, msg);
	} else if (!c->now.hello) {
		child_kill(c, "it spoke before it said hello");
	} else if (msg->type == BUS_READY) {
		if (c->state == CHILD_STARTING && !c->said_ready) {
			c->said_ready = true;
			c->now.ready = clock_ns();
			check_up(c);
		}
	} else if (c->kind == CHILD_CORE) {
		c->ops->message(c->arg, c, msg);
	}
}

static void on_connected(void *arg, bool up)
{
	struct child *c = arg;

	say_debug("%s: %s the bus", c->id, up ? "joined" : "left");
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	struct child *c = arg;

	say_warn("%s: %s sent a malformed message (%u so far): %s", c->id, c->process, count, what);
	if (bus_is_fenced(c->bus) || count >= BUS_FENCE_AFTER)
		child_kill(c, "it keeps sending malformed messages");
}

static const struct bus_ops child_bus_ops = {
	.message = on_message,
	.connected = on_connected,
	.malformed = on_malformed,
};

/* ---- starting ---- */

static void on_timer(void *arg)
{
	struct child *c = arg;

	if (c->state == CHILD_BACKOFF)
		child_start(c);
	else if (c->state == CHILD_STARTING && c->kind == CHILD_EXTERNAL)
		after_death(c, false);
	else if (c->state == CHILD_STARTING)
		child_kill(c,
			   c->now.hello ? "it did not become ready in time" : "it did not say hello in time");
	else if (c->state == CHILD_STOPPING)
		child_kill(c, "it did not end in time");
}

/* The start itself failed; what was started of it ends. */
static void start_failed(struct child *c, int err, const char *what)
{
	say_error_errno(err, "%s: can't start %s%s%s", c->id, c->process, *what ? ", " : "", what);
	if (c->pidfd >= 0) {
		int code, status;

		keeper_kill(c->keeper, c->index);
		keeper_reap(c->keeper, c->index, &code, &status);
	}
	forget_process(c);
	c->state = CHILD_IDLE;
	c->now.noticed = c->now.reaped = clock_ns();
	if (c->kind == CHILD_CORE)
		c->ops->ended(c->arg, c, false, CLD_EXITED, 1);
	else
		after_death(c, false);
}

static int spawn(struct child *c, const int *fds, size_t nfds)
{
	CLEAN_FD int log_fd = -1;
	char what[64] = "its log pipe";
	int err = logs_pipe_new(c->loop, c->process, c->kind == CHILD_CORE ? NULL : c->id, &c->log, &log_fd);

	if (!err)
		err = keeper_spawn(c->keeper, c->index, log_fd, fds, nfds, &c->pid, &c->pidfd, what,
				   sizeof(what));
	if (!err) {
		c->now.spawned = clock_ns();
		snprintf(what, sizeof(what), "its endpoint");
		err = bus_expect(c->bus, c->pid);
	}
	if (!err) {
		snprintf(what, sizeof(what), "watching it");
		err = loop_add_fd(c->loop, c->pidfd, EPOLLIN, on_death, c, &c->watch);
	}
	if (err)
		start_failed(c, err, what);
	else
		say_debug("%s: started %s as process %d", c->id, c->process, (int)c->pid);
	return err;
}

static void start_core(struct child *c)
{
	int fds[KEEPER_PASSED_MAX];
	size_t nfds = 0;
	int err = c->ops->core_sockets(c->arg, fds, &nfds);

	if (err)
		start_failed(c, err, "its sockets");
	else
		spawn(c, fds, nfds);
	while (nfds)
		close(fds[--nfds]);
}

static void start_server(struct child *c)
{
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		start_failed(c, errno, "its socket");
		return;
	}
	if (!spawn(c, &pair[1], 1)) {
		err = c->ops->hand_over(c->arg, c, pair[0]);
		if (err)
			child_kill(c, "the core takes no descriptor");
	}
	close(pair[0]);
	close(pair[1]);
}

static void start_external(struct child *c)
{
	CLEAN_FD int fd = keeper_connect(c->keeper, c->index);
	int err = fd < 0 ? fd : c->ops->hand_over(c->arg, c, fd);

	c->now.spawned = c->now.hello = clock_ns();
	if (!err)
		return;
	if (!c->short_lives)
		say_warn_errno(err, "%s: can't connect to the back end", c->id);
	c->now.noticed = c->now.reaped = clock_ns();
	after_death(c, false);
}

void child_start(struct child *c)
{
	struct child_times before = c->now;

	c->now = (struct child_times) { .begun = clock_ns() };
	if (c->recovering) {
		c->now.sign = before.sign;
		c->now.noticed = before.noticed;
		c->now.reaped = before.reaped;
	}
	c->linked = c->said_ready = c->killed = false;
	c->missed = 0;
	c->state = CHILD_STARTING;
	loop_arm_timer(c->timer, c->now.begun + c->policy.start_ns);
	if (c->kind == CHILD_CORE)
		start_core(c);
	else if (c->kind == CHILD_SERVER)
		start_server(c);
	else
		start_external(c);
}

/* ---- ending ---- */

void child_stop(struct child *c, uint64_t deadline_ns)
{
	struct bus_msg msg = { .type = BUS_SHUTDOWN };

	if (c->state == CHILD_STOPPING)
		return;
	if (c->pidfd < 0) {
		loop_disarm_timer(c->timer);
		c->state = CHILD_IDLE;
		c->ops->ended(c->arg, c, true, CLD_EXITED, 0);
		return;
	}
	c->state = CHILD_STOPPING;
	loop_disarm_timer(c->ping_timer);
	loop_arm_timer(c->timer, clock_ns() + deadline_ns);
	if (!deadline_ns || bus_request(c->bus, &msg, deadline_ns, on_ping_answer, c))
		keeper_kill(c->keeper, c->index);
}

void child_forget(struct child *c)
{
	c->ndeaths = 0;
	c->short_lives = 0;
	c->recovering = false;
	memset(&c->now, 0, sizeof(c->now));
}

int child_init(struct child *c, const char *bus_path)
{
	int err = loop_add_timer(c->loop, on_timer, c, &c->timer);
	mode_t old;

	c->pidfd = -1;
	c->state = CHILD_IDLE;
	if (!err)
		err = loop_add_timer(c->loop, on_ping_timer, c, &c->ping_timer);
	if (err || c->kind == CHILD_EXTERNAL)
		return err;
	/* The directory around it lets in only the child's group; the socket itself need not look again. */
	old = umask(0);
	err = bus_listen(c->loop, bus_path, BUS_NOBODY, &child_bus_ops, c, &c->bus);
	umask(old);
	return err;
}

void child_fini(struct child *c)
{
	loop_del_fd(TAKE_PTR(c->watch));
	clean_fd(&c->pidfd);
	c->pidfd = -1;
	logs_pipe_free(TAKE_PTR(c->log));
	loop_del_timer(TAKE_PTR(c->timer));
	loop_del_timer(TAKE_PTR(c->ping_timer));
}
