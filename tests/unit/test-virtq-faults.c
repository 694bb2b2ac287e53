/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq, split rings: faults 1 to 15 of a driver, each answered with an error. Numbered as in the list of
 * faults that must be survived. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "clock.h"
#include "queue.h"

#define SIZE 8

static struct queue q;

static void start(void)
{
	queue_open(&q, SIZE, RING_F_INDIRECT | RING_F_EVENT_IDX);
}

static void start_plain(void)
{
	queue_open(&q, SIZE, 0);
}

static void stop(void)
{
	queue_close(&q);
}

TestSuite(split_faults, .init = start, .fini = stop);
TestSuite(split_faults_plain, .init = start_plain, .fini = stop);

/* What a driver offers when it writes descriptor 0 and on by hand; then what the device's side makes of it. */
static int offer(uint16_t n, const struct ring_desc *d)
{
	for (uint16_t i = 0; i < n; i++)
		ring_write_desc(&q.ring, i, d[i]);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	return queue_pop(&q);
}

#define OFFER(...)                                                                                           \
	offer(sizeof((struct ring_desc[]) { __VA_ARGS__ }) / sizeof(struct ring_desc),                       \
	      (struct ring_desc[]) { __VA_ARGS__ })

/* The same with an indirect table of these entries, its length as given. */
static int offer_table(uint32_t len, uint16_t n, const struct ring_desc *d)
{
	for (uint16_t i = 0; i < n; i++)
		ring_write_table(&q.ring, q.ring.tables, i, d[i]);
	return OFFER({ q.ring.tables, len, 0, RING_INDIRECT });
}

static void expect_broken(int got, int want)
{
	cr_expect_eq(got, want, "vq_pop: %d, not %d", got, want);
	cr_expect_eq(queue_pop(&q), -ENOTCONN, "broken until it is made anew");
	cr_expect_not(vq_has_avail(q.vq));
	cr_expect_not(vq_enable_kicks(q.vq));
}

Test(split_faults, fault_01_descriptor_loop)
{
	expect_broken(
	    OFFER({ q.data, 8, 1, RING_NEXT }, { q.data, 8, 2, RING_NEXT }, { q.data, 8, 0, RING_NEXT }),
	    -ELOOP);
}

Test(split_faults, fault_01_descriptor_loop_of_one_in_a_table)
{
	struct ring_desc d = { q.data, 8, 0, RING_NEXT };

	expect_broken(offer_table(16, 1, &d), -ELOOP);
}

Test(split_faults, fault_01_loop_longer_than_the_vectors)
{
	q.config.iov_max = 4;
	queue_restart(&q);
	expect_broken(OFFER({ q.data, 8, 0, RING_NEXT }), -E2BIG);
}

Test(split_faults, fault_02_indirect_table_of_length_zero)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	expect_broken(offer_table(0, 1, &d), -EINVAL);
}

Test(split_faults, fault_02_indirect_table_of_odd_length)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	expect_broken(offer_table(24, 1, &d), -EINVAL);
}

Test(split_faults, fault_02_next_past_the_end_of_the_table)
{
	struct ring_desc d[2] = { { q.data, 8, 2, RING_NEXT }, { q.data, 8, 0, 0 } };

	expect_broken(offer_table(32, 2, d), -ERANGE);
}

Test(split_faults, fault_02_a_huge_table_ends_at_the_vectors)
{
	struct ring_desc d[2] = { { q.data, 8, 1, RING_NEXT }, { q.data, 8, 0, RING_NEXT } };

	expect_broken(offer_table(0xfffffff0, 2, d), -E2BIG);
}

Test(split_faults, fault_03_nested_indirect)
{
	struct ring_desc d = { q.ring.tables, 16, 0, RING_INDIRECT };

	expect_broken(offer_table(16, 1, &d), -EINVAL);
}

Test(split_faults, fault_03_indirect_with_next)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	ring_write_table(&q.ring, q.ring.tables, 0, d);
	expect_broken(OFFER({ q.ring.tables, 16, 1, RING_INDIRECT | RING_NEXT }, { q.data, 8, 0, 0 }),
		      -EINVAL);
}

Test(split_faults_plain, fault_03_indirect_not_negotiated)
{
	expect_broken(OFFER({ q.ring.tables, 16, 0, RING_INDIRECT }), -EINVAL);
}

Test(split_faults, fault_04_indirect_table_over_the_end_of_memory)
{
	uint64_t end = GUEST_GPA + q.guest.size;
	struct ring_desc d = { q.data, 8, 1, RING_NEXT };

	ring_write_table(&q.ring, end - 16, 0, d);
	expect_broken(OFFER({ end - 16, 32, 0, RING_INDIRECT }), -EFAULT);
}

Test(split_faults, fault_04_indirect_table_over_adjacent_regions_is_read)
{
	const struct mem_region regions[2] = { { .gpa = 1 << 20, .size = 1 << 20 },
					       { .gpa = 2 << 20, .size = 4096 } };
	struct queue two = { .vq = NULL };
	uint64_t table = (2 << 20) - 16;

	cr_assert_eq(guest_init_regions(&two.guest, regions, 2), 0);
	cr_assert_eq(ring_init(&two.ring, &two.guest, SIZE, RING_F_INDIRECT), 0);
	two.mem = guest_mem(&two.guest);
	ring_config(&two.ring, two.mem, &two.config);
	two.chain.iov = two.iov;
	queue_restart(&two);
	ring_write_table(&two.ring, table, 0, (struct ring_desc) { 1 << 20, 8, 1, RING_NEXT });
	memcpy(guest_ptr(&two.guest, table + 16, 16),
	       &(uint64_t[2]) { 2 << 20, 4 | (uint64_t)RING_WRITE << 32 }, 16);
	ring_write_desc(&two.ring, 0, (struct ring_desc) { table, 32, 0, RING_INDIRECT });
	ring_put_avail(&two.ring, 0);
	ring_publish(&two.ring);
	cr_assert_eq(queue_pop(&two), 1);
	cr_expect_eq(two.chain.out_len, 8);
	cr_expect_eq(two.chain.in_len, 4);
	queue_close(&two);
}

Test(split_faults, fault_04_an_unaligned_indirect_table_is_read)
{
	uint64_t table = q.data + 1001;
	const uint64_t entries[4] = { q.data, 8 | (uint64_t)RING_NEXT << 32 | 1ULL << 48, q.data,
				      4 | (uint64_t)RING_WRITE << 32 };

	memcpy(guest_ptr(&q.guest, table, sizeof(entries)), entries, sizeof(entries));
	cr_assert_eq(OFFER({ table, 32, 0, RING_INDIRECT }), 1);
	cr_expect_eq(q.chain.out_len, 8);
	cr_expect_eq(q.chain.in_len, 4);
}

Test(split_faults, fault_04_indirect_table_that_wraps)
{
	expect_broken(OFFER({ UINT64_MAX - 15, 32, 0, RING_INDIRECT }), -EFAULT);
}

Test(split_faults, fault_05_address_outside_memory)
{
	expect_broken(OFFER({ GUEST_GPA - 8, 8, 0, 0 }), -EFAULT);
}

Test(split_faults, fault_05_address_that_wraps)
{
	expect_broken(OFFER({ UINT64_MAX - 3, 8, 0, 0 }), -EFAULT);
}

Test(split_faults, fault_05_lengths_that_wrap_in_sum)
{
	const struct mem_region region = { .gpa = 0, .size = 3ULL << 30 };
	struct queue big = { .vq = NULL };

	cr_assert_eq(guest_init_regions(&big.guest, &region, 1), 0); /* a sparse file */
	big.guest.next = 4096;
	cr_assert_eq(ring_init(&big.ring, &big.guest, SIZE, 0), 0);
	big.mem = guest_mem(&big.guest);
	ring_config(&big.ring, big.mem, &big.config);
	big.chain.iov = big.iov;
	queue_restart(&big);
	ring_write_desc(&big.ring, 0, (struct ring_desc) { 0, 0xb0000000, 1, RING_NEXT });
	ring_write_desc(&big.ring, 1, (struct ring_desc) { 0, 0xb0000000, 0, 0 });
	ring_put_avail(&big.ring, 0);
	ring_publish(&big.ring);
	cr_expect_eq(queue_pop(&big), -EINVAL);
	queue_close(&big);
}

Test(split_faults, fault_06_buffer_over_a_hole)
{
	expect_broken(OFFER({ GUEST_GPA + q.guest.size - 8, 16, 0, RING_WRITE }), -EFAULT);
}

Test(split_faults, fault_07_zero_length_descriptor)
{
	expect_broken(OFFER({ q.data, 8, 1, RING_NEXT }, { q.data, 0, 0, 0 }), -EINVAL);
}

Test(split_faults, fault_07_zero_length_descriptor_in_a_table)
{
	struct ring_desc d = { q.data, 0, 0, 0 };

	expect_broken(offer_table(16, 1, &d), -EINVAL);
}

Test(split_faults, fault_08_writable_before_readable)
{
	expect_broken(OFFER({ q.data, 8, 1, RING_NEXT | RING_WRITE }, { q.data, 8, 0, 0 }), -EINVAL);
}

Test(split_faults, fault_08_a_request_without_a_writable_part_is_told_by_its_counts)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	cr_expect_eq(q.chain.in_num, 0);
	cr_expect_eq(q.chain.in_len, 0);
}

Test(split_faults, fault_09_avail_index_jumps_by_more_than_the_size)
{
	ring_set_avail_idx(&q.ring, SIZE + 1);
	expect_broken(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_09_avail_index_goes_back)
{
	queue_cycle(&q, 3);
	ring_set_avail_idx(&q.ring, 2);
	expect_broken(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_10_same_head_twice_in_flight)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	expect_broken(queue_pop(&q), -EALREADY);
}

Test(split_faults, fault_10_same_head_while_its_completion_is_staged)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	vq_push(q.vq, 0, 0);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	expect_broken(queue_pop(&q), -EALREADY);
}

Test(split_faults, fault_11_head_outside_the_ring)
{
	ring_put_avail(&q.ring, SIZE);
	ring_publish(&q.ring);
	expect_broken(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_11_next_outside_the_ring)
{
	expect_broken(OFFER({ q.data, 8, SIZE, RING_NEXT }), -ERANGE);
}

Test(split_faults, fault_12_sizes_that_no_ring_has)
{
	const uint16_t sizes[] = { 0, 3, 65535, 32769, 40000 };

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		q.config.size = sizes[i];
		cr_expect_eq(queue_try(&q), -EINVAL, "%u", sizes[i]);
	}
}

Test(split_faults, fault_13_a_configuration_changed_later_changes_nothing)
{
	q.config.size = 65535;
	q.config.desc = q.config.avail = q.config.used = 0;
	q.config.iov_max = 0;
	queue_cycle(&q, 2 * SIZE);
}

Test(split_faults, fault_14_rings_that_overlap)
{
	const struct vq_config good = q.config;

	q.config.used = good.desc + 16;
	cr_expect_eq(queue_try(&q), -EINVAL, "used in the descriptors");
	q.config.used = good.desc - 68;
	cr_expect_eq(queue_try(&q), -EINVAL, "used runs into the descriptors");
	q.config = good;
	q.config.used = good.avail + 20;
	cr_expect_eq(queue_try(&q), -EINVAL, "used in avail");
	q.config = good;
	q.config.avail = good.desc + 16 * SIZE - 2;
	cr_expect_eq(queue_try(&q), -EINVAL, "avail in the descriptors");
	q.config = good;
	q.config.avail = good.desc + 16 * SIZE;
	cr_expect_eq(queue_try(&q), 0, "side by side is fine");
}

Test(split_faults, fault_14_rings_misaligned_or_outside_memory)
{
	const struct vq_config good = q.config;

	q.config.desc = good.desc + 8;
	cr_expect_eq(queue_try(&q), -EINVAL);
	q.config = good;
	q.config.avail = good.avail + 1;
	cr_expect_eq(queue_try(&q), -EINVAL);
	q.config = good;
	q.config.used = good.used + 2;
	cr_expect_eq(queue_try(&q), -EINVAL);
	q.config = good;
	q.config.used = good.desc + q.guest.size;
	cr_expect_eq(queue_try(&q), -EINVAL);
	q.config.used = guest_user(&q.guest, GUEST_GPA) + q.guest.size - 64;
	cr_expect_eq(queue_try(&q), -EINVAL, "its end is outside");
}

struct rewriter {
	atomic_bool stop;
	pthread_t thread;
};

/* A second vCPU: makes descriptor 0 valid, and each time wrong in another way. */
static void *rewrite(void *arg)
{
	struct rewriter *w = arg;
	const struct ring_desc bad[] = {
		{ q.data, 8, 0, 0 },
		{ q.data, 0xffffffff, 0, 0 },
		{ q.data, 8, 0, 0 },
		{ UINT64_MAX - 4, 8, 0, RING_WRITE },
		{ q.data, 8, 0xffff, RING_NEXT },
		{ q.ring.tables, 0xfffffff0, 0, RING_INDIRECT },
	};

	for (unsigned i = 0; !atomic_load(&w->stop); i++)
		ring_write_desc(&q.ring, 0, bad[i % 6]);
	return NULL;
}

Test(split_faults, fault_15_descriptors_rewritten_while_they_are_read)
{
	uint8_t *low = mem_at(q.mem, GUEST_GPA, q.guest.size), *high = low + q.guest.size;
	struct rewriter w = { .stop = false };
	uint64_t deadline = clock_ns() + 20 * NS_PER_S;
	unsigned popped = 0, refused = 0;

	pthread_create(&w.thread, NULL, rewrite, &w);
	/* Until both outcomes were seen often: how fast is the scheduler's affair. */
	while ((popped < 5000 || refused < 5000) && clock_ns() < deadline) {
		int got;

		ring_put_avail(&q.ring, 0);
		ring_publish(&q.ring);
		got = queue_pop(&q);
		if (got == 1) {
			const uint8_t *at = q.iov[0].iov_base;

			cr_assert(at >= low && at < high && q.iov[0].iov_len <= (size_t)(high - at));
			vq_push(q.vq, q.chain.head, 1);
			vq_publish(q.vq);
			q.config.base = vq_base(q.vq);
			popped++;
		} else {
			cr_assert_lt(got, 0);
			q.config.base = q.ring.avail_idx;
			queue_restart(&q);
			refused++;
		}
	}
	atomic_store(&w.stop, true);
	pthread_join(w.thread, NULL);
	cr_expect_geq(popped, 5000);
	cr_expect_geq(refused, 5000);
}

Test(split_faults, fault_20_used_length_is_never_more_than_was_writable)
{
	int id = queue_add(&q, false);

	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, UINT32_MAX);
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id), 512);
}
