/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq, split rings: what works. What drivers do wrong is in test-virtq-faults.c. */
#include <criterion/criterion.h>
#include <errno.h>

#include "queue.h"

#define SIZE 8

QUEUE_SUITES(split, split_plain, SIZE, 0);

Test(split, a_request_goes_there_and_back)
{
	int id = queue_add(&q, false);

	cr_expect(vq_has_avail(q.vq));
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.head, id);
	cr_expect_eq(q.chain.out_num, 1);
	cr_expect_eq(q.chain.in_num, 1);
	cr_expect_eq(q.chain.out_len, 16);
	cr_expect_eq(q.chain.in_len, 512);
	cr_expect_eq(q.iov[0].iov_base, mem_at(q.mem, q.data, 16));
	cr_expect_eq(q.iov[1].iov_base, mem_at(q.mem, q.data + 512, 512));
	cr_expect_not(q.chain.resubmitted);
	cr_expect_eq(queue_pop(&q), 0);
	cr_expect_eq(vq_in_flight(q.vq), 1);
	vq_push(q.vq, q.chain.head, 100);
	cr_expect_eq(ring_get(&q.ring, &(uint16_t) { 0 }, &(uint32_t) { 0 }), 0, "staged only");
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id), 100);
	cr_expect_eq(vq_in_flight(q.vq), 0);
	cr_expect_eq(vq_base(q.vq), 1);
}

Test(split, an_indirect_request_is_read_from_its_table)
{
	int id = queue_add(&q, true);

	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.head, id);
	cr_expect_eq(q.chain.out_len, 16);
	cr_expect_eq(q.chain.in_len, 512);
}

Test(split, completions_in_any_order_become_visible_as_one_batch)
{
	int id[4];

	for (int i = 0; i < 4; i++)
		id[i] = queue_add(&q, i & 1);
	for (int i = 0; i < 4; i++) {
		cr_assert_eq(queue_pop(&q), 1);
		cr_expect_eq(q.chain.head, id[i]);
	}
	vq_push(q.vq, (uint16_t)id[2], 2);
	vq_push(q.vq, (uint16_t)id[0], 0);
	vq_push(q.vq, (uint16_t)id[3], 3);
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id[2]), 2);
	cr_expect_eq(queue_get(&q, id[0]), 0);
	cr_expect_eq(queue_get(&q, id[3]), 3);
	cr_expect_eq(ring_get(&q.ring, &(uint16_t) { 0 }, &(uint32_t) { 0 }), 0);
	cr_expect_eq(vq_in_flight(q.vq), 1);
	cr_expect_not(vq_publish(q.vq), "nothing staged");
}

Test(split, indices_wrap_at_65536)
{
	ring_start_at(&q.ring, 65530, true);
	ring_config(&q.ring, q.mem, &q.config);
	queue_restart(&q);
	vq_enable_kicks(q.vq);
	queue_cycle(&q, 20);
	cr_expect_eq(vq_base(q.vq), 14);
}

Test(split, event_indices_say_when_to_call_and_to_kick)
{
	const struct ring_buf buf = { q.data, 16, false };

	queue_cycle(&q, 1); /* the first publication always calls */
	for (unsigned round = 0; round < 70000; round += 7777) {
		ring_start_at(&q.ring, (uint16_t)round, true);
		ring_config(&q.ring, q.mem, &q.config);
		queue_restart(&q);
		queue_cycle(&q, 1);
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
		}
		cr_expect_not(vq_enable_kicks(q.vq));
		ring_add(&q.ring, &buf, 1, false);
		ring_publish(&q.ring);
		cr_expect(vq_enable_kicks(q.vq), "a request came before kicks were on");
		q.ring.n_free = SIZE;
		for (uint16_t i = 0; i < SIZE; i++) {
			q.ring.count[i] = 0;
			q.ring.next[i] = (uint16_t)(i + 1);
		}
		q.ring.free_head = 0;
	}
}

Test(split_plain, flags_say_when_to_call_and_to_kick)
{
	queue_cycle(&q, 1);
	vq_disable_kicks(q.vq);
	ring_disable_calls(&q.ring);
	queue_add(&q, false);
	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 0);
	cr_expect_not(vq_publish(q.vq));
	cr_expect(ring_enable_calls(&q.ring), "a completion came before calls were on");
	cr_expect_not(vq_enable_kicks(q.vq));
	cr_expect_eq(ring_add(&q.ring, &(struct ring_buf) { q.data, 1, false }, 1, false) < 0, 0);
	cr_expect(ring_publish(&q.ring));
	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 0);
	cr_expect(vq_publish(q.vq));
}

Test(split, a_new_memory_table_keeps_the_queue_going)
{
	struct mem *other = guest_mem(&q.guest), *none = NULL;
	int id = queue_add(&q, false);

	cr_assert_eq(queue_pop(&q), 1);
	vq_push(q.vq, q.chain.head, 7);
	cr_assert_eq(vq_set_mem(q.vq, other), 0);
	mem_put(other);
	vq_publish(q.vq);
	cr_expect_eq(queue_get(&q, id), 7);
	queue_cycle(&q, 3);
	queue_add(&q, false);
	queue_add(&q, true);
	cr_assert_eq(queue_pop(&q), 1);
	cr_assert_eq(mem_new(NULL, NULL, 0, &none), 0);
	cr_expect_eq(vq_set_mem(q.vq, none), -EFAULT);
	mem_put(none);
	cr_expect_eq(queue_pop(&q), -ENOTCONN);
	vq_push(q.vq, q.chain.head, 1);
	cr_expect_not(vq_publish(q.vq), "there is no ring to publish in");
	cr_expect_eq(vq_in_flight(q.vq), 0);
}

Test(split, used_ring_writes_are_logged_when_asked)
{
	uint64_t log = guest_alloc(&q.guest, 4096, 4096);
	uint8_t *bits = guest_ptr(&q.guest, log, 4096);
	uint64_t page = q.ring.used / 4096;

	cr_assert_eq(mem_set_log(q.mem, q.guest.fd, log - GUEST_GPA, 4096), 0);
	queue_cycle(&q, 1);
	cr_expect_eq(bits[page / 8] >> page % 8 & 1, 0, "not asked yet");
	q.config.log_used = true;
	q.config.base = vq_base(q.vq);
	queue_restart(&q);
	queue_cycle(&q, 1);
	cr_expect_eq(bits[page / 8] >> page % 8 & 1, 1);
}

Test(split, a_buffer_over_adjacent_regions_is_whole)
{
	const struct mem_region regions[2] = { { .gpa = 1 << 20, .size = 1 << 20 },
					       { .gpa = 2 << 20, .size = 4096 } };
	struct queue two;
	struct ring_desc d = { .addr = (2 << 20) - 8, .len = 32, .flags = RING_WRITE };

	queue_open_regions(&two, regions, 2, SIZE, RING_F_INDIRECT);
	ring_write_desc(&two.ring, 0, d);
	ring_put_avail(&two.ring, 0);
	ring_publish(&two.ring);
	cr_assert_eq(queue_pop(&two), 1);
	cr_expect_eq(two.chain.in_num, 2);
	cr_expect_eq(two.chain.in_len, 32);
	cr_expect_eq(two.iov[0].iov_len, 8);
	cr_expect_eq(two.iov[1].iov_len, 24);
	queue_close(&two);
}
