/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that is always ready, for the loop's tests. */
#include "loop_watch.h"

#include <criterion/criterion.h>
#include <sys/eventfd.h>

void watch_ready(void *arg, uint32_t events)
{
	struct watch *w = arg;

	w->calls++;
	w->events = events;
	if (w->victim && w->mod != ~0U)
		cr_assert_eq(loop_mod_fd(w->victim->h, w->mod), 0);
	else if (w->victim) {
		loop_del_fd(w->victim->h);
		w->victim->h = NULL;
	}
}

void watch_add(struct loop *loop, struct watch *w, uint32_t events)
{
	w->mod = ~0U;
	w->fd = eventfd(1, EFD_NONBLOCK);
	cr_assert_geq(w->fd, 0);
	cr_assert_eq(loop_add_fd(loop, w->fd, events, watch_ready, w, &w->h), 0);
}
