/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A region as text. Whatever it holds was written by a process that may have been taken over: every number is
 * printed as it is, every text is escaped, and nothing is followed.
 */
#include "flight_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "clean.h"
#include "num.h"

/* A copy of a record, and its place, so that records of one time keep their order. */
struct line {
	struct flight_record rec;
	unsigned place;
};

static void print_word(FILE *to, const char *word, size_t max)
{
	for (size_t i = 0; i < max && word[i]; i++)
		fputc(word[i] < ' ' || word[i] > '~' ? '?' : word[i], to);
}

static void print_request(FILE *to, const struct flight_record *r)
{
	static const char *const types[] = {
		[0] = "read", [1] = "write", [4] = "flush", [8] = "id", [11] = "discard", [13] = "zero",
	};
	const char *type = r->a < ARRAY_SIZE(types) ? types[r->a] : NULL;

	if (type)
		fprintf(to, "%s", type);
	else
		fprintf(to, "type %" PRIu32, r->a);
	fprintf(to, " sector %" PRIu64 " bytes %" PRIu64 " descriptor %" PRIu64, r->b, r->c & UINT32_MAX,
		r->c >> 32);
}

static void print_done(FILE *to, const struct flight_record *r)
{
	fprintf(to, "descriptor %" PRIu32 " written %" PRIu64, r->a, r->b);
	if (r->c)
		fprintf(to, " result %" PRIu64, r->c);
}

static void print_again(FILE *to, const struct flight_record *r)
{
	fprintf(to, "descriptor %" PRIu32 ", deaths %" PRIu64, r->a, r->b);
}

static void print_descriptor(FILE *to, const struct flight_record *r)
{
	fprintf(to, "descriptor %" PRIu32, r->a);
}

static void print_named(FILE *to, const struct flight_record *r)
{
	print_word(to, r->word, FLIGHT_WORD);
	if (r->a)
		fprintf(to, " %" PRIu32, r->a);
}

static void print_numbers(FILE *to, const struct flight_record *r)
{
	fprintf(to, "%u: %" PRIu32 " %" PRIu64 " %" PRIu64, r->kind, r->a, r->b, r->c);
}

static const struct {
	const char *name;
	void (*print)(FILE *to, const struct flight_record *r);
} kinds[] = {
	[FLIGHT_NONE] = { "none", print_numbers },        [FLIGHT_REQUEST] = { "request", print_request },
	[FLIGHT_DONE] = { "done", print_done },           [FLIGHT_AGAIN] = { "again", print_again },
	[FLIGHT_POISON] = { "poison", print_descriptor }, [FLIGHT_BUS] = { "bus", print_named },
	[FLIGHT_SAID] = { "said", print_named },          [FLIGHT_FRONT] = { "front end", print_named },
	[FLIGHT_ORDER] = { "order", print_named },        [FLIGHT_STATE] = { "state", print_named },
};
_Static_assert(ARRAY_SIZE(kinds) == FLIGHT_KIND_COUNT, "each kind of record can be printed");

static void print_line(FILE *to, const struct flight_record *r, uint64_t newest)
{
	fprintf(to, "%14.6f  ", -(double)(newest - r->time) / (double)NS_PER_S);
	if (r->queue == UINT16_MAX)
		fprintf(to, "main      ");
	else
		fprintf(to, "queue %-3u ", r->queue);
	if (r->kind < FLIGHT_KIND_COUNT) {
		fprintf(to, "%-9s ", kinds[r->kind].name);
		kinds[r->kind].print(to, r);
	} else {
		fprintf(to, "%-9s ", "kind");
		print_numbers(to, r);
	}
	fputc('\n', to);
}

static int compare(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->rec.time != y->rec.time)
		return x->rec.time < y->rec.time ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/* Copies the records of all rings, each from its oldest on; how many. */
static size_t collect(const struct flight *f, struct line *lines)
{
	size_t n = 0;

	for (unsigned ring = 0; ring <= f->queues; ring++) {
		const struct flight_record *records = flight_records(f, ring);
		uint64_t next = atomic_load_explicit(&flight_line(f, ring)->records, memory_order_acquire);

		for (unsigned i = 0; i < FLIGHT_RECORDS; i++) {
			struct line *line = &lines[n];

			line->rec = records[(next + i) % FLIGHT_RECORDS];
			line->place = ring * FLIGHT_RECORDS + i;
			n += line->rec.kind != FLIGHT_NONE;
		}
	}
	return n;
}

static void print_head(const struct flight *f, FILE *to)
{
	struct flight_trap trap;

	if (flight_get_trap(f, &trap))
		fprintf(to, "forbidden system call %d, architecture 0x%" PRIx32 ", thread %s\n", trap.nr,
			trap.arch, trap.thread);
	for (unsigned i = 0; i < f->queues; i++) {
		const struct flight_queue *q = flight_queue(f, i);

		if (!flight_get(&q->passes) && !flight_get(&q->records))
			continue;
		fprintf(to,
			"queue %u: passes %" PRIu64 ", taken %" PRIu64 ", held %" PRIu64 ", done %" PRIu64
			", records %" PRIu64 "\n",
			i, flight_get(&q->passes), flight_get(&q->taken), flight_get(&q->held),
			flight_get(&q->done), flight_get(&q->records));
	}
}

int flight_dump(const struct flight *f, FILE *to)
{
	CLEAN_FREE struct line *lines = calloc(((size_t)f->queues + 1) * FLIGHT_RECORDS, sizeof(*lines));
	size_t n;

	if (!lines)
		return -ENOMEM;
	n = collect(f, lines);
	qsort(lines, n, sizeof(*lines), compare);
	print_head(f, to);
	fprintf(to, "%zu records; seconds before the newest:\n", n);
	for (size_t i = 0; i < n; i++)
		print_line(to, &lines[i].rec, lines[n - 1].rec.time);
	if (fflush(to))
		return -errno;
	return ferror(to) ? -EIO : 0;
}
