/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of lib/vhost share: a device that writes down what the back end tells it, a raw end of a
 * connection that sends whatever a test likes, and waiting with a deadline.
 */
#ifndef VHOST_PEER_H
#define VHOST_PEER_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "vhost_be.h"
#include "vhost_msg.h"

#define PEER_QUEUES  4
#define PEER_CONFIG  64
#define PEER_WAIT_NS 30000000000ULL

#define F_INDIRECT    (1ULL << 28)
#define F_EVENT_IDX   (1ULL << 29)
#define F_VERSION_1   (1ULL << 32)
#define F_PACKED      (1ULL << 34)
#define PEER_FEATURES (F_INDIRECT | F_EVENT_IDX | F_VERSION_1 | F_PACKED)

struct peer_ring {
	bool running, enabled;
	unsigned starts, calls;
	struct vhost_be_ring ring;
};

/* A device: set the wishes, read the rest. */
struct peer_device {
	struct loop *loop;
	struct vhost_be *be;
	bool defer;      /* wish: ring_stop and mem_changed are answered by the test */
	bool no_config;  /* wish: configuration space is to be had later */
	int start_error; /* wish: what ring_start returns */
	struct peer_ring rings[PEER_QUEUES];
	struct mem *mem; /* the table of the last mem_changed */
	unsigned mem_changes, resets, stops;
	uint8_t config[PEER_CONFIG];
	bool closed;
	int closed_err;
	const char *closed_why;
};

/* A device behind a back end on a socketpair of its own; returns the other end, non-blocking. */
int peer_device_open(struct peer_device *dev, struct loop *loop);
void peer_device_close(struct peer_device *dev);

/* Runs the loop until *flag, at most PEER_WAIT_NS; whether it came. */
bool peer_until(struct loop *loop, const bool *flag);
/* Runs the loop for as long as there is something to do within a few milliseconds. */
void peer_settle(struct loop *loop);

/* Sends a message with n descriptors, which stay the test's; fails the test if the socket does not take it. */
void peer_send(int sock, uint32_t request, uint32_t flags, const void *payload, size_t size, const int *fds,
	       size_t n);
/* Receives a message, running the loop; false if the other end closes (or nothing comes in time). */
bool peer_recv(struct loop *loop, int sock, struct vhost_msg *msg);
/* A setter with NEED_REPLY: the value acknowledged, or -1 if the connection ended instead. */
int64_t peer_ask(struct loop *loop, int sock, uint32_t request, const void *payload, size_t size, int fd);
int64_t peer_ask_u64(struct loop *loop, int sock, uint32_t request, uint64_t value, int fd);
int64_t peer_ask_state(struct loop *loop, int sock, uint32_t request, uint32_t index, uint32_t num);

int peer_memfd(uint64_t size);
int peer_eventfd(void);
unsigned peer_open_fds(void); /* descriptors that this process has open */

#define PEER_RAM  0x100000u
#define PEER_USER 0x7f0000000000ULL
#define PEER_ALL_PF                                                                                          \
	(VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_BACKEND_REQ | VHOST_PF_CONFIG |    \
	 VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE | VHOST_PF_CONFIGURE_MEM_SLOTS | VHOST_PF_STATUS)

/* A raw front end of a device's back end. */
struct peer {
	struct loop *loop;
	struct peer_device dev;
	int sock, ram;
};

void peer_open_raw(struct peer *p); /* with nothing said yet */
void peer_open(struct peer *p);     /* with every protocol feature agreed on */
void peer_close(struct peer *p);
void peer_expect_closed(struct peer *p, int err);
/* SET_MEM_TABLE that says n regions, has count of them, and fd n_fds times: as peer_ask. */
int64_t peer_ask_table(struct peer *p, uint32_t n, const struct vhost_region *regions, unsigned count, int fd,
		       unsigned n_fds);
void peer_give_memory(struct peer *p); /* PEER_RAM bytes at 0 and PEER_USER */

#endif
