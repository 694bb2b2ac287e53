/* SPDX-License-Identifier: Apache-2.0 */
/* The engines that there are, and those that are open. */
#include "engine.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "num.h"

static _Atomic(struct engine *) open_ones[ENGINE_MAX];

const struct engine_ops *engine_find(const char *name)
{
	static const struct engine_ops *const all[] = { &engine_aio, &engine_io_uring, &engine_null };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (!strcmp(name, all[i]->name))
			return all[i];
	return NULL;
}

bool engine_list(struct engine *old, struct engine *new)
{
	for (size_t i = 0; i < ENGINE_MAX; i++) {
		struct engine *expected = old;

		if (atomic_compare_exchange_strong(&open_ones[i], &expected, new))
			return true;
	}
	return false;
}

bool engine_all(bool (*is)(const struct engine *engine))
{
	for (size_t i = 0; i < ENGINE_MAX; i++) {
		const struct engine *e = atomic_load_explicit(&open_ones[i], memory_order_acquire);

		if (e && !is(e))
			return false;
	}
	return true;
}
