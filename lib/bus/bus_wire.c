/* SPDX-License-Identifier: Apache-2.0 */
/* nng sockets on unix paths, and protobuf in bounded memory. */
#include "bus_wire.h"

#include <errno.h>
#include <nng/supplemental/util/platform.h>
#include <nng/transport/ipc/ipc.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"

#define REDIAL_MIN_MS 10
#define REDIAL_MAX_MS 1000
#define LEFT_NS       NS_PER_S
#define LEFT_FDS      128 /* looked at with one call */
#define LEFT_FDS_MAX  1024

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

/* Asked once, by whoever listens first: later its sandbox need not allow it. */
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

int bus_wire_listen(nng_socket sock, const char *path, unsigned mode, size_t recv_max, nng_listener *out)
{
	char url[160];
	nng_listener l;
	struct stat st;
	int err = bus_wire_url(path, url, sizeof(url));

	if (err)
		return err;
	our_uid();
	if (lstat(path, &st) == 0) {
		/* nng would remove whatever is there and does not answer, be it a socket or not. */
		if (!S_ISSOCK(st.st_mode))
			return -EADDRINUSE;
		/* It asks, and must be let in: somebody may have died while it was closed. */
		(void)!chmod(path, mode);
	}
	err = nng_listener_create(&l, sock, url);
	if (err)
		return bus_nng_errno(err);
	/* nng sets the mode between bind and listen, so nobody can connect before. */
	err = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, (int)mode);
	if (!err)
		err = nng_listener_set_size(l, NNG_OPT_RECVMAXSZ, recv_max);
	if (!err)
		err = nng_listener_start(l, 0);
	if (err)
		nng_listener_close(l);
	else if (out)
		*out = l;
	return bus_nng_errno(err);
}

/* Ends a dial that takes too long: a listener that is stopped accepts, but does not greet. */
struct dial_limit {
	nng_dialer dialer;
	nng_aio *aio;
	atomic_bool over;
};

/* On a thread of nng's. */
static void dial_too_long(void *arg)
{
	struct dial_limit *limit = arg;

	if (nng_aio_result(limit->aio) != 0)
		return;
	atomic_store(&limit->over, true);
	nng_dialer_close(limit->dialer);
}

static int dial_within(nng_dialer d, int timeout_ms)
{
	struct dial_limit limit = { .dialer = d };
	int err = nng_aio_alloc(&limit.aio, dial_too_long, &limit);

	if (err)
		return err;
	nng_sleep_aio(timeout_ms, limit.aio);
	err = nng_dialer_start(d, 0);
	nng_aio_stop(limit.aio);
	nng_aio_free(limit.aio);
	return err && atomic_load(&limit.over) ? NNG_ETIMEDOUT : err;
}

int bus_wire_dial(nng_socket sock, const char *path, size_t recv_max, int timeout_ms, nng_dialer *out)
{
	char url[160];
	nng_dialer d;
	int err = bus_wire_url(path, url, sizeof(url));

	if (err)
		return err;
	/* nng calls a missing socket refused. */
	if (timeout_ms && access(path, F_OK) < 0)
		return -errno;
	err = nng_dialer_create(&d, sock, url);
	if (err)
		return bus_nng_errno(err);
	err = nng_dialer_set_ms(d, NNG_OPT_RECONNMINT, REDIAL_MIN_MS);
	if (!err)
		err = nng_dialer_set_ms(d, NNG_OPT_RECONNMAXT, REDIAL_MAX_MS);
	if (!err)
		err = nng_dialer_set_size(d, NNG_OPT_RECVMAXSZ, recv_max);
	if (!err)
		err = timeout_ms ? dial_within(d, timeout_ms) : nng_dialer_start(d, NNG_FLAG_NONBLOCK);
	if (err)
		nng_dialer_close(d);
	else if (out)
		*out = d;
	return bus_nng_errno(err);
}

static uint64_t stat_value(nng_stat *scope, const char *name)
{
	for (nng_stat *s = nng_stat_child(scope); s; s = nng_stat_next(s))
		if (strcmp(nng_stat_name(s), name) == 0)
			return nng_stat_value(s);
	return 0;
}

/* The statistics of a listener, which are somewhere below scope. */
static nng_stat *find_listener(nng_stat *scope, uint64_t id)
{
	for (nng_stat *s = nng_stat_child(scope); s; s = nng_stat_next(s)) {
		nng_stat *found;

		if (strcmp(nng_stat_name(s), "listener") == 0 && stat_value(s, "id") == id)
			return s;
		found = find_listener(s, id);
		if (found)
			return found;
	}
	return NULL;
}

/* ---- what nng leaves behind ---- */

static _Atomic uint64_t
    stopped_ns; /* when a listener was ended last, since what was left was looked for; 0: none was */

void bus_wire_stop_listening(nng_listener *listener)
{
	if (!listener->id)
		return;
	nng_listener_close(*listener);
	listener->id = 0;
	atomic_store(&stopped_ns, clock_ns());
}

static bool is_listening(int fd)
{
	int yes = 0;
	socklen_t len = sizeof(yes);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes;
}

/*
 * A connection that was not taken holds the listener that it came by, and nobody holds the connection: nng shuts the
 * listener's socket down, and never closes it. Those that nng does close are closed long before a second is over. Nobody
 * else in these processes shuts listening sockets down.
 */
static void close_left_behind(void)
{
	uint64_t since = atomic_load(&stopped_ns);
	struct pollfd fds[LEFT_FDS];

	if (!since || clock_ns() - since < LEFT_NS || !atomic_compare_exchange_strong(&stopped_ns, &since, 0))
		return;
	for (int first = 0; first < LEFT_FDS_MAX; first += LEFT_FDS) {
		for (int i = 0; i < LEFT_FDS; i++)
			fds[i] = (struct pollfd) { .fd = first + i };
		if (poll(fds, LEFT_FDS, 0) <= 0)
			continue;
		for (int i = 0; i < LEFT_FDS; i++)
			if (fds[i].revents & POLLHUP && is_listening(fds[i].fd))
				close(fds[i].fd);
	}
}

bool bus_wire_is_deaf(nng_listener listener, struct bus_wire_ear *ear)
{
	bool deaf = false;
	nng_stat *root, *l;

	close_left_behind();
	if (nng_stats_get(&root) != 0)
		return false;
	l = find_listener(root, (uint64_t)nng_listener_id(listener));
	if (l) {
		struct bus_wire_ear now = { .errors = stat_value(l, "other"),
					    .accepted = stat_value(l, "accept") };

		deaf = now.errors != ear->errors && !stat_value(l, "pipes") && now.accepted == ear->accepted;
		ear->accepted = now.accepted;
		if (deaf)
			ear->errors = now.errors;
	}
	nng_stats_free(root);
	return deaf;
}

bool bus_wire_peer_is_ours(nng_pipe pipe)
{
	uint64_t uid;

	return nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) == 0 && (uid == 0 || uid == our_uid());
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

int bus_wire_pack(const ProtobufCMessage *m, size_t max, nng_msg **out)
{
	size_t size = protobuf_c_message_get_packed_size(m);
	int err;

	if (size > max)
		return -EMSGSIZE;
	err = nng_msg_alloc(out, size);
	if (err)
		return bus_nng_errno(err);
	protobuf_c_message_pack(m, nng_msg_body(*out));
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
