/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user messages as they stand on the wire (QEMU docs/interop/vhost-user.rst, "Message Specification"):
 * numbers, payloads, and a framing that takes them off a non-blocking stream socket piece by piece. Shared by
 * both ends and by the tests' misbehaving peers; nobody else needs it.
 */
#ifndef VHOST_MSG_H
#define VHOST_MSG_H

#include <stddef.h>
#include <stdint.h>

enum vhost_request {
	VHOST_GET_FEATURES = 1,
	VHOST_SET_FEATURES = 2,
	VHOST_SET_OWNER = 3,
	VHOST_RESET_OWNER = 4,
	VHOST_SET_MEM_TABLE = 5,
	VHOST_SET_LOG_BASE = 6,
	VHOST_SET_LOG_FD = 7,
	VHOST_SET_VRING_NUM = 8,
	VHOST_SET_VRING_ADDR = 9,
	VHOST_SET_VRING_BASE = 10,
	VHOST_GET_VRING_BASE = 11,
	VHOST_SET_VRING_KICK = 12,
	VHOST_SET_VRING_CALL = 13,
	VHOST_SET_VRING_ERR = 14,
	VHOST_GET_PROTOCOL_FEATURES = 15,
	VHOST_SET_PROTOCOL_FEATURES = 16,
	VHOST_GET_QUEUE_NUM = 17,
	VHOST_SET_VRING_ENABLE = 18,
	VHOST_SET_BACKEND_REQ_FD = 21,
	VHOST_GET_CONFIG = 24,
	VHOST_SET_CONFIG = 25,
	VHOST_GET_INFLIGHT_FD = 31,
	VHOST_SET_INFLIGHT_FD = 32,
	VHOST_RESET_DEVICE = 34,
	VHOST_GET_MAX_MEM_SLOTS = 36,
	VHOST_ADD_MEM_REG = 37,
	VHOST_REM_MEM_REG = 38,
	VHOST_SET_STATUS = 39,
	VHOST_GET_STATUS = 40,
	VHOST_REQUEST_MAX = 41 /* one more than the last that we know */
};

/* Requests of the back end, on the BACKEND_REQ channel. */
enum vhost_backend_request { VHOST_BACKEND_CONFIG_CHANGE = 2 };

/* Bits of vhost_hdr.flags. */
#define VHOST_HDR_VERSION      0x1u
#define VHOST_HDR_VERSION_MASK 0x3u
#define VHOST_HDR_REPLY        0x4u
#define VHOST_HDR_NEED_REPLY   0x8u

/* Feature bits of the protocol that share the virtio feature word. */
#define VHOST_F_LOG_ALL           (1ULL << 26)
#define VHOST_F_PROTOCOL_FEATURES (1ULL << 30)

/* Virtio feature bits that the rings depend on (virtio 1.2 §6). */
#define VHOST_VIRTIO_F_RING_PACKED (1ULL << 34)

/* Protocol feature bits. */
#define VHOST_PF_MQ                  (1ULL << 0)
#define VHOST_PF_LOG_SHMFD           (1ULL << 1)
#define VHOST_PF_REPLY_ACK           (1ULL << 3)
#define VHOST_PF_BACKEND_REQ         (1ULL << 5)
#define VHOST_PF_CONFIG              (1ULL << 9)
#define VHOST_PF_INFLIGHT_SHMFD      (1ULL << 12)
#define VHOST_PF_RESET_DEVICE        (1ULL << 13)
#define VHOST_PF_CONFIGURE_MEM_SLOTS (1ULL << 15)
#define VHOST_PF_STATUS              (1ULL << 16)

/* The u64 of SET_VRING_KICK, _CALL and _ERR. */
#define VHOST_VRING_INDEX 0xffULL
#define VHOST_VRING_NOFD  0x100ULL

/* vhost_addr.flags: used-ring writes go to the dirty log. */
#define VHOST_ADDR_LOG 0x1u

#define VHOST_TABLE_REGIONS 8   /* regions in one SET_MEM_TABLE */
#define VHOST_FDS_MAX       8   /* descriptors in one message */
#define VHOST_CONFIG_MAX    256 /* bytes of configuration space */

/* Device status, virtio 1.2 §2.1: a driver that has finished its set-up. */
#define VHOST_STATUS_DRIVER_OK 0x0fULL /* ACKNOWLEDGE, DRIVER, DRIVER_OK and FEATURES_OK */

struct vhost_hdr {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};

struct vhost_state {
	uint32_t index;
	uint32_t num;
};

struct vhost_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
};

struct vhost_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
};

struct vhost_mem_table {
	uint32_t n;
	uint32_t padding;
	struct vhost_region regions[VHOST_TABLE_REGIONS];
};

struct vhost_mem_reg {
	uint64_t padding;
	struct vhost_region region;
};

struct vhost_log {
	uint64_t size;
	uint64_t offset;
};

struct vhost_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags; /* 0: a writable field, 1: live migration */
	uint8_t data[VHOST_CONFIG_MAX];
};
#define VHOST_CONFIG_HDR offsetof(struct vhost_config, data)

struct vhost_inflight {
	uint64_t size;
	uint64_t offset;
	uint16_t queues;
	uint16_t queue_size;
	uint32_t padding; /* sent by those whose compiler put it there, left out by others */
};
#define VHOST_INFLIGHT_MIN offsetof(struct vhost_inflight, padding)

union vhost_payload {
	uint64_t u64;
	struct vhost_state state;
	struct vhost_addr addr;
	struct vhost_mem_table table;
	struct vhost_mem_reg reg;
	struct vhost_log log;
	struct vhost_config config;
	struct vhost_inflight inflight;
};

/* A message in memory: on the wire the payload follows the header without a gap, so the gap is before both. */
struct vhost_msg {
	uint32_t gap;
	struct vhost_hdr hdr;
	union vhost_payload payload;
	int fds[VHOST_FDS_MAX];
	size_t n_fds;
};
_Static_assert(offsetof(struct vhost_msg, payload) ==
		   offsetof(struct vhost_msg, hdr) + sizeof(struct vhost_hdr),
	       "header and payload are one piece");

/* A message that is being received or sent, done bytes of it so far. */
struct vhost_transfer {
	struct vhost_msg msg;
	size_t done;
};

/* Empties a message and fills in its header; descriptors that it still had are lost to it, not closed. */
void vhost_msg_init(struct vhost_msg *msg, uint32_t request, uint32_t flags, size_t size);

/* Closes the descriptors that nobody took. */
void vhost_msg_drop_fds(struct vhost_msg *msg);

/*
 * Goes on receiving in's message from a non-blocking stream socket; never takes a byte of the next one. 1: it
 * is complete, and the caller sets done to 0 before the next; 0: more is to come; -ENODATA: end of file
 * between two messages; -ECONNRESET: within one; -EMSGSIZE: a payload larger than any known;
 * -E2BIG: more descriptors than any message carries; else -errno. After an error no descriptor is left open.
 */
int vhost_msg_recv(int fd, struct vhost_transfer *in);

/* Goes on sending out's message, its descriptors with the first byte. 1: all sent, 0: the socket is full,
 * -errno. Closes no descriptor. */
int vhost_msg_send(int fd, struct vhost_transfer *out);

#endif
