/* SPDX-License-Identifier: Apache-2.0 */
/* The core's counters, as the bus carries them. */
#include <stdarg.h>
#include <stdio.h>

#include "core.h"
#include "log.h"
#include "num.h"
#include "pci.h"
#include "vcpu.h"
#include "watch.h"

static void put(struct bus_msg *msg, uint64_t value, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void put(struct bus_msg *msg, uint64_t value, const char *fmt, ...)
{
	struct bus_stat *s;
	va_list ap;

	if (msg->stats.count == BUS_STATS_MAX)
		return;
	s = &msg->stats.stat[msg->stats.count++];
	s->value = value;
	va_start(ap, fmt);
	vsnprintf(s->name, sizeof(s->name), fmt, ap);
	va_end(ap);
}

/* Those that matter most come first: at most so many of each device, and the number that were left out. */
static size_t put_device(struct bus_msg *msg, const struct device *d, size_t most)
{
	struct device_stats s;

	device_get_stats(d, &s);
	const struct {
		const char *name;
		uint64_t value;
	} all[] = {
		{ "lost", s.lost },
		{ "resumed", s.resumed },
		{ "hung", s.hung },
		{ "broken", s.broken },
		{ "given-up", s.failed },
		{ "stalled", s.stalled },
		{ "handshake-ns", s.handshake_ns },
		{ "attached", s.attached },
		{ "resets", s.resets },
		{ "kicks-exited", s.transport.kicks_exited },
		{ "config-irqs", s.transport.config_interrupts },
		{ "refused", s.transport.refused_writes },
	};

	/* Names are cut at 31 bytes; of the id only what leaves room for the counter's own name is used. */
	for (size_t i = 0; i < MIN(most, ARRAY_SIZE(all)); i++)
		put(msg, all[i].value, "%.16s.%s", device_id(d), all[i].name);
	return ARRAY_SIZE(all) - MIN(most, ARRAY_SIZE(all));
}

/* A message has a fixed number of places; with many devices each gets the same part of them. */
static void put_devices(const struct core *core, struct bus_msg *msg)
{
	size_t n = core->opts->n_devices, left_out = 0;
	/* One place is for the number that were left out. */
	size_t most = n ? (BUS_STATS_MAX - 1 - msg->stats.count) / n : 0;

	for (size_t i = 0; i < n; i++)
		left_out += put_device(msg, core->devices[i].device, most);
	put(msg, left_out, "stats.left-out");
}

/* All vCPUs together, since one message has no room for each of many. */
static void put_vcpus(const struct core *core, struct bus_msg *msg)
{
	struct vcpu_stats sum = { .io = 0 };

	for (unsigned i = 0; core->vcpus && i < vcpus_count(core->vcpus); i++) {
		struct vcpu_stats s;

		vcpus_get_stats(core->vcpus, i, &s);
		sum.io += s.io;
		sum.mmio += s.mmio;
		sum.other += s.other;
		sum.worst_ns = MAX(sum.worst_ns, s.worst_ns);
	}
	put(msg, sum.io, "vcpus.io-exits");
	put(msg, sum.mmio, "vcpus.mmio-exits");
	put(msg, sum.other, "vcpus.other-exits");
	put(msg, sum.worst_ns, "vcpus.worst-access-ns");
}

void stats_fill(const struct core *core, struct bus_msg *msg)
{
	struct watch_stats watch;
	struct pci_stats pci;

	pci_get_stats(core->pci, &pci);
	put(msg, pci.config_accesses, "pci.config");
	put(msg, pci.bar_accesses, "pci.bar");
	put(msg, pci.unclaimed, "pci.unclaimed");
	put(msg, log_dropped(), "log.dropped");
	watch_get_stats(core->watch, &watch);
	put(msg, watch.looks, "watch.looks");
	put(msg, watch.kicks, "watch.kicks");
	put_vcpus(core, msg);
	put_devices(core, msg);
}
