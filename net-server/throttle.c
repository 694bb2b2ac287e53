/* SPDX-License-Identifier: Apache-2.0 */
/* The rate limits of a port. */
#include "throttle.h"

#include <errno.h>
#include <string.h>

#include "backend.h"
#include "clock.h"
#include "num.h"

static const struct key {
	const char *name;
	enum throttle_way way;
	enum quota_key rate, burst;
} keys[] = {
	{ "rx-bytes", THROTTLE_RX, QUOTA_BPS, QUOTA_BPS_BURST },
	{ "rx-packets", THROTTLE_RX, QUOTA_IOPS, QUOTA_IOPS_BURST },
	{ "tx-bytes", THROTTLE_TX, QUOTA_BPS, QUOTA_BPS_BURST },
	{ "tx-packets", THROTTLE_TX, QUOTA_IOPS, QUOTA_IOPS_BURST },
};

static const struct key *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(name, keys[i].name))
			return &keys[i];
	return NULL;
}

int throttle_parse(struct throttle *t, const char *key, const char *value)
{
	const struct key *k = find(key);
	uint64_t rate, burst;
	int err = k ? quota_parse_pair(k->rate, value, &rate, &burst) : -ENOENT;

	if (err)
		return err;
	t->given[k->way][k->rate] = rate;
	t->given[k->way][k->burst] = burst;
	return 0;
}

void throttle_open(struct throttle *t, _Atomic uint64_t *words)
{
	for (unsigned way = 0; way < THROTTLE_WAYS; way++) {
		t->words[way] = words + way * QUOTA_WORDS;
		quota_init(t->words[way], t->given[way]);
	}
}

void throttle_resume(struct throttle *t)
{
	for (unsigned way = 0; way < THROTTLE_WAYS; way++)
		quota_forgive(t->words[way], clock_ns(), (uint64_t)NET_PAIRS_MAX * NET_FRAME_MAX,
			      NET_PAIRS_MAX);
}

int throttle_set(struct throttle *t, const char *key, const char *value)
{
	const struct key *k = find(key);
	uint64_t rate, burst, now = clock_ns();
	int err = k ? quota_parse_pair(k->rate, value, &rate, &burst) : -ENOENT;

	if (err)
		return err;
	quota_set(t->words[k->way], k->burst, burst, now);
	quota_set(t->words[k->way], k->rate, rate, now);
	return 0;
}

uint64_t throttle_wait(struct throttle *t, enum throttle_way way, struct throttle_turn *turn, uint32_t bytes)
{
	uint64_t now, wait;

	if (!turn->taken && !quota_is_set(t->words[way]))
		return 0;
	now = clock_ns();
	if (!turn->taken)
		quota_take(t->words[way], now, bytes, 1, &turn->at);
	turn->taken = true;
	turn->bytes = bytes;
	wait = quota_wait(t->words[way], now, &turn->at);
	return wait ? now + wait : 0;
}

void throttle_passed(struct throttle_turn *turn)
{
	turn->taken = false;
}

void throttle_leave(struct throttle *t, enum throttle_way way, struct throttle_turn *turn)
{
	if (turn->taken)
		quota_return(t->words[way], turn->bytes, 1);
	turn->taken = false;
}
