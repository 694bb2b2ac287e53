/* SPDX-License-Identifier: Apache-2.0 */
/* A net-server under test. */
#include "net.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "num.h"

#define MEMORY_BYTES (8U << 20)
#define PIECES_MAX   64

/* ---- backends ---- */

static void open_socket(struct net *n)
{
	bool stream = n->kind == NET_STREAM;
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX,
				(stream ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				ends),
		     0);
	n->peer = ends[0];
	n->backend.option = stream ? "--stream-fd" : "--packet-fd";
	n->backend.fds[0] = ends[1];
	n->backend.n_fds = 1;
}

/* A socket to be connected to, of no name in any file system; the other end is the test's affair. */
static void open_listener(struct net *n)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	n->peer = -1;
	n->backend.option = "--listen-fd";
	n->backend.n_fds = 1;
	n->backend.fds[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(n->backend.fds[0], (const struct sockaddr *)&addr, sizeof(addr.sun_family)), 0);
	cr_assert_eq(listen(n->backend.fds[0], 4), 0);
}

/* The interface is up, and says nothing by itself. */
static void bring_up(const char *name)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_mtu = 65521 };
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		cr_assert_eq(write(fd, "1", 1), 1);
		close(fd);
	}
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	cr_assert_eq(ioctl(s, SIOCSIFMTU, &ifr), 0);
	cr_assert_eq(ioctl(s, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags |= IFF_UP | IFF_PROMISC;
	cr_assert_eq(ioctl(s, SIOCSIFFLAGS, &ifr), 0);
	close(s);
}

static void open_queue(struct net *n, unsigned i, bool many)
{
	struct ifreq ifr = { .ifr_flags =
				 (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0)) };

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", n->name);
	n->backend.fds[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (n->backend.fds[i] < 0)
		cr_skip_test("/dev/net/tun can't be opened");
	if (ioctl(n->backend.fds[i], TUNSETIFF, &ifr) < 0)
		cr_skip_test("a tap can't be made");
	snprintf(n->name, sizeof(n->name), "%s", ifr.ifr_name);
}

/* In a network namespace of this process's own, so that it ends with it. */
static void open_tap(struct net *n, unsigned queues)
{
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(NET_ETHERTYPE) };

	if (unshare(CLONE_NEWNET) < 0)
		cr_skip_test("no network namespace can be made");
	for (unsigned i = 0; i < queues; i++)
		open_queue(n, i, queues > 1);
	bring_up(n->name);
	n->peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(NET_ETHERTYPE));
	addr.sll_ifindex = (int)if_nametoindex(n->name);
	cr_assert(n->peer >= 0 && addr.sll_ifindex > 0);
	cr_assert_eq(bind(n->peer, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	n->backend.option = "--tap-fd";
	n->backend.n_fds = queues;
}

void net_delete_tap(struct net *n)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
	} request = { .header = { .nlmsg_len = sizeof(request),
				  .nlmsg_type = RTM_DELLINK,
				  .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK } };
	uint8_t answer[256];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	request.info.ifi_index = (int)if_nametoindex(n->name);
	cr_assert_eq(send(fd, &request, sizeof(request), 0), (ssize_t)sizeof(request));
	cr_assert_gt(recv(fd, answer, sizeof(answer), 0), 0);
	cr_assert_eq(if_nametoindex(n->name), 0);
	close(fd);
}

void net_start(struct net *n, const struct net_options *options)
{
	struct rig_options rig = options->rig;

	*n = (struct net) { .kind = options->kind };
	n->backend.control = options->control;
	n->backend.state_fd = options->state_fd;
	if (options->kind == NET_TAP)
		open_tap(n, MAX(rig.queues, 1U));
	else if (options->stream_end)
		n->backend = (struct rig_net) { .option = "--stream-fd",
						.fds = { options->stream_end },
						.n_fds = 1,
						.control = options->control };
	else if (options->kind == NET_LISTEN)
		open_listener(n);
	else
		open_socket(n);
	rig.net = &n->backend;
	rig_start(&n->rig, &rig);
	n->header = rig_alloc(&n->rig, NET_HEADER, 16);
	n->frame = rig_alloc(&n->rig, NET_BYTES, 64);
	n->memory = rig_alloc(&n->rig, MEMORY_BYTES, 4096);
}

void net_stop(struct net *n)
{
	rig_stop(&n->rig);
	close(n->peer);
	for (unsigned i = 0; i < n->backend.n_fds; i++)
		close(n->backend.fds[i]);
}

/* ---- the test's end ---- */

void net_fill(uint8_t *frame, uint32_t len, uint32_t number)
{
	uint32_t v = number * 2654435761U + 1;

	memset(frame, 0xff, ETH_ALEN);
	memcpy(frame + ETH_ALEN, "\x02\0\0\0\0\x99", ETH_ALEN);
	frame[12] = NET_ETHERTYPE >> 8;
	frame[13] = NET_ETHERTYPE & 0xff;
	for (uint32_t i = ETH_HLEN; i < len; i++) {
		v = v * 1103515245U + 12345U;
		frame[i] = (uint8_t)(v >> 16);
	}
}

bool net_check(const uint8_t *frame, uint32_t len, uint32_t number)
{
	static uint8_t wanted[NET_BYTES];

	net_fill(wanted, len, number);
	return !memcmp(frame, wanted, len);
}

static bool is_stream(const struct net *n)
{
	return n->kind == NET_STREAM || n->kind == NET_LISTEN;
}

/* In pieces, so that frames are cut anywhere. */
static void stream_send(struct net *n, const uint8_t *frame, uint32_t len)
{
	static uint8_t whole[4 + NET_BYTES];
	uint32_t at = 0, total = len + 4;

	memcpy(whole, &(uint32_t) { htonl(len) }, 4);
	memcpy(whole + 4, frame, len);
	while (at < total) {
		ssize_t done = -1;

		rig_until(&n->rig,
			  (done = write(n->peer, whole + at, MIN(total - at, 1 + total * 2 / 3))) > 0);
		at += (uint32_t)done;
	}
}

/* The next whole frame; false: there is none yet. */
static bool stream_receive(struct net *n, uint8_t *frame, uint32_t *len)
{
	ssize_t got = read(n->peer, n->stream + n->stream_len, sizeof(n->stream) - n->stream_len);

	n->stream_len += got > 0 ? (uint32_t)got : 0;
	if (n->stream_len < 4)
		return false;
	memcpy(len, n->stream, 4);
	*len = ntohl(*len);
	cr_assert_leq(*len, NET_BYTES);
	if (n->stream_len < 4 + *len)
		return false;
	memcpy(frame, n->stream + 4, *len);
	n->stream_len -= 4 + *len;
	memmove(n->stream, n->stream + 4 + *len, n->stream_len);
	return true;
}

void net_peer_send(struct net *n, const uint8_t *frame, uint32_t len)
{
	if (is_stream(n)) {
		stream_send(n, frame, len);
		return;
	}
	cr_assert_eq(write(n->peer, frame, len), (ssize_t)len, "%u bytes: %s", len, strerror(errno));
}

uint32_t net_peer_receive(struct net *n, uint8_t *frame)
{
	ssize_t len = -1;
	uint32_t framed;

	if (is_stream(n)) {
		rig_until(&n->rig, stream_receive(n, frame, &framed));
		return framed;
	}
	rig_until(&n->rig, (len = read(n->peer, frame, NET_BYTES)) >= 0);
	return (uint32_t)len;
}

bool net_peer_is_quiet(struct net *n)
{
	struct pollfd p = { .fd = n->peer, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

/* ---- the driver's ---- */

void net_post(struct net *n, unsigned pair, const uint32_t *lens, unsigned count)
{
	bool indirect = n->rig.options.ring_features & RING_F_INDIRECT;
	struct ring_buf bufs[PIECES_MAX];
	uint32_t total = 0;
	int id;

	for (unsigned i = 0; i < count; i++) {
		bufs[i] =
		    (struct ring_buf) { .gpa = n->memory + n->used + total, .len = lens[i], .write = true };
		total += lens[i];
	}
	cr_assert_leq(n->used + total, MEMORY_BYTES);
	memset(rig_ptr(&n->rig, n->memory + n->used), 0xee, total);
	id = ring_add(&n->rig.queue[2 * pair].ring, bufs, count, indirect);
	cr_assert(id >= 0 && id < RIG_SIZE, "ring_add: %d", id);
	n->posted[2 * pair][id] = (struct net_buffer) { .gpa = n->memory + n->used, .len = total };
	n->n_posted[2 * pair]++;
	/* A gap behind each, to see what is written there. */
	n->used += total + 16;
	if (n->used > MEMORY_BYTES - (1U << 20))
		n->used = 0;
}

void net_kick(struct net *n, unsigned ring)
{
	rig_publish(&n->rig, ring);
}

void net_post_many(struct net *n, unsigned pair, uint32_t len, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		net_post(n, pair, &len, 1);
	net_kick(n, 2 * pair);
}

/* The next used buffer, appended; false: there is none. */
static bool get_buffer(struct net *n, unsigned pair, struct net_frame *f, uint8_t *to, uint32_t *at)
{
	struct rig_queue *q = &n->rig.queue[2 * pair];
	const struct net_buffer *b;
	uint32_t len;
	uint16_t id;
	int got = ring_get(&q->ring, &id, &len);

	if (!got)
		got = ring_enable_calls(&q->ring) ? ring_get(&q->ring, &id, &len) : 0;
	cr_assert(got >= 0, "a buffer that was not posted");
	if (!got)
		return false;
	b = &n->posted[2 * pair][id];
	cr_assert_leq(len, b->len, "used.len %u of a buffer of %u", len, b->len);
	memcpy(to + *at, rig_ptr(&n->rig, b->gpa), len);
	for (uint32_t i = len; i < b->len && f->buffers; i++)
		cr_assert_eq(rig_ptr(&n->rig, b->gpa)[i], 0xee,
			     "byte %u of a buffer was written, used.len is %u", i, len);
	*at += len;
	f->used[f->buffers++] = len;
	n->n_posted[2 * pair]--;
	return true;
}

static bool is_ours(const uint8_t *frame)
{
	unsigned at = frame[12] == 0x81 && !frame[13] ? 16 : 12; /* behind a VLAN tag */

	return (frame[at] << 8 | frame[at + 1]) == NET_ETHERTYPE;
}

bool net_try_receive(struct net *n, unsigned pair, struct net_frame *f)
{
	static uint8_t whole[NET_BYTES + NET_HEADER];
	uint32_t len;

	do {
		len = 0;
		f->buffers = 0;
		if (!get_buffer(n, pair, f, whole, &len))
			return false;
		cr_assert_geq(len, NET_HEADER);
		memcpy(&f->header, whole, NET_HEADER);
		cr_assert(f->header.num_buffers >= 1 && f->header.num_buffers <= ARRAY_SIZE(f->used),
			  "num_buffers %u", f->header.num_buffers);
		/* All are shown at once. */
		while (f->buffers < f->header.num_buffers)
			cr_assert(get_buffer(n, pair, f, whole, &len), "%u of %u buffers", f->buffers,
				  f->header.num_buffers);
		f->len = len - NET_HEADER;
		memcpy(f->bytes, whole + NET_HEADER, f->len);
	} while (!n->any && !is_ours(f->bytes));
	return true;
}

void net_receive(struct net *n, unsigned pair, struct net_frame *f)
{
	rig_until(&n->rig, net_try_receive(n, pair, f));
}

/* Header and frame as a list of buffers, cut where it is wanted. */
static unsigned cut(struct net *n, uint32_t len, const uint32_t *cuts, unsigned n_cuts, struct ring_buf *bufs)
{
	uint32_t at = 0;

	if (!cuts) {
		bufs[0] = (struct ring_buf) { .gpa = n->header, .len = NET_HEADER };
		bufs[1] = (struct ring_buf) { .gpa = n->frame, .len = len };
		return len ? 2 : 1;
	}
	/* One behind the other, in the frame's place. */
	memmove(rig_ptr(&n->rig, n->frame + NET_HEADER), rig_ptr(&n->rig, n->frame), len);
	memcpy(rig_ptr(&n->rig, n->frame), rig_ptr(&n->rig, n->header), NET_HEADER);
	for (unsigned i = 0; i < n_cuts; i++) {
		bufs[i] = (struct ring_buf) { .gpa = n->frame + at, .len = cuts[i] };
		at += cuts[i];
	}
	cr_assert_eq(at, len + NET_HEADER);
	return n_cuts;
}

int64_t net_send(struct net *n, unsigned pair, uint32_t len, const uint32_t *cuts, unsigned n_cuts)
{
	struct ring_buf bufs[PIECES_MAX];
	unsigned count = cut(n, len, cuts, n_cuts, bufs);

	return rig_raw(&n->rig, 2 * pair + 1, bufs, count);
}

int net_send_start(struct net *n, unsigned pair, uint32_t len)
{
	struct ring_buf bufs[2];
	unsigned count = cut(n, len, NULL, 0, bufs);
	int id = ring_add(&n->rig.queue[2 * pair + 1].ring, bufs, count,
			  n->rig.options.ring_features & RING_F_INDIRECT);

	cr_assert(id >= 0, "ring_add: %d", id);
	net_kick(n, 2 * pair + 1);
	return id;
}

uint8_t net_command(struct net *n, uint8_t class, uint8_t number, const void *data, uint32_t len)
{
	uint64_t at = rig_alloc(&n->rig, len + 3, 8);
	struct ring_buf bufs[] = {
		{ .gpa = at, .len = 2 },
		{ .gpa = at + 2, .len = len },
		{ .gpa = at + 2 + len, .len = 1, .write = true },
	};
	uint8_t *p = rig_ptr(&n->rig, at);

	p[0] = class;
	p[1] = number;
	memcpy(p + 2, data, len);
	p[2 + len] = 0xee;
	if (!len)
		bufs[1] = bufs[2];
	cr_assert_eq(rig_raw(&n->rig, n->rig.queues - 1, bufs, len ? 3 : 2), 1, "a command of %u bytes", len);
	return p[2 + len];
}

void net_serves(struct net *n)
{
	static uint8_t frame[NET_BYTES];
	static struct net_frame f;

	net_fill(frame, 200, 77);
	net_post_many(n, 0, 1526, 1);
	net_peer_send(n, frame, 200);
	do
		net_receive(n, 0, &f);
	while (f.len != 200);
	cr_assert(net_check(f.bytes, 200, 77));
	net_fill(rig_ptr(&n->rig, n->frame), 300, 78);
	cr_assert_eq(net_send(n, 0, 300, NULL, 0), 0);
	do
		cr_assert_gt(net_peer_receive(n, frame), 0);
	while (!net_check(frame, 300, 78));
}
