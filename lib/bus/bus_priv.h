/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a control bus endpoint, shared by bus.c and the bus_*.c of its parts. */
#ifndef BUS_PRIV_H
#define BUS_PRIV_H

#include "bus.h"
#include "bus_conn.h"
#include "bus_dialer.h"
#include "bus_listener.h"
#include "bus_wire.h"

#define BUS_PENDING_MAX 256 /* requests without a reply */
#define BUS_EARLY_MAX   4   /* connections that are kept while nobody is in */

enum bus_kind {
	BUS_KIND_REPLY,   /* has the id of a request that we made */
	BUS_KIND_REQUEST, /* has an id and wants a reply */
	BUS_KIND_EVENT,   /* has id 0 */
};

enum bus_side {
	BUS_SUPERVISOR = 1, /* who listens */
	BUS_CHILD = 2,      /* who dials */
	BUS_BOTH = 3,
};

struct bus_type_info {
	const char *name;
	enum bus_kind kind;
	enum bus_side sender;
	enum bus_type reply; /* what answers this request, besides BUS_ERROR */
};

/* By type; BUS_NONE has no name. */
extern const struct bus_type_info bus_types[BUS_TYPE_COUNT];

/* A new message, the caller's; -EINVAL if msg breaks a limit. */
int bus_codec_encode(const struct bus_msg *msg, struct bus_wire_message **out);

/* 0, or -EBADMSG and *what says why; then out->id is still the message's id if that much could be read, else 0. */
int bus_codec_decode(struct bus_arena *arena, const void *data, size_t len, struct bus_msg *out,
		     const char **what);

/* A request that waits for its reply. */
struct bus_pending {
	uint64_t id;
	uint64_t deadline_ns;
	enum bus_type reply;
	bus_reply_fn fn;
	void *arg;
	struct bus_pending *next;
};

/* A connection that came while nobody was in, of another process than the one expected: that may be expected next. */
struct bus_early {
	struct bus_conn *conn; /* NULL: none */
	struct bus_wire_peer peer;
};

struct bus {
	struct loop *loop;
	enum bus_side side;
	const struct bus_ops *ops;
	void *arg;
	struct bus_counters counters;
	unsigned depth; /* calls from the loop in progress */
	bool closed;    /* bus_close was called; the memory goes when depth is 0 */

	struct bus_conn *conn; /* NULL if there is none */
	bool fenced;
	unsigned malformed;      /* of the peer, since it was made or replaced */
	struct loop_timer *calm; /* goes on with receiving */
	uint64_t unasked_ns;     /* until when the messages that nobody asked for are paid for */

	/* The supervisor's side. */
	char *path;
	struct bus_listener *listener;
	pid_t expected;          /* as for bus_listen */
	struct loop_timer *open; /* lets the kernel take connections again */
	struct bus_early early[BUS_EARLY_MAX];

	/* The child's side. */
	struct bus_dialer *dialer;

	/* Requests, in order of id. */
	struct bus_pending *pending;
	unsigned npending;
	uint64_t next_id;
	struct loop_timer *timer;

	struct bus_arena arena;
};

/* bus.c */
/* Bracket whatever the loop calls: a bus that a callback closes is freed by the last leave. */
void bus_enter(struct bus *bus);
void bus_leave(struct bus *bus);

/* bus_link.c */
int bus_link_init(struct bus *bus, const char *path);
/* Ends the connection, what waited for it and all requests, and tells the owner if there was one. */
void bus_link_drop(struct bus *bus);
/* For good. */
void bus_link_close(struct bus *bus);

/* bus_message.c */
int bus_message_init(struct bus *bus);
/* One came. */
void bus_message_take(struct bus *bus, const uint8_t *data, size_t len);
int bus_send(struct bus *bus, const struct bus_msg *msg);

/* bus_request.c */
int bus_request_init(struct bus *bus);
/* Whether somebody waits for the reply to request id. */
bool bus_request_waits(const struct bus *bus, uint64_t id);
/* Hands a reply to who waits for it. False if the reply was malformed. */
bool bus_request_reply(struct bus *bus, const struct bus_msg *reply);
/* Ends all pending requests with err. */
void bus_request_end_all(struct bus *bus, int err);

#endif
