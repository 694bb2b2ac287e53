/* SPDX-License-Identifier: Apache-2.0 */
/* The address space: who answers, how accesses are split, and changes while others look. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "num.h"
#include "space.h"

/* A model that remembers its last access and answers with its id in every byte. */
struct model {
	uint64_t id, off, value;
	unsigned size, calls;
};

static uint64_t model_read(void *owner, uint64_t off, unsigned size)
{
	struct model *m = owner;

	m->off = off;
	m->size = size;
	m->calls++;
	return m->id * 0x0101010101010101ULL;
}

static void model_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct model *m = owner;

	m->off = off;
	m->size = size;
	m->value = value;
	m->calls++;
}

static const struct space_ops ops = { .read = model_read, .write = model_write };
static const struct space_ops byte_ops = { .read = model_read, .write = model_write, .max = 1 };

static struct space *space;

static void set_up(void)
{
	cr_assert_eq(space_new(0, &space), 0);
	space_thread_enter();
}

static void tear_down(void)
{
	space_thread_leave();
	space_free(space);
}

static int add(uint64_t base, uint64_t size, struct model *m)
{
	return space_add(space, &(struct space_range) { base, size, &ops, m });
}

static uint64_t rd(uint64_t addr, unsigned len)
{
	uint64_t v = 0;

	space_access(space, addr, &v, len, false);
	return v;
}

TestSuite(core_space, .init = set_up, .fini = tear_down);

Test(core_space, unclaimed_reads_all_ones)
{
	struct model m = { .id = 1 };

	cr_assert_eq(rd(0x1000, 4), 0xffffffff);
	cr_assert_eq(add(0x1000, 4, &m), 0);
	cr_assert_eq(rd(0xfff, 1), 0xff);
	cr_assert_eq(rd(0x1004, 1), 0xff);
	cr_assert_eq(rd(0x1003, 1), 0x01);
	cr_assert_eq(rd(UINT64_MAX - 1, 8), UINT64_MAX);
}

Test(core_space, refuses_overlap_wrap_and_empty)
{
	struct model m = { .id = 1 };

	cr_assert_eq(add(0x1000, 0x1000, &m), 0);
	cr_assert_eq(add(0x0fff, 2, &m), -EEXIST);
	cr_assert_eq(add(0x1fff, 1, &m), -EEXIST);
	cr_assert_eq(add(0x0000, 0x3000, &m), -EEXIST);
	cr_assert_eq(add(0x1400, 0x10, &m), -EEXIST);
	cr_assert_eq(add(0x3000, 0, &m), -EINVAL);
	cr_assert_eq(add(UINT64_MAX, 2, &m), -EINVAL);
	cr_assert_eq(add(0x2000, 0x10, &m), 0);
	cr_assert_eq(add(0x0ff0, 0x10, &m), 0);
	cr_assert_eq(add(UINT64_MAX, 1, &m), 0);
	cr_assert_eq(space_remove(space, 0x1001), -ENOENT);
	cr_assert_eq(space_remove(space, 0x1000), 0);
	cr_assert_eq(rd(0x1000, 1), 0xff);
}

Test(core_space, refuses_beyond_the_limit)
{
	struct space *pio;
	struct model m = { .id = 1 };

	cr_assert_eq(space_new(0x10000, &pio), 0);
	cr_assert_eq(space_add(pio, &(struct space_range) { 0xfff0, 0x11, &ops, &m }), -EINVAL);
	cr_assert_eq(space_add(pio, &(struct space_range) { 0x10000, 1, &ops, &m }), -EINVAL);
	cr_assert_eq(space_add(pio, &(struct space_range) { 0xfff0, 0x10, &ops, &m }), 0);
	space_free(pio);
}

Test(core_space, refuses_more_ranges_than_it_holds)
{
	struct model m = { .id = 1 };

	for (unsigned i = 0; i < SPACE_RANGES_MAX; i++)
		cr_assert_eq(add(i * 16ULL, 8, &m), 0);
	cr_assert_eq(add(SPACE_RANGES_MAX * 16ULL, 8, &m), -ENOSPC);
	cr_assert_eq(space_remove(space, 16), 0);
	cr_assert_eq(add(SPACE_RANGES_MAX * 16ULL, 8, &m), 0);
}

Test(core_space, fault_29_splits_unaligned_and_crossing_accesses)
{
	struct model a = { .id = 0xa }, b = { .id = 0xb };

	cr_assert_eq(add(0x100, 6, &a), 0);
	cr_assert_eq(add(0x106, 2, &b), 0);
	cr_assert_eq(rd(0x100, 8), 0x0b0b0a0a0a0a0a0aULL);
	cr_assert_eq(a.calls, 2); /* 4 and 2 */
	cr_assert_eq(b.calls, 1);
	cr_assert_eq(rd(0x101, 2), 0x0a0a);
	cr_assert_eq(a.calls, 4); /* unaligned: byte by byte */
	cr_assert_eq(rd(0x106, 4), 0xffff0b0b);
	a.calls = 0;
	cr_assert_eq(rd(0x100, 3), 0x0a0a0a);
	cr_assert_eq(a.calls, 2);
	cr_assert_eq(a.size, 1);
	cr_assert_eq(a.off, 2);
}

Test(core_space, byte_models_see_bytes_in_order)
{
	struct model m = { .id = 1 };
	uint32_t value = 0x44332211;

	cr_assert_eq(space_add(space, &(struct space_range) { 8, 4, &byte_ops, &m }), 0);
	space_access(space, 8, &value, 4, true);
	cr_assert_eq(m.calls, 4);
	cr_assert_eq(m.off, 3);
	cr_assert_eq(m.value, 0x44);
}

Test(core_space, replace_is_all_or_nothing)
{
	struct model a = { .id = 0xa }, b = { .id = 0xb };
	struct space_range r = { 0x200, 0x10, &ops, &a };

	cr_assert_eq(add(0x100, 0x10, &a), 0);
	cr_assert_eq(add(0x208, 0x10, &b), 0);
	cr_assert_eq(space_replace(space, 0x100, &r), -EEXIST);
	cr_assert_eq(rd(0x100, 1), 0x0a);
	r.base = 0x1f8;
	cr_assert_eq(space_replace(space, 0x100, &r), 0);
	cr_assert_eq(rd(0x100, 1), 0xff);
	cr_assert_eq(rd(0x1f8, 1), 0x0a);
	cr_assert(space_is_free(space, 0x100, 0xf8));
	cr_assert_not(space_is_free(space, 0x100, 0xf9));
	cr_assert_not(space_is_free(space, 0x300, 0));
}

/* A model whose write moves itself, as a write to a BAR does. */
static struct space_range mover;

static void mover_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct space_range to = mover;

	(void)owner, (void)off, (void)size;
	to.base = value;
	if (!space_replace(space, mover.base, &to))
		mover = to;
}

Test(core_space, a_model_may_move_itself_within_its_dispatch)
{
	static const struct space_ops mover_ops = { .read = model_read, .write = mover_write };
	struct model m = { .id = 7 };

	mover = (struct space_range) { 0x1000, 0x100, &mover_ops, &m };
	cr_assert_eq(space_add(space, &mover), 0);
	for (uint64_t base = 0x2000; base < 0x40000; base += 0x1000) {
		space_access(space, mover.base + 8, &base, 8, true);
		cr_assert_eq(rd(base, 1), 7, "not in force after the dispatch");
		cr_assert_eq(rd(base - 0x1000, 1), 0xff);
	}
}

/* Against a plain array: random changes and look-ups in 4096 bytes of address space. */
Test(core_space, agrees_with_a_linear_model)
{
	enum { SIZE = 4096, MODELS = 40 };
	static struct model models[MODELS];
	static uint8_t map[SIZE]; /* the model's number + 1, or 0 */
	unsigned seed = 12345;

	for (unsigned round = 0; round < 20000; round++) {
		unsigned i = (unsigned)rand_r(&seed) % MODELS, len = 1 + (unsigned)rand_r(&seed) % 200;
		uint64_t base = (unsigned)rand_r(&seed) % (SIZE - len), addr;

		if (models[i].id) {
			cr_assert_eq(space_remove(space, models[i].off), 0);
			models[i].id = 0;
			for (unsigned k = 0; k < SIZE; k++)
				map[k] = map[k] == i + 1 ? 0 : map[k];
		} else {
			bool is_free = true;

			for (unsigned k = 0; k < len; k++)
				is_free &= !map[base + k];
			cr_assert_eq(add(base, len, &models[i]), is_free ? 0 : -EEXIST);
			if (is_free) {
				models[i] = (struct model) { .id = i + 1, .off = base };
				memset(map + base, (int)i + 1, len);
			}
		}
		addr = (unsigned)rand_r(&seed) % SIZE;
		if (map[addr]) {
			uint64_t keep = models[map[addr] - 1].off;

			cr_assert_eq(rd(addr, 1), map[addr]);
			models[map[addr] - 1].off = keep;
		} else {
			cr_assert_eq(rd(addr, 1), 0xff);
		}
	}
}

/*
 * Readers run while a range is moved to and fro and its owner is spoilt after each removal. The owner is atomic since the
 * thread sanitizer does not know liburcu's order between the last reader and the removal.
 */
struct race {
	_Atomic bool stop;
	_Atomic unsigned seen;
};

static uint64_t alive_read(void *owner, uint64_t off, unsigned size)
{
	const _Atomic uint64_t *magic = owner;

	(void)off, (void)size;
	for (unsigned i = 0; i < 20; i++) /* long enough that a removal which does not wait is seen */
		sched_yield();
	return atomic_load_explicit(magic, memory_order_relaxed);
}

static const struct space_ops alive_ops = { .read = alive_read, .write = model_write };

static void *reader(void *arg)
{
	struct race *race = arg;

	space_thread_enter();
	while (!atomic_load(&race->stop)) {
		uint64_t v = rd(0x1000, 8);

		cr_assert(v == UINT64_MAX || v == 0x1234567890abcdefULL, "read %#lx of a spoilt owner", v);
		if (v != UINT64_MAX)
			atomic_fetch_add(&race->seen, 1);
	}
	space_thread_leave();
	return NULL;
}

Test(core_space, removal_waits_for_readers)
{
	static _Atomic uint64_t owners[16];
	struct race race = { false, 0 };
	pthread_t threads[3];

	for (unsigned i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, reader, &race);
	for (unsigned i = 0; i < 3000 || !atomic_load(&race.seen); i++) {
		_Atomic uint64_t *owner = &owners[i % ARRAY_SIZE(owners)];

		atomic_store(owner, 0x1234567890abcdefULL);
		cr_assert_eq(space_add(space, &(struct space_range) { 0x1000, 8, &alive_ops, owner }), 0);
		cr_assert_eq(space_remove(space, 0x1000), 0);
		atomic_store(owner, 0xdeadULL);
	}
	atomic_store(&race.stop, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

/* Several threads publish at once, each in a part of its own: nobody's change is lost. */
static void *publisher(void *arg)
{
	uint64_t base = (uint64_t)(uintptr_t)arg << 16;
	struct model m = { .id = 3 };

	space_thread_enter();
	for (unsigned i = 0; i < 500; i++) {
		cr_assert_eq(add(base, 0x100, &m), 0);
		cr_assert_eq(rd(base, 1), 3);
		cr_assert_eq(space_remove(space, base), 0);
		cr_assert_eq(rd(base, 1), 0xff);
	}
	space_thread_leave();
	return NULL;
}

Test(core_space, publishers_do_not_lose_each_others_changes)
{
	pthread_t threads[12];

	for (uintptr_t i = 0; i < 12; i++)
		pthread_create(&threads[i], NULL, publisher, (void *)(i + 1));
	for (unsigned i = 0; i < 12; i++)
		pthread_join(threads[i], NULL);
}
