/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbered frames into a network interface, as the bare guest sends them itself (payload/net-run.c): UDP over IPv4, or
 * large TCP segments for the device to cut. When the interface takes no more it waits, rather than to burn the processor
 * that the other side needs. With --echo it is somebody's on the other side to send them back, and what does not come,
 * or comes twice, is counted, with the times that it took. SIGTERM is the end of its seconds. Prints one line of JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "load_option.h"
#include "log.h"
#include "num.h"
#include "payload/frame.h"

#define SEGMENT 1448
#define SUPER   (54 + 45 * SEGMENT)
#define BATCH   64
#define HISTORY (1u << 20) /* numbers whose fate is known */
#define L4      34         /* where UDP's or TCP's header begins */

#define GIVE_UP_MS 100

struct frame {
	struct virtio_net_hdr header;
	uint8_t bytes[65536];
};

struct options {
	const char *interface;
	uint64_t size, seconds, rate, settle_ms, window;
	bool tso, echo;
};

struct load {
	struct options o;
	int fd;
	struct frame frames[BATCH];
	struct mmsghdr messages[BATCH];
	struct iovec iov[BATCH];
	uint64_t sent, full, came, twice, strange, late_ns;
	uint64_t given_up; /* that nobody waits for any more, though they may come */
	uint64_t *sent_at; /* by number, modulo HISTORY; 0 once it came back */
	uint64_t histogram[64];
};

static void make_frame(struct load *l, struct frame *f)
{
	static const uint8_t to[6] = { 2, 0, 0, 0, 0, 2 }, from[6] = { 2, 0, 0, 0, 0, 1 };
	struct iphdr ip = { .version = 4,
			    .ihl = 5,
			    .tot_len = htons((uint16_t)(l->o.size - 14)),
			    .frag_off = htons(0x4000),
			    .ttl = 64,
			    .protocol = l->o.tso ? IPPROTO_TCP : IPPROTO_UDP,
			    .saddr = htonl(0xc6120001),
			    .daddr = htonl(0xc6120002) };
	uint16_t rest = (uint16_t)(l->o.size - L4);

	memcpy(f->bytes, to, 6);
	memcpy(f->bytes + 6, from, 6);
	f->bytes[12] = 8;
	memcpy(f->bytes + 14, &ip, sizeof(ip));
	ip.check = htons((uint16_t)~sum16(f->bytes + 14, sizeof(ip), 0));
	memcpy(f->bytes + 14, &ip, sizeof(ip));
	if (l->o.tso) {
		struct tcphdr tcp = {
			.source = htons(9), .dest = htons(9), .doff = 5, .ack = 1, .window = 0xffff
		};

		tcp.check = htons(sum16(f->bytes + 26, 8, IPPROTO_TCP + (uint32_t)rest));
		memcpy(f->bytes + L4, &tcp, sizeof(tcp));
		f->header = (struct virtio_net_hdr) { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						      .hdr_len = L4 + sizeof(tcp),
						      .gso_size = SEGMENT,
						      .csum_start = L4,
						      .csum_offset = 16 };
	} else {
		struct udphdr udp = { .source = htons(9), .dest = htons(9), .len = htons(rest) };

		memcpy(f->bytes + L4, &udp, sizeof(udp));
	}
}

static size_t mark_at(const struct load *l)
{
	return L4 + (l->o.tso ? sizeof(struct tcphdr) : sizeof(struct udphdr));
}

static void open_socket(struct load *l)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	int on = 1, size = 64 << 20;

	at.sll_ifindex = (int)if_nametoindex(l->o.interface);
	l->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, l->o.echo ? htons(ETH_P_IP) : 0);
	if (!at.sll_ifindex || l->fd < 0 || bind(l->fd, (struct sockaddr *)&at, sizeof(at)))
		log_die(1, -errno, "%s can't be used", l->o.interface);
	if (setsockopt(l->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) ||
	    setsockopt(l->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) ||
	    setsockopt(l->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)))
		log_die(1, -errno, "an option of packet sockets");
	/* For seconds in which a busy machine does not let us read; more than ordinary users may have. */
	if (setsockopt(l->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		setsockopt(l->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (unsigned i = 0; i < BATCH; i++) {
		make_frame(l, &l->frames[i]);
		l->iov[i] =
		    (struct iovec) { &l->frames[i], sizeof(struct virtio_net_hdr) + (size_t)l->o.size };
		l->messages[i].msg_hdr = (struct msghdr) { .msg_iov = &l->iov[i], .msg_iovlen = 1 };
	}
}

/* Sends up to n frames; what the interface had room for. */
static unsigned send_some(struct load *l, unsigned n)
{
	uint64_t now = clock_ns();
	int done;

	for (unsigned i = 0; i < n; i++) {
		struct frame_mark m = { FRAME_MARK, l->sent + 1 + i };

		memcpy(l->frames[i].bytes + mark_at(l), &m, sizeof(m));
		if (l->sent_at)
			l->sent_at[m.sequence % HISTORY] = now;
	}
	done = sendmmsg(l->fd, l->messages, n, MSG_DONTWAIT);
	if (done < 0 && errno != ENOBUFS && errno != EAGAIN)
		log_die(1, -errno, "sending");
	done = MAX(done, 0);
	l->full += (unsigned)done < n;
	l->sent += (unsigned)done;
	return (unsigned)done;
}

static void note_reply(struct load *l, const struct frame *f, size_t len, uint64_t now)
{
	struct frame_mark m;
	uint64_t *at, ns;

	if (len < sizeof(f->header) + mark_at(l) + sizeof(m)) {
		l->strange++;
		return;
	}
	memcpy(&m, f->bytes + mark_at(l), sizeof(m));
	if (m.mark != FRAME_MARK || !m.sequence || m.sequence > l->sent || m.sequence + HISTORY <= l->sent) {
		l->strange++;
		return;
	}
	at = &l->sent_at[m.sequence % HISTORY];
	if (!*at) {
		l->twice++;
		return;
	}
	ns = now - *at;
	*at = 0;
	l->came++;
	l->late_ns = MAX(l->late_ns, ns);
	l->histogram[63 - __builtin_clzll(ns | 1)]++;
}

/* What is there, or comes in time; false if nothing does. */
static bool receive_some(struct load *l, int timeout_ms)
{
	struct pollfd in = { .fd = l->fd, .events = POLLIN };
	struct frame f;
	bool any = false;
	ssize_t n;

	if (timeout_ms && poll(&in, 1, timeout_ms) <= 0)
		return false;
	while ((n = recv(l->fd, &f, sizeof(f), MSG_DONTWAIT)) > 0) {
		note_reply(l, &f, (size_t)n, clock_ns());
		any = true;
	}
	return any;
}

static void wait_us(long us)
{
	struct timespec t = { .tv_nsec = us * 1000 };

	nanosleep(&t, NULL);
}

static volatile sig_atomic_t enough;

static void on_term(int sig)
{
	(void)sig;
	enough = 1;
}

/* How many more may be under way; waits for a reply if none. */
static uint64_t room(struct load *l)
{
	uint64_t over = l->came + l->given_up;

	if (!l->o.window)
		return BATCH;
	if (l->sent < over + l->o.window)
		return l->o.window - (l->sent > over ? l->sent - over : 0);
	if (!receive_some(l, GIVE_UP_MS))
		l->given_up = l->sent - l->came;
	return 0;
}

static void run(struct load *l)
{
	uint64_t begun = clock_ns(), end = begun + l->o.seconds * NS_PER_S, now;

	while (!enough && (now = clock_ns()) < end) {
		uint64_t due = l->o.rate ? (now - begun) * l->o.rate / NS_PER_S : UINT64_MAX, most = room(l);
		unsigned n = due > l->sent ? (unsigned)MIN(MIN(due - l->sent, most), BATCH) : 0;

		if (!most)
			continue;
		if (!n || send_some(l, n) < n)
			wait_us(50);
		if (l->o.echo)
			receive_some(l, 0);
	}
	/* The last ones are still on their way. */
	end = clock_ns() + l->o.settle_ms * NS_PER_MS;
	while (l->o.echo && l->came < l->sent && clock_ns() < end)
		receive_some(l, 20);
}

/* The upper end of the power of two in which the percentile lies. */
static double percentile_us(const struct load *l, double part)
{
	uint64_t want = (uint64_t)((double)l->came * part), seen = 0;

	for (unsigned i = 0; i < 63; i++)
		if ((seen += l->histogram[i]) > want)
			return (double)(2ULL << i) / 1000;
	return 0;
}

static const char help[] =
    "usage: tap-load --interface NAME [options]\n"
    "  --size N       bytes of each frame (60)\n"
    "  --tso          large TCP segments in place of UDP\n"
    "  --seconds N    (2); SIGTERM ends them\n"
    "  --rate N       frames a second (as many as the interface takes)\n"
    "  --echo         they come back; wait for the last ones --settle-ms N at most (2000)\n"
    "  --window N     with --echo, at most so many under way (any number)\n";

static void parse_options(int argc, char **argv, struct options *o)
{
	const struct load_option options[] = {
		{ "interface", .word = &o->interface },
		{ "size", .number = &o->size, .min = 60, .max = 9014 },
		{ "seconds", .number = &o->seconds, .min = 1, .max = 3600 },
		{ "rate", .number = &o->rate, .min = 1, .max = 10000000 },
		{ "settle-ms", .number = &o->settle_ms, .min = 0, .max = 60000 },
		{ "tso", .flag = &o->tso },
		{ "echo", .flag = &o->echo },
		{ "window", .number = &o->window, .min = 1, .max = HISTORY / 2 },
		{ .name = NULL },
	};

	load_option_parse(argc, argv, options, help);
	if (!o->interface)
		log_die(2, 0, "--interface NAME is missing, see --help");
	if (o->window && !o->echo)
		log_die(2, 0, "--window: needs --echo");
	if (o->tso)
		o->size = SUPER;
}

int main(int argc, char **argv)
{
	static struct load l = { .o = { .size = 60, .seconds = 2, .settle_ms = 2000 } };

	log_init("tap-load", NULL, false);
	signal(SIGTERM, on_term);
	parse_options(argc, argv, &l.o);
	if (l.o.echo && !(l.sent_at = calloc(HISTORY, sizeof(*l.sent_at))))
		log_die(1, -ENOMEM, "remembering what was sent");
	open_socket(&l);
	run(&l);
	printf("{\"sent\": %llu, \"full\": %llu", (unsigned long long)l.sent, (unsigned long long)l.full);
	if (l.o.echo)
		printf(
		    ", \"came\": %llu, \"lost\": %llu, \"twice\": %llu, \"strange\": %llu, \"p50_us\": %.0f, "
		    "\"p99_us\": %.0f, \"max_us\": %.0f",
		    (unsigned long long)l.came, (unsigned long long)(l.sent - l.came),
		    (unsigned long long)l.twice, (unsigned long long)l.strange, percentile_us(&l, 0.5),
		    percentile_us(&l, 0.99), (double)l.late_ns / 1000);
	puts("}");
	free(l.sent_at);
	return 0;
}
