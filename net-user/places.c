/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptors of libslirp on lib/loop.
 *
 * libslirp was made for poll(2): before each wait it names every descriptor and what it wants of it
 * (slirp_pollfds_fill), afterwards it asks what each is ready for (slirp_pollfds_poll). It also says when a descriptor
 * comes and goes. So each descriptor has a place in a table, found by its number, and its registration with the loop is
 * changed only when what is wanted of it is not what is registered: in the steady flow of a connection that is seldom.
 * What remains is the walk over all connections in each pass, which is libslirp's own and some hundred nanoseconds for
 * each.
 */
#include "places.h"

#include <slirp/libslirp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "log.h"
#include "num.h"
#include "options.h"

/*
 * Descriptors beyond those of connections: for datagrams, so that a guest with too many connections still has names; for
 * one connection to each forwarded port, as these are accepted without asking; and for all else that this process has or
 * opens: the bus, the loops, the name server's file.
 */
#define RESERVE_DATAGRAMS 64
#define RESERVE_ACCEPTED  USERNET_FORWARDS_MAX
#define RESERVE_OWN       128
#define RESERVE           (RESERVE_DATAGRAMS + RESERVE_ACCEPTED + RESERVE_OWN)

static struct place *place_of(struct places *p, int fd)
{
	return fd >= 0 && fd < NET_FILES_MAX ? &p->place[fd] : NULL;
}

static void forget(struct place *place)
{
	if (!place->watch)
		return;
	loop_del_fd(place->watch);
	place->watch = NULL;
	place->registered = place->ready = 0;
}

void places_init(struct places *p, struct loop *loop, bool hard)
{
	struct rlimit limit = { NET_FILES_MAX, NET_FILES_MAX };

	getrlimit(RLIMIT_NOFILE, &limit);
	p->loop = loop;
	p->files_max = (unsigned)MIN(hard ? limit.rlim_max : limit.rlim_cur, (rlim_t)NET_FILES_MAX);
	p->files_max -= MIN(p->files_max, (unsigned)RESERVE);
}

void places_fini(struct places *p)
{
	for (size_t i = 0; i < NET_FILES_MAX; i++)
		forget(&p->place[i]);
}

void places_add(struct places *p, int fd)
{
	struct place *place = place_of(p, fd);

	if (!place)
		return;
	forget(place);
	p->files += !place->owned;
	place->owned = true;
	place->listening = false;
}

void places_add_forward(struct places *p, int fd)
{
	struct place *place = place_of(p, fd);
	socklen_t len = sizeof(int);
	int accepts = 0;

	places_add(p, fd);
	if (place && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) == 0)
		place->listening = accepts;
}

bool places_have_room(const struct places *p, bool more)
{
	return p->files < p->files_max + (more ? RESERVE_DATAGRAMS : 0);
}

void places_remove(struct places *p, int fd)
{
	struct place *place = place_of(p, fd);

	if (!place)
		return;
	forget(place);
	p->files -= place->owned;
	place->owned = false;
}

/* In the order of the bits of SLIRP_POLL_*. */
static const struct {
	int slirp;
	uint32_t epoll;
} bits[] = {
	{ SLIRP_POLL_IN, EPOLLIN },   { SLIRP_POLL_OUT, EPOLLOUT }, { SLIRP_POLL_PRI, EPOLLPRI },
	{ SLIRP_POLL_ERR, EPOLLERR }, { SLIRP_POLL_HUP, EPOLLHUP },
};

static void on_ready(void *arg, uint32_t events)
{
	((struct place *)arg)->ready |= events;
}

/* Makes events what the loop watches a descriptor for. */
static void watch(struct places *p, struct place *place, uint32_t events)
{
	int err;

	if (place->registered == events)
		return;
	if (!place->watch) {
		err = loop_add_fd(p->loop, place->fd, events, on_ready, place, &place->watch);
	} else {
		err = loop_mod_fd(place->watch, events);
	}
	if (err) {
		log_warn_limited("descriptor %d can't be watched: %s", place->fd, strerror(-err));
		forget(place);
		return;
	}
	if (!place->listed)
		p->active[p->actives++] = place->fd;
	place->listed = true;
	place->registered = events;
}

void places_begin(struct places *p)
{
	p->pass++;
}

int places_want(struct places *p, int fd, int events, bool held)
{
	struct place *place = place_of(p, fd);
	uint32_t wanted = 0;

	if (!place)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (events & bits[i].slirp)
			wanted |= bits[i].epoll;
	/* Without room for another descriptor a connection that waits would be announced for ever. */
	if (place->listening && !places_have_room(p, false))
		wanted = 0;
	/* Nor is more fetched than the guest's side takes; a connection that is being made may end. */
	if (held)
		wanted &= (uint32_t)EPOLLOUT;
	place->fd = fd;
	place->pass = p->pass;
	watch(p, place, wanted);
	return fd;
}

int places_ready(struct places *p, int index)
{
	struct place *place = place_of(p, index);
	int events = 0;

	if (!place)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (place->ready & bits[i].epoll)
			events |= bits[i].slirp;
	place->ready = 0;
	return events;
}

/* Leaves those that libslirp wants nothing of any more. */
void places_end(struct places *p)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < p->actives; i++) {
		struct place *place = &p->place[p->active[i]];

		if (place->registered && place->pass != p->pass)
			watch(p, place, 0);
		place->listed = place->registered != 0;
		if (place->listed)
			p->active[kept++] = place->fd;
	}
	p->actives = kept;
}
