/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The modern virtio PCI transport (virtio 1.2 §4.1): registers, capabilities, notify addresses, the driver's
 * state machine. It answers every register access from its own state and never waits; what takes another
 * process (DRIVER_OK, reset, a write to configuration space) it only reports, and the device (device.h)
 * answers on the main loop.
 */
#ifndef CORE_VIRTIO_PCI_H
#define CORE_VIRTIO_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_PCI_QUEUES_MAX     256
#define VIRTIO_PCI_QUEUE_SIZE_MAX 256 /* descriptors offered for each queue; a power of two */
#define VIRTIO_PCI_CONFIG_MAX     256

struct loop;
struct pci_bus;
struct pci_dev;
struct virtio_pci;
struct vm;

/* What the driver did. Called by vCPU threads with no lock held: they may post to a loop, no more. */
struct virtio_pci_ops {
	void (*driver_ok)(void *arg); /* serve the queues: virtio_pci_get_setup tells which */
	void (*reset)(
	    void *arg); /* stop, then virtio_pci_reset_done; until then the status keeps its old value */
	void (*config_written)(void *arg); /* virtio_pci_take_config_write tells what */
};

struct virtio_pci_args {
	struct vm *vm;
	struct pci_bus *bus;
	unsigned slot;
	struct loop *loop;  /* the main loop */
	uint16_t device_id; /* virtio's */
	uint32_t class;     /* PCI class code */
	unsigned queues;    /* 1 to VIRTIO_PCI_QUEUES_MAX */
	/* Bytes [config_write_off, + config_write_len) of configuration space may be written once feature bit
	 * config_write_feature was negotiated, each with at most config_write_max; len 0: none. */
	uint16_t config_write_off, config_write_len;
	uint8_t config_write_max;
	unsigned config_write_feature;
	const struct virtio_pci_ops *ops;
	void *arg;
};

/* All functions are for the main loop's thread unless they say otherwise. */

/* Makes the transport, its eventfds and GSIs, and attaches it to the bus; it offers nothing until
 * virtio_pci_offer. -errno. */
int virtio_pci_new(const struct virtio_pci_args *args, struct virtio_pci **out);

/* Detaches and frees. No vCPU may run. NULL is ignored. */
void virtio_pci_free(struct virtio_pci *t);

/*
 * Features and configuration space (at most VIRTIO_PCI_CONFIG_MAX bytes) for the driver to find. Features of
 * the transport that this one lacks are taken out. If the driver has agreed on features already they stay as
 * they are; a changed configuration space raises a configuration interrupt in a live device.
 */
void virtio_pci_offer(struct virtio_pci *t, uint64_t features, const uint8_t *config, unsigned len);

/* The features that a back end may have agreed on with a driver through this transport. */
uint64_t virtio_pci_features(uint64_t features);

struct virtio_pci_queue {
	bool enabled;
	uint16_t size;
	uint64_t desc, avail, used; /* guest-physical; whatever the guest wrote */
};

/* What the driver agreed on; false before FEATURES_OK. */
bool virtio_pci_get_acked(struct virtio_pci *t, uint64_t *features);

/* The set-up that is in force since DRIVER_OK, VIRTIO_PCI_QUEUES_MAX queues; false if the device is not live. */
bool virtio_pci_get_setup(struct virtio_pci *t, uint64_t *features, struct virtio_pci_queue *queues);

/* The eventfds of a queue, the transport's own, non-blocking, the same for its whole life. */
int virtio_pci_kick_fd(const struct virtio_pci *t, unsigned queue);
int virtio_pci_call_fd(const struct virtio_pci *t, unsigned queue);
unsigned virtio_pci_queues(const struct virtio_pci *t);

/* Has the kernel signal the kick eventfds of enabled queues without the core; follows the BAR from then on. */
void virtio_pci_wire(struct virtio_pci *t);

/* The device has stopped: the status reads 0 from now on and all is as new. */
void virtio_pci_reset_done(struct virtio_pci *t);

/* The device can't go on before the driver resets it (virtio 1.2 §2.1.2): sets NEEDS_RESET, raises a
 * configuration interrupt. */
void virtio_pci_needs_reset(struct virtio_pci *t);

/* The driver's latest writes to configuration space, as one range; false if there is none. */
bool virtio_pci_take_config_write(struct virtio_pci *t, uint32_t *off, uint32_t *len, uint8_t *buf);

struct virtio_pci_stats {
	uint64_t kicks_exited;      /* notifications that the core had to pass on */
	uint64_t config_interrupts; /* raised */
	uint64_t refused_writes;    /* to registers that may not be written now, or never */
};

/* Any thread. */
void virtio_pci_get_stats(const struct virtio_pci *t, struct virtio_pci_stats *out);

/* Its PCI function, for tests. */
struct pci_dev *virtio_pci_dev(struct virtio_pci *t);

#endif
