/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device process's whole life: options, sandbox, control bus, vhost-user, queues on I/O threads, recovery,
 * statistics. A device supplies a struct server_device and calls server_main; what is left to it is its
 * options, its configuration space, and "service this queue".
 *
 * Threads: open, get_config, set_config, started, set, stats and close run on the main thread. A queue belongs to
 * one I/O thread's loop: ring, service, has_room, release and pending run there and nowhere else, and so do all functions
 * that take a struct server_queue. queue_open and queue_close, and the last ring, run on the main thread while that loop
 * does not.
 *
 * A queue is one ring. A device whose rings belong together (receive and transmit) has them in sets of rings_per_queue,
 * which one thread serves, and which move together (move.c): ring i is of set i / rings_per_queue.
 */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "mem.h"
#include "option.h"
#include "sandbox.h"
#include "virtq.h"

#define SERVER_QUEUES_MAX  64 /* rings, all together */
#define SERVER_DEVICES_MAX 16 /* that one process serves */

struct flight_ring;
struct server_queue;
struct state;

/* What the common options said, for open. */
struct server_settings {
	const char *id;  /* the device's; never NULL */
	unsigned queues; /* sets of rings */
	bool sandbox;
	bool supervised; /* there is a control bus */
	int state_fd;    /* that memory's descriptor, as long as open takes; -1: nobody else has it */
	struct state
	    *state; /* what a successor is to know beside the rings (lib/state), the server's; never NULL */
};

typedef void (*server_stat_fn)(void *arg, const char *name, uint64_t value);

struct server_device {
	const char *program;                 /* "blk-server" */
	const char *kind;                    /* "blk": what HELLO says */
	const char *summary;                 /* one line for --help */
	const struct server_option *options; /* ended by an entry without a name */
	uint16_t iov_max;                    /* vectors that its queues can take in one chain */

	/* One more device of this kind, with what its options say when nobody said anything; NULL without memory. It is the
	 * process's until its end. Of each there are the calls below, with the device in dev. Where this is NULL a process
	 * serves one. */
	void *(*another)(void);

	/* Its rings. --queues counts sets of rings_per_queue (0: 1). buffer_rings has a bit for each ring of a set whose
	 * entries are no requests but buffers that wait to be filled: they may wait for ever, and are taken together
	 * however many processes died over them. control_ring: one more ring comes after the sets, on the first thread. */
	unsigned rings_per_queue;
	unsigned buffer_rings;
	bool control_ring;

	/* System calls allowed in stage one, in the steady stage, and of those on the I/O threads; lists of
	 * tables ended by NULL. */
	const struct sandbox_rule *const *stage_one;
	const struct sandbox_rule *const *steady;
	const struct sandbox_rule *const *io;
	/* The kernel counts what its queues have there as locked memory, so that limit stays as it is; else there is none. */
	bool locks_memory;
	/* Bytes that the device may take beyond what every server and every queue has (LIMIT_DATA); it is open, and nothing
	 * hostile was read. NULL: none. */
	uint64_t (*memory)(void *dev);

	/*
	 * Options are parsed, nothing is confined yet: opens what the device needs and sets *features to its
	 * own feature bits (those of the ring and the transport are added). 0, or -errno after having logged
	 * one line: the process exits 2.
	 */
	int (*open)(void *dev, const struct server_settings *settings, uint64_t *features);
	void (*close)(void *dev);

	/* In stage one, before there are threads: what open must not do, as it reads what strangers write. It may change
	 * *features. The same; may be NULL. */
	int (*confined)(void *dev, uint64_t *features);

	/* Configuration space: all len bytes from off or -EINVAL. get_config may return -EINPROGRESS, and is asked again after
	 * server_config_ready; the front end is not heard until then. set_config may be NULL. */
	int (*get_config)(void *dev, uint32_t off, uint32_t len, uint8_t *buf);
	int (*set_config)(void *dev, uint32_t off, uint32_t len, const uint8_t *buf);

	/* Makes what one queue needs for its whole life, before the steady stage: everything that service
	 * would otherwise have to allocate. */
	int (*queue_open)(void *dev, struct server_queue *queue, void **state);
	void (*queue_close)(void *state);

	/*
	 * A queue can move from one I/O thread to another while it serves. attach registers what it has with server_loop:
	 * watches, timers; on its thread, and the first time before there is one, after queue_open. 0 or -errno. detach takes
	 * all that back, on the thread that it leaves, and before queue_close; nothing is taken then, and between the two the
	 * device is not called. A set's rings leave together and arrive one after another. May be NULL: nothing is bound.
	 */
	int (*attach)(void *state);
	void (*detach)(void *state);
	/* After server_poke, on the queue's thread. May be NULL. */
	void (*poked)(void *state);

	/* The first of the rings is about to start, and none runs. live: they were served before, and what their driver
	 * set up holds; else it begins anew. May be NULL. */
	void (*started)(void *dev, bool live, uint64_t features);

	/* The queue's ring is there and enabled, or is not any more: disabled, when requests may be under way, or forgotten, when
	 * none is, which is said of a disabled one, too. May be NULL. */
	void (*ring)(void *state, bool on);

	/* Somebody kicked the ring, with or without something new in it; service follows. May be NULL. */
	void (*kicked)(void *state);

	/* Takes requests (server_pop), starts them, completes those that are done (server_push). Every
	 * request that was taken is completed some time. True if anything was done. Never blocks. */
	bool (*service)(void *state);
	/* True if service could take one more request now. */
	bool (*has_room)(void *state);
	/* Requests that the kernel or the storage holds now, whose end a descriptor or a completed job will announce:
	 * polling would earn little meanwhile, and a watcher knows that it is not we who are slow. */
	unsigned (*held)(void *state);
	/* Since when (clock_ns) that is so because the storage is away, and not just slow; 0: it is not. For people; where it
	 * changes a pass is to follow. May be NULL. */
	uint64_t (*since)(void *state);
	/* True if service has something to do that no descriptor will announce. */
	bool (*pending)(void *state);
	/* Nothing may be taken for now, and somebody waits until nothing is: what needs no answer is given back
	 * (server_unpop), newest first. May be NULL: all that is taken is answered soon. */
	void (*release)(void *state);
	/* Of the requests that are taken, how many are parked: nothing of them is under way anywhere, they wait for what may be
	 * long in coming. They go along when the queue changes its thread, stay parked while server_rests, and outlive
	 * an orderly end of the process in the in-flight region: then the device forgets them, and the ring. What has
	 * them is not
	 * asked to release anything unless all must be done. May be NULL, both or none: none is ever. */
	unsigned (*parked)(void *state);
	void (*forget)(void *state);

	/* In a process that is dead (sandbox.h: struct sandbox_anchor): whether the kernel has finished what all queues
	 * submitted. NULL: can't be told. */
	bool (*drained)(void *dev);
	const struct sandbox_rule *drain; /* the calls that it makes */

	/* Changes a property while the device runs. 0; 1 if configuration space changed by it, of which the front end is
	 * then told; -EINVAL and such with a line in why. -EINPROGRESS: server_set_done says what became of it, and until then
	 * the device itself refuses (-EBUSY) what it can't do meanwhile, as another that would take its time. May be NULL. */
	int (*set)(void *dev, const char *key, const char *value, char *why, size_t size);

	/* Names and values of the device's own counters. */
	void (*stats)(void *dev, server_stat_fn add, void *arg);
};

/* Runs the process from its options to its end; returns the exit status. dev is the first device. */
int server_main(int argc, char **argv, const struct server_device *device, void *dev);

/* ---- what a device does with a queue ---- */

/* The next request: 1 with *chain filled (its iov is the caller's, iov_max vectors), 0 if there is none or none may
 * be taken now. A ring that the driver broke gives 0 for ever; the server has reported it. */
int server_pop(struct server_queue *queue, struct vq_chain *chain);

/* Completes a request of which written bytes of the writable part were filled; the driver sees it at the end
 * of the pass. result is for the record: 0 if all is well, else the device's own word for what is not. */
void server_push(struct server_queue *queue, uint16_t head, uint32_t written, uint32_t result);

/* Gives back a request that was taken and not touched, as if it never was: of all that are taken, the one that was taken
 * last. One that is not, or that the driver's ring does not show where it was, is completed with nothing written. */
void server_unpop(struct server_queue *queue, uint16_t head);

/* The same; false if it can't be given back, and is still taken. */
bool server_try_unpop(struct server_queue *queue, uint16_t head);

/* An order keeps the queue from working until it is carried out; what is parked stays so. After it there is a pass. */
bool server_rests(const struct server_queue *queue);

/* The thread goes on working on a request that it has, and works on none (virtq.h: vq_take_up). */
void server_take_up(struct server_queue *queue, uint16_t head);
void server_lay_down(struct server_queue *queue);

/* A request failed so that trying it again could hide it; said before server_push, it is not forgotten if the process
 * dies between the two. */
void server_fail(struct server_queue *queue, uint16_t head);

/* A request that was taken again is about to be failed, as servers died of it. */
void server_poisoned(struct server_queue *queue, uint16_t head);

/* Shows the driver now what was completed so far, so that it works on while this thread goes on. */
void server_flush(struct server_queue *queue);

/* From now on the driver is called only after so many completions, or us microseconds after the first that it wanted to
 * be called for (us 0: at once). The queue's thread. */
void server_coalesce(struct server_queue *queue, uint32_t enough, uint32_t us);

/* Gives the ring up because of a request that can't be answered (why: a few words); that request counts as
 * completed and is never pushed. */
void server_break(struct server_queue *queue, const char *why);

/* One pass: service, publish, signal. For the device's own descriptor handlers and job completions. */
void server_run(struct server_queue *queue);

/* Tells the front end that configuration space changed. Any thread. */
void server_config_changed(struct server_queue *queue);

/* What get_config left in progress can be had, if that is still asked for. Main thread. */
void server_config_ready(struct server_queue *queue);

/* Tells the supervisor, and each that comes after it, that a request failed and waits, or that what a port leads to is gone;
 * text says why, NULL that none waits any more. Main thread, or while the queues are opened. */
void server_io_error(struct server_queue *queue, const char *text);

/* A change of a property that set left in progress is done, with what set would have returned. Main thread. */
void server_set_done(struct server_queue *queue, int result, const char *why);

/* Where the queue's records go. */
struct flight_ring *server_flight(struct server_queue *queue);

/* Feature bits that the driver of the running ring acknowledged. */
uint64_t server_features(const struct server_queue *queue);

/* Requests that the running ring can hold, at most. */
uint16_t server_size(const struct server_queue *queue);

/* The running ring's memory, for marking writes in the dirty log. */
const struct mem *server_mem(const struct server_queue *queue);

unsigned server_index(const struct server_queue *queue);
/* The loop of the thread that serves the queue now; of what is registered with it attach and detach keep account. */
struct loop *server_loop(const struct server_queue *queue);
/* Has the device's poked called on the queue's thread, whichever that is by then. Main thread. */
void server_poke(struct server_queue *queue);
struct loop *server_main_loop(const struct server_queue *queue); /* for bottom halves */
struct loop_pool *server_pool(const struct server_queue *queue);

#endif
