/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's server, behind lib/vhost's front end, which has a target of its own (fuzz-vhost-fe): what the window asks of that
 * ends here (--wrap), and is answered when the input says so, and as it says. Of the rings in the window it has the other side, in
 * which it does its duty or writes anything.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "window_rig.h"

#define F(bit)         (1ULL << (bit))
#define CONFIG_BYTES   sizeof(struct virtio_blk_config)
#define FEATURES       (F(32) | 0x1ff) /* VERSION_1, and some of a disk's */
#define AVAIL_EVENT_AT (OUTRING_USED + 4 + 8 * OUTRING_SIZE)

enum question { ASK_PROBE, ASK_START, ASK_RESET, ASK_GET, ASK_SET, QUESTIONS };

struct given {
	uint16_t slot;
	struct account_parts parts;
};

bool server_strange;

static struct {
	const struct vhost_fe_ops *ops;
	void *arg;
	bool there, gone, at_first;
	uint64_t offered, features; /* at first, and now */
	uint8_t config[VHOST_FE_CONFIG_MAX];
	struct {
		vhost_fe_done_fn done;
		void *arg;
	} asked[QUESTIONS];
	struct vhost_fe_info *info;
	uint8_t *config_to;
	uint32_t config_off, config_len;
	int refuse_start;
	unsigned n[WINDOW_LANES];
	uint16_t used[WINDOW_LANES], seen[WINDOW_LANES];
	bool kicked[WINDOW_LANES];
	uint8_t letter;
} server;
static struct given given[WINDOW_LANES][OUTRING_SLOTS];

int __real_share_open(struct share *s, uint64_t size, unsigned rings);
int __wrap_share_open(struct share *s, uint64_t size, unsigned rings);
void __wrap_share_close(struct share *s);
int __real_fd_event_set(int fd);
int __wrap_fd_event_set(int fd);
int __wrap_vhost_fe_new(struct loop *loop, int fd, uint64_t timeout_ns, const struct vhost_fe_ops *ops,
			void *arg, struct vhost_fe **out);
void __wrap_vhost_fe_free(struct vhost_fe *fe);
void __wrap_vhost_fe_probe(struct vhost_fe *fe, uint32_t config_len, struct vhost_fe_info *info,
			   vhost_fe_done_fn done, void *arg);
int __wrap_vhost_fe_start(struct vhost_fe *fe, const struct vhost_fe_start *start, vhost_fe_done_fn done,
			  void *arg);
void __wrap_vhost_fe_reset(struct vhost_fe *fe, vhost_fe_done_fn done, void *arg);
void __wrap_vhost_fe_get_config(struct vhost_fe *fe, uint32_t off, uint32_t len, uint8_t *buf,
				vhost_fe_done_fn done, void *arg);
void __wrap_vhost_fe_set_config(struct vhost_fe *fe, uint32_t off, uint32_t len, const uint8_t *buf,
				vhost_fe_done_fn done, void *arg);

/* ---- the window's memory: made once, and for each process as new ---- */

int __wrap_share_open(struct share *s, uint64_t size, unsigned rings)
{
	static struct share made;

	if (!made.memory)
		MUST(__real_share_open(&made, size, rings) == 0);
	MUST(made.size == size && made.rings == rings);
	MUST(madvise(made.memory, made.size, MADV_REMOVE) == 0);
	*s = made;
	return 0;
}

void __wrap_share_close(struct share *s)
{
	(void)s;
}

static uint8_t *ring_at(unsigned lane)
{
	return share_ring(&window.share, lane);
}

static uint16_t load(unsigned lane, size_t at)
{
	uint16_t value;

	memcpy(&value, ring_at(lane) + at, sizeof(value));
	return value;
}

static void store(unsigned lane, size_t at, uint16_t value)
{
	memcpy(ring_at(lane) + at, &value, sizeof(value));
}

/* ---- its rings ---- */

void server_ring(unsigned lane)
{
	server.n[lane] = 0;
	server.used[lane] = server.seen[lane] = 0;
	server.kicked[lane] = false;
}

void server_given(unsigned lane, uint16_t slot, const struct account_parts *parts)
{
	MUST(server.n[lane] < OUTRING_SLOTS || server_strange);
	if (server.n[lane] < OUTRING_SLOTS)
		given[lane][server.n[lane]++] = (struct given) { slot, *parts };
}

int __wrap_fd_event_set(int fd)
{
	for (unsigned i = 0; i < WINDOW_LANES; i++)
		if (window.lane[i] && fd == window.lane[i]->kick) {
			server.kicked[i] = true;
			window_moment();
			return 0;
		}
	return __real_fd_event_set(fd);
}

/* Looks for requests, and is to be kicked for the next. */
static void look(unsigned lane)
{
	server.seen[lane] = load(lane, OUTRING_AVAIL + 2);
	server.kicked[lane] = false;
	store(lane, AVAIL_EVENT_AT, server.seen[lane]);
}

/* What stands in the ring is what was given. */
static void check_ring(unsigned lane, const struct given *g)
{
	const uint64_t *desc =
	    (const uint64_t *)(const void *)(ring_at(lane) + 16UL * OUTRING_PARTS * g->slot);

	for (unsigned i = 0; i < g->parts.n; i++) {
		const struct outring_part *p = &g->parts.part[i];
		uint64_t flags = (i + 1 < g->parts.n) | (p->write ? 2U : 0U);

		MUST(desc[2 * i] == p->gpa);
		MUST((desc[2 * i + 1] & UINT64_MAX >> 16) == (p->len | flags << 32));
		MUST(i + 1 == g->parts.n || desc[2 * i + 1] >> 48 == OUTRING_PARTS * g->slot + i + 1U);
	}
}

static void fill(const struct outring_part *p)
{
	uint8_t *to = window.share.memory + (p->gpa - share_gpa(&window.share, window.share.memory));

	memset(to, server.letter++, p->len);
}

static void use(unsigned lane, unsigned which, bool all, uint32_t part)
{
	struct given g = given[lane][which];
	uint32_t element[2] = { g.slot * OUTRING_PARTS }, in = 0;

	if (!server_strange)
		check_ring(lane, &g);
	memmove(&given[lane][which], &given[lane][which + 1], (--server.n[lane] - which) * sizeof(g));
	for (unsigned i = 0; i < g.parts.n; i++)
		if (g.parts.part[i].write) {
			fill(&g.parts.part[i]);
			in += g.parts.part[i].len;
		}
	element[1] = all || !in ? in : part % (in + 1);
	memcpy(ring_at(lane) + OUTRING_USED + 4 + 8UL * (server.used[lane] % OUTRING_SIZE), element,
	       sizeof(element));
	store(lane, OUTRING_USED + 2, ++server.used[lane]);
}

static void call(unsigned lane)
{
	still_raise(window.lane[lane]->call, EPOLLIN);
}

/* Of those that it may have seen by now. */
bool server_use(struct input *in, unsigned lane)
{
	unsigned waiting = (uint16_t)(window.lane[lane]->ring.added - window.lane[lane]->ring.shown);
	uint8_t how = in_u8(in);

	look(lane);
	if (server.n[lane] <= waiting)
		return false;
	use(lane, how % (server.n[lane] - waiting), how & 64, in_u16(in));
	if (how & 128)
		call(lane);
	return true;
}

void server_put_used(struct input *in)
{
	unsigned lane = in_below(in, WINDOW_LANES);
	uint8_t how = in_u8(in);
	uint32_t element[2] = { how & 1 ? in_u32(in) : in_u8(in) * 4U, how & 2    ? in_u32(in)
								       : how & 16 ? 0
										  : in_u8(in) };

	server_strange = true;
	memcpy(ring_at(lane) + OUTRING_USED + 4 + 8UL * (server.used[lane] % OUTRING_SIZE), element,
	       sizeof(element));
	server.used[lane] = (uint16_t)(server.used[lane] + (how & 4 ? in_u16(in) : 1));
	store(lane, OUTRING_USED + 2, server.used[lane]);
	call(lane);
}

/* Anywhere in the window, or in the in-flight region: the places that mean something to somebody, more often. */
void server_scribble(struct input *in)
{
	static const uint16_t places[] = { 0, OUTRING_AVAIL, OUTRING_USED, OUTRING_USED + 4, AVAIL_EVENT_AT };
	unsigned lane = in_below(in, WINDOW_LANES);
	uint8_t how = in_u8(in);
	uint8_t *at = ring_at(lane);
	size_t len = how & 1 ? 2 : 1 + in_u8(in), off = in_u16(in);

	if (how & 2)
		off = places[off % ARRAY_SIZE(places)] + off % 64U;
	else if (how & 4)
		off = OUTRING_BYTES + off;
	if (how & 8)
		at = window.share.inflight;
	off %= at == window.share.inflight ? window.share.inflight_size - 256 : window.share.part - 256;
	/* What lies behind the ring are data, and any are good. */
	server_strange |= off < OUTRING_BYTES;
	if (how & 16)
		memset(at + off, in_u8(in), len);
	else
		in_bytes(in, at + off, MIN(len, 8U));
}

void server_call(struct input *in)
{
	uint8_t how = in_u8(in);
	unsigned lane = how % WINDOW_LANES;

	if (how < 224) {
		call(lane);
	} else {
		server_strange = true;
		still_raise(window.lane[lane]->err, EPOLLIN);
	}
}

/* ---- its connection ---- */

void server_begin(uint8_t how)
{
	static int pair[2] = { -1, -1 };

	if (pair[0] < 0)
		MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	memset(&server, 0, sizeof(server));
	server_strange = false;
	server.features = server.offered = FEATURES | (how & 1 ? F(VIRTIO_RING_F_EVENT_IDX) : 0) |
					   (how & 2 ? F(VIRTIO_RING_F_INDIRECT_DESC) | F(34) : 0);
	window.back.fd = dup(pair[0]);
}

static struct vhost_fe *dummy(void)
{
	return (struct vhost_fe *)(void *)&server;
}

int __wrap_vhost_fe_new(struct loop *loop, int fd, uint64_t timeout_ns, const struct vhost_fe_ops *ops,
			void *arg, struct vhost_fe **out)
{
	(void)loop;
	MUST(!server.there && timeout_ns);
	close(fd);
	server.there = true;
	server.ops = ops;
	server.arg = arg;
	*out = dummy();
	return 0;
}

void __wrap_vhost_fe_free(struct vhost_fe *fe)
{
	if (!fe)
		return;
	server.there = false;
	memset(server.asked, 0, sizeof(server.asked));
}

static void ask(enum question what, vhost_fe_done_fn done, void *arg)
{
	MUST(server.there && !server.gone && !server.asked[what].done);
	server.asked[what].done = done;
	server.asked[what].arg = arg;
}

static void answer(enum question what, int err)
{
	vhost_fe_done_fn done = server.asked[what].done;

	if (!done)
		return;
	server.asked[what].done = NULL;
	if (!err && what == ASK_PROBE) {
		server.info->features = server.features;
		server.info->queues = WINDOW_LANES;
		server.info->config_len = server.config_len;
		memcpy(server.info->config, server.config, server.config_len);
	}
	if (!err && what == ASK_GET)
		memcpy(server.config_to, server.config + server.config_off, server.config_len);
	done(server.asked[what].arg, err);
}

void __wrap_vhost_fe_probe(struct vhost_fe *fe, uint32_t config_len, struct vhost_fe_info *info,
			   vhost_fe_done_fn done, void *arg)
{
	MUST(fe == dummy() && config_len <= CONFIG_BYTES);
	server.info = info;
	server.config_len = config_len;
	ask(ASK_PROBE, done, arg);
	if (server.at_first)
		answer(ASK_PROBE, 0);
}

int __wrap_vhost_fe_start(struct vhost_fe *fe, const struct vhost_fe_start *start, vhost_fe_done_fn done,
			  void *arg)
{
	MUST(fe == dummy() && !server.asked[ASK_RESET].done && !server.asked[ASK_PROBE].done);
	MUST(start->n_rings == WINDOW_LANES && start->n_regions == 1);
	MUST(!(start->features & ~server.offered) &&
	     !(start->features & (F(VIRTIO_RING_F_INDIRECT_DESC) | F(34))));
	MUST(*start->fds == window.share.fd && start->regions->size == window.share.size);
	for (unsigned i = 0; i < WINDOW_LANES; i++)
		MUST(start->rings[i].desc == share_gpa(&window.share, ring_at(i)) && !start->rings[i].base);
	if (server.refuse_start)
		return server.refuse_start;
	ask(ASK_START, done, arg);
	return 0;
}

void __wrap_vhost_fe_reset(struct vhost_fe *fe, vhost_fe_done_fn done, void *arg)
{
	MUST(fe == dummy() && !server.asked[ASK_START].done);
	ask(ASK_RESET, done, arg);
}

void __wrap_vhost_fe_get_config(struct vhost_fe *fe, uint32_t off, uint32_t len, uint8_t *buf,
				vhost_fe_done_fn done, void *arg)
{
	MUST(fe == dummy() && off <= CONFIG_BYTES && len <= CONFIG_BYTES - off);
	server.config_to = buf;
	server.config_off = off;
	server.config_len = len;
	ask(ASK_GET, done, arg);
}

void __wrap_vhost_fe_set_config(struct vhost_fe *fe, uint32_t off, uint32_t len, const uint8_t *buf,
				vhost_fe_done_fn done, void *arg)
{
	MUST(fe == dummy() && len && off <= CONFIG_BYTES && len <= CONFIG_BYTES - off);
	memcpy(server.config + off, buf, len);
	ask(ASK_SET, done, arg);
}

void server_ask(uint64_t *features)
{
	server.at_first = true;
	MUST(window_device.confined(&window, features) == 0);
	server.at_first = false;
}

void server_answer(struct input *in)
{
	static const int errors[] = { -EREMOTEIO, -ENOMEM, -EINVAL, -EOPNOTSUPP };
	uint8_t how = in_u8(in);
	enum question what = how % QUESTIONS;
	int err = how < 224 ? 0 : errors[how / QUESTIONS % ARRAY_SIZE(errors)];

	if (!server.asked[what].done)
		return;
	server_strange |= err != 0;
	answer(what, err);
}

static void hang_up(int err)
{
	server_strange = server.gone = true;
	for (enum question what = 0; what < QUESTIONS; what++)
		answer(what, err);
	server.ops->lost(server.arg, err, NULL);
}

/* That something changed, that it was another one all along; or it is gone. */
void server_say(struct input *in)
{
	static const int ends[] = { -EPIPE, -EPROTO, -ETIMEDOUT, -ECONNRESET };
	uint8_t how = in_u8(in);

	if (how < 160) {
		in_bytes(in, server.config, how % CONFIG_BYTES);
		if (!server.gone)
			server.ops->config_changed(server.arg);
	} else if (how < 192) {
		server.features ^= F(how % 64);
		server_strange = true;
	} else if (how < 208) {
		server.refuse_start = how & 1 ? -ENOMEM : 0;
		server_strange = true;
	} else if (how >= 240 && !server.gone) {
		hang_up(ends[how % ARRAY_SIZE(ends)]);
	}
}

/* ---- the end of an input ---- */

bool server_do_all(void)
{
	bool did = false;

	for (enum question what = 0; what < QUESTIONS; what++) {
		did |= server.asked[what].done != NULL;
		answer(what, 0);
	}
	for (unsigned i = 0; i < WINDOW_LANES; i++) {
		/* A kick is missing. */
		MUST(server_strange || server.kicked[i] || load(i, OUTRING_AVAIL + 2) == server.seen[i]);
		look(i);
		did |= server.n[i] != 0;
		while (server.n[i])
			use(i, server.n[i] - 1, true, 0);
		call(i);
	}
	return did;
}
