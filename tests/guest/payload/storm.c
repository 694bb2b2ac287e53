/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A storm: the host kills the device's process again and again, and the guest watches.
 *
 * storm_run has requests out in up to all slots, writes, reads and flushes at random, and knows what every block must
 * hold: a pattern of seed, block and generation. What the disk held before nobody knows, so each block is written before
 * it is read, unless it is told to learn: then there is what an earlier storm wrote, or zeroes, also where the disk
 * grows. Never all slots for long: of a request that is done again nothing would be seen if the driver had another one
 * out in its place. Each slot has blocks of its own, so two requests never meet on one; of two disks, each has the blocks
 * of its own slots. A stall is the longest time
 * between two completions in a window; the host begins a window by a byte, and kills only once it was answered: 'k' a
 * window with a kill, 'n' one without, 'w' one that does not count, 'q' the end. Two bytes are answered later: 'd' when
 * all that is out now is complete, 'g' when the disk has grown; what is new of it is used from then on.
 *
 * storm_probe times reads of a register of another device in windows of the same kind, which end with the next byte.
 */
#include "storm.h"

#define DEPTH_MAX (VDEV_SLOTS * VDEV_QUEUES)
#define BLOCK     4096
#define BLOCKS    8192 /* of the disk that are used, at most */
#define WINDOWS   8192
#define READS     65536
#define SEED      0x5b1ce0ffee5eed00u

_Static_assert(DEPTH_MAX <= 64, "storm.awaited has a bit for each");

struct pending {
	bool out;
	uint8_t type; /* of the request */
	unsigned block;
	uint32_t generation;
};

static uint8_t buffers[DEPTH_MAX][BLOCK] __attribute__((aligned(4096)));
static struct pending pending[DEPTH_MAX];
static uint32_t generations[BLOCKS]; /* what each block holds; 0: no storm has written it */
static uint32_t gaps[WINDOWS];
static uint64_t reads[READS];
static uint8_t kinds[WINDOWS];

static struct {
	struct vdev *disk[2]; /* the second may be NULL */
	uint64_t random, writes, reads, flushes, growths, errors, mismatches, strays;
	uint64_t last, longest; /* completion; time between two of them, in cycles */
	unsigned windows, out;
	unsigned depth, blocks; /* slots and blocks in use */
	uint64_t sectors;       /* of the smaller disk, as far as is known */
	uint64_t by_second;     /* requests that the second disk completed */
	uint64_t awaited;       /* a bit for each slot: its request was out when the host asked */
	uint8_t asked;          /* a byte that is not answered yet, 0: none */
	uint8_t kind;           /* of the present window */
	bool learning, knows;   /* what the disk holds: finds it out; has done so */
	uint64_t khz;
} storm = { .random = 0x9e3779b97f4a7c15u };

static uint64_t pattern(unsigned block, uint32_t generation, unsigned word)
{
	uint64_t seed = SEED ^ (uint64_t)block << 32 ^ generation;

	return seed * (2u * word + 1) + word;
}

static void fill(uint8_t *buf, unsigned block, uint32_t generation)
{
	for (unsigned w = 0; w < BLOCK / 8; w++)
		((uint64_t *)(void *)buf)[w] = pattern(block, generation, w);
}

static bool holds(const uint8_t *buf, unsigned block, uint32_t generation)
{
	uint64_t wrong = 0;

	for (unsigned w = 0; (generation || storm.knows) && w < BLOCK / 8; w++)
		wrong |= ((const uint64_t *)(const void *)buf)[w] ^
			 (generation ? pattern(block, generation, w) : 0);
	return !wrong;
}

/* What a block holds that somebody else wrote, if it holds what anybody may have written. */
static uint32_t generation_of(const uint8_t *buf, unsigned block)
{
	uint64_t word = *(const uint64_t *)(const void *)buf;

	return word ? (uint32_t)(word ^ SEED ^ (uint64_t)block << 32) : 0;
}

static void begin(unsigned slot, unsigned block, uint8_t type)
{
	struct pending *p = &pending[slot];

	*p = (struct pending) { .out = true, .type = type, .block = block };
	p->generation = generations[block] + (type == BLK_OUT);
	if (type == BLK_OUT)
		fill(buffers[slot], block, p->generation);
	else
		memset(buffers[slot], 0xee, BLOCK);
	if (type == BLK_FLUSH)
		vdev_queue_slot(slot, type, 0, NULL, 0);
	else
		vdev_queue_slot(slot, type, (uint64_t)block * (BLOCK / 512), buffers[slot], BLOCK);
	storm.out++;
}

static void finish(unsigned slot, bool good)
{
	uint64_t now = tsc();
	struct pending *p;

	if (now - storm.last > storm.longest)
		storm.longest = now - storm.last;
	storm.last = now;
	if (slot >= storm.depth || !pending[slot].out) {
		storm.strays++;
		return;
	}
	p = &pending[slot];
	p->out = false;
	storm.out--;
	storm.awaited &= ~(1ull << slot);
	storm.errors += !good;
	storm.by_second += slot >= VDEV_SLOTS * storm.disk[0]->queues;
	if (p->type == BLK_FLUSH) {
		storm.flushes++;
	} else if (p->type == BLK_OUT) {
		generations[p->block] = p->generation;
		storm.writes++;
	} else {
		if (storm.learning)
			generations[p->block] = p->generation = generation_of(buffers[slot], p->block);
		storm.mismatches += !holds(buffers[slot], p->block, p->generation);
		storm.reads++;
	}
}

static void close_window(uint8_t next_kind)
{
	if (storm.kind && storm.windows < WINDOWS) {
		kinds[storm.windows] = storm.kind;
		gaps[storm.windows++] = (uint32_t)(storm.longest * 1000 / storm.khz);
	}
	storm.kind = next_kind;
}

/* Takes what is complete; with nothing to take, looks at the serial line now and then. The host's byte, or 0. */
static uint8_t wait_some(uint64_t *looked)
{
	unsigned slot;
	bool good, any = false;

	for (;;) {
		while (vdev_reap(&slot, &good)) {
			finish(slot, good);
			any = true;
		}
		if (tsc() - *looked > storm.khz / 4) {
			*looked = tsc();
			if (has_byte())
				return read_byte();
		}
		if (any)
			return 0;
		__asm__ volatile("pause");
	}
}

static void answer(uint8_t byte)
{
	char text[] = { '!', (char)byte, '\n', '\0' };

	close_window(byte);
	if (byte == 'q')
		return;
	print(text);
	/* The printing is not the device's time. */
	storm.longest = 0;
	storm.last = tsc();
}

static void print_windows(void)
{
	for (unsigned i = 0; i < storm.windows; i++) {
		if (kinds[i] != 'k' && kinds[i] != 'n')
			continue;
		print(kinds[i] == 'k' ? "stall " : "noise ");
		print_u64(gaps[i]);
		print("\n");
	}
	print("# storm:");
	print_count("writes", storm.writes);
	print_count("reads", storm.reads);
	print_count("flushes", storm.flushes);
	print_count("growths", storm.growths);
	print_count("errors", storm.errors);
	print_count("mismatches", storm.mismatches);
	print_count("strays", storm.strays);
	print("\n");
}

static void drain(uint64_t *looked)
{
	while (storm.out)
		wait_some(looked);
}

static void kick(void)
{
	for (unsigned i = 0; i < 2 && storm.disk[i]; i++)
		vdev_kick_wanted(storm.disk[i]);
}

/* Reads every block. */
static void read_all(uint64_t *looked)
{
	for (unsigned block = 0; block < storm.blocks;) {
		for (unsigned slot = 0; slot < storm.depth; slot++)
			begin(slot, block++, BLK_IN);
		kick();
		drain(looked);
	}
}

static uint64_t capacity(void)
{
	uint64_t first = vdev_capacity(storm.disk[0]);
	uint64_t second = storm.disk[1] ? vdev_capacity(storm.disk[1]) : first;

	return first < second ? first : second;
}

/* How much of each disk is used: each slot has as many blocks as the others. */
static void use(uint64_t sectors)
{
	uint64_t blocks = sectors / (BLOCK / 512);

	storm.sectors = sectors;
	storm.blocks = (unsigned)(blocks < BLOCKS ? blocks : BLOCKS) / storm.depth * storm.depth;
}

/* Takes a byte from the host, and answers what can be answered now. */
static void hear(uint8_t byte)
{
	uint64_t sectors;

	if (byte == 'd')
		for (unsigned slot = 0; slot < storm.depth; slot++)
			storm.awaited |= (uint64_t)pending[slot].out << slot;
	if (byte == 'd' || byte == 'g')
		storm.asked = byte;
	else if (byte)
		answer(byte);
	if (storm.asked == 'g') {
		sectors = capacity();
		if (sectors <= storm.sectors)
			return;
		use(sectors);
		storm.growths++;
	}
	if (storm.asked && !storm.awaited) {
		answer(storm.asked);
		storm.asked = 0;
	}
}

static void begin_any(unsigned slot, const struct storm_options *o)
{
	unsigned block = next_random(&storm.random) % (storm.blocks / storm.depth) * storm.depth + slot;
	bool writing = next_random(&storm.random) & 1 || (!generations[block] && !storm.knows);

	if (o->flush && next_random(&storm.random) % o->flush == 0)
		begin(slot, block, BLK_FLUSH);
	else
		begin(slot, block, writing ? BLK_OUT : BLK_IN);
}

static void set_up(struct vdev *d, const struct storm_options *o, uint64_t *looked)
{
	storm.khz = tsc_khz();
	storm.disk[0] = d;
	storm.disk[1] = o->second;
	storm.depth = VDEV_SLOTS * (d->queues + (o->second ? o->second->queues : 0));
	if (!d->queues || (o->second && !o->second->queues))
		debug_exit(0x20);
	use(capacity());
	storm.learning = storm.knows = o->learn;
	if (o->learn)
		read_all(looked);
	storm.learning = false;
	print("# cycles per ms ");
	print_u64(storm.khz);
	print("\n!ready\n");
	storm.last = tsc();
}

void storm_run(struct vdev *d, const struct storm_options *o)
{
	uint64_t looked = 0;
	uint8_t byte = 0;

	set_up(d, o, &looked);
	while (byte != 'q') {
		for (unsigned slot = 0; slot < storm.depth; slot++)
			if (!pending[slot].out && (!storm.out || next_random(&storm.random) & 1))
				begin_any(slot, o);
		kick();
		byte = wait_some(&looked);
		hear(byte);
	}
	drain(&looked);
	read_all(&looked);
	print_windows();
	report(!storm.errors, "no request fails");
	report(!storm.mismatches, "what is read is what was written last");
	report(!storm.strays, "no request completes twice");
	if (o->second)
		report(storm.by_second && storm.by_second < storm.writes + storm.reads + storm.flushes,
		       "both disks complete requests");
}

/* ---- another device's register ---- */

/* Keeps requests out, so that there is something to recover; what they read does not matter here. */
static void stir(struct vdev *d, bool ending)
{
	unsigned slot;
	bool good;

	while (vdev_reap(&slot, &good)) {
		storm.errors += !good;
		storm.out--;
	}
	if (storm.out || ending)
		return;
	for (slot = 0; slot < VDEV_SLOTS; slot++)
		vdev_queue_slot(slot, BLK_IN, slot * (BLOCK / 512), buffers[slot], BLOCK);
	storm.out = VDEV_SLOTS;
	vdev_kick_wanted(d);
}

/* One window: prints "reads KIND count median p99 max", the times in ns. */
static uint8_t read_window(uint8_t kind, struct vdev *d, struct vdev *other)
{
	char text[] = { '!', (char)kind, '\n', '\0' }, name[] = { (char)kind, '\0' };
	uint64_t count = 0, worst = 0;
	unsigned n;

	print(text);
	do {
		uint64_t t;

		if (count % 64 == 0)
			stir(d, false);
		t = tsc();
		(void)MMIO_READ(uint8_t, other->common + COMMON_STATUS);
		t = tsc() - t;
		if (t > worst)
			worst = t;
		reads[count++ % READS] = t;
	} while (count % 64 || !has_byte());
	n = count < READS ? (unsigned)count : READS;
	sort_times(reads, n);
	print("reads ");
	print(name);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t values[] = { count, reads[n / 2], reads[n * 99ull / 100], worst };

		print(" ");
		print_u64(i ? values[i] * 1000000 / storm.khz : values[i]);
	}
	print("\n");
	return read_byte();
}

void storm_probe(struct vdev *d, struct vdev *other)
{
	uint8_t byte;

	storm.khz = tsc_khz();
	print("!ready\n");
	for (byte = read_byte(); byte != 'q';)
		byte = read_window(byte, d, other);
	while (storm.out)
		stir(d, true);
	report(!storm.errors, "the requests that were out complete");
}
