/* SPDX-License-Identifier: Apache-2.0 */
/* The layout of a region: a head, a line for each ring, the rings. */
#ifndef FLIGHT_PRIV_H
#define FLIGHT_PRIV_H

#include "flight.h"

#define FLIGHT_MAGIC   0x7468676c66686b62ULL /* "bkhflght" */
#define FLIGHT_VERSION 1U
#define FLIGHT_HEAD    8192U /* bytes before the first ring */
#define FLIGHT_LINES   256U  /* offset of the lines in the head; the first is the main loop's */
#define FLIGHT_RING    (FLIGHT_RECORDS * (unsigned)sizeof(struct flight_record))
_Static_assert(FLIGHT_LINES + (FLIGHT_QUEUES_MAX + 1) * sizeof(struct flight_queue) <= FLIGHT_HEAD,
	       "the lines fit into the head");

struct flight_head {
	uint64_t magic;
	uint32_t version;
	int32_t pid; /* as the process sees it */
	uint64_t start;
	_Atomic uint32_t trapped; /* 0, or 1 while trap is being written, or 2 */
	int32_t trap_nr;
	uint32_t trap_arch;
	char trap_thread[FLIGHT_THREAD];
};
_Static_assert(sizeof(struct flight_head) <= FLIGHT_LINES, "the head's words end before the lines");

struct flight {
	uint8_t *base;
	size_t size;
	unsigned queues; /* by the size alone */
	bool mapped;     /* else base is from malloc */
};

/* The head, line i and ring i; 0 is the main loop, i + 1 is queue i. */
static inline struct flight_head *flight_head(const struct flight *f)
{
	return (struct flight_head *)(void *)f->base;
}

static inline struct flight_queue *flight_line(const struct flight *f, unsigned i)
{
	return (struct flight_queue *)(void *)(f->base + FLIGHT_LINES) + i;
}

static inline struct flight_record *flight_records(const struct flight *f, unsigned i)
{
	return (struct flight_record *)(void *)(f->base + FLIGHT_HEAD + (size_t)i * FLIGHT_RING);
}

#endif
