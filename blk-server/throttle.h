/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limits of a disk, and those of a group of disks that it belongs to. A request passes when both let it: its own disk
 * first, so that what waits there keeps nobody else's. Their numbers and levels are in memory that outlives the process: a
 * restart neither fills a bucket nor forgets a change.
 */
#ifndef THROTTLE_H
#define THROTTLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quota.h"

struct state;

struct throttle {
	uint64_t given[QUOTA_KEYS];    /* as options say */
	int group_fd;                  /* -1: no group */
	_Atomic uint64_t *own, *group; /* words; group may be NULL */
	struct state *group_state;
};

/* An option's value. 0, -EINVAL or -ERANGE. */
int throttle_parse(struct throttle *t, enum quota_key key, const char *value);

/* words: QUOTA_WORDS of them, of the device. Logs why not; 0 or -errno. */
int throttle_open(struct throttle *t, _Atomic uint64_t *words);
void throttle_close(struct throttle *t);

/* A request that is to pass: its place in line. The queue's thread's. */
struct throttle_turn {
	uint64_t bytes, ops;
	bool in_group; /* past the limits of the disk */
	struct quota_turn at;
};

/* Any thread: has a request of so many bytes and operations wait for its turn: 0 if that is now, or when to ask again
 * (throttle_wait; by clock_ns), which is soon enough to notice what others change. */
uint64_t throttle_enter(struct throttle *t, struct throttle_turn *turn, uint64_t bytes, uint64_t ops);
uint64_t throttle_wait(struct throttle *t, struct throttle_turn *turn);

/* It can't wait any longer, and passes; or is not to pass at all. */
void throttle_exceed(struct throttle *t, const struct throttle_turn *turn);
void throttle_leave(struct throttle *t, const struct throttle_turn *turn);

/* Whether key is one of the limits ("bps", or "group-bps" for the group's); changes it. 0 or -errno with a line in why. */
bool throttle_knows(const char *key);
int throttle_set(struct throttle *t, const char *key, const char *value, char *why, size_t size);

#endif
