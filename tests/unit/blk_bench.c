/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of blk-server without a server: what lib/server would be, and requests for it. */
#include "blk_bench.h"

#include <criterion/criterion.h>
#include <string.h>

#include "clock.h"
#include "owner.h"

struct blk_bench blk_bench;

/* ---- what lib/server would be ---- */

int server_pop(struct server_queue *s, struct vq_chain *chain)
{
	struct vq_chain *next;

	if (!s->nwaiting)
		return 0;
	next = &s->waiting[--s->nwaiting];
	memcpy(chain->iov, next->iov, (size_t)(next->out_num + next->in_num) * sizeof(struct iovec));
	next->iov = chain->iov;
	*chain = *next;
	return 1;
}

bool server_try_unpop(struct server_queue *s, uint16_t head)
{
	(void)s;
	cr_assert_fail("%u is given back, though no limit is set", head);
	return false;
}

void server_push(struct server_queue *s, uint16_t head, uint32_t written, uint32_t result)
{
	(void)result;
	s->completed++;
	s->written[head] = written;
}

struct flight_ring *server_flight(struct server_queue *s)
{
	return &s->flight;
}

void server_poisoned(struct server_queue *s, uint16_t head)
{
	(void)head;
	s->poisoned++;
}

void server_take_up(struct server_queue *s, uint16_t head)
{
	s->hand = head;
}

void server_lay_down(struct server_queue *s)
{
	s->hand = -1;
}

void server_fail(struct server_queue *s, uint16_t head)
{
	(void)head;
	s->failed++;
}

void server_break(struct server_queue *s, const char *why)
{
	(void)s;
	cr_assert_fail("%s", why);
}

void server_run(struct server_queue *s)
{
	blk_queue_service(s->queue);
}

bool server_rests(const struct server_queue *s)
{
	(void)s;
	return false;
}

void server_flush(struct server_queue *s)
{
	(void)s;
}

void server_poke(struct server_queue *s)
{
	blk_queue_service(s->queue);
}

uint64_t server_features(const struct server_queue *s)
{
	return s->features;
}

const struct mem *server_mem(const struct server_queue *s)
{
	(void)s;
	return NULL;
}

unsigned server_index(const struct server_queue *s)
{
	(void)s;
	return 0;
}

struct loop *server_loop(const struct server_queue *s)
{
	return s->loop;
}

struct loop *server_main_loop(const struct server_queue *s)
{
	return s->loop;
}

void server_io_error(struct server_queue *s, const char *text)
{
	(void)s;
	(void)text;
}

struct loop_pool *server_pool(const struct server_queue *s)
{
	return s->pool;
}

/* No guest memory, so nothing of it is logged. */
bool mem_logging(const struct mem *mem)
{
	(void)mem;
	return false;
}

void mem_dirty_ptr(const struct mem *mem, const void *ptr, uint64_t len)
{
	(void)mem;
	(void)ptr;
	(void)len;
}

/* ---- requests ---- */

static _Atomic uint64_t words[QUOTA_WORDS + 1];

static void open_disk(const struct engine_ops *engine, int fd, bool qcow2)
{
	uint64_t bytes = 0;

	blk_bench.disk = (struct disk) { .fd = fd,
					 .name = "test",
					 .bytes = BLK_BENCH_BYTES,
					 .mem_align = 512,
					 .io_align = 512,
					 .throttle.group_fd = -1,
					 .flush_word = &words[QUOTA_WORDS],
					 .engine = engine,
					 .files = { .fd = { fd }, .n = 1, .fence = -1 } };
	cr_assert_eq(throttle_open(&blk_bench.disk.throttle, words), 0);
	blk_bench.server.features = 1ULL << VIRTIO_BLK_F_FLUSH;
	cr_assert_eq(flight_alloc(1, &blk_bench.server.memory), 0);
	flight_open_queue(blk_bench.server.memory, 0, &blk_bench.server.flight);
	cr_assert_eq(loop_new("test", &blk_bench.server.loop), 0);
	cr_assert_eq(loop_pool_new(1, &blk_bench.server.pool), 0);
	if (qcow2)
		cr_assert_eq(owner_open(&blk_bench.disk, &bytes), 0);
	cr_assert_eq(blk_queue_open(&blk_bench.disk, &blk_bench.server, &blk_bench.server.queue), 0);
	cr_assert_eq(blk_queue_attach(blk_bench.server.queue), 0);
}

void blk_bench_open(const struct engine_ops *engine, int fd)
{
	open_disk(engine, fd, false);
}

void blk_bench_open_qcow2(int fd)
{
	open_disk(&engine_aio, fd, true);
}

void blk_bench_close(void)
{
	blk_queue_detach(blk_bench.server.queue);
	blk_queue_close(blk_bench.server.queue);
	owner_close(&blk_bench.disk);
	throttle_close(&blk_bench.disk.throttle);
	loop_pool_free(blk_bench.server.pool);
	loop_free(blk_bench.server.loop);
	flight_free(blk_bench.server.memory);
}

void blk_bench_add(unsigned i, uint32_t type, uint64_t off, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN;
	struct iovec *v = blk_bench.iov[i];
	unsigned n = 0;

	blk_bench.header[i] = (struct virtio_blk_outhdr) { .type = type, .sector = off / 512 };
	blk_bench.status[i] = 0xff;
	v[n++] = (struct iovec) { &blk_bench.header[i], sizeof(blk_bench.header[i]) };
	if (len)
		v[n++] = (struct iovec) { blk_bench.data + off, len };
	v[n++] = (struct iovec) { &blk_bench.status[i], 1 };
	blk_bench.server.waiting[blk_bench.server.nwaiting++] =
	    (struct vq_chain) { .head = (uint16_t)i,
				.out_num = (uint16_t)(in ? 1 : n - 1),
				.in_num = (uint16_t)(in ? n - 1 : 1),
				.out_len = (uint32_t)sizeof(blk_bench.header[i]) + (in ? 0 : len),
				.in_len = 1 + (in ? len : 0),
				.iov = v };
}

void blk_bench_run(unsigned n)
{
	uint64_t end = clock_ns() + 40 * NS_PER_S;

	blk_bench.server.completed = 0;
	blk_queue_service(blk_bench.server.queue);
	while (blk_bench.server.completed < n) {
		cr_assert(clock_ns() < end, "stuck");
		loop_run_once(blk_bench.server.loop,
			      blk_queue_pending(blk_bench.server.queue) ? 0 : 10 * (int64_t)NS_PER_MS);
		blk_queue_service(blk_bench.server.queue);
	}
}
