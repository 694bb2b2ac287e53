/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the endpoints of this library share: nng's byte streams on unix sockets, and protobuf in bounded memory.
 *
 * The decoder trusts nothing. Besides what protobuf-c checks, a message is malformed if it has a field that we
 * don't know, or if it would not encode to as many bytes as came: so duplicated fields, strings with a NUL inside and
 * trailing garbage are all refused, and each message has one form only. It unpacks into an arena of fixed size.
 */
#ifndef BUS_WIRE_H
#define BUS_WIRE_H

#include <nng/nng.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUS_ARENA_SIZE (256 * 1024) /* a message that unpacks to more is malformed */

struct bus_arena {
	size_t used;
	char bytes[BUS_ARENA_SIZE];
};

/* The -errno for an nng error. */
int bus_nng_errno(int nng_err);

/* Writes "ipc://path"; -ENAMETOOLONG if no unix socket can have this path. */
int bus_wire_url(const char *path, char *url, size_t size);

/* Who is at the other end of a stream that a listener gave. */
struct bus_wire_peer {
	uint64_t pid; /* 0 if not known */
	bool ours;    /* of our user, or root */
};
struct bus_wire_peer bus_wire_peer(nng_stream *stream);

/* To be asked once, by whoever listens: later its sandbox need not allow it. */
void bus_wire_learn_uid(void);

/* ---- messages: a length of 4 bytes, big endian, and so many bytes ---- */

#define BUS_WIRE_HEAD 4

/* One to be sent. */
struct bus_wire_message {
	size_t len; /* of bytes: head and body */
	uint8_t bytes[];
};

/* The length of the body, if all of the head is there. */
bool bus_wire_head(const uint8_t *bytes, size_t n, size_t *len);

/* Unpacks into the arena, whose former content goes. NULL if malformed. */
ProtobufCMessage *bus_wire_unpack(struct bus_arena *arena, const ProtobufCMessageDescriptor *type,
				  const void *data, size_t len);

/* Packs into a new message, the caller's to free; -EMSGSIZE if its body takes more than max bytes. */
int bus_wire_pack(const ProtobufCMessage *m, size_t max, struct bus_wire_message **out);

/* Copies a name: 1 to size - 1 bytes of printable ASCII without blanks, quotes and backslashes. */
bool bus_wire_get_name(char *to, size_t size, const char *from);
bool bus_wire_is_name(const char *s, size_t size);

/* Copies a text of at most size - 1 bytes, control characters made harmless. False if it is longer. */
bool bus_wire_get_text(char *to, size_t size, const char *from);

#endif
