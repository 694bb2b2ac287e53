/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slices of the mapping tables, in a fixed number of slots that any thread reads without a lock.
 *
 * A slice can be in WAYS places, next to each other. A slot has a sequence number, odd while the owner changes it. Who reads
 * takes the number, the key and the words, each with acquire, and then the number again: if it is what it was, all of them
 * belonged together. The owner's words are stored with release, so whoever sees one of them sees the odd number too.
 * Nothing is ever freed while the image is open, so there is nothing to reclaim.
 */
#include <stdlib.h>

#include "qcow2_priv.h"

#define WAYS      8
#define SLOTS_MIN 16
#define NO_KEY    UINT64_MAX

int cache_new(struct qcow2 *q, size_t bytes)
{
	struct cache *c = &q->cache;
	size_t n = SLOTS_MIN;

	while (2 * n * q->slice_bytes <= bytes && n < 1U << 24)
		n *= 2;
	c->nslots = (unsigned)n;
	c->slot = calloc(n, sizeof(*c->slot));
	c->words = calloc(n, q->slice_bytes);
	if (!c->slot || !c->words)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		atomic_init(&c->slot[i].key, NO_KEY);
	return 0;
}

void cache_free(struct qcow2 *q)
{
	free(q->cache.slot);
	free(q->cache.words);
}

static struct slot *first_way(const struct qcow2 *q, uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15ULL;

	return &q->cache.slot[(hash >> 32) % (q->cache.nslots / WAYS) * WAYS];
}

struct slot *cache_find(const struct qcow2 *q, uint64_t key)
{
	struct slot *s = first_way(q, key);

	for (unsigned i = 0; i < WAYS; i++, s++)
		if (atomic_load_explicit(&s->key, memory_order_relaxed) == key) {
			if (!atomic_load_explicit(&s->used, memory_order_relaxed))
				atomic_store_explicit(&s->used, true, memory_order_relaxed);
			return s;
		}
	return NULL;
}

void cache_change(struct slot *s)
{
	atomic_store_explicit(&s->seq, atomic_load_explicit(&s->seq, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

void cache_publish(struct slot *s)
{
	atomic_store_explicit(&s->seq, atomic_load_explicit(&s->seq, memory_order_relaxed) + 1,
			      memory_order_release);
}

/* One of a slice's places: a free one, or one that was not used since the owner last came by. */
static struct slot *make_room(struct qcow2 *q, uint64_t key)
{
	struct slot *s = first_way(q, key);

	for (unsigned i = 0; i < WAYS; i++)
		if (atomic_load_explicit(&s[i].key, memory_order_relaxed) == NO_KEY)
			return &s[i];
	for (unsigned i = 0; i < 2 * WAYS; i++) {
		struct slot *way = &s[q->cache.hand++ % WAYS];

		if (!atomic_exchange_explicit(&way->used, false, memory_order_relaxed))
			return way;
	}
	return &s[q->cache.hand++ % WAYS];
}

/* Reads a slice into q->block; zeroes where there is no table. */
static int load(struct qcow2 *q, uint64_t key)
{
	unsigned bits = q->l2_bits - q->slice_bits; /* slices of a table */
	uint64_t l1_index = key >> bits, table;

	if (l1_index >= q->header.l1_entries)
		return -WHAT_IS_WRONG;
	table = q->l1[l1_index] & OFFSET_MASK;
	if (!table) {
		memset(q->block, 0, q->slice_bytes);
		return 0;
	}
	if (!offset_is_sound(q, table, q->cluster) || header_is_protected(q, cluster_of(q, table)))
		return -WHAT_IS_WRONG;
	return file_read_full(q, q->block, q->slice_bytes,
			      table + (key & ((1ULL << bits) - 1)) * q->slice_bytes);
}

int cache_get(struct qcow2 *q, uint64_t key, struct slot **out)
{
	struct slot *s = cache_find(q, key);
	_Atomic uint64_t *words;
	int err;

	*out = s;
	if (s)
		return 0;
	err = load(q, key);
	if (err)
		return err;
	s = make_room(q, key);
	words = cache_words(q, s);
	cache_change(s);
	atomic_store_explicit(&s->key, key, memory_order_release);
	for (size_t i = 0; i < q->slice_bytes / 8; i++) {
		uint64_t word;

		memcpy(&word, q->block + 8 * i, 8);
		atomic_store_explicit(&words[i], word, memory_order_release);
	}
	atomic_store_explicit(&s->used, true, memory_order_relaxed);
	cache_publish(s);
	*out = s;
	return 0;
}

void cache_drop_all(struct qcow2 *q)
{
	for (unsigned i = 0; i < q->cache.nslots; i++) {
		struct slot *s = &q->cache.slot[i];

		cache_change(s);
		atomic_store_explicit(&s->key, NO_KEY, memory_order_release);
		cache_publish(s);
	}
}
