/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one virtio device: a transport (virtio_pci.h), and the back ends behind it (vhost_fe.h), which
 * may come, die and be replaced while the guest's driver sees a stall and nothing else. All functions are for
 * the main loop's thread; none waits.
 */
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio_pci.h"

#define DEVICE_ID_MAX       32 /* bytes of a device's id, its NUL included */
#define DEVICE_BACKENDS_MAX 8

struct device;
struct flight;
struct loop;
struct pci_bus;
struct ram;
struct vm;
struct watch;

/* A type of device, as far as the core must know it; device processes know the rest. */
struct device_kind {
	const char *name;
	uint16_t virtio_id;
	uint32_t pci_class;
	uint32_t config_len; /* bytes of configuration space asked of the back end */
	uint64_t features;   /* of the type's own bits, those that config_len and the core know */
	uint64_t
	    config_features; /* of these, those that a back end can't have without a configuration space */
	uint32_t queues_off; /* where, in it, the 16-bit number of queues stands; 0: nowhere */
	unsigned queues_feature; /* the feature bit without which there is one queue */
	/* Rings: what counts as a queue above is so many of them, of which buffer_rings (a bit for each) hold buffers that
	 * wait for ever instead of requests; with one of the features control, one more ring follows. */
	unsigned rings_each, buffer_rings;
	uint64_t control;
	const char *slow;     /* as in watch.h */
	uint64_t mac_feature; /* with it configuration space begins with a hardware address; 0: never */
	uint16_t config_write_off, config_write_len; /* as in virtio_pci_args */
	uint8_t config_write_max;
	unsigned config_write_feature;
};

/* The kind of that name, or NULL; device_kind_names lists all for error messages. */
const struct device_kind *device_kind_find(const char *name);
const char *device_kind_names(void);

struct device_ops {
	/* A back end's handshake is complete. resumed: it took over rings that were live. */
	void (*up)(void *arg, struct device *d, bool resumed, uint64_t handshake_ns);
	/* A back end's connection was lost, or it broke the protocol, or does not fit the driver; its
	 * connection is closed. A new one is awaited. */
	void (*down)(void *arg, struct device *d, const char *reason);
	/* A back end makes no progress on a queue (watch.h): it has to be replaced, or there is nothing to be done
	 * about it. May be NULL. */
	void (*hung)(void *arg, struct device *d, unsigned queue, uint64_t stalled_ns, const char *reason);
	void (*stalled)(void *arg, struct device *d, unsigned queue, uint64_t stalled_ns, const char *reason);
};

struct device_args {
	const char *id; /* copied */
	const struct device_kind *kind;
	unsigned slot;
	unsigned backends; /* 1 to DEVICE_BACKENDS_MAX; queue i is served by back end i modulo this */
	struct loop *loop;
	struct vm *vm;
	struct pci_bus *bus;
	const struct ram *ram;
	uint64_t timeout_ns;      /* the deadline of each request to a back end */
	struct watch *watch;      /* NULL: nobody looks for back ends that hang */
	uint64_t hang_timeout_ns; /* 0: the same */
	unsigned first_ring;      /* where its own begin in the flight recorder of its process */
	const uint8_t *
	    mac; /* the hardware address to show if the back end has no configuration space; zeroes or NULL: none */
	const struct device_ops *ops;
	void *arg;
};

int device_new(const struct device_args *args, struct device **out);

/* No vCPU may run. NULL is ignored. */
void device_free(struct device *d);

const char *device_id(const struct device *d);

/*
 * Gives back end index the connected socket fd and, if it has one, its flight recorder's region; and that of the process at
 * the socket's other end, if this is another one, which stands before it (all taken over, also on error; they are kept as
 * long as the connection). A connection that it has is dropped first: whoever calls
 * has seen to it that the process behind it is gone and writes no more. -errno; ops->up or ops->down follows.
 */
int device_attach(struct device *d, unsigned index, int fd, struct flight *flight, struct flight *before);

/*
 * Gives the device up: the driver is told that it needs a reset. Whoever calls has seen to it that no process behind it
 * writes any more, so a reset is complete at once. The rings are kept: a back end that comes after all goes on with
 * them as they stand.
 */
void device_fail(struct device *d);

/* The guest may run: every back end was there once, so that all the guest may ask is known. */
bool device_is_known(const struct device *d);

struct device_stats {
	uint64_t attached;     /* connections so far */
	uint64_t lost;         /* of which ended */
	uint64_t resumed;      /* times that live rings were taken over */
	uint64_t resets;       /* by the driver */
	uint64_t broken;       /* times that the rings were found broken */
	uint64_t hung;         /* back ends that were found to hang */
	uint64_t stalled;      /* stalls that were left alone: slow storage, mostly */
	uint64_t failed;       /* times that it was given up */
	uint64_t handshake_ns; /* of the latest */
	struct virtio_pci_stats transport;
};

void device_get_stats(const struct device *d, struct device_stats *out);

#endif
