/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nbd-dial from its first instruction to its last.
 *
 * The order: options; namespaces, all but the network's; stage one with an empty root, in which there is the folder of the
 * server's socket, or /etc/resolv.conf to find its host by; that host; the bus and a worker; the steady filter for all of
 * them. Questions are read after that. Nothing that comes over the connections is ever read here.
 */
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus_msg.h"
#include "child.h"
#include "child_options.h"
#include "fd.h"
#include "flight.h"
#include "keep.h"
#include "log.h"
#include "loop_meter.h"
#include "nbd_uri.h"
#include "option.h"
#include "sandbox.h"
#include "syscalls.h"
#include "target.h"
#include "thread.h"

#define RESOLV_CONF   "/etc/resolv.conf"
#define LIMIT_FILES   128
#define LIMIT_THREADS 128
#define LIMIT_DATA    (512ULL << 20) /* heap and threads' stacks */
#define PATH_BYTES    160

struct dialler {
	struct child_options common;
	struct nbd_uri uri;
	bool has_uri;
	int socket_fd;
	struct loop *loop;
	struct loop_meter meter;
	struct loop_pool *pool;
	struct target target;
	struct keep *keep;
	struct child child;
	struct flight *flight;
	struct flight_ring log;
};

/* ---- options ---- */

static int set_uri(void *arg, const char *value)
{
	struct dialler *d = arg;
	const char *why;

	d->has_uri = true;
	return nbd_uri_parse(value, &d->uri, &why);
}

static int set_socket_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct dialler *)arg)->socket_fd);
}

static const struct server_option options[] = {
	{ "uri", "URI", "Connect to the NBD server of this export.", NBD_URI_FORM, set_uri },
	{ "socket-fd", "N", "Answer questions that come on this inherited socket.",
	  "a descriptor from 3 to 1023", set_socket_fd },
	{ .name = NULL },
};

static int parse(int argc, char **argv, struct dialler *d)
{
	const struct option_set set = { .program = "nbd-dial",
					.summary = "make and keep a disk's connections to its NBD server",
					.usage = "--uri URI --socket-fd N",
					.table = { { options, d, false },
						   { child_option_table, &d->common, false } } };
	int status = option_parse(argc, argv, &set);

	if (status < 0 && (!d->has_uri || d->socket_fd < 0)) {
		log_error("give --uri URI and --socket-fd N");
		return 2;
	}
	return status;
}

/* ---- the bus ---- */

static void on_stats(void *arg, void (*add)(void *to, const char *name, uint64_t value), void *to)
{
	keep_stats(((struct dialler *)arg)->keep, add, to);
}

static void on_shutdown(void *arg)
{
	loop_stop(((struct dialler *)arg)->loop);
}

static void on_loops(void *arg, struct bus_msg *msg)
{
	bus_add_loop(msg, &((struct dialler *)arg)->meter, 0, 0);
}

static const struct child_ops child_ops = {
	.kind = "nbd-dial", .stats = on_stats, .shutdown = on_shutdown, .loops = on_loops
};

/* ---- confinement ---- */

static int compile(const struct sandbox_rule *const *list, struct sandbox_filter **out)
{
	size_t n = 0;

	while (list[n])
		n++;
	return sandbox_compile(list, n, out);
}

static int confine(struct dialler *d, struct sandbox_filter **steady)
{
	char prefix[64], path[sizeof(d->uri.socket)];
	const struct sandbox_trap trap = { .prefix = prefix, .note = flight_note_trap, .arg = d->flight };
	struct sandbox_enter enter = {
		.bus_dir = d->common.bus,
		.file = !*d->uri.socket && access(RESOLV_CONF, R_OK) == 0 ? RESOLV_CONF : NULL,
		.host_network = true,
		.limits = { .files = LIMIT_FILES,
			    .processes = LIMIT_THREADS,
			    .file_size = UINT64_MAX,
			    .data = LIMIT_DATA },
	};
	struct sandbox_filter *first = NULL;
	const char *what = "filters";
	int err;

	if (d->common.sandbox_log) {
		sandbox_log_only();
		log_warn(SANDBOX_LOG_ONLY);
	}
	err = compile(dial_stage_one, &first);
	memcpy(path, d->uri.socket, sizeof(path));
	if (*path)
		enter.dir = dirname(path);
	if (!err)
		err = compile(dial_steady, steady);
	if (!err) {
		what = "stacks of threads";
		err = thread_shrink_stacks();
	}
	if (!err) {
		what = "handler of forbidden calls";
		log_prefix(LOG_LEVEL_ERROR, prefix, sizeof(prefix));
		err = sandbox_set_trap(&trap);
	}
	if (!err) {
		enter.filter = first;
		err = sandbox_enter(&enter, &what);
	}
	sandbox_filter_free(first);
	if (err)
		log_error_errno(err, "the sandbox can't be entered (%s)", what);
	return err;
}

/* ---- life ---- */

static int find_target(struct dialler *d)
{
	char path[PATH_BYTES];

	if (!*d->uri.socket)
		return target_find(&d->target, &d->uri);
	if (d->common.sandbox)
		snprintf(path, sizeof(path), "/dir%s", strrchr(d->uri.socket, '/'));
	else
		snprintf(path, sizeof(path), "%s", d->uri.socket);
	return target_set_path(&d->target, path);
}

static int dial_bus(struct dialler *d)
{
	loop_meter_begin(&d->meter, d->loop);
	d->child = (struct child) { .ops = &child_ops, .arg = d, .id = d->common.id, .log = &d->log };
	return d->common.bus ? child_dial(&d->child, d->loop, d->common.sandbox ? "/bus" : d->common.bus) : 0;
}

static void on_gone(void *arg)
{
	log_info("nobody can ask any more");
	loop_stop(((struct dialler *)arg)->loop);
}

static int set_up(struct dialler *d)
{
	int err = loop_new("main", &d->loop);

	if (!err)
		err = loop_pool_new(1, &d->pool);
	if (!err)
		err = dial_bus(d);
	if (!err)
		err = keep_new(d->loop, d->pool, d->socket_fd, &d->target, on_gone, d, &d->keep);
	if (err)
		log_error_errno(err, "set-up failed");
	return err;
}

/* The exit status. */
static int live(struct dialler *d)
{
	struct sandbox_filter *steady = NULL;
	const char *what = "filter";
	int err = d->common.sandbox ? confine(d, &steady) : 0;

	if (!err && find_target(d)) {
		sandbox_filter_free(steady);
		return 2; /* another one would not find it either */
	}
	if (!err)
		err = set_up(d);
	if (!err && steady) {
		err = sandbox_narrow(steady, &what);
		if (err)
			log_error_errno(err, "the steady sandbox stage can't be entered (%s)", what);
	}
	sandbox_filter_free(steady);
	if (err)
		return 1;
	flight_say(&d->log, FLIGHT_STATE, 0, "ready");
	child_ready(&d->child);
	log_info("ready");
	err = loop_run(d->loop);
	flight_say(&d->log, FLIGHT_STATE, 0, "ending");
	child_farewell(&d->child);
	return err ? 1 : 0;
}

int main(int argc, char **argv)
{
	static struct dialler d = { .common = { .id = "nbd", .sandbox = true, .flight_fd = -1 },
				    .socket_fd = -1 };
	int status;

	log_init("nbd-dial", NULL, option_given(argc, argv, "bus"));
	status = parse(argc, argv, &d);
	if (status >= 0)
		return status;
	log_init("nbd-dial", d.common.id, d.common.bus != NULL);
	signal(SIGPIPE, SIG_IGN);
	if (fd_set_cloexec(d.socket_fd, true) || fd_set_nonblock(d.socket_fd, true)) {
		log_error("--socket-fd %d: must be a socket", d.socket_fd);
		return 2;
	}
	if (child_open_flight(&d.common, &d.flight) < 0)
		return 2;
	flight_begin(d.flight);
	flight_open_main(d.flight, &d.log);
	status = live(&d);
	/* No clean-up: the kernel's takes everything, the connections too. */
	_exit(status);
}
