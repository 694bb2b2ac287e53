/* SPDX-License-Identifier: Apache-2.0 */
/* The rate limits of a port. */
#include "throttle.h"

#include <errno.h>
#include <string.h>

#include "backend.h"
#include "clock.h"
#include "num.h"
#include "parse.h"

#define VALUE_MAX 64

/* Words: each limit's own, then 1 if rates were changed, then the eight numbers of the rates. */
#define WORD_CHANGED (2 * LIMIT_WORDS)
#define WORD_RATES   (WORD_CHANGED + 1)
#define RATES        4

static struct limit_rate *rate_at(struct throttle *t, unsigned i)
{
	struct limit_rate *const rates[RATES] = { &t->rx_rates.bytes, &t->rx_rates.ops, &t->tx_rates.bytes,
						  &t->tx_rates.ops };

	return rates[i];
}

static struct limit_rate *rate_of(struct throttle *t, const char *key)
{
	static const char *const keys[RATES] = { "rx-bytes", "rx-packets", "tx-bytes", "tx-packets" };

	for (unsigned i = 0; i < RATES; i++)
		if (!strcmp(key, keys[i]))
			return rate_at(t, i);
	return NULL;
}

int throttle_parse(struct throttle *t, const char *key, const char *value)
{
	struct limit_rate *rate = rate_of(t, key), was;
	char copy[VALUE_MAX], *burst;
	int err;

	if (!rate)
		return -ENOENT;
	if (strlen(value) >= sizeof(copy))
		return -EINVAL;
	was = *rate;
	memcpy(copy, value, strlen(value) + 1);
	burst = strchr(copy, '/');
	if (burst)
		*burst++ = '\0';
	rate->burst = 0;
	err = parse_size(copy, &rate->rate);
	if (!err && burst)
		err = parse_size(burst, &rate->burst);
	if (!err)
		err = limit_check(&t->rx_rates);
	if (!err)
		err = limit_check(&t->tx_rates);
	if (err)
		*rate = was;
	return err;
}

static void apply(struct throttle *t)
{
	uint64_t now = clock_ns();

	/* They were checked. */
	limit_set(&t->rx, &t->rx_rates, now);
	limit_set(&t->tx, &t->tx_rates, now);
}

/* Takes the rates that were changed, if they make sense: whoever wrote them may have been taken over. */
static void load(struct throttle *t)
{
	const struct limit_rates rx = t->rx_rates, tx = t->tx_rates;

	if (atomic_load(&t->words[WORD_CHANGED]) != 1)
		return;
	for (unsigned i = 0; i < RATES; i++)
		*rate_at(t, i) =
		    (struct limit_rate) { .rate = atomic_load(&t->words[WORD_RATES + 2 * i]),
					  .burst = atomic_load(&t->words[WORD_RATES + 2 * i + 1]) };
	if (!limit_check(&t->rx_rates) && !limit_check(&t->tx_rates))
		return;
	t->rx_rates = rx;
	t->tx_rates = tx;
}

void throttle_open(struct throttle *t, _Atomic uint64_t *words)
{
	t->words = words;
	limit_init(&t->rx, words);
	limit_init(&t->tx, words + LIMIT_WORDS);
	load(t);
	apply(t);
}

void throttle_close(struct throttle *t)
{
	limit_fini(&t->rx);
	limit_fini(&t->tx);
}

void throttle_resume(struct throttle *t)
{
	/* A spare was opened before the rates were changed. */
	load(t);
	apply(t);
	limit_resume(&t->rx, clock_ns(), NET_FRAME_MAX, 1);
	limit_resume(&t->tx, clock_ns(), NET_FRAME_MAX, 1);
}

int throttle_set(struct throttle *t, const char *key, const char *value)
{
	int err;

	/* What others set before this process came to serve is not to be undone. */
	load(t);
	err = throttle_parse(t, key, value);
	if (err)
		return err;
	for (unsigned i = 0; i < RATES; i++) {
		atomic_store(&t->words[WORD_RATES + 2 * i], rate_at(t, i)->rate);
		atomic_store(&t->words[WORD_RATES + 2 * i + 1], rate_at(t, i)->burst);
	}
	atomic_store(&t->words[WORD_CHANGED], 1);
	apply(t);
	return 0;
}
