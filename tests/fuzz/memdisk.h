/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in memory for fuzz-blk: it is done with a request when the input says so, well or not. One at a time. */
#ifndef FUZZ_MEMDISK_H
#define FUZZ_MEMDISK_H

#include <stdbool.h>
#include <stdint.h>

#include "server.h"

#define MEMDISK_QUEUES 2
#define MEMDISK_BYTES  0x20000U

/* What the disk does from now on; the input's to set. */
struct memdisk {
	bool hold;   /* nothing ends by itself */
	bool refuse; /* nothing more is taken */
	int answer;  /* of the next transfer, if it is not 0: -errno, or bytes at most */
};
extern struct memdisk memdisk;
extern const struct server_device memdisk_device;

/* A new one; the bits of how say what it can, and what it asks for. */
void memdisk_make(uint8_t how);

/* Tells the queues of what is done; does what waits for a worker; whether the engine has nothing. */
void memdisk_raise(void);
void memdisk_work(void);
bool memdisk_has_jobs(void);
bool memdisk_is_idle(void);

/* Has requests that are kept after an error tried again. */
void memdisk_retry(void);

/* The process is about to die. */
void memdisk_die(void);

/* Reads this part of configuration space. */
void memdisk_read_config(uint32_t off, uint32_t len);

#endif
