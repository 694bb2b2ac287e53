/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device process from its first instruction to its last.
 *
 * The order matters. The device opens its files and the socket is bound while the process may still do so; then it
 * goes into its namespaces (with a guardian outside if a person started it) and through sandbox stage one, with
 * one thread and before it has read a byte from anyone. Then loops, workers, the bus (whose library starts
 * threads of its own) and whatever each queue needs for its whole life; the steady filter covers them all, and the
 * I/O threads, which alone read what the guest writes, add a narrower one each. Only
 * then is the front end listened to, so all of its messages, and the guest, meet the narrow process.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "config.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "num.h"
#include "server_priv.h"

#define WORKERS       2   /* threads for calls that block */
#define LIMIT_FILES   512 /* each ring has three eventfds, each memory region came with one */
#define LIMIT_THREADS 128
#define PATH_BYTES    4096

struct order *server_order(struct server *s, unsigned index, enum order_type type,
			   void (*done)(struct server *, struct order *))
{
	struct order *o = CRASH_RESULT("order", 1) ? calloc(1, sizeof(*o)) : NULL;

	if (!o) {
		log_error("out of memory for what queue %u is to do: ending, so that a successor does it",
			  index);
		_exit(1);
	}
	o->type = type;
	o->queue = &s->queue[index];
	o->done = done;
	o->kick = o->call = o->err = o->fd = -1;
	return o;
}

/* Orders that were carried out, on the main loop. */
static void on_done(void *arg)
{
	struct server *s = arg;
	struct order *o = order_list_take_all(&s->done), *next;

	for (; o; o = next) {
		bool kept = o->kept;

		next = o->next;
		if (o->done)
			o->done(s, o);
		if (!kept)
			free(o);
	}
}

/* ---- the end ---- */

void server_end(struct server *s)
{
	if (s->ending)
		return;
	s->ending = true;
	flight_say(&s->log, FLIGHT_STATE, 0, "ending");
	front_end(s);
}

void server_front_gone(struct server *s)
{
	control_farewell(s);
	loop_stop(s->main);
}

static void on_life(void *arg, uint32_t events)
{
	struct server *s = arg;

	(void)events;
	loop_del_fd(s->life_watch);
	s->life_watch = NULL;
	log_info("told to end");
	server_end(s);
}

/* ---- confinement ---- */

static int compile(const struct sandbox_rule *const *common, const struct sandbox_rule *const *own,
		   struct sandbox_filter **out)
{
	const struct sandbox_rule *tables[24];
	size_t n = 0;

	for (; *common && n < ARRAY_SIZE(tables); common++)
		tables[n++] = *common;
	for (; *own && n < ARRAY_SIZE(tables); own++)
		tables[n++] = *own;
	return sandbox_compile(tables, n, out);
}

static const struct sandbox_rule *const *steady_of(const struct options *opts)
{
	if (!opts->bus)
		return server_steady;
	return opts->socket ? server_steady_both : server_steady_bus;
}

/* The filters that are installed once everything is set up. */
struct later {
	struct sandbox_filter *steady, *io;
};

static void later_free(struct later *later)
{
	sandbox_filter_free(later->steady);
	sandbox_filter_free(later->io);
}

/* A forbidden call is told of, and noted where the supervisor finds it, before the process dies of it. */
static int set_trap(struct server *s)
{
	char prefix[64];
	const struct sandbox_trap trap = { .prefix = prefix, .note = flight_note_trap, .arg = s->flight };

	log_prefix(LOG_LEVEL_ERROR, prefix, sizeof(prefix));
	return sandbox_set_trap(&trap);
}

/* Stage one, and the filters of stage two. */
static int confine(struct server *s, struct later *later)
{
	struct sandbox_enter enter = {
		.bus_dir = s->opts.bus,
		.limits = { .files = LIMIT_FILES,
			    .processes = LIMIT_THREADS,
			    .file_size = UINT64_MAX,
			    .memlock = s->device->locks_memory ? UINT64_MAX : 0 },
	};
	struct sandbox_filter *first = NULL;
	const char *what = "filters";
	int err = compile(server_stage_one, s->device->stage_one, &first);

	if (!err)
		err = compile(steady_of(&s->opts), s->device->steady, &later->steady);
	if (!err)
		err = compile(server_io, s->device->io, &later->io);
	if (!err) {
		what = "handler of forbidden calls";
		err = set_trap(s);
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

/* Stage two: first the filter of all threads, then those of the I/O threads, which run nothing else yet. */
static int narrow(struct server *s, const struct later *later)
{
	const char *what = "filter";
	int err = sandbox_narrow(later->steady, &what);

	for (unsigned i = 0; i < s->opts.placing.threads && !err; i++) {
		struct io_thread *t = &s->io[i];

		what = "filter of an I/O thread";
		t->filter = later->io;
		loop_bh_post(&t->confine);
		while (sem_wait(&t->step) < 0)
			;
		err = t->confine_err;
	}
	if (err)
		log_error_errno(err, "the steady sandbox stage can't be entered (%s)", what);
	return err;
}

/* ---- set-up ---- */

static int make_loops(struct server *s)
{
	int err = loop_new("main", &s->main);

	if (!err)
		err = threads_make(s);
	if (!err)
		err = loop_pool_new(WORKERS, &s->pool);
	if (err)
		return err;
	loop_meter_begin(&s->meter, s->main);
	loop_show(s->main, &s->log.queue->turns);
	order_list_init(&s->done);
	loop_bh_init(&s->done_bh, s->main, on_done, s);
	if (s->life >= 0)
		err = loop_add_fd(s->main, s->life, EPOLLIN, on_life, s, &s->life_watch);
	return err;
}

static int make_queues(struct server *s)
{
	int err = 0;

	move_init(s);
	for (unsigned i = 0; !err && i < s->rings; i++)
		err = queue_init(&s->queue[i], i);
	return err;
}

static int dial(struct server *s)
{
	char path[PATH_BYTES];
	const char *dir = s->opts.sandbox ? "/bus" : s->opts.bus;

	if (!s->opts.bus)
		return 0;
	if (snprintf(path, sizeof(path), "%s/bus", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return control_init(s, path);
}

static int set_up(struct server *s)
{
	const char *step = "event loops";
	int err = make_loops(s);

	if (!err) {
		step = "control bus";
		err = dial(s);
	}
	if (!err) {
		step = "queues";
		err = make_queues(s);
	}
	if (!err) {
		step = "I/O threads";
		err = threads_start(s);
	}
	if (err)
		log_error_errno(err, "set-up failed (%s)", step);
	return err;
}

static void tear_down(struct server *s)
{
	for (unsigned i = 0; i < s->opts.placing.threads; i++) {
		if (!s->io[i].running)
			continue;
		loop_stop(s->io[i].loop);
		pthread_join(s->io[i].thread, NULL);
	}
	if (s->pool)
		loop_pool_free(s->pool);
	for (unsigned i = 0; i < s->rings; i++)
		queue_fini(&s->queue[i]);
	if (s->main) {
		on_done(s);
		loop_bh_cancel(&s->done_bh);
		front_fini(s);
		control_fini(s);
		loop_del_fd(s->life_watch);
	}
	for (unsigned i = 0; i < s->opts.placing.threads; i++)
		loop_free(s->io[i].loop);
	loop_free(s->main);
}

/* The life after the options and the open files; the exit status. */
static int live(struct server *s, int listener)
{
	struct later later = { NULL, NULL };
	int err = 0;

	if (s->opts.sandbox)
		err = confine(s, &later);
	if (!err && s->device->confined && s->device->confined(s->dev, &s->features) < 0) {
		later_free(&later);
		return 2;
	}
	if (!err)
		err = set_up(s);
	if (!err && s->opts.sandbox)
		err = narrow(s, &later);
	later_free(&later);
	if (!err) {
		err = front_init(s, listener, s->opts.vhost_fd);
		if (err)
			log_error_errno(err, "the front end can't be served");
	}
	if (!err) {
		flight_say(&s->log, FLIGHT_STATE, 0, "ready");
		control_ready(s);
		log_info("ready");
		err = loop_run(s->main);
		/* The rings have stopped and the last words are said. The kernel takes its time over what each queue has
		 * (io_destroy: two RCU grace periods), and a successor waits; with an anchor that comes afterwards. */
		if (!err && s->anchored)
			_exit(0);
	}
	tear_down(s);
	return err ? 1 : 0;
}

/* Whether fd is what --vhost-fd promises: a stream socket with somebody at its other end. */
static int check_connection(int fd)
{
	struct sockaddr_un peer;
	socklen_t len = sizeof(peer), type_len = sizeof(int);
	int type = 0, err = fd_set_cloexec(fd, true);

	if (!err && (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 ||
		     getpeername(fd, (struct sockaddr *)&peer, &len) < 0))
		err = -errno;
	if (!err && type != SOCK_STREAM)
		err = -ESOCKTNOSUPPORT;
	if (err)
		log_error_errno(err, "--vhost-fd %d: must be a connected unix stream socket", fd);
	return err;
}

/* The memory that is left behind: the supervisor's, or without one our own, so that there always is some. */
static int open_flight(struct server *s)
{
	int fd = s->opts.flight_fd, err;

	if (fd < 0) {
		err = flight_alloc(s->rings, &s->flight);
		if (err)
			log_error_errno(err, "the flight recorder's memory");
		return err;
	}
	err = flight_map(fd, true, &s->flight);
	if (!err && flight_queues(s->flight) < s->rings)
		err = -ENOSPC;
	if (err)
		log_error_errno(err, "--flight-fd %d: must be memory made for it and for %u queues", fd,
				s->rings);
	else
		close(fd);
	return err;
}

/* The same with what a successor is to know. */
static int open_state(struct server *s)
{
	int fd = s->opts.state_fd, err;

	if (fd < 0) {
		err = state_alloc(&s->state);
		if (err)
			log_error_errno(err, "the state's memory");
		return err;
	}
	err = state_map(fd, &s->state);
	if (err)
		log_error_errno(err, "--state-fd %d: must be memory made for it", fd);
	return err;
}

static void begin_flight(struct server *s)
{
	flight_begin(s->flight);
	flight_open_main(s->flight, &s->log);
	flight_say(&s->log, FLIGHT_STATE, 0, "starting");
}

/* True if nobody outside waits for this process, so that a guardian must. */
static bool by_hand(const struct server *s)
{
	return s->opts.socket || (s->opts.sandbox && !s->inside);
}

/* What follows the options; the exit status. */
static int serve(void *arg)
{
	struct server *s = arg;
	struct server_settings settings = { .id = s->opts.id,
					    .queues = s->opts.queues,
					    .sandbox = s->opts.sandbox,
					    .state_fd = s->opts.state_fd,
					    .supervised = s->opts.bus };
	const struct listen_guard guard = { .path = s->opts.socket, .sandboxed = s->opts.sandbox };
	int status, listener = -1;

	if (s->opts.vhost_fd >= 0 && check_connection(s->opts.vhost_fd) < 0)
		return 2;
	if (open_state(s) < 0 || open_flight(s) < 0)
		return 2;
	settings.state = s->state;
	threads_load(s);
	if (s->device->open(s->dev, &settings, &s->features) < 0)
		return 2;
	if (s->opts.state_fd >= 0)
		close(s->opts.state_fd);
	if (s->opts.socket) {
		listener = listen_open(s->opts.socket);
		if (listener < 0)
			return 2;
	}
	if (by_hand(s) && listen_guard(&guard, &s->life) < 0)
		return 1;
	begin_flight(s);
	status = live(s, listener);
	s->device->close(s->dev);
	flight_free(s->flight);
	state_free(s->state);
	return status;
}

#ifndef BH_SANITIZE /* whose run-time wants to know where the main thread's stack is */
static bool drained(void *arg)
{
	struct server *s = arg;

	return s->device->drained(s->dev);
}

/* The same with an anchor, where one is wanted and possible: it must be process 1, with whose end all ends. */
static int serve_anchored(struct server *s)
{
	const struct sandbox_anchor anchor = {
		.fd = s->opts.anchor_fd,
		.work = serve,
		.drained = drained,
		.drain = s->device->drain,
		.arg = s,
	};
	int err;

	if (s->opts.anchor_fd < 0 || !s->inside || !s->device->drained)
		return serve(s);
	s->anchored = true;
	err = sandbox_anchor(&anchor);
	log_error_errno(err, "--anchor-fd %d: the process can't be split", s->opts.anchor_fd);
	return 1;
}
#else
static int serve_anchored(struct server *s)
{
	return serve(s);
}
#endif

int server_main(int argc, char **argv, const struct server_device *device, void *dev)
{
	static struct server s = { .life = -1 }; /* large, and one per process */
	int status;

	log_init(device->program, NULL, false);
	status = options_parse(argc, argv, device, dev, &s.opts);
	if (status >= 0)
		return status;
	log_init(device->program, s.opts.id, s.opts.bus != NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of the write */
	s.device = device;
	s.dev = dev;
	s.inside = getpid() == 1;
	s.rings = s.opts.queues * MAX(device->rings_per_queue, 1U) + device->control_ring;
	return serve_anchored(&s);
}
