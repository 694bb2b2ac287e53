/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for vmm-core, a server or net-user under the supervisor, and misbehaves on command. Called as DIR/vmm-core,
 * DIR/blk-server, DIR/window, DIR/net-server or DIR/net-user (links); DIR/ID.do, if there, holds words for its start, and
 * DIR/ID.ctl, a FIFO, takes commands while it runs, one a line; net-user, which has the id of its port, has ID.user.do
 * and .ctl, and window ID.window.do and .ctl. As the core it takes descriptors, says DEVICE_UP and DEVICE_DOWN, and echoes its console. It writes a byte
 * to each device's socket, so that a server knows when it is no spare any more; until then a server takes its commands
 * from DIR/ID.spare.ctl.
 *
 *   words:    exit=N (at once)  hello-exit=N (after HELLO)  no-hello  no-ready  wrong-name  mute (answers nothing but
 *             HELLO and READY)  deaf (ignores the power button)  stay (ignores SHUTDOWN)  flood=N (lines to stderr)
 *             unlink-late (as the core, tells no end of a device)
 *             slow-ready=MS (READY so late)  active-exit=MS (as a server, so long after it got its byte)
 *             sleeps (shows that its loop does)  nameless (has an anchor, which nobody hears of its number)
 *             no-peer (as net-server, answers that a link can't come up)  no-drain, no-resume (never answers DRAIN, RESUME)
 *             recovered (as a server, says so once it got its byte)
 *             recovered-early (the same, of times before)  free-only (none of this if called with --refuse-writes)
 *   commands: end poweroff|reset|panic|crash|N   crash   exit N   mute   stuck   junk N   flood N   log TEXT   raw TEXT   say TEXT
 *             fds   hang ID (as the core, of a device)   io-error WHY   ignore (as the core, says nothing of the next connection)
 *             rejoin (leaves the bus, is mute no more and comes back)
 *             reject (as the core, says DEVICE_DOWN of the next connection)
 *             away SECONDS [RING] (as a server, its storage is, since then; 0: it is back)
 *             as DEVICE (as a server of several, what it says from here on is of this one)
 *             frame TEXT (as net-server or net-user, to the other one, which logs it)
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fake_child.h"
#include "fd.h"
#include "log.h"
#include "num.h"

struct fake fake = { .desc_fd = -1,
		     .console_fd = -1,
		     .vhost_fd = -1,
		     .anchor_fd = -1,
		     .packet_fd = -1,
		     .flight_fd = -1,
		     .server_fd = -1 };

/* An event that can't be sent would look like misbehaviour that no test asked for. */
void fake_send_event(const struct bus_msg *msg)
{
	int err = bus_event(fake.bus, msg);

	if (err)
		log_error_errno(err, "event %d is lost", (int)msg->type);
}

int fake_script_word(const char *word)
{
	size_t len = strlen(word);

	for (const char *p = fake.script; (p = strstr(p, word)); p += len) {
		if (p != fake.script && p[-1] != ' ' && p[-1] != '\n')
			continue;
		if (p[len] == '=')
			return atoi(p + len + 1);
		if (p[len] == ' ' || p[len] == '\n' || !p[len])
			return 1;
	}
	return -1;
}

void fake_say_ready(void)
{
	struct bus_msg msg = { .type = BUS_READY };

	if (fake.said_ready || fake_script_word("no-ready") > 0)
		return;
	if (fake_script_word("slow-ready") > 0 && !fake.late) {
		loop_arm_timer(fake.ready_timer,
			       clock_ns() + (uint64_t)fake_script_word("slow-ready") * NS_PER_MS);
		return;
	}
	fake.said_ready = true;
	fake_send_event(&msg);
}

/* ---- the bus ---- */

static void end(void)
{
	bus_flush(fake.bus, NS_PER_S);
	_exit(0);
}

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct bus_msg done = { .type = BUS_OK };

	(void)arg;
	if (msg->type == BUS_DRAIN || (msg->type == BUS_RESUME && !fake.core))
		log_info("told to %s", msg->type == BUS_DRAIN ? "drain" : "serve on");
	if (msg->type == BUS_PAUSE)
		log_info("told to pause");
	if (!msg->id || fake.mute || (msg->type == BUS_SHUTDOWN && fake.stay) ||
	    (msg->type == BUS_DRAIN && fake_script_word("no-drain") > 0) ||
	    (msg->type == BUS_RESUME && fake_script_word("no-resume") > 0))
		return;
	if (msg->type == BUS_RESUME && fake_script_word("resume-exit") >= 0)
		_exit(fake_script_word("resume-exit"));
	if (msg->type == BUS_SET && !strcmp(msg->set.key, "wrong")) {
		bus_reply_error(fake.bus, msg->id, -EINVAL, "it has no such key");
		return;
	}
	if (msg->type == BUS_SET)
		log_info("set %s%s%s to %s", msg->set.device, *msg->set.device ? ": " : "", msg->set.key,
			 msg->set.value);
	if (msg->type == BUS_SET && !strcmp(msg->set.value, "up") && fake_script_word("no-peer") > 0) {
		bus_reply_error(fake.bus, msg->id, -ENOTCONN, "nobody is at the other end");
		return;
	}
	if (msg->type == BUS_GET_STATS) {
		done =
		    (struct bus_msg) { .type = BUS_STATS, .stats = { .count = 1, .stat = { { "tx", 5 } } } };
	}
	if (msg->type == BUS_GET_LOOPS)
		done = (struct bus_msg) {
			.type = BUS_LOOPS,
			.loops = { .count = 1, .loop = { { .name = "io0", .queues = 1 << 1 | 1 << 2 } } }
		};
	if (msg->type == BUS_FAIL_DEVICE)
		log_info("device %s failed", msg->fail_device.device);
	bus_reply(fake.bus, msg->id, &done);
	if (msg->type == BUS_SHUTDOWN)
		end();
	fake.runs |= msg->type == BUS_RESUME;
	if (msg->type == BUS_RESUME && fake.console_fd >= 0)
		dprintf(fake.console_fd, "fake guest runs\r\n");
	if (msg->type == BUS_POWER_BUTTON && !fake.deaf)
		fake_end_guest("poweroff");
}

static void on_connected(void *arg, bool up)
{
	struct bus_msg hello = { .type = BUS_HELLO };

	(void)arg;
	if (!up)
		return;
	/* What was said on a connection that the supervisor had to refuse, coming before it knew of us, is said again. */
	fake.said_ready = false;
	for (size_t i = 0; i < fake.linked; i++)
		loop_del_fd(TAKE_PTR(fake.device[i].watch));
	hello.hello.protocol = BUS_PROTOCOL;
	snprintf(hello.hello.kind, sizeof(hello.hello.kind), "%s", fake.kind);
	snprintf(hello.hello.name, sizeof(hello.hello.name), "%s",
		 fake_script_word("wrong-name") > 0 ? "somebody" : fake.id);
	snprintf(hello.hello.version, sizeof(hello.hello.version), "fake-%.20s", strrchr(fake.dir, '/') + 1);
	fake_send_event(&hello);
	if (fake_script_word("hello-exit") >= 0) {
		bus_flush(fake.bus, NS_PER_S);
		_exit(fake_script_word("hello-exit"));
	}
	if (fake.core)
		fake_core_repeat();
	if (fake.core)
		fake_core_progress();
	if (fake.ended.type)
		fake_send_event(&fake.ended);
	if (!fake.core)
		fake_say_ready();
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	log_error("malformed message %u: %s", count, what);
}

static const struct bus_ops ops = { on_message, on_connected, on_malformed };

static void on_ready_timer(void *arg)
{
	(void)arg;
	fake.late = true;
	fake_say_ready();
}

static void on_exit_timer(void *arg)
{
	(void)arg;
	_exit(7);
}

static void tell_recovered(bool early)
{
	uint64_t now = clock_ns(), then = early ? 1 : now;
	struct bus_msg msg = { .type = BUS_RECOVERED,
			       .recovered = { .resubmitted = 5,
					      .poisoned = 1,
					      .start_ns = then,
					      .replayed_ns = then,
					      .first_ns = then } };

	fake_send_event(&msg);
}

static void on_frame(void *arg, uint32_t events)
{
	char frame[256];
	ssize_t n = recv(fake.packet_fd, frame, sizeof(frame), MSG_DONTWAIT);

	(void)arg;
	(void)events;
	if (n == 0)
		log_die(1, 0, "the other end of the frames is gone");
	if (n > 0)
		log_info("frame: %.*s", (int)n, frame);
}

/* A spare must not take the frames of the one that serves. */
static void take_frames(void)
{
	struct loop_fd *watch;

	if (fake.packet_fd >= 0)
		loop_add_fd(fake.loop, fake.packet_fd, EPOLLIN, on_frame, NULL, &watch);
}

/* The core has taken this server: it is no spare any more. */
static void become_active(void)
{
	fake.active = true;
	fake_open_commands();
	take_frames();
	if (fake_script_word("active-exit") >= 0)
		loop_arm_timer(fake.exit_timer,
			       clock_ns() + (uint64_t)fake_script_word("active-exit") * NS_PER_MS);
	if (fake_script_word("recovered") > 0)
		tell_recovered(false);
	if (fake_script_word("recovered-early") > 0)
		tell_recovered(true);
}

/* A server whose front end went away ends, as the real one does. */
static void on_front_end(void *arg, uint32_t events)
{
	char byte;
	ssize_t n;

	(void)arg;
	(void)events;
	n = recv(fake.vhost_fd, &byte, 1, MSG_DONTWAIT);
	if (n == 0)
		_exit(0);
	/* A window's server is to know, too. */
	if (n > 0 && fake.server_fd >= 0 && send(fake.server_fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_info("the server is gone already");
	if (n > 0 && !fake.active)
		become_active();
}

/* ---- set-up ---- */

void fake_join_bus(void)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/bus", fake.bus_dir);
	if (bus_dial(fake.loop, path, &ops, NULL, &fake.bus))
		log_die(1, 0, "no bus at %s", path);
}

static void read_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(argv[i], "--id"))
			fake.id = value;
		else if (!strcmp(argv[i], "--bus"))
			fake.bus_dir = value;
		else if (!strcmp(argv[i], "--flight-fd"))
			fake.flight_fd = atoi(value);
		else if (!strcmp(argv[i], "--desc-fd"))
			fake.desc_fd = atoi(value);
		else if (!strcmp(argv[i], "--console-fd"))
			fake.console_fd = atoi(value);
		else if (!strcmp(argv[i], "--vhost-fd"))
			fake.vhost_fd = atoi(value);
		else if (!strcmp(argv[i], "--server-fd"))
			fake.server_fd = atoi(value);
		else if (!strcmp(argv[i], "--anchor-fd"))
			fake.anchor_fd = atoi(value);
		else if (!strcmp(argv[i], "--packet-fd"))
			fake.packet_fd = atoi(value);
		else if (!strcmp(argv[i], "--refuse-writes"))
			fake.restricted = true;
		else if (!strcmp(argv[i], "--device"))
			fake.declared++;
	}
	if (!fake.id || !fake.bus_dir)
		log_die(2, 0, "--id and --bus are needed");
}

const char *fake_end_of_id(void)
{
	return fake.user ? ".user" : fake.window ? ".window" : "";
}

static void read_script(void)
{
	char path[300];
	CLEAN_FILE FILE *f = NULL;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s%s.do", fake.dir, fake.id, fake_end_of_id());
	f = fopen(path, "re");
	n = f ? fread(fake.script, 1, sizeof(fake.script) - 1, f) : 0;
	fake.script[n] = '\0';
	if (fake_script_word("free-only") > 0 && fake.restricted)
		fake.script[0] = '\0';
	fake.mute = fake_script_word("mute") > 0;
	fake.deaf = fake_script_word("deaf") > 0;
	fake.stay = fake_script_word("stay") > 0;
	fake.silent_down = fake_script_word("unlink-late") > 0;
}

/* The real ones' anchors tell who they are. There is none, unless it looks as if what it told was lost. */
static void have_anchor(void)
{
	pid_t pid = fake_script_word("nameless") > 0 ? fork() : 0;
	int status = 0;

	if (pid) {
		waitpid(pid, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	clean_fd(&fake.anchor_fd);
}

/* Shows when its loop sleeps, as the real ones do. */
static void show_sleep(void)
{
	if (fake_script_word("sleeps") < 0 || flight_map(fake.flight_fd, true, &fake.flight))
		return;
	flight_open_main(fake.flight, &fake.log);
	loop_show(fake.loop, &fake.log.queue->turns);
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	struct rlimit no_core = { 0, 0 };
	struct loop_fd *watch;

	if (!slash)
		return 2;
	snprintf(fake.dir, sizeof(fake.dir), "%.*s", (int)(slash - argv[0]), argv[0]);
	fake.core = !strcmp(slash, "/vmm-core");
	fake.user = !strcmp(slash, "/net-user") || !strcmp(slash, "/nbd-dial");
	fake.window = !strcmp(slash, "/window");
	fake.kind = fake.core                       ? "core"
		    : !strcmp(slash, "/nbd-dial")   ? "nbd-dial"
		    : fake.user                     ? "net-user"
		    : fake.window                   ? "window"
		    : !strcmp(slash, "/net-server") ? "net"
						    : "blk";
	log_init(slash + 1, NULL, true);
	setrlimit(RLIMIT_CORE, &no_core);
	read_options(argc, argv);
	read_script();
	have_anchor();
	fake_flood(fake_script_word("flood"));
	if (fake_script_word("exit") >= 0)
		return fake_script_word("exit");
	if (loop_new("fake", &fake.loop) ||
	    loop_add_timer(fake.loop, on_exit_timer, NULL, &fake.exit_timer) ||
	    loop_add_timer(fake.loop, on_ready_timer, NULL, &fake.ready_timer))
		return 1;
	show_sleep();
	fake_open_commands();
	if (fake_script_word("no-hello") < 0)
		fake_join_bus();
	if (fake.desc_fd >= 0)
		loop_add_fd(fake.loop, fake.desc_fd, EPOLLIN, fake_core_on_descriptor, NULL, &watch);
	/* The real core drops what its console does not take. */
	if (fake.console_fd >= 0)
		fd_set_nonblock(fake.console_fd, true);
	if (fake.console_fd >= 0)
		loop_add_fd(fake.loop, fake.console_fd, EPOLLIN, fake_core_on_console, NULL, &watch);
	if (fake.user)
		take_frames();
	if (fake.vhost_fd >= 0)
		loop_add_fd(fake.loop, fake.vhost_fd, EPOLLIN, on_front_end, NULL, &watch);
	return loop_run(fake.loop) ? 1 : 0;
}
