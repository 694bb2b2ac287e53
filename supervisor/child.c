/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a machine. Theory of operation: nobody is told of a death before the kernel has completed the process's
 * outstanding writes, since its successor must not overtake them. Its anchor (lib/sandbox/anchor.c) says when that is;
 * then the process is dead for everybody, and what remains of it is ended and reaped when it comes to that. Where there
 * is no anchor, or it can't tell, the pidfd does: a process whose writes are outstanding can't be reaped. Every start
 * has a deadline, which does not count while it waits for storage; nothing waits by sleeping.
 */
#include "child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"

#define STOP_AGAIN_NS   (5 * NS_PER_S)
#define REPORT_AFTER_NS (200 * NS_PER_MS)
#define DRAIN_NS        (2 * NS_PER_S) /* for the anchor of a dead process: it gives up after a second of silence */
#define WAIT_NS         (1 * NS_PER_S) /* between looks at one that waits for its storage */
#define DOUBT_NS        (1 * NS_PER_S) /* from a lost connection to the death that it is the first sign of */

/* ---- dying ---- */

void child_kill(struct child *c, const char *reason)
{
	if (c->pidfd < 0 || c->killed || c->dead)
		return;
	if (reason != c->reason)
		snprintf(c->reason, sizeof(c->reason), "%s", reason);
	c->killed = true;
	c->times.sign = clock_ns();
	say_warn("%s: killing %s (process %d): %s", c->id, c->process, (int)c->pid, reason);
	keeper_kill(c->keeper, c->index);
}

void child_doubt(struct child *c, const char *reason)
{
	if (c->pidfd < 0 || c->killed || c->dead || c->doubted)
		return;
	snprintf(c->reason, sizeof(c->reason), "%s", reason);
	c->doubted = true;
	c->times.sign = clock_ns();
	loop_arm_timer(c->timer, c->times.sign + DOUBT_NS);
}

/* What the deadline was for has come. */
static void in_time(struct child *c)
{
	if (!c->doubted && !c->dead)
		loop_disarm_timer(c->timer);
}

/* By us, and not of something else before. */
static bool was_killed(const struct child *c, const struct child_death *death)
{
	return c->killed && death->code == CLD_KILLED && death->status == SIGKILL;
}

/* It refused its options: what is wrong it said itself. */
static bool has_refused(const struct child *c, const struct child_death *death)
{
	return !c->times.ready && death->code == CLD_EXITED && death->status == CHILD_STATUS_WRONG;
}

void child_describe(const struct child *c, const struct child_death *death, char *text, size_t size)
{
	char call[160];

	if (was_killed(c, death))
		snprintf(text, size, "was killed: %s", c->reason);
	else if (death->code == CLD_EXITED)
		snprintf(text, size, "ended with status %d", death->status);
	else if (death->status == SIGSYS && report_forbidden(c->flight, call, sizeof(call)))
		snprintf(text, size, "died of %s", call);
	else
		snprintf(text, size, "died of signal %d (%s)%s", death->status, strsignal(death->status),
			 death->status == SIGSYS ? ": a system call that its sandbox forbids" : "");
	logs_plain(text);
}

static void log_death(const struct child *c, const struct child_death *death)
{
	bool well = death->by_order && death->code == CLD_EXITED && !death->status;
	bool quiet = death->by_order || was_killed(c, death) || has_refused(c, death);
	char text[BUS_TEXT_MAX];

	child_describe(c, death, text, sizeof(text));
	if (quiet)
		say_debug("%s: %s (process %d) %s", c->id, c->process, (int)c->pid, well ? "ended" : text);
	else
		say_warn("%s: %s (process %d) %s", c->id, c->process, (int)c->pid, text);
}

/* ---- reports ---- */

/* Has the report of its last death written, if there is one to be written. */
static void write_report(void *arg)
{
	struct child *c = arg;
	int err;

	loop_disarm_timer(c->report_timer);
	if (!*c->report || child_remains(c))
		return;
	err = keeper_report(c->keeper, c->index, c->report);
	if (err)
		say_warn_errno(err, "%s: no crash report is written of it, the keeper takes none", c->id);
	*c->report = '\0';
}

/* The report can wait, the recovery can't. */
static void plan_report(struct child *c, const struct child_death *death)
{
	char how[BUS_TEXT_MAX];
	struct report_words words = { .process = c->process,
				      .version = c->version,
				      .how = how,
				      .pid = (int)c->pid,
				      .life_ns = c->times.reaped - c->times.begun };

	child_describe(c, death, how, sizeof(how));
	report_put(&words, c->report);
	loop_arm_timer(c->report_timer, c->times.reaped + REPORT_AFTER_NS);
}

static void forget_anchor(struct child *c)
{
	loop_del_fd(TAKE_PTR(c->anchor_watch));
	clean_fd(&c->anchor);
	c->anchor = -1;
}

static void forget_process(struct child *c)
{
	loop_del_fd(TAKE_PTR(c->watch));
	clean_fd(&c->pidfd);
	c->pidfd = -1;
	forget_anchor(c);
	logs_pipe_free(TAKE_PTR(c->log));
	loop_disarm_timer(c->timer);
	loop_disarm_timer(c->life_timer);
	c->state = CHILD_IDLE;
}

/* ---- death ---- */

static void over(struct child *c, int code, int status)
{
	struct child_death death = { .by_order = c->state == CHILD_STOPPING, .code = code, .status = status };

	if (death.code == CLD_EXITED && !death.status && c->ops->may_end && c->ops->may_end(c->arg))
		death.by_order = true;
	forget_process(c);
	log_death(c, &death);
	/* A refused option is no crash. */
	if (!death.by_order && !has_refused(c, &death) && !(c->ops->tried && c->ops->tried(c->arg, c)))
		plan_report(c, &death);
	c->ops->died(c->arg, c, &death);
}

/* The anchor says that it is dead. Should it hang in finding out what the kernel does, the pidfd will tell. */
static void on_dead(struct child *c, const struct sandbox_death *death)
{
	c->dead = true;
	c->death = *death;
	c->times.noticed = clock_ns();
	loop_arm_timer(c->timer, c->times.noticed + DRAIN_NS);
}

/* The anchor says that its writes are over. Should that be a lie, the process is dead soon after. */
static void on_drained(struct child *c)
{
	c->times.reaped = clock_ns();
	write_report(c);
	loop_del_fd(TAKE_PTR(c->watch));
	child_keep_remains(c, take_fd(&c->pidfd));
	over(c, c->death.code, c->death.status);
	if (child_remains(c))
		keeper_kill(c->keeper, c->index);
}

/* Whether what was said can be how a process ended. */
static bool is_death(const struct sandbox_death *death)
{
	return (death->code == CLD_EXITED && death->status >= 0 && death->status <= 255) ||
	       ((death->code == CLD_KILLED || death->code == CLD_DUMPED) && death->status > 0 &&
		death->status < NSIG);
}

/* Takes what its anchor says next; false if there is nothing. */
static bool read_anchor(struct child *c)
{
	struct sandbox_death death;
	pid_t pid;
	ssize_t n = c->anchor < 0 ? -EAGAIN : fd_recv_pid(c->anchor, &death, sizeof(death), &pid);
	bool split = c->pid != c->started_pid;

	if (n == -EAGAIN)
		return false;
	if (n == 1 && pid > 0 && !split && c->state == CHILD_STARTING) {
		c->pid = pid;
		bus_expect(c->bus, pid);
	} else if (n == sizeof(death) && split && pid == c->started_pid && is_death(&death)) {
		if (!c->dead)
			on_dead(c, &death);
		if (death.drained)
			on_drained(c);
	} else {
		forget_anchor(c); /* its end, or nonsense: the pidfd tells */
	}
	return true;
}

static void on_anchor(void *arg, uint32_t events)
{
	(void)events;
	read_anchor(arg);
}

static void on_death(void *arg, uint32_t events)
{
	struct child *c = arg;
	int code = CLD_KILLED, status = SIGKILL, err; /* what it is taken for if nobody can tell */
	unsigned serial = c->serial;

	(void)events;
	while (read_anchor(c))
		if (c->pidfd < 0 || c->serial != serial)
			return; /* that was it */
	if (!c->dead)
		c->times.noticed = clock_ns();
	write_report(c); /* of an earlier one, while the keeper still has what belongs to it */
	err = keeper_reap(c->keeper, c->index, &code, &status);
	c->times.reaped = clock_ns();
	if (err)
		say_error_errno(err, "%s: process %d can't be reaped", c->id, (int)c->pid);
	if (c->dead) {
		code = c->death.code;
		status = c->death.status;
	} else if (c->pid != c->started_pid && code == CLD_EXITED && status > SANDBOX_SIGNALLED) {
		code = CLD_KILLED;
		status -= SANDBOX_SIGNALLED;
	}
	over(c, code, status);
}

/* ---- what it says ---- */

static void on_shutdown_answer(void *arg, int err, const struct bus_msg *reply)
{
	(void)arg; /* its death tells more */
	(void)err;
	(void)reply;
}

static void shut_down(struct child *c, uint64_t deadline_ns)
{
	struct bus_msg msg = { .type = BUS_SHUTDOWN };

	if (!deadline_ns || bus_request(c->bus, &msg, deadline_ns, on_shutdown_answer, c))
		keeper_kill(c->keeper, c->index);
}

static void on_hello(struct child *c, const struct bus_msg *msg)
{
	if (msg->hello.protocol != BUS_PROTOCOL || strcmp(msg->hello.kind, c->kind) ||
	    strcmp(msg->hello.name, c->id)) {
		say_error("%s: %s says it is %s %s with protocol %u, expected %s %s with %d", c->id,
			  c->process, msg->hello.kind, msg->hello.name, msg->hello.protocol, c->kind, c->id,
			  BUS_PROTOCOL);
		child_kill(c, "it is not what it should be");
		return;
	}
	if (!c->times.hello)
		c->times.hello = clock_ns();
	if (c->adopted && c->state == CHILD_STOPPING)
		shut_down(c, STOP_AGAIN_NS); /* what our predecessor sent may have been lost with it */
	memcpy(c->version, msg->hello.version, sizeof(c->version));
	if (c->state == CHILD_STARTING && c->waits && c->doubted)
		child_kill(c, c->reason); /* its storage is there, and the core is not any more */
}

/* One that was ready before is ready for us. */
static void on_back(struct child *c)
{
	c->adopted = false;
	in_time(c);
	child_life_watch(c);
	say_debug("%s: process %d is back on the bus", c->id, (int)c->pid);
	if (c->ops->back)
		c->ops->back(c->arg, c);
}

static void on_ready(struct child *c)
{
	if (c->adopted && c->state == CHILD_READY)
		on_back(c);
	else if (c->state == CHILD_READY && c->ops->rejoined)
		c->ops->rejoined(c->arg, c);
	if (c->state != CHILD_STARTING)
		return;
	c->adopted = false;
	c->state = CHILD_READY;
	c->times.ready = clock_ns();
	in_time(c);
	child_life_watch(c);
	c->ops->ready(c->arg, c);
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
	if (msg->type == BUS_HELLO)
		on_hello(c, msg);
	else if (!c->times.hello)
		/* It says all that counts after its HELLO; without one its deadline ends it. */
		say_debug("%s: message %d came before its hello", c->id, (int)msg->type);
	else if (msg->type == BUS_READY)
		on_ready(c);
	else
		c->ops->message(c->arg, c, msg);
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

/* Another one would wait for the same storage, and be killed for it again. When that has answered it has all of its time
 * again, unless the core has turned away from it meanwhile. */
static bool waits_for_storage(struct child *c)
{
	const char *storage = c->ops->waits ? c->ops->waits(c->arg, c) : NULL;
	bool before = c->waits;

	c->waits = storage;
	if (storage && !before)
		say_warn("%s: %s (process %d) waits for its storage, %s", c->id, c->process, (int)c->pid,
			 storage);
	if (!storage && (!before || c->doubted))
		return false;
	loop_arm_timer(c->timer, clock_ns() + (storage ? WAIT_NS : c->start_ns));
	return true;
}

static void on_timer(void *arg)
{
	struct child *c = arg;

	if (c->dead)
		keeper_kill(c->keeper, c->index);
	else if (c->state == CHILD_STARTING && waits_for_storage(c))
		return;
	else if (c->doubted && c->state != CHILD_STOPPING)
		child_kill(c, c->reason);
	else if (c->state == CHILD_STARTING)
		child_kill(c, c->times.hello ? "it did not become ready in time"
					     : "it did not say hello in time");
	else if (c->state == CHILD_READY)
		child_kill(c, "it did not come back to the bus in time");
	else if (c->state == CHILD_STOPPING)
		child_kill(c, "it did not end in time");
}

static int watch(struct child *c)
{
	int err = loop_add_fd(c->loop, c->pidfd, EPOLLIN, on_death, c, &c->watch);

	if (!err && c->anchor >= 0)
		err = loop_add_fd(c->loop, c->anchor, EPOLLIN, on_anchor, c, &c->anchor_watch);
	return err;
}

/* The start itself failed; what was started of it ends. */
static void start_failed(struct child *c, int err, const char *what)
{
	int code, status;

	say_error_errno(err, "%s: can't start %s%s%s", c->id, c->process, *what ? ", " : "", what);
	if (c->pidfd >= 0) {
		keeper_kill(c->keeper, c->index);
		keeper_reap(c->keeper, c->index, &code, &status);
	}
	forget_process(c);
	c->times.noticed = c->times.reaped = clock_ns();
}

int child_start(struct child *c, const int *fds, size_t nfds, const int *held, size_t nheld)
{
	struct keeper_found found = { .pidfd = -1, .anchor = -1 };
	int all_held[KEEPER_HELD_MAX];
	struct keeper_launch launch = {
		.restricted = c->restricted, .fds = fds, .nfds = nfds, .held = all_held, .nheld = nheld + 1
	};
	CLEAN_FD int log_fd = -1;
	char what[128] = "its log pipe";
	int err = logs_pipe_new(c->loop, c->process, c->device, &c->log, &log_fd);

	c->times = (struct child_times) { .begun = clock_ns() };
	if (c->flight)
		flight_reset(c->flight);
	c->killed = c->doubted = c->dead = c->adopted = c->waits = false;
	c->missed = 0;
	c->silent = false;
	c->state = CHILD_STARTING;
	loop_arm_timer(c->timer, c->times.begun + c->start_ns);
	launch.stderr_fd = log_fd;
	all_held[KEEPER_HELD_LOG] = err ? -1 : logs_pipe_fd(c->log);
	if (nheld)
		memcpy(all_held + 1, held, nheld * sizeof(int));
	bus_expect(c->bus, BUS_NOBODY);
	if (!err)
		err = keeper_spawn(c->keeper, c->index, &launch, &found, what, sizeof(what));
	c->pidfd = found.pidfd;
	c->anchor = found.anchor;
	if (!err) {
		c->pid = c->started_pid = found.pid;
		c->serial = found.serial;
		c->times.spawned = clock_ns();
		bus_expect(c->bus, c->pid);
		snprintf(what, sizeof(what), "watching it");
		err = watch(c);
	}
	if (err)
		start_failed(c, err, what);
	else
		say_debug("%s: started %s as process %d", c->id, c->process, (int)c->pid);
	return err;
}

int child_adopt(struct child *c, struct keeper_found *found)
{
	int err = logs_pipe_take(c->loop, c->process, c->device, &c->log, &found->held[KEEPER_HELD_LOG]);

	c->serial = found->serial;
	c->started_pid = found->pid;
	c->pidfd = take_fd(&found->pidfd);
	c->anchor = take_fd(&found->anchor);
	c->adopted = true;
	c->doubted = c->dead = false;
	c->missed = 0;
	c->silent = false;
	c->times.hello = 0;
	bus_expect(c->bus, c->pid);
	if (!err)
		err = watch(c);
	loop_arm_timer(c->timer, clock_ns() + (c->state == CHILD_STOPPING ? STOP_AGAIN_NS : c->start_ns));
	if (c->killed)
		keeper_kill(c->keeper, c->index); /* in case our predecessor only meant to */
	return err;
}

/* ---- ending ---- */

bool child_stop(struct child *c, uint64_t deadline_ns)
{
	if (c->pidfd < 0)
		return false;
	if (c->state == CHILD_STOPPING)
		return true;
	c->state = CHILD_STOPPING;
	loop_disarm_timer(c->life_timer);
	if (deadline_ns)
		loop_arm_timer(c->timer, clock_ns() + deadline_ns);
	else
		loop_disarm_timer(c->timer); /* it is killed at once */
	/* One that was taken over is told when it is back on the bus. */
	if (!c->adopted || !deadline_ns)
		shut_down(c, deadline_ns);
	return true;
}

int child_init(struct child *c, const char *bus_path)
{
	int err = loop_add_timer(c->loop, on_timer, c, &c->timer);
	mode_t old;

	c->pidfd = c->anchor = c->remains = -1;
	c->state = CHILD_IDLE;
	if (!err)
		err = loop_add_timer(c->loop, child_life_look, c, &c->life_timer);
	if (!err)
		err = loop_add_timer(c->loop, write_report, c, &c->report_timer);
	if (err)
		return err;
	/* The directory around it lets in only the child's group; the socket itself need not look again. */
	old = umask(0);
	err = bus_listen(c->loop, bus_path, BUS_NOBODY, &child_bus_ops, c, &c->bus);
	umask(old);
	return err;
}

void child_fini(struct child *c)
{
	if (!c->timer)
		return; /* child_init was not called, or did nothing */
	child_bury(c);
	if (c->report_timer)
		write_report(c);
	loop_del_fd(TAKE_PTR(c->watch));
	clean_fd(&c->pidfd);
	c->pidfd = -1;
	forget_anchor(c);
	logs_pipe_free(TAKE_PTR(c->log));
	loop_del_timer(TAKE_PTR(c->report_timer));
	loop_del_timer(TAKE_PTR(c->timer));
	loop_del_timer(TAKE_PTR(c->life_timer));
}
