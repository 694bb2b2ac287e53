/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-blk: what blk-server makes of requests, with a disk in memory whose engine checks what it is handed and is done
 * when the input says so, well or not.
 *
 * While the driver behaves, each request comes back once, with a status, whatever stops or dies meanwhile.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "blk_queue.h"
#include "clock.h"
#include "fd.h"
#include "request.h"
#include "rig.h"
#include "slow.h"
#include "state.h"
#include "throttle.h"
#include "onerror.h"

#define QUEUES     2
#define DISK_BYTES 0x20000U
#define PASSES     200
#define DEATHS     5
#define PIECES     6

static struct rig rig;
static struct disk disk;
static bool honest;
static unsigned deaths;
static int image_fd = -1;
static uint8_t *image;

/* ---- the engine: memory, done at once or when it is told ---- */

struct engine {
	struct engine_io *staged[QUEUE_DEPTH], *running[QUEUE_DEPTH];
	unsigned n_staged, n_running, depth;
	int fd;
};

static struct world {
	bool hold;   /* nothing ends by itself */
	bool refuse; /* nothing more is taken */
	int answer;  /* of the next transfer, if it is not 0: -errno, or bytes at most */
	struct engine *engine[QUEUES];
	unsigned opened;
	struct loop_job *jobs; /* that wait for a worker */
} world;

static int mem_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));

	MUST(e && files->fd[0] == image_fd && depth <= QUEUE_DEPTH);
	e->depth = depth;
	e->fd = still_fd();
	world.engine[world.opened++ % QUEUES] = e;
	*out = e;
	return 0;
}

static void mem_close(struct engine *e)
{
	free(e);
}

static int mem_event_fd(const struct engine *e)
{
	return e->fd;
}

static void mem_stage(struct engine *e, struct engine_io *io)
{
	MUST(e->n_staged + e->n_running < e->depth);
	e->staged[e->n_staged++] = io;
}

static unsigned mem_submit(struct engine *e)
{
	if (world.refuse)
		return e->n_staged;
	for (unsigned i = 0; i < e->n_staged; i++)
		e->running[e->n_running++] = e->staged[i];
	e->n_staged = 0;
	return 0;
}

static void check_vector(const struct iovec *iov)
{
	/* Guest memory, or a bounce buffer of one of the queues, which keeps to what the disk asks for. */
	MUST(iov->iov_len);
	if (!rig_is_ram(iov->iov_base, iov->iov_len))
		MUST(iov->iov_len <= BOUNCE_BYTES + BOUNCE_SLACK);
	MUST((uintptr_t)iov->iov_base % disk.mem_align == 0);
}

static int64_t transfer(struct engine_io *io)
{
	int answer = world.answer;
	uint64_t total = 0;
	size_t done = 0;

	world.answer = 0;
	if (answer < 0)
		return answer;
	if (io->op == ENGINE_FSYNC)
		return 0;
	for (unsigned i = 0; i < io->niov; i++) {
		check_vector(&io->iov[i]);
		total += io->iov[i].iov_len;
	}
	MUST(io->niov && io->niov <= REQUEST_IOV + 2U);
	MUST(io->off <= disk.bytes && total <= disk.bytes - io->off);
	MUST(io->off % disk.io_align == 0 && total % disk.io_align == 0);
	MUST(io->op == ENGINE_READ || disk_takes_writes(&disk));
	if (answer > 0)
		total = MIN(total, (uint64_t)answer * disk.io_align);
	for (unsigned i = 0; i < io->niov && done < total; i++) {
		size_t part = MIN(io->iov[i].iov_len, total - done);

		if (io->op == ENGINE_READ)
			memcpy(io->iov[i].iov_base, image + io->off + done, part);
		else
			memcpy(image + io->off + done, io->iov[i].iov_base, part);
		done += part;
	}
	return (int64_t)done;
}

static unsigned mem_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = world.hold ? 0 : MIN(e->n_running, max);

	/* The last ones first: their order is nobody's promise. */
	for (unsigned i = 0; i < n; i++) {
		done[i] = e->running[--e->n_running];
		done[i]->res = transfer(done[i]);
	}
	return n;
}

static unsigned mem_busy(const struct engine *e)
{
	return e->n_running;
}

static bool mem_pending(const struct engine *e)
{
	return !world.hold && e->n_running;
}

static const struct engine_ops memory = { .name = "memory",
					  .open = mem_open,
					  .close = mem_close,
					  .event_fd = mem_event_fd,
					  .stage = mem_stage,
					  .submit = mem_submit,
					  .reap = mem_reap,
					  .busy = mem_busy,
					  .pending = mem_pending };

/* In the place of the worker pool: jobs wait for op_work. */
void loop_pool_submit(struct loop_pool *pool, struct loop *loop, struct loop_job *job)
{
	(void)pool;
	(void)loop;
	job->next = world.jobs;
	world.jobs = job;
}

static void work(void)
{
	while (world.jobs) {
		struct loop_job *job = world.jobs;

		world.jobs = job->next;
		job->work(job->arg);
		job->done(job->arg);
	}
}

/* ---- the device, as blk-server's main.c has it ---- */

static int dev_open(void *dev, const struct server_settings *settings, uint64_t *features)
{
	(void)dev;
	disk.flush_word = &state_words(settings->state)[STATE_WORDS - 1];
	disk.throttle.group_fd = -1;
	if (throttle_open(&disk.throttle, state_words(settings->state)) < 0)
		return -EINVAL;
	if (disk.io_align > SECTOR)
		MUST(gate_new(&disk, &disk.gate) == 0);
	*features = ~0ULL;
	return 0;
}

static void dev_close(void *dev)
{
	(void)dev;
	gate_free(disk.gate);
	disk.gate = NULL;
	throttle_close(&disk.throttle);
}

static int dev_get_config(void *dev, uint32_t off, uint32_t len, uint8_t *buf)
{
	(void)dev;
	return disk_get_config(&disk, off, len, buf);
}

static int dev_queue_open(void *dev, struct server_queue *server, void **state)
{
	struct blk_queue *q = NULL;
	int err = blk_queue_open(&disk, server, &q);

	(void)dev;
	*state = q;
	return err;
}

static void dev_queue_close(void *state)
{
	blk_queue_close(state);
}

static int dev_attach(void *state)
{
	return blk_queue_attach(state);
}

static void dev_detach(void *state)
{
	blk_queue_detach(state);
}

static void dev_release(void *state)
{
	blk_queue_release(state);
}

static unsigned dev_parked(void *state)
{
	return blk_queue_parked(state);
}

static void dev_forget(void *state)
{
	blk_queue_forget(state);
}

static void dev_ring(void *state, bool on)
{
	blk_queue_ring(state, on);
}

static void dev_started(void *dev, bool live, uint64_t features)
{
	(void)dev;
	(void)live;
	(void)features;
	disk_remember_flush(&disk);
}

static bool dev_service(void *state)
{
	return blk_queue_service(state);
}

static bool dev_has_room(void *state)
{
	return blk_queue_has_room(state);
}

static unsigned dev_held(void *state)
{
	return blk_queue_held(state);
}

static bool dev_pending(void *state)
{
	return blk_queue_pending(state);
}

static const struct server_device device = { .iov_max = REQUEST_IOV,
					     .open = dev_open,
					     .close = dev_close,
					     .get_config = dev_get_config,
					     .attach = dev_attach,
					     .detach = dev_detach,
					     .release = dev_release,
					     .parked = dev_parked,
					     .forget = dev_forget,
					     .ring = dev_ring,
					     .started = dev_started,
					     .queue_open = dev_queue_open,
					     .queue_close = dev_queue_close,
					     .service = dev_service,
					     .has_room = dev_has_room,
					     .held = dev_held,
					     .pending = dev_pending };

static bool is_idle(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (world.engine[i]->n_running + world.engine[i]->n_staged)
			return false;
	return true;
}

static void go_on(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (!world.hold && world.engine[i]->n_running + world.engine[i]->n_staged)
			still_raise(world.engine[i]->fd, EPOLLIN);
	still_run(rig.loop, PASSES);
}

static void die(void)
{
	uint64_t features = rig.features;
	bool was[RIG_RINGS];

	still_run(rig.loop, PASSES);
	memcpy(was, rig.up, sizeof(was));
	/* What the kernel had taken it does, before a successor starts. */
	for (unsigned i = 0; i < QUEUES; i++)
		for (unsigned k = 0; k < world.engine[i]->n_running; k++)
			transfer(world.engine[i]->running[k]);
	world.jobs = NULL;
	rig_die(&rig);
	world.opened = 0;
	rig_boot(&rig, QUEUES, QUEUES, features, true);
	for (unsigned i = 0; i < rig.rings; i++)
		if (was[i])
			MUST(rig_start(&rig, i, true) || !honest);
	still_run(rig.loop, PASSES);
}

/* ---- what the driver does ---- */

static uint64_t some_address(struct input *in, uint32_t len)
{
	uint16_t at = in_u16(in);
	uint32_t room = 2 * RIG_BYTES - len; /* two regions adjoin */

	return RIG_DATA + (at & 1 ? (at * 16U) % room & ~511U : at * 3U % room);
}

static uint64_t some_sector(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 8)
		return in_u64(in);
	if (how < 32) /* about the end */
		return DISK_BYTES / SECTOR - 8 + how % 16;
	return how % 64;
}

static void put(uint64_t gpa, const void *from, uint32_t len)
{
	uint8_t *at = rig_ptr(&rig, gpa, len);

	if (at)
		memcpy(at, from, len);
}

static uint32_t some_length(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 128)
		return how % 16 * SECTOR;
	if (how < 192)
		return how % 64 * 1024;
	return in_u16(in);
}

/* Where the next status byte is to be: apart from all data. */
static struct ring_buf status(struct input *in)
{
	uint64_t gpa = RIG_APART + in_u8(in) * 8U;
	uint8_t none = 0xff;

	put(gpa, &none, 1);
	return (struct ring_buf) { .gpa = gpa, .len = 1, .write = true };
}

static unsigned data(struct input *in, struct ring_buf *bufs, uint32_t len, bool write)
{
	unsigned n = 0, pieces = 1 + in_below(in, PIECES);

	while (len && n < PIECES) {
		uint32_t part = n + 1 < pieces ? 1 + in_below(in, 4096) : RIG_BYTES;

		if (part > len || n + 1 == PIECES)
			part = len;
		bufs[n++] = (struct ring_buf) { .gpa = some_address(in, part), .len = part, .write = write };
		len -= part;
	}
	return n;
}

static void op_request(struct input *in)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,
		VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
	};
	uint8_t what = in_u8(in);
	struct virtio_blk_outhdr header = { .type = types[what % 6], .sector = some_sector(in) };
	struct ring_buf bufs[PIECES + 3];
	uint64_t at = RIG_APART + 0x8000U + in_u8(in) * 16U;
	uint32_t len = some_length(in), cut = what & 64 ? 1 + in_below(in, 15) : 0;
	bool write = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
	unsigned n = 0;

	if (what & 128)
		header.type = in_u32(in);
	put(at, &header, sizeof(header));
	/* A header may lie in pieces. */
	if (cut)
		bufs[n++] = (struct ring_buf) { .gpa = at, .len = cut };
	bufs[n++] = (struct ring_buf) { .gpa = at + cut, .len = 16 - cut };
	n += data(in, bufs + n, len, write);
	bufs[n++] = status(in);
	ring_add(&rig.ring[in_below(in, QUEUES)], bufs, n, what & 32 && rig.features & RING_F_INDIRECT);
}

/* Without a whole header: all of them report to one place, and none may say that it did well. */
#define SHORT_STATUS (RIG_APART + 0x4000U)

static void op_short(struct input *in)
{
	struct ring_buf bufs[] = { { .gpa = RIG_APART + 0x8000U, .len = 1 + in_below(in, 15) },
				   { .gpa = SHORT_STATUS, .len = 1, .write = true } };

	ring_add(&rig.ring[in_below(in, QUEUES)], bufs, 2, in_u8(in) & 1 && rig.features & RING_F_INDIRECT);
}

static void op_ranges(struct input *in)
{
	struct virtio_blk_discard_write_zeroes ranges[DISK_RANGES + 2];
	uint8_t what = in_u8(in);
	struct virtio_blk_outhdr header = { .type =
						what & 1 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES };
	uint64_t at = RIG_APART + 0x8000U;
	struct ring_buf bufs[4];
	uint32_t len, n = in_below(in, ARRAY_SIZE(ranges) + 1);

	memset(ranges, 0, sizeof(ranges));
	for (unsigned i = 0; i < n && in->left; i++) {
		ranges[i].sector = some_sector(in);
		ranges[i].num_sectors = what & 2 ? in_u32(in) : in_u8(in);
		ranges[i].flags = what & 4 ? in_u32(in) : what & 8 ? in_u8(in) & 1 : 0;
	}
	len = n * (uint32_t)sizeof(*ranges) + (what & 16 ? in_below(in, 16) : 0);
	put(at, &header, sizeof(header));
	put(at + sizeof(header), ranges, MIN(len, (uint32_t)sizeof(ranges)));
	bufs[0] = (struct ring_buf) { .gpa = at, .len = 16 };
	bufs[1] = (struct ring_buf) { .gpa = at + 16, .len = MAX(len, 1U) };
	bufs[2] = status(in);
	ring_add(&rig.ring[in_below(in, QUEUES)], bufs, 3, what & 32 && rig.features & RING_F_INDIRECT);
}

/* Chains that are no requests, and lengths and addresses that are none. */
static void op_any_chain(struct input *in)
{
	struct ring_buf bufs[RING_TABLE_MAX];
	unsigned n = 1 + in_below(in, RING_TABLE_MAX);

	honest = false;
	for (unsigned i = 0; i < n; i++) {
		uint8_t how = in_u8(in);

		bufs[i] = (struct ring_buf) { .gpa = how & 1 ? in_u64(in) : RIG_DATA + in_u16(in),
					      .len = how & 2 ? in_u32(in) : in_u16(in),
					      .write = how & 4 };
	}
	ring_add(&rig.ring[in_below(in, QUEUES)], bufs, n, in_u8(in) & 1 && rig.features & RING_F_INDIRECT);
}

static void op_write_over(struct input *in)
{
	struct ring *r = &rig.ring[in_below(in, QUEUES)];
	uint8_t how = in_u8(in);
	struct ring_desc d = { .addr = how & 1 ? in_u64(in) : RIG_DATA + in_u16(in),
			       .len = how & 2 ? in_u32(in) : in_u8(in),
			       .id = (uint16_t)in_below(in, RIG_SIZE),
			       .flags = how & 4 ? in_u16(in) : (uint16_t)in_below(in, 8) };

	honest = false;
	if (how & 8 && !r->packed)
		ring_put_avail(r, in_u16(in));
	else
		ring_write_desc(r, (uint16_t)in_below(in, RIG_SIZE), d);
}

static void op_kick(struct input *in)
{
	uint8_t which = in_u8(in);

	for (unsigned i = 0; i < rig.rings; i++) {
		if (!rig.up[i] || which >> i & 1)
			continue;
		if (ring_publish(&rig.ring[i]))
			still_raise(rig.kick[i], EPOLLIN);
	}
	still_run(rig.loop, which & 128 ? 1 : PASSES);
}

static void collect(void)
{
	for (unsigned i = 0; i < rig.rings; i++) {
		uint16_t id;
		uint32_t len;
		int got;

		/* What was put there by hand may come back before what was added. */
		if (!honest)
			ring_publish(&rig.ring[i]);
		while ((got = ring_get(&rig.ring[i], &id, &len)) == 1)
			MUST(len >= 1 || !honest);
		MUST(got == 0 || !honest);
	}
	MUST(*rig_ptr(&rig, SHORT_STATUS, 1) != VIRTIO_BLK_S_OK || !honest);
}

static void op_collect(struct input *in)
{
	(void)in;
	collect();
}

/* ---- what the others do ---- */

static void op_disk(struct input *in)
{
	uint8_t how = in_u8(in);

	world.hold = how & 1;
	world.refuse = how & 2;
	if (how & 4)
		world.answer = how & 8 ? -EIO : (how >> 4) + 1;
	go_on();
}

static void op_work(struct input *in)
{
	(void)in;
	work();
	go_on();
}

static void op_order(struct input *in)
{
	uint8_t what = in_u8(in);
	unsigned i = what % rig.rings;

	if (!rig.up[i]) {
		MUST(rig_start(&rig, i, false) || !honest);
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
	still_run(rig.loop, PASSES);
}

static void op_config(struct input *in)
{
	uint32_t off = in_u8(in), len = in_u8(in);
	uint8_t *buf = malloc(len ? len : 1);

	if (len)
		disk_get_config(&disk, off, len, buf);
	free(buf);
}

static void op_die(struct input *in)
{
	(void)in;
	if (rig.tracked && deaths++ < DEATHS)
		die();
}

static void (*const ops[])(struct input *in) = {
	op_request, op_request, op_request, op_kick, op_kick, op_ranges, op_disk,      op_work,
	op_collect, op_order,   op_short,   op_die,  op_disk, op_config, op_any_chain, op_write_over,
};

/* ---- an input ---- */

static void make_disk(struct input *in)
{
	uint8_t how = in_u8(in);

	if (image_fd < 0) {
		image_fd = fd_sealed_memfd("disk", DISK_BYTES);
		image = mmap(NULL, DISK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, image_fd, 0);
		MUST(image_fd >= 0 && image != MAP_FAILED);
	}
	memset(image, 0xd5, DISK_BYTES);
	memset(&disk, 0, sizeof(disk));
	disk.image_fd = disk.fd = image_fd;
	disk.files = (struct engine_files) { .fd = { image_fd }, .n = 1 };
	disk.name = "memory";
	disk.bytes = DISK_BYTES;
	disk.engine = &memory;
	disk.readonly = how & 1;
	disk.refuse_writes = how & 2;
	disk.on_error = (how >> 5) % 4;
	disk.can_discard = how & 4;
	disk.io_align = how & 8 ? 4096 : how & 16 ? SECTOR : 1;
	disk.mem_align = how & 16 ? SECTOR : 1;
	memcpy(disk.serial, "fuzz", 4);
}

/* With nothing in the way any more, all that was asked is answered. */
static void settle(void)
{
	world.hold = world.refuse = false;
	world.answer = 0;
	for (unsigned round = 0; round < 4; round++) {
		onerror_retry(&disk);
		still_advance(1000 * NS_PER_S);
		for (unsigned i = 0; i < rig.rings; i++) {
			if (!rig.up[i])
				MUST(rig_start(&rig, i, false));
			rig_enable(&rig, i, true);
			rig_drain(&rig, i, false);
			ring_publish(&rig.ring[i]);
			still_raise(rig.kick[i], EPOLLIN);
		}
		still_run(rig.loop, PASSES);
		for (unsigned k = 0; k < 8 * RIG_SIZE && (world.jobs || !is_idle()); k++) {
			work();
			go_on();
		}
		collect();
	}
	for (unsigned i = 0; i < rig.rings; i++)
		MUST(rig.ring[i].n_free == RIG_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };
	uint64_t features = ~(RING_F_PACKED | RING_F_EVENT_IDX | RING_F_INDIRECT);
	uint8_t how;

	if (len > 4096)
		return 0;
	rig_reset(&rig, &device, &disk);
	memset(&world, 0, sizeof(world));
	honest = true;
	deaths = 0;
	how = in_u8(&in);
	features |= (how & 1 ? RING_F_PACKED : 0) | (how & 2 ? RING_F_EVENT_IDX : 0) |
		    (how & 4 ? RING_F_INDIRECT : 0);
	if (how & 8)
		features &= ~(1ULL << VIRTIO_BLK_F_FLUSH);
	rig.tracked = !(how & 16);
	make_disk(&in);
	rig_boot(&rig, QUEUES, QUEUES, features, false);
	rig_lay_out(&rig);
	put(SHORT_STATUS, "\xff", 1);
	for (unsigned i = 0; i < rig.rings; i++)
		MUST(rig_start(&rig, i, false));
	still_run(rig.loop, PASSES);
	while (in.left)
		ops[in_below(&in, ARRAY_SIZE(ops))](&in);
	if (honest)
		settle();
	rig_end(&rig);
	return 0;
}
