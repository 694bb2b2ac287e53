/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq, packed rings: what works, and faults 1 to 15 of a driver, each answered with an error. */
#include <criterion/criterion.h>
#include <errno.h>

#include "clock.h"
#include "num.h"
#include "queue.h"

#define SIZE 6 /* need not be a power of two */

QUEUE_SUITES(packed, packed_plain, SIZE, RING_F_PACKED);

Test(packed, a_request_goes_there_and_back)
{
	int id = queue_add(&q, false);

	cr_expect(vq_has_avail(q.vq));
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.out_num, 1);
	cr_expect_eq(q.chain.in_num, 1);
	cr_expect_eq(q.chain.out_len, 16);
	cr_expect_eq(q.chain.in_len, 512);
	cr_expect_eq(q.iov[1].iov_base, mem_at(q.mem, q.data + 512, 512));
	cr_expect_eq(queue_pop(&q), 0);
	vq_push(q.vq, q.chain.head, 100);
	cr_expect_eq(ring_get(&q.ring, &(uint16_t) { 0 }, &(uint32_t) { 0 }), 0, "staged only");
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id), 100);
	cr_expect_eq(vq_base(q.vq), 0x80028002);
}

Test(packed, an_indirect_request_is_read_from_its_table)
{
	int id = queue_add(&q, true);

	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.out_len, 16);
	cr_expect_eq(q.chain.in_len, 512);
	vq_push(q.vq, q.chain.head, 0);
	vq_publish(q.vq);
	queue_get(&q, id);
	cr_expect_eq(vq_base(q.vq), 0x80018001);
}

Test(packed, completions_in_any_order_become_visible_as_one_batch)
{
	uint16_t head[3];
	int id[3];

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 3; i++) {
			id[i] = queue_add(&q, i & 1);
			cr_assert_eq(queue_pop(&q), 1);
			head[i] = q.chain.head;
		}
		vq_push(q.vq, head[2], 2);
		vq_push(q.vq, head[1], 1);
		vq_publish(q.vq);
		cr_expect_eq(queue_get(&q, id[2]), 2);
		cr_expect_eq(queue_get(&q, id[1]), 1);
		cr_expect_eq(ring_get(&q.ring, &(uint16_t) { 0 }, &(uint32_t) { 0 }), 0);
		cr_expect_eq(vq_in_flight(q.vq), 1);
		vq_push(q.vq, head[0], 0);
		vq_publish(q.vq);
		queue_get(&q, id[0]);
	}
}

Test(packed, a_full_ring_is_taken_and_completed_as_a_whole)
{
	const struct ring_buf buf = { q.data, 16, false };

	for (int lap = 0; lap < 3; lap++) {
		uint16_t head[SIZE], id;
		uint32_t len;

		for (int i = 0; i < SIZE; i++)
			cr_assert_geq(ring_add(&q.ring, &buf, 1, false), 0);
		ring_publish(&q.ring);
		for (int i = 0; i < SIZE; i++) {
			cr_assert_eq(queue_pop(&q), 1);
			head[i] = q.chain.head;
		}
		cr_expect_eq(queue_pop(&q), 0);
		cr_expect_not(vq_has_avail(q.vq));
		for (int i = SIZE - 1; i >= 0; i--)
			vq_push(q.vq, head[i], 0);
		vq_publish(q.vq);
		for (int i = 0; i < SIZE; i++)
			cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
	}
}

Test(packed, any_buffer_id_will_do)
{
	uint16_t id;
	uint32_t len;

	ring_write_desc(&q.ring, 0, (struct ring_desc) { q.data, 8, 65535, RING_AVAIL });
	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 0);
	vq_publish(q.vq);
	cr_expect_eq(ring_get(&q.ring, &id, &len), -EPROTO, "the driver knows best that it is not its own");
	cr_expect_eq(id, 65535);
}

Test(packed, event_indices_say_when_to_call_and_to_kick)
{
	const struct ring_buf buf = { q.data, 16, false };

	queue_cycle(&q, 1); /* the first publication always calls; two descriptors */
	for (unsigned round = 0; round < 40; round++) {
		uint16_t id;
		uint32_t len;

		cr_expect_not(vq_enable_kicks(q.vq));
		cr_expect_not(ring_enable_calls(&q.ring));
		ring_add(&q.ring, &buf, 1, false);
		ring_add(&q.ring, &buf, 1, false);
		cr_expect(ring_publish(&q.ring), "the device waits for the next one");
		ring_add(&q.ring, &buf, 1, false);
		cr_expect_not(ring_publish(&q.ring), "it was told already");
		for (int i = 0; i < 3; i++) {
			cr_assert_eq(queue_pop(&q), 1);
			vq_push(q.vq, q.chain.head, 0);
			cr_expect_eq(vq_publish(q.vq), i == 0, "only what the driver asked for");
			cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
		}
		ring_add(&q.ring, &buf, 1, false);
		ring_publish(&q.ring);
		cr_expect(vq_enable_kicks(q.vq), "a request came before kicks were on");
		cr_assert_eq(queue_pop(&q), 1);
		vq_push(q.vq, q.chain.head, 0);
		vq_publish(q.vq);
		cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
	}
}

Test(packed, an_event_in_the_middle_of_a_batch_calls_wherever_the_lap_ends)
{
	const struct ring_buf buf = { q.data, 16, false };

	queue_cycle(&q, 1);
	for (unsigned round = 0; round < 40; round++) {
		uint16_t id, want = (uint16_t)((q.ring.used_idx + 3) % SIZE);
		bool wrap = q.ring.used_idx + 3 >= SIZE ? !q.ring.used_wrap : q.ring.used_wrap;
		uint32_t len, event = 2U << 16 | want | (wrap ? 0x8000U : 0U);

		__atomic_store_n((uint32_t *)(void *)q.ring.avail_ptr, event, __ATOMIC_SEQ_CST);
		for (int batch = 0; batch < 3; batch++) {
			for (int i = 0; i < 2; i++) {
				ring_add(&q.ring, &buf, 1, false);
				ring_publish(&q.ring);
				cr_assert_eq(queue_pop(&q), 1);
				vq_push(q.vq, q.chain.head, 0);
			}
			cr_expect_eq(vq_publish(q.vq), batch == 1, "round %u batch %d", round, batch);
			cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
			cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
		}
		queue_cycle(&q, round % 2); /* another place in the ring */
	}
}

Test(packed_plain, flags_say_when_to_call_and_to_kick)
{
	queue_cycle(&q, 1);
	vq_disable_kicks(q.vq);
	ring_disable_calls(&q.ring);
	cr_expect_geq(ring_add(&q.ring, &(struct ring_buf) { q.data, 1, false }, 1, false), 0);
	cr_expect_not(ring_publish(&q.ring));
	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 0);
	cr_expect_not(vq_publish(q.vq));
	cr_expect(ring_enable_calls(&q.ring), "a completion came before calls were on");
	cr_expect_not(vq_enable_kicks(q.vq));
	cr_expect_geq(ring_add(&q.ring, &(struct ring_buf) { q.data, 1, false }, 1, false), 0);
	cr_expect(ring_publish(&q.ring));
	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 0);
	cr_expect(vq_publish(q.vq));
}

Test(packed, a_queue_goes_on_from_its_base)
{
	for (uint16_t at = 0; at < SIZE; at++) {
		for (int wrap = 0; wrap < 2; wrap++) {
			ring_start_at(&q.ring, at, wrap);
			ring_config(&q.ring, q.mem, &q.config);
			queue_restart(&q);
			cr_expect_eq(queue_pop(&q), 0);
			queue_cycle(&q, 2 * SIZE);
			q.config.base = vq_base(q.vq);
			queue_restart(&q);
			queue_cycle(&q, 2);
		}
	}
	q.config.base = SIZE;
	cr_expect_eq(queue_try(&q), -EINVAL);
}

/* ---- faults, numbered as in the list of faults to survive ---- */

Test(packed, fault_01_a_list_that_goes_round_the_ring)
{
	struct ring_desc d[SIZE];

	for (uint16_t i = 0; i < SIZE; i++)
		d[i] = (struct ring_desc) { q.data, 8, i, RING_NEXT };
	EXPECT_BROKEN(queue_offer(&q, SIZE, d), -ELOOP);
}

Test(packed, fault_01_a_list_that_runs_into_one_in_flight)
{
	cr_assert_eq(OFFER({ q.data, 8, 0, 0 }), 1);
	for (uint16_t i = 1; i < SIZE; i++)
		ring_write_desc(&q.ring, i, (struct ring_desc) { q.data, 8, i, RING_NEXT | RING_AVAIL });
	EXPECT_BROKEN(queue_pop(&q), -ELOOP);
}

Test(packed, fault_02_indirect_table_of_length_zero)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	EXPECT_BROKEN(OFFER_TABLE(0, 1, &d), -EINVAL);
}

Test(packed, fault_02_indirect_table_of_odd_length)
{
	struct ring_desc d = { q.data, 8, 0, 0 };

	EXPECT_BROKEN(OFFER_TABLE(24, 1, &d), -EINVAL);
}

Test(packed, fault_02_a_huge_table_ends_at_the_vectors)
{
	struct ring_desc d[QUEUE_VECTORS + 1];

	for (int i = 0; i <= QUEUE_VECTORS; i++)
		d[i] = (struct ring_desc) { q.data, 8, 0, 0 };
	EXPECT_BROKEN(OFFER_TABLE(0xfffffff0, QUEUE_VECTORS + 1, d), -E2BIG);
}

Test(packed, fault_03_nested_indirect)
{
	struct ring_desc d = { q.ring.tables, 16, 0, RING_INDIRECT };

	EXPECT_BROKEN(OFFER_TABLE(16, 1, &d), -EINVAL);
}

Test(packed, fault_03_indirect_with_next)
{
	EXPECT_BROKEN(OFFER({ q.ring.tables, 16, 0, RING_INDIRECT | RING_NEXT }, { q.data, 8, 0, 0 }),
		      -EINVAL);
}

Test(packed, fault_03_indirect_after_next)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, 0, RING_NEXT }, { q.ring.tables, 16, 0, RING_INDIRECT }), -EINVAL);
}

Test(packed_plain, fault_03_indirect_not_negotiated)
{
	EXPECT_BROKEN(OFFER({ q.ring.tables, 16, 0, RING_INDIRECT }), -EINVAL);
}

Test(packed, fault_04_indirect_table_over_the_end_of_memory)
{
	uint64_t end = GUEST_GPA + q.guest.size;

	ring_write_table(&q.ring, end - 16, 0, (struct ring_desc) { q.data, 8, 0, 0 });
	EXPECT_BROKEN(OFFER({ end - 16, 32, 0, RING_INDIRECT }), -EFAULT);
}

Test(packed, fault_05_address_outside_memory)
{
	EXPECT_BROKEN(OFFER({ GUEST_GPA - 8, 8, 0, 0 }), -EFAULT);
}

Test(packed, fault_05_address_that_wraps)
{
	EXPECT_BROKEN(OFFER({ UINT64_MAX - 3, 8, 0, 0 }), -EFAULT);
}

Test(packed, fault_06_buffer_over_a_hole)
{
	EXPECT_BROKEN(OFFER({ GUEST_GPA + q.guest.size - 8, 16, 0, RING_WRITE }), -EFAULT);
}

Test(packed, fault_07_zero_length_descriptor)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, 0, RING_NEXT }, { q.data, 0, 0, 0 }), -EINVAL);
}

Test(packed, fault_08_writable_before_readable)
{
	EXPECT_BROKEN(OFFER({ q.data, 8, 0, RING_NEXT | RING_WRITE }, { q.data, 8, 0, 0 }), -EINVAL);
}

Test(packed, fault_09_more_available_than_the_ring_holds)
{
	for (uint16_t i = 0; i < SIZE; i++) {
		ring_write_desc(&q.ring, i, (struct ring_desc) { q.data, 8, i, RING_AVAIL });
		cr_assert_eq(queue_pop(&q), 1);
	}
	/* The next lap's, over a request in flight: not looked at before that is completed. */
	ring_write_desc(&q.ring, 0, (struct ring_desc) { q.data, 8, 0, RING_USED });
	cr_expect_eq(queue_pop(&q), 0);
	cr_expect_not(vq_has_avail(q.vq));
}

Test(packed, fault_10_same_id_twice_in_flight)
{
	cr_assert_eq(OFFER({ q.data, 8, 3, 0 }), 1);
	ring_write_desc(&q.ring, 1, (struct ring_desc) { q.data, 8, 3, RING_AVAIL });
	EXPECT_BROKEN(queue_pop(&q), -EALREADY);
}

Test(packed, fault_10_an_id_is_free_again_when_completed)
{
	cr_assert_eq(OFFER({ q.data, 8, 3, 0 }), 1);
	vq_push(q.vq, q.chain.head, 0);
	vq_publish(q.vq);
	ring_write_desc(&q.ring, 1, (struct ring_desc) { q.data, 8, 3, RING_AVAIL });
	cr_expect_eq(queue_pop(&q), 1);
}

Test(packed, fault_12_sizes_that_no_ring_has)
{
	const uint16_t sizes[] = { 0, 32769, 65535 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		q.config.size = sizes[i];
		cr_expect_eq(queue_try(&q), -EINVAL, "%u", sizes[i]);
	}
}

Test(packed, fault_14_rings_that_overlap_are_misaligned_or_outside_memory)
{
	const struct vq_config good = q.config;
	const struct {
		uint64_t desc, avail, used;
	} bad[] = {
		{ good.desc + 8, good.avail, good.used },
		{ good.desc, good.avail + 2, good.used },
		{ good.desc, good.avail, good.used + 1 },
		{ good.desc, good.avail, good.avail },
		{ good.desc, good.desc + 16 * SIZE - 4, good.used },
		{ good.desc, good.avail, good.desc },
		{ good.desc + q.guest.size, good.avail, good.used },
		{ good.desc, 0, good.used },
		{ good.desc, good.avail, UINT64_MAX - 3 },
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		q.config.desc = bad[i].desc;
		q.config.avail = bad[i].avail;
		q.config.used = bad[i].used;
		cr_expect_eq(queue_try(&q), -EINVAL, "case %u", i);
	}
	q.config = good;
	q.config.avail = good.desc + 16 * SIZE;
	cr_expect_eq(queue_try(&q), 0, "side by side is fine");
}

Test(packed, fault_15_descriptors_rewritten_while_they_are_read)
{
	uint8_t *low = mem_at(q.mem, GUEST_GPA, q.guest.size), *high = low + q.guest.size;
	/* Valid, and each time wrong in another way. */
	const struct ring_desc bad[] = {
		{ q.data, 8, 0, RING_AVAIL },
		{ q.data, 0xffffffff, 0, RING_AVAIL },
		{ q.data, 8, 0, RING_AVAIL },
		{ UINT64_MAX - 4, 8, 0, RING_AVAIL | RING_WRITE },
		{ q.data, 8, 0xffff, RING_AVAIL | RING_NEXT },
		{ q.ring.tables, 0xfffffff0, 0, RING_AVAIL | RING_INDIRECT },
	};
	struct rewriter w = { .q = &q, .d = bad, .n = ARRAY_SIZE(bad) };
	uint64_t deadline = clock_ns() + 20 * NS_PER_S;
	unsigned popped = 0, refused = 0;

	queue_rewrite_start(&w);
	/* Until both outcomes were seen often: how fast is the scheduler's affair. */
	while ((popped < 5000 || refused < 5000) && clock_ns() < deadline) {
		int got = queue_pop(&q);

		if (got == 1) {
			const uint8_t *at = q.iov[0].iov_base;

			cr_assert(at >= low && at < high && q.iov[0].iov_len <= (size_t)(high - at));
			popped++;
		} else if (got < 0) {
			refused++;
		}
		queue_restart(&q);
	}
	queue_rewrite_stop(&w);
	cr_expect_geq(popped, 5000);
	cr_expect_geq(refused, 5000);
}

Test(packed, fault_20_used_length_is_never_more_than_was_writable)
{
	int id = queue_add(&q, false);

	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, UINT32_MAX);
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id), 512);
}
