/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the endpoints of this library share: nng sockets on unix paths, and protobuf in bounded memory.
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

/* Starts listening on the unix socket path with the permissions mode; a stale socket there is replaced. *out may be
 * NULL. */
int bus_wire_listen(nng_socket sock, const char *path, unsigned mode, size_t recv_max, nng_listener *out);

/* Dials path and redials in the background whenever there is no connection (timeout_ms 0), or dials once and tells
 * within that time how it went. *out may be NULL. */
int bus_wire_dial(nng_socket sock, const char *path, size_t recv_max, int timeout_ms, nng_dialer *out);

/* What was seen of a listener at the last look; all zero for a new one. */
struct bus_wire_ear {
	uint64_t errors, accepted;
};

/*
 * True if it seems that nothing is accepted any more: in nng 1.5.2 a peer that hangs up before it was greeted ends
 * accepting for good, without a word. There is no more to see of that than an error; but the end of any connection
 * counts as one. So a listener passes for deaf if there were errors, nobody is connected, and nobody was accepted since
 * the last look. The caller then ends it and makes a new one.
 */
bool bus_wire_is_deaf(nng_listener listener, struct bus_wire_ear *ear);

/* Ends a listener, if there is one. nng 1.5.2 keeps its socket for ever if a connection was waiting to be taken: looks that
 * come a second later, at whatever listener, close it. */
void bus_wire_stop_listening(nng_listener *listener);

/* True if the peer of a pipe runs as our user or as root. */
bool bus_wire_peer_is_ours(nng_pipe pipe);

/* Unpacks into the arena, whose former content goes. NULL if malformed. */
ProtobufCMessage *bus_wire_unpack(struct bus_arena *arena, const ProtobufCMessageDescriptor *type,
				  const void *data, size_t len);

/* Packs into a new nng message, the caller's; -EMSGSIZE if it takes more than max bytes. */
int bus_wire_pack(const ProtobufCMessage *m, size_t max, nng_msg **out);

/* Copies a name: 1 to size - 1 bytes of printable ASCII without blanks, quotes and backslashes. */
bool bus_wire_get_name(char *to, size_t size, const char *from);
bool bus_wire_is_name(const char *s, size_t size);

/* Copies a text of at most size - 1 bytes, control characters made harmless. False if it is longer. */
bool bus_wire_get_text(char *to, size_t size, const char *from);

#endif
