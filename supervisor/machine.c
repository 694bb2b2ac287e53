/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's life. Theory of operation: a generation is one core with its servers. It starts as a whole, runs while
 * the core lives, whatever happens to servers, and ends as a whole: first the core, so that no vCPU issues requests
 * any more, then the servers. Images, console, run directory and endpoints live as long as the machine. Only
 * machine_end leads out of a generation; it may be called in every state and from every callback.
 */
#include "machine.h"
#include "machine_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "num.h"
#include "saved.h"

#define CORE_END_NS   (5 * NS_PER_S) /* for the core, then for the servers, to end in order */
#define SERVER_END_NS (5 * NS_PER_S)

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

struct device_link *machine_link(struct machine *m, const char *id)
{
	for (size_t i = 0; i < m->ndevices; i++)
		for (size_t l = 0; l < m->device[i].links; l++)
			if (!strcmp(m->device[i].link[l].id, id))
				return &m->device[i].link[l];
	return NULL;
}

struct device *machine_device(struct machine *m, const char *id)
{
	struct device_link *l = machine_link(m, id);

	for (size_t i = 0; !l && i < m->ndevices; i++)
		if (!strcmp(m->device[i].id, id))
			return &m->device[i];
	return l ? l->device : NULL;
}

struct device *machine_helped(struct machine *m, const char *id)
{
	char name[RUNDIR_SLOT_MAX];

	for (size_t i = 0; i < m->ndevices; i++) {
		rundir_slot(name, m->device[i].id, KEEPER_HELPER);
		if (m->device[i].helper.process && !strcmp(name, id))
			return &m->device[i];
	}
	return NULL;
}

struct device *machine_windowed(struct machine *m, const char *id)
{
	for (size_t i = 0; i < m->ndevices; i++)
		if (device_has_window(&m->device[i], id))
			return &m->device[i];
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
	if (err == -EPIPE) {
		/* Most likely it is dead; that is for on_death to tell. */
		child_kill(&m->core, "it left the bus before the guest ran");
		return;
	}
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
	machine_resumed(m);
}

static void run_if_all_up(struct machine *m)
{
	struct bus_msg resume = { .type = BUS_RESUME };
	int err;

	if (m->state != MACHINE_STARTING)
		return;
	if (m->core.state != CHILD_READY || m->core.adopted)
		return; /* one that was taken over is asked when it is back on the bus */
	for (size_t i = 0; i < m->ndevices; i++)
		if (m->device[i].state != DEVICE_UP)
			return;
	err = bus_request(m->core.bus, &resume, CORE_ANSWER_NS, on_resumed, m);
	if (err)
		on_resumed(m, err, NULL);
}

static void core_ended(struct machine *m, int code, int status);

/* The sockets that the core gets at its start, in the order of its options in plan.c. */
static int core_sockets(struct machine *m, int *fds, size_t *nfds)
{
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

static void start_core(struct machine *m)
{
	int fds[KEEPER_PASSED_MAX], held[2];
	size_t nfds = 0;
	int err = core_sockets(m, fds, &nfds);

	if (err)
		say_error_errno(err, "core: can't make its sockets");
	held[KEEPER_HELD_DESC - 1] = m->desc_fd;
	held[KEEPER_HELD_CONSOLE - 1] = console_core_fd(m->console);
	if (!err)
		err = child_start(&m->core, fds, nfds, held, ARRAY_SIZE(held));
	while (nfds)
		close(fds[--nfds]);
	if (err)
		core_ended(m, CLD_EXITED, EXIT_INTERNAL);
}

static void start_generation(struct machine *m)
{
	m->state = MACHINE_STARTING;
	m->again = false;
	*m->io_error = '\0';
	m->generation++;
	m->begun = clock_ns();
	say_info("%s: starting vmm-core and %zu device%s%s", m->conf->name, m->conf->ndevices,
		 m->conf->ndevices == 1 ? "" : "s", m->generation > 1 ? " again" : "");
	start_core(m);
	for (size_t i = 0; i < m->ndevices && m->state == MACHINE_STARTING; i++)
		device_start(&m->device[i]);
}

/* ---- ending one ---- */

static void end_servers(struct machine *m)
{
	m->state = MACHINE_ENDING_SERVERS;
	for (size_t i = 0; i < m->ndevices; i++)
		device_stop(&m->device[i], SERVER_END_NS);
	loop_bh_post(&m->ended_bh);
}

void machine_on_all_ended(void *arg)
{
	struct machine *m = arg;

	if (m->state != MACHINE_ENDING_SERVERS)
		return;
	for (size_t i = 0; i < m->ndevices; i++)
		if (m->device[i].state != DEVICE_IDLE)
			return;
	clean_fd(&m->desc_fd);
	m->desc_fd = -1;
	if (m->again) {
		if (!child_remains(&m->core)) /* else on_core_vanished goes on */
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
	m->wanted = BUS_NONE;
	if (m->pending)
		bus_ctl_refuse(TAKE_PTR(m->pending), -ECANCELED, "the machine is ending");
	if (!child_stop(&m->core, CORE_END_NS))
		end_servers(m);
}

/* After a crash: again if that is wanted and has not been too often. */
static void end_after_crash(struct machine *m, int status)
{
	uint64_t now = clock_ns(), recent = 0;
	bool again = m->conf->restart_on_crash && m->ever_ran && !m->asked;

	m->crash[m->ncrashes++ % DEVICE_DEATHS_MAX] = now;
	for (size_t i = 0; i < MIN(m->ncrashes, (size_t)DEVICE_DEATHS_MAX); i++)
		recent += now - m->crash[i] <= m->conf->restarts_s * NS_PER_S;
	if (again && recent > m->conf->restarts) {
		say_error("%s: given up, it crashed more than %u times in %u s", m->conf->name,
			  m->conf->restarts, m->conf->restarts_s);
		again = false;
	}
	machine_end(m, status, again);
}

/* ---- what the processes do ---- */

void machine_on_keeper_dead(void *arg, uint32_t events)
{
	struct machine *m = arg;

	/* Its children died with it, and what it would remove is removed by the next machine of this name. */
	(void)events;
	say_error("%s: the keeper process died, and all others with it; %s is left for the next machine of "
		  "this name",
		  m->conf->name, m->dir->path);
	m->status = EXIT_INTERNAL;
	m->state = MACHINE_ENDED;
	loop_del_fd(TAKE_PTR(m->keeper_watch));
	loop_stop(m->loop);
}

static int hand_over(void *arg, const struct device_link *l, int fd, const int flight[2])
{
	struct machine *m = arg;
	char message[DEVICE_MESSAGE_SIZE] = "";
	int fds[] = { fd, flight[0], flight[1] };
	size_t nfds = flight[0] < 0 ? 1 : flight[1] < 0 ? 2 : 3;
	ssize_t n;

	memcpy(message, l->id, strlen(l->id));
	n = fd_send(m->desc_fd, message, sizeof(message), fds, nfds);
	return n < 0 ? (int)n : 0;
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

static void on_core_ready(void *arg, struct child *core)
{
	say_info("core is up in %.1f ms",
		 (double)(core->times.ready - core->times.begun) / (double)NS_PER_MS);
	run_if_all_up(arg);
}

static void on_core_died(void *arg, struct child *core, const struct child_death *death)
{
	(void)core;
	core_ended(arg, death->code, death->status);
}

static void on_core_vanished(void *arg, struct child *core)
{
	struct machine *m = arg;

	(void)core;
	loop_bh_post(&m->ended_bh);
}

static void look_for_failures(struct machine *m)
{
	m->device_failed = false;
	for (size_t i = 0; i < m->ndevices; i++)
		m->device_failed |= device_has_failed(&m->device[i]);
}

static void on_device_up(void *arg, struct device *d)
{
	struct machine *m = arg;

	if (m->state == MACHINE_STARTING) {
		run_if_all_up(m);
		return;
	}
	for (size_t i = 0; i < d->links; i++)
		machine_publish(m, d->link[i].id, "device-restarted", "restart %u", d->nrestarts);
	look_for_failures(m);
}

static void on_helper_up(void *arg, struct device *d)
{
	struct machine *m = arg;

	machine_publish(m, d->id, "helper-restarted", "%s, restart %u", d->helper.process,
			d->helper.restarts);
	look_for_failures(m);
}

static void on_device_ended(void *arg, struct device *d)
{
	struct machine *m = arg;

	(void)d;
	loop_bh_post(&m->ended_bh);
}

static void on_given_up(void *arg, struct device *d, bool wrong)
{
	struct machine *m = arg;

	for (size_t i = 0; i < d->links; i++)
		machine_publish(m, d->link[i].id, "device-failed", "given up after %u restarts",
				d->helper.failed ? d->helper.restarts : d->nrestarts);
	if (m->state == MACHINE_STARTING) {
		machine_end(m, wrong && !m->ever_ran ? EXIT_CONFIG : EXIT_DEVICE, false);
		return;
	}
	if (is_ending(m))
		return;
	m->device_failed = true;
	m->failed[d - m->device] = false;
	if (d->policy.on_failure == FAILURE_STOP)
		machine_end(m, EXIT_DEVICE, false);
	else
		machine_fail_devices(m);
}

static void on_device_event(void *arg, const struct device *d, const char *kind, const char *text)
{
	for (size_t i = 0; i < d->links; i++)
		machine_publish(arg, d->link[i].id, kind, "%s", text);
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
		child_kill(&m->core, "it gave no known reason for the guest's end");
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

/* The device that a message of the core is about; NULL and a warning if there is none. */
static struct device_link *spoken_of(struct machine *m, const char *id)
{
	struct device_link *l = machine_link(m, id);

	if (!l)
		say_warn("core: it speaks of a device that does not exist");
	return l;
}

static void on_core_message(void *arg, struct child *core, const struct bus_msg *msg)
{
	struct machine *m = arg;
	struct device_link *l;

	if (msg->type == BUS_GUEST_ENDED) {
		on_guest_ended(m, msg);
	} else if (msg->type == BUS_DEVICE_UP) {
		l = spoken_of(m, msg->device_up.device);
		if (l)
			device_linked(l, msg->device_up.resumed);
	} else if (msg->type == BUS_DEVICE_DOWN) {
		l = spoken_of(m, msg->device_down.device);
		if (l && !is_ending(m))
			device_unlinked(l, msg->device_down.reason);
	} else if (msg->type == BUS_DEVICE_HUNG) {
		l = spoken_of(m, msg->device_hung.device);
		if (l && !is_ending(m))
			device_hung(l, msg);
	} else {
		say_debug("%s: message %d is not for the supervisor", core->id, (int)msg->type);
	}
}

/* Whatever a predecessor asked for may have been lost with it; each of it does no harm when asked for twice. */
static void on_core_back(void *arg, struct child *core)
{
	struct machine *m = arg;

	(void)core;
	run_if_all_up(m);
	ctl_ask_again(m);
	memset(m->failed, 0, sizeof(m->failed));
	machine_fail_devices(m);
	if (m->asked && (m->state == MACHINE_RUNNING || m->state == MACHINE_PAUSED))
		machine_power_off(m);
}

static void on_core_rejoined(void *arg, struct child *core)
{
	(void)core;
	ctl_ask_again(arg);
}

static void on_core_silent(void *arg, struct child *core, bool silent)
{
	struct machine *m = arg;

	if (silent)
		say_warn(
		    "%s: %s (process %d) does not answer; nothing is done, as its end would be the machine's",
		    m->conf->name, core->process, (int)core->pid);
	else
		say_info("%s: %s answers again", m->conf->name, core->process);
	machine_publish(m, "core", silent ? "core-silent" : "core-answers", "process %d", (int)core->pid);
}

static bool on_asked_whether_ending(void *arg)
{
	return is_ending(arg);
}

const struct child_ops machine_core_ops = {
	.back = on_core_back,
	.rejoined = on_core_rejoined,
	.silent = on_core_silent,
	.ready = on_core_ready,
	.died = on_core_died,
	.vanished = on_core_vanished,
	.message = on_core_message,
};

const struct device_ops machine_device_ops = {
	.hand_over = hand_over,
	.up = on_device_up,
	.helper_up = on_helper_up,
	.ended = on_device_ended,
	.given_up = on_given_up,
	.ending = on_asked_whether_ending,
	.event = on_device_event,
	.io_error = machine_io_error,
};

/* ---- the whole ---- */

int machine_run(struct machine *m)
{
	int err;

	if (m->state == MACHINE_STARTING && !m->generation)
		start_generation(m);
	do {
		saved_write(m->saved, m);
		err = loop_run_once(m->loop, -1);
	} while (!err && m->state != MACHINE_ENDED);
	if (err) {
		say_error_errno(err, "the event loop failed");
		return EXIT_INTERNAL;
	}
	if (m->status == EXIT_POWEROFF && m->device_failed)
		return EXIT_DEVICE;
	return m->status;
}
