/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's life. Theory of operation: a generation is one core with its servers. It starts as a whole, runs while
 * the core lives, whatever happens to servers, and ends as a whole: first the core, so that no vCPU issues requests
 * any more, then the servers. Images, console, run directory and endpoints live as long as the machine. Only
 * machine_end leads out of a generation; it may be called in every state and from every callback.
 */
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "num.h"

#define CORE_END_NS    (5 * NS_PER_S) /* for the core, then for the servers, to end in order */
#define SERVER_END_NS  (5 * NS_PER_S)
#define CORE_ANSWER_NS (10 * NS_PER_S)

#define DEVICE_MESSAGE_SIZE BUS_NAME_MAX /* of the core's descriptor socket: docs/architecture.md */

const char *machine_state_name(const struct machine *m)
{
	static const char *const names[] = {
		[MACHINE_STARTING] = "starting",     [MACHINE_RUNNING] = "running",
		[MACHINE_PAUSED] = "paused",         [MACHINE_ENDING_CORE] = "ending",
		[MACHINE_ENDING_SERVERS] = "ending", [MACHINE_ENDED] = "ended",
	};
	return m->again ? "restarting" : names[m->state];
}

void machine_publish(struct machine *m, const char *source, const char *kind, const char *fmt, ...)
{
	char text[BUS_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (m->events)
		bus_events_publish(m->events, source, kind, text);
}

static struct child *find_child(struct machine *m, const char *id)
{
	for (size_t i = 1; i < m->nchildren; i++)
		if (!strcmp(m->child[i].id, id))
			return &m->child[i];
	return NULL;
}

static bool is_ending(const struct machine *m)
{
	return m->state >= MACHINE_ENDING_CORE;
}

/* ---- starting a generation ---- */

static void on_resumed(void *arg, int err, const struct bus_msg *reply)
{
	struct machine *m = arg;

	(void)reply;
	if (m->state != MACHINE_STARTING)
		return;
	if (err) {
		say_error_errno(err, "the core does not start the guest");
		machine_end(m, EXIT_INTERNAL, false);
		return;
	}
	m->state = MACHINE_RUNNING;
	m->running_since = clock_ns();
	m->ever_ran = true;
	say_info("%s: the guest runs, %.0f ms after the start", m->conf->name,
		 (double)(m->running_since - m->begun) / (double)NS_PER_MS);
	machine_publish(m, "machine", "running", "generation %u runs", m->generation);
	if (m->asked)
		machine_power_off(m);
}

static void run_if_all_up(struct machine *m)
{
	struct bus_msg resume = { .type = BUS_RESUME };
	int err;

	if (m->state != MACHINE_STARTING)
		return;
	for (size_t i = 0; i < m->nchildren; i++)
		if (m->child[i].state != CHILD_UP)
			return;
	err = bus_request(m->child[0].bus, &resume, CORE_ANSWER_NS, on_resumed, m);
	if (err)
		on_resumed(m, err, NULL);
}

static void start_generation(struct machine *m)
{
	m->state = MACHINE_STARTING;
	m->again = false;
	m->generation++;
	m->begun = clock_ns();
	say_info("%s: starting vmm-core and %zu disk%s%s", m->conf->name, m->nchildren - 1,
		 m->nchildren == 2 ? "" : "s", m->generation > 1 ? " again" : "");
	for (size_t i = 0; i < m->nchildren && m->state == MACHINE_STARTING; i++) {
		child_forget(&m->child[i]);
		child_start(&m->child[i]);
	}
}

/* ---- ending one ---- */

static void end_servers(struct machine *m)
{
	m->state = MACHINE_ENDING_SERVERS;
	for (size_t i = 1; i < m->nchildren; i++)
		child_stop(&m->child[i], SERVER_END_NS);
	loop_bh_post(&m->ended_bh);
}

static void on_all_ended(void *arg)
{
	struct machine *m = arg;

	if (m->state != MACHINE_ENDING_SERVERS)
		return;
	for (size_t i = 0; i < m->nchildren; i++)
		if (m->child[i].state != CHILD_IDLE)
			return;
	clean_fd(&m->desc_fd);
	m->desc_fd = -1;
	if (m->again) {
		start_generation(m);
		return;
	}
	m->state = MACHINE_ENDED;
	machine_publish(m, "machine", "ended", "exit status %d", m->status);
	loop_stop(m->loop);
}

void machine_end(struct machine *m, int status, bool again)
{
	if (is_ending(m)) {
		/* An end for good overrules a restart that is under way. */
		if (m->again && !again) {
			m->again = false;
			m->status = status;
		}
		return;
	}
	m->status = status;
	m->again = again;
	m->state = MACHINE_ENDING_CORE;
	loop_disarm_timer(m->grace);
	if (m->pending)
		bus_ctl_refuse(TAKE_PTR(m->pending), -ECANCELED, "the machine is ending");
	child_stop(&m->child[0], CORE_END_NS);
}

/* After a crash: again if that is wanted and has not been too often. */
static void end_after_crash(struct machine *m, int status)
{
	uint64_t now = clock_ns(), recent = 0;
	bool again = m->conf->restart_on_crash && m->ever_ran && !m->asked;

	m->crash[m->ncrashes++ % CHILD_DEATHS_MAX] = now;
	for (size_t i = 0; i < MIN(m->ncrashes, (size_t)CHILD_DEATHS_MAX); i++)
		recent += now - m->crash[i] <= m->conf->restarts_s * NS_PER_S;
	if (again && recent > m->conf->restarts) {
		say_error("%s: given up, it crashed more than %u times in %u s", m->conf->name,
			  m->conf->restarts, m->conf->restarts_s);
		again = false;
	}
	machine_end(m, status, again);
}

/* ---- what the user wants ---- */

void machine_quit(struct machine *m)
{
	m->asked = true;
	machine_end(m, EXIT_POWEROFF, false);
}

static void on_grace_over(void *arg)
{
	struct machine *m = arg;

	say_warn("%s: the guest did not power off in %u s; ending it", m->conf->name, m->conf->grace_s);
	machine_end(m, EXIT_POWEROFF, false);
}

static void on_button(void *arg, int err, const struct bus_msg *reply)
{
	struct machine *m = arg;

	(void)reply;
	if (err && err != -ECANCELED) {
		say_warn_errno(err, "%s: the power button can't be pressed; ending the guest", m->conf->name);
		machine_end(m, EXIT_POWEROFF, false);
	}
}

void machine_power_off(struct machine *m)
{
	struct bus_msg button = { .type = BUS_POWER_BUTTON }, resume = { .type = BUS_RESUME };
	int err;

	m->asked = true;
	if ((m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED) || !m->conf->grace_s) {
		machine_end(m, EXIT_POWEROFF, false);
		return;
	}
	say_info("%s: asking the guest to power off, %u s at most", m->conf->name, m->conf->grace_s);
	loop_arm_timer(m->grace, clock_ns() + m->conf->grace_s * NS_PER_S);
	err = bus_request(m->child[0].bus, &button, CORE_ANSWER_NS, on_button, m);
	if (!err && m->state == MACHINE_PAUSED) {
		m->state = MACHINE_RUNNING;
		err = bus_request(m->child[0].bus, &resume, CORE_ANSWER_NS, on_button, m);
	}
	if (err)
		on_button(m, err, NULL);
}

static void on_signal(void *arg, uint32_t events)
{
	struct machine *m = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(m->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (m->asked)
		say_info("%s: ending at once", m->conf->name);
	if (m->asked || is_ending(m))
		machine_quit(m);
	else
		machine_power_off(m);
}

static void on_keeper_dead(void *arg, uint32_t events)
{
	struct machine *m = arg;

	/* Its children died with it, and what it would remove is removed by the next machine of this name. */
	(void)events;
	say_error("%s: the keeper process died, and all others with it", m->conf->name);
	m->status = EXIT_INTERNAL;
	m->state = MACHINE_ENDED;
	loop_del_fd(TAKE_PTR(m->keeper_watch));
	loop_stop(m->loop);
}

/* ---- what the processes do ---- */

static int hand_over(void *arg, struct child *child, int fd)
{
	struct machine *m = arg;
	char message[DEVICE_MESSAGE_SIZE] = "";
	ssize_t n;

	memcpy(message, child->id, strlen(child->id));
	n = fd_send(m->desc_fd, message, sizeof(message), &fd, 1);
	return n < 0 ? (int)n : 0;
}

static int core_sockets(void *arg, int *fds, size_t *nfds)
{
	struct machine *m = arg;
	int pair[2], console_fd, err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	clean_fd(&m->desc_fd);
	m->desc_fd = pair[0];
	fds[(*nfds)++] = pair[1];
	err = fd_set_nonblock(m->desc_fd, true);
	if (!err)
		err = console_connect(m->console, &console_fd);
	if (!err)
		fds[(*nfds)++] = console_fd;
	return err;
}

static void on_up(void *arg, struct child *child)
{
	struct machine *m = arg;

	if (m->state == MACHINE_STARTING)
		run_if_all_up(m);
	else
		machine_publish(m, child->id, "device-restarted", "restart %u", child->nrestarts);
}

static void core_ended(struct machine *m, int code, int status)
{
	bool wrong = !m->ever_ran && code == CLD_EXITED && status == EXIT_CONFIG;

	if (m->state == MACHINE_ENDING_CORE) {
		end_servers(m);
	} else if (wrong) {
		machine_end(m, EXIT_CONFIG, false);
	} else {
		say_error("%s: vmm-core is gone, and the guest with it", m->conf->name);
		machine_publish(m, "machine", "core-died", "code %d status %d", code, status);
		end_after_crash(m, EXIT_CORE);
	}
}

static void on_ended(void *arg, struct child *child, bool by_order, int code, int status)
{
	struct machine *m = arg;

	(void)by_order;
	if (child->kind == CHILD_CORE)
		core_ended(m, code, status);
	else
		loop_bh_post(&m->ended_bh);
}

static void on_given_up(void *arg, struct child *child, bool wrong)
{
	struct machine *m = arg;

	machine_publish(m, child->id, "device-failed", "given up after %u restarts", child->nrestarts);
	if (m->state == MACHINE_STARTING)
		machine_end(m, wrong && !m->ever_ran ? EXIT_CONFIG : EXIT_DEVICE, false);
	else if (!is_ending(m))
		m->device_failed = true;
}

static void on_guest_ended(struct machine *m, const struct bus_msg *msg)
{
	static const char *const why[] = {
		[BUS_END_POWEROFF] = "powered off",
		[BUS_END_RESET] = "rebooted",
		[BUS_END_PANIC] = "panicked",
		[BUS_END_CRASH] = "crashed",
		[BUS_END_DEBUG_EXIT] = "left by the debug port",
	};
	enum bus_end end = msg->guest_ended.end;

	if (is_ending(m))
		return;
	if ((size_t)end >= ARRAY_SIZE(why) || !why[end]) {
		child_kill(&m->child[0], "it gave no known reason for the guest's end");
		return;
	}
	say_info("%s: the guest %s%s%s", m->conf->name, why[end], *msg->guest_ended.text ? ": " : "",
		 msg->guest_ended.text);
	machine_publish(m, "machine", "guest-ended", "%s", why[end]);
	switch (end) {
	case BUS_END_RESET:
		machine_end(m, EXIT_POWEROFF, m->conf->restart_on_reboot && !m->asked);
		break;
	case BUS_END_PANIC:
		end_after_crash(m, EXIT_PANIC);
		break;
	case BUS_END_CRASH:
		end_after_crash(m, EXIT_CRASH);
		break;
	case BUS_END_DEBUG_EXIT:
		machine_end(m, msg->guest_ended.code & 0xff, false);
		break;
	case BUS_END_POWEROFF:
	default:
		machine_end(m, EXIT_POWEROFF, false);
	}
}

static void on_message(void *arg, struct child *core, const struct bus_msg *msg)
{
	struct machine *m = arg;
	struct child *device = NULL;

	if (msg->type == BUS_GUEST_ENDED) {
		on_guest_ended(m, msg);
	} else if (msg->type == BUS_DEVICE_UP || msg->type == BUS_DEVICE_DOWN) {
		bool up = msg->type == BUS_DEVICE_UP;

		device = find_child(m, up ? msg->device_up.device : msg->device_down.device);
		if (!device)
			say_warn("core: it speaks of a device that does not exist");
		else if (up)
			child_linked(device);
		else if (!is_ending(m))
			child_unlinked(device, msg->device_down.reason);
	} else {
		say_debug("%s: message %d is not for the supervisor", core->id, (int)msg->type);
	}
}

static const struct child_ops machine_child_ops = {
	.hand_over = hand_over,
	.core_sockets = core_sockets,
	.up = on_up,
	.ended = on_ended,
	.given_up = on_given_up,
	.message = on_message,
};

/* ---- the whole ---- */

static void on_console_quit(void *arg)
{
	machine_quit(arg);
}

static int init_children(struct machine *m)
{
	m->nchildren = m->conf->ndisks + 1;
	for (size_t i = 0; i < m->nchildren; i++) {
		const struct vmconf_disk *disk = i ? &m->conf->disk[i - 1] : NULL;
		struct child *c = &m->child[i];
		char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];
		int err;

		c->loop = m->loop;
		c->keeper = m->keeper;
		c->ops = &machine_child_ops;
		c->arg = m;
		c->index = i;
		c->kind = !disk ? CHILD_CORE : disk->vhost_user ? CHILD_EXTERNAL : CHILD_SERVER;
		c->process = !disk ? "vmm-core" : disk->vhost_user ? "vhost-user" : "blk-server";
		c->policy = (struct child_policy) { .restarts = m->conf->restarts,
						    .restarts_s = m->conf->restarts_s,
						    .start_ns = m->conf->start_timeout_s * NS_PER_S };
		snprintf(c->id, sizeof(c->id), "%s", disk ? disk->id : "core");
		snprintf(path, sizeof(path), "%s/%s/bus", m->dir->path, c->id);
		err = child_init(c, path);
		if (err)
			return err;
	}
	return 0;
}

int machine_init(struct machine *m, int signal_fd, const char **what)
{
	int err;

	m->desc_fd = -1;
	m->signal_fd = signal_fd;
	*what = "the event loop";
	err = loop_new("supervisor", &m->loop);
	if (err)
		return err;
	loop_bh_init(&m->ended_bh, m->loop, on_all_ended, m);
	err = loop_add_timer(m->loop, on_grace_over, m, &m->grace);
	if (!err)
		err = loop_add_fd(m->loop, signal_fd, EPOLLIN, on_signal, m, &m->signal_watch);
	if (!err)
		err = loop_add_fd(m->loop, keeper_fd(m->keeper), EPOLLHUP | EPOLLRDHUP, on_keeper_dead, m,
				  &m->keeper_watch);
	if (!err) {
		*what = "the bus";
		err = init_children(m);
	}
	if (!err) {
		*what = "the endpoints of ctl and events";
		err = ctl_open(m);
	}
	if (!err) {
		*what = "the console";
		err = console_start(m->console, m->loop, on_console_quit, m);
	}
	return err;
}

int machine_run(struct machine *m)
{
	int err;

	start_generation(m);
	err = loop_run(m->loop);
	if (err) {
		say_error_errno(err, "the event loop failed");
		return EXIT_INTERNAL;
	}
	if (m->status == EXIT_POWEROFF && m->device_failed)
		return EXIT_DEVICE;
	return m->status;
}

void machine_fini(struct machine *m)
{
	for (size_t i = 0; i < m->nchildren; i++)
		child_fini(&m->child[i]);
	clean_fd(&m->desc_fd);
}
