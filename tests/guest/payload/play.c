/* SPDX-License-Identifier: Apache-2.0 */
/* The playing guest's turns and steps. */
#include "play.h"

#define TURN 256  /* steps */
#define TELL 4096 /* steps */

static struct play play;

/* The numbers of a step are its own, so that it is the same wherever the game began (splitmix64). */
static uint64_t seed_of(const struct play *p, uint64_t step, unsigned what)
{
	uint64_t x = ((uint64_t)p->o->seed << 40) + step * 4 + what + 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	x ^= x >> 31;
	return x ? x : 1;
}

/* Interrupts come with any vector. */
static void open_gates(void)
{
	extern uint8_t idt[];
	const uint64_t *like = (const uint64_t *)(void *)(idt + 0x4f * 16);

	for (unsigned vector = 32; vector < 256; vector++)
		if (vector < 0x40 || vector > 0x4f) {
			((uint64_t *)(void *)idt)[vector * 2] = like[0];
			((uint64_t *)(void *)idt)[vector * 2 + 1] = like[1];
		}
	MMIO_WRITE(uint32_t, 0xfee000f0, 0x1ff); /* local APIC on */
}

static void tell(struct play *p, uint64_t step)
{
	play_console();
	print("\nplay:");
	print_count("seed", p->o->seed);
	print_count("step", step);
	print_count("accesses", p->accesses);
	print_count("requests", p->requests);
	print_count("wrong", p->wrong);
	print_count("starts", p->starts);
	print_count("served", p->served);
	print("\n");
	play_console();
}

/* What can be seen of a device that does not do as it should. */
static bool failed(const struct play_device *d, const char *what)
{
	play_console();
	print("\n# the device in slot");
	print_count(what, d->v.slot);
	print_count("status", MMIO_READ(uint8_t, d->v.common + COMMON_STATUS));
	print(" features ");
	print_hex(d->v.features);
	for (unsigned i = 0; i < PLAY_LANES; i++)
		if (d->lanes[i].on) {
			print_count("ring", i);
			print_count("size", d->lanes[i].size);
			print_count("added", d->lanes[i].added);
			print_count("seen", d->lanes[i].seen);
		}
	print("\n");
	return false;
}

/* All devices as they should be; false if one does not get there. */
static bool begin_turn(struct play *p)
{
	p->mischief = 0;
	/* All, before any is started: one that lies over another one catches its notifications. */
	for (unsigned i = 0; i < p->n_devices; i++)
		play_restore(&p->devices[i]);
	for (unsigned i = 0; i < p->n_devices; i++) {
		struct play_device *d = &p->devices[i];

		if (!play_start(p, d))
			return failed(d, "that does not start:");
		if (!play_serves(p, d))
			return failed(d, "that does not serve:");
		p->served++;
	}
	return true;
}

static void step(struct play *p)
{
	unsigned what = play_pick(p, 64);

	if (what == 0)
		play_start(p, &p->devices[play_pick(p, p->n_devices)]);
	else if (what < 28)
		play_ring(p);
	else
		for (unsigned n = 1 + play_pick(p, 6); n--;)
			play_registers(p);
}

/* How wrong a turn is: one decision of so many. */
static unsigned mischief_of(struct play *p)
{
	static const unsigned levels[] = { 0, 256, 64, 16, 4 };

	return levels[play_pick(p, 5)];
}

static bool steps(struct play *p, uint64_t *now)
{
	uint64_t end = (uint64_t)p->o->from + p->o->steps;
	unsigned mischief = 0;

	for (; *now < end; ++*now) {
		if (*now % TURN == 0) {
			p->random = seed_of(p, *now, 1);
			if (!begin_turn(p))
				return false;
			mischief = mischief_of(p);
		}
		if (*now % TELL == 0)
			tell(p, *now);
		p->random = seed_of(p, *now, 0);
		p->mischief = mischief;
		step(p);
	}
	p->random = seed_of(p, *now, 1);
	return begin_turn(p);
}

void play_run(const struct play_options *o, struct vdev *first)
{
	struct play *p = &play;
	uint64_t now = o->from - o->from % TURN;
	bool content;

	p->o = o;
	p->khz = tsc_khz();
	memset((void *)(uintptr_t)PLAY_DATA, 0xc5, PLAY_END - PLAY_DATA);
	open_gates();
	play_find(p);
	report(p->n_devices > 0, "there is something to play with");
	if (!p->n_devices)
		return;
	print("!ready\n");
	content = steps(p, &now);
	tell(p, now);
	report(content, "each device serves when it was started anew");
	print("!played\n");
	while (read_byte() != 'q')
		;
	*first = p->devices[0].v;
}
