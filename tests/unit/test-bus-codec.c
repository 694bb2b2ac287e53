/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus's codec: every message there and back, every limit, and hostile bytes (FAULTS 34). */
#include "bus_priv.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"

static struct bus_arena arena;

static struct bus_msg sample(enum bus_type type)
{
	struct bus_msg m = { .type = type, .id = bus_types[type].kind == BUS_KIND_EVENT ? 0 : 77 };

	if (type == BUS_ERROR) {
		m.error.err = -ENOSPC;
		strcpy(m.error.text, "the disk is full");
	} else if (type == BUS_HELLO) {
		m.hello.protocol = BUS_PROTOCOL;
		strcpy(m.hello.kind, "blk");
		strcpy(m.hello.name, "disk0");
		strcpy(m.hello.version, "0.1.0");
	} else if (type == BUS_STATS) {
		m.stats.count = BUS_STATS_MAX;
		for (int i = 0; i < BUS_STATS_MAX; i++) {
			snprintf(m.stats.stat[i].name, BUS_NAME_MAX, "q%u.requests-of-a-long",
				 (unsigned)i % 1000);
			m.stats.stat[i].value = UINT64_MAX - (uint64_t)i;
		}
	} else if (type == BUS_DEVICE_UP) {
		strcpy(m.device_up.device, "disk0");
		m.device_up.handshake_ns = 123456789;
		m.device_up.resumed = true;
	} else if (type == BUS_DEVICE_DOWN) {
		strcpy(m.device_down.device, "disk0");
		memset(m.device_down.reason, 'x', BUS_TEXT_MAX - 1);
	} else if (type == BUS_GUEST_ENDED) {
		m.guest_ended.end = BUS_END_DEBUG_EXIT;
		m.guest_ended.code = -3;
		strcpy(m.guest_ended.text, "");
	} else if (type == BUS_DEVICE_HUNG) {
		strcpy(m.device_hung.device, "disk0");
		m.device_hung.queue = UINT32_MAX;
		m.device_hung.stalled_ns = UINT64_MAX;
		memset(m.device_hung.reason, 'y', BUS_TEXT_MAX - 1);
	} else if (type == BUS_FAIL_DEVICE) {
		strcpy(m.fail_device.device, "disk1");
	} else if (type == BUS_RECOVERED) {
		m.recovered.resubmitted = 128;
		m.recovered.poisoned = 128;
		m.recovered.start_ns = 1;
		m.recovered.replayed_ns = UINT64_MAX - 1;
		m.recovered.first_ns = UINT64_MAX;
	} else if (type == BUS_SET) {
		strcpy(m.set.key, "link");
		memset(m.set.value, 'z', BUS_TEXT_MAX - 1);
	} else if (type == BUS_IO_ERROR) {
		memset(m.io_error.text, 'z', BUS_TEXT_MAX - 1);
	} else if (type == BUS_LOOPS) {
		m.loops.count = BUS_LOOPS_MAX;
		for (unsigned i = 0; i < BUS_LOOPS_MAX; i++) {
			struct bus_loop *l = &m.loops.loop[i];

			snprintf(l->name, sizeof(l->name), "a-loop-with-a-long-name-%u", i);
			l->thread = UINT32_MAX - i;
			l->queues = UINT64_MAX;
			l->busy_ns = 1 + i;
			l->over_ns = UINT64_MAX - i;
			l->passes = 2 * UINT32_MAX + i;
			l->sleeps = 3 * UINT32_MAX + i;
			l->poll_hits = 4 * UINT32_MAX + i;
			l->poll_misses = 5 * UINT32_MAX + i;
			l->poll_ns = 6 * UINT32_MAX + i;
			l->poll_max_ns = 7 * UINT32_MAX + i;
		}
	} else if (type == BUS_MOVE_QUEUE) {
		m.move_queue.queue = UINT32_MAX;
		strcpy(m.move_queue.thread, "io0");
	} else if (type == BUS_PIN) {
		strcpy(m.pin.thread, "main");
		memset(m.pin.cpus, '1', BUS_TEXT_MAX - 1);
	}
	return m;
}

static size_t encode(const struct bus_msg *m, uint8_t *buf)
{
	struct bus_wire_message *out = NULL;
	size_t len;

	cr_assert_eq(bus_codec_encode(m, &out), 0);
	len = out->len - BUS_WIRE_HEAD;
	memcpy(buf, out->bytes + BUS_WIRE_HEAD, len);
	free(out);
	return len;
}

/* From a copy of its very size, so that the address sanitizer sees a read behind it. */
static int decode(const void *data, size_t len, struct bus_msg *out)
{
	void *exact = malloc(len ? len : 1);
	const char *what = NULL;
	int err;

	memcpy(exact, data, len);
	err = bus_codec_decode(&arena, exact, len, out, &what);
	free(exact);
	if (err) {
		cr_assert_eq(err, -EBADMSG);
		cr_assert_not_null(what);
	}
	return err;
}

static int encode_err(const struct bus_msg *m)
{
	struct bus_wire_message *out;
	int err = bus_codec_encode(m, &out);

	if (!err)
		free(out);
	return err;
}

Test(bus_codec, every_message_comes_back_as_it_went)
{
	static uint8_t buf[BUS_MSG_MAX];

	for (int t = BUS_ERROR; t < BUS_TYPE_COUNT; t++) {
		struct bus_msg in = sample((enum bus_type)t), out;
		size_t len = encode(&in, buf);

		cr_assert_eq(decode(buf, len, &out), 0, "%s", bus_types[t].name);
		cr_assert_eq(memcmp(&in, &out, sizeof(in)), 0, "%s", bus_types[t].name);
	}
}

Test(bus_codec, what_breaks_a_limit_is_not_sent)
{
	struct bus_msg m = sample(BUS_HELLO);

	memset(m.hello.name, 'a', BUS_NAME_MAX);
	cr_assert_eq(encode_err(&m), -EINVAL, "a name without its NUL");
	m = sample(BUS_HELLO);
	m.hello.kind[0] = '\0';
	cr_assert_eq(encode_err(&m), -EINVAL, "an empty name");
	m = sample(BUS_STATS);
	m.stats.count++;
	cr_assert_eq(encode_err(&m), -EINVAL, "too many counters");
	m = sample(BUS_ERROR);
	m.error.err = 0;
	cr_assert_eq(encode_err(&m), -EINVAL, "an error that is none");
	m = sample(BUS_GUEST_ENDED);
	m.guest_ended.end = (enum bus_end)6;
	cr_assert_eq(encode_err(&m), -EINVAL, "an end that is none");
	m = sample(BUS_DEVICE_DOWN);
	memset(m.device_down.reason, 'x', BUS_TEXT_MAX);
	cr_assert_eq(encode_err(&m), -EINVAL, "a text without its NUL");
	m = sample(BUS_RECOVERED);
	m.recovered.poisoned++;
	cr_assert_eq(encode_err(&m), -EINVAL, "more poisoned requests than there were");
	m = sample(BUS_SET);
	m.set.key[0] = ' ';
	cr_assert_eq(encode_err(&m), -EINVAL, "a blank in a key");
	m = sample(BUS_SET);
	memset(m.set.value, 'z', BUS_TEXT_MAX);
	cr_assert_eq(encode_err(&m), -EINVAL, "a value without its NUL");
	m = sample(BUS_IO_ERROR);
	memset(m.io_error.text, 'z', BUS_TEXT_MAX);
	cr_assert_eq(encode_err(&m), -EINVAL, "a text without its NUL");
	m = sample(BUS_LOOPS);
	m.loops.count++;
	cr_assert_eq(encode_err(&m), -EINVAL, "too many loops");
	m = sample(BUS_LOOPS);
	m.loops.loop[3].name[0] = '\0';
	cr_assert_eq(encode_err(&m), -EINVAL, "a loop without a name");
	m = sample(BUS_PIN);
	memset(m.pin.cpus, '1', BUS_TEXT_MAX);
	cr_assert_eq(encode_err(&m), -EINVAL, "processors without their NUL");
	m.type = BUS_NONE;
	cr_assert_eq(encode_err(&m), -EINVAL);
	m.type = BUS_TYPE_COUNT;
	cr_assert_eq(encode_err(&m), -EINVAL);
}

Test(bus_codec, fault_34_truncated_anywhere_is_malformed)
{
	static uint8_t buf[BUS_MSG_MAX];

	for (int t = BUS_ERROR; t < BUS_TYPE_COUNT; t++) {
		struct bus_msg in = sample((enum bus_type)t), out;
		size_t len = encode(&in, buf);

		for (size_t cut = 0; cut < len; cut++)
			cr_assert_neq(decode(buf, cut, &out), 0, "%s cut at %zu", bus_types[t].name, cut);
	}
}

/* Raw encodings. Envelope: id is field 1, error 2, ok 3, hello 4, ready 5, ping 6, stats 8. */
#define BYTES(...) (const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ })

Test(bus_codec, fault_34_hostile_shapes_are_malformed)
{
	const struct {
		const char *name;
		const uint8_t *data;
		size_t len;
		uint64_t id; /* that is still recognised */
	} bad[] = {
		{ "nothing", BYTES(0), 0 },
		{ "id only", BYTES(8, 5), 5 },
		{ "ready without id", BYTES(42, 0), 0 },
		{ "ready with an id", BYTES(8, 5, 42, 0), 5 },
		{ "ping without an id", BYTES(8, 0, 50, 0), 0 },
		{ "unknown type", BYTES(8, 5, 0xa2, 6, 0), 5 },
		{ "unknown type and a known one", BYTES(8, 5, 50, 0, 0xa2, 6, 0), 5 },
		{ "unknown field in a body", BYTES(8, 5, 50, 2, 8, 1), 5 },
		{ "two bodies", BYTES(8, 5, 50, 0, 26, 0), 5 },
		{ "the same body twice", BYTES(8, 5, 50, 0, 50, 0), 5 },
		{ "two ids", BYTES(8, 5, 8, 6, 50, 0), 5 },
		{ "long form of a number", BYTES(8, 0x85, 0, 50, 0), 5 },
		{ "trailing byte", BYTES(8, 5, 50, 0, 0), 5 },
		{ "body longer than the message", BYTES(8, 5, 50, 9), 5 },
		{ "body of length 0xffffffff", BYTES(8, 5, 50, 0xff, 0xff, 0xff, 0xff, 0x0f), 5 },
		{ "endless number", BYTES(8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255), 0 },
		{ "field number 0", BYTES(8, 5, 2, 0), 5 },
		{ "wire type 7", BYTES(8, 5, 55, 0), 5 },
		{ "group", BYTES(8, 5, 51, 52), 5 },
		{ "id as a string", BYTES(10, 1, 5, 50, 0), 0 },
		{ "error without text", BYTES(8, 5, 18, 2, 8, 1), 5 },
		{ "error of 0", BYTES(8, 5, 18, 4, 8, 0, 18, 0), 5 },
		{ "error above 0", BYTES(8, 5, 18, 4, 8, 2, 18, 0), 5 },
		{ "error of -5000", BYTES(8, 5, 18, 5, 8, 0x8f, 0x4e, 18, 0), 5 },
		{ "text with a NUL inside", BYTES(8, 5, 18, 7, 8, 1, 18, 3, 'a', 0, 'b'), 5 },
		{ "hello with an empty name", BYTES(8, 0, 34, 8, 8, 1, 18, 0, 26, 0, 34, 0), 0 },
		{ "hello with a blank in a name",
		  BYTES(8, 0, 34, 12, 8, 1, 18, 2, 'a', ' ', 26, 1, 'b', 34, 1, 'c'), 0 },
		{ "counter without a value", BYTES(8, 5, 66, 5, 10, 3, 10, 1, 'a'), 5 },
		{ "stats in stats", BYTES(8, 5, 66, 4, 10, 2, 66, 0), 5 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct bus_msg out;

		cr_assert_neq(decode(bad[i].data, bad[i].len, &out), 0, "%s", bad[i].name);
		cr_assert_eq(out.id, bad[i].id, "%s: id %lu", bad[i].name, (unsigned long)out.id);
	}
}

static size_t put_stats(uint8_t *buf, size_t count, size_t name_len)
{
	size_t body = count * (name_len + 6), len = 0;

	buf[len++] = 8;
	buf[len++] = 5;
	buf[len++] = 66;
	for (; body >= 0x80; body >>= 7)
		buf[len++] = (uint8_t)(body | 0x80);
	buf[len++] = (uint8_t)body;
	for (size_t i = 0; i < count; i++) {
		buf[len++] = 10;
		buf[len++] = (uint8_t)(name_len + 4);
		buf[len++] = 10;
		buf[len++] = (uint8_t)name_len;
		memset(buf + len, 'n', name_len);
		len += name_len;
		buf[len++] = 16;
		buf[len++] = 1;
	}
	return len;
}

Test(bus_codec, fault_34_too_many_or_too_long_is_malformed)
{
	static uint8_t buf[2 * BUS_MSG_MAX];
	struct bus_msg out;

	cr_assert_eq(decode(buf, put_stats(buf, BUS_STATS_MAX, BUS_NAME_MAX - 1), &out), 0);
	cr_assert_neq(decode(buf, put_stats(buf, BUS_STATS_MAX + 1, 1), &out), 0);
	cr_assert_neq(decode(buf, put_stats(buf, 1, BUS_NAME_MAX), &out), 0);
	cr_assert_neq(decode(buf, put_stats(buf, 9000, 1), &out), 0, "more than the arena takes");
}

Test(bus_codec, control_characters_of_a_text_are_made_harmless)
{
	struct bus_msg in = sample(BUS_ERROR), out;
	uint8_t buf[1024];
	size_t len;

	strcpy(in.error.text, "a\nb\x1b[2Jc\x7f\xc3\xa9");
	len = encode(&in, buf);
	cr_assert_eq(decode(buf, len, &out), 0);
	cr_assert_str_eq(out.error.text, "a?b?[2Jc?\xc3\xa9");
}

/* Whatever decodes must be within every limit, and so must encode again. */
static void check_random(const uint8_t *data, size_t len, unsigned *good)
{
	struct bus_msg out;

	if (decode(data, len, &out) == 0) {
		++*good;
		cr_assert(out.type > BUS_NONE && out.type < BUS_TYPE_COUNT);
		cr_assert_eq(encode_err(&out), 0);
	}
}

Test(bus_codec, fault_34_random_mutations_never_break_the_decoder, .timeout = 60)
{
	static uint8_t buf[BUS_MSG_MAX], mutant[BUS_MSG_MAX];
	unsigned seed = 34, good = 0;

	for (int round = 0; round < 60000; round++) {
		struct bus_msg m = sample((enum bus_type)(1 + rand_r(&seed) % (BUS_TYPE_COUNT - 1)));
		size_t len;

		if (m.type == BUS_STATS)
			m.stats.count = (uint32_t)rand_r(&seed) % 4;
		len = encode(&m, buf);
		memcpy(mutant, buf, len);
		for (int k = rand_r(&seed) % 4; k >= 0; k--) {
			size_t at = (size_t)rand_r(&seed) % len;

			switch (rand_r(&seed) % 4) {
			case 0: /* flip a bit */
				mutant[at] ^= (uint8_t)(1 << rand_r(&seed) % 8);
				break;
			case 1: /* a value of interest */
				mutant[at] = (const uint8_t[]) {
					0, 1, 0x7f, 0x80, 0xff, 2, 18, 66
				}[rand_r(&seed) % 8];
				break;
			case 2: /* repeat a piece */
				memmove(mutant + at / 2, mutant + at, len - at);
				break;
			default: /* cut or lengthen */
				len = 1 + (size_t)rand_r(&seed) % (len + 8);
			}
		}
		check_random(mutant, len, &good);
	}
	cr_assert_gt(good, 100, "the mutants are too wild to reach the fields");
}

Test(bus_codec, fault_34_random_bytes_never_break_the_decoder, .timeout = 60)
{
	static uint8_t buf[600];
	unsigned seed = 35, good = 0;

	for (int round = 0; round < 60000; round++) {
		size_t len = (size_t)rand_r(&seed) % sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)rand_r(&seed);
		if (len > 4 && round & 1)
			memcpy(buf, (const uint8_t[]) { 8, 5, 66, (uint8_t)(len - 4) & 0x7f }, 4);
		check_random(buf, len, &good);
	}
}
