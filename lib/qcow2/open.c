/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing an image and the chain below it, and what all of the owner's side does to files. */
#include <stdio.h>
#include <stdlib.h>

#include "qcow2_priv.h"

#define NAME_MAX_BYTES 1024

void *qcow2_alloc(size_t len)
{
	return aligned_alloc(MEM_ALIGN, num_align_up(len, MEM_ALIGN));
}

int file_read_full(struct qcow2 *q, void *buf, size_t len, uint64_t off)
{
	int64_t n = q->file.ops->read(q->file.arg, buf, len, off);
	uint64_t eof = atomic_load_explicit(&q->eof, memory_order_relaxed), end;

	if (n < 0)
		return (int)n;
	/* It was longer: what is gone could be a table, and would look like an empty one. */
	if (off < eof && num_add(off, len, &end) && (uint64_t)n < MIN(end, eof) - off)
		return -ENODATA;
	memset((uint8_t *)buf + n, 0, len - (size_t)n);
	return 0;
}

int file_write(struct qcow2 *q, const void *buf, size_t len, uint64_t off)
{
	return q->file.ops->write(q->file.arg, buf, len, off);
}

int file_sync(struct qcow2 *q)
{
	int err = q->file.ops->sync(q->file.arg);

	if (!err)
		q->unsynced = false;
	return err;
}

int qcow2_sync(struct qcow2 *q)
{
	return file_sync(q);
}

/* Writes the block of the L1 table that has this entry. */
int l1_write(struct qcow2 *q, uint64_t index)
{
	uint64_t first = num_align_down(index, QCOW2_BLOCK / 8), words[QCOW2_BLOCK / 8];

	for (uint64_t i = 0; i < QCOW2_BLOCK / 8; i++)
		words[i] = first + i < q->header.l1_entries ? htobe64(q->l1[first + i]) : 0;
	memcpy(q->block, words, sizeof(words));
	return file_write(q, q->block, QCOW2_BLOCK, q->header.l1_off + first * 8);
}

static int load_l1(struct qcow2 *q)
{
	size_t bytes = (size_t)num_align_up((uint64_t)q->header.l1_entries * 8, QCOW2_BLOCK);
	int err = 0;

	q->l1 = qcow2_alloc(MAX(bytes, QCOW2_BLOCK));
	if (!q->l1)
		return -ENOMEM;
	if (bytes)
		err = file_read_full(q, q->l1, bytes, q->header.l1_off);
	for (size_t i = 0; i < q->header.l1_entries; i++)
		q->l1[i] = be64toh(q->l1[i]);
	return err;
}

static int make_buffers(struct qcow2 *q)
{
	q->buffer = qcow2_alloc(q->cluster);
	q->block = qcow2_alloc(SLICE_MAX);
	q->inflated = qcow2_alloc(q->cluster);
	q->packed = qcow2_alloc(2 * q->cluster + 2 * QCOW2_BLOCK);
	q->pending = calloc(PENDING_MAX, sizeof(*q->pending));
	q->freed = calloc(1, sizeof(*q->freed));
	return q->buffer && q->block && q->inflated && q->packed && q->pending && q->freed ? 0 : -ENOMEM;
}

static void drop(struct qcow2 *q)
{
	if (!q)
		return;
	cache_free(q);
	free(q->header_block);
	free(q->l1);
	free(q->reftable);
	free(q->refs.bytes);
	free(q->buffer);
	free(q->block);
	free(q->inflated);
	free(q->packed);
	free(q->pending);
	free(q->freed);
	free(q->readers);
	free(q);
}

static struct qcow2 *new_layer(const struct qcow2_file *file, unsigned layer, bool readonly)
{
	struct qcow2 *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->file = *file;
	q->layer = layer;
	q->readonly = readonly;
	if (!layer)
		q->readers = aligned_alloc(64, QCOW2_READERS_MAX * sizeof(*q->readers));
	if (!layer && !q->readers) {
		free(q);
		return NULL;
	}
	if (!layer)
		memset(q->readers, 0, QCOW2_READERS_MAX * sizeof(*q->readers));
	return q;
}

static int open_raw(struct qcow2 *q, char *why, size_t size)
{
	uint64_t bytes;
	int err = q->file.ops->size(q->file.arg, &bytes);

	if (err) {
		snprintf(why, size, "its length can't be found: %s", strerrordesc_np(-err));
		return err;
	}
	q->raw = true;
	atomic_store(&q->size, num_align_up(bytes, QCOW2_BLOCK));
	atomic_store(&q->eof, num_align_down(bytes, QCOW2_BLOCK));
	return 0;
}

static int open_layer(struct qcow2 *q, size_t cache_bytes, char *why, size_t size)
{
	int err = header_read(q, why, size);

	if (err)
		return err;
	err = make_buffers(q);
	if (!err)
		err = cache_new(q, cache_bytes);
	if (!err)
		err = load_l1(q);
	if (err)
		snprintf(why, size, "its L1 table can't be loaded: %s", strerrordesc_np(-err));
	return err;
}

/* In which format the file below q is read; -EINVAL with a line in why. */
static int choose_format(const struct qcow2 *q, const struct qcow2_backing *given, char *why, size_t size)
{
	char name[NAME_MAX_BYTES], word[16];
	int named = QCOW2_FORMAT_HEADER;

	header_backing(q, name, sizeof(name), word, sizeof(word));
	if (!strcmp(word, "raw"))
		named = QCOW2_FORMAT_RAW;
	else if (!strcmp(word, "qcow2"))
		named = QCOW2_FORMAT_QCOW2;
	if (given->format != QCOW2_FORMAT_HEADER)
		return (int)given->format;
	if (named == QCOW2_FORMAT_HEADER)
		snprintf(why, size, "its header does not say whether its backing file is raw or qcow2");
	return named == QCOW2_FORMAT_HEADER ? -EINVAL : named;
}

/* Opens what is below q: what the caller allows, and nothing that a header asks for. */
static int open_below(struct qcow2 *q, const struct qcow2_options *options, char *why, size_t size)
{
	const struct qcow2_backing *given;
	char name[NAME_MAX_BYTES], word[16];
	int format;

	if (options->alone)
		return 0;
	header_backing(q, name, sizeof(name), word, sizeof(word));
	if (!*name && q->layer >= options->nbacking)
		return 0;
	if (!*name) {
		snprintf(why, size, "it has no backing file, and one was given");
		return -EINVAL;
	}
	if (q->layer >= options->nbacking) {
		snprintf(why, size,
			 "it has the backing file \"%s\", and none was allowed for it: backing=FILE", name);
		return -EACCES;
	}
	given = &options->backing[q->layer];
	format = choose_format(q, given, why, size);
	if (format < 0)
		return format;
	q->below = new_layer(&given->file, q->layer + 1, true);
	if (!q->below)
		return -ENOMEM;
	if (format == QCOW2_FORMAT_QCOW2)
		return 0;
	if (q->layer + 1 < options->nbacking) {
		snprintf(why, size, "a raw backing file can have none below it");
		return -EINVAL;
	}
	return open_raw(q->below, why, size);
}

/* A writable image: what stands in the header of those that somebody else may not have understood. */
static int begin_writing(struct qcow2 *q, char *why, size_t size)
{
	struct qcow2_check found;
	int err = ref_load_table(q);

	if (!err)
		err = alloc_start(q);
	if (!err && q->header.incompatible & FEATURE_DIRTY) {
		err = qcow2_check(q, true, &found);
		if (!err)
			err = file_sync(q);
		q->header.incompatible &= ~(uint64_t)FEATURE_DIRTY;
		if (!err)
			err = header_write(q);
	}
	if (!err && q->header.autoclear) {
		q->header.autoclear = 0;
		err = header_write(q);
		if (!err)
			err = file_sync(q);
	}
	if (err == -EFBIG)
		snprintf(why, size,
			 "it must be repaired, which is too much here; mend it with qemu-img check -r all");
	else if (err)
		snprintf(why, size, "it can't be made ready for writing: %s", strerrordesc_np(-err));
	return err;
}

static void free_chain(struct qcow2 *q)
{
	while (q) {
		struct qcow2 *below = q->below;

		drop(q);
		q = below;
	}
}

/* The part of a message that says which file of the chain it is about. */
static void name_layer(const struct qcow2 *q, char *why, size_t size)
{
	char line[256];

	if (!q->layer)
		return;
	snprintf(line, sizeof(line), "backing file %u: %s", q->layer, why);
	snprintf(why, size, "%s", line);
}

int qcow2_open(const struct qcow2_file *file, const struct qcow2_options *options, struct qcow2 **out,
	       char *why, size_t size)
{
	size_t cache = options->cache_bytes ? options->cache_bytes : QCOW2_CACHE_BYTES;
	struct qcow2 *top, *q;
	int err = 0;

	snprintf(why, size, "out of memory");
	if (options->nbacking >= QCOW2_CHAIN_MAX) {
		snprintf(why, size, "more than %d backing files", QCOW2_CHAIN_MAX - 1);
		return -EINVAL;
	}
	top = new_layer(file, 0, options->readonly);
	if (!top)
		return -ENOMEM;
	top->device = options->device;
	for (q = top; !err && q && !q->raw; q = q->below) {
		err = open_layer(q, cache / (options->nbacking + 1), why, size);
		if (!err)
			err = open_below(q, options, why, size);
		if (err)
			name_layer(q, why, size);
	}
	if (!err && !top->readonly)
		err = begin_writing(top, why, size);
	if (err) {
		free_chain(top);
		return err;
	}
	*out = top;
	return 0;
}

int qcow2_close(struct qcow2 *q)
{
	int err = q && !q->readonly ? alloc_finish(q) : 0;

	free_chain(q);
	return err;
}

void qcow2_abandon(struct qcow2 *q)
{
	free_chain(q);
}

uint64_t qcow2_size(const struct qcow2 *q)
{
	return atomic_load_explicit(&q->size, memory_order_acquire);
}

uint64_t qcow2_cluster(const struct qcow2 *q)
{
	return q->cluster;
}

bool qcow2_can_zero(const struct qcow2 *q)
{
	return q->v3 || !q->below;
}
