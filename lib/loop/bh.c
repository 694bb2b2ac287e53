/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bottom halves: functions posted to a loop from any thread.
 *
 * Theory of operation
 *
 * Posters push on a stack (compare and swap on loop->posted); the loop takes the whole stack with one exchange
 * and turns it round, which gives posting order. Nothing is ever popped singly, so there is no ABA problem. A
 * poster reads nothing of the bottom half after its push: the function may run, and free it, at once.
 *
 * Coalescing. bh->queued goes 0 → 1 in the post that pushes, and 1 → 0 in the loop before the function runs,
 * both by exchange. A post that finds 1 relies on a run that has yet to make its exchange; that exchange reads
 * from the poster's (or a later one) and so acquires what the poster wrote. A post during the function finds
 * 0 and pushes again. No post is lost.
 *
 * No lost wake-up. Writing the eventfd costs a system call, so it is done only for a loop that may be asleep:
 *
 *	loop                                      poster
 *	L1  asleep = true                         P1  push on posted
 *	L2  if posted or stop: don't wait         P2  if exchange(asleep, false):
 *	L3  wait for descriptors                  P3          write the eventfd
 *	L4  asleep = false
 *
 * L1, L2, P1 and P2 are sequentially consistent, so they have one order. If P1 precedes L2, the loop sees the
 * bottom half and does not wait. Otherwise L1 < L2 < P1 < P2: the poster finds asleep true and writes the
 * eventfd, unless another poster's P2 came between L1 and its own and took the flag, and then that one writes
 * it, after L1. (If L4 cleared the flag, the loop is awake already, and looks at posted before it sleeps
 * again.) The eventfd is watched edge-triggered, so each write makes the present or the next wait return. A
 * write that comes late, from a poster that took the flag before the loop woke for another reason, ends one
 * more wait for nothing; it is the only spurious wake-up, and an idle loop has none. stop is treated as
 * posted is.
 */
#include <errno.h>
#include <unistd.h>

#include "loop_priv.h"

void loop_wake(struct loop *loop)
{
	uint64_t one = 1;
	int saved = errno;
	ssize_t n;

	/* The plain load first spares the cache line when the loop is busy. */
	if (atomic_load(&loop->asleep) && atomic_exchange(&loop->asleep, false)) {
		do
			n = write(loop->wake_fd, &one, sizeof(one));
		while (n < 0 && errno == EINTR);
	}
	errno = saved;
}

void loop_bh_init(struct loop_bh *bh, struct loop *loop, void (*fn)(void *arg), void *arg)
{
	bh->loop = loop;
	bh->fn = fn;
	bh->arg = arg;
	bh->next = NULL;
	atomic_init(&bh->queued, 0);
}

void loop_bh_post(struct loop_bh *bh)
{
	struct loop *loop = bh->loop;
	struct loop_bh *head;

	if (atomic_exchange(&bh->queued, 1))
		return;
	head = atomic_load_explicit(&loop->posted, memory_order_relaxed);
	do
		bh->next = head;
	while (!atomic_compare_exchange_weak(&loop->posted, &head, bh));
	loop_wake(loop);
}

static void append(struct bh_list *list, struct loop_bh *first, struct loop_bh *last)
{
	if (list->first)
		list->last->next = first;
	else
		list->first = first;
	list->last = last;
}

/* Moves what was posted to the end of ready, in posting order. */
static void take_posted(struct loop *loop)
{
	struct loop_bh *newest = atomic_exchange(&loop->posted, NULL);
	struct loop_bh *first = NULL, *bh = newest;

	while (bh) {
		struct loop_bh *older = bh->next;

		bh->next = first;
		first = bh;
		bh = older;
	}
	if (first)
		append(&loop->ready, first, newest);
}

bool loop_bh_pending(struct loop *loop)
{
	return loop->ready.first || atomic_load(&loop->posted);
}

void loop_bh_run(struct loop *loop)
{
	struct loop_bh *bh;

	if (!loop_bh_pending(loop))
		return;
	take_posted(loop);
	loop->running = loop->ready;
	loop->ready = (struct bh_list) { 0 };
	while ((bh = loop->running.first)) {
		void (*fn)(void *) = bh->fn;
		void *arg = bh->arg;

		loop->running.first = bh->next;
		atomic_exchange(&bh->queued, 0);
		fn(arg);
	}
}

static bool unlink_bh(struct bh_list *list, struct loop_bh *bh)
{
	struct loop_bh *before = NULL;

	for (struct loop_bh *at = list->first; at; before = at, at = at->next) {
		if (at != bh)
			continue;
		if (before)
			before->next = bh->next;
		else
			list->first = bh->next;
		if (list->last == bh)
			list->last = before;
		return true;
	}
	return false;
}

void loop_bh_cancel(struct loop_bh *bh)
{
	struct loop *loop = bh->loop;

	if (!atomic_load(&bh->queued))
		return;
	take_posted(loop);
	if (unlink_bh(&loop->running, bh) || unlink_bh(&loop->ready, bh))
		atomic_exchange(&bh->queued, 0);
}
