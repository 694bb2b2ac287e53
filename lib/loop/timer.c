/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers: a binary heap by time, its room reserved when a timer is made so that arming never allocates.
 *
 * What has expired is first moved from the heap to a list and then run from there, so a timer that re-arms itself
 * for a time already past runs once in a pass, and handlers may arm, disarm and delete any timer.
 */
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "loop_priv.h"

static bool earlier(const struct loop_timer *a, const struct loop_timer *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

static void put(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	ts->heap[pos] = t;
	t->pos = pos;
}

/* Moves t, whose place is free to change, from pos towards the root. */
static void sift_up(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	while (pos) {
		size_t parent = (pos - 1) / 2;

		if (!earlier(t, ts->heap[parent]))
			break;
		put(ts, pos, ts->heap[parent]);
		pos = parent;
	}
	put(ts, pos, t);
}

/* Moves t from pos towards the leaves, then up if it did not belong there. */
static void sift_down(struct loop_timers *ts, size_t pos, struct loop_timer *t)
{
	for (;;) {
		size_t child = 2 * pos + 1;

		if (child >= ts->armed)
			break;
		if (child + 1 < ts->armed && earlier(ts->heap[child + 1], ts->heap[child]))
			child++;
		if (!earlier(ts->heap[child], t))
			break;
		put(ts, pos, ts->heap[child]);
		pos = child;
	}
	sift_up(ts, pos, t);
}

static void heap_remove(struct loop_timers *ts, struct loop_timer *t)
{
	struct loop_timer *last = ts->heap[--ts->armed];

	if (last != t)
		sift_down(ts, t->pos, last);
	t->state = TIMER_IDLE;
}

static void due_append(struct loop_timers *ts, struct loop_timer *t)
{
	t->state = TIMER_DUE;
	t->next = NULL;
	t->prev = ts->due_last;
	if (ts->due_last)
		ts->due_last->next = t;
	else
		ts->due_first = t;
	ts->due_last = t;
}

static void due_remove(struct loop_timers *ts, struct loop_timer *t)
{
	if (t->prev)
		t->prev->next = t->next;
	else
		ts->due_first = t->next;
	if (t->next)
		t->next->prev = t->prev;
	else
		ts->due_last = t->prev;
	t->state = TIMER_IDLE;
}

int loop_add_timer(struct loop *loop, void (*fn)(void *arg), void *arg, struct loop_timer **out)
{
	struct loop_timers *ts = &loop->timers;
	struct loop_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (ts->count == ts->room) {
		size_t room = ts->room ? 2 * ts->room : 8;
		struct loop_timer **heap = reallocarray(ts->heap, room, sizeof(*heap));

		if (!heap) {
			free(t);
			return -ENOMEM;
		}
		ts->heap = heap;
		ts->room = room;
	}
	ts->count++;
	t->loop = loop;
	t->fn = fn;
	t->arg = arg;
	t->all_next = ts->all;
	if (t->all_next)
		t->all_next->all_prev = t;
	ts->all = t;
	*out = t;
	return 0;
}

void loop_arm_timer(struct loop_timer *t, uint64_t at_ns)
{
	struct loop_timers *ts = &t->loop->timers;

	loop_disarm_timer(t);
	t->at_ns = at_ns;
	t->seq = ts->next_seq++;
	t->state = TIMER_ARMED;
	sift_up(ts, ts->armed++, t);
}

void loop_disarm_timer(struct loop_timer *t)
{
	if (t->state == TIMER_ARMED)
		heap_remove(&t->loop->timers, t);
	else if (t->state == TIMER_DUE)
		due_remove(&t->loop->timers, t);
}

void loop_del_timer(struct loop_timer *t)
{
	if (!t)
		return;
	loop_disarm_timer(t);
	t->loop->timers.count--;
	if (t->all_prev)
		t->all_prev->all_next = t->all_next;
	else
		t->loop->timers.all = t->all_next;
	if (t->all_next)
		t->all_next->all_prev = t->all_prev;
	free(t);
}

uint64_t loop_timer_next(const struct loop *loop)
{
	return loop->timers.armed ? loop->timers.heap[0]->at_ns : UINT64_MAX;
}

void loop_timer_run(struct loop *loop)
{
	struct loop_timers *ts = &loop->timers;
	struct loop_timer *t;
	uint64_t now;

	if (!ts->armed)
		return;
	now = clock_ns();
	while (ts->armed && ts->heap[0]->at_ns <= now) {
		t = ts->heap[0];
		heap_remove(ts, t);
		due_append(ts, t);
	}
	while ((t = ts->due_first)) {
		due_remove(ts, t);
		t->fn(t->arg);
	}
}
