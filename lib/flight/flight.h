/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flight recorder: memory that a process shares with those who watch it and that survives its death. It holds
 * the last things that the process did (rings of records, one for each queue and one for the main loop), words that
 * tell how each queue gets on, and the system call that the process died of, if it was a forbidden one.
 *
 * The supervisor makes a region for each child (flight_create), keeps it mapped, and gives the core a read-only
 * descriptor of it (flight_reader). The child alone writes. Everybody else takes all that is in it as
 * hostile: no size, index or address comes out of the region, only numbers to look at and text to escape.
 *
 * What may be recorded: types, sectors, lengths, descriptor numbers, results, names of our own. Never
 * addresses, never what the guest reads or writes.
 */
#ifndef FLIGHT_H
#define FLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "clock.h"

#define FLIGHT_QUEUES_MAX 64
#define FLIGHT_RECORDS    256 /* of each ring */
#define FLIGHT_WORD       16  /* bytes of a word in a record, NUL-padded; longer ones are cut */
#define FLIGHT_THREAD     16  /* bytes of a thread's name */

struct flight;

/* What a record says. Values are in files: new ones go to the end. */
enum flight_kind {
	FLIGHT_NONE,    /* no record */
	FLIGHT_REQUEST, /* a request was taken: a type, b sector, c its descriptor and bytes (flight_request) */
	FLIGHT_DONE,    /* it was completed: a descriptor, b bytes written, c result (0: good) */
	FLIGHT_AGAIN, /* a request of the predecessor was taken up again: a descriptor, b deaths that it outlived */
	FLIGHT_POISON, /* a request that servers died of is failed: a descriptor */
	FLIGHT_BUS,    /* a message came on the control bus: a type, word */
	FLIGHT_SAID,   /* a message went out on it: a type, word */
	FLIGHT_FRONT,  /* the front end asked for something: a value, word */
	FLIGHT_ORDER,  /* a queue carried out an order of the main loop: a type, word */
	FLIGHT_STATE,  /* the process or a queue came into a state: a value, word */
	FLIGHT_KIND_COUNT
};

struct flight_record {
	uint64_t time;  /* clock_ns, taken once in a pass */
	uint16_t kind;  /* enum flight_kind */
	uint16_t queue; /* UINT16_MAX: the main loop */
	uint32_t a;
	union {
		struct {
			uint64_t b, c;
		};
		char word[FLIGHT_WORD];
	};
};
_Static_assert(sizeof(struct flight_record) == 32, "the format of files");

enum flight_rest {
	FLIGHT_TAKES,    /* it does */
	FLIGHT_ORDERED,  /* an order that was carried out keeps it from that */
	FLIGHT_KEPT_BACK /* it waits while a request of another queue is tried, as processes died of one */
};

/*
 * How a queue gets on; a cache line that only the queue's own thread writes, once in a pass, relaxed. For the main
 * loop only records and turns count, and since, while the process opens its storage. A reader compares two looks and believes neither.
 */
struct flight_queue {
	_Atomic uint64_t passes; /* times that the queue was looked after */
	_Atomic uint64_t taken;  /* requests taken off the ring */
	_Atomic uint64_t held;   /* of those: inside the kernel or the storage now */
	_Atomic uint64_t done;   /* requests completed */
	_Atomic uint64_t records;
	_Atomic uint64_t resting; /* enum flight_rest: why it takes no requests */
	_Atomic uint64_t turns;   /* the main loop's, by loop_show: odd, it sleeps; 0: it does not say */
	_Atomic uint64_t
	    since; /* clock_ns since when what is held is so because its storage is away; 0: it is not */
};
_Static_assert(sizeof(struct flight_queue) == 64, "a cache line, and the format of files");

/* ---- regions ---- */

/* A region for so many queues (0: the main loop alone): a memfd that can neither shrink nor grow. The descriptor, or
 * -errno. */
int flight_create(unsigned queues);

/* A second descriptor of a region, through which it can be read and mapped but not written. Needs /proc. The
 * descriptor, or -errno. */
int flight_reader(int fd);

/* Maps a region whose descriptor comes from another process, for its whole size. -EINVAL if it is none by
 * its size, -EPERM if it could shrink under us. fd stays the caller's. */
int flight_map(int fd, bool writable, struct flight **out);

/* Maps only what says how the queues get on, for reading, with no other calls than fcntl, preadv2 and mmap; so many
 * queues as there can be, all 0 where the process has none. Nothing but flight_queue and flight_free may be
 * used on it. Errors as of flight_map. */
int flight_map_health(int fd, struct flight **out);

/* A region that nobody else sees, for a process that was given none. -errno. */
int flight_alloc(unsigned queues, struct flight **out);

/* Reads the region that a file holds from offset off to its end. -EINVAL if that is none. */
int flight_load(int fd, off_t off, struct flight **out);

/* Unmaps; the region stays as long as somebody has its descriptor. NULL is ignored. */
void flight_free(struct flight *f);

unsigned flight_queues(const struct flight *f);

/* Empties the region, for a process that is about to start. No one else may write meanwhile. */
void flight_reset(struct flight *f);

/* ---- the child's side ---- */

/* Says whose region it is from now on. */
void flight_begin(struct flight *f);

/* What a thread writes its ring through; its own, one thread at a time. */
struct flight_ring {
	struct flight_queue *queue;
	struct flight_record *record;
	uint64_t now; /* of this pass; 0: not asked for yet */
	uint64_t count;
	uint16_t index;
};

/* The ring of queue i < flight_queues, or of the main loop; to be had once. */
void flight_open_queue(struct flight *f, unsigned i, struct flight_ring *out);
void flight_open_main(struct flight *f, struct flight_ring *out);

/* Begins a pass over a queue: the clock is asked again at the next record. */
static inline void flight_pass(struct flight_ring *r)
{
	r->now = 0;
}

static inline struct flight_record *flight_next(struct flight_ring *r, enum flight_kind kind, uint32_t a)
{
	struct flight_record *rec = &r->record[r->count % FLIGHT_RECORDS];

	if (!r->now)
		r->now = clock_ns();
	rec->time = r->now;
	rec->kind = (uint16_t)kind;
	rec->queue = r->index;
	rec->a = a;
	return rec;
}

static inline void flight_commit(struct flight_ring *r)
{
	atomic_store_explicit(&r->queue->records, ++r->count, memory_order_release);
}

/* A record of numbers. No lock, no system call. */
static inline void flight_note(struct flight_ring *r, enum flight_kind kind, uint32_t a, uint64_t b,
			       uint64_t c)
{
	struct flight_record *rec = flight_next(r, kind, a);

	rec->b = b;
	rec->c = c;
	flight_commit(r);
}

/* A record with a word of ours, at the present time. */
static inline void flight_say(struct flight_ring *r, enum flight_kind kind, uint32_t a, const char *word)
{
	struct flight_record *rec;

	r->now = 0;
	rec = flight_next(r, kind, a);
	for (size_t i = 0; i < FLIGHT_WORD; i++)
		rec->word[i] = *word ? *word++ : '\0';
	flight_commit(r);
}

/* FLIGHT_REQUEST: one request. */
static inline void flight_request(struct flight_ring *r, uint32_t type, uint64_t sector, uint16_t head,
				  uint32_t bytes)
{
	flight_note(r, FLIGHT_REQUEST, type, sector, (uint64_t)head << 32 | bytes);
}

/* Sets a word of a queue's line. */
static inline void flight_set(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_relaxed);
}

/* ---- a forbidden system call ---- */

struct flight_trap {
	int nr;                     /* number of the call, in its architecture's table */
	uint32_t arch;              /* AUDIT_ARCH_* */
	char thread[FLIGHT_THREAD]; /* who made it; not necessarily terminated */
};

/* Leaves word of one in the region f, for sandbox_set_trap; a long name of a thread is cut. Async-signal-safe. The first
 * one counts. */
void flight_note_trap(void *f, int nr, uint32_t arch, const char *thread);

/* ---- the readers' side ---- */

/* The line of queue i < flight_queues, or NULL; and the main loop's. */
const struct flight_queue *flight_queue(const struct flight *f, unsigned i);
const struct flight_queue *flight_main(const struct flight *f);

static inline uint64_t flight_get(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed);
}

/* True if the process left word of a forbidden call; thread is terminated and printable then. */
bool flight_get_trap(const struct flight *f, struct flight_trap *out);

/* Writes the whole region to fd, from its position. 0 or -errno. */
int flight_save(const struct flight *f, int fd);

/* Prints the region, the records of all rings in the order of time. Of a running process it is a sketch: a
 * record that is written meanwhile may be mixed up. -ENOMEM, or an error of the file. */
int flight_dump(const struct flight *f, FILE *to);

#endif
