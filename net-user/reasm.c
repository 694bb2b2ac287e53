/* SPDX-License-Identifier: Apache-2.0 */
/* Fragments into packets, in memory that is there from the start. */
#include "reasm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define PAYLOAD_MAX (65535 - FRAME_IP4)
#define HEADERS     (FRAME_ETHER + FRAME_IP4)
#define PIECES      (65536 / 8)
#define EXPIRES_NS  (30 * NS_PER_S)

struct slot {
	uint64_t since; /* 0: free */
	uint8_t src[4], dst[4], protocol;
	uint16_t id;
	uint32_t have;             /* bytes of payload */
	uint32_t length;           /* 0: the last fragment is not there yet */
	uint32_t reach;            /* where the furthest fragment ends */
	uint8_t piece[PIECES / 8]; /* which eight bytes are there */
	uint8_t frame[HEADERS + PAYLOAD_MAX];
};

struct reasm {
	struct slot slot[REASM_SLOTS];
};

int reasm_new(struct reasm **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void reasm_free(struct reasm *r)
{
	free(r);
}

static bool is_of(const struct slot *s, const struct frame *f)
{
	return s->since && s->id == f->id && s->protocol == f->protocol && !memcmp(s->src, f->src, 4) &&
	       !memcmp(s->dst, f->dst, 4);
}

static void begin(struct slot *s, const struct frame *f, uint64_t now_ns)
{
	s->since = now_ns;
	s->id = f->id;
	s->protocol = f->protocol;
	memcpy(s->src, f->src, 4);
	memcpy(s->dst, f->dst, 4);
	s->have = s->length = s->reach = 0;
	memset(s->piece, 0, sizeof(s->piece));
}

/* The packet's slot, a new one if it has none. */
static struct slot *find(struct reasm *r, const struct frame *f, uint64_t now_ns, unsigned *evicted)
{
	struct slot *best = &r->slot[0];

	for (size_t i = 0; i < REASM_SLOTS; i++) {
		struct slot *s = &r->slot[i];

		if (s->since && now_ns - s->since > EXPIRES_NS) {
			s->since = 0;
			++*evicted;
		}
		if (is_of(s, f))
			return s;
		if (s->since < best->since)
			best = s;
	}
	*evicted += best->since != 0;
	begin(best, f, now_ns);
	return best;
}

/* Marks the pieces from offset on; false if one is there already. */
static bool mark(struct slot *s, uint32_t offset, uint32_t len)
{
	for (uint32_t p = offset / 8; p < (offset + len + 7) / 8; p++) {
		if (s->piece[p / 8] & 1 << p % 8)
			return false;
		s->piece[p / 8] |= (uint8_t)(1 << p % 8);
	}
	return true;
}

/* Takes the fragment in; false if it contradicts itself or others. */
static bool put(struct slot *s, const struct frame *f)
{
	uint32_t len = (uint32_t)(f->len - HEADERS), end = f->offset + len;

	if (len == 0 || end > PAYLOAD_MAX || (f->more && len % 8))
		return false;
	if (s->length ? end > s->length || (!f->more && end != s->length) : !f->more && end < s->reach)
		return false;
	if (!mark(s, f->offset, len))
		return false;
	if (!f->more)
		s->length = end;
	if (end > s->reach)
		s->reach = end;
	if (!f->offset)
		memcpy(s->frame, f->data, HEADERS);
	memcpy(s->frame + HEADERS + f->offset, f->data + HEADERS, len);
	s->have += len;
	return true;
}

/* The whole packet's header. */
static void finish(struct slot *s)
{
	uint8_t *ip = s->frame + FRAME_ETHER;

	frame_put16(ip + 2, (uint16_t)(FRAME_IP4 + s->length));
	frame_put16(ip + 6, 0);
	frame_put16(ip + 10, 0);
	frame_put16(ip + 10, frame_checksum(ip, FRAME_IP4));
}

enum reasm_result reasm_add(struct reasm *r, const struct frame *f, uint64_t now_ns, struct frame *whole,
			    unsigned *evicted)
{
	struct slot *s;

	*evicted = 0;
	s = find(r, f, now_ns, evicted);
	if (!put(s, f)) {
		s->since = 0;
		return REASM_DROP;
	}
	if (!s->length || s->have != s->length)
		return REASM_WAIT;
	finish(s);
	s->since = 0;
	*whole = frame_look(s->frame, HEADERS + s->length);
	return REASM_DONE;
}
