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
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "config.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "num.h"
#include "server_priv.h"
#include "thread.h"

#define WORKERS 2 /* threads for calls that block */
/* Each ring has three eventfds, a window's another three and, while it starts, copies of them; each memory region came with one. */
#define LIMIT_FILES      512
#define LIMIT_FILES_RING 9
#define LIMIT_THREADS    128
/* Heap and threads' stacks: for the process, and for each of its rings. What was taken over can have no more. */
#define LIMIT_DATA      (512ULL << 20)
#define LIMIT_DATA_RING (8ULL << 20)
#define PATH_BYTES      4096

struct order *server_order(struct server_queue *q, enum order_type type,
			   void (*done)(struct server *, struct order *))
{
	struct order *o = CRASH_RESULT("order", 1) ? calloc(1, sizeof(*o)) : NULL;

	if (!o) {
		log_error("%sout of memory for what queue %u is to do: ending, so that a successor does it",
			  q->export->prefix, q->index);
		_exit(1);
	}
	o->type = type;
	o->queue = q;
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
	for (unsigned i = 0; i < s->exports; i++)
		front_end(&s->export[i]);
	server_front_gone(s);
}

void server_front_gone(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++)
		if (s->export[i].front.state != FRONT_GONE)
			return;
	if (s->ending) {
		control_farewell(s);
		loop_stop(s->main);
	} else if (!s->opts.bus) {
		server_end(s);
	}
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

/* True if it has a socket of its own. */
static bool listens(const struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++)
		if (s->export[i].opts.socket)
			return true;
	return false;
}

static const struct sandbox_rule *const *steady_of(const struct server *s)
{
	if (!s->opts.bus)
		return server_steady;
	return listens(s) ? server_steady_both : server_steady_bus;
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

static uint64_t data_limit(const struct server *s)
{
	uint64_t limit = LIMIT_DATA + s->rings * LIMIT_DATA_RING;

	for (unsigned i = 0; s->device->memory && i < s->exports; i++)
		limit += s->device->memory(s->export[i].dev);
	return limit;
}

/* Stage one, and the filters of stage two. */
static int confine(struct server *s, struct later *later)
{
	struct sandbox_enter enter = {
		.bus_dir = s->opts.bus,
		.limits = { .files = LIMIT_FILES + s->rings * LIMIT_FILES_RING,
			    .processes = LIMIT_THREADS,
			    .file_size = UINT64_MAX,
			    .memlock = s->device->locks_memory ? UINT64_MAX : 0,
			    .data = data_limit(s) },
	};
	struct sandbox_filter *first = NULL;
	const char *what = "filters";
	int err;

	if (s->opts.sandbox_log) {
		sandbox_log_only();
		log_warn(SANDBOX_LOG_ONLY);
	}
	err = compile(server_stage_one, s->device->stage_one, &first);

	if (!err)
		err = compile(steady_of(s), s->device->steady, &later->steady);
	if (!err)
		err = compile(server_io, s->device->io, &later->io);
	if (!err) {
		what = "stacks of threads";
		err = thread_shrink_stacks();
	}
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
	recovery_open(s);
	if (s->life >= 0)
		err = loop_add_fd(s->main, s->life, EPOLLIN, on_life, s, &s->life_watch);
	return err;
}

static int make_queues(struct server *s)
{
	int err = 0;

	move_init(s);
	for (unsigned i = 0; !err && i < s->rings; i++)
		err = queue_init(&s->queue[i]);
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
		recovery_close(s);
		for (unsigned i = 0; i < s->exports; i++)
			front_fini(&s->export[i]);
		control_fini(s);
		loop_del_fd(s->life_watch);
	}
	for (unsigned i = 0; i < s->opts.placing.threads; i++)
		loop_free(s->io[i].loop);
	loop_free(s->main);
}

/* What open must not do, of each device. */
static int examine(struct server *s)
{
	int err = 0;

	for (unsigned i = 0; s->device->confined && !err && i < s->exports; i++)
		err = s->device->confined(s->export[i].dev, &s->export[i].features);
	return err;
}

static int meet_fronts(struct server *s)
{
	int err = 0;

	for (unsigned i = 0; !err && i < s->exports; i++) {
		err = front_init(&s->export[i]);
		if (err)
			log_error_errno(err, "%sthe front end can't be served", s->export[i].prefix);
	}
	return err;
}

/* The life after the options and the open files; the exit status. */
static int live(struct server *s)
{
	struct later later = { NULL, NULL };
	int err = 0;

	if (s->opts.sandbox)
		err = confine(s, &later);
	if (!err && examine(s) < 0) {
		later_free(&later);
		return 2;
	}
	if (!err)
		err = set_up(s);
	if (!err && s->opts.sandbox)
		err = narrow(s, &later);
	later_free(&later);
	if (!err)
		err = meet_fronts(s);
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
	int err = fd_check_connected(fd);

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

/* The same with what a successor is to know of a device. */
static int open_state(struct export *e)
{
	int fd = e->opts.state_fd, err;

	if (fd < 0) {
		err = state_alloc(&e->state);
		if (err)
			log_error_errno(err, "the state's memory");
		return err;
	}
	err = state_map(fd, &e->state);
	if (err)
		log_error_errno(err, "--state-fd %d: must be memory made for it", fd);
	return err;
}

static void begin_flight(struct server *s)
{
	flight_begin(s->flight);
	flight_say(&s->log, FLIGHT_STATE, 0, "starting");
}

/* True if nobody outside waits for this process, so that a guardian must. */
static bool by_hand(const struct server *s)
{
	return listens(s) || (s->opts.sandbox && !s->inside);
}

/* What must be there before anything is opened: what the options say of the process, and what threads_load needs. */
static int open_memory(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++) {
		struct export *e = &s->export[i];

		if (e->opts.vhost_fd >= 0 && check_connection(e->opts.vhost_fd) < 0)
			return -EINVAL;
		if (open_state(e) < 0)
			return -EINVAL;
	}
	return open_flight(s);
}

static int open_export(struct export *e)
{
	struct server *s = e->server;
	struct server_settings settings = { .id = e->opts.id,
					    .queues = e->opts.queues,
					    .sandbox = s->opts.sandbox,
					    .supervised = s->opts.bus,
					    .state_fd = e->opts.state_fd,
					    .state = e->state };

	if (s->device->open(e->dev, &settings, &e->features) < 0)
		return -EINVAL;
	if (e->opts.state_fd >= 0)
		close(e->opts.state_fd);
	return 0;
}

/* All of the sockets that are wanted, or none. */
static int listen_all(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++) {
		const char *path = s->export[i].opts.socket;
		int fd = path ? listen_open(path) : -1;

		s->export[i].front.listener = fd;
		if (!path || fd >= 0)
			continue;
		while (i--)
			if (s->export[i].opts.socket)
				unlink(s->export[i].opts.socket);
		return -EINVAL;
	}
	return 0;
}

/* Splits off a guardian, with the sockets that it is to remove. */
static int split(struct server *s)
{
	struct listen_guard guard = { .sandboxed = s->opts.sandbox };
	size_t n = 0;

	for (unsigned i = 0; i < s->exports; i++)
		if (s->export[i].opts.socket)
			guard.path[n++] = s->export[i].opts.socket;
	return listen_guard(&guard, &s->life);
}

/* What follows the options; the exit status. */
static int serve(void *arg)
{
	struct server *s = arg;
	int status;

	if (open_memory(s) < 0)
		return 2;
	threads_load(s);
	/* Storage that does not answer may hold it here, where it can't say anything on the bus yet. */
	flight_open_main(s->flight, &s->log);
	flight_set(&s->log.queue->since, clock_ns());
	for (unsigned i = 0; i < s->exports; i++)
		if (open_export(&s->export[i]) < 0)
			return 2;
	flight_set(&s->log.queue->since, 0);
	if (listen_all(s) < 0)
		return 2;
	if (by_hand(s) && split(s) < 0)
		return 1;
	begin_flight(s);
	status = live(s);
	for (unsigned i = 0; i < s->exports; i++) {
		s->device->close(s->export[i].dev);
		state_free(s->export[i].state);
	}
	flight_free(s->flight);
	return status;
}

#ifndef BH_SANITIZE /* whose run-time wants to know where the main thread's stack is */
static bool drained(void *arg)
{
	struct server *s = arg;
	bool all = true;

	for (unsigned i = 0; i < s->exports; i++)
		all = s->device->drained(s->export[i].dev) && all;
	return all;
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

	log_init(device->program, NULL, option_given(argc, argv, "bus"));
	s.device = device;
	status = options_parse(argc, argv, &s, dev);
	if (status >= 0)
		return status;
	log_init(device->program, s.opts.id, s.opts.bus != NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of the write */
	s.inside = getpid() == 1;
	return serve_anchored(&s);
}
