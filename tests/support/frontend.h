/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front end for tests and benchmarks: guest memory, virtqueues and a vhost-user connection to a virtio-blk
 * back end, used as plain calls (it runs a loop of its own underneath). Memory, rings, eventfds and the
 * in-flight region outlive the connection, so after a back end's death another can be attached to them, as
 * vmm-core does. One thread. All functions return -errno; once the connection is lost, that of its end.
 */
#ifndef SUPPORT_FRONTEND_H
#define SUPPORT_FRONTEND_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"
#include "ring.h"
#include "vhost_fe.h"

#define FRONTEND_WAIT_NS 40000000000ULL /* the deadline of whatever has none of its own */

/* virtio 1.2 §5.2.6: request types and status bytes. */
enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2, BLK_PENDING = 0xff /* not a status: not written yet */ };

struct frontend_options {
	unsigned queues;     /* 0: 1 */
	uint16_t queue_size; /* and so requests at a time; 0: 128 */
	uint32_t io_max;     /* data bytes of a request at most; 0: 64 KiB */
	uint64_t features;   /* wanted if offered; VERSION_1 always. 0: EVENT_IDX and INDIRECT_DESC */
	uint64_t extra;      /* bytes of guest memory for the test itself (guest_alloc) */
	bool no_inflight;    /* give no in-flight region */
};

struct frontend;

int frontend_new(const struct frontend_options *options, struct frontend **out);
/* Ends without a word: the back end sees its connection close. NULL is ignored. */
void frontend_free(struct frontend *f);

/* Connects to a listening socket, waiting until there is one; the descriptor. */
int frontend_dial(const char *path, uint64_t timeout_ns);

/*
 * Takes over fd, a connected socket (closed if this fails too), probes the back end and starts all queues on
 * it. The first time this makes the rings; later it starts a successor on those that are there.
 */
int frontend_attach(struct frontend *f, int fd);

/* Closes the connection, without stopping anything: as if the back end had died. */
void frontend_detach(struct frontend *f);

/* Stops the rings in order and resets the device; the requests that were complete can still be fetched. A
 * later attach starts where they stopped. */
int frontend_stop(struct frontend *f);

/* The connection's end: 0 while it lives. */
int frontend_lost(const struct frontend *f);

const struct vhost_fe_info *frontend_info(const struct frontend *f);
uint64_t frontend_capacity(const struct frontend *f); /* 512-byte sectors */
struct guest *frontend_guest(struct frontend *f);
struct ring *frontend_ring(struct frontend *f, unsigned queue);
struct vhost_fe *frontend_fe(struct frontend *f); /* the present one; its callbacks need frontend_run */
struct loop *frontend_loop(struct frontend *f);
int frontend_kick_fd(const struct frontend *f, unsigned queue);
int frontend_call_fd(const struct frontend *f, unsigned queue);
void *frontend_inflight(const struct frontend *f, unsigned queue); /* its part of the region, or NULL */

/* ---- requests ---- */

/* A free request, or -EBUSY; its data, io_max bytes, is the caller's until frontend_submit. */
int frontend_take(struct frontend *f, unsigned queue);
uint8_t *frontend_data(struct frontend *f, unsigned queue, int slot);

/* Puts the request into the ring, not visible before frontend_kick. len is the bytes of data. */
int frontend_submit(struct frontend *f, unsigned queue, int slot, uint32_t type, uint64_t sector,
		    uint32_t len);

/* Makes what was submitted visible and kicks if the device wants that; always with force. */
void frontend_kick(struct frontend *f, unsigned queue, bool force);

struct frontend_done {
	int slot;
	uint8_t status;
	uint32_t written; /* by the device, as the used ring says */
};

/* Fetches a completion: 1, 0 if there is none, -EPROTO for one that no request asked for. Its data is the
 * caller's until frontend_release. */
int frontend_poll(struct frontend *f, unsigned queue, struct frontend_done *done);
void frontend_release(struct frontend *f, unsigned queue, int slot);

/* Sleeps until a call on any queue may have completed something (1), or the deadline (0), or the connection is
 * lost (-errno). Calls are off between sleeps. */
int frontend_wait(struct frontend *f, uint64_t timeout_ns);

/* Requests of this queue that are submitted and not fetched. */
unsigned frontend_in_flight(const struct frontend *f, unsigned queue);

/* Runs the loop until *flag or the deadline: whether the flag came. */
bool frontend_run(struct frontend *f, const bool *flag, uint64_t timeout_ns);

/* One request from start to end, with no other in flight on the queue: its status byte, or -errno. */
int frontend_io(struct frontend *f, unsigned queue, uint32_t type, uint64_t sector, void *data, uint32_t len);

#endif
