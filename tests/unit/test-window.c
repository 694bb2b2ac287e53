/* SPDX-License-Identifier: Apache-2.0 */
/* The window's pages, and its ring towards a server that may write anything. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "num.h"
#include "outring.h"

/* ---- pages ---- */

Test(window, pages_are_given_once_and_low)
{
	struct arena a;

	cr_assert_eq(arena_init(&a, 200), 0);
	cr_assert_eq(arena_take(&a, 1), 0);
	cr_assert_eq(arena_take(&a, 100), 1);
	cr_assert_eq(arena_take(&a, 100), ARENA_NONE, "there are 99 left");
	cr_assert_eq(arena_take(&a, 99), 101);
	cr_assert_eq(arena_take(&a, 1), ARENA_NONE);
	arena_give(&a, 60, 10);
	cr_assert_eq(arena_take(&a, 11), ARENA_NONE);
	cr_assert_eq(arena_take(&a, 10), 60, "a run over the end of a word");
	arena_clear(&a);
	cr_assert_eq(arena_take(&a, 200), 0);
	arena_free(&a);
}

/* Against a plain map of bytes. */
Test(window, pages_never_overlap)
{
	enum { PAGES = 517, RUNS = 40 };
	struct {
		uint32_t first, n;
	} run[RUNS] = { { 0 } };
	uint8_t used[PAGES] = { 0 };
	struct arena a;

	cr_assert_eq(arena_init(&a, PAGES), 0);
	srand(1);
	for (unsigned turn = 0; turn < 20000; turn++) {
		unsigned r = (unsigned)rand() % RUNS;

		if (run[r].n) {
			arena_give(&a, run[r].first, run[r].n);
			memset(used + run[r].first, 0, run[r].n);
			run[r].n = 0;
			continue;
		}
		run[r].n = 1 + (uint32_t)rand() % 40;
		run[r].first = arena_take(&a, run[r].n);
		if (run[r].first == ARENA_NONE) {
			uint32_t longest = 0, len = 0;

			for (unsigned i = 0; i < PAGES; i++) {
				len = used[i] ? 0 : len + 1;
				longest = MAX(longest, len);
			}
			cr_assert_lt(longest, run[r].n, "there was room");
			run[r].n = 0;
			continue;
		}
		cr_assert_leq(run[r].first + run[r].n, PAGES);
		for (uint32_t i = 0; i < run[r].n; i++)
			cr_assert_not(used[run[r].first + i]++, "a page twice");
	}
	arena_free(&a);
}

/* ---- the ring ---- */

struct rig {
	uint8_t *memory;
	struct outring ring;
};

static struct rig make(bool event_idx)
{
	struct rig r = { .memory = aligned_alloc(4096, OUTRING_BYTES) };

	cr_assert_not_null(r.memory);
	memset(r.memory, 0xff, OUTRING_BYTES);
	outring_init(&r.ring, r.memory, event_idx);
	return r;
}

static void give(struct rig *r, uint16_t slot)
{
	const struct outring_part parts[] = { { .gpa = 0x1000, .len = 16 },
					      { .gpa = 0x2000, .len = 1, .write = true } };

	outring_add(&r->ring, slot, parts, 2);
	outring_show(&r->ring);
}

/* What the device's side writes: an element, then the index. */
static void use(struct rig *r, uint16_t at, uint32_t id, uint32_t len, uint16_t idx)
{
	uint32_t element[2] = { id, len };

	memcpy(r->memory + OUTRING_USED + 4 + 8UL * at, element, sizeof(element));
	memcpy(r->memory + OUTRING_USED + 2, &idx, sizeof(idx));
}

Test(window, requests_go_out_and_come_back)
{
	struct rig r = make(false);
	uint16_t slot, head, idx;
	uint32_t len;
	uint64_t desc[4];

	for (uint32_t i = 0; i < 70000; i++) { /* more than the index counts */
		uint16_t s = (uint16_t)(i * 7 % OUTRING_SLOTS);

		give(&r, s);
		memcpy(&idx, r.memory + OUTRING_AVAIL + 2, sizeof(idx));
		cr_assert_eq(idx, (uint16_t)(i + 1));
		memcpy(&head, r.memory + OUTRING_AVAIL + 4 + 2 * (i % OUTRING_SIZE), sizeof(head));
		cr_assert_eq(head, s * OUTRING_PARTS);
		memcpy(desc, r.memory + 16UL * head, sizeof(desc));
		cr_assert_eq(desc[0], 0x1000);
		cr_assert_eq(desc[1], 16 | 1ULL << 32 | (uint64_t)(head + 1) << 48);
		cr_assert_eq(desc[2], 0x2000);
		cr_assert_eq(desc[3] & UINT64_MAX >> 16, 1 | 2ULL << 32);
		cr_assert_eq(outring_take(&r.ring, &slot, &len), 0, "nothing was used");
		use(&r, (uint16_t)(i % OUTRING_SIZE), head, i, (uint16_t)(i + 1));
		cr_assert_eq(outring_take(&r.ring, &slot, &len), 1);
		cr_assert_eq(slot, s);
		cr_assert_eq(len, i);
	}
	free(r.memory);
}

Test(window, an_index_that_jumps_is_refused)
{
	static const uint16_t jumps[] = { 1, 3, 40000, 65535 };

	for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++) {
		struct rig r = make(true);
		uint16_t slot;
		uint32_t len;

		if (jumps[i] != 1) {
			give(&r, 1);
			give(&r, 2);
		}
		use(&r, 0, OUTRING_PARTS, 1, jumps[i]);
		cr_assert_eq(outring_take(&r.ring, &slot, &len), -EPROTO, "index %u", jumps[i]);
		free(r.memory);
	}
}

Test(window, ids_of_no_request_are_refused)
{
	static const uint32_t ids[] = { 1, OUTRING_PARTS + 3, OUTRING_SIZE, 65536, UINT32_MAX, 1U << 31 };

	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		struct rig r = make(true);
		uint16_t slot;
		uint32_t len;

		give(&r, 0);
		use(&r, 0, ids[i], 1, 1);
		cr_assert_eq(outring_take(&r.ring, &slot, &len), -ERANGE, "id %u", ids[i]);
		free(r.memory);
	}
}

/* What the device's side writes over the driver's changes nothing of what goes out next, and nothing that was taken comes
 * again. */
Test(window, nothing_is_read_back)
{
	struct rig r = make(false);
	uint16_t slot, idx;
	uint32_t len;

	give(&r, 3);
	use(&r, 0, 3 * OUTRING_PARTS, 5, 1);
	cr_assert_eq(outring_take(&r.ring, &slot, &len), 1);
	memset(r.memory, 0xa5, OUTRING_USED); /* descriptors and the available ring */
	cr_assert_eq(outring_take(&r.ring, &slot, &len), 0);
	give(&r, 4);
	memcpy(&idx, r.memory + OUTRING_AVAIL + 2, sizeof(idx));
	cr_assert_eq(idx, 2);
	use(&r, 1, 4 * OUTRING_PARTS, 6, 2);
	cr_assert_eq(outring_take(&r.ring, &slot, &len), 1);
	cr_assert_eq(slot, 4);
	free(r.memory);
}

Test(window, kicks_and_calls_are_as_they_are_wanted)
{
	struct rig r = make(true);
	const struct outring_part part = { .gpa = 0x1000, .len = 1 };
	uint16_t event = 1, no_notify = 1, slot;
	uint32_t len;

	outring_add(&r.ring, 0, &part, 1);
	cr_assert(outring_show(&r.ring), "the first one");
	outring_add(&r.ring, 1, &part, 1);
	cr_assert_not(outring_show(&r.ring), "none is wanted");
	memcpy(r.memory + OUTRING_USED + 4 + 8UL * OUTRING_SIZE, &event, sizeof(event));
	outring_add(&r.ring, 2, &part, 1);
	cr_assert_not(outring_show(&r.ring), "the event is behind");
	event = 3;
	memcpy(r.memory + OUTRING_USED + 4 + 8UL * OUTRING_SIZE, &event, sizeof(event));
	outring_add(&r.ring, 3, &part, 1);
	cr_assert(outring_show(&r.ring));

	cr_assert_not(outring_want_call(&r.ring));
	use(&r, 0, 0, 0, 1);
	cr_assert(outring_want_call(&r.ring), "it is there already");
	cr_assert_eq(outring_take(&r.ring, &slot, &len), 1);
	cr_assert_not(outring_want_call(&r.ring));
	memcpy(&event, r.memory + OUTRING_AVAIL + 4 + 2UL * OUTRING_SIZE, sizeof(event));
	cr_assert_eq(event, 1, "the next one");
	free(r.memory);

	r = make(false);
	memcpy(r.memory + OUTRING_USED, &no_notify, sizeof(no_notify));
	outring_add(&r.ring, 0, &part, 1);
	cr_assert_not(outring_show(&r.ring));
	free(r.memory);
}
