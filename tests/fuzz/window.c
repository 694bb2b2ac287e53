/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-window: the window between a driver and a server either of which may do anything, also in the middle of what the
 * window does: rings, requests and data on one side, the window's memory and every word of its connection on the other.
 *
 * Whatever they do, the window writes nothing of the driver's but what a request granted, in the bytes that the server wrote for
 * that one; the server is shown nothing but what a request brought, apart from every other; no request is answered twice. It
 * ends itself for nothing but what the server did. While the driver behaves, each request comes back once, whatever dies.
 */
#include <errno.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "window_rig.h"

#define DEATHS  5
#define VECTORS 6 /* of one kind, in a request of a driver that behaves */

struct rig rig;
struct window window;

static struct server_device device;
static struct {
	uint8_t server, pages;
	bool supervised;
} begin;
static struct input within; /* what happens in the middle of passes */
static bool happening;
static jmp_buf process_end;
static bool ended, was[RIG_RINGS];
static unsigned deaths;

/* ---- memory ---- */

#define VECTORS_ALL ((size_t)OUTRING_SLOTS * LANE_IOV)

/* Lanes' vectors, which are written before they are read: to make so much anew for each input would take most of the time. */
static struct {
	void *at;
	bool used;
} kept[WINDOW_LANES];

void *__real_calloc(size_t n, size_t size);
void __real_free(void *p);
void *__wrap_calloc(size_t n, size_t size);
void __wrap_free(void *p);

void *__wrap_calloc(size_t n, size_t size)
{
	unsigned i = 0;

	if (n != VECTORS_ALL)
		return __real_calloc(n, size);
	while (kept[i].used)
		MUST(++i < WINDOW_LANES);
	if (!kept[i].at)
		kept[i].at = __real_calloc(n, size);
	kept[i].used = true;
	return kept[i].at;
}

void __wrap_free(void *p)
{
	for (unsigned i = 0; i < WINDOW_LANES; i++)
		if (p && p == kept[i].at) {
			kept[i].used = false;
			return;
		}
	__real_free(p);
}

/* ---- the process ---- */

void __wrap__exit(int status) __attribute__((noreturn));

void __wrap__exit(int status)
{
	MUST(status == 1 && server_strange);
	longjmp(process_end, 1);
}

static int open_device(void *dev, const struct server_settings *settings, uint64_t *features)
{
	window_init(&window);
	window.bytes = WINDOW_LANES * SHARE_PART_MIN;
	server_begin(begin.server);
	account_new_process();
	MUST(window_device.open(dev, settings, features) == 0);
	window.supervised = begin.supervised;
	server_ask(features);
	return 0;
}

/* With few pages requests wait for room. */
static int open_queue(void *dev, struct server_queue *queue, void **state)
{
	static const uint32_t pages[] = { 480, 40, 9, 3 };
	int err = window_device.queue_open(dev, queue, state);
	struct lane *l = *state;

	arena_free(&l->arena);
	MUST(err == 0 && arena_init(&l->arena, pages[begin.pages % ARRAY_SIZE(pages)]) == 0);
	return 0;
}

static void forget(void *state)
{
	account_forget(((struct lane *)state)->index);
	window_device.forget(state);
}

static void begin_again(struct input *in)
{
	uint64_t features = rig.features;

	(void)in;
	rig_die(&rig);
	rig_boot(&rig, WINDOW_LANES, WINDOW_LANES, features);
	rig_start_again(&rig, was);
}

static void run(void)
{
	still_run(rig.loop, RIG_PASSES);
}

/* What is done, the process may end with. */
static void guard(void (*fn)(struct input *in), struct input *in)
{
	if (setjmp(process_end) == 0) {
		fn(in);
		return;
	}
	ended = true;
	happening = false;
	for (unsigned i = 0; i < rig.rings; i++)
		was[i] |= rig.up[i];
}

/* Both die, and others begin. False: it can't be, or was often enough. */
static bool live_on(void)
{
	while (ended) {
		if (!rig.tracked || deaths++ >= DEATHS)
			return false;
		ended = false;
		guard(begin_again, NULL);
	}
	memset(was, 0, sizeof(was));
	return true;
}

/* ---- what the driver does ---- */

static uint32_t some_length(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 96)
		return 1 + how % 34; /* about what is short */
	if (how < 128)
		return SHARE_PAGE - 2 + how % 4;
	return how < 224 ? 1 + in_u16(in) % 512U : 1 + in_u16(in) % 20000U;
}

static struct ring_buf some_vector(struct input *in, bool write)
{
	uint32_t len = some_length(in);
	uint64_t gpa = RIG_DATA + in_u16(in) * 2U % (2 * RIG_BYTES - len);

	return (struct ring_buf) { .gpa = gpa, .len = len, .write = write };
}

static void op_request(struct input *in)
{
	struct ring_buf bufs[2 * VECTORS];
	uint8_t how = in_u8(in);
	unsigned n = 0, out = how % (VECTORS + 1), ins = (how >> 3) % (VECTORS + 1);

	while (n < out)
		bufs[n++] = some_vector(in, false);
	while (n < out + ins || !n)
		bufs[n++] = some_vector(in, true);
	ring_add(&rig.ring[how >> 7], bufs, n, how & 64 && rig.features & RING_F_INDIRECT);
}

/* As a disk's: header, data, status. */
static void op_disk_request(struct input *in)
{
	uint8_t how = in_u8(in);
	struct ring_buf bufs[3] = { { .gpa = RIG_APART + in_u8(in) * 16U, .len = 16 } };
	unsigned n = 1;

	if (how & 1)
		bufs[n++] = some_vector(in, how & 2);
	bufs[n++] = (struct ring_buf) { .gpa = RIG_APART + 0x8000U + in_u8(in), .len = 1, .write = true };
	ring_add(&rig.ring[how >> 7], bufs, n, how & 64 && rig.features & RING_F_INDIRECT);
}

static void op_data(struct input *in)
{
	uint8_t bytes[64];
	uint32_t len = 1 + in_u8(in) % sizeof(bytes), at = in_u16(in) % (RIG_BYTES - (uint32_t)sizeof(bytes));

	memset(bytes, in_u8(in), sizeof(bytes));
	in_bytes(in, bytes, MIN(len, 4U));
	account_put((at & 1 ? RIG_APART : RIG_DATA) + at, bytes, len);
}

static void op_any_chain(struct input *in)
{
	rig_any_chain(&rig, WINDOW_LANES, in);
}

static void op_write_over(struct input *in)
{
	rig_write_over(&rig, WINDOW_LANES, in);
}

static void op_kick(struct input *in)
{
	uint8_t which = in_u8(in);

	rig_kick(&rig, which & 3);
	if (which & 4) /* with nothing new */
		still_raise(rig.kick[which >> 3 & 1], EPOLLIN);
	still_run(rig.loop, which & 128 ? 1 : RIG_PASSES);
}

static void op_collect(struct input *in)
{
	(void)in;
	rig_collect(&rig, 0);
}

/* ---- what the others do ---- */

static void op_server(struct input *in)
{
	uint8_t how = in_u8(in);

	for (unsigned n = 1 + (how >> 1) % 16; n && server_use(in, how & 1); n--)
		;
	if (how & 64)
		run();
}

static void op_wrong(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how & 1)
		server_scribble(in);
	else
		server_put_used(in);
	if (how & 2)
		run();
}

static void op_call(struct input *in)
{
	server_call(in);
	run();
}

static void op_answer(struct input *in)
{
	server_answer(in);
	run();
}

static void op_say(struct input *in)
{
	server_say(in);
	run();
}

/* The front end is not heard meanwhile. */
static bool is_stopping(void)
{
	return rig.stopping[0] || rig.stopping[1];
}

static void op_order(struct input *in)
{
	uint8_t what = in_u8(in);
	unsigned i = what % WINDOW_LANES;

	if (is_stopping()) {
		rig_drain(&rig, i, what & 64);
	} else if (!rig.up[i]) {
		MUST(rig_start(&rig, i, false) || !rig.honest);
	} else if ((what >> 1) % 5 == 0) {
		rig_stop(&rig, i, what & 64);
	} else if ((what >> 1) % 5 < 3) {
		rig_enable(&rig, i, what & 64);
	} else if ((what >> 1) % 5 == 3) {
		rig_drain(&rig, i, what & 64);
	} else {
		rig_set_mem(&rig, i, what >> 6 & 1);
	}
	if (what >= 250)
		rig_move(&rig, i);
	run();
}

static void op_config(struct input *in)
{
	uint32_t off = in_u8(in) % 128U, len = in_u8(in) % 128U;
	uint8_t *bytes = calloc(1, len ? len : 1);

	if (in_u8(in) & 1) {
		window_device.get_config(&window, off, len, bytes);
	} else {
		in_bytes(in, bytes, MIN(len, 8U));
		window_device.set_config(&window, off, len, bytes);
	}
	free(bytes);
}

static void op_die(struct input *in)
{
	(void)in;
	if (!rig.tracked)
		return;
	server_strange = true;
	longjmp(process_end, 1);
}

/* ---- in the middle of a pass ---- */

static void happen(struct input *in)
{
	switch (in_u8(in) % 8) {
	case 0:
		rig.honest = false;
		op_data(in);
		break;
	case 1:
		op_write_over(in);
		break;
	case 2:
		server_scribble(in);
		break;
	case 3:
		server_put_used(in);
		break;
	case 4:
		server_call(in);
		break;
	case 5:
	case 6:
		server_use(in, in_u8(in) & 1);
		break;
	default:
		break;
	}
}

void window_moment(void)
{
	if (!within.left || happening)
		return;
	happening = true;
	happen(&within);
	happening = false;
}

static void op_within(struct input *in)
{
	size_t len = in_u8(in) % 64U;

	len = MIN(len, in->left);
	within = (struct input) { in->at, len };
	in->at += len;
	in->left -= len;
}

static void (*const ops[])(struct input *in) = {
	op_request,    op_request, op_disk_request, op_disk_request, op_data,    op_any_chain,
	op_write_over, op_kick,    op_kick,         op_kick,         op_collect, op_server,
	op_server,     op_server,  op_wrong,        op_call,         op_answer,  op_answer,
	op_say,        op_order,   op_config,       op_die,          op_within,
};

static void operate(struct input *in)
{
	ops[in_below(in, ARRAY_SIZE(ops))](in);
}

/* ---- an input ---- */

/* With nothing in the way any more, all that was asked is answered; by a server that is not strange. */
static void settle_once(struct input *in)
{
	(void)in;
	within.left = 0;
	for (unsigned k = 0; k < 8 * RIG_SIZE && (server_do_all() || is_stopping()); k++)
		run();
	if (is_stopping())
		return;
	rig_let_go(&rig);
	run();
	for (unsigned k = 0; k < 8 * RIG_SIZE && server_do_all(); k++)
		run();
	still_advance(1000 * NS_PER_S);
	run();
	rig_collect(&rig, 0);
}

static bool is_settled(void)
{
	return rig.ring[0].n_free == RIG_SIZE && rig.ring[1].n_free == RIG_SIZE;
}

static void settle(void)
{
	deaths = 0;
	for (unsigned round = 0; round < 8 && !is_settled() && !account_broken; round++) {
		if (atomic_load(&window.lost) || (server_strange && round)) {
			if (!rig.tracked)
				return;
			guard(op_die, NULL);
		}
		if (live_on())
			guard(settle_once, NULL);
	}
	MUST(is_settled() || account_broken || !rig.tracked);
}

static void set_up(struct input *in)
{
	uint8_t how = in_u8(in);

	device = window_device;
	device.open = open_device;
	device.queue_open = open_queue;
	device.forget = forget;
	rig_reset(&rig, &device, &window);
	account_reset();
	begin.server = in_u8(in);
	begin.pages = begin.server >> 2;
	begin.supervised = !(how & 8);
	rig.tracked = !(how & 16);
	within.left = deaths = 0;
	ended = happening = false;
	memset(was, 0, sizeof(was));
	rig_boot(&rig, WINDOW_LANES, WINDOW_LANES, rig_features(how));
	rig_lay_out(&rig);
	rig_start_all(&rig);
	/* Mostly it begins by serving. */
	if (how & 32)
		return;
	server_do_all();
	run();
	server_do_all();
	run();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static struct input in;

	if (len > 4096)
		return 0;
	in = (struct input) { bytes, len };
	set_up(&in);
	while (in.left && live_on()) {
		guard(operate, &in);
		account_check(false);
	}
	if (rig.honest && live_on())
		settle();
	account_check(true);
	rig_end(&rig);
	return 0;
}
