/* SPDX-License-Identifier: Apache-2.0 */
/* The end of the guest, posted once. */
#include "end.h"

#include "num.h"

void end_init(struct end *end, struct loop *loop, void (*fn)(void *arg), void *arg)
{
	atomic_init(&end->state, 0);
	loop_bh_init(&end->bh, loop, fn, arg);
}

void end_post(struct end *end, enum end_reason reason, uint32_t value)
{
	uint64_t alive = 0;

	if (atomic_compare_exchange_strong(&end->state, &alive, (uint64_t)value << 32 | (uint32_t)reason))
		loop_bh_post(&end->bh);
}

enum end_reason end_reason(const struct end *end)
{
	return (enum end_reason)(uint32_t)atomic_load(&end->state);
}

uint32_t end_value(const struct end *end)
{
	return (uint32_t)(atomic_load(&end->state) >> 32);
}

const char *end_name(enum end_reason reason)
{
	static const char *const names[] = {
		[END_NONE] = "none",
		[END_POWEROFF] = "poweroff",
		[END_RESET] = "reset",
		[END_PANIC] = "panic",
		[END_TRIPLE_FAULT] = "triple fault",
		[END_DEBUG_EXIT] = "debug exit",
		[END_KVM_ERROR] = "KVM error",
	};

	return (unsigned)reason < ARRAY_SIZE(names) ? names[reason] : "unknown";
}
