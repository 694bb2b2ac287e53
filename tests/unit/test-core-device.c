/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/device: back ends that come, die, hang and do not fit, behind a driver that must not notice. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "device_rig.h"
#include "inflight.h"

/* Rings are made up here as they never are: nobody watches them. */
static void set_up(void)
{
	device_set_up(0);
}

TestSuite(device, .init = set_up, .fini = device_tear_down);

Test(device, is_known_once_it_was_probed)
{
	attach();
	cr_assert_not(device_is_known(d));
	cr_assert_eq(ups, 0);
	probe();
	cr_assert(device_is_known(d));
	cr_assert_eq(ups, 1);
	cr_assert_eq(resumes, 0);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	cr_assert_eq(guest_read(&m, BAR + VIRTIO_PCI_COMMON_NUMQ, 2), 2);
	cr_assert_eq(guest_config(&m, 1, 0, 4), 0x10421af4);
}

Test(device, driver_ok_hands_the_rings_over)
{
	set_used_idx(7);
	probe();
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 1);
	cr_assert_eq(last_start.features, VERSION1);
	cr_assert_eq(last_start.n_rings, 1);
	cr_assert_eq(last_rings[0].size, 16);
	cr_assert_eq(last_rings[0].desc, (uintptr_t)ram_at(ram, DESC, 1));
	cr_assert_eq(last_rings[0].used, (uintptr_t)ram_at(ram, USED, 1));
	cr_assert_eq(last_rings[0].base, 7);
	cr_assert_geq(last_start.inflight_fd, 0);
	cr_assert_geq(last_start.inflight_size, inflight_queue_bytes(16, false));
	cr_assert_eq(last_start.inflight_queue_size, 16);
	answer(&started, 0);
	cr_assert_eq(ups, 1, "it was up before the driver came");
	cr_assert_eq(m.vm.n_kicks, 1);
}

/* Law 1: nothing the guest does to the registers waits for a process that says nothing. */
Test(device, a_silent_back_end_does_not_hold_a_register_access_up)
{
	uint64_t worst = 0;

	probe();
	drive(DESC, AVAIL, USED);
	set_status(0);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t from = clock_ns(), took;

		guest_read(&m, BAR + i % 0x40, 4);
		guest_write(&m, BAR + 0x3000, 2, 0);
		set_status(0);
		cr_assert_eq(status(), LIVE, "the reset is not complete");
		took = clock_ns() - from;
		worst = took > worst ? took : worst;
		loop_run_once(m.loop, 0);
	}
	cr_assert_lt(worst, 10 * NS_PER_S);
	answer(&started, 0);
	cr_assert_eq(status(), LIVE);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
}

Test(device, a_dead_back_end_is_replaced_on_live_rings)
{
	int inflight, kick, call;

	run();
	inflight = last_start.inflight_fd;
	kick = last_rings[0].kick;
	call = last_rings[0].call;
	lose();
	cr_assert_eq(downs, 1);
	cr_assert_eq(status(), LIVE, "the guest sees a stall only");
	set_used_idx(42);
	probe();
	cr_assert_eq(starts, 2);
	cr_assert_eq(resumes, 0, "not before it has the rings");
	cr_assert_eq(last_start.inflight_fd, inflight);
	cr_assert_eq(last_rings[0].kick, kick);
	cr_assert_eq(last_rings[0].call, call);
	cr_assert_eq(last_rings[0].base, 42);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
	cr_assert_eq(m.vm.n_kicks, 1);
}

Test(device, a_death_while_starting)
{
	probe();
	drive(DESC, AVAIL, USED);
	lose();
	probe();
	cr_assert_eq(starts, 2);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
}

Test(device, a_death_while_probing)
{
	attach();
	lose();
	cr_assert_eq(downs, 1);
	cr_assert_not(device_is_known(d));
	probe();
	cr_assert(device_is_known(d));
}

Test(device, replaced_without_a_death)
{
	run();
	probe();
	cr_assert_eq(downs, 0);
	cr_assert_eq(starts, 2);
}

Test(device, fault_26_a_reset_pending_at_the_death_completes_when_the_process_is_gone)
{
	run();
	set_status(0);
	machine_settle(&m);
	lose();
	cr_assert_eq(status(), LIVE, "the old process may still write");
	attach();
	machine_settle(&m);
	cr_assert_eq(status(), 0);
	answer(&probed, 0);
	cr_assert_eq(starts, 1);
}

Test(device, a_reset_of_rings_that_no_process_has_is_immediate)
{
	probe();
	lose();
	drive(DESC, AVAIL, USED);
	set_status(0);
	machine_settle(&m);
	cr_assert_eq(status(), 0);
}

Test(device, restarted_after_a_reset)
{
	run();
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
	cr_assert_eq(m.vm.n_kicks, 0);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 2);
}

Test(device, a_successor_that_lacks_features_is_refused)
{
	driver_low = MQ;
	run();
	lose();
	probe_with(VERSION1, INFLIGHT, 2);
	cr_assert_eq(downs, 2);
	cr_assert_str_eq(reason, "the back end lacks features that the driver was given");
	cr_assert_eq(starts, 1);
	cr_assert_eq(status(), LIVE);
	probe_with(VERSION1 | MQ, 0, 2);
	cr_assert_eq(starts, 1, "one that can't take over what is in flight");
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(device, without_in_flight_tracking_it_goes_on_at_the_used_index)
{
	probe_with(VERSION1, 0, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(last_start.inflight_fd, -1);
	answer(&started, 0);
	lose();
	set_used_idx(5);
	probe_with(VERSION1, 0, 1);
	cr_assert_eq(last_rings[0].base, 5);
}

/* A driver that chose write-through sends no flushes: a successor must not go back to its own default. */
Test(device, a_successor_is_told_what_the_driver_wrote)
{
	const uint64_t features = VERSION1 | 1ULL << 11;

	driver_low = 1U << 11;
	probe_with(features, INFLIGHT, 1);
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
	guest_write(&m, BAR + 0x2000 + 32, 1, 1);
	machine_settle(&m);
	cr_assert_eq(sets, 1);
	lose();
	starts = 0;
	probe_with(features, INFLIGHT, 1);
	cr_assert(sets == 2 && last_wce == 1);
	cr_assert_eq(sets_before_start, 1, "before it has the rings");
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 32, 1), 1, "the driver sees no other value");
	answer(&started, 0);
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	probe_with(features, INFLIGHT, 1);
	cr_assert_eq(sets, 2, "after a reset it is as new");
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 32, 1), 0);
}

static bool offers_packed(void)
{
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return guest_read(&m, BAR + VIRTIO_PCI_COMMON_DF, 4) >> (VIRTIO_F_RING_PACKED - 32) & 1;
}

Test(device, packed_rings_are_offered_only_with_in_flight_tracking)
{
	probe_with(VERSION1 | 1ULL << VIRTIO_F_RING_PACKED, 0, 1);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	cr_assert_not(offers_packed());
	probe_with(VERSION1 | 1ULL << VIRTIO_F_RING_PACKED, INFLIGHT, 1);
	cr_assert(offers_packed());
}

/* The region goes to the successor as it stands; positions in it count, and no base (vhost-user "Inflight"). */
Test(device, a_packed_ring_is_taken_over)
{
	const uint64_t features = VERSION1 | 1ULL << VIRTIO_F_RING_PACKED;
	int inflight;

	driver_high = 1U << (VIRTIO_F_RING_PACKED - 32);
	probe_with(features, INFLIGHT, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(last_start.features, features);
	cr_assert_eq(last_rings[0].base, 0x80008000);
	inflight = last_start.inflight_fd;
	answer(&started, 0);
	lose();
	probe_with(features, INFLIGHT, 1);
	cr_assert_eq(starts, 2);
	cr_assert_eq(last_start.inflight_fd, inflight);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
	cr_assert_eq(status(), LIVE);
}

/* No shortage of descriptors while the device is made leaves half a device behind. */
Test(device, fault_45_too_few_descriptors_are_survived)
{
	struct rlimit limit;
	int lowest = dup(0);
	unsigned tries = 0;

	close(lowest);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (rlim_t room = 0; !device_is_known(d); room++, tries++) {
		struct rlimit tight = { .rlim_cur = (rlim_t)lowest + 1 + room, .rlim_max = limit.rlim_max };

		cr_assert_lt(room, 64);
		attach();
		memset(probing, 0, sizeof(*probing));
		probing->features = VERSION1;
		probing->protocol_features = INFLIGHT;
		probing->queues = 1;
		probing->config_len = 60;
		setrlimit(RLIMIT_NOFILE, &tight);
		answer(&probed, 0);
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	cr_assert_gt(tries, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_geq(last_start.inflight_fd, 0);
}

/* A back end refuses an in-flight region for no ring. */
Test(device, a_driver_without_a_ring_is_served_nothing)
{
	probe();
	drive_features();
	drive_ok();
	cr_assert_eq(last_start.n_rings, 0);
	cr_assert_eq(last_start.inflight_fd, -1);
	answer(&started, 0);
	cr_assert_eq(downs, 0);
	fe->ops->lost(fe->arg, 0, "it died");
	probe();
	cr_assert_eq(last_start.inflight_fd, -1, "nor is its successor");
	answer(&started, 0);
	cr_assert_eq(downs, 1);
}

Test(device, a_refusal_is_a_loss)
{
	probe();
	drive(DESC, AVAIL, USED);
	answer(&started, -EREMOTEIO);
	cr_assert_eq(downs, 1);
	cr_assert_str_eq(reason, "the back end refused its rings");
	cr_assert_null(fe);
}

Test(device, a_connection_that_ends_is_reported_once)
{
	vhost_fe_done_fn done;

	probe();
	drive(DESC, AVAIL, USED);
	done = started;
	done(done_arg, -ETIMEDOUT);
	cr_assert_eq(downs, 0);
	fe->ops->lost(fe->arg, -ETIMEDOUT, "the back end did not answer in time");
	cr_assert_eq(downs, 1);
	cr_assert_str_eq(reason, "the back end did not answer in time");
}

/* FAULTS 5, 14: a ring where none can be never reaches a back end. */
Test(device, rings_outside_of_ram_need_a_reset)
{
	static const uint64_t bad[][3] = {
		{ 16 << 20, AVAIL, USED }, { DESC, (16 << 20) - 2, USED }, { DESC, AVAIL, UINT64_MAX - 3 },
		{ DESC + 8, AVAIL, USED }, { DESC, AVAIL + 1, USED },      { DESC, AVAIL, USED + 2 },
		{ DESC, DESC + 16, USED }, { DESC, AVAIL, AVAIL },         { DESC, AVAIL, DESC + 0xfc },
	};

	probe();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		drive(bad[i][0], bad[i][1], bad[i][2]);
		cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET, "%u", i);
		cr_assert_eq(starts, 0);
		set_status(0);
		machine_settle(&m);
		cr_assert_eq(status(), 0);
	}
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 1);
}

Test(device, a_broken_ring_needs_a_reset)
{
	struct device_stats stats;

	run();
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	device_get_stats(d, &stats);
	cr_assert_eq(stats.broken, 1, "a flood of them is looked at once");
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(device, a_changed_configuration_is_read_and_shown)
{
	run();
	fe->ops->config_changed(fe->arg);
	fe->ops->config_changed(fe->arg);
	answer(&config_read, 0);
	answer(&config_read, 0);
	cr_assert_null(config_read);
	cr_assert_eq(guest_read(&m, BAR + 0x2000, 1), 0x5a);
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 34, 2), 2, "but not the number of queues");
}

Test(device, a_back_end_that_is_no_modern_device)
{
	probe_with(MQ, INFLIGHT, 1);
	cr_assert_eq(downs, 1);
	cr_assert_not(device_is_known(d));
	probe_with(VERSION1, INFLIGHT, 0);
	cr_assert_eq(downs, 2);
}
