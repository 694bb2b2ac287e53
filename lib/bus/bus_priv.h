/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a control bus endpoint, shared by bus.c and the bus_*.c of its parts. */
#ifndef BUS_PRIV_H
#define BUS_PRIV_H

#include <stdatomic.h>

#include "bus.h"
#include "bus_wire.h"
#include "clock.h"
#include "lock.h"

#define BUS_SEND_MAX     64       /* messages waiting to be sent; then the peer does not read */
#define BUS_PENDING_MAX  256      /* requests without a reply */
#define BUS_RETRY_MAX_NS NS_PER_S /* between two looks for what nng may have forgotten */

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

/* A new nng message, the caller's; -EINVAL if msg breaks a limit. */
int bus_codec_encode(const struct bus_msg *msg, nng_msg **out);

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

struct bus {
	struct loop *loop;
	nng_socket sock;
	char *path;
	nng_listener listener; /* of the supervisor's side; id 0 if there is none */
	struct bus_wire_ear ear;
	nng_dialer dialer; /* of the child's side; id 0 if there is none */
	enum bus_side side;
	const struct bus_ops *ops;
	void *arg;
	struct bus_counters counters; /* without refused_peers */
	unsigned depth;               /* calls from the loop in progress */
	bool closed;                  /* bus_close was called; the memory goes when depth is 0 */

	/* The connection as nng's threads see it. */
	struct lock lock;
	pid_t expected GUARDED_BY(lock);         /* as for bus_listen */
	uint32_t pipe_admitted GUARDED_BY(lock); /* nng's id of the connection, 0 if there is none */
	uint64_t early_pid GUARDED_BY(lock);     /* who was refused last, ... */
	uint64_t early GUARDED_BY(lock);         /* ... so often in a row */
	_Atomic uint64_t refused_peers;
	struct loop_bh pipe_bh; /* posted when pipe_admitted changed */

	/* As the loop's thread sees it. */
	uint32_t pipe;                /* the connection that was last told of, 0 if none */
	uint32_t pipe_cut;            /* the last one that we are done with */
	struct loop_timer *cut_timer; /* closes it */
	nng_msg *held;                /* the first message of a connection that is not told of yet */
	bool fenced;
	unsigned malformed; /* of the peer, since it was made or replaced */

	/* Receiving and sending: nng's descriptors are readable if a message can be taken or given. */
	struct loop_fd *recv_fd, *send_fd;
	struct loop_timer *calm; /* goes on with receiving */
	uint64_t unasked_ns;     /* until when the messages that nobody asked for are paid for */
	int flush_fd;            /* an epoll set with nng's descriptor for sending */
	nng_msg *queue[BUS_SEND_MAX];
	unsigned queue_first, queue_count;
	struct loop_timer *retry; /* armed while something is queued or there is no connection */
	uint64_t retry_ns;        /* its present distance */

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

/* bus_pipe.c */
int bus_pipe_init(struct bus *bus);
/* Dials, or listens unless a working listener is there, and arms the timer that tries again. */
int bus_pipe_make(struct bus *bus);
/* Tries in ns what nng may have forgotten. */
void bus_pipe_retry(struct bus *bus, uint64_t ns);
/* The connection that there is by now; one that we cut counts no more. */
uint32_t bus_pipe_admitted(struct bus *bus);
/* Is done with the present connection, whether the loop knows of it or not, and lets only expected come from now on. */
void bus_pipe_cut(struct bus *bus, pid_t expected);
/* True while a connection that was cut is still there. */
bool bus_pipe_is_cut(struct bus *bus);
/* Tell the owner. The end is that of the connection which the loop knows of. */
void bus_pipe_went_up(struct bus *bus, uint32_t id);
void bus_pipe_went_down(struct bus *bus);

/* bus_recv.c */
int bus_recv_init(struct bus *bus);
/* Follows the connection as nng's threads see it. */
void bus_recv_sync(struct bus *bus);
/* The bottom half: looks for a change of the connection and for messages. */
void bus_recv_pipe_changed(void *bus);

/* bus_send.c */
int bus_send_init(struct bus *bus);
int bus_send(struct bus *bus, const struct bus_msg *msg);
/* Gives nng what it takes; watches for room while something is left, and tries again in retry_ns whatever nng's
 * descriptor says. */
void bus_send_pump(struct bus *bus, uint64_t retry_ns);
/* Frees all that waits. */
void bus_send_drop(struct bus *bus);

/* bus_request.c */
int bus_request_init(struct bus *bus);
/* Hands a reply to who waits for it. False if the reply was malformed. */
bool bus_request_reply(struct bus *bus, const struct bus_msg *reply);
/* Ends all pending requests with err. */
void bus_request_end_all(struct bus *bus, int err);

#endif
