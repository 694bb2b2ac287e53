/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of a disk and of its group. */
#include "throttle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "num.h"
#include "state.h"

#define GROUP "group-"
#define LOOK_NS                                                                                              \
	(100 *                                                                                               \
	 NS_PER_MS) /* limits are looked at again after so long: another process may have changed them */

int throttle_parse(struct throttle *t, enum quota_key key, const char *value)
{
	return quota_parse(key, value, &t->given[key]);
}

int throttle_open(struct throttle *t, _Atomic uint64_t *words)
{
	int err;

	t->own = words;
	quota_init(words, t->given);
	if (t->group_fd < 0)
		return 0;
	err = state_map(t->group_fd, &t->group_state);
	if (err) {
		log_error_errno(err, "--group-fd %d: must be memory made for it", t->group_fd);
		return err;
	}
	close(t->group_fd);
	t->group = state_words(t->group_state);
	return 0;
}

void throttle_close(struct throttle *t)
{
	state_free(t->group_state);
}

static bool is_set(const struct throttle *t)
{
	return quota_is_set(t->own) || (t->group && quota_is_set(t->group));
}

uint64_t throttle_enter(struct throttle *t, struct throttle_turn *turn, uint64_t bytes, uint64_t ops)
{
	if (!is_set(t))
		return 0;
	*turn = (struct throttle_turn) { .bytes = bytes, .ops = ops };
	quota_take(t->own, clock_ns(), bytes, ops, &turn->at);
	return throttle_wait(t, turn);
}

uint64_t throttle_wait(struct throttle *t, struct throttle_turn *turn)
{
	uint64_t now = clock_ns(), wait = 0;

	if (!turn->in_group)
		wait = quota_wait(t->own, now, &turn->at);
	if (!wait && t->group) {
		if (!turn->in_group)
			quota_take(t->group, now, turn->bytes, turn->ops, &turn->at);
		turn->in_group = true;
		wait = quota_wait(t->group, now, &turn->at);
	}
	return wait ? now + MIN(wait, LOOK_NS) : 0;
}

void throttle_exceed(struct throttle *t, const struct throttle_turn *turn)
{
	if (t->group && !turn->in_group)
		quota_take(t->group, clock_ns(), turn->bytes, turn->ops, NULL);
}

void throttle_leave(struct throttle *t, const struct throttle_turn *turn)
{
	quota_return(t->own, turn->bytes, turn->ops);
	if (turn->in_group)
		quota_return(t->group, turn->bytes, turn->ops);
}

/* The number of the limit in quota_names, or -1; *group: it is the group's. */
static int find(const char *key, bool *group)
{
	*group = !strncmp(key, GROUP, strlen(GROUP));
	if (*group)
		key += strlen(GROUP);
	for (int i = 0; i < QUOTA_KEYS; i++)
		if (!strcmp(key, quota_names[i]))
			return i;
	return -1;
}

bool throttle_knows(const char *key)
{
	bool group;

	return find(key, &group) >= 0;
}

int throttle_set(struct throttle *t, const char *key, const char *value, char *why, size_t size)
{
	bool group;
	enum quota_key which = (enum quota_key)find(key, &group);
	uint64_t number;
	int err = quota_parse(which, value, &number);

	if (err) {
		snprintf(why, size, "\"%s\" is no number with K, M, G or T, or too large", value);
		return err;
	}
	if (group && !t->group) {
		snprintf(why, size, "the disk is in no group");
		return -ENOENT;
	}
	quota_set(group ? t->group : t->own, which, number, clock_ns());
	return 0;
}
