/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server on the export of an NBD server: what it serves, and what becomes of requests when either of them dies. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "dial.h"
#include "flight.h"
#include "load.h"
#include "nbd.h"
#include "num.h"

TestSuite(blk_nbd, .timeout = 300);

#define BLOCK 4096

static struct rig_done request(struct rig *rig, unsigned q, uint32_t type, uint64_t off, uint64_t gpa,
			       uint32_t len)
{
	return rig_request(rig, q, type, off / 512, gpa, len);
}

static void expect_image(struct rig *rig, uint64_t off, uint32_t len, int byte)
{
	static uint8_t buf[1 << 20];

	rig_read_image(rig, off, buf, len);
	for (uint32_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], byte, "byte %llu is %#x", (unsigned long long)off + i, buf[i]);
}

/* ---- what it serves ---- */

static void write_and_read(struct rig *rig, unsigned queue)
{
	static const uint32_t lens[] = { 512, 4096, 7 * 512, 65536 + 512, 1024 * 1024 };
	static const uint32_t shifts[] = { 0, 8, 2048 + 4 };
	uint64_t out = rig_alloc(rig, 2 << 20, 4096), in = rig_alloc(rig, 2 << 20, 4096);

	for (unsigned i = 0; i < ARRAY_SIZE(lens) * ARRAY_SIZE(shifts); i++) {
		uint32_t len = lens[i % ARRAY_SIZE(lens)], shift = shifts[i / ARRAY_SIZE(lens)];
		uint64_t at = queue * (3ULL << 20) + (i % 5) * 512;

		rig_fill(rig_ptr(rig, out + shift), at, len, i);
		cr_assert_eq(request(rig, queue, VIRTIO_BLK_T_OUT, at, out + shift, len).status,
			     VIRTIO_BLK_S_OK);
		memset(rig_ptr(rig, in), 0xee, 2 << 20);
		cr_assert_eq(request(rig, queue, VIRTIO_BLK_T_IN, at, in + shift, len).status,
			     VIRTIO_BLK_S_OK);
		cr_assert(rig_check(rig_ptr(rig, in + shift), at, len, i), "%u bytes, shift %u", len, shift);
		cr_assert_eq(*rig_ptr(rig, in + shift + len), 0xee, "one byte too many");
	}
}

static struct rig_done range(struct rig *rig, uint32_t type, uint64_t off, uint32_t len, uint32_t flags)
{
	uint64_t gpa = rig_alloc(rig, sizeof(struct virtio_blk_discard_write_zeroes), 16);
	struct virtio_blk_discard_write_zeroes r = { .sector = off / 512,
						     .num_sectors = len / 512,
						     .flags = flags };

	memcpy(rig_ptr(rig, gpa), &r, sizeof(r));
	return rig_request(rig, 0, type, 0, gpa, sizeof(r));
}

static void all_kinds(struct rig *rig)
{
	uint64_t data = rig_alloc(rig, 1 << 20, 4096);

	memset(rig_ptr(rig, data), 0x5a, 1 << 20);
	cr_assert_eq(request(rig, 0, VIRTIO_BLK_T_OUT, 8 << 20, data, 1 << 20).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(request(rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	expect_image(rig, 8 << 20, 1 << 20, 0x5a);
	cr_assert_eq(range(rig, VIRTIO_BLK_T_WRITE_ZEROES, (8 << 20) + BLOCK, 2 * BLOCK, 0).status,
		     VIRTIO_BLK_S_OK);
	cr_assert_eq(range(rig, VIRTIO_BLK_T_WRITE_ZEROES, (8 << 20) + 8 * BLOCK, BLOCK,
			   VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
			 .status,
		     VIRTIO_BLK_S_OK);
	cr_assert_eq(range(rig, VIRTIO_BLK_T_DISCARD, (8 << 20) + 16 * BLOCK, 4 * BLOCK, 0).status,
		     VIRTIO_BLK_S_OK);
	expect_image(rig, 8 << 20, BLOCK, 0x5a);
	expect_image(rig, (8 << 20) + BLOCK, 2 * BLOCK, 0);
	expect_image(rig, (8 << 20) + 3 * BLOCK, 5 * BLOCK, 0x5a);
	expect_image(rig, (8 << 20) + 8 * BLOCK, BLOCK, 0);
	expect_image(rig, (8 << 20) + 20 * BLOCK, BLOCK, 0x5a);
}

static void serves(const char *const *words, unsigned queues)
{
	struct rig_options options = { .queues = queues, .io_threads = MIN(queues, 2U) };
	struct nbd nbd = { .dir = "" };
	struct rig rig;

	nbd_start(&nbd, &options, words);
	rig_start(&rig, &options);
	cr_assert_eq(rig.config.capacity, options.image_bytes / 512);
	for (unsigned q = 0; q < queues; q++)
		write_and_read(&rig, q);
	all_kinds(&rig);
	rig_stop(&rig);
	nbd_stop(&nbd);
}

Test(blk_nbd, nbdkit)
{
	serves(nbd_kit, 1);
}

Test(blk_nbd, nbdkit_four_queues)
{
	serves(nbd_kit, 4);
}

Test(blk_nbd, qemu_nbd)
{
	serves(nbd_qemu, 4);
}

/* What the server keeps of such a ring is so large that the queue's thread gives it back to the kernel. */
Test(blk_nbd, nbdkit_largest_ring)
{
	struct rig_options options = { .ring_size = RIG_SIZE_MAX };
	struct nbd nbd = { .dir = "" };
	struct rig rig;

	nbd_start(&nbd, &options, nbd_kit);
	rig_start(&rig, &options);
	write_and_read(&rig, 0);
	rig_reset_driver(&rig);
	write_and_read(&rig, 0);
	rig_stop(&rig);
	nbd_stop(&nbd);
}

/* One connection is all that it allows, so queues share it. */
Test(blk_nbd, qemu_nbd_one_connection)
{
	static const char *const words[] = { "qemu-nbd", "-t",     "-f",    "raw", "--discard=unmap",
					     "-k",       "SOCKET", "IMAGE", NULL };

	serves(words, 3);
}

/* ---- deaths ---- */

static void start_load(struct load *l, struct nbd *nbd, const char *const *words, unsigned queues)
{
	static struct rig_options options;

	options = (struct rig_options) { .queues = queues,
					 .io_threads = MIN(queues, 2U),
					 .ring_features = RING_F_EVENT_IDX | RING_F_INDIRECT };
	nbd_start(nbd, &options, words);
	load_start(l, &options);
}

static void run_for(struct load *l, uint64_t ns)
{
	uint64_t until = clock_ns() + ns;

	load_until(l, clock_ns() >= until);
}

static void server_comes_and_goes(const char *const *words, unsigned queues)
{
	static struct load l;
	struct nbd nbd = { .dir = "" };

	start_load(&l, &nbd, words, queues);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t before;

		run_for(&l, load_random(&l, 60 * NS_PER_MS));
		nbd_kill(&nbd);
		run_for(&l, load_random(&l, 60 * NS_PER_MS));
		nbd_up(&nbd);
		before = l.completed;
		load_until(&l, l.completed > before + 200);
		cr_assert_not(l.rig.lost, "an outage is no reason to die");
	}
	load_stop(&l);
	nbd_stop(&nbd);
}

Test(blk_nbd, nbdkit_dies_and_returns)
{
	server_comes_and_goes(nbd_kit, 2);
}

Test(blk_nbd, qemu_nbd_dies_and_returns)
{
	server_comes_and_goes(nbd_qemu_one, 2);
}

/* Who looks from outside sees since when, whether anything is asked for meanwhile or not. */
Test(blk_nbd, an_outage_is_told_of)
{
	struct rig_options options = { .flight_fd = flight_create(1) };
	struct nbd nbd = { .dir = "" };
	const struct flight_queue *q;
	struct flight *flight;
	uint64_t gpa, before;
	struct rig rig;

	cr_assert_eq(flight_map(options.flight_fd, true, &flight), 0);
	nbd_start(&nbd, &options, nbd_kit);
	rig_start(&rig, &options);
	q = flight_queue(flight, 0);
	gpa = rig_alloc(&rig, BLOCK, BLOCK);
	cr_assert_eq(request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, BLOCK).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(flight_get(&q->since), 0);
	before = clock_ns();
	nbd_kill(&nbd);
	rig_until(&rig, flight_get(&q->since));
	cr_assert_gt(flight_get(&q->since), before);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, BLOCK);
	rig_until(&rig, flight_get(&q->held));
	nbd_up(&nbd);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	rig_until(&rig, !flight_get(&q->since));
	rig_stop(&rig);
	nbd_stop(&nbd);
	flight_free(flight);
}

static void killed(const char *const *words, unsigned queues, bool server_too)
{
	static struct load l;
	struct nbd nbd = { .dir = "" };

	start_load(&l, &nbd, words, queues);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t before = l.completed;

		/* One that many processes died with would be given up. */
		load_until(&l, (nbd_revive(&nbd), !l.at_death && l.completed > before + 100));
		run_for(&l, load_random(&l, 40 * NS_PER_MS));
		rig_kill(&l.rig);
		load_died(&l);
		if (server_too && i % 3 == 0) {
			nbd_kill(&nbd);
			nbd_up(&nbd);
		}
		rig_respawn(&l.rig);
	}
	load_until(&l, (nbd_revive(&nbd), !l.at_death));
	load_stop(&l);
	nbd_stop(&nbd);
}

Test(blk_nbd, killed_before_nbdkit)
{
	killed(nbd_kit, 2, false);
}

Test(blk_nbd, killed_before_slow_nbdkit)
{
	static const char *const words[] = { "nbdkit",           "--exit-with-parent", "-f",   "-U",
					     "SOCKET",           "--filter=delay",     "file", "IMAGE",
					     "delay-write=15ms", "delay-read=3ms",     NULL };

	killed(words, 2, false);
}

Test(blk_nbd, killed_before_qemu_nbd)
{
	killed(nbd_qemu_one, 2, false);
}

Test(blk_nbd, killed_with_its_server)
{
	killed(nbd_qemu, 2, true);
}

/* A server whose writes are a shell's. */
static char script[1024];
static const char *const nbd_shell[] = { "nbdkit",
					 "--exit-with-parent",
					 "-f",
					 "-U",
					 "SOCKET",
					 "eval",
					 "thread_model=echo parallel",
					 "get_size=echo 16M",
					 "can_write=exit 0",
					 "can_flush=exit 0",
					 "flush=exit 0",
					 "pread=head -c $3 /dev/zero",
					 script,
					 NULL };
#define PUT "put() { dd of=%s seek=$1 oflag=seek_bytes conv=notrunc status=none; }; "

/* One that says that it is about to end, and does not: what it refused so is sent over another connection. */
Test(blk_nbd, a_server_that_is_about_to_end)
{
	struct rig_options options = { .queues = 1 };
	char first[128];
	struct nbd nbd;
	struct rig rig;
	uint64_t data;

	nbd_make(&nbd);
	snprintf(first, sizeof(first), "%s/first", nbd.dir);
	snprintf(script, sizeof(script),
		 "pwrite=" PUT "if mkdir %s; then echo ESHUTDOWN >&2; exit 1; fi; put $4", nbd.image, first);
	nbd_start(&nbd, &options, nbd_shell);
	rig_start(&rig, &options);
	data = rig_alloc(&rig, BLOCK, BLOCK);
	memset(rig_ptr(&rig, data), 3, BLOCK);
	cr_assert_eq(request(&rig, 0, VIRTIO_BLK_T_OUT, 0, data, BLOCK).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(access(first, F_OK), 0);
	expect_image(&rig, 0, BLOCK, 3);
	rig_stop(&rig);
	rmdir(first);
	nbd_stop(&nbd);
}

/*
 * The fence. The server takes its time over the first write it gets, and the process that sent it dies meanwhile. Its
 * successor sends the same again, and the driver then another one to the same place, which is to be what stands there in the
 * end: so the successor may send nothing before the first is done.
 */
enum dial_death {
	NO_DEATH,
	BEFORE_CONNECTION, /* which is another nbd-dial's, then */
	AMID_WRITE,        /* over a connection that another nbd-dial is given */
};

/* Until nbd-dial has the first link's connection. */
static void wait_kept(struct nbd *n, struct rig *rig)
{
	rig_until(rig, nbd_kept(n, 0));
}

static void fence(enum dial_death death)
{
	struct rig_options options = { .queues = 1 };
	char first[128], go[128], ended[128];
	struct nbd nbd;
	struct rig rig;
	uint64_t data, until;

	nbd_make(&nbd);
	snprintf(first, sizeof(first), "%s/first", nbd.dir);
	snprintf(go, sizeof(go), "%s/go", nbd.dir);
	snprintf(ended, sizeof(ended), "%s/ended", nbd.dir);
	snprintf(script, sizeof(script),
		 "pwrite=" PUT
		 "if mkdir %s 2>/dev/null; then timeout 30 cat %s; put $4; mkdir %s; else put $4; fi",
		 nbd.image, first, go, ended);
	cr_assert_eq(mkfifo(go, 0666), 0);
	nbd_start(&nbd, &options, nbd_shell);
	rig_start(&rig, &options);
	data = rig_alloc(&rig, 2 * BLOCK, BLOCK);
	if (death == BEFORE_CONNECTION) {
		nbd_dial_kill(&nbd);
		nbd_dial_start(&nbd);
		nbd_kill(&nbd);
		nbd_up(&nbd);
		cr_assert_eq(request(&rig, 0, VIRTIO_BLK_T_IN, 0, data, BLOCK).status, VIRTIO_BLK_S_OK);
	}
	memset(rig_ptr(&rig, data), 1, BLOCK);
	memset(rig_ptr(&rig, data + BLOCK), 2, BLOCK);
	rig_add(&rig, 0, VIRTIO_BLK_T_OUT, 0, data, BLOCK);
	rig_until(&rig, access(first, F_OK) == 0);
	if (death == AMID_WRITE) {
		nbd_dial_kill(&nbd);
		nbd_dial_start(&nbd);
		wait_kept(&nbd, &rig);
	}
	rig_kill(&rig);
	rig_respawn(&rig);
	/* Time for a server that does not wait, or not long enough, to be seen at it. */
	until = clock_ns() + 2500 * NS_PER_MS;
	rig_until(&rig, clock_ns() >= until);
	expect_image(&rig, 0, BLOCK, 0);
	close(open(go, O_WRONLY)); /* cat reads from it, and ends */
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(access(ended, F_OK), 0, "the second came before the first was done");
	cr_assert_eq(request(&rig, 0, VIRTIO_BLK_T_OUT, 0, data + BLOCK, BLOCK).status, VIRTIO_BLK_S_OK);
	expect_image(&rig, 0, BLOCK, 2);
	rig_stop(&rig);
	rmdir(first);
	unlink(go);
	rmdir(ended);
	nbd_stop(&nbd);
}

/* It is given what it does not have, and nothing in the place of what it has. */
Test(blk_nbd, nbd_dial_keeps_one_connection_for_a_slot)
{
	static const unsigned slots[] = { 0, DIAL_SLOTS - 1 };
	struct rig_options options = { .queues = 1 };
	struct nbd nbd = { .dir = "" };
	struct stat ours;
	struct dial dial;
	struct rig rig;
	int pair[2];

	nbd_start(&nbd, &options, nbd_kit);
	rig_start(&rig, &options);
	wait_kept(&nbd, &rig);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(fstat(pair[0], &ours), 0);
	cr_assert_eq(dial_open(&dial, nbd.rig.fd), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
		cr_assert_eq(dial_keep(&dial, slots[i], pair[0]), 0);
		cr_assert_eq(nbd_kept(&nbd, slots[i]) == ours.st_ino, slots[i] != 0);
	}
	dial_close(&dial);
	close(pair[0]);
	close(pair[1]);
	rig_stop(&rig);
	nbd_stop(&nbd);
}

Test(blk_nbd, the_last_write_of_a_dead_process_comes_before_its_successors)
{
	fence(NO_DEATH);
}

Test(blk_nbd, so_it_does_over_a_connection_that_a_new_nbd_dial_made)
{
	fence(BEFORE_CONNECTION);
}

Test(blk_nbd, so_it_does_over_a_connection_that_a_new_nbd_dial_was_given)
{
	fence(AMID_WRITE);
}
