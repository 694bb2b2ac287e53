/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-bus-conn: a connection that carries messages (bus_conn.c), over a stream in memory whose other end says anything, in
 * pieces of any size, takes what it is sent as it likes, and goes anywhere.
 *
 * Messages are handed over as they came: each once, whole, in its order, only while they are wanted, and none from the first
 * one on that is too long. The end is told once, and for a reason. What was sent leaves as it was, in its order.
 */
#include <errno.h>

#include "bus_conn.h"
#include "fuzz.h"
#include "still.h"
#include "stream.h"

#define CAME_MAX 8192
#define SENT_MAX 65536
#define PASSES   (2 * CAME_MAX) /* of the loop, each of which moves a byte at least */

static struct loop *loop;
static struct bus_conn *conn;
static size_t recv_max;

/* What the other end said. */
static struct {
	uint8_t bytes[CAME_MAX];
	size_t said, moved, taken; /* all; that the connection has; and of those, that it handed over */
	bool eager;                /* comes as soon as it is asked for */
	unsigned piece;            /* ... in pieces of so many bytes, 0: all that there are */
	bool wanted, full, hung_up, told;
	unsigned free_at; /* of the messages, the one at which the connection is freed; 0: none */
	unsigned pause_at, reply_at;
} came;

/* What this one said. */
static struct {
	uint8_t bytes[SENT_MAX];
	size_t said, moved;
	size_t end[SENT_MAX / BUS_WIRE_HEAD]; /* of each message */
	unsigned n, gone;
	bool eager, broken, given_up;
} sent;

static void free_conn(void)
{
	bus_conn_free(conn);
	conn = NULL;
	MUST(!stream_left());
}

/* ---- what must hold of what comes ---- */

/* A message is whole at what was taken last; its length. */
static bool is_next(size_t *len)
{
	const uint8_t *at = came.bytes + came.taken;
	size_t there = came.moved - came.taken;

	*len = there < BUS_WIRE_HEAD ? 0 : (size_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
	return there >= BUS_WIRE_HEAD && *len <= recv_max && *len <= there - BUS_WIRE_HEAD;
}

static bool is_too_long(void)
{
	size_t len;

	return !is_next(&len) && len > recv_max;
}

static void watch_room(void)
{
	came.full |= !came.wanted && came.moved - came.taken == recv_max + BUS_WIRE_HEAD;
}

static void send_one(size_t len, uint8_t letter);

static void on_message(void *arg, struct bus_conn *c, const uint8_t *data, size_t len)
{
	size_t expected;

	(void)arg;
	MUST(c == conn && came.wanted && !came.told);
	MUST(is_next(&expected) && len == expected);
	MUST(!memcmp(data, came.bytes + came.taken + BUS_WIRE_HEAD, len));
	came.taken += BUS_WIRE_HEAD + len;
	if (came.reply_at && !--came.reply_at)
		send_one(len, 'r');
	if (came.pause_at && !--came.pause_at) {
		came.wanted = false;
		bus_conn_read(c, false);
	}
	watch_room();
	if (came.free_at && !--came.free_at)
		free_conn();
}

static void on_ended(void *arg, struct bus_conn *c)
{
	bool given_up = came.full || sent.given_up || is_too_long();
	size_t len;

	(void)arg;
	MUST(c == conn && !came.told);
	MUST(came.hung_up || given_up);
	MUST(!is_next(&len) || given_up);
	came.told = true;
	if (came.free_at)
		free_conn();
}

static const struct bus_conn_ops ops = { on_message, on_ended };

/* ---- the other end ---- */

static void move_in(size_t n)
{
	size_t room;
	uint8_t *to = stream_waits(STREAM_IN, &room);

	n = MIN(n, MIN(room, came.said - came.moved));
	if (!to || !n)
		return;
	memcpy(to, came.bytes + came.moved, n);
	came.moved += n;
	watch_room();
	stream_moved(STREAM_IN, n);
}

static void move_out(size_t n)
{
	size_t there;

	if (!stream_waits(STREAM_OUT, &there) || !n)
		return;
	n = MIN(n, there);
	sent.moved += n;
	while (sent.gone < sent.n && sent.end[sent.gone] <= sent.moved)
		sent.gone++;
	stream_moved(STREAM_OUT, n);
}

static void on_begun(enum stream_way way)
{
	size_t len;
	const uint8_t *bytes = stream_waits(way, &len);

	if (way == STREAM_OUT) {
		MUST(sent.gone < sent.n && len == sent.end[sent.gone] - sent.moved);
		MUST(!memcmp(bytes, sent.bytes + sent.moved, len));
	}
	if (way == STREAM_IN && came.eager)
		move_in(came.piece ? came.piece : CAME_MAX);
	if (way == STREAM_OUT && sent.eager)
		move_out(SENT_MAX);
}

static void say(const void *bytes, size_t len)
{
	len = MIN(len, CAME_MAX - came.said);
	memcpy(came.bytes + came.said, bytes, len);
	came.said += len;
}

static void say_head(uint32_t len)
{
	const uint8_t head[BUS_WIRE_HEAD] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
					      (uint8_t)len };

	say(head, sizeof(head));
}

static void run(void)
{
	still_run(loop, PASSES);
	/* nng's poller spins on what nobody receives from. */
	if (conn && !came.told && !came.hung_up && !came.full && !sent.given_up && !is_too_long()) {
		size_t len;

		MUST(stream_waits(STREAM_IN, &len));
		MUST(!came.wanted || !is_next(&len));
	}
}

/* ---- operations ---- */

/* Of any size: about the largest, or short. */
static uint32_t some_length(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 16)
		return (uint32_t)recv_max - 8 + how;
	return how < 32 ? in_u16(in) % 2048U : how % 32U;
}

static void op_message(struct input *in)
{
	uint32_t len = some_length(in);
	uint8_t letter = in_u8(in);

	say_head(len);
	for (uint32_t i = 0; i < len && came.said < CAME_MAX; i++, letter++)
		say(&letter, 1);
}

static void op_many(struct input *in)
{
	unsigned n = in_u8(in);
	uint8_t len = in_u8(in) % 4, body[4] = { in_u8(in), 1, 2, 3 };

	while (n--) {
		say_head(len);
		say(body, len);
	}
}

static void op_bytes(struct input *in)
{
	uint8_t bytes[16];
	size_t n = 1 + in_below(in, sizeof(bytes));

	in_bytes(in, bytes, n);
	say(bytes, n);
}

static void op_head(struct input *in)
{
	say_head(in_u8(in) & 1 ? in_u32(in) : (uint32_t)recv_max + in_u8(in));
}

static void op_move(struct input *in)
{
	uint8_t how = in_u8(in);

	move_in(how < 128 ? how : CAME_MAX);
	if (how & 1)
		run();
}

static void op_eager(struct input *in)
{
	uint8_t how = in_u8(in);

	came.eager = how & 1;
	sent.eager = how & 2;
	came.piece = how >> 2;
	move_in(came.eager ? CAME_MAX : 0);
	move_out(sent.eager ? SENT_MAX : 0);
	run();
}

static void op_take(struct input *in)
{
	uint8_t how = in_u8(in);

	move_out(how < 192 ? how : SENT_MAX);
	if (how & 1)
		run();
}

static const int errors[] = { NNG_ECLOSED,   NNG_ECONNRESET, NNG_ECONNSHUT,    NNG_ENOMEM,
			      NNG_ETIMEDOUT, NNG_EPERM,      NNG_ESYSERR + 123 };

static void op_hang_up(struct input *in)
{
	size_t len;

	if (!stream_waits(STREAM_IN, &len))
		return;
	came.hung_up = true;
	stream_fails(STREAM_IN, errors[in_below(in, ARRAY_SIZE(errors))]);
}

static void op_break(struct input *in)
{
	int err = errors[in_below(in, ARRAY_SIZE(errors))];
	size_t len;

	if (!stream_waits(STREAM_OUT, &len))
		return;
	sent.broken = true;
	sent.given_up |= err != NNG_ECLOSED && err != NNG_ECONNRESET && err != NNG_ECONNSHUT;
	stream_fails(STREAM_OUT, err);
}

static void op_read(struct input *in)
{
	uint8_t how = in_u8(in);

	came.wanted = how & 1;
	bus_conn_read(conn, came.wanted);
	watch_room();
	if (how & 2)
		run();
}

static void send_one(size_t len, uint8_t letter)
{
	struct bus_wire_message *m;
	size_t all = BUS_WIRE_HEAD + len;
	int err;

	if (all > SENT_MAX - sent.said)
		return;
	m = malloc(sizeof(*m) + all);
	m->len = all;
	memset(m->bytes, letter, all);
	/* It may be begun, and over, within the call. */
	memcpy(sent.bytes + sent.said, m->bytes, all);
	sent.end[sent.n++] = sent.said += all;
	err = bus_conn_send(conn, m);
	if (!err)
		return;
	MUST(err == -EPIPE ? sent.broken : err == -EAGAIN && sent.n - 1 - sent.gone == BUS_CONN_SEND_MAX);
	sent.n--;
	sent.said -= all;
	free(m);
}

static void op_send(struct input *in)
{
	unsigned n = in_u8(in);
	uint8_t letter = in_u8(in);

	for (n = n < 224 ? 1 : n - 160; n--; letter++)
		send_one(letter % 64, letter);
}

static void op_flush(struct input *in)
{
	int err = bus_conn_flush(conn, 1);

	(void)in;
	MUST(err == 0 ? sent.gone == sent.n : err == -EPIPE ? sent.broken : err == -ETIMEDOUT);
}

static void op_run(struct input *in)
{
	still_run(loop, 1 + in_u8(in) % 4U);
}

static void op_free(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how > 250)
		free_conn();
	else
		came.free_at = how % 8;
}

static void op_within(struct input *in)
{
	came.pause_at = in_u8(in) % 32;
	came.reply_at = in_u8(in) % 32;
}

static void (*const operations[])(struct input *in) = {
	op_message, op_message, op_many, op_bytes, op_head, op_move,  op_move, op_eager, op_take,
	op_hang_up, op_break,   op_read, op_read,  op_send, op_flush, op_run,  op_free,  op_within,
};

/* ---- an input ---- */

static void set_up(struct input *in)
{
	static const uint16_t sizes[] = { 0, 1, 8, 64, 300, 2048 };
	uint8_t how = in_u8(in);
	unsigned lacking = how < 240 ? 0 : how & 3;
	int err;

	memset(&came, 0, sizeof(came));
	sent.said = sent.moved = 0;
	sent.n = sent.gone = 0;
	sent.eager = sent.broken = sent.given_up = false;
	recv_max = sizes[how % ARRAY_SIZE(sizes)];
	still_reset();
	MUST(loop_new("still", &loop) == 0);
	err = bus_conn_new(loop, stream_open(on_begun, lacking), recv_max, &ops, NULL, &conn);
	if (err) {
		MUST(lacking && err == -ENOMEM && !stream_left());
		conn = NULL;
	}
}

/* With the other end saying all, and taking all, so does this one. */
static void settle(void)
{
	size_t len;

	came.wanted = came.eager = sent.eager = true;
	came.piece = came.pause_at = 0;
	bus_conn_read(conn, true);
	move_in(CAME_MAX);
	move_out(SENT_MAX);
	run();
	if (!conn)
		return;
	MUST(sent.gone == sent.n || sent.broken);
	if (came.told)
		return;
	MUST(!came.hung_up && !sent.given_up && !is_too_long());
	MUST(came.moved == came.said && !is_next(&len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };

	if (len > 4096)
		return 0;
	set_up(&in);
	while (in.left && conn)
		operations[in_below(&in, ARRAY_SIZE(operations))](&in);
	if (conn)
		settle();
	if (conn)
		free_conn();
	loop_free(loop);
	return 0;
}
