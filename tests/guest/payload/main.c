/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest: tests of a machine from inside, reported as TAP on the serial line, ended by the debug-exit port
 * with 0x10 (exit status 33) if all went well. The command line chooses: "io", "irq", "regs", "reset",
 * "storm" (with "queues=N", "flush=N", "learn", and "both" for two disks) and "probe" (storm.c), "blk-run" (blk-run.c),
 * "net-tx", "net-rx" and "net-echo" (net-run.c), or "play" (with "seed=N", "steps=N" and "from=N", play.c).
 */
#include "blk-run.h"
#include "net.h"
#include "play.h"
#include "storm.h"

#define BLOCK   4096
#define BLOCKS  256 /* of the disk that are used */
#define DEPTH   16
#define SAMPLES 2000

/* What PVH hands over (struct hvm_start_info), as far as it is needed. */
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t modules_at, command_line, rsdp;
};

__attribute__((noreturn)) void main(const struct start_info *info);

static uint8_t buffers[DEPTH][BLOCK] __attribute__((aligned(4096)));
static uint64_t samples[SAMPLES];

static bool has_word(const char *line, const char *word)
{
	for (; *line; line++) {
		const char *a = line, *b = word;

		while (*b && *a == *b)
			a++, b++;
		if (!*b && (!*a || *a == ' '))
			return true;
	}
	return false;
}

/* The number behind "name=", or what is said otherwise. */
static uint32_t number_of(const char *line, const char *name, uint32_t otherwise)
{
	for (; *line; line++) {
		const char *a = line, *b = name;
		uint32_t value = 0;

		while (*b && *a == *b)
			a++, b++;
		if (*b)
			continue;
		while (*a >= '0' && *a <= '9')
			value = value * 10 + (uint32_t)(*a++ - '0');
		return value;
	}
	return otherwise;
}

static uint32_t pattern(unsigned block, unsigned word, uint32_t generation)
{
	return (block * 1024 + word) * 2654435761u ^ generation;
}

/* Writes BLOCKS blocks, DEPTH at a time, and reads them back. */
static void test_io(struct vdev *d, bool irq, uint32_t generation)
{
	bool wrote = true, read = true;
	uint64_t wrong = 0;

	for (unsigned b = 0; b < BLOCKS; b += DEPTH) {
		for (unsigned i = 0; i < DEPTH; i++) {
			uint32_t *words = (uint32_t *)(void *)buffers[i];

			for (unsigned w = 0; w < BLOCK / 4; w++)
				words[w] = pattern(b + i, w, generation);
			vdev_queue(BLK_OUT, (b + i) * (BLOCK / 512), buffers[i], BLOCK);
		}
		vdev_kick(d);
		wrote &= vdev_wait(irq);
	}
	vdev_queue(BLK_FLUSH, 0, NULL, 0);
	vdev_kick(d);
	report(vdev_wait(irq), irq ? "irq: flush" : "polled: flush");
	for (unsigned b = 0; b < BLOCKS; b += DEPTH) {
		memset(buffers, 0, sizeof(buffers));
		for (unsigned i = 0; i < DEPTH; i++)
			vdev_queue(BLK_IN, (b + i) * (BLOCK / 512), buffers[i], BLOCK);
		vdev_kick(d);
		read &= vdev_wait(irq);
		for (unsigned i = 0; i < DEPTH; i++)
			for (unsigned w = 0; w < BLOCK / 4; w++)
				wrong += ((uint32_t *)(void *)buffers[i])[w] != pattern(b + i, w, generation);
	}
	report(wrote, irq ? "irq: writes complete without error" : "polled: writes complete without error");
	report(read, irq ? "irq: reads complete without error" : "polled: reads complete without error");
	report(!wrong,
	       irq ? "irq: what is read is what was written" : "polled: what is read is what was written");
	if (irq)
		report(irq_count[0] > 0, "irq: interrupts were taken");
}

/* An error is a status byte, not a stuck ring: reading past the end. */
static void test_errors(struct vdev *d)
{
	vdev_queue(BLK_IN, d->capacity, buffers[0], BLOCK);
	vdev_kick(d);
	report(!vdev_wait(false), "polled: a read past the end is an error");
	vdev_queue(99, 0, buffers[0], BLOCK);
	vdev_kick(d);
	report(!vdev_wait(false), "polled: an unknown request is an error");
	vdev_queue(BLK_IN, 0, buffers[0], BLOCK);
	vdev_kick(d);
	report(vdev_wait(false), "polled: the ring goes on after errors");
}

/* Prints "cycles NAME min median p99 max". */
static void print_samples(const char *name)
{
	sort_times(samples, SAMPLES);
	print("cycles ");
	print(name);
	for (unsigned i = 0; i < 4; i++) {
		static const unsigned at[] = { 0, SAMPLES / 2, SAMPLES * 99 / 100, SAMPLES - 1 };

		print(" ");
		print_u64(samples[at[i]]);
	}
	print("\n");
}

#define MEASURE(name, access)                                                                                \
	do {                                                                                                 \
		for (unsigned i = 0; i < SAMPLES; i++) {                                                     \
			uint64_t t = tsc();                                                                  \
                                                                                                             \
			access;                                                                              \
			samples[i] = tsc() - t;                                                              \
		}                                                                                            \
		print_samples(name);                                                                         \
	} while (0)

static void measure_registers(struct vdev *d, const char *when)
{
	print("# registers with the device process ");
	print(when);
	print(": min median p99 max\n");
	MEASURE("status", (void)MMIO_READ(uint8_t, d->common + COMMON_STATUS));
	MEASURE("config", (void)MMIO_READ(uint32_t, d->device));
	MEASURE("select", MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_SELECT, 0));
	MEASURE("notify", MMIO_WRITE(uint16_t, d->notify, 0));
}

/* Register accesses while the device process is stopped and while it runs; the host says when by a byte each. */
static void test_registers(struct vdev *d)
{
	measure_registers(d, "running");
	print("# stop it\n");
	read_byte();
	for (unsigned i = 0; i < DEPTH; i++)
		vdev_queue(BLK_IN, i * (BLOCK / 512), buffers[i], BLOCK);
	vdev_kick(d);
	measure_registers(d, "stopped");
	print("# continue it\n");
	read_byte();
	report(vdev_wait(false), "requests made while the device process was stopped complete");
}

/* The end of every run; one that found no device has failed. */
__attribute__((noreturn)) static void finish(struct vdev *d)
{
	if (!d->common)
		debug_exit(0x20);
	vdev_reset(d);
	report(true, "the device resets");
	print("1..");
	print_u64(report_count());
	print("\n");
	debug_exit(report_failures() ? 0x21 : 0x10);
}

/* The network device's tests, if one was chosen. */
static void test_net(const char *line)
{
	struct net_options o = { .irq = has_word(line, "irq"),
				 .tso = has_word(line, "tso"),
				 .size = number_of(line, "size=", 60),
				 .seconds = number_of(line, "seconds=", 0) };
	struct vdev d = { .common = 0 };

	if (has_word(line, "net-tx"))
		net_transmit(&d, &o);
	else if (has_word(line, "net-rx"))
		net_count(&d, &o);
	else if (has_word(line, "net-echo"))
		net_echo(&d, &o);
	else
		return;
	finish(&d);
}

static void load_disk(const char *line)
{
	struct blk_options o = { .irq = has_word(line, "irq"),
				 .queues = number_of(line, "queues=", 1),
				 .depth = number_of(line, "depth=", 32),
				 .block = number_of(line, "block=", 4096),
				 .writes = number_of(line, "writes=", 0),
				 .megabytes = number_of(line, "megabytes=", 64),
				 .seconds = number_of(line, "seconds=", 0) };
	struct vdev d = { .common = 0 };

	blk_run(&d, &o);
	finish(&d);
}

static void play(const char *line)
{
	struct play_options o = { .seed = number_of(line, "seed=", 1),
				  .from = number_of(line, "from=", 0),
				  .steps = number_of(line, "steps=", 100000) };
	struct vdev d = { .common = 0 };

	play_run(&o, &d);
	finish(&d);
}

static void test_storm(struct vdev *d, const char *line)
{
	struct storm_options o = { .flush = number_of(line, "flush=", 0), .learn = has_word(line, "learn") };
	unsigned queues = number_of(line, "queues=", 1);
	struct vdev second;

	report(vdev_start_queues(d, false, queues), "the device starts, polled");
	if (has_word(line, "both")) {
		report(vdev_find(&second, 1) && vdev_start_beside(&second, d, queues),
		       "another one starts beside it");
		o.second = &second;
	}
	storm_run(d, &o);
	if (o.second)
		vdev_reset(&second);
}

void main(const struct start_info *info)
{
	const char *line = (const char *)(uintptr_t)info->command_line;
	struct vdev d;

	print("# bare guest: ");
	print(line);
	print("\n");
	if (has_word(line, "reset")) {
		out8(0x64, 0xfe);
		for (;;)
			;
	}
	test_net(line);
	if (has_word(line, "blk-run"))
		load_disk(line);
	if (has_word(line, "play"))
		play(line);
	if (!vdev_find(&d, 0)) {
		report(false, "a virtio-blk function is on the bus");
		debug_exit(0x20);
	}
	if (has_word(line, "io")) {
		report(vdev_start(&d, false), "the device starts, polled");
		test_io(&d, false, 0x11111111);
		test_errors(&d);
	}
	if (has_word(line, "irq")) {
		report(vdev_start(&d, true), "the device starts again, with MSI-X");
		test_io(&d, true, 0x22222222);
	}
	if (has_word(line, "storm"))
		test_storm(&d, line);
	if (has_word(line, "probe")) {
		struct vdev other;

		report(vdev_start(&d, false) && vdev_find(&other, 1),
		       "the device starts, and there is another");
		storm_probe(&d, &other);
	}
	if (has_word(line, "regs")) {
		report(vdev_start(&d, false), "the device starts, polled");
		test_registers(&d);
	}
	finish(&d);
}
