/* SPDX-License-Identifier: Apache-2.0 */
/* A device's inside, shared by its life (device.c) and the handing over of its rings (device_rings.c). */
#ifndef CORE_DEVICE_PRIV_H
#define CORE_DEVICE_PRIV_H

#include <stddef.h>

#include "device.h"
#include "loop.h"
#include "vhost_fe.h"

/*
 * Where a back end is. From every state a lost connection leads to ABSENT and a new descriptor to PROBING.
 */
enum backend_state {
	BACKEND_ABSENT,    /* no connection; ends with a descriptor */
	BACKEND_PROBING,   /* features, queues and configuration space are being asked; ends IDLE */
	BACKEND_IDLE,      /* fit to be started; ends with a driver that is ready */
	BACKEND_STARTING,  /* rings are being handed over; ends RUNNING */
	BACKEND_RUNNING,   /* serves the rings; ends with a driver's reset */
	BACKEND_RESETTING, /* finishes its requests; ends IDLE */
};

struct backend {
	struct device *dev;
	unsigned index;
	enum backend_state state;
	struct vhost_fe *fe;
	struct flight *flight;        /* the process's health words; NULL: none */
	struct flight *before;        /* of what stands between it and us; NULL: nothing does, or none */
	struct watch_target *watched; /* while RUNNING, on rings that are whole */
	/* A process that was given the rings may still write to them: set when a start is sent, cleared when a
	 * reset is acknowledged or a new descriptor tells that the old process is gone. */
	bool tainted;
	bool given_up; /* that process is known to be gone: the end of its connection clears tainted too */
	bool started;  /* once in this activation: what runs next takes over live rings */
	bool known;    /* was probed once */
	bool reading_config; /* a request for configuration space is out; again: and is stale */
	bool read_again;
	uint64_t arrived_ns; /* of the connection */
	bool inflight_used;  /* in this activation */
	int inflight_fd;     /* -1: not made yet */
	char *inflight;      /* its mapping */
	size_t inflight_size;
	struct vhost_fe_info info;
	uint8_t config[VHOST_FE_CONFIG_MAX]; /* where a later reading goes */
};

/* What the driver set up, from DRIVER_OK to the end of its reset. */
struct activation {
	bool on;
	bool broken;    /* the rings can't be served; waits for the driver's reset */
	bool signalled; /* a ring is broken, and the driver was told */
	uint64_t features;
	uint16_t size_max; /* of all rings in use */
	unsigned n_rings;  /* the highest in use, plus one */
	struct virtio_pci_queue queues[VIRTIO_PCI_QUEUES_MAX];
};

struct device {
	struct device_args args;
	char id[DEVICE_ID_MAX];
	uint8_t mac[6];               /* as in args, or zeroes */
	struct virtio_pci *transport; /* NULL until every back end was probed once */
	struct loop_bh on_driver_ok, on_reset, on_config;
	struct activation act;
	bool reset_pending;
	/* What the driver wrote to configuration space since its last reset, for a back end that comes later. */
	uint32_t written_off, written_len;
	uint8_t written[VIRTIO_PCI_CONFIG_MAX];
	uint32_t config_len; /* of the configuration space that the driver was shown first */
	int err_fd;          /* one for all rings: a back end signals that a ring is broken */
	struct loop_fd *err_watch;
	struct device_stats stats;
	struct backend backends[DEVICE_BACKENDS_MAX];
};

/* The back end that serves a queue. */
struct backend *device_backend_of(struct device *d, unsigned queue);

/* What is offered with a back end: its features without what the core does not know or can't go along with, and an address
 * of our own if it has none to tell. */
uint64_t device_features(const struct backend *b);

/* Takes the driver's set-up into d->act; -EINVAL if a ring lies where none can be. */
int device_rings_take(struct device *d);

/* Whether what is in flight is written down, so that a successor can go on with it. */
bool device_rings_can_track(const struct backend *b);

/* Makes a back end's in-flight region, unused as yet, and gives it back. */
int device_rings_make_inflight(struct backend *b);
void device_rings_free_inflight(struct backend *b);

/* Forgets the driver's set-up; what the in-flight regions hold counts no more. */
void device_rings_drop(struct device *d);

/* Hands its rings to a probed back end. -errno; then nothing was sent. */
int device_rings_start(struct backend *b, vhost_fe_done_fn done);

/* The queue's part of the in-flight region, or NULL if none is in use. */
const void *device_rings_inflight(const struct backend *b, unsigned queue);

/*
 * device_config.c: shows the driver what back end 0 says, but for the number of queues, which stays what it was at the
 * start; reads it again (arg is the back end); passes what the driver wrote on (arg is the device) to every back end that is
 * there, and to one that came later.
 */
void device_config_offer(struct device *d);
void device_config_changed(void *arg);
void device_config_written(void *arg);
void device_config_repeat(struct backend *b);

/* device.c: deals with what a request to a back end ended with; true if not well. */
bool device_failed(struct backend *b, int err, const char *doing);

/* device.c: tells the driver that the device needs a reset; drops a back end's connection. */
void device_break(struct device *d);
void device_lose(struct backend *b, const char *reason);

/* device_watch.c: begins to watch the rings of a back end that serves them now, -errno; stops. */
int device_watch_start(struct backend *b);
void device_watch_stop(struct backend *b);

#endif
