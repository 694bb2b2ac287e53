/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end towards the device's server. What it offers is asked twice: once in stage one, before the window's own front
 * end is answered, and then by the connection that lasts, whose answers come to the main loop; they must be the same.
 */
#include "back.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "log.h"
#include "num.h"

#define ANSWER_NS  (10 * NS_PER_S)   /* for the server's answers at first */
#define PATIENT_NS (3600 * NS_PER_S) /* the same where somebody else has a deadline for the start */
/* For one request later: to stop a ring takes as long as its slowest request. */
#define DEADLINE_NS (60 * NS_PER_S)

#define F(bit) (1ULL << (bit))

/* ---- asking at first ---- */

struct question {
	bool done;
	int err;
};

static void on_answer(void *arg, int err)
{
	*(struct question *)arg = (struct question) { .done = true, .err = err };
}

static void on_over(void *arg, int err, const char *why)
{
	(void)why;
	on_answer(arg, err);
}

static int ask(struct back *b, struct loop *loop, uint32_t config_len, uint64_t timeout_ns)
{
	static const struct vhost_fe_ops ops = { .lost = on_over };
	CLEAN_FD int fd = fcntl(b->fd, F_DUPFD_CLOEXEC, 0);
	struct question q = { .done = false };
	uint64_t end = clock_ns() + timeout_ns;
	struct vhost_fe *fe = NULL;
	int err = fd < 0 ? -errno : vhost_fe_new(loop, fd, timeout_ns, &ops, &q, &fe);

	if (err)
		return err;
	(void)take_fd(&fd);
	vhost_fe_probe(fe, config_len, &b->info, on_answer, &q);
	while (!err && !q.done && clock_ns() < end)
		err = loop_run_once(loop, (int64_t)(end - clock_ns()));
	vhost_fe_free(fe);
	return err ? err : q.done ? q.err : -ETIMEDOUT;
}

int back_ask(struct back *b, uint32_t config_len, bool patient)
{
	struct loop *loop = NULL;
	int err = loop_new("ask", &loop);

	if (!err)
		err = ask(b, loop, config_len, patient ? PATIENT_NS : ANSWER_NS);
	loop_free(loop);
	if (!err && !(b->info.features & F(VIRTIO_F_VERSION_1)))
		err = -EPROTONOSUPPORT;
	if (err)
		log_error_errno(err, "the device's server does not say what it offers");
	memcpy(b->config, b->info.config, sizeof(b->config));
	return err;
}

bool back_has_event_idx(const struct back *b)
{
	return b->info.features & F(VIRTIO_RING_F_EVENT_IDX);
}

/* ---- beginning ---- */

static void advance(struct back *b);

/* A refusal, and a shortage of our own, are as bad as the connection's end, which is told by itself. */
static bool failed(struct back *b, int err, const char *what)
{
	if (b->state == BACK_LOST)
		return true;
	if (!err || err == -EPIPE || err == -EPROTO || err == -ETIMEDOUT || err == -ECONNRESET)
		return err;
	log_error_errno(err, "the device's server: %s failed", what);
	b->state = BACK_LOST;
	b->ops->lost(b->arg, false);
	return true;
}

static void on_started(void *arg, int err)
{
	struct back *b = arg;

	if (failed(b, err, "the start of its rings"))
		return;
	b->state = BACK_UP;
	if (b->wanted)
		advance(b);
	else
		b->ops->up(b->arg);
}

static void begin(struct back *b)
{
	struct vhost_fe_ring ring[SERVER_QUEUES_MAX];
	const struct mem_region region = share_region(b->share);
	struct vhost_fe_start start = {
		.features = b->features & b->info.features,
		.regions = &region,
		.fds = &b->share->fd,
		.n_regions = 1,
		.inflight_fd = b->share->inflight_fd,
		.inflight_size = b->share->inflight_size,
		.inflight_queues = (uint16_t)b->share->rings,
		.inflight_queue_size = OUTRING_SIZE,
		.rings = ring,
		.n_rings = b->share->rings,
	};
	int err;

	for (unsigned i = 0; i < b->share->rings; i++) {
		uint64_t at = share_gpa(b->share, share_ring(b->share, i));

		ring[i] = (struct vhost_fe_ring) { .size = OUTRING_SIZE,
						   .desc = at,
						   .avail = at + OUTRING_AVAIL,
						   .used = at + OUTRING_USED,
						   .used_gpa = at + OUTRING_USED,
						   .kick = b->kick[i],
						   .call = b->call[i],
						   .err = b->err[i] };
	}
	b->wanted = false;
	b->state = BACK_STARTING;
	b->ops->prepare(b->arg);
	err = vhost_fe_start(b->fe, &start, on_started, b);
	if (err)
		on_started(b, err);
}

static void on_stopped(void *arg, int err)
{
	struct back *b = arg;

	if (failed(b, err, "the stop of its rings"))
		return;
	b->state = BACK_IDLE;
	advance(b);
}

/* Takes the next step, if nothing is under way. */
static void advance(struct back *b)
{
	if (!b->wanted || (b->state != BACK_IDLE && b->state != BACK_UP))
		return;
	if (b->state == BACK_UP) {
		b->state = BACK_STOPPING;
		vhost_fe_reset(b->fe, on_stopped, b);
		return;
	}
	begin(b);
}

void back_start(struct back *b, uint64_t features)
{
	b->wanted = true;
	b->features = features | F(VIRTIO_F_VERSION_1) | F(VIRTIO_RING_F_EVENT_IDX);
	b->features &= ~(F(VIRTIO_RING_F_INDIRECT_DESC) | F(VIRTIO_F_RING_PACKED));
	advance(b);
}

void back_stop(struct back *b)
{
	b->wanted = false;
	if (b->state != BACK_UP)
		return; /* one that is being started is stopped by the next start */
	b->state = BACK_STOPPING;
	vhost_fe_reset(b->fe, on_stopped, b);
}

void back_start_again(struct back *b)
{
	if (!b->features || b->state == BACK_STARTING || b->state == BACK_UP)
		return;
	b->wanted = true;
	advance(b);
}

/* ---- configuration space ---- */

static void read_config(struct back *b);

static void on_config(void *arg, int err)
{
	struct back *b = arg;
	bool changed;

	b->reading = false;
	if (failed(b, err, "a reading of its configuration space"))
		return;
	if (b->again) {
		read_config(b);
		return;
	}
	/* What was read may be from before a write that is under way, which has it read again. */
	if (b->writing)
		return;
	changed = memcmp(b->config, b->fresh, b->info.config_len);
	memcpy(b->config, b->fresh, b->info.config_len);
	if (b->awaited) {
		b->awaited = false;
		b->looked = true;
		b->ops->config_ready(b->arg);
	} else if (changed) {
		b->ops->config_changed(b->arg);
	}
}

static void read_config(struct back *b)
{
	b->again = b->reading;
	if (b->reading || !b->info.config_len)
		return;
	b->reading = true;
	vhost_fe_get_config(b->fe, 0, b->info.config_len, b->fresh, on_config, b);
}

static void on_config_changed(void *arg)
{
	struct back *b = arg;

	if (b->state != BACK_PROBING)
		read_config(b);
}

static bool within(const struct back *b, uint32_t off, uint32_t len)
{
	return off <= b->info.config_len && len <= b->info.config_len - off;
}

/* One that serves tells what changes. A spare does not, and looks when it is asked. */
static bool must_look(struct back *b)
{
	bool looked = b->looked;

	b->looked = false;
	return !looked && !b->features && b->info.config_len;
}

int back_get_config(struct back *b, uint32_t off, uint32_t len, uint8_t *buf)
{
	if (!within(b, off, len))
		return -EINVAL;
	if (must_look(b)) {
		b->awaited = true;
		/* At the end of the handshake, and of a write, it is read anyway. */
		if (b->state == BACK_IDLE && !b->writing)
			read_config(b);
		return -EINPROGRESS;
	}
	memcpy(buf, b->config + off, len);
	return 0;
}

static void on_config_set(void *arg, int err);

static void send_config(struct back *b)
{
	uint32_t off = b->written_off, len = b->written_len;

	b->written_len = 0;
	b->writing = true;
	vhost_fe_set_config(b->fe, off, len, b->config + off, on_config_set, b);
}

/* A refusal is shown by what is read afterwards. */
static void on_config_set(void *arg, int err)
{
	struct back *b = arg;

	b->writing = false;
	if (err != -EREMOTEIO && failed(b, err, "a write to its configuration space"))
		return;
	if (b->written_len)
		send_config(b);
	else
		read_config(b);
}

int back_set_config(struct back *b, uint32_t off, uint32_t len, const uint8_t *buf)
{
	if (!within(b, off, len) || !len || b->state == BACK_LOST)
		return -EINVAL;
	memcpy(b->config + off, buf, len);
	/* A driver that writes faster than its server answers is not to fill our memory; it has one place to write to. */
	b->written_off = off;
	b->written_len = len;
	if (b->state != BACK_PROBING && !b->writing)
		send_config(b);
	return 0;
}

/* ---- the connection ---- */

static void on_probed(void *arg, int err)
{
	struct back *b = arg;

	if (!err && b->asked.features != b->info.features)
		err = -EREMOTEIO;
	if (failed(b, err, "the handshake"))
		return;
	b->state = BACK_IDLE;
	if (b->written_len)
		send_config(b);
	else
		read_config(b); /* it may have changed meanwhile */
	advance(b);
}

static void on_lost(void *arg, int err, const char *why)
{
	struct back *b = arg;

	if (b->state == BACK_LOST)
		return;
	log_line(err == -EPIPE ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR, 0, "the device's server is gone: %s",
		 why ? why : strerrordesc_np(-err));
	b->state = BACK_LOST;
	b->ops->lost(b->arg, err == -EPIPE);
}

int back_open(struct back *b, struct loop *loop)
{
	static const struct vhost_fe_ops ops = { .lost = on_lost, .config_changed = on_config_changed };
	int err = vhost_fe_new(loop, b->fd, DEADLINE_NS, &ops, b, &b->fe);

	if (err)
		return err;
	(void)take_fd(&b->fd);
	b->state = BACK_PROBING;
	vhost_fe_probe(b->fe, 0, &b->asked, on_probed, b);
	return 0;
}

void back_close(struct back *b)
{
	vhost_fe_free(b->fe);
	b->fe = NULL;
	clean_fd(&b->fd);
	b->fd = -1;
}
