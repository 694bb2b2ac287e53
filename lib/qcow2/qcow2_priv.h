/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lib/qcow2 share. Numbers are in host order, but for the words of cached tables. */
#ifndef QCOW2_PRIV_H
#define QCOW2_PRIV_H

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "num.h"
#include "qcow2.h"

#define SLICE_MAX          4096 /* bytes of a table that are cached together */
#define MEM_ALIGN          4096 /* of buffers */
#define CLUSTER_MAX        (2U << 20)
#define L1_MAX             (32U << 20) /* bytes, as in QEMU */
#define REFTABLE_MAX       (8U << 20)
#define SNAPSHOTS_MAX      65536
#define SNAPSHOT_TABLE_MAX (64U << 20)
#define SUBS               32 /* subclusters of a cluster, where it has any */

#define OFFSET_MASK     0x00fffffffffffe00ULL
#define FLAG_COPIED     (1ULL << 63)
#define FLAG_COMPRESSED (1ULL << 62)
#define FLAG_ZERO       1ULL

#define WHAT_IS_WRONG EUCLEAN /* errno of an image that contradicts itself */

enum { /* incompatible features */
       FEATURE_DIRTY = 1 << 0,
       FEATURE_CORRUPT = 1 << 1,
       FEATURE_DATA_FILE = 1 << 2,
       FEATURE_COMPRESSION = 1 << 3,
       FEATURE_EXTENDED = 1 << 4,
};

/* The header's fields, as they stand in the file. */
struct header {
	uint32_t magic, version;
	uint64_t backing_off;
	uint32_t backing_len, cluster_bits;
	uint64_t size;
	uint32_t crypt, l1_entries;
	uint64_t l1_off, reftable_off;
	uint32_t reftable_clusters, nsnapshots;
	uint64_t snapshots_off;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order, length;
	uint8_t compression;
};

/* What a table says of a cluster. Where clusters have no subclusters, the masks have one bit. */
struct cluster {
	uint64_t host; /* 0: none */
	bool copied, compressed;
	uint32_t alloc, zero;
	uint64_t word; /* as it is in the table */
};

/* ---- cache.c: slices of the mapping tables ---- */

/* Written by the owner alone; seq is odd meanwhile. */
struct slot {
	_Atomic uint32_t seq;
	_Atomic bool used; /* since the owner last looked for room */
	_Atomic uint64_t key;
};

struct cache {
	unsigned nslots; /* a power of two */
	struct slot *slot;
	_Atomic uint64_t *words; /* of all slots, big-endian */
	unsigned hand;
};

/* ---- refcount.c ---- */

#define REF_SLICES 64

struct refcache {
	uint64_t index[REF_SLICES]; /* of the slice; UINT64_MAX: none */
	uint8_t *bytes;             /* SLICE_MAX for each */
};

/* A run of clusters by number. */
struct run {
	uint64_t first, n;
};

#define POOL_RUNS   64
#define POOL_WANT   64 /* clusters, at least */
#define POOL_BYTES  (4U << 20)
#define FREED_MAX   4096
#define PENDING_MAX 512

/* Clusters that are counted as used but are not yet, and read as zeroes, both on stable storage. */
struct pool {
	struct run run[POOL_RUNS];
	unsigned nruns;
	uint64_t hint; /* where free clusters are looked for */
	uint64_t end;  /* no cluster from here on was ever used; but on a device they read as zeroes */
};

/* References that the tables in the file no longer make, but may still make after a power cut. */
struct freed {
	struct run run[FREED_MAX];
	unsigned n, closing; /* the first closing ones wait for the readers' end */
	unsigned step;       /* of that wait: epoch.c */
	unsigned old;
};

/* An entry that is written by the next commit. */
struct pending {
	uint64_t index; /* of the cluster on the disk */
	uint64_t word, bitmap;
	struct cluster before;
};

/* What is in the file either as it is here or not: writing it failed. Nothing is allocated before it was written again. */
struct doubt {
	bool header, l1, table;    /* table: of the counts */
	uint64_t l1_index, region; /* the entries */
	uint64_t host;             /* a cluster that the L1 entry may refer to until then; 0: none */
};

struct reader {
	_Alignas(64) _Atomic uint32_t running[2];
};

struct qcow2 {
	struct qcow2_file file;
	unsigned layer;
	bool raw, readonly, device;
	struct qcow2 *below; /* NULL: none */

	_Atomic uint64_t size;
	_Atomic uint64_t eof;   /* the file's whole blocks */
	_Atomic uint64_t limit; /* its end in whole clusters */

	/* Fixed once open. */
	bool v3, extended;
	unsigned cluster_bits, l2_bits, words; /* words of an entry: 1 or 2 */
	unsigned slice_bits;                   /* log2 of entries in a slice */
	unsigned sub_bits, nsubs;
	uint64_t cluster;
	unsigned ref_order;
	uint8_t compression;
	size_t slice_bytes;

	struct cache cache;

	/* The owner's. */
	struct header header;
	uint8_t *header_block; /* the file's first cluster, or as much as is needed of it */
	uint64_t *l1;          /* as in the file, in host order */
	uint64_t *reftable;
	uint64_t reftable_entries;
	struct refcache refs;
	struct pool pool;
	struct freed *freed;
	struct pending *pending;
	unsigned npending;
	bool must_sync; /* before what is pending is written */
	struct doubt doubt;
	bool durable;      /* no entry is shown before it is on stable storage */
	bool unsynced;     /* some that were shown are not */
	uint8_t *buffer;   /* a cluster */
	uint8_t *block;    /* SLICE_MAX, for parts of tables */
	uint8_t *inflated; /* a cluster, that of inflated_word */
	uint64_t inflated_word;
	uint8_t *packed; /* what was compressed: up to two clusters */

	_Atomic uint32_t epoch;
	_Atomic bool wants_reclaim;
	struct reader *readers;
};

/* ---- header.c ---- */
int header_read(struct qcow2 *q, char *why, size_t size);
int header_write(struct qcow2 *q);
/* Writes it as *to, flushed. After an error it is what it was, and in doubt. */
int header_change(struct qcow2 *q, const struct header *to);
/* The backing file's format by the header, and its name; "" if there is none. */
void header_backing(const struct qcow2 *q, char *name, size_t name_size, char *format, size_t format_size);
bool header_is_protected(const struct qcow2 *q,
			 uint64_t cluster); /* of the tables that are known from the header */

/* ---- cache.c ---- */
int cache_new(struct qcow2 *q, size_t bytes);
void cache_free(struct qcow2 *q);
/* The slot that has slice key, or NULL; any thread. */
struct slot *cache_find(const struct qcow2 *q, uint64_t key);
/* The same, read from the file if it must be. Owner. */
int cache_get(struct qcow2 *q, uint64_t key, struct slot **out);
void cache_drop_all(struct qcow2 *q);
/* Before and after changing a slot's words. */
void cache_change(struct slot *slot);
void cache_publish(struct slot *slot);

static inline _Atomic uint64_t *cache_words(const struct qcow2 *q, const struct slot *slot)
{
	return q->cache.words + (size_t)(slot - q->cache.slot) * (q->slice_bytes / 8);
}

/* ---- map.c ---- */
static inline uint32_t all_subs(const struct qcow2 *q)
{
	return q->extended ? UINT32_MAX : 1;
}

void map_decode(const struct qcow2 *q, uint64_t word, uint64_t bitmap, struct cluster *out);
bool map_is_sound(const struct qcow2 *q, uint64_t word, uint64_t bitmap, uint64_t limit);
void map_encode(const struct qcow2 *q, const struct cluster *c, uint64_t *word, uint64_t *bitmap);

/* ---- refcount.c: of clusters by number ---- */
int ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *value);
int ref_add(struct qcow2 *q, uint64_t first, uint64_t n, int delta);
int ref_set(struct qcow2 *q, uint64_t first, uint64_t n, uint64_t value);
int ref_ensure(struct qcow2 *q, uint64_t cluster); /* that there is a place for its count */
uint64_t ref_max(const struct qcow2 *q);
int ref_load_table(struct qcow2 *q);
int ref_write_table(struct qcow2 *q, uint64_t region); /* the block of it that has this entry */
uint64_t ref_block_entries(const struct qcow2 *q);

/* ---- alloc.c ---- */
int alloc_start(struct qcow2 *q);
/* Writes again what is in doubt. */
int alloc_heal(struct qcow2 *q);
int alloc_take(struct qcow2 *q, uint64_t *host);
/* n clusters in a row at the end of the file, counted, on stable storage, reading as zeroes. */
int alloc_row(struct qcow2 *q, uint64_t n, uint64_t *host);
void alloc_grow_to(struct qcow2 *q, uint64_t end);
int alloc_extend(struct qcow2 *q, uint64_t end);
/* n clusters from host on have one reference less, once what took it away is on stable storage. False: no room to note it. */
bool alloc_free(struct qcow2 *q, uint64_t host, uint64_t n);
void alloc_free_cluster(struct qcow2 *q, const struct cluster *c);
bool alloc_has_room(const struct qcow2 *q, unsigned n);
/* Makes all that was asked for so, while nobody moves data. */
int alloc_settle(struct qcow2 *q);
int alloc_finish(struct qcow2 *q);

/* ---- epoch.c ---- */
bool epoch_passed(struct qcow2 *q);

/* ---- read.c ---- */
int read_guest(struct qcow2 *q, uint64_t off, uint8_t *buf, uint64_t len);
int read_entry(struct qcow2 *q, uint64_t index, struct cluster *out);
/* True if all of it reads as zeroes, as far as the tables tell without reading data. */
int read_is_zero(struct qcow2 *q, uint64_t off, uint64_t len, bool *zero);
/* The bytes of the file that a compressed cluster lies in. */
void read_packed_range(const struct qcow2 *q, uint64_t word, uint64_t *off, uint64_t *len);

/* ---- write.c ---- */
/* Makes the table of an L1 entry one that may be written to. */
int write_own_table(struct qcow2 *q, uint64_t l1_index);
/* Has a cluster's entry changed by the next commit; there is room for it in q->pending. */
void write_later(struct qcow2 *q, uint64_t index, const struct cluster *before, const struct cluster *after);
/* Makes these subclusters of a cluster writable in place, for the next commit to show. */
int write_prepare(struct qcow2 *q, uint64_t index, uint32_t mask);
/* The subclusters of cluster index that the range touches. */
uint32_t write_touched(const struct qcow2 *q, uint64_t index, uint64_t off, uint64_t len);

/* ---- zero.c ---- */
/* Makes what lies between the disk's present end and another read as zeroes, for when it has grown. The L1 table is long
 * enough. -errno with a reason. */
int zero_beyond(struct qcow2 *q, uint64_t to, const char **why);

/* ---- check.c ---- */
typedef int (*entry_fn)(struct qcow2 *q, void *arg, uint64_t off, uint64_t len);
/* Calls fn with what an L1 table refers to, tables and clusters alike; a table that is there twice is an error. */
int check_walk(struct qcow2 *q, const uint64_t *l1, uint64_t entries, entry_fn fn, void *arg);
/* Makes the flags in an L1 table (at l1_off in the file) and in its tables say whether each count is 1. */
int check_flags(struct qcow2 *q, uint64_t *l1, uint64_t entries, uint64_t l1_off, bool repair,
		uint64_t *wrong);

/* ---- snapshot.c ---- */
struct snapshot {
	uint64_t next; /* where the next one's entry is */
	uint64_t l1_off;
	uint32_t l1_entries;
	struct qcow2_snapshot told;
};
int snapshot_next(struct qcow2 *q, struct snapshot *s); /* s->next is 0 before the first */
int snapshot_load_l1(struct qcow2 *q, const struct snapshot *s, uint64_t **l1);

/* ---- inflate.c ---- */
int inflate_cluster(unsigned type, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len);

/* ---- open.c ---- */
void *qcow2_alloc(size_t len);
int file_read_full(struct qcow2 *q, void *buf, size_t len, uint64_t off); /* past the end: zeroes */
int file_write(struct qcow2 *q, const void *buf, size_t len, uint64_t off);
int file_sync(struct qcow2 *q);
int l1_write(struct qcow2 *q, uint64_t index);

static inline bool offset_is_sound(const struct qcow2 *q, uint64_t off, uint64_t len)
{
	uint64_t end;

	return off >= q->cluster && !(off & (q->cluster - 1)) && num_add(off, len, &end) &&
	       end <= atomic_load_explicit(&q->limit, memory_order_relaxed);
}

static inline uint64_t cluster_of(const struct qcow2 *q, uint64_t off)
{
	return off >> q->cluster_bits;
}

static inline uint64_t clusters_for(const struct qcow2 *q, uint64_t bytes)
{
	return (bytes >> q->cluster_bits) + !!(bytes & (q->cluster - 1));
}

#endif
