/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control bus: nng's byte streams carrying protobuf, one endpoint per child. The supervisor listens, the
 * child dials and redials, so who is on the other end of an endpoint is who it was made for.
 * Messages are plain C structures here (bus_msg.h); the generated protobuf code stays inside this library.
 * proto/README.md is the protocol.
 *
 * All functions are for the loop's thread; nng's own threads only post to the loop. Nothing blocks, except
 * bus_flush.
 */
#ifndef BUS_H
#define BUS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bus_msg.h"
#include "loop_meter.h"

#define BUS_MSG_MAX 65536 /* bytes of an encoded message; who announces a longer one is hung up on */

struct bus;

struct bus_ops {
	/* A request or an event from the peer. A request (msg->id != 0) is answered with bus_reply, now or
	 * later. */
	void (*message)(void *arg, const struct bus_msg *msg);
	/* The peer connected or went away. */
	void (*connected)(void *arg, bool up);
	/* The peer sent something malformed; count is how many so far. After BUS_FENCE_AFTER of them the
	 * connection is closed and refused (bus_is_fenced), which the supervisor treats as a failure of the
	 * child. */
	void (*malformed)(void *arg, unsigned count, const char *what);
};

#define BUS_FENCE_AFTER 8

/* refused_peers: connections of others than the expected process, or of that one while it has one. */
struct bus_counters {
	uint64_t sent, received, malformed, late_replies, unsolicited_replies, timeouts, refused_peers;
};

/*
 * Listens on the unix socket path (at most 107 bytes, -ENAMETOOLONG; -EADDRINUSE if something listens there).
 * Only the process peer_pid may connect (0: any process of this user or root; BUS_NOBODY); bus_expect changes it
 * when a child is there or is replaced, drops the present connection and lifts a fence. Until somebody is in, a few
 * connections of others are kept, and that of who is expected next is let in then: a process may dial before its number is
 * known. bus_expect with BUS_NOBODY sends those away that are there.
 */
#define BUS_NOBODY (-1)
int bus_listen(struct loop *loop, const char *path, pid_t peer_pid, const struct bus_ops *ops, void *arg,
	       struct bus **out);
void bus_expect(struct bus *bus, pid_t peer_pid);

/* Dials path, and redials whenever the connection is lost. Returns at once; connected(true) tells. */
int bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg, struct bus **out);

/* Closes and frees; pending requests end with -ECANCELED. Allowed in every callback. NULL is ignored. */
void bus_close(struct bus *bus);

bool bus_is_connected(const struct bus *bus);
bool bus_is_fenced(const struct bus *bus);
void bus_get_counters(const struct bus *bus, struct bus_counters *out);

/* Sends an event: a message that nobody answers. -EAGAIN if not connected or the peer does not read; -EINVAL
 * if it can't be encoded. */
int bus_event(struct bus *bus, const struct bus_msg *msg);

/* reply is NULL if err is set: -ETIMEDOUT, -ECANCELED, -EPIPE (the peer went away), or -EPROTO (a reply of a type
 * that does not answer this request). If the peer refused, err is the error of its BUS_ERROR and reply is that
 * message. It is valid during the call. */
typedef void (*bus_reply_fn)(void *arg, int err, const struct bus_msg *reply);

/* Sends a request and calls fn exactly once and never from within this call, at the latest after timeout_ns. A
 * later reply is dropped by its id. Errors as of bus_event, and then fn is not called. */
int bus_request(struct bus *bus, const struct bus_msg *msg, uint64_t timeout_ns, bus_reply_fn fn, void *arg);

/* Answers request id; body's own id is ignored. */
int bus_reply(struct bus *bus, uint64_t id, const struct bus_msg *body);

/* Answers request id with BUS_ERROR{err, text}; err is -errno. */
int bus_reply_error(struct bus *bus, uint64_t id, int err, const char *text);

/* Adds a loop to BUS_LOOPS, unless there is no room: its load since it was last read, and a bit for each queue that it
 * serves. */
void bus_add_loop(struct bus_msg *msg, struct loop_meter *meter, uint64_t queues, uint64_t poll_max_ns);

/* Waits at most timeout_ns until what was sent has left this process; for the last words before exit. */
int bus_flush(struct bus *bus, uint64_t timeout_ns);

#endif
