/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-bus: what the control bus makes of a message: any bytes, one whose fields are any, or one that the codec itself made
 * and some bytes of which were changed then. What is taken for a message is encoded and taken for the same again.
 */
#include "bus_priv.h"

#include "fuzz.h"

static struct bus_arena arena;

static bool decode(const uint8_t *data, size_t len, struct bus_msg *out)
{
	const char *what = NULL;
	int err = bus_codec_decode(&arena, data, len, out, &what);

	MUST(!err || what);
	return !err;
}

/* The bytes of it, the caller's. */
static uint8_t *encode(const struct bus_msg *m, size_t *len)
{
	struct bus_wire_message *msg = NULL;
	uint8_t *copy;

	if (bus_codec_encode(m, &msg))
		return NULL;
	*len = msg->len - BUS_WIRE_HEAD;
	copy = malloc(*len + 1);
	memcpy(copy, msg->bytes + BUS_WIRE_HEAD, *len);
	free(msg);
	return copy;
}

static void check_text(const char *text, size_t size)
{
	size_t len = strnlen(text, size);

	MUST(len < size);
	for (size_t i = 0; i < len; i++)
		MUST((uint8_t)text[i] >= ' ' && text[i] != 127);
}

static void check(const struct bus_msg *m)
{
	MUST(m->type > BUS_NONE && m->type < BUS_TYPE_COUNT);
	MUST((bus_types[m->type].kind == BUS_KIND_EVENT) == !m->id);
	if (m->type == BUS_ERROR)
		check_text(m->error.text, BUS_TEXT_MAX);
	if (m->type == BUS_DEVICE_DOWN)
		check_text(m->device_down.reason, BUS_TEXT_MAX);
	if (m->type == BUS_STATS)
		MUST(m->stats.count <= BUS_STATS_MAX);
}

static void take(const uint8_t *data, size_t len)
{
	struct bus_msg first, second;
	uint8_t *again, *exact = malloc(len ? len : 1);
	size_t again_len = 0;

	/* Of its very size, so that a read behind it is seen. */
	memcpy(exact, data, len);
	memset(&first, 0, sizeof(first));
	memset(&second, 0, sizeof(second));
	if (decode(exact, len, &first)) {
		check(&first);
		again = encode(&first, &again_len);
		MUST(again && decode(again, again_len, &second));
		MUST(!memcmp(&first, &second, sizeof(first)));
		free(again);
	}
	free(exact);
}

/* A message of any fields; texts end somewhere. */
static void fill(struct input *in, struct bus_msg *m)
{
	uint8_t *body = (uint8_t *)&m->error;
	size_t room = sizeof(*m) - offsetof(struct bus_msg, error), given;
	uint8_t how = in_u8(in), letter = in_u8(in);

	memset(m, 0, sizeof(*m));
	m->type = in_below(in, BUS_TYPE_COUNT + 1U);
	m->id = how & 1 ? in_u64(in) : m->type < BUS_TYPE_COUNT && bus_types[m->type].kind != BUS_KIND_EVENT;
	if (m->type == BUS_STATS) {
		m->stats.count = in_below(in, BUS_STATS_MAX + 2U);
		for (unsigned i = 0; i < MIN(m->stats.count, (unsigned)BUS_STATS_MAX); i++) {
			memset(m->stats.stat[i].name, 'a' + (int)(i % 26), 1 + i % 8);
			m->stats.stat[i].value = i < 4 ? in_u64(in) : i;
		}
		return;
	}
	if (how & 2)
		memset(body, letter ? letter : 'a', in_below(in, BUS_TEXT_MAX + 64U));
	given = in_below(in, BUS_TEXT_MAX + 64U);
	in_bytes(in, body, MIN(in->left, MIN(given, room)));
	/* A bool is one, whatever stands there. */
	if (m->type == BUS_DEVICE_UP)
		*(uint8_t *)&m->device_up.resumed &= 1;
}

static void made(struct input *in)
{
	uint8_t changes = in_u8(in) % 8, *data;
	struct bus_msg m;
	struct input changed = *in;
	size_t len = 0;

	/* The last bytes say what is changed. */
	if (in->left > 4U * changes) {
		changed.at += in->left - 4U * changes;
		changed.left = 4U * changes;
		in->left -= 4U * changes;
	}
	fill(in, &m);
	data = encode(&m, &len);
	if (!data)
		return;
	take(data, len);
	while (changes-- && len) {
		uint32_t at = in_u16(&changed) % (uint32_t)len;

		if (in_u8(&changed) & 1)
			data[at] = in_u8(&changed);
		else
			len -= in_u8(&changed) % len;
	}
	take(data, len);
	free(data);
}

/* ---- a message whose lengths are right, and whose fields are any ---- */

#define HAND_MAX 4096

struct hand {
	uint8_t bytes[HAND_MAX];
	size_t len;
};

static void put_varint(struct hand *h, uint64_t v)
{
	for (; v > 127 && h->len < HAND_MAX; v >>= 7)
		h->bytes[h->len++] = (uint8_t)(v | 0x80);
	if (h->len < HAND_MAX)
		h->bytes[h->len++] = (uint8_t)v;
}

static void put_bytes(struct hand *h, unsigned field, const uint8_t *bytes, size_t len)
{
	put_varint(h, field << 3 | 2);
	put_varint(h, len);
	len = MIN(len, HAND_MAX - h->len);
	memcpy(h->bytes + h->len, bytes, len);
	h->len += len;
}

static void put_field(struct input *in, struct hand *h)
{
	static const uint16_t lens[] = { 1, 5, 31, 32, 33, 511, 512, 513 };
	uint8_t how = in_u8(in), text[BUS_TEXT_MAX + 8];
	unsigned field = 1 + (how >> 2) % 6;

	if (how & 1) {
		put_varint(h, field << 3);
		put_varint(h, how & 2 ? in_u64(in) : in_u8(in));
		return;
	}
	memset(text, how & 128 ? in_u8(in) : 'n', sizeof(text));
	put_bytes(h, field, text, how & 2 ? in_u8(in) : lens[in_below(in, ARRAY_SIZE(lens))]);
}

static void by_hand(struct input *in)
{
	struct hand body = { .len = 0 }, all = { .len = 0 };
	unsigned type = in_below(in, BUS_TYPE_COUNT + 2U);
	uint8_t id = in_u8(in);

	while (in->left)
		put_field(in, &body);
	put_varint(&all, 1 << 3);
	put_varint(&all, id);
	put_bytes(&all, type + 1, body.bytes, body.len);
	take(all.bytes, all.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };

	switch (in_u8(&in) % 4) {
	case 1:
		made(&in);
		break;
	case 2:
		by_hand(&in);
		break;
	default:
		take(in.at, in.left);
		break;
	}
	return 0;
}
