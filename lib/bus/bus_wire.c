/* SPDX-License-Identifier: Apache-2.0 */
/* What nng tells of streams, and protobuf in bounded memory. */
#include "bus_wire.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int bus_nng_errno(int nng_err)
{
	static const struct {
		int nng, err;
	} map[] = {
		{ 0, 0 },
		{ NNG_ENOMEM, -ENOMEM },
		{ NNG_EINVAL, -EINVAL },
		{ NNG_ETIMEDOUT, -ETIMEDOUT },
		{ NNG_ECONNREFUSED, -ECONNREFUSED },
		{ NNG_ECLOSED, -EPIPE },
		{ NNG_EAGAIN, -EAGAIN },
		{ NNG_EADDRINUSE, -EADDRINUSE },
		{ NNG_EADDRINVAL, -EINVAL },
		{ NNG_EPERM, -EACCES },
		{ NNG_EMSGSIZE, -EMSGSIZE },
		{ NNG_ECONNABORTED, -EPIPE },
		{ NNG_ECONNRESET, -EPIPE },
		{ NNG_ECONNSHUT, -EPIPE },
		{ NNG_ECANCELED, -ECANCELED },
		{ NNG_ENOFILES, -EMFILE },
		{ NNG_ENOENT, -ENOENT },
		{ NNG_EPROTO, -EPROTO },
		{ NNG_EPEERAUTH, -EACCES },
	};

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (map[i].nng == nng_err)
			return map[i].err;
	return nng_err & NNG_ESYSERR ? -(nng_err & ~NNG_ESYSERR) : -EIO;
}

int bus_wire_url(const char *path, char *url, size_t size)
{
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return -ENAMETOOLONG;
	return snprintf(url, size, "ipc://%s", path) < (int)size ? 0 : -ENAMETOOLONG;
}

static uid_t our_uid(void)
{
	static atomic_uint known = (uid_t)-1;
	uid_t uid = atomic_load(&known);

	if (uid == (uid_t)-1) {
		uid = geteuid();
		atomic_store(&known, uid);
	}
	return uid;
}

void bus_wire_learn_uid(void)
{
	our_uid();
}

struct bus_wire_peer bus_wire_peer(nng_stream *stream)
{
	struct bus_wire_peer peer = { .pid = 0 };
	uint64_t uid;

	peer.ours =
	    nng_stream_get_uint64(stream, NNG_OPT_IPC_PEER_UID, &uid) == 0 && (uid == 0 || uid == our_uid());
	if (nng_stream_get_uint64(stream, NNG_OPT_IPC_PEER_PID, &peer.pid) != 0)
		peer.pid = 0;
	return peer;
}

bool bus_wire_head(const uint8_t *bytes, size_t n, size_t *len)
{
	if (n < BUS_WIRE_HEAD)
		return false;
	*len = (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
	return true;
}

/* ---- protobuf ---- */

static void *arena_alloc(void *data, size_t size)
{
	struct bus_arena *arena = data;
	void *p;

	if (size > sizeof(arena->bytes) - arena->used)
		return NULL;
	p = arena->bytes + arena->used;
	/* Rounded up for alignment; used may thus pass the end only if it is clamped. */
	arena->used += size;
	arena->used = (arena->used + 15) & ~(size_t)15;
	if (arena->used > sizeof(arena->bytes))
		arena->used = sizeof(arena->bytes);
	return p;
}

static void arena_free(void *data, void *p)
{
	(void)data;
	(void)p;
}

static bool has_unknown(const ProtobufCMessage *m);

/* True if a present sub-message at *member has unknown fields. */
static bool field_has_unknown(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m;
	const void *member = base + f->offset;
	const unsigned *quantifier = (const void *)(base + f->quantifier_offset);
	ProtobufCMessage *const *many;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		return false;
	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		many = *(ProtobufCMessage *const *const *)member;
		for (size_t i = 0; i < *(const size_t *)(const void *)quantifier; i++)
			if (has_unknown(many[i]))
				return true;
		return false;
	}
	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *quantifier != f->id)
		return false;
	many = member;
	return *many && has_unknown(*many);
}

static bool has_unknown(const ProtobufCMessage *m)
{
	if (m->n_unknown_fields)
		return true;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		if (field_has_unknown(m, &m->descriptor->fields[i]))
			return true;
	return false;
}

ProtobufCMessage *bus_wire_unpack(struct bus_arena *arena, const ProtobufCMessageDescriptor *type,
				  const void *data, size_t len)
{
	ProtobufCAllocator allocator = { .alloc = arena_alloc, .free = arena_free, .allocator_data = arena };
	ProtobufCMessage *m;

	arena->used = 0;
	m = protobuf_c_message_unpack(type, &allocator, len, data);
	if (!m || has_unknown(m) || protobuf_c_message_get_packed_size(m) != len)
		return NULL;
	return m;
}

int bus_wire_pack(const ProtobufCMessage *m, size_t max, struct bus_wire_message **out)
{
	size_t size = protobuf_c_message_get_packed_size(m);
	struct bus_wire_message *message;

	if (size > max)
		return -EMSGSIZE;
	message = malloc(sizeof(*message) + BUS_WIRE_HEAD + size);
	if (!message)
		return -ENOMEM;
	message->len = BUS_WIRE_HEAD + size;
	for (unsigned i = 0; i < BUS_WIRE_HEAD; i++)
		message->bytes[i] = (uint8_t)(size >> 8 * (BUS_WIRE_HEAD - 1 - i));
	protobuf_c_message_pack(m, message->bytes + BUS_WIRE_HEAD);
	*out = message;
	return 0;
}

bool bus_wire_is_name(const char *s, size_t size)
{
	size_t len = strnlen(s, size);

	if (!len || len == size)
		return false;
	for (size_t i = 0; i < len; i++)
		if (s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == '\'' || s[i] == '\\')
			return false;
	return true;
}

bool bus_wire_get_name(char *to, size_t size, const char *from)
{
	if (!bus_wire_is_name(from, size))
		return false;
	memcpy(to, from, strlen(from) + 1);
	return true;
}

bool bus_wire_get_text(char *to, size_t size, const char *from)
{
	size_t len = strnlen(from, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)from[i];

		to[i] = c < ' ' || c == 0x7f ? '?' : from[i];
	}
	to[len] = '\0';
	return true;
}
