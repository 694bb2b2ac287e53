/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server that misbehaves; the fixed newstyle handshake and structured replies, as far as libnbd asks for them. */
#include "nbd_fake.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "num.h"

#define HELLO            0x4e42444d41474943ULL /* NBDMAGIC */
#define OPTION_MAGIC     0x49484156454f5054ULL /* IHAVEOPT */
#define OPTION_REPLY     0x0003e889045565a9ULL
#define REQUEST_MAGIC    0x25609513U
#define SIMPLE_MAGIC     0x67446698U
#define STRUCTURED_MAGIC 0x668e33efU

enum { OPT_ABORT = 2, OPT_INFO = 6, OPT_GO = 7, OPT_STRUCTURED = 8 };
enum { REP_ACK = 1, REP_INFO = 3 };
#define REP_ERR_UNSUP   (1U << 31 | 1)
#define REP_ERR_UNKNOWN (1U << 31 | 6)

/* Of the export: has flags, flush, FUA, trim and write-zeroes. */
#define EXPORT_FLAGS     (1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6)
#define EXPORT_READ_ONLY (1 << 1)
#define EXPORT_MULTI     (1 << 8)

enum { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_ZEROES };
enum { CHUNK_NONE, CHUNK_DATA, CHUNK_ERROR = 32769 };
#define NBD_EIO 5U

struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, off;
	uint32_t len;
} __attribute__((packed));

struct simple_reply {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

struct chunk {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie;
	uint32_t len;
} __attribute__((packed));

struct fake *fake_new(void)
{
	void *p = mmap(NULL, sizeof(struct fake), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	return p;
}

void fake_free(struct fake *f)
{
	munmap(f, sizeof(*f));
}

void fake_be(struct fake *f, enum fake_how how, unsigned times)
{
	atomic_store(&f->times, 0);
	atomic_store(&f->done, 0);
	atomic_store(&f->how, how);
	atomic_store(&f->times, times);
}

/* Whether that is what it does now; counted. */
static bool is(struct fake *f, enum fake_how how)
{
	unsigned times = atomic_load(&f->times);

	if (atomic_load(&f->how) != how)
		return false;
	do {
		if (!times)
			return false;
	} while (!atomic_compare_exchange_weak(&f->times, &times, times - 1));
	atomic_fetch_add(&f->done, 1);
	return true;
}

/* ---- bytes; whoever can't be written to or read from is gone ---- */

static void put(int fd, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	ssize_t n;

	for (; len; p += n, len -= (size_t)n) {
		n = send(fd, p, len, MSG_NOSIGNAL);
		if (n <= 0)
			_exit(0);
	}
}

static void get(int fd, void *buf, size_t len)
{
	if (len && recv(fd, buf, len, MSG_WAITALL) != (ssize_t)len)
		_exit(0);
}

_Noreturn static void stay_silent(void)
{
	for (;;)
		pause();
}

/* ---- the handshake ---- */

static void put_option_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t len)
{
	struct {
		uint64_t magic;
		uint32_t option, type, len;
	} __attribute__((packed))
	reply = { htobe64(OPTION_REPLY), htobe32(option), htobe32(type), htobe32(len) };

	put(fd, &reply, sizeof(reply));
	put(fd, data, len);
}

static void put_export(struct fake *f, int fd, uint32_t option)
{
	struct {
		uint16_t type;
		uint64_t bytes;
		uint16_t flags;
	} __attribute__((packed))
	info = { 0, htobe64(is(f, FAKE_SMALLER) ? FAKE_BYTES / 2 : FAKE_BYTES),
		 htobe16(EXPORT_FLAGS | (is(f, FAKE_READ_ONLY) ? EXPORT_READ_ONLY : 0) |
			 (atomic_load(&f->multi) ? EXPORT_MULTI : 0)) };

	if (is(f, FAKE_NO_EXPORT)) {
		put_option_reply(fd, option, REP_ERR_UNKNOWN, NULL, 0);
		return;
	}
	put_option_reply(fd, option, REP_INFO, &info, sizeof(info));
	put_option_reply(fd, option, REP_ACK, NULL, 0);
}

static uint32_t get_option(int fd)
{
	struct {
		uint64_t magic;
		uint32_t option, len;
	} __attribute__((packed)) head;
	uint8_t data[4096];

	get(fd, &head, sizeof(head));
	if (be64toh(head.magic) != OPTION_MAGIC || be32toh(head.len) > sizeof(data))
		_exit(1);
	get(fd, data, be32toh(head.len));
	return be32toh(head.option);
}

static void answer_option(struct fake *f, int fd, uint32_t option)
{
	if (is(f, FAKE_LONG_OPTION)) {
		static const uint8_t data[4096];
		struct {
			uint64_t magic;
			uint32_t option, type, len;
		} __attribute__((packed))
		reply = { htobe64(OPTION_REPLY), htobe32(option), htobe32(REP_INFO), UINT32_MAX };

		put(fd, &reply, sizeof(reply));
		for (;;)
			put(fd, data, sizeof(data));
	}
	if (is(f, FAKE_INFOS))
		for (;;)
			put_option_reply(fd, option, REP_INFO, "\0\7abcdef", 8);
	if (option == OPT_GO || option == OPT_INFO)
		put_export(f, fd, option);
	else if (option == OPT_STRUCTURED || option == OPT_ABORT)
		put_option_reply(fd, option, REP_ACK, NULL, 0);
	else
		put_option_reply(fd, option, REP_ERR_UNSUP, NULL, 0);
}

static void answer_options(struct fake *f, int fd)
{
	uint32_t option;

	f->noptions = 0;
	do {
		option = get_option(fd);
		if (f->noptions < FAKE_OPTIONS_MAX)
			f->options[f->noptions++] = option;
		answer_option(f, fd, option);
	} while (option != OPT_GO); /* requests follow */
}

static void answer_options_ahead(struct fake *f, int fd)
{
	uint32_t flags;

	for (unsigned i = 0; i < f->noptions; i++)
		answer_option(f, fd, f->options[i]);
	atomic_fetch_add(&f->ahead, 1);
	get(fd, &flags, sizeof(flags));
	while (get_option(fd) != OPT_GO)
		;
}

static void shake(struct fake *f, int fd)
{
	struct {
		uint64_t hello, option;
		uint16_t flags;
	} __attribute__((packed)) first = { htobe64(HELLO), htobe64(OPTION_MAGIC), htobe16(3) };
	uint32_t flags;

	if (is(f, FAKE_HANG_UP))
		_exit(0);
	if (is(f, FAKE_GARBAGE))
		first.hello = ~first.hello;
	put(fd, &first, is(f, FAKE_HALF_HELLO) ? 12 : sizeof(first));
	if (is(f, FAKE_AHEAD)) {
		answer_options_ahead(f, fd);
		return;
	}
	get(fd, &flags, sizeof(flags));
	answer_options(f, fd);
}

/* ---- requests ---- */

static void put_simple(int fd, uint64_t cookie, uint32_t error)
{
	struct simple_reply r = { htobe32(SIMPLE_MAGIC), htobe32(error), cookie };

	put(fd, &r, sizeof(r));
}

static void put_chunk(int fd, const struct request *r, bool last, uint16_t type, uint32_t len)
{
	struct chunk c = { htobe32(STRUCTURED_MAGIC), htobe16(last), htobe16(type), r->cookie, htobe32(len) };

	put(fd, &c, sizeof(c));
}

static void put_data(struct fake *f, int fd, const struct request *r, bool last, uint64_t off, uint32_t len)
{
	uint64_t at = htobe64(off);

	put_chunk(fd, r, last, CHUNK_DATA, (uint32_t)sizeof(at) + len);
	put(fd, &at, sizeof(at));
	put(fd, f->image + off % FAKE_BYTES, len);
}

static void put_error(int fd, const struct request *r, uint32_t error)
{
	struct {
		uint32_t error;
		uint16_t len;
	} __attribute__((packed)) data = { htobe32(error), 0 };

	if (be16toh(r->type) != CMD_READ) {
		put_simple(fd, r->cookie, error);
		return;
	}
	put_chunk(fd, r, true, CHUNK_ERROR, sizeof(data));
	put(fd, &data, sizeof(data));
}

/* Misdeeds that any request may meet with, before it is carried out. True: that was the answer. */
static bool misbehave(struct fake *f, int fd, const struct request *r)
{
	struct simple_reply half = { htobe32(SIMPLE_MAGIC), 0, r->cookie };

	if (is(f, FAKE_WRONG_COOKIE))
		put_simple(fd, r->cookie + 1000, 0);
	else if (is(f, FAKE_BAD_MAGIC))
		put(fd, f->image, sizeof(half));
	else if (is(f, FAKE_ERROR))
		put_error(fd, r, NBD_EIO);
	else if (is(f, FAKE_STRANGE_ERROR))
		put_error(fd, r, 0xdeadbeef);
	else
		return false;
	return true;
}

static void read_badly(struct fake *f, int fd, const struct request *r, uint64_t off, uint32_t len)
{
	if (is(f, FAKE_SIMPLE)) {
		put_simple(fd, r->cookie, 0);
		put(fd, f->image + off, len);
	} else if (is(f, FAKE_LONG)) {
		put_data(f, fd, r, true, off, len + 4096);
	} else if (is(f, FAKE_HUGE)) {
		put_chunk(fd, r, true, CHUNK_DATA, UINT32_MAX);
		for (;;)
			put(fd, f->image, 65536);
	} else if (is(f, FAKE_BEHIND)) {
		put_data(f, fd, r, true, off + len, len);
	} else if (is(f, FAKE_NO_DATA)) {
		put_chunk(fd, r, true, CHUNK_NONE, 0);
	} else if (is(f, FAKE_STRANGE_CHUNK)) {
		put_chunk(fd, r, true, 77, 0);
	} else if (is(f, FAKE_SHORT_ERROR)) {
		put_chunk(fd, r, true, CHUNK_ERROR, 2);
		put(fd, f->image, 2);
	} else if (is(f, FAKE_ENDLESS)) {
		for (;;)
			put_data(f, fd, r, false, off, 512);
	} else {
		bool twice = is(f, FAKE_TWICE); /* counted before there is an answer */

		put_data(f, fd, r, true, off, len);
		if (twice)
			put_data(f, fd, r, true, off, len);
	}
}

/* The first half of an answer, and what then. */
static void answer_half(struct fake *f, int fd, const struct request *r)
{
	struct simple_reply half = { htobe32(SIMPLE_MAGIC), 0, r->cookie };
	bool silent = is(f, FAKE_SILENT);

	if (!silent && !is(f, FAKE_CLOSE))
		return;
	if (be16toh(r->type) == CMD_READ) {
		uint64_t at = r->off;

		put_chunk(fd, r, true, CHUNK_DATA, (uint32_t)sizeof(at) + be32toh(r->len));
		put(fd, &at, sizeof(at));
		put(fd, f->image + be64toh(r->off), be32toh(r->len) / 2);
	} else {
		put(fd, &half, sizeof(half) / 2);
	}
	if (silent)
		stay_silent();
	_exit(0);
}

static void carry_out(struct fake *f, int fd, const struct request *r)
{
	uint64_t off = be64toh(r->off);
	uint32_t len = be32toh(r->len);
	bool twice;

	if (be16toh(r->type) == CMD_READ) {
		answer_half(f, fd, r);
		read_badly(f, fd, r, off, len);
		return;
	}
	if (be16toh(r->type) == CMD_TRIM || be16toh(r->type) == CMD_ZEROES)
		memset(f->image + off, 0, len);
	answer_half(f, fd, r);
	twice = is(f, FAKE_TWICE);
	put_simple(fd, r->cookie, 0);
	if (twice)
		put_simple(fd, r->cookie, 0);
}

_Noreturn static void serve_requests(struct fake *f, int fd)
{
	static uint8_t data[4 << 20];
	struct request r;

	for (;;) {
		uint16_t type;
		bool writes;

		get(fd, &r, sizeof(r));
		type = be16toh(r.type);
		writes = type == CMD_WRITE;
		if (be32toh(r.magic) != REQUEST_MAGIC || type == CMD_DISC ||
		    (writes && be32toh(r.len) > sizeof(data)) || be64toh(r.off) > FAKE_BYTES ||
		    be32toh(r.len) > FAKE_BYTES - be64toh(r.off))
			_exit(0);
		if (writes)
			get(fd, data, be32toh(r.len));
		atomic_fetch_add(&f->requests, 1);
		if (is(f, FAKE_UNASKED))
			put_simple(fd, r.cookie + 1000, 0);
		if (misbehave(f, fd, &r))
			continue;
		if (writes)
			memcpy(f->image + be64toh(r.off), data, be32toh(r.len));
		carry_out(f, fd, &r);
	}
}

_Noreturn void fake_serve(struct fake *f, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	/* What the test has open would stay open with it. */
	close_range(STDERR_FILENO + 1, ~0U, 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	signal(SIGCHLD, SIG_IGN);
	memcpy(addr.sun_path, path, MIN(strlen(path), sizeof(addr.sun_path) - 1));
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 16))
		_exit(1);
	for (;;) {
		int to = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

		if (to < 0)
			_exit(1);
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			atomic_fetch_add(&f->connections, 1);
			shake(f, to);
			serve_requests(f, to);
		}
		close(to);
	}
}
