/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk-server with qcow2 images: what drivers write is what QEMU reads, and the tables are sound, in the end and whenever a
 * server was killed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "flight.h"
#include "inject.h"
#include "load.h"
#include "loop_device.h"
#include "note.h"
#include "num.h"

TestSuite(blk_qcow2, .timeout = 900);

#define BYTES (16U << 20)
/* The first megabyte reads as zeroes, as loads expect, and is data for who copies it. */
#define BASE                                                                                                 \
	"truncate -s 9M base && yes bulkhead | dd of=base bs=300000 count=1 seek=4 conv=notrunc "            \
	"iflag=fullblock status=none && "
#define ON_BASE "-b base -F raw "

static const struct image {
	const char *name, *make;
	bool backing;
	const char *args[3];
} images[] = {
	{ "plain", "qemu-img create -q -f qcow2 image 16M", false, { NULL } },
	{ "plain, small cache",
	  "qemu-img create -q -f qcow2 -o cluster_size=512 image 16M",
	  false,
	  { "--table-cache", "1K" } },
	{ "version 2", "qemu-img create -q -f qcow2 -o compat=0.10 image 16M", false, { NULL } },
	{ "backing", BASE "qemu-img create -q -f qcow2 " ON_BASE "image 16M", true, { NULL } },
	{ "version 2, backing",
	  BASE "qemu-img create -q -f qcow2 -o compat=0.10 " ON_BASE "image 16M",
	  true,
	  { NULL } },
	{ "subclusters, backing",
	  BASE "qemu-img create -q -f qcow2 -o extended_l2=on " ON_BASE "image 16M",
	  true,
	  { NULL } },
	{ "compressed",
	  BASE "truncate -s 16M base && qemu-img convert -c -f raw -O qcow2 base image",
	  false,
	  { NULL } },
	{ "snapshot",
	  "qemu-img create -q -f qcow2 image 16M && qemu-io -f qcow2 -c 'write -q -P 0 0 2M' -c 'write -q -P "
	  "5 2M 10M' image && "
	  "qemu-img snapshot -c one image",
	  false,
	  { NULL } },
	{ "dirty",
	  "qemu-img create -q -f qcow2 -o lazy_refcounts=on image 16M && { qemu-io -f qcow2 -c 'write -q -P "
	  "6 1M 3M' "
	  "-c abort image >/dev/null 2>&1 || :; }",
	  false,
	  { NULL } },
	{ "buffered", "qemu-img create -q -f qcow2 image 16M", false, { "--cache", "buffered" } },
};

static void need_qemu(void)
{
	if (system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null"))
		cr_skip_test("qemu-img and qemu-io (qemu-utils) are not installed");
}

static struct rig_options options_of(const struct image *image)
{
	return (struct rig_options) { .make = image->make,
				      .backing = image->backing,
				      .args = image->args,
				      .ring_features = RING_F_EVENT_IDX | RING_F_INDIRECT };
}

/* ---- one request after the other, of every kind ---- */

static _Alignas(4096) uint8_t shadow[BYTES];

static void read_and_compare(struct rig *rig, uint64_t gpa, const char *name)
{
	const uint32_t len = 1 << 20;

	for (uint64_t off = 0; off < BYTES; off += len) {
		struct rig_done done = rig_request(rig, 0, VIRTIO_BLK_T_IN, off / 512, gpa, len);

		cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "%s: read at %llu", name, (unsigned long long)off);
		for (uint32_t i = 0; i < len; i += 512)
			cr_assert(!memcmp(rig_ptr(rig, gpa) + i, shadow + off + i, 512),
				  "%s: sector %llu differs", name, (unsigned long long)(off + i) / 512);
	}
}

/* Discards or zeroes; what a discard leaves is read back. */
static void give_up(struct rig *rig, uint64_t gpa, uint64_t off, uint32_t len, unsigned how)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = off / 512, .num_sectors = len / 512 };
	uint32_t type = how == 0 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;
	struct rig_done done;

	range.flags = how == 1 ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	memcpy(rig_ptr(rig, gpa), &range, sizeof(range));
	done = rig_request(rig, 0, type, 0, gpa, sizeof(range));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	memset(shadow + off, 0, len);
	if (how)
		return;
	done = rig_request(rig, 0, VIRTIO_BLK_T_IN, off / 512, gpa, len);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	memcpy(shadow + off, rig_ptr(rig, gpa), len);
}

static void mixed(const struct image *image)
{
	struct rig_options options = options_of(image);
	struct rig rig;
	unsigned seed = 3;
	uint64_t gpa;

	rig_start(&rig, &options);
	cr_assert_eq(rig.config.capacity, BYTES / 512);
	gpa = rig_alloc(&rig, 2 << 20, 4096);
	rig_read_image(&rig, 0, shadow, BYTES);
	for (unsigned i = 0; i < 150; i++) {
		unsigned how = (unsigned)rand_r(&seed) % 9, most = (unsigned)rand_r(&seed) % 6 ? 64 : 2048;
		unsigned at = (unsigned)rand_r(&seed) % (BYTES / 512 - 2048),
			 n = 1 + (unsigned)rand_r(&seed) % most;
		uint64_t off = at * 512ULL;
		uint32_t len = n * 512, shift = rand_r(&seed) % 2 ? 8 : 0;
		struct rig_done done;

		if (how < 3) {
			give_up(&rig, gpa, off, len, how);
			continue;
		}
		rig_fill(rig_ptr(&rig, gpa + shift), off, len, i + 1);
		memcpy(shadow + off, rig_ptr(&rig, gpa + shift), len);
		done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, off / 512, gpa + shift, len);
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "%s: write of %u at %llu", image->name, len,
			     (unsigned long long)off);
	}
	read_and_compare(&rig, gpa, image->name);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	/* Another takes over what this one left, and finds it so. */
	rig_kill(&rig);
	rig_judge_image(&rig);
	rig_respawn(&rig);
	read_and_compare(&rig, gpa, image->name);
	rig_kill(&rig);
	static uint8_t theirs[BYTES];
	rig_read_image(&rig, 0, theirs, BYTES);
	cr_assert(!memcmp(theirs, shadow, BYTES), "%s: QEMU reads something else", image->name);
	rig_respawn(&rig);
	rig_stop(&rig);
}

Test(blk_qcow2, mixed_requests)
{
	need_qemu();
	for (unsigned i = 0; i < ARRAY_SIZE(images); i++)
		mixed(&images[i]);
}

/* ---- many at a time, and death ---- */

static void storm(const struct image *image, unsigned queues, unsigned kills)
{
	static struct load l;
	struct rig_options options = options_of(image);

	options.queues = options.io_threads = queues;
	load_start(&l, &options);
	for (unsigned i = 0; i < kills; i++) {
		uint64_t until = clock_ns() + load_random(&l, 30 * NS_PER_MS);

		/* A request that three servers in a row died with is failed, and on a busy machine none may get on. */
		load_until(&l, clock_ns() >= until && (i % 2 || !l.at_death));
		/* A dirty image is sound once it is repaired, which the first answer tells. */
		load_until(&l, l.completed);
		rig_kill(&l.rig);
		load_died(&l);
		rig_judge_image(&l.rig);
		rig_respawn(&l.rig);
	}
	load_stop(&l);
	note("%s: %llu requests, %u kills", image->name, (unsigned long long)l.completed, kills);
}

Test(blk_qcow2, killed_at_random)
{
	const char *all = getenv("BULKHEAD_LONG");
	unsigned kills = all && *all ? 100 : 6;

	need_qemu();
#ifdef BH_SANITIZE_THREAD
	kills = 1;
#endif
	for (unsigned i = 0; i < ARRAY_SIZE(images); i++)
		storm(&images[i], 1 + i % 2, kills);
}

/* ---- an image that takes its time to be opened ---- */

/*
 * As long as tables are repaired nothing is taken; the queue looks at its ring whenever it is asked to, and shows that
 * it waits, so nobody takes it for hung. The thread that would repair is held.
 */
Test(blk_qcow2, a_ring_waits_until_the_image_is_open)
{
	struct rig_options options = options_of(&images[0]);
	const struct flight_queue *line;
	struct flight *f = NULL;
	uint64_t gpa, passes, taken;
	struct rig rig;
	pid_t held;

	need_qemu();
	options.flight_fd = flight_create(1);
	cr_assert_eq(flight_map(options.flight_fd, true, &f), 0);
	rig_start(&rig, &options);
	line = flight_queue(f, 0);
	gpa = rig_alloc(&rig, 4096, 4096);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	rig_stop_ring(&rig, 0);
	held = inject_hold(rig.pid, "tables");
	if (held == -EPERM) {
		rig_stop(&rig);
		cr_skip_test("a thread of another process can't be held here");
	}
	cr_assert_gt(held, 0, "%s", strerror(-held));
	taken = flight_get(&line->taken);
	rig_restart_rings(&rig);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	for (unsigned i = 0; i < 3; i++) {
		passes = flight_get(&line->passes);
		cr_assert_eq(eventfd_write(rig.queue[0].kick, 1), 0);
		rig_until(&rig, flight_get(&line->passes) > passes);
		cr_assert_gt(flight_get(&line->held), 0);
		cr_assert_eq(flight_get(&line->taken), taken);
	}
	/* The others go on. */
	rig_get_config(&rig, 0, &rig.config, sizeof(rig.config));
	inject_let_go(held);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	rig_until(&rig, flight_get(&line->held) == 0);
	rig_stop(&rig);
	flight_free(f);
	close(options.flight_fd);
}

/* ---- on a device ---- */

/* An image that is shorter than its disk: there is no end of the file to put clusters behind, and no room for all. */
Test(blk_qcow2, an_image_on_a_block_device)
{
	const uint32_t len = 1 << 20, full = 12;
	static char device[64], make[128];
	struct rig_options options = { .device = device, .make = make };
	unsigned written = 0, failed = 0;
	struct rig rig;
	uint64_t gpa;
	int fd;

	need_qemu();
	fd = loop_device(device, sizeof(device), 512, full << 20);
	snprintf(make, sizeof(make), "qemu-img create -q -f qcow2 '%s' 16M", device);
	rig_start(&rig, &options);
	close(fd);
	gpa = rig_alloc(&rig, len, 4096);
	memset(shadow, 0, sizeof(shadow));
	for (unsigned i = 0; i < BYTES / len; i++) {
		rig_fill(rig_ptr(&rig, gpa), i * len, len, i + 1);
		if (rig_request(&rig, 0, VIRTIO_BLK_T_OUT, i * len / 512, gpa, len).status ==
		    VIRTIO_BLK_S_OK) {
			memcpy(shadow + (size_t)i * len, rig_ptr(&rig, gpa), len);
			written++;
		} else {
			failed++;
		}
	}
	cr_assert_geq(written, full - 3);
	cr_assert_gt(failed, 0);
	/* What is given up makes room, some requests later. */
	give_up(&rig, gpa, 0, 2 * len, 0);
	rig_fill(rig_ptr(&rig, gpa), 0, len / 2, 99);
	for (unsigned i = 0; rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, len / 2).status; i++)
		cr_assert_lt(i, 10, "there is no room");
	memcpy(shadow, rig_ptr(&rig, gpa), len / 2);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	rig_kill(&rig);
	rig_judge_image(&rig);
	rig_respawn(&rig);
	for (uint64_t off = 0; off < (uint64_t)written * len; off += len) {
		cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, off / 512, gpa, len).status,
			     VIRTIO_BLK_S_OK);
		cr_assert(!memcmp(rig_ptr(&rig, gpa), shadow + off, len), "differs at %llu",
			  (unsigned long long)off);
	}
	rig_stop(&rig);
}

/* ---- FAULTS 55 and 58 ---- */

/* What is gone is an error, be it data or a table, and the server stays. */
Test(blk_qcow2, f55_image_truncated_underneath)
{
	struct rig_options options = options_of(&images[0]);
	struct rig_done done;
	struct rig rig;
	uint64_t gpa;

	need_qemu();
	options.make =
	    "qemu-img create -q -f qcow2 image 16M && qemu-io -f qcow2 -c 'write -q -P 6 0 8M' image";
	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 65536, 4096);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(ftruncate(rig.image_fd, 4 << 20), 0);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, (6 << 20) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, (1 << 20) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	/* Whoever comes next finds no tables. */
	cr_assert_eq(ftruncate(rig.image_fd, 65536), 0);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	rig_request(&rig, 0, VIRTIO_BLK_T_OUT, (12 << 20) / 512, gpa, 65536);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_GET_ID, 0, gpa, 20).status, VIRTIO_BLK_S_OK);
	rig_stop(&rig);
}

/* A raw disk is one whatever its driver writes there: the next server looks for no format either. */
Test(blk_qcow2, f58_a_driver_writes_a_header_to_a_raw_disk)
{
	struct rig_options options = { 0 };
	struct rig rig;
	uint64_t gpa;
	uint8_t *data;
	FILE *f;

	need_qemu();
	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 65536, 4096);
	data = rig_ptr(&rig, gpa);
	f = popen("t=$(mktemp) && qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw $t 99M && head -c "
		  "65536 $t; rm -f $t",
		  "re");
	cr_assert_not_null(f);
	cr_assert_eq(fread(data, 1, 65536, f), 65536);
	pclose(f);
	cr_assert(!memcmp(data, "QFI\xfb", 4));
	memcpy(shadow, data, 65536);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, 65536).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	rig_kill(&rig);
	rig_respawn(&rig);
	cr_assert_eq(rig.config.capacity, (16 << 20) / 512);
	memset(data, 0, 65536);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 65536).status, VIRTIO_BLK_S_OK);
	cr_assert(!memcmp(data, shadow, 65536));
	rig_stop(&rig);
}
