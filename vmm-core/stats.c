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

static void put_device(struct bus_msg *msg, const struct device *d)
{
	struct device_stats s;

	/* Names are cut at 31 bytes; of the id only what leaves room for the counter's own name is used. */
	device_get_stats(d, &s);
	put(msg, s.attached, "%.16s.attached", device_id(d));
	put(msg, s.lost, "%.16s.lost", device_id(d));
	put(msg, s.resumed, "%.16s.resumed", device_id(d));
	put(msg, s.resets, "%.16s.resets", device_id(d));
	put(msg, s.broken, "%.16s.broken", device_id(d));
	put(msg, s.hung, "%.16s.hung", device_id(d));
	put(msg, s.stalled, "%.16s.stalled", device_id(d));
	put(msg, s.failed, "%.16s.given-up", device_id(d));
	put(msg, s.handshake_ns, "%.16s.handshake-ns", device_id(d));
	put(msg, s.transport.kicks_exited, "%.16s.kicks-exited", device_id(d));
	put(msg, s.transport.config_interrupts, "%.16s.config-irqs", device_id(d));
	put(msg, s.transport.refused_writes, "%.16s.refused", device_id(d));
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
	for (unsigned i = 0; i < core->opts->n_devices; i++)
		put_device(msg, core->devices[i].device);
}
