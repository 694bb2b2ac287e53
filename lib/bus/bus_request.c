/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests in flight: their ids, deadlines and ends.
 *
 * An id is never used twice, not for another peer nor by the endpoint's successor, as the first one is the time: a process
 * may answer a new supervisor what the one before asked. So a reply can only end the request that it answers. One that names
 * an id of the past which is not pending is late (or doubled); any other was never asked for. Both are counted and dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

/* The deadline that comes first is the one that the timer is armed for. */
static void arm(struct bus *bus)
{
	uint64_t first = UINT64_MAX;

	if (bus->closed)
		return;
	for (struct bus_pending *p = bus->pending; p; p = p->next)
		first = MIN(first, p->deadline_ns);
	if (bus->pending)
		loop_arm_timer(bus->timer, first);
	else
		loop_disarm_timer(bus->timer);
}

/* Takes *at off the list and tells its owner, who may close the bus; that empties the list. */
static void end(struct bus *bus, struct bus_pending **at, int err, const struct bus_msg *reply)
{
	struct bus_pending *p = *at;

	*at = p->next;
	bus->npending--;
	p->fn(p->arg, err, reply);
	free(p);
}

static struct bus_pending **find_expired(struct bus *bus, uint64_t now)
{
	for (struct bus_pending **at = &bus->pending; *at; at = &(*at)->next)
		if ((*at)->deadline_ns <= now)
			return at;
	return NULL;
}

static void deadline(void *arg)
{
	struct bus *bus = arg;
	uint64_t now = clock_ns();
	struct bus_pending **at;

	bus_enter(bus);
	while ((at = find_expired(bus, now))) {
		bus->counters.timeouts++;
		end(bus, at, -ETIMEDOUT, NULL);
	}
	arm(bus);
	bus_leave(bus);
}

int bus_request_init(struct bus *bus)
{
	bus->next_id = clock_ns();
	return loop_add_timer(bus->loop, deadline, bus, &bus->timer);
}

int bus_request(struct bus *bus, const struct bus_msg *msg, uint64_t timeout_ns, bus_reply_fn fn, void *arg)
{
	struct bus_pending **at = &bus->pending, *p;
	struct bus_msg numbered = *msg;
	int err;

	if (msg->type <= BUS_NONE || msg->type >= BUS_TYPE_COUNT ||
	    bus_types[msg->type].kind != BUS_KIND_REQUEST)
		return -EINVAL;
	if (bus->npending == BUS_PENDING_MAX)
		return -EAGAIN;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	numbered.id = p->id = bus->next_id;
	err = bus_send(bus, &numbered);
	if (err) {
		free(p);
		return err;
	}
	bus->next_id++;
	p->reply = bus_types[msg->type].reply;
	p->fn = fn;
	p->arg = arg;
	if (!num_add(clock_ns(), timeout_ns, &p->deadline_ns))
		p->deadline_ns = UINT64_MAX;
	while (*at)
		at = &(*at)->next;
	*at = p;
	bus->npending++;
	arm(bus);
	return 0;
}

bool bus_request_waits(const struct bus *bus, uint64_t id)
{
	const struct bus_pending *p = bus->pending;

	while (p && p->id != id)
		p = p->next;
	return p;
}

bool bus_request_reply(struct bus *bus, const struct bus_msg *reply)
{
	for (struct bus_pending **at = &bus->pending; *at; at = &(*at)->next) {
		bool refused = reply->type == BUS_ERROR, right = refused || reply->type == (*at)->reply;

		if ((*at)->id != reply->id)
			continue;
		end(bus, at, refused ? reply->error.err : right ? 0 : -EPROTO, right ? reply : NULL);
		arm(bus);
		return right;
	}
	if (reply->id < bus->next_id)
		bus->counters.late_replies++;
	else
		bus->counters.unsolicited_replies++;
	return true;
}

void bus_request_end_all(struct bus *bus, int err)
{
	/* Those that the callbacks add belong to what comes next. */
	uint64_t before = bus->next_id;

	while (bus->pending && bus->pending->id < before)
		end(bus, &bus->pending, err, NULL);
	arm(bus);
}
