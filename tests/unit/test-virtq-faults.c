/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq, split rings: faults 1 to 15 of a driver, each answered with an error. Numbered as in the list of
 * faults that must be survived. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "num.h"
#include "queue.h"

#define SIZE 8

QUEUE_SUITES(split_faults, split_faults_plain, SIZE, 0);

Test(split_faults, fault_01_descriptor_loop)
{
	EXPECT_BROKEN(
	    OFFER({ q.data, 8, 1, RING_NEXT }, { q.data, 8, 2, RING_NEXT }, { q.data, 8, 0, RING_NEXT }),
	    -ELOOP);
}

Test(split_faults, fault_01_descriptor_loop_of_one_in_a_table)
{
	struct ring_desc d = { q.data, 8, 0, RING_NEXT };

	EXPECT_BROKEN(OFFER_TABLE(16, 1, &d), -ELOOP);
}

Test(split_faults, fault_01_loop_longer_than_the_vectors)
{
	q.config.iov_max = 4;
	queue_restart(&q);
	EXPECT_BROKEN(OFFER({ q.data, 8, 0, RING_NEXT }), -E2BIG);
}

Test(split_faults, fault_02_indirect_table_of_length_zero)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	EXPECT_BROKEN(OFFER_TABLE(0, 1, &d), -EINVAL);
}

Test(split_faults, fault_02_indirect_table_of_odd_length)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	EXPECT_BROKEN(OFFER_TABLE(24, 1, &d), -EINVAL);
}

Test(split_faults, fault_02_next_past_the_end_of_the_table)
{
	struct ring_desc d[2] = { { q.data, 8, 2, RING_NEXT }, { q.data, 8, 0, 0 } };

	EXPECT_BROKEN(OFFER_TABLE(32, 2, d), -ERANGE);
}

Test(split_faults, fault_02_a_huge_table_ends_at_the_vectors)
{
	struct ring_desc d[2] = { { q.data, 8, 1, RING_NEXT }, { q.data, 8, 0, RING_NEXT } };

	EXPECT_BROKEN(OFFER_TABLE(0xfffffff0, 2, d), -E2BIG);
}

Test(split_faults, fault_03_nested_indirect)
{
	struct ring_desc d = { q.ring.tables, 16, 0, RING_INDIRECT };

	EXPECT_BROKEN(OFFER_TABLE(16, 1, &d), -EINVAL);
}

Test(split_faults, fault_03_indirect_with_next)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	ring_write_table(&q.ring, q.ring.tables, 0, d);
	EXPECT_BROKEN(OFFER({ q.ring.tables, 16, 1, RING_INDIRECT | RING_NEXT }, { q.data, 8, 0, 0 }),
		      -EINVAL);
}

Test(split_faults_plain, fault_03_indirect_not_negotiated)
{
	EXPECT_BROKEN(OFFER({ q.ring.tables, 16, 0, RING_INDIRECT }), -EINVAL);
}

Test(split_faults, fault_04_indirect_table_over_the_end_of_memory)
{
	uint64_t end = GUEST_GPA + q.guest.size;
	struct ring_desc d = { q.data, 8, 1, RING_NEXT };

	ring_write_table(&q.ring, end - 16, 0, d);
	EXPECT_BROKEN(OFFER({ end - 16, 32, 0, RING_INDIRECT }), -EFAULT);
}

Test(split_faults, fault_04_indirect_table_over_adjacent_regions_is_read)
{
	const struct mem_region regions[2] = { { .gpa = 1 << 20, .size = 1 << 20 },
					       { .gpa = 2 << 20, .size = 4096 } };
	struct queue two;
	uint64_t table = (2 << 20) - 16;

	queue_open_regions(&two, regions, 2, SIZE, RING_F_INDIRECT);
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
	EXPECT_BROKEN(OFFER({ UINT64_MAX - 15, 32, 0, RING_INDIRECT }), -EFAULT);
}

Test(split_faults, fault_05_address_outside_memory)
{
	EXPECT_BROKEN(OFFER({ GUEST_GPA - 8, 8, 0, 0 }), -EFAULT);
}

Test(split_faults, fault_05_address_that_wraps)
{
	EXPECT_BROKEN(OFFER({ UINT64_MAX - 3, 8, 0, 0 }), -EFAULT);
}

Test(split_faults, fault_05_lengths_that_wrap_in_sum)
{
	const struct mem_region region = { .gpa = 0, .size = 3ULL << 30 };
	struct queue big;

	queue_open_regions(&big, &region, 1, SIZE, 0); /* a sparse file */
	ring_write_desc(&big.ring, 0, (struct ring_desc) { 0, 0xb0000000, 1, RING_NEXT });
	ring_write_desc(&big.ring, 1, (struct ring_desc) { 0, 0xb0000000, 0, 0 });
	ring_put_avail(&big.ring, 0);
	ring_publish(&big.ring);
	cr_expect_eq(queue_pop(&big), -EINVAL);
	queue_close(&big);
}

Test(split_faults, fault_06_buffer_over_a_hole)
{
	EXPECT_BROKEN(OFFER({ GUEST_GPA + q.guest.size - 8, 16, 0, RING_WRITE }), -EFAULT);
}

Test(split_faults, fault_07_zero_length_descriptor)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, 1, RING_NEXT }, { q.data, 0, 0, 0 }), -EINVAL);
}

Test(split_faults, fault_07_zero_length_descriptor_in_a_table)
{
	struct ring_desc d = { q.data, 0, 0, 0 };

	EXPECT_BROKEN(OFFER_TABLE(16, 1, &d), -EINVAL);
}

Test(split_faults, fault_08_writable_before_readable)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, 1, RING_NEXT | RING_WRITE }, { q.data, 8, 0, 0 }), -EINVAL);
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
	EXPECT_BROKEN(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_09_avail_index_goes_back)
{
	queue_cycle(&q, 3);
	ring_set_avail_idx(&q.ring, 2);
	EXPECT_BROKEN(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_10_same_head_twice_in_flight)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	EXPECT_BROKEN(queue_pop(&q), -EALREADY);
}

Test(split_faults, fault_10_same_head_while_its_completion_is_staged)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	vq_push(q.vq, 0, 0);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	EXPECT_BROKEN(queue_pop(&q), -EALREADY);
}

Test(split_faults, fault_11_head_outside_the_ring)
{
	ring_put_avail(&q.ring, SIZE);
	ring_publish(&q.ring);
	EXPECT_BROKEN(queue_pop(&q), -ERANGE);
}

Test(split_faults, fault_11_next_outside_the_ring)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, SIZE, RING_NEXT }), -ERANGE);
}

Test(split_faults, fault_12_sizes_that_no_ring_has)
{
	const uint16_t sizes[] = { 0, 3, 65535, 32769, 40000 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
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

Test(split_faults, fault_15_descriptors_rewritten_while_they_are_read)
{
	uint8_t *low = mem_at(q.mem, GUEST_GPA, q.guest.size), *high = low + q.guest.size;
	/* Valid, and each time wrong in another way. */
	const struct ring_desc bad[] = {
		{ q.data, 8, 0, 0 },
		{ q.data, 0xffffffff, 0, 0 },
		{ q.data, 8, 0, 0 },
		{ UINT64_MAX - 4, 8, 0, RING_WRITE },
		{ q.data, 8, 0xffff, RING_NEXT },
		{ q.ring.tables, 0xfffffff0, 0, RING_INDIRECT },
	};
	struct rewriter w = { .q = &q, .d = bad, .n = ARRAY_SIZE(bad) };
	uint64_t deadline = clock_ns() + 20 * NS_PER_S;
	unsigned popped = 0, refused = 0;

	queue_rewrite_start(&w);
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
	queue_rewrite_stop(&w);
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
