/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of a control bus endpoint: who is let in, when it begins and ends, and making it again. */
#include <errno.h>
#include <nng/nng.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

#define CUT_NS (100 * NS_PER_MS) /* from the moment that a connection is not read any more to its end */

/* Whoever reaches the folder may knock: a child has a user of its own, and its pid is what counts. */
#define MODE_OPEN 0666

/* Who is at the other end of a new pipe. */
struct caller {
	uint64_t pid; /* 0 if not known */
	bool ours;    /* of our user, or root */
};

static bool may_connect(struct bus *bus, const struct caller *caller) REQUIRES(bus->lock)
{
	if (bus->pipe_admitted || bus->expected == BUS_NOBODY)
		return false;
	if (bus->side == BUS_CHILD)
		return true;
	return bus->expected ? caller->pid == (uint64_t)bus->expected : caller->ours;
}

static void count_refusal(struct bus *bus, uint64_t pid) REQUIRES(bus->lock)
{
	atomic_fetch_add_explicit(&bus->refused_peers, 1, memory_order_relaxed);
	bus->early = pid == bus->early_pid ? bus->early + 1 : 1;
	bus->early_pid = pid;
}

/* A process that dials sooner than its number is known here is no stranger: it comes again. */
static void expect(struct bus *bus, pid_t expected) REQUIRES(bus->lock)
{
	bus->expected = expected;
	if (expected <= 0 || bus->early_pid != (uint64_t)expected)
		return;
	atomic_fetch_sub_explicit(&bus->refused_peers, bus->early, memory_order_relaxed);
	bus->early = bus->early_pid = 0;
}

/* On a thread of nng's. */
static void pipe_event(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct bus *bus = arg;
	uint32_t id = (uint32_t)nng_pipe_id(pipe);
	bool changed = false, refuse = false;
	struct caller caller = { 0 };

	/* A child asks nothing: its sandbox has no system call for it. */
	if (ev == NNG_PIPE_EV_ADD_PRE && bus->side == BUS_SUPERVISOR) {
		caller.ours = bus_wire_peer_is_ours(pipe);
		if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_PID, &caller.pid) != 0)
			caller.pid = 0;
	}
	lock_take(&bus->lock);
	if (ev == NNG_PIPE_EV_ADD_PRE) {
		refuse = !may_connect(bus, &caller);
		changed = !refuse;
		if (refuse)
			count_refusal(bus, caller.pid);
		else
			bus->pipe_admitted = id;
	} else if (ev == NNG_PIPE_EV_REM_POST && bus->pipe_admitted == id) {
		bus->pipe_admitted = 0;
		changed = true;
	}
	lock_drop(&bus->lock);
	if (refuse)
		nng_pipe_close(pipe);
	if (changed)
		loop_bh_post(&bus->pipe_bh);
}

void bus_pipe_retry(struct bus *bus, uint64_t ns)
{
	bus->retry_ns = MIN(ns, BUS_RETRY_MAX_NS);
	loop_arm_timer(bus->retry, clock_ns() + bus->retry_ns);
}

/* A process that has its connection could keep nng's threads busy with others, none of which would be let in: the kernel
 * refuses them. Should this fail, they are refused later. */
static void set_mode(struct bus *bus, unsigned mode)
{
	if (bus->listener.id)
		(void)!chmod(bus->path, mode);
}

void bus_pipe_went_down(struct bus *bus)
{
	if (!bus->pipe)
		return;
	bus->pipe = 0;
	set_mode(bus, MODE_OPEN);
	bus_send_drop(bus);
	loop_disarm_timer(bus->retry);
	bus_pipe_retry(bus, BUS_RETRY_MAX_NS);
	bus_request_end_all(bus, -EPIPE);
	if (!bus->closed && bus->ops->connected)
		bus->ops->connected(bus->arg, false);
}

void bus_pipe_went_up(struct bus *bus, uint32_t id)
{
	bus->pipe = id;
	set_mode(bus, 0);
	loop_disarm_timer(bus->retry);
	if (bus->ops->connected)
		bus->ops->connected(bus->arg, true);
}

uint32_t bus_pipe_admitted(struct bus *bus)
{
	uint32_t id;

	lock_take(&bus->lock);
	id = bus->pipe_admitted;
	lock_drop(&bus->lock);
	return id == bus->pipe_cut ? 0 : id;
}

/*
 * nng 1.5.2 must not close a connection between the head and the body of a message that comes in: it would lose that
 * receive, wait for it for ever, and never close anything again. So what is cut is not read any more, which soon
 * brings a peer that keeps sending to a stand, and is closed a little later unless its end came first.
 */
void bus_pipe_cut(struct bus *bus, pid_t expected)
{
	nng_pipe pipe = NNG_PIPE_INITIALIZER;

	lock_take(&bus->lock);
	expect(bus, expected);
	pipe.id = bus->pipe_admitted;
	lock_drop(&bus->lock);
	if (!pipe.id)
		return;
	bus->pipe_cut = pipe.id;
	loop_arm_timer(bus->cut_timer, clock_ns() + CUT_NS);
}

bool bus_pipe_is_cut(struct bus *bus)
{
	bool pending;

	lock_take(&bus->lock);
	pending = bus->pipe_admitted && bus->pipe_admitted == bus->pipe_cut;
	lock_drop(&bus->lock);
	return pending;
}

static void cut_late(void *arg)
{
	struct bus *bus = arg;
	nng_pipe pipe = { .id = bus->pipe_cut };

	if (bus_pipe_is_cut(bus))
		nng_pipe_close(pipe);
}

static int redial(struct bus *bus)
{
	if (bus->dialer.id)
		nng_dialer_close(bus->dialer);
	bus->dialer.id = 0;
	bus_pipe_retry(bus, BUS_RETRY_MAX_NS);
	return bus_wire_dial(bus->sock, bus->path, BUS_MSG_MAX, 0, &bus->dialer);
}

static int listen_if_deaf(struct bus *bus)
{
	bus_pipe_retry(bus, BUS_RETRY_MAX_NS);
	if (bus->listener.id && !bus_wire_is_deaf(bus->listener, &bus->ear))
		return 0;
	bus_wire_stop_listening(&bus->listener);
	bus->ear = (struct bus_wire_ear) { 0 };
	return bus_wire_listen(bus->sock, bus->path, MODE_OPEN, BUS_MSG_MAX, &bus->listener);
}

int bus_pipe_make(struct bus *bus)
{
	return bus->side == BUS_CHILD ? redial(bus) : listen_if_deaf(bus);
}

static void retry(void *arg)
{
	struct bus *bus = arg;

	bus_enter(bus);
	bus_recv_sync(bus);
	if (!bus->closed && bus->queue_count)
		bus_send_pump(bus, 2 * bus->retry_ns);
	else if (!bus->closed && !bus->pipe)
		bus_pipe_make(bus); /* if that fails, again next time */
	bus_leave(bus);
}

int bus_pipe_init(struct bus *bus)
{
	int err = nng_pipe_notify(bus->sock, NNG_PIPE_EV_ADD_PRE, pipe_event, bus);

	if (!err)
		err = nng_pipe_notify(bus->sock, NNG_PIPE_EV_REM_POST, pipe_event, bus);
	if (err)
		return bus_nng_errno(err);
	err = loop_add_timer(bus->loop, retry, bus, &bus->retry);
	return err ? err : loop_add_timer(bus->loop, cut_late, bus, &bus->cut_timer);
}

int bus_expect(struct bus *bus, pid_t peer_pid)
{
	int err = 0;

	bus_enter(bus);
	bus_pipe_cut(bus, BUS_NOBODY);
	bus_pipe_went_down(bus);
	if (!bus->closed) {
		bus->fenced = false;
		bus->malformed = 0;
		bus->unasked_ns = 0;
		/* Only while nobody is about to connect: nng would lose it, and keep what it had made of it for ever. */
		if (peer_pid == BUS_NOBODY || !bus->listener.id)
			err = listen_if_deaf(bus);
		bus_pipe_cut(bus, peer_pid);
	}
	bus_leave(bus);
	return err;
}
