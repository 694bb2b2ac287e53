/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net-user from its first instruction to its last.
 *
 * The order: options; then everything is opened that needs the host as it is, the forwarded ports first of all; then
 * namespaces (with a guardian outside if a person started it), all but the network's; stage one with an empty root that
 * has nothing but /etc/resolv.conf; the bus, whose library starts threads, and the thread that libslirp is to run on; the
 * steady filter for all of them and that thread's own. The first frame of the guest is read after that, there and nowhere
 * else: the main thread has the bus, which redials by sockets that the other may not make.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "child.h"
#include "fd.h"
#include "flight.h"
#include "listen.h"
#include "log.h"
#include "net.h"
#include "num.h"
#include "options.h"
#include "sandbox.h"
#include "syscalls.h"
#include "thread.h"

#define RESOLV_CONF   "/etc/resolv.conf"
#define LIMIT_THREADS 128
/* What libslirp keeps for the guest it bounds by connection alone: buffers of 256 KiB, half a GiB for as many as there can
 * be, but also, at 1.7 KiB for a byte, whatever of a window came out of order. Past this the process dies, and that alone. */
#define LIMIT_DATA (1ULL << 30)

struct user {
	struct options opts;
	struct loop *loop;
	struct loop_meter meter; /* of it */
	struct net_thread {
		struct loop *loop;
		struct loop_meter meter;
		struct net *net;
		pthread_t thread;
		const struct sandbox_filter *filter; /* NULL: none */
		sem_t go, step;                      /* it may confine itself; it has */
		int confine_err;
		_Atomic int err; /* why it ended */
		struct loop_bh ping;
	} net;
	struct loop_bh pong;
	struct child child;
	struct flight *flight;
	struct flight_ring log;
	int life; /* end-of-file: end; -1: none */
	struct loop_fd *life_watch;
};

/* ---- the bus ---- */

static void on_stats(void *arg, void (*add)(void *to, const char *name, uint64_t value), void *to)
{
	net_stats(((struct user *)arg)->net.net, add, to);
}

static void on_shutdown(void *arg)
{
	loop_stop(((struct user *)arg)->loop);
}

/* There and back by the network's thread: if that hangs, the process does. */
static void on_ping(void *arg)
{
	loop_bh_post(&((struct user *)arg)->net.ping);
}

static void on_net_ping(void *arg)
{
	loop_bh_post(&((struct user *)arg)->pong);
}

static void on_pong(void *arg)
{
	child_alive(&((struct user *)arg)->child);
}

static void on_loops(void *arg, struct bus_msg *msg)
{
	struct user *u = arg;

	bus_add_loop(msg, &u->meter, 0, 0);
	bus_add_loop(msg, &u->net.meter, 0, 0);
}

static const struct child_ops child_ops = {
	.kind = "net-user", .stats = on_stats, .shutdown = on_shutdown, .ping = on_ping, .loops = on_loops
};

static void on_life(void *arg, uint32_t events)
{
	struct user *u = arg;

	(void)events;
	loop_del_fd(u->life_watch);
	u->life_watch = NULL;
	log_info("told to end");
	loop_stop(u->loop);
}

/* ---- confinement ---- */

static int compile(const struct sandbox_rule *const *list, struct sandbox_filter **out)
{
	size_t n = 0;

	while (list[n])
		n++;
	return sandbox_compile(list, n, out);
}

struct filters {
	struct sandbox_filter *first, *steady, *net;
};

static void filters_free(struct filters *f)
{
	sandbox_filter_free(f->first);
	sandbox_filter_free(f->steady);
	sandbox_filter_free(f->net);
}

static int compile_all(const struct user *u, struct filters *f)
{
	int err;

	if (u->opts.common.sandbox_log) {
		sandbox_log_only();
		log_warn(SANDBOX_LOG_ONLY);
	}
	err = compile(user_stage_one, &f->first);
	if (!err)
		err = compile(u->opts.common.bus ? user_steady_bus : user_steady, &f->steady);
	return err ? err : compile(user_net, &f->net);
}

static int confine(struct user *u, struct filters *f)
{
	char prefix[64];
	const struct sandbox_trap trap = { .prefix = prefix, .note = flight_note_trap, .arg = u->flight };
	struct sandbox_enter enter = {
		.bus_dir = u->opts.common.bus,
		.file = access(RESOLV_CONF, R_OK) == 0 ? RESOLV_CONF : NULL,
		.host_network = true,
		.limits = { .files = NET_FILES_MAX,
			    .processes = LIMIT_THREADS,
			    .file_size = UINT64_MAX,
			    .memlock = 0,
			    .data = LIMIT_DATA },
	};
	const char *what = "filters";
	int err = compile_all(u, f);

	if (!err) {
		what = "handler of forbidden calls";
		log_prefix(LOG_LEVEL_ERROR, prefix, sizeof(prefix));
		err = sandbox_set_trap(&trap);
	}
	if (!err) {
		enter.filter = f->first;
		err = sandbox_enter(&enter, &what);
	}
	if (err)
		log_error_errno(err, "the sandbox can't be entered (%s)", what);
	if (!err && !enter.file)
		log_warn("%s can't be read: the guest has no name server", RESOLV_CONF);
	return err;
}

static void wait_for(struct net_thread *t)
{
	while (sem_wait(&t->step) < 0)
		;
}

/* Stage two: first the filter of all threads, then that of the one that meets the guest's bytes. */
static int narrow(struct user *u, const struct filters *f)
{
	const char *what = "filter";
	int err = f->steady ? sandbox_narrow(f->steady, &what) : 0;

	if (!err) {
		what = "filter of the network's thread";
		u->net.filter = f->net;
		sem_post(&u->net.go);
		wait_for(&u->net);
		err = u->net.confine_err;
	}
	if (err)
		log_error_errno(err, "the steady sandbox stage can't be entered (%s)", what);
	return err;
}

/* ---- life ---- */

static int dial(struct user *u)
{
	int err;

	loop_meter_begin(&u->meter, u->loop);
	u->child = (struct child) { .ops = &child_ops, .arg = u, .id = u->opts.common.id, .log = &u->log };
	if (!u->opts.common.bus)
		return 0;
	err = child_dial(&u->child, u->loop, u->opts.common.sandbox ? "/bus" : u->opts.common.bus);
	if (err)
		log_error_errno(err, "set-up failed (control bus)");
	return err;
}

/* The network's thread. It never returns: that would need calls that its filter has no other use for. */
static void *net_main(void *arg)
{
	struct user *u = arg;
	struct net_thread *t = &u->net;
	int err = 0;

	thread_set_name("net");
	loop_meter_begin(&t->meter, t->loop);
	sem_post(&t->step);
	while (sem_wait(&t->go) < 0)
		;
	if (t->filter)
		t->confine_err = sandbox_install(t->filter, false);
	sem_post(&t->step);
	while (!t->confine_err && !err)
		err = net_run_once(t->net);
	atomic_store(&t->err, err);
	loop_stop(u->loop);
	for (;;)
		sem_wait(&t->go);
	return NULL;
}

/* Returns once it has started, which takes calls that the steady filter does not have. */
static int start_thread(struct user *u)
{
	int err;

	sem_init(&u->net.go, 0, 0);
	sem_init(&u->net.step, 0, 0);
	err = pthread_create(&u->net.thread, NULL, net_main, u);
	if (err)
		log_error_errno(err, "set-up failed (thread)");
	else
		wait_for(&u->net);
	return -err;
}

/* Until told to end, or until nobody holds the other end of the socket any more. */
static int serve(struct user *u)
{
	int err;

	flight_say(&u->log, FLIGHT_STATE, 0, "ready");
	child_ready(&u->child);
	log_info("ready");
	err = loop_run(u->loop);
	flight_say(&u->log, FLIGHT_STATE, 0, "ending");
	if (!err)
		err = atomic_load(&u->net.err);
	if (err == -EPIPE) {
		log_info("the other end of the socket is closed");
		err = 0;
	}
	if (err)
		log_error_errno(err, "events can't be waited for");
	child_farewell(&u->child);
	return err;
}

static int live(struct user *u)
{
	struct filters filters = { NULL, NULL, NULL };
	int err = thread_shrink_stacks();

	if (err)
		log_error_errno(err, "set-up failed (stacks)");
	if (!err && u->opts.common.sandbox)
		err = confine(u, &filters);
	if (!err)
		err = dial(u);
	if (!err && u->life >= 0)
		err = loop_add_fd(u->loop, u->life, EPOLLIN, on_life, u, &u->life_watch);
	if (!err)
		err = start_thread(u);
	if (!err)
		err = narrow(u, &filters);
	filters_free(&filters);
	return err ? err : serve(u);
}

static int open_all(struct user *u)
{
	int err = child_open_flight(&u->opts.common, &u->flight);

	if (err)
		return err;
	err = loop_new("main", &u->loop);
	if (!err)
		err = loop_new("net", &u->net.loop);
	if (err) {
		log_error_errno(err, "set-up failed (event loop)");
		return err;
	}
	loop_bh_init(&u->net.ping, u->net.loop, on_net_ping, u);
	loop_bh_init(&u->pong, u->loop, on_pong, u);
	return net_open(u->net.loop, &u->opts, &u->net.net);
}

int main(int argc, char **argv)
{
	static struct user u = { .life = -1 };
	struct listen_guard guard = { .host_network = true };
	int status;

	log_init("net-user", NULL, option_given(argc, argv, "bus"));
	status = options_parse(argc, argv, &u.opts);
	if (status >= 0)
		return status;
	log_init("net-user", u.opts.common.id, u.opts.common.bus != NULL);
	signal(SIGPIPE, SIG_IGN);
	/* A buffer of a connection is no mapping of its own: less to do, and a system call less to allow. */
	mallopt(M_MMAP_MAX, 0);
	if (open_all(&u) < 0)
		return 2;
	guard.sandboxed = u.opts.common.sandbox;
	if (u.opts.common.sandbox && getpid() != 1 && listen_guard(&guard, &u.life) < 0)
		return 1;
	flight_begin(u.flight);
	flight_open_main(u.flight, &u.log);
	status = live(&u) ? 1 : 0;
	/* No clean-up under filters that have no use for it: the kernel's takes everything. */
	_exit(status);
}
