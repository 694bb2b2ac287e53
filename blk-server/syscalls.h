/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's system calls, beyond those that every server needs; each engine has its own. */
#ifndef BLK_SYSCALLS_H
#define BLK_SYSCALLS_H

#include "sandbox.h"

/* As struct server_device has them. */
struct blk_calls {
	const struct sandbox_rule *const *stage_one;
	const struct sandbox_rule *const *steady;
	const struct sandbox_rule *const *io;
	const struct sandbox_rule *drain;
	bool locks_memory;
};

extern const struct sandbox_rule *const blk_aio_stage_one[], *const blk_aio_steady[], *const blk_aio_io[];
extern const struct sandbox_rule *const blk_uring_stage_one[], *const blk_uring_steady[],
								   *const blk_uring_io[];
/* An export of an NBD server; steady and of the I/O threads. */
extern const struct sandbox_rule *const blk_nbd_stage_one[], *const blk_nbd_steady[], *const blk_nbd_io[];
extern const struct blk_calls blk_aio, blk_uring, blk_null, blk_nbd;

#endif
