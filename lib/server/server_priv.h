/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lib/server share. A process (struct server) serves one device or several (struct export). */
#ifndef SERVER_PRIV_H
#define SERVER_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/types.h>

#include "bus.h"
#include "flight.h"
#include "listen.h"
#include "lock.h"
#include "loop_meter.h"
#include "placing.h"
#include "server.h"
#include "state.h"
#include "vhost_be.h"

struct export;
struct server;

/* ---- options.c ---- */

struct options {
	const char *id;         /* the process's */
	const char *bus;        /* directory, or NULL */
	int flight_fd;          /* -1: none */
	int anchor_fd;          /* -1: none */
	struct placing placing; /* of all sets */
	bool sandbox;
	bool sandbox_log; /* its filters forbid nothing, the kernel logs */
	unsigned poll_max_us;
};

/* What they say of each export. */
struct export_options {
	const char *id;     /* NULL: the process's */
	const char *socket; /* one of socket and vhost_fd is given */
	int vhost_fd;       /* -1: none */
	int state_fd;       /* -1: none */
	unsigned queues;    /* sets of rings */
	const char *map;    /* NULL: round robin */
};

/* Fills s->opts, and makes the exports with theirs and the devices' own. -1 to go on, else the exit status: 0 after --help,
 * 2 after an error. */
int options_parse(int argc, char **argv, struct server *s, void *dev);

/* ---- order.c ---- */

/* What the main loop tells a queue. Orders are carried out one after another; those marked "quiet" wait until
 * every request that was taken is completed, those marked "still" until it is completed or parked
 * (server_device.parked), and no new one is taken meanwhile. */
enum order_type {
	ORDER_START,  /* serve vq */
	ORDER_STOP,   /* quiet (hand_over: still): forget the ring; answer: base */
	ORDER_CALL,   /* fd replaces the call eventfd */
	ORDER_ERR,    /* fd replaces the error eventfd */
	ORDER_ENABLE, /* on */
	ORDER_MEM,    /* quiet: mem replaces the memory table */
	ORDER_DRAIN,  /* still: take no request until ORDER_RESUME */
	ORDER_RESUME,
	ORDER_LEAVE, /* still: another thread serves the queue from now on (move.c) */
	ORDER_COUNT
};

struct order {
	enum order_type type;
	struct server_queue *queue;
	struct order *next;
	/* On the main thread, after the order was carried out; NULL: nobody waits. */
	void (*done)(struct server *server, struct order *order);
	struct vq *vq;
	uint64_t features;
	struct mem *mem;
	int kick, call, err; /* of ORDER_START */
	int fd;
	bool on;
	bool kept;      /* not to be freed: it is part of something else */
	bool live;      /* ORDER_START on a ring that was served before */
	bool hand_over; /* ORDER_STOP: what is parked is a successor's, if it can know of it */
	uint32_t base;
};

/* Orders in the order of posting; from any thread to one. */
struct order_list {
	struct lock lock;
	struct order *head GUARDED_BY(lock);
	struct order *last GUARDED_BY(lock);
};

void order_list_init(struct order_list *list);
void order_list_put(struct order_list *list, struct order *order);
struct order *order_list_take_all(struct order_list *list);

struct server_queue;

/* Carries out what was posted, as far as it may be now. false: the queue belongs to the main loop from here on, and may
 * not be touched. The queue's thread. */
bool order_run_all(struct server_queue *q);

/* Whether there is an order that may be carried out now. The queue's thread. */
bool order_is_ready(const struct server_queue *q);

/* Takes back what ORDER_START did, if there is a ring. The queue's thread, or after its end. */
void order_forget_ring(struct server_queue *q);

/* ---- queue.c ---- */

enum ring_state {
	RING_NONE,    /* no ring; ends with ORDER_START */
	RING_SERVING, /* requests are taken if enabled and nothing quiet is waiting */
	RING_BROKEN /* the driver broke it: what was taken is finished, nothing more; ends with ORDER_STOP */
};

struct queue_stats { /* written by the queue's thread, read by any */
	_Atomic uint64_t requests, resubmitted, poisoned, completed, returned, bytes_in, kicks, calls, passes,
	    broken;
};

/* ---- recovery.c: what a start on rings that were served before comes to ---- */

enum recovery_state {
	RECOVERY_OVER,   /* nothing to watch; ends with the start of such a ring */
	RECOVERY_REPLAY, /* requests of the predecessor wait to be taken; ends when none is left */
	RECOVERY_FIRST,  /* all were taken; ends with the first completion */
};

struct recovery { /* the queue's thread's; the main loop's while report is posted */
	enum recovery_state state;
	uint16_t left;
	uint32_t resubmitted, poisoned;
	uint64_t replayed_ns, first_ns;
	struct loop_bh report;
};

struct recovery_sum { /* the main loop's */
	unsigned rings, reported;
	uint32_t resubmitted, poisoned;
	uint64_t start_ns, replayed_ns, first_ns;
};

struct server_queue;

/* Main loop: of all queues, before there is one, and after the last; of one. */
void recovery_open(struct server *s);
void recovery_close(struct server *s);
void recovery_init(struct server_queue *q);
void recovery_fini(struct server_queue *q);
/* The first of so many rings is about to start; the others' announcements change nothing. */
void recovery_expect(struct export *e, unsigned rings);
/* A connection is over, and no ring runs. */
void recovery_forget(struct export *e);

/* The queue's thread: a ring that was served before starts; one of its requests was taken again; a pass is over, which
 * showed the driver completions or did not; the ring is given up. */
void recovery_begin(struct server_queue *q);
void recovery_took(struct server_queue *q, const struct vq_chain *chain);
void recovery_pass(struct server_queue *q, bool shown);
void recovery_end(struct server_queue *q);

/* ---- coalesce.c: calls that are held back; the queue's thread ---- */

struct coalesce {
	uint64_t ns;     /* 0: none is */
	uint32_t enough; /* completions that are worth a call */
	uint32_t shown;  /* since the first that wants one */
	bool due;
	struct loop_timer *timer;
};

struct server_queue;

int coalesce_init(struct server_queue *q);
void coalesce_fini(struct server_queue *q);

/* The driver was shown so many completions, and wants to be called or not: whether no call is to go out now. */
bool coalesce_hold(struct server_queue *q, unsigned shown, bool wanted);

/* None is due any more: it went out, or there is nobody to be called. */
void coalesce_over(struct server_queue *q);

struct io_thread;

/* ---- move.c ---- */

enum queue_place {
	PLACE_HERE,    /* its thread serves it; ends with ORDER_LEAVE */
	PLACE_LEAVING, /* it takes nothing more here; ends when all rings of its set are so */
	PLACE_AWAY     /* nothing of it is registered anywhere; ends on the thread that it comes to */
};

struct server_queue {
	struct server *server;
	struct export *export;
	unsigned index;           /* among the rings of its export */
	struct server_set *set;   /* NULL: the control ring, which stays where it is */
	struct io_thread *thread; /* that serves it; the main loop's while it is away, as is its loop */
	struct loop *loop;
	void *state; /* the device's */

	/* The main loop's. */
	bool attached; /* the device was, once */
	bool moving;   /* ORDER_LEAVE was posted, and its thread is not told of what comes after it */
	struct loop_bh arrived; /* for the main loop: its new thread serves it */
	_Atomic bool poked;     /* set by the main loop, cleared by the queue's */

	/* The loop's from here on. */
	enum queue_place place;
	enum ring_state ring;
	bool buffers; /* its entries wait for what comes, see server_device.buffer_rings; for good */
	bool enabled, drained;
	bool busy; /* as the device said after the last pass */
	struct vq *vq;
	struct mem *mem;
	uint64_t features;
	int kick, call, err;
	struct loop_fd *kick_watch;
	struct loop_poller *poller;
	unsigned taken;  /* requests taken and not completed */
	unsigned staged; /* completions not yet published */
	struct order *orders, *orders_last;
	struct loop_bh bh; /* orders arrived, or one that waited may go on */

	struct flight_ring flight;
	struct recovery recovery;
	struct coalesce coalesce;

	struct order_list mailbox;
	struct queue_stats stats;
};

/* move_init has said whose it is. */
int queue_init(struct server_queue *q);
/* The loop must have ended. */
void queue_fini(struct server_queue *q);

/* Calls the driver. The queue's thread. */
void queue_signal(struct server_queue *q);

/* Watches the ring, as far as there is one, and lets go of it. The queue's thread. 0 or -errno. */
int queue_watch(struct server_queue *q);
void queue_unwatch(struct server_queue *q);

/* Binds its bottom half to q->loop. The main thread, with nothing posted. */
void queue_bind(struct server_queue *q);

/* The device waits for what it submitted, or not. The queue's thread. */
void queue_set_busy(struct server_queue *q, bool busy);

/* Has it made a pass, as something that it waits for may have come. Main thread. */
void queue_look_again(struct server_queue *q);

/* Hands an order over; it comes back through done. Main thread. */
void queue_post(struct server_queue *q, struct order *order);

/* ---- front.c: the vhost-user connection, on the main loop ---- */

enum front_state {
	FRONT_LISTENING, /* no connection; the listener is watched */
	FRONT_CONNECTED,
	FRONT_CLOSING, /* the connection is over, its rings are being stopped */
	FRONT_GONE     /* the inherited socket closed, or the process ends: there will be no other */
};

struct front {
	enum front_state state;
	int listener; /* -1: none */
	struct loop_fd *watch;
	struct vhost_be *be;
	struct vhost_be_ops ops;
	struct loop_bh freer;                 /* frees be outside of its callbacks */
	struct loop_bh config;                /* tells it that configuration space changed */
	bool started[SERVER_QUEUES_MAX];      /* ORDER_START was posted, ORDER_STOP not */
	struct order stop[SERVER_QUEUES_MAX]; /* stopping must not fail, so its orders are here already */
	unsigned stopping;                    /* ORDER_STOPs not answered */
	unsigned mem_pending;                 /* ORDER_MEMs not answered */
};

/* Listens, where front.listener is a socket, or takes the inherited connection. 0 or -errno. */
int front_init(struct export *e);
void front_fini(struct export *e);

/* Tells the front end, if there is one, that configuration space changed; soon. Any thread. */
void front_config_changed(struct export *e);

/* Asks the device for it once more, if the front end waits for that. Main thread. */
void front_config_ready(struct export *e);

/* Takes no other connection and ends the present one; if there is one, it calls server_front_gone when its rings are
 * stopped. */
void front_end(struct export *e);

/* ---- move.c: queues that change their thread ---- */

struct io_thread;

enum set_state {
	SET_SERVED,   /* by its thread; ends with move_start */
	SET_LEAVING,  /* ORDER_LEAVE was posted to its rings; ends when all have left */
	SET_ARRIVING, /* they belong to the new thread; ends when all are served there */
};

/* Rings that one thread serves together, and that move together. */
struct server_set {
	enum set_state state;     /* this and the next four are the main loop's */
	struct io_thread *thread; /* while it moves: where to */
	unsigned first, rings;
	unsigned pending; /* rings that have not left, or not arrived */
	uint64_t id;      /* the request that waits for it; 0: none */
	unsigned resting; /* rings that are leaving; their thread's */
};

/* Once, before the threads start. */
void move_init(struct server *s);

/* Has the thread serve the set. 0: it does already; 1: it will, and control_moved is called then with id (0: it is not);
 * -EBUSY: it is about to move. Main loop. */
int move_start(struct server *s, struct server_set *set, struct io_thread *to, uint64_t id);

/* The queue's thread: carries ORDER_LEAVE out; makes a queue that is away its own. */
void move_leave(struct server_queue *q, struct order *o);
void move_arrive(struct server_queue *q);

/* ---- threads.c: the I/O threads, and where they run ---- */

int threads_make(struct server *s);
int threads_start(struct server *s);

/* Has a thread ("main", or an I/O thread) run on these processors, and a successor's. 0 or -errno. Main loop. */
int threads_pin(struct server *s, const char *name, const cpu_set_t *cpus);

/* The I/O thread of this name, or NULL. */
struct io_thread *threads_find(struct server *s, const char *name);

/* What is in force, for a successor: which thread serves which set, and what they were pinned to. Main loop. */
void threads_save(struct server *s);
/* What a predecessor left, into the options, while there is no thread; and again by a spare that is about to serve. */
void threads_load(struct server *s);
void threads_catch_up(struct server *s);

/* ---- control.c: the bus ---- */

struct control {
	struct bus *bus;
	bool ready;
	uint64_t drain_id, shutdown_id; /* requests that wait for an answer; 0: none */
	unsigned draining;              /* ORDER_DRAINs not answered */
};

int control_init(struct server *s, const char *socket);
void control_fini(struct server *s);
void control_ready(struct server *s);

/* All parts of its recovery are there. */
void control_recovered(struct export *e);

/* What MoveQueue asked for is done. */
void control_moved(struct server *s, uint64_t id);

/* The last words before the process exits: answers SHUTDOWN. */
void control_farewell(struct server *s);

/* ---- syscalls.c: tables that every server has, ended by NULL ---- */

extern const struct sandbox_rule *const server_stage_one[];
extern const struct sandbox_rule *const server_steady[];      /* without a bus */
extern const struct sandbox_rule *const server_steady_bus[];  /* with one, as a supervisor starts it */
extern const struct sandbox_rule *const server_steady_both[]; /* with one, and a socket of its own */
extern const struct sandbox_rule *const server_io[];          /* an I/O thread */

/* ---- server.c ---- */

struct io_thread {
	struct loop *loop;
	pthread_t thread;
	bool running;
	unsigned busy; /* queues that are; it polls only while there is none; its own */
	struct loop_meter meter;
	/* Its own filter, which it installs by itself. */
	const struct sandbox_filter *filter;
	struct loop_bh confine;
	sem_t step; /* it has started, or confined itself */
	int confine_err;
};

/* A device that this process serves: its front end, its rings, and what is recorded of both. What is the process's (threads,
 * bus, sandbox, flight recorder) all of them share, and its end. */
struct export
{
	struct server *server;
	void *dev;
	struct export_options opts;
	char prefix[BUS_NAME_MAX + 2]; /* of log lines: which one they speak of; empty if there is one */
	uint64_t features;
	struct server_queue *queue; /* of the server's, so many: */
	unsigned rings;
	struct server_set *set; /* the same, opts.queues of them */
	struct state *state;
	struct front front;
	struct recovery_sum recovery;
	bool recovered;              /* that is complete */
	uint64_t set_id;             /* the request for a change that is under way; 0: nobody waits for it */
	char io_error[BUS_TEXT_MAX]; /* what a request waits for; empty: none does */
};

struct server {
	const struct server_device *device;
	struct options opts;
	struct export export[SERVER_DEVICES_MAX];
	unsigned exports; /* so many */
	struct loop *main;
	struct loop_meter meter; /* of the main loop */
	bool inherited;          /* placing is what a predecessor left */
	bool main_pinned;
	cpu_set_t main_cpus;
	struct loop_pool *pool;
	struct io_thread io[PLACING_THREADS_MAX]; /* opts.placing.threads of them */
	struct server_set set[SERVER_QUEUES_MAX]; /* opts.placing.queues of them */
	struct server_queue queue[SERVER_QUEUES_MAX];
	unsigned rings;         /* of these, as many as the exports have together */
	struct order_list done; /* orders on their way back */
	struct loop_bh done_bh;
	struct vq_trials trials;   /* of all queues: it is the process that dies */
	struct loop_bh trial_over; /* for the main loop: one is */
	struct control control;
	struct flight *flight;
	struct flight_ring log; /* the main loop's */
	int life;               /* end-of-file: end; -1: none */
	struct loop_fd *life_watch;
	bool anchored; /* its anchor tells of its end */
	bool inside;   /* it was started in namespaces of its own */
	bool ending;
};

/* How many rings a set has. */
static inline unsigned server_rings_of_set(const struct server *s)
{
	return s->device->rings_per_queue ? s->device->rings_per_queue : 1;
}

/* The export that a message speaks of: the first where it names none; NULL: there is no such. */
static inline struct export *server_export(struct server *s, const char *id)
{
	for (unsigned i = 0; i < s->exports; i++)
		if (!*id || !strcmp(id, s->export[i].opts.id))
			return &s->export[i];
	return NULL;
}

/* Begins the ordered end: rings are stopped, then the main loop. Main thread; a second call does nothing. */
void server_end(struct server *s);
/* A front is, for good: with the last one the process ends, if it is to. */
void server_front_gone(struct server *s);

/* An order for a queue, with done. Without memory the process ends here: to leave one out would go unnoticed, while a
 * successor begins with what the front end says and the in-flight region knows. */
struct order *server_order(struct server_queue *q, enum order_type type,
			   void (*done)(struct server *, struct order *));

/* Adds to a counter that only the calling thread writes. */
static inline void stat_add(_Atomic uint64_t *stat, uint64_t n)
{
	atomic_store_explicit(stat, atomic_load_explicit(stat, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* Any thread. */
static inline uint64_t stat_get(const _Atomic uint64_t *stat)
{
	return atomic_load_explicit(stat, memory_order_relaxed);
}

#endif
