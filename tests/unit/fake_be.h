/* SPDX-License-Identifier: Apache-2.0 */
/* A back end that a test plays, message by message, and the front end under test. */
#ifndef TESTS_UNIT_FAKE_BE_H
#define TESTS_UNIT_FAKE_BE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "vhost-peer.h"
#include "vhost_fe.h"

struct fake_be {
	struct loop *loop;
	struct vhost_fe *fe;
	int sock; /* the back end's end */
	bool lost, changed;
	int lost_err;
	unsigned changes;
	bool done;
	int done_err;
};

extern int fake_be_send_buffer; /* of the front end's socket, in bytes; 0: as it comes */
extern struct vhost_fe_info fake_be_info;

/* Connects both; each operation of the front end has that much time. */
void fake_be_open(struct fake_be *f, uint64_t timeout_ns);
/* ... and has the front end send SET_CONFIG and wait for its acknowledgement. */
void fake_be_open_waiting(struct fake_be *f);
void fake_be_close(struct fake_be *f);

/* For operations of the front end: it is done, with err. */
void fake_be_done(void *arg, int err);

/* The next message is this request; into *msg. */
void fake_be_expect(struct fake_be *f, uint32_t request, struct vhost_msg *msg);
void fake_be_reply(struct fake_be *f, uint32_t request, const void *payload, size_t size);
void fake_be_reply_u64(struct fake_be *f, uint32_t request, uint64_t value);
/* The front end gives the connection up for this error. */
void fake_be_expect_lost(struct fake_be *f, int err);

/* Answers a probe as a back end with these protocol features. The BACKEND_REQ channel's end, or -1. */
int fake_be_answer_probe(struct fake_be *f, struct vhost_fe_info *info, uint64_t features, uint64_t protocol);

#endif
