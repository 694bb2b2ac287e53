/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libslirp on lib/loop: what it asks for, the guest's frames to it and its own to the guest. places.c has its descriptors.
 * There is no second poll loop: the timers and the socket to net-server are served in the same pass.
 *
 * All of the guest's frames go through frame.c, reasm.c and policy.c first.
 */
#include "net.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "clock.h"
#include "frame.h"
#include "log.h"
#include "num.h"
#include "places.h"
#include "policy.h"
#include "reasm.h"
#include "wire.h"

#define BATCH 64 /* frames of the guest in a pass */

/* Written by the thread that runs the network, read by any. */
struct counters {
	_Atomic uint64_t frames_in, bytes_in; /* from the guest */
	_Atomic uint64_t frames_out, bytes_out;
	_Atomic uint64_t malformed, foreign, refused, no_socket;
	_Atomic uint64_t fragments, fragments_dropped;
	_Atomic uint64_t
	    held; /* passes in which the host's sockets were not read, as the guest's side was full */
	_Atomic uint64_t complaints;
	_Atomic uint64_t guest_full, sockets; /* as of the last pass */
};

static void set(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_store_explicit(counter, value, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	set(counter, get(counter) + n);
}

struct net {
	const struct options *opts;
	struct loop *loop;
	Slirp *slirp;
	struct loop_fd *watch;
	uint32_t watched;
	struct wire wire;
	struct policy policy;
	struct reasm *reasm;
	struct places places;
	struct counters count;
	uint8_t frame[FRAME_MAX + 1];
};

/* ---- what libslirp asks for ---- */

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	struct net *net = opaque;
	struct frame f = frame_look(buf, len);

	policy_note(&net->policy, &f, clock_ns());
	count(&net->count.frames_out, 1);
	count(&net->count.bytes_out, len);
	wire_send(&net->wire, buf, len);
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
	count(&((struct net *)opaque)->count.complaints, 1);
	log_warn_limited("the guest: %s", msg);
}

static int64_t clock_get(void *opaque)
{
	(void)opaque;
	return (int64_t)clock_ns();
}

struct timer {
	struct net *net;
	SlirpTimerId id;
	void *opaque;
	struct loop_timer *timer;
};

static void on_timer(void *arg)
{
	struct timer *t = arg;

	slirp_handle_timer(t->net->slirp, t->id, t->opaque);
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct net *net = opaque;
	struct timer *t = calloc(1, sizeof(*t));

	if (!t || loop_add_timer(net->loop, on_timer, t, &t->timer) < 0)
		log_die(1, ENOMEM, "a timer");
	t->net = net;
	t->id = id;
	t->opaque = cb_opaque;
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct timer *t = timer;

	(void)opaque;
	loop_del_timer(t->timer);
	free(t);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct timer *t = timer;

	(void)opaque;
	loop_arm_timer(t->timer, (uint64_t)MAX(expire_ms, 0) * NS_PER_MS);
}

static void register_fd(int fd, void *opaque)
{
	places_add(&((struct net *)opaque)->places, fd);
}

static void unregister_fd(int fd, void *opaque)
{
	places_remove(&((struct net *)opaque)->places, fd);
}

static int add_poll(int fd, int events, void *opaque)
{
	struct net *net = opaque;

	return places_want(&net->places, fd, events, wire_is_full(&net->wire));
}

static int get_revents(int idx, void *opaque)
{
	return places_ready(&((struct net *)opaque)->places, idx);
}

static void notify(void *opaque)
{
	(void)opaque; /* each pass asks anew what libslirp wants */
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_get,
	.timer_new_opaque = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = register_fd,
	.unregister_poll_fd = unregister_fd,
	.notify = notify,
};

/* ---- frames of the guest ---- */

/* Whether libslirp may open one for it. What it knows can't be told from what is new, but for TCP. */
static bool may_take_socket(const struct frame *f)
{
	switch (f->protocol) {
	case IPPROTO_TCP:
		return f->opens;
	case IPPROTO_ICMPV6:
		return f->type == FRAME_ECHO6;
	default:
		return f->kind != FRAME_ARP;
	}
}

static void pass_on(struct net *net, const struct frame *f)
{
	if (!policy_allows(&net->policy, f, clock_ns())) {
		count(&net->count.refused, 1);
		return;
	}
	if (may_take_socket(f) && !places_have_room(&net->places, !f->opens)) {
		count(&net->count.no_socket, 1);
		return;
	}
	slirp_input(net->slirp, f->data, (int)f->len);
}

static void take_fragment(struct net *net, const struct frame *f)
{
	struct frame whole;
	unsigned evicted;

	count(&net->count.fragments, 1);
	switch (reasm_add(net->reasm, f, clock_ns(), &whole, &evicted)) {
	case REASM_DONE:
		if (whole.kind == FRAME_IPV4)
			pass_on(net, &whole);
		else
			count(&net->count.malformed, 1);
		break;
	case REASM_DROP:
		count(&net->count.fragments_dropped, 1);
		break;
	case REASM_WAIT:
	default:
		break;
	}
	count(&net->count.fragments_dropped, evicted);
}

static void take_frame(struct net *net, const uint8_t *data, size_t len)
{
	struct frame f = frame_look(data, len);

	count(&net->count.frames_in, 1);
	count(&net->count.bytes_in, len);
	switch (f.kind) {
	case FRAME_ARP:
	case FRAME_IPV4:
	case FRAME_IPV6:
		pass_on(net, &f);
		break;
	case FRAME_FRAGMENT:
		take_fragment(net, &f);
		break;
	case FRAME_FOREIGN:
		count(&net->count.foreign, 1);
		break;
	case FRAME_MALFORMED:
	default:
		count(&net->count.malformed, 1);
		break;
	}
}

static void on_wire(void *arg, uint32_t events)
{
	struct net *net = arg;
	bool none;

	if (events & EPOLLOUT)
		wire_flush(&net->wire);
	for (unsigned i = 0; i < BATCH; i++) {
		ssize_t n = wire_receive(&net->wire, net->frame, sizeof(net->frame), &none);

		if (none)
			return;
		/* An empty datagram and the end look alike but for this. */
		if (n < 0 || (n == 0 && events & (EPOLLHUP | EPOLLRDHUP))) {
			net->wire.gone = true;
			return;
		}
		if ((size_t)n > FRAME_MAX)
			n = 0;
		take_frame(net, net->frame, (size_t)n);
	}
}

int net_run_once(struct net *net)
{
	uint32_t timeout = UINT32_MAX, wanted = EPOLLIN | EPOLLRDHUP;
	int err;

	places_begin(&net->places);
	slirp_pollfds_fill(net->slirp, &timeout, add_poll, net);
	places_end(&net->places);
	if (wire_is_full(&net->wire)) {
		count(&net->count.held, 1);
		wanted |= EPOLLOUT;
	}
	if (wanted != net->watched) {
		err = loop_mod_fd(net->watch, wanted);
		if (err)
			return err;
		net->watched = wanted;
	}
	err = loop_run_once(net->loop, timeout == UINT32_MAX ? -1 : (int64_t)timeout * (int64_t)NS_PER_MS);
	slirp_pollfds_poll(net->slirp, err != 0, get_revents, net);
	set(&net->count.guest_full, net->wire.dropped);
	set(&net->count.sockets, net->places.files);
	return err ? err : net->wire.gone ? -EPIPE : 0;
}

/* ---- opening ---- */

/* What libslirp and glib have to say, which a guest can bring about, goes where all lines go, and not more than these. */
static void on_glib(const char *domain, int level, const char *message, void *arg)
{
	(void)domain;
	(void)level;
	count(&((struct net *)arg)->count.complaints, 1);
	log_warn_limited("libslirp: %s", message);
}

/* glib's headers would be needed for this one function only. */
static void hear_glib(struct net *net)
{
	typedef void log_fn(const char *domain, int level, const char *message, void *arg);
	void *(*set_handler)(log_fn *, void *);
	void *found = dlsym(RTLD_DEFAULT, "g_log_set_default_handler");

	memcpy(&set_handler, &found, sizeof(set_handler));
	if (found)
		set_handler(on_glib, net);
}

static int add_forward(int fd, int events, void *opaque)
{
	(void)events;
	places_add_forward(&((struct net *)opaque)->places, fd);
	return -1;
}

static int open_forwards(struct net *net)
{
	const struct options *o = net->opts;
	uint32_t timeout = 0;

	for (unsigned i = 0; i < o->net.forwards; i++) {
		const struct usernet_forward *f = &o->net.forward[i];
		int err;

		if (slirp_add_hostfwd(net->slirp, f->udp, f->host, f->host_port, f->guest, f->guest_port) ==
		    0)
			continue;
		err = errno ? -errno : -EIO;
		/* In the words of who gave it. */
		if (o->common.bus)
			log_error_errno(err, "hostfwd=\"%s\": this host's port can't be had", f->word);
		else
			log_error_errno(err, "--hostfwd %s", f->word);
		return err;
	}
	/* There are no others yet. */
	slirp_pollfds_fill(net->slirp, &timeout, add_forward, net);
	set(&net->count.sockets, net->places.files);
	return 0;
}

static int open_slirp(struct net *net)
{
	const struct options *o = net->opts;
	SlirpConfig config = {
		.version = 4,
		/* policy.c restricts. */
		.in_enabled = true,
		.vnetwork = o->net.addr,
		.vnetmask = o->net.mask,
		.vhost = o->net.gateway,
		.vdhcp_start = o->net.guest,
		.vnameserver = o->net.dns,
		.in6_enabled = o->ipv6,
		.vprefix_addr6 = policy_net6,
		.vprefix_len = POLICY_PREFIX6,
		.vhost6 = policy_net6,
		.vnameserver6 = policy_net6,
		.vhostname = o->net.hostname,
		.if_mtu = o->mtu,
		.if_mru = o->mtu,
	};

	config.vhost6.s6_addr[15] = 2;
	config.vnameserver6.s6_addr[15] = 3;
	hear_glib(net);
	net->slirp = slirp_new(&config, &callbacks, net);
	if (!net->slirp) {
		log_error("libslirp can't begin");
		return -EINVAL;
	}
	return open_forwards(net);
}

int net_open(struct loop *loop, const struct options *opts, struct net **out)
{
	struct net *net = calloc(1, sizeof(*net));
	int err;

	if (!net)
		return -ENOMEM;
	net->loop = loop;
	net->opts = opts;
	policy_init(&net->policy, opts);
	places_init(&net->places, loop, opts->common.sandbox);
	err = wire_init(&net->wire, opts->packet_fd);
	if (err)
		log_error_errno(err, "--packet-fd %d: must be a SOCK_SEQPACKET socket", opts->packet_fd);
	if (!err) {
		err = reasm_new(&net->reasm);
		if (!err)
			err =
			    loop_add_fd(loop, net->wire.fd, EPOLLIN | EPOLLRDHUP, on_wire, net, &net->watch);
		if (err)
			log_error_errno(err, "set-up failed");
	}
	net->watched = EPOLLIN | EPOLLRDHUP;
	if (!err)
		err = open_slirp(net);
	if (err) {
		net_close(net);
		return err;
	}
	*out = net;
	return 0;
}

void net_close(struct net *net)
{
	if (!net)
		return;
	if (net->slirp)
		slirp_cleanup(net->slirp);
	loop_del_fd(net->watch);
	places_fini(&net->places);
	reasm_free(net->reasm);
	wire_fini(&net->wire);
	free(net);
}

void net_stats(const struct net *net, net_stat_fn add, void *arg)
{
	const struct counters *c = &net->count;
	struct loop_stats loop;

	loop_get_stats(net->loop, &loop);
	add(arg, "frames_from_guest", get(&c->frames_in));
	add(arg, "bytes_from_guest", get(&c->bytes_in));
	add(arg, "frames_to_guest", get(&c->frames_out));
	add(arg, "bytes_to_guest", get(&c->bytes_out));
	add(arg, "sockets", get(&c->sockets));
	add(arg, "drop_malformed", get(&c->malformed));
	add(arg, "drop_foreign", get(&c->foreign));
	add(arg, "drop_refused", get(&c->refused));
	add(arg, "drop_no_socket", get(&c->no_socket));
	add(arg, "fragments", get(&c->fragments));
	add(arg, "drop_fragments", get(&c->fragments_dropped));
	add(arg, "drop_guest_full", get(&c->guest_full));
	add(arg, "held_back", get(&c->held));
	add(arg, "complaints", get(&c->complaints));
	add(arg, "passes", loop.passes);
}
