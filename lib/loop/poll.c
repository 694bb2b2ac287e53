/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adaptive polling: before the loop sleeps it looks for a while at what may become ready without a descriptor.
 *
 * The window grows and shrinks with what it earns. A sleep that ended sooner than poll_max would have been saved
 * by a longer window: double it. One that lasted longer would have burnt the window for nothing: halve it, down
 * to none. So a busy ring is polled and an idle one costs nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "loop_priv.h"
#include "num.h"

#define LOOKS         4    /* before the clock is read again, which costs about as much as a look */
#define WINDOW_MIN_NS 4000 /* about what a sleep and its wake-up cost; a shorter window can't pay */

int loop_add_poller(struct loop *loop, const struct loop_poll_ops *ops, void *arg, struct loop_poller **out)
{
	struct loop_poller *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->loop = loop;
	p->ops = ops;
	p->arg = arg;
	p->next = loop->polling.first;
	if (p->next)
		p->next->prev = p;
	loop->polling.first = p;
	*out = p;
	return 0;
}

void loop_del_poller(struct loop_poller *p)
{
	struct loop_polling *polling;

	if (!p)
		return;
	polling = &p->loop->polling;
	if (polling->cursor == p)
		polling->cursor = p->next;
	if (p->prev)
		p->prev->next = p->next;
	else
		polling->first = p->next;
	if (p->next)
		p->next->prev = p->prev;
	free(p);
}

static void set_window(struct loop *loop, uint64_t ns)
{
	loop->polling.window_ns = ns;
	atomic_store_explicit(&loop->stat_poll_ns, ns, memory_order_relaxed);
}

void loop_set_poll_max(struct loop *loop, uint64_t ns)
{
	loop->polling.max_ns = ns;
}

/* The next poller to visit, NULL at the end. */
static struct loop_poller *next_poller(struct loop_polling *polling)
{
	struct loop_poller *p = polling->cursor;

	if (p)
		polling->cursor = p->next;
	return p;
}

bool loop_poll_once(struct loop *loop)
{
	struct loop_poller *p;
	bool work = false;

	loop->polling.cursor = loop->polling.first;
	while ((p = next_poller(&loop->polling)))
		work |= p->ops->poll(p->arg);
	return work;
}

bool loop_poll_window(struct loop *loop, uint64_t end_ns)
{
	uint64_t window = MIN(loop->polling.window_ns, loop->polling.max_ns), now, until = 0;

	if (!loop->polling.first || !window)
		return false;
	do {
		for (unsigned i = 0; i < LOOKS; i++) {
			if (loop_poll_once(loop) || loop_bh_pending(loop) || atomic_load(&loop->stop)) {
				loop_count(&loop->stat_poll_hits);
				return true;
			}
			__builtin_ia32_pause();
		}
		/* A busy ring is found at the first looks, without any. */
		now = clock_ns();
		if (!until)
			until = MIN(end_ns, now + window);
	} while (now < until);
	loop_count(&loop->stat_poll_misses);
	return false;
}

bool loop_poll_before_sleep(struct loop *loop)
{
	struct loop_poller *p;
	bool work = false;

	loop->polling.cursor = loop->polling.first;
	while ((p = next_poller(&loop->polling))) {
		p->armed = true;
		work |= p->ops->sleep(p->arg);
	}
	return work;
}

void loop_poll_after_sleep(struct loop *loop)
{
	struct loop_poller *p;

	loop->polling.cursor = loop->polling.first;
	while ((p = next_poller(&loop->polling))) {
		if (!p->armed)
			continue;
		p->armed = false;
		p->ops->wake(p->arg);
	}
}

void loop_poll_adapt(struct loop *loop, uint64_t waited_ns, bool by_event)
{
	struct loop_polling *polling = &loop->polling;
	uint64_t window = polling->window_ns;

	if (!polling->first || !polling->max_ns)
		return;
	if (waited_ns > polling->max_ns) {
		window /= 2;
		set_window(loop, window < WINDOW_MIN_NS ? 0 : window);
	} else if (by_event) {
		window = window ? 2 * window : WINDOW_MIN_NS;
		set_window(loop, MIN(window, polling->max_ns));
	}
}
