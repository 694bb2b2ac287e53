/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in memory, whose engine checks what it is handed, and blk-server's device on it, as its main.c has it. */
#include "memdisk.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "blk_queue.h"
#include "fd.h"
#include "onerror.h"
#include "request.h"
#include "rig.h"
#include "slow.h"
#include "state.h"
#include "throttle.h"

/* ---- the engine: done at once or when it is told ---- */

struct engine {
	struct engine_io *staged[QUEUE_DEPTH], *running[QUEUE_DEPTH];
	unsigned n_staged, n_running, depth;
	int fd;
};

struct memdisk memdisk;
static struct disk disk;
static struct engine *engines[MEMDISK_QUEUES];
static unsigned opened;
static struct loop_job *jobs; /* that wait for a worker */
static int image_fd = -1;
static uint8_t *image;

static int mem_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));

	MUST(e && files->fd[0] == image_fd && depth <= QUEUE_DEPTH);
	e->depth = depth;
	e->fd = still_fd();
	engines[opened++ % MEMDISK_QUEUES] = e;
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
	if (memdisk.refuse)
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
	int answer = memdisk.answer;
	uint64_t total = 0;
	size_t done = 0;

	memdisk.answer = 0;
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
	unsigned n = memdisk.hold ? 0 : MIN(e->n_running, max);

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
	return !memdisk.hold && e->n_running;
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
	job->next = jobs;
	jobs = job;
}

void memdisk_work(void)
{
	while (jobs) {
		struct loop_job *job = jobs;

		jobs = job->next;
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

const struct server_device memdisk_device = { .iov_max = REQUEST_IOV,
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

bool memdisk_has_jobs(void)
{
	return jobs;
}

bool memdisk_is_idle(void)
{
	for (unsigned i = 0; i < MEMDISK_QUEUES; i++)
		if (engines[i]->n_running + engines[i]->n_staged)
			return false;
	return true;
}

void memdisk_raise(void)
{
	for (unsigned i = 0; i < MEMDISK_QUEUES; i++)
		if (!memdisk.hold && engines[i]->n_running + engines[i]->n_staged)
			still_raise(engines[i]->fd, EPOLLIN);
}

/* What the kernel had taken it does, before a successor starts. */
void memdisk_die(void)
{
	for (unsigned i = 0; i < MEMDISK_QUEUES; i++)
		for (unsigned k = 0; k < engines[i]->n_running; k++)
			transfer(engines[i]->running[k]);
	jobs = NULL;
	opened = 0;
}

void memdisk_retry(void)
{
	onerror_retry(&disk);
}

void memdisk_read_config(uint32_t off, uint32_t len)
{
	uint8_t *buf = malloc(len ? len : 1);

	if (len)
		disk_get_config(&disk, off, len, buf);
	free(buf);
}

void memdisk_make(uint8_t how)
{
	if (image_fd < 0) {
		image_fd = fd_sealed_memfd("disk", MEMDISK_BYTES);
		image = mmap(NULL, MEMDISK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, image_fd, 0);
		MUST(image_fd >= 0 && image != MAP_FAILED);
	}
	memdisk = (struct memdisk) { .hold = false };
	jobs = NULL;
	opened = 0;
	memset(image, 0xd5, MEMDISK_BYTES);
	memset(&disk, 0, sizeof(disk));
	disk.image_fd = disk.fd = image_fd;
	disk.files = (struct engine_files) { .fd = { image_fd }, .n = 1, .fence = -1 };
	disk.name = "memory";
	disk.bytes = MEMDISK_BYTES;
	disk.engine = &memory;
	disk.readonly = how & 1;
	disk.refuse_writes = how & 2;
	disk.on_error = (how >> 5) % 4;
	disk.can_discard = how & 4;
	disk.can_zero = !disk.readonly;
	disk.io_align = how & 8 ? 4096 : how & 16 ? SECTOR : 1;
	disk.mem_align = how & 16 ? SECTOR : 1;
	memcpy(disk.serial, "fuzz", 4);
}
