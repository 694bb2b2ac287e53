/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server: a virtio block device in a process of its own, as a vhost-user back end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blk.h"
#include "clock.h"
#include "config.h"
#include "log.h"
#include "num.h"
#include "request.h"
#include "resize.h"
#include "state.h"
#include "syscalls.h"

_Static_assert(ENGINE_MAX >= SERVER_QUEUES_MAX, "each queue can have its engine");

/* Words of the device's state: the limits come first. */
#define WORD_FLUSH QUOTA_WORDS
#define WORD_FENCE (WORD_FLUSH + 1)

static struct server_device device;
static const struct engine_ops *chosen; /* the sandbox is made for it */
bool blk_refuse_writes;

#define DISK_DEFAULTS                                                                                        \
	.disk = { .image_fd = -1,                                                                            \
		  .fd = -1,                                                                                  \
		  .fence.fd = -1,                                                                            \
		  .throttle.group_fd = -1,                                                                   \
		  .nbd_options = { .dial_fd = -1, .reconnect_s = 30 } }

void blk_use_engine(struct blk *blk, const struct engine_ops *engine)
{
	blk->disk.engine = chosen = engine;
	device.stage_one = engine->calls->stage_one;
	device.steady = engine->calls->steady;
	device.io = engine->calls->io;
	device.drain = engine->calls->drain;
	device.locks_memory = engine->calls->locks_memory;
}

/* ---- the device ---- */

/* The fence of an engine that needs one. A server that opens an image by name has another one: the image's lock is held
 * as long as a ring has the image. But those that only read share it. */
static int open_fence(struct blk *blk, const struct server_settings *settings)
{
	int err;

	if (!blk->disk.engine->lingers)
		return 0;
	if (settings->state_fd >= 0) {
		err = fence_open(&blk->disk.fence, settings->state_fd,
				 &state_words(settings->state)[WORD_FENCE]);
		if (err)
			log_error_errno(err, "--engine %s: --state-fd can't be opened once more",
					blk->disk.engine->name);
		return err;
	}
	if (blk->disk.image && !blk->disk.readonly)
		return 0;
	log_error("--engine %s needs --state-fd here, by which a successor learns when it may begin; "
		  "--engine aio does not",
		  blk->disk.engine->name);
	return -EINVAL;
}

static int blk_open(void *dev, const struct server_settings *settings, uint64_t *features)
{
	struct blk *blk = dev;

	if (!!blk->disk.image + (blk->disk.image_fd >= 0) + !!blk->disk.nbd_options.uri != 1) {
		log_error("give --image FILE or --image-fd N, or --nbd URI, one of them");
		return -EINVAL;
	}
	if (blk->disk.engine != chosen) {
		log_error("%s: all disks of a process need the same --engine, and --nbd goes with no file",
			  settings->id);
		return -EINVAL;
	}
	if (blk->disk.nbd_options.uri && blk->disk.qcow2) {
		log_error("--nbd: what the export is made of is its server's affair; --format is for files");
		return -EINVAL;
	}
	if (blk->disk.nbd_options.uri && engine_find(blk->disk.engine->name) &&
	    engine_find(blk->disk.engine->name) != &engine_aio) {
		log_error("--nbd: --engine is for files");
		return -EINVAL;
	}
	if (onerror_waits_for_order(blk->disk.on_error) && !settings->supervised) {
		log_error("--on-error stop and enospc need --bus: somebody who stops the machine");
		return -EINVAL;
	}
	if (blk->disk.engine == &engine_null && blk->disk.qcow2) {
		log_error("--engine null is for --format raw");
		return -EINVAL;
	}
	if (blk->disk.nbacking && !blk->disk.qcow2) {
		log_error("--backing is for --format qcow2");
		return -EINVAL;
	}
	if (open_fence(blk, settings) < 0)
		return -EINVAL;
	blk->queues = settings->queues;
	blk->disk.refuse_writes = blk_refuse_writes;
	blk->disk.flush_word = &state_words(settings->state)[WORD_FLUSH];
	if (throttle_open(&blk->disk.throttle, state_words(settings->state)) < 0)
		return -EINVAL;
	blk->disk.nbd_options.kept = state_area(settings->state);
	return disk_open(&blk->disk, settings->id, settings->queues, settings->sandbox, features);
}

/* The tables of a qcow2 image, cached and as it is opened; and, should it have to be repaired, a bit for each of its clusters,
 * which may be as small as a sector. */
static uint64_t blk_memory(void *dev)
{
	const struct disk *disk = &((struct blk *)dev)->disk;
	uint64_t cache = disk->cache_bytes ? disk->cache_bytes : QCOW2_CACHE_BYTES;
	struct stat st;

	if (!disk->qcow2 || fstat(disk->fd, &st) < 0)
		return 0;
	return 2 * cache + (uint64_t)st.st_size / SECTOR / 8;
}

static int blk_confined(void *dev, uint64_t *features)
{
	struct blk *blk = dev;

	return disk_examine(&blk->disk, blk->queues, features);
}

static void blk_close(void *dev)
{
	struct disk *disk = &((struct blk *)dev)->disk;

	/* The queues are closed, and waited for their transfers. */
	fence_end(&disk->fence);
	fence_close(&disk->fence);
	disk_close(disk);
	throttle_close(&((struct blk *)dev)->disk.throttle);
}

static int blk_get_config(void *dev, uint32_t off, uint32_t len, uint8_t *buf)
{
	return disk_get_config(&((struct blk *)dev)->disk, off, len, buf);
}

#define FENCE_MIN_NS NS_PER_MS
#define FENCE_MAX_NS (20 * NS_PER_MS)

/* Begins, or looks again later: the kernel has no event for it. Meanwhile the rings are on, and what is in them waits
 * there. */
static void pass_fence(void *arg)
{
	struct blk *blk = arg;
	bool waited = fence_waits(&blk->disk.fence);
	int err = fence_begin(&blk->disk.fence);

	if (err == -EAGAIN && !blk->fence_timer)
		err = loop_add_timer(server_main_loop(blk->queue[0]->server), pass_fence, blk,
				     &blk->fence_timer);
	if (err == -EAGAIN || (!err && fence_waits(&blk->disk.fence))) {
		blk->fence_pause = waited ? MIN(2 * blk->fence_pause, FENCE_MAX_NS) : FENCE_MIN_NS;
		loop_arm_timer(blk->fence_timer, clock_ns() + blk->fence_pause);
		return;
	}
	if (err) {
		log_error_errno(err, "what a predecessor left to the kernel can't be waited for; ending");
		_exit(1);
	}
	for (unsigned i = 0; waited && i < blk->queues; i++)
		server_poke(blk->queue[i]->server);
}

static void blk_started(void *dev, bool live, uint64_t features)
{
	(void)live;
	(void)features;
	pass_fence(dev);
	/* A spare was opened before. */
	disk_remember_flush(&((struct blk *)dev)->disk);
	((struct blk *)dev)->disk.serving = true;
}

/* ---- what the supervisor changes ---- */

static void on_resized(void *arg, int result, const char *why)
{
	server_set_done(((struct blk *)arg)->queue[0]->server, result, why);
}

static int set_size(struct blk *blk, const char *value, char *why, size_t size)
{
	const struct server_queue *q = blk->queue[0]->server;
	struct resize resize = {
		.loop = server_main_loop(q), .pool = server_pool(q), .done = on_resized, .arg = blk
	};

	if (snprintf(resize.value, sizeof(resize.value), "%s", value) >= (int)sizeof(resize.value)) {
		snprintf(why, size, "it is no size");
		return -EINVAL;
	}
	return resize_set(&blk->disk, &resize, why, size);
}

static int set_retry(struct blk *blk, const char *value, char *why, size_t size)
{
	if (strcmp(value, "now")) {
		snprintf(why, size, "\"%s\" is not \"now\"", value);
		return -EINVAL;
	}
	onerror_retry(&blk->disk);
	return 0;
}

static int change_on_error(struct blk *blk, const char *value, char *why, size_t size)
{
	(void)blk;
	(void)value;
	snprintf(why, size, "what becomes of errors is chosen when the disk is started");
	return -EOPNOTSUPP;
}

static const struct {
	const char *key;
	int (*set)(struct blk *blk, const char *value, char *why, size_t size);
} settable[] = {
	{ "size", set_size },
	{ "retry", set_retry },
	{ "on-error", change_on_error },
};

static int blk_set(void *dev, const char *key, const char *value, char *why, size_t size)
{
	for (size_t i = 0; i < ARRAY_SIZE(settable); i++)
		if (!strcmp(key, settable[i].key))
			return settable[i].set(dev, value, why, size);
	if (throttle_knows(key))
		return throttle_set(&((struct blk *)dev)->disk.throttle, key, value, why, size);
	snprintf(why, size, "a disk has no \"%s\" to set", key);
	return -ENOENT;
}

/* ---- queues ---- */

static int blk_set_config(void *dev, uint32_t off, uint32_t len, const uint8_t *buf)
{
	return disk_set_config(&((struct blk *)dev)->disk, off, len, buf);
}

static int blk_open_queue(void *dev, struct server_queue *server, void **state)
{
	struct blk *blk = dev;
	struct blk_queue **q = &blk->queue[server_index(server)];
	int err = blk_queue_open(&blk->disk, server, q);

	*state = *q;
	return err;
}

static void blk_close_queue(void *state)
{
	struct blk_queue *q = state;

	nbd_look_end(q->disk);
	blk_queue_close(q);
}

static int blk_attach(void *state)
{
	return blk_queue_attach(state);
}

static void blk_detach(void *state)
{
	blk_queue_detach(state);
}

static void blk_ring(void *state, bool on)
{
	blk_queue_ring(state, on);
}

static bool blk_service(void *state)
{
	return blk_queue_service(state);
}

static bool blk_has_room(void *state)
{
	return blk_queue_has_room(state);
}

static unsigned blk_held(void *state)
{
	return blk_queue_held(state);
}

static uint64_t blk_since(void *state)
{
	return blk_queue_since(state);
}

static bool blk_pending(void *state)
{
	return blk_queue_pending(state);
}

static void blk_release(void *state)
{
	blk_queue_release(state);
}

static unsigned blk_parked(void *state)
{
	return blk_queue_parked(state);
}

static void blk_forget(void *state)
{
	blk_queue_forget(state);
}

static bool blk_drained(void *dev)
{
	struct disk *disk = &((struct blk *)dev)->disk;

	if (!disk->engine->drained())
		return false;
	fence_end(&disk->fence);
	return true;
}

static void blk_stats(void *dev, server_stat_fn add, void *arg)
{
	struct blk *blk = dev;
	const char *name;
	uint64_t value;

	for (unsigned i = 0; (name = blk_queue_counter(blk->queue[0], i, &value)); i++) {
		uint64_t sum = value;

		for (unsigned q = 1; q < blk->queues && blk_queue_counter(blk->queue[q], i, &value); q++)
			sum += value;
		add(arg, name, sum);
	}
}

static struct blk first = { DISK_DEFAULTS };

/* What the disk before it goes through is good for this one, too, unless that is no file. */
static void *blk_another(void)
{
	struct blk *blk = malloc(sizeof(*blk));

	if (!blk)
		return NULL;
	*blk = (struct blk) { DISK_DEFAULTS };
	blk->disk.engine = engine_find(chosen->name) == chosen ? chosen : &engine_aio;
	return blk;
}

static struct server_device device = {
	.program = "blk-server",
	.kind = "blk",
	.summary = "serve virtio block devices over vhost-user",
	.options = blk_options,
	.iov_max = REQUEST_IOV,
	.another = blk_another,
	.open = blk_open,
	.confined = blk_confined,
	.memory = blk_memory,
	.close = blk_close,
	.get_config = blk_get_config,
	.set_config = blk_set_config,
	.started = blk_started,
	.set = blk_set,
	.queue_open = blk_open_queue,
	.queue_close = blk_close_queue,
	.attach = blk_attach,
	.detach = blk_detach,
	.ring = blk_ring,
	.service = blk_service,
	.has_room = blk_has_room,
	.held = blk_held,
	.since = blk_since,
	.pending = blk_pending,
	.release = blk_release,
	.parked = blk_parked,
	.forget = blk_forget,
	.drained = blk_drained,
	.stats = blk_stats,
};

int main(int argc, char **argv)
{
	blk_use_engine(&first, &engine_aio);
	return server_main(argc, argv, &device, &first);
}
