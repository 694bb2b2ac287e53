/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/stats: what of the core's counters fits into one message, with few devices and with many. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "bus_msg.h"
#include "core.h"
#include "pci.h"
#include "vcpu.h"
#include "watch.h"

#define OF_EACH 12 /* counters that a device has */

static struct options opts;
static struct core core = { .opts = &opts };
static struct bus_msg msg;

/* ---- who has the counters ---- */

static size_t place_of(const struct device *d)
{
	return (size_t)(uintptr_t)d;
}

void device_get_stats(const struct device *d, struct device_stats *out)
{
	*out = (struct device_stats) { .lost = 100 + place_of(d), .attached = 200 + place_of(d) };
}

const char *device_id(const struct device *d)
{
	static char id[OPTIONS_DEVICES_MAX + 1][32];

	snprintf(id[place_of(d)], sizeof(id[0]), "a-device-with-a-long-name-%zu", place_of(d));
	id[place_of(d)][0] = (char)('a' + place_of(d));
	return id[place_of(d)];
}

void pci_get_stats(const struct pci_bus *bus, struct pci_stats *out)
{
	(void)bus;
	*out = (struct pci_stats) { .config_accesses = 7 };
}

void watch_get_stats(const struct watch *w, struct watch_stats *out)
{
	(void)w;
	*out = (struct watch_stats) { .looks = 3 };
}

unsigned vcpus_count(const struct vcpus *all)
{
	(void)all;
	return 0;
}

void vcpus_get_stats(const struct vcpus *all, unsigned i, struct vcpu_stats *out)
{
	(void)all;
	(void)i;
	*out = (struct vcpu_stats) { .io = 0 };
}

/* ---- what the message says ---- */

static void fill(unsigned devices)
{
	opts.n_devices = devices;
	for (unsigned i = 0; i < devices; i++)
		core.devices[i].device = (struct device *)(uintptr_t)(i + 1);
	msg = (struct bus_msg) { .type = BUS_STATS };
	stats_fill(&core, &msg);
	cr_assert_leq(msg.stats.count, BUS_STATS_MAX);
	for (size_t i = 0; i < msg.stats.count; i++)
		for (size_t j = 0; j < i; j++)
			cr_assert_str_neq(msg.stats.stat[i].name, msg.stats.stat[j].name);
}

static const struct bus_stat *find(const char *name)
{
	for (size_t i = 0; i < msg.stats.count; i++)
		if (!strcmp(msg.stats.stat[i].name, name))
			return &msg.stats.stat[i];
	return NULL;
}

static uint64_t value_of(const char *name)
{
	cr_assert(find(name), "no counter %s", name);
	return find(name)->value;
}

/* So many of all devices together, and each has its share. */
static void check_devices(unsigned devices, size_t each)
{
	size_t fixed;
	char name[64];

	fill(0);
	fixed = msg.stats.count;
	cr_assert_eq(value_of("pci.config"), 7);
	cr_assert_eq(value_of("watch.looks"), 3);
	cr_assert_eq(value_of("stats.left-out"), 0);
	fill(devices);
	cr_assert_eq(msg.stats.count, fixed + devices * each, "%u devices: %zu counters", devices,
		     (size_t)msg.stats.count);
	cr_assert_eq(value_of("stats.left-out"), devices * (OF_EACH - each));
	for (unsigned i = 0; i < devices; i++) {
		snprintf(name, sizeof(name), "%.16s.lost", device_id(core.devices[i].device));
		cr_assert_eq(value_of(name), 101 + i);
		snprintf(name, sizeof(name), "%.16s.attached", device_id(core.devices[i].device));
		cr_assert_eq(find(name) != NULL, each == OF_EACH);
	}
}

Test(core_stats, few_devices_tell_all)
{
	check_devices(1, OF_EACH);
	check_devices(9, OF_EACH);
}

Test(core_stats, many_devices_tell_the_same_part_each_and_how_much_is_missing)
{
	check_devices(24, 4);
	check_devices(OPTIONS_DEVICES_MAX, 3);
}
