/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of blk-server without a server: what lib/server would be, and requests for it. */
#ifndef TESTS_UNIT_BLK_BENCH_H
#define TESTS_UNIT_BLK_BENCH_H

#include "blk_queue.h"
#include "flight.h"
#include "request.h"

#define BLK_BENCH_REQUESTS 16
#define BLK_BENCH_BYTES    65536 /* of the disk, and of the buffer for its data */

struct server_queue {
	struct loop *loop;
	struct loop_pool *pool;
	struct blk_queue *queue;
	struct vq_chain waiting[BLK_BENCH_REQUESTS];
	unsigned nwaiting;
	unsigned completed;
	uint32_t written[BLK_BENCH_REQUESTS];
	uint64_t features;
	struct flight *memory;
	struct flight_ring flight;
	unsigned poisoned, failed;
	int hand;
};

extern struct blk_bench {
	struct disk disk;
	struct server_queue server;
	struct virtio_blk_outhdr header[BLK_BENCH_REQUESTS];
	uint8_t status[BLK_BENCH_REQUESTS];
	struct iovec iov[BLK_BENCH_REQUESTS][4];
	_Alignas(4096) uint8_t data[BLK_BENCH_BYTES];
} blk_bench;

/* A disk of this engine, whose file is fd, and one queue of it. */
void blk_bench_open(const struct engine_ops *engine, int fd);
/* The same of a qcow2 image, with the thread that owns its tables. The ring is not on. */
void blk_bench_open_qcow2(int fd);
void blk_bench_close(void);
/* Puts request i into the ring: len bytes of data at offset off of both disk and buffer. */
void blk_bench_add(unsigned i, uint32_t type, uint64_t off, uint32_t len);
/* Passes until n requests are complete. */
void blk_bench_run(unsigned n);

#endif
