/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two places for each record and a word that says which one holds. A record is written where the word does not point, then
 * the word is stored: whoever dies before that store has changed nothing, and after it has changed all. Stores are
 * ordered against the compiler alone, as a dead process's stores do not get lost (lib/virtq/inflight_priv.h).
 */
#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "clean.h"
#include "crash.h"
#include "fd.h"
#include "lock.h"
#include "num.h"

struct place {
	uint32_t len;
	uint8_t reserved[4];
	uint8_t data[STATE_RECORD_MAX];
};

struct record {
	_Atomic uint32_t holds; /* 0: no record, else 1 + the place that holds */
	uint8_t reserved[60];
	struct place places[2];
};

struct page {
	_Atomic uint64_t words[STATE_WORDS];
	struct record record[STATE_RECORDS];
	_Alignas(64) uint8_t area[STATE_AREA];
};

_Static_assert(sizeof(struct page) <= STATE_BYTES, "fits");

struct state {
	struct page *page;
	struct lock lock;                           /* of the records, against other threads of ours */
	struct record *records PT_GUARDED_BY(lock); /* in the page */
};

int state_create(void)
{
	return fd_sealed_memfd("state", STATE_BYTES);
}

static int map(int fd, int flags, struct state **out)
{
	CLEAN_FREE struct state *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->page = mmap(NULL, STATE_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (s->page == MAP_FAILED)
		return -errno;
	lock_init(&s->lock);
	s->records = s->page->record;
	*out = TAKE_PTR(s);
	return 0;
}

int state_map(int fd, struct state **out)
{
	int err = fd_check_unshrinkable(fd);
	struct stat st;

	if (err)
		return err;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_size == STATE_BYTES ? map(fd, MAP_SHARED, out) : -EINVAL;
}

int state_alloc(struct state **out)
{
	return map(-1, MAP_PRIVATE | MAP_ANONYMOUS, out);
}

void state_free(struct state *s)
{
	if (!s)
		return;
	munmap(s->page, STATE_BYTES);
	lock_destroy(&s->lock);
	free(s);
}

int state_save(struct state *s, enum state_record which, const void *data, size_t len)
{
	struct record *record;
	struct place *to;
	uint32_t next;

	if (len > STATE_RECORD_MAX)
		return -E2BIG;
	lock_take(&s->lock);
	record = &s->records[which];
	next = atomic_load_explicit(&record->holds, memory_order_relaxed) == 1 ? 2 : 1;
	to = &record->places[next - 1];
	CRASH_POINT("state before");
	to->len = (uint32_t)len;
	CRASH_POINT("state length");
	memcpy(to->data, data, len);
	CRASH_POINT("state written");
	atomic_store_explicit(&record->holds, next, memory_order_release);
	CRASH_POINT("state after");
	lock_drop(&s->lock);
	return 0;
}

ssize_t state_load(struct state *s, enum state_record which, void *buf, size_t max)
{
	const struct record *record;
	ssize_t len;
	uint32_t holds;

	lock_take(&s->lock);
	record = &s->records[which];
	holds = atomic_load_explicit(&record->holds, memory_order_acquire);
	if (holds == 0) {
		len = -ENOENT;
	} else if (holds > ARRAY_SIZE(record->places)) {
		len = -EPROTO;
	} else {
		const struct place *from = &record->places[holds - 1];

		/* Once: another process may be writing it. */
		len = __atomic_load_n(&from->len, __ATOMIC_RELAXED);
		if (len > STATE_RECORD_MAX)
			len = -EPROTO;
		else
			memcpy(buf, from->data, MIN((size_t)len, max));
	}
	lock_drop(&s->lock);
	return len;
}

_Atomic uint64_t *state_words(struct state *s)
{
	return s->page->words;
}

void *state_area(struct state *s)
{
	return s->page->area;
}
