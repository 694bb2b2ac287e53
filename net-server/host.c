/* SPDX-License-Identifier: Apache-2.0 */
/* The host's interface. */
#include "host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "port.h"

/* Of each of the two paces: enough for drivers in a row that set up all pairs, by a change of their number and back. */
#define PACE_RATE  32
#define PACE_BURST 64

void host_open(struct port *port)
{
	const uint64_t pace[QUOTA_KEYS] = { [QUOTA_IOPS] = PACE_RATE, [QUOTA_IOPS_BURST] = PACE_BURST };

	for (unsigned i = 0; i < HOST_PACES; i++)
		quota_init(port->host.pace[i], pace);
	for (unsigned i = 0; i < port->pairs; i++)
		port->host.attached[i] = -1;
}

static void on_later(void *arg)
{
	host_follow(arg);
}

int host_attach(struct port *port, struct loop *loop)
{
	return loop_add_timer(loop, on_later, port, &port->host.later);
}

void host_detach(struct port *port)
{
	loop_del_timer(port->host.later);
	port->host.later = NULL;
}

/* Counts so many changes: 0, or, with none counted, the nanoseconds until they may be made. */
static uint64_t take(_Atomic uint64_t *pace, uint64_t now_ns, unsigned changes)
{
	struct quota_turn turn;
	uint64_t wait;

	if (!changes)
		return 0;
	quota_take(pace, now_ns, 0, changes, &turn);
	wait = quota_wait(pace, now_ns, &turn);
	if (wait)
		quota_return(pace, 0, changes);
	return wait;
}

uint64_t host_command_wait(struct port *port, unsigned changes, uint64_t now_ns)
{
	return take(port->host.pace[HOST_COMMANDS], now_ns, changes);
}

/* Of one that is gone there is nothing to be had; that it is so is said once. */
static void refused(struct port *port, int err, const char *what)
{
	if (err == -EPIPE)
		port_lost(port);
	else
		log_warn_limited("%s: %s: %s", port->backend.name, what, strerrordesc_np(-err));
}

/* ---- offloads ---- */

unsigned host_offloads_cost(const struct port *port, uint64_t offloads)
{
	const struct host *h = &port->host;

	return port->backend.ops->set_offload && !(h->asked && h->offloads == offloads);
}

int host_set_offloads(struct port *port)
{
	struct backend *b = &port->backend;
	struct host *h = &port->host;
	int err;

	if (!host_offloads_cost(port, port->driver.offloads))
		return 0;
	/* One that refuses them now does so again. */
	h->offloads = port->driver.offloads;
	h->asked = true;
	err = b->ops->set_offload(b, h->offloads);
	if (err)
		refused(port, err, "the driver's offloads can't be set");
	return err;
}

/* ---- pairs ---- */

/* How many are to take part: as many as the driver said, or, as nobody told us, those whose rings run. */
static unsigned count_pairs(const struct port *port)
{
	unsigned n = 0;

	if (port->driver.controlled)
		return port->driver.pairs;
	while (n < port->pairs && atomic_load(&port->shared.runs[n]))
		n++;
	return MAX(n, 1U);
}

unsigned host_pairs_cost(const struct port *port, unsigned n)
{
	unsigned changes = 0;

	for (unsigned i = 1; i < port->pairs && port->backend.ops->attach; i++)
		changes += port->host.attached[i] != (i < n);
	return changes;
}

static void tell_pairs(struct port *port, unsigned n)
{
	if (atomic_exchange(&port->shared.pairs, n) != n)
		port_wake(port);
}

static int set_pair(struct port *port, unsigned i, bool on)
{
	struct backend *b = &port->backend;
	int err = port->host.attached[i] == on ? 0 : b->ops->attach(b, i, on);
	char what[40];

	if (!err) {
		port->host.attached[i] = on;
		return 0;
	}
	snprintf(what, sizeof(what), "queue %u can't be %s", i, on ? "attached" : "detached");
	refused(port, err, what);
	return err;
}

int host_set_pairs(struct port *port)
{
	unsigned n = count_pairs(port), there = n;
	int last = 0;

	tell_pairs(port, MIN(n, atomic_load(&port->shared.pairs)));
	for (unsigned i = 1; i < port->pairs && port->backend.ops->attach; i++) {
		int err = set_pair(port, i, i < n);

		if (err && i < there)
			there = i;
		last = err ? err : last;
	}
	/* Frames may come as this driver takes them, or host_follow is about to see to that. */
	if (!host_offloads_cost(port, port->driver.offloads))
		tell_pairs(port, there);
	return last;
}

void host_follow(struct port *port)
{
	unsigned n = count_pairs(port), offloads = host_offloads_cost(port, port->driver.offloads);
	uint64_t now = clock_ns();
	uint64_t wait = take(port->host.pace[HOST_RINGS], now, host_pairs_cost(port, n) + offloads);

	if (!wait) {
		host_set_offloads(port);
		host_set_pairs(port);
		return;
	}
	tell_pairs(port, offloads ? 0 : MIN(n, atomic_load(&port->shared.pairs)));
	loop_arm_timer(port->host.later, now + wait);
}
