/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's life. Theory of operation: a generation is one core with its servers. It starts as a whole, runs while
 * the core lives, whatever happens to servers, and ends as a whole: first the core, so that no vCPU issues requests
 * any more, then the servers. Images, console, run directory and endpoints live as long as the machine. Only
 * machine_end leads out of a generation; it may be called in every state and from every callback.
 */
#include "machine.h"

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

struct device *machine_device(struct machine *m, const char *id)
{
	for (size_t i = 0; i < m->ndevices; i++)
		if (!strcmp(m->device[i].id, id))
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
}

static void run_if_all_up(struct machine *m)
{
	struct bus_msg resume = { .type = BUS_RESUME };
	int err;

	if (m->state != MACHINE_STARTING)
		return;
	if (m->core.state != CHILD_READY)
		return;
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
	int fds[KEEPER_PASSED_MAX];
	size_t nfds = 0;
	int err = core_sockets(m, fds, &nfds);

	if (err)
		say_error_errno(err, "core: can't make its sockets");
	else
		err = child_start(&m->core, fds, nfds);
	while (nfds)
		close(fds[--nfds]);
	if (err)
		core_ended(m, CLD_EXITED, EXIT_INTERNAL);
}

static void start_generation(struct machine *m)
{
	m->state = MACHINE_STARTING;
	m->again = false;
	m->generation++;
	m->begun = clock_ns();
	say_info("%s: starting vmm-core and %zu disk%s%s", m->conf->name, m->ndevices,
		 m->ndevices == 1 ? "" : "s", m->generation > 1 ? " again" : "");
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

static void on_all_ended(void *arg)
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

static int hand_over(void *arg, struct device *d, int fd)
{
	struct machine *m = arg;
	char message[DEVICE_MESSAGE_SIZE] = "";
	ssize_t n;

	memcpy(message, d->id, strlen(d->id));
	n = fd_send(m->desc_fd, message, sizeof(message), &fd, 1);
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

static void on_device_up(void *arg, struct device *d)
{
	struct machine *m = arg;

	if (m->state == MACHINE_STARTING)
		run_if_all_up(m);
	else
		machine_publish(m, d->id, "device-restarted", "restart %u", d->nrestarts);
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

	machine_publish(m, d->id, "device-failed", "given up after %u restarts", d->nrestarts);
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

static void on_core_message(void *arg, struct child *core, const struct bus_msg *msg)
{
	struct machine *m = arg;
	struct device *device = NULL;

	if (msg->type == BUS_GUEST_ENDED) {
		on_guest_ended(m, msg);
	} else if (msg->type == BUS_DEVICE_UP || msg->type == BUS_DEVICE_DOWN) {
		bool up = msg->type == BUS_DEVICE_UP;

		device = machine_device(m, up ? msg->device_up.device : msg->device_down.device);
		if (!device)
			say_warn("core: it speaks of a device that does not exist");
		else if (up)
			device_linked(device);
		else if (!is_ending(m))
			device_unlinked(device, msg->device_down.reason);
	} else {
		say_debug("%s: message %d is not for the supervisor", core->id, (int)msg->type);
	}
}

static const struct child_ops core_ops = {
	.ready = on_core_ready,
	.died = on_core_died,
	.message = on_core_message,
};

static const struct device_ops machine_device_ops = {
	.hand_over = hand_over,
	.up = on_device_up,
	.ended = on_device_ended,
	.given_up = on_given_up,
};

/* ---- the whole ---- */

static void on_console_quit(void *arg)
{
	machine_quit(arg);
}

static int init_core(struct machine *m)
{
	struct child *c = &m->core;
	char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];

	c->loop = m->loop;
	c->keeper = m->keeper;
	c->ops = &core_ops;
	c->arg = m;
	c->index = 0;
	c->process = "vmm-core";
	c->kind = "core";
	c->start_ns = m->conf->start_timeout_s * NS_PER_S;
	snprintf(c->id, sizeof(c->id), "core");
	snprintf(path, sizeof(path), "%s/core/bus", m->dir->path);
	return child_init(c, path);
}

static int init_device(struct machine *m, size_t i)
{
	const struct vmconf_disk *disk = &m->conf->disk[i];
	struct device *d = &m->device[i];
	char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];

	d->loop = m->loop;
	d->keeper = m->keeper;
	d->ops = &machine_device_ops;
	d->arg = m;
	d->index = i + 1;
	d->external = disk->vhost_user;
	d->process = disk->vhost_user ? "vhost-user" : "blk-server";
	d->policy = (struct device_policy) { .restarts = m->conf->restarts,
					     .restarts_s = m->conf->restarts_s,
					     .start_ns = m->conf->start_timeout_s * NS_PER_S };
	snprintf(d->id, sizeof(d->id), "%s", disk->id);
	snprintf(path, sizeof(path), "%s/%s/bus", m->dir->path, d->id);
	return device_init(d, path);
}

static int init_children(struct machine *m)
{
	int err = init_core(m);

	m->ndevices = m->conf->ndisks;
	for (size_t i = 0; !err && i < m->ndevices; i++)
		err = init_device(m, i);
	return err;
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
	err = loop_add_timer(m->loop, machine_on_grace_over, m, &m->grace);
	if (!err)
		err = loop_add_fd(m->loop, signal_fd, EPOLLIN, machine_on_signal, m, &m->signal_watch);
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
	child_fini(&m->core);
	for (size_t i = 0; i < m->ndevices; i++)
		device_fini(&m->device[i]);
	clean_fd(&m->desc_fd);
}
