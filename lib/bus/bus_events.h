/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events for whoever wants to watch a machine: device restarts, guest ends, state changes. A unix
 * socket of mode 0600; only the same user or root may connect. A reader that is too slow misses events, which it
 * sees in their numbers; the publisher never waits.
 */
#ifndef BUS_EVENTS_H
#define BUS_EVENTS_H

#include <stdint.h>

#include "bus_msg.h"
#include "loop.h"

#define BUS_EVENTS_READERS 16 /* at a time; one more is hung up on */

struct bus_events; /* the publisher */
struct bus_events_reader;

struct bus_events_item {
	uint64_t seq;              /* 1, 2, … in order of publication; a gap means that some were missed */
	uint64_t mono_ns;          /* CLOCK_MONOTONIC of publication */
	uint64_t wall_ns;          /* CLOCK_REALTIME of publication */
	char source[BUS_NAME_MAX]; /* what it is about: "machine" or a device's id */
	char kind[BUS_NAME_MAX];   /* "device-restarted", "guest-ended", … */
	char text[BUS_TEXT_MAX];   /* one line for a person */
};

/* Listens on the unix socket path; errors as of bus_listen. The loop's thread, as all of the publisher. */
int bus_events_listen(struct loop *loop, const char *path, struct bus_events **out);

/* Closes and frees; readers that read still get what was published: waits for them, at most 100 ms. NULL is ignored. */
void bus_events_close(struct bus_events *events);

/* Sends to all who listen now; never waits. -EINVAL if source or kind is no name; a text that is too long is cut. */
int bus_events_publish(struct bus_events *events, const char *source, const char *kind, const char *text);

/* The reader's side: blocking calls, no loop. -ECONNREFUSED or -ENOENT if nobody publishes there. */
int bus_events_open(const char *path, struct bus_events_reader **out);

/* The next event. -ETIMEDOUT; -EPIPE once the publisher is gone and what it sent was read; -EBADMSG for a malformed
 * one. */
int bus_events_read(struct bus_events_reader *reader, uint64_t timeout_ns, struct bus_events_item *out);

void bus_events_reader_close(struct bus_events_reader *reader);

#endif
