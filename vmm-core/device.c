/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. Two things move on their own: the driver, who wants the device served (DRIVER_OK) or
 * stopped (reset), and each back end, which goes through the states of device_priv.h. Whenever either moves,
 * advance() lets every back end take the next step towards what the driver wants. So a process may die at any
 * point: what the driver wants stays as it is, and the next process is led there again.
 *
 * A driver's reset is complete when no process can write to its rings any more: when each back end that was given
 * them has acknowledged the reset, or was replaced, which its supervisor does only after it is gone. Until then
 * the transport keeps the old status, and the guest waits in its own time.
 */
#include "device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "device_priv.h"
#include "fd.h"
#include "flight.h"
#include "num.h"

static void advance(struct device *d);

struct backend *device_backend_of(struct device *d, unsigned queue)
{
	return &d->backends[queue % d->args.backends];
}

/* ---- losing a back end ---- */

/* Drops the connection and what came with it. */
static void disconnect(struct backend *b)
{
	device_watch_stop(b);
	vhost_fe_free(b->fe);
	b->fe = NULL;
	flight_free(b->flight);
	flight_free(b->before);
	b->flight = b->before = NULL;
	b->state = BACKEND_ABSENT;
	b->reading_config = b->read_again = false;
}

void device_lose(struct backend *b, const char *reason)
{
	struct device *d = b->dev;

	disconnect(b);
	if (b->given_up)
		b->tainted = false;
	d->stats.lost++;
	d->args.ops->down(d->args.arg, d, reason);
	advance(d);
}

static void on_lost(void *arg, int err, const char *why)
{
	(void)err;
	device_lose(arg, why);
}

/* The end of a connection is reported by on_lost as well, which knows more of the reason, so here only refusals and our
 * own shortages are dealt with. */
bool device_failed(struct backend *b, int err, const char *doing)
{
	char reason[128];

	if (err >= 0)
		return false;
	if (err == -EPIPE || err == -EPROTO || err == -ETIMEDOUT || err == -ECONNRESET)
		return true;
	if (err == -EREMOTEIO)
		snprintf(reason, sizeof(reason), "the back end refused %s", doing);
	else
		snprintf(reason, sizeof(reason), "%s failed: %s", doing, strerror(-err));
	device_lose(b, reason);
	return true;
}

/* ---- what the driver wants ---- */

void device_break(struct device *d)
{
	d->stats.broken++;
	d->act.signalled = true;
	for (unsigned i = 0; i < d->args.backends; i++)
		device_watch_stop(&d->backends[i]);
	virtio_pci_needs_reset(d->transport);
}

static void driver_ok(void *arg)
{
	struct device *d = arg;

	if (d->act.on || !virtio_pci_get_setup(d->transport, &d->act.features, d->act.queues))
		return;
	d->act.on = true;
	if (device_rings_take(d) < 0) {
		d->act.broken = true;
		device_break(d);
		return;
	}
	virtio_pci_wire(d->transport);
	advance(d);
}

static void driver_reset(void *arg)
{
	struct device *d = arg;

	d->stats.resets++;
	d->reset_pending = true;
	advance(d);
}

static void finish_reset(struct device *d)
{
	d->reset_pending = false;
	d->written_len = 0;
	device_rings_drop(d);
	fd_event_clear(d->err_fd);
	loop_mod_fd(d->err_watch, EPOLLIN);
	virtio_pci_reset_done(d->transport);
}

/* A back end signals that a ring can't be gone on with. Once is enough until the driver resets. */
static void on_err(void *arg, uint32_t events)
{
	struct device *d = arg;

	(void)events;
	loop_mod_fd(d->err_watch, 0);
	if (d->act.on)
		device_break(d);
}

/* ---- a back end's way ---- */

static void report_up(struct backend *b, bool resumed)
{
	struct device *d = b->dev;

	d->stats.handshake_ns = clock_ns() - b->arrived_ns;
	d->stats.resumed += resumed;
	d->args.ops->up(d->args.arg, d, resumed, d->stats.handshake_ns);
}

static void on_started(void *arg, int err)
{
	struct backend *b = arg;

	if (device_failed(b, err, "its rings"))
		return;
	if (device_failed(b, device_watch_start(b), "watching its rings"))
		return;
	b->state = BACKEND_RUNNING;
	if (b->arrived_ns)
		report_up(b, true);
	b->arrived_ns = 0;
	advance(b->dev);
}

static void on_backend_reset(void *arg, int err)
{
	struct backend *b = arg;

	if (device_failed(b, err, "a reset"))
		return;
	b->state = BACKEND_IDLE;
	b->tainted = false;
	advance(b->dev);
}

static void start(struct backend *b)
{
	int r;

	b->state = BACKEND_STARTING;
	r = device_rings_start(b, on_started);
	if (r == -EPROTONOSUPPORT) {
		/* What the last process had in flight is lost to this one, and to the next of its kind. */
		b->state = BACKEND_IDLE;
		b->dev->act.broken = true;
		device_break(b->dev);
	} else if (r < 0) {
		device_failed(b, r, "handing over the rings");
	}
}

static void step(struct backend *b)
{
	struct device *d = b->dev;

	if (b->state == BACKEND_IDLE && d->act.on && !d->act.broken && !d->reset_pending) {
		start(b);
	} else if (b->state == BACKEND_RUNNING && d->reset_pending) {
		b->state = BACKEND_RESETTING;
		device_watch_stop(b);
		vhost_fe_reset(b->fe, on_backend_reset, b);
	}
}

static void advance(struct device *d)
{
	bool tainted = false;

	if (!d->transport)
		return;
	for (unsigned i = 0; i < d->args.backends; i++) {
		step(&d->backends[i]);
		tainted |= d->backends[i].tainted;
	}
	if (d->reset_pending && !tainted)
		finish_reset(d);
}

/* ---- a new connection ---- */

static void post_driver_ok(void *arg)
{
	loop_bh_post(&((struct device *)arg)->on_driver_ok);
}

static void post_reset(void *arg)
{
	loop_bh_post(&((struct device *)arg)->on_reset);
}

static void post_config(void *arg)
{
	loop_bh_post(&((struct device *)arg)->on_config);
}

/* How many rings a back end has. */
static unsigned rings_of(const struct device *d, const struct backend *b)
{
	const struct device_kind *kind = d->args.kind;
	uint64_t features = device_features(b);
	unsigned control = (features & kind->control) != 0, n;
	uint16_t configured = 1;

	if (kind->queues_off && features >> kind->queues_feature & 1 &&
	    b->info.config_len >= kind->queues_off + sizeof(configured))
		memcpy(&configured, b->info.config + kind->queues_off, sizeof(configured));
	n = MIN((unsigned)configured, b->info.queues);
	n = MIN(n, (VIRTIO_PCI_QUEUES_MAX - control) / kind->rings_each);
	return n ? n * kind->rings_each + control : 0;
}

static int make_transport(struct device *d)
{
	static const struct virtio_pci_ops ops = { .driver_ok = post_driver_ok,
						   .reset = post_reset,
						   .config_written = post_config };
	unsigned queues = VIRTIO_PCI_QUEUES_MAX;
	int r;
	struct virtio_pci_args args = {
		.vm = d->args.vm,
		.bus = d->args.bus,
		.slot = d->args.slot,
		.loop = d->args.loop,
		.device_id = d->args.kind->virtio_id,
		.class = d->args.kind->pci_class,
		.config_write_off = d->args.kind->config_write_off,
		.config_write_len = d->args.kind->config_write_len,
		.config_write_max = d->args.kind->config_write_max,
		.config_write_feature = d->args.kind->config_write_feature,
		.ops = &ops,
		.arg = d,
	};

	for (unsigned i = 0; i < d->args.backends; i++)
		queues = MIN(queues, rings_of(d, &d->backends[i]));
	args.queues = queues;
	d->config_len = d->backends[0].info.config_len;
	r = virtio_pci_new(&args, &d->transport);
	for (unsigned i = 0; r == 0 && i < d->args.backends; i++)
		r = device_rings_make_inflight(&d->backends[i]);
	if (r < 0) {
		for (unsigned i = 0; i < d->args.backends; i++)
			device_rings_free_inflight(&d->backends[i]);
		virtio_pci_free(d->transport);
		d->transport = NULL;
	}
	return r;
}

/* NULL if the back end can serve the driver as it is, else why not. */
static const char *misfit(const struct backend *b)
{
	const struct device *d = b->dev;
	uint64_t acked;

	if (!(b->info.features >> VIRTIO_F_VERSION_1 & 1))
		return "the back end does not offer VIRTIO_F_VERSION_1";
	if (rings_of(d, b) == 0)
		return "the back end offers no queues";
	if (!d->transport)
		return NULL;
	if (b->info.config_len < d->config_len)
		return "the back end's configuration space is shorter than the one before";
	if (!virtio_pci_get_acked(d->transport, &acked))
		return NULL;
	if (acked & ~device_features(b))
		return "the back end lacks features that the driver was given";
	if (d->act.on && rings_of(d, b) < d->act.n_rings)
		return "the back end offers fewer queues than the driver uses";
	return NULL;
}

static bool all_known(const struct device *d)
{
	for (unsigned i = 0; i < d->args.backends; i++)
		if (!d->backends[i].known)
			return false;
	return true;
}

static void on_probed(void *arg, int err)
{
	struct backend *b = arg;
	struct device *d = b->dev;
	const char *wrong;

	if (device_failed(b, err, "the first questions"))
		return;
	wrong = misfit(b);
	if (wrong) {
		device_lose(b, wrong);
		return;
	}
	b->known = true;
	b->state = BACKEND_IDLE;
	if (!d->transport && all_known(d)) {
		int r = make_transport(d);

		if (device_failed(b, r, "making the PCI device"))
			return;
	}
	/* A driver that chose write-through goes without flushes: what it chose holds for a successor too, which is told
	 * before it gets the rings, and the driver never sees another value. */
	if (d->written_len && d->written_off + d->written_len <= b->info.config_len) {
		memcpy(b->info.config + d->written_off, d->written, d->written_len);
		device_config_repeat(b);
	}
	if (d->transport && b->index == 0)
		device_config_offer(d);
	/* With live rings it is up once it has them. */
	if (!d->act.on || d->act.broken || d->reset_pending) {
		report_up(b, false);
		b->arrived_ns = 0;
	}
	advance(d);
}

int device_attach(struct device *d, unsigned index, int fd, struct flight *flight, struct flight *before)
{
	static const struct vhost_fe_ops ops = { .lost = on_lost, .config_changed = device_config_changed };
	struct backend *b;
	int r;

	if (index >= d->args.backends) {
		close(fd);
		flight_free(flight);
		flight_free(before);
		return -ERANGE;
	}
	b = &d->backends[index];
	disconnect(b);
	b->tainted = b->given_up = false;
	b->flight = flight;
	b->before = before;
	d->stats.attached++;
	r = vhost_fe_new(d->args.loop, fd, d->args.timeout_ns, &ops, b, &b->fe);
	if (r < 0) {
		close(fd);
		advance(d);
		return r;
	}
	b->state = BACKEND_PROBING;
	b->arrived_ns = clock_ns();
	vhost_fe_probe(b->fe, d->args.kind->config_len, &b->info, on_probed, b);
	advance(d);
	return 0;
}

void device_fail(struct device *d)
{
	d->stats.failed++;
	for (unsigned i = 0; i < d->args.backends; i++) {
		struct backend *b = &d->backends[i];

		/* The end of its connection may still be on its way to us. */
		b->given_up = true;
		if (b->state == BACKEND_ABSENT)
			b->tainted = false;
	}
	if (d->transport)
		virtio_pci_needs_reset(d->transport);
	advance(d);
}

/* ---- life ---- */

int device_new(const struct device_args *args, struct device **out)
{
	struct device *d;
	int r;

	if (args->backends == 0 || args->backends > DEVICE_BACKENDS_MAX || strlen(args->id) >= DEVICE_ID_MAX)
		return -EINVAL;
	/* Rings that belong together are one back end's. */
	if (args->backends > 1 && args->kind->rings_each > 1)
		return -EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->args = *args;
	snprintf(d->id, sizeof(d->id), "%s", args->id);
	if (args->mac)
		memcpy(d->mac, args->mac, sizeof(d->mac));
	d->args.mac = d->mac;
	loop_bh_init(&d->on_driver_ok, args->loop, driver_ok, d);
	loop_bh_init(&d->on_reset, args->loop, driver_reset, d);
	loop_bh_init(&d->on_config, args->loop, device_config_written, d);
	for (unsigned i = 0; i < args->backends; i++)
		d->backends[i] = (struct backend) { .dev = d, .index = i, .inflight_fd = -1 };
	d->err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = d->err_fd < 0 ? -errno : loop_add_fd(args->loop, d->err_fd, EPOLLIN, on_err, d, &d->err_watch);
	if (r < 0) {
		device_free(d);
		return r;
	}
	*out = d;
	return 0;
}

void device_free(struct device *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < d->args.backends; i++) {
		disconnect(&d->backends[i]);
		device_rings_free_inflight(&d->backends[i]);
	}
	loop_bh_cancel(&d->on_driver_ok);
	loop_bh_cancel(&d->on_reset);
	loop_bh_cancel(&d->on_config);
	virtio_pci_free(d->transport);
	loop_del_fd(d->err_watch);
	if (d->err_fd >= 0)
		close(d->err_fd);
	free(d);
}

const char *device_id(const struct device *d)
{
	return d->id;
}

bool device_is_known(const struct device *d)
{
	return d->transport != NULL;
}

void device_get_stats(const struct device *d, struct device_stats *out)
{
	*out = d->stats;
	if (d->transport)
		virtio_pci_get_stats(d->transport, &out->transport);
}
