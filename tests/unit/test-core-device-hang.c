/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/device: back ends that hang or write nonsense, and devices that were given up and come back. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "device_rig.h"
#include "fd.h"
#include "flight.h"
#include "inflight.h"

#define TIMEOUT (160 * NS_PER_MS)

static struct flight *words; /* as the back end writes them */

static void set_up(void)
{
	device_set_up(TIMEOUT);
}

static void tear_down(void)
{
	device_tear_down();
	flight_free(words);
}

TestSuite(device_hang, .init = set_up, .fini = tear_down, .timeout = 60);

/* A connection of a process that has health words. */
static void connect_with_words(void)
{
	int fd = flight_create(2), reader = flight_reader(fd);
	struct flight *theirs;

	cr_assert_geq(reader, 0);
	flight_free(words);
	cr_assert_eq(flight_map(fd, true, &words), 0);
	cr_assert_eq(flight_map_health(reader, &theirs), 0);
	close(reader);
	close(fd);
	attach_with(theirs);
	probe_answer(VERSION1 | MQ, INFLIGHT, 2);
}

static void run_with_words(void)
{
	connect_with_words();
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
}

static void make_request(void)
{
	uint16_t *avail = ram_at(ram, AVAIL, 4);

	avail[1]++;
	fd_event_set(last_rings[0].kick);
}

static struct device_stats get_stats(void)
{
	struct device_stats s;

	device_get_stats(d, &s);
	return s;
}

Test(device_hang, fault_42_is_reported_and_replaced)
{
	run_with_words();
	make_request();
	DEVICE_UNTIL(hangs);
	cr_assert_eq(get_stats().hung, 1);
	cr_assert_eq(downs, 0, "the connection is its supervisor's to end");
	cr_assert_eq(status(), LIVE);
	/* It was killed and reaped; its successor hangs too. */
	connect_with_words();
	answer(&started, 0);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs, 2, "once for each connection");
	connect_with_words();
	answer(&started, 0);
	set_used_idx(1);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs, 2);
	cr_assert_eq(status(), LIVE);
}

Test(device_hang, without_health_words_it_is_left_alone)
{
	run();
	make_request();
	DEVICE_UNTIL(stalls);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs, 0);
	cr_assert_eq(get_stats().stalled, 1);
}

/* A driver that breaks its ring is told; that nothing gets on then is no fault of the back end. */
Test(device_hang, a_ring_that_its_driver_broke_is_not_watched)
{
	run_with_words();
	make_request();
	eventfd_write(last_rings[0].err, 1);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(hangs + stalls, 0);
	/* Nor for a successor, until the driver's reset. */
	connect_with_words();
	answer(&started, 0);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	memset(ram_at(ram, AVAIL, 4), 0, 4);
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
	make_request();
	DEVICE_UNTIL(hangs);
}

Test(device_hang, while_the_driver_resets_it_is_not_watched)
{
	run_with_words();
	make_request();
	set_status(0);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
}

Test(device_hang, fault_41_used_index_ahead_ends_the_connection)
{
	run_with_words();
	make_request();
	set_used_idx((uint16_t)(1 + 40000));
	DEVICE_UNTIL(downs);
	cr_assert_str_eq(reason, "its used index is not among the requests that the driver made available");
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(get_stats().broken, 1);
	cr_assert_null(fe);
	/* No successor gets such rings, until the driver has reset them. */
	starts = 0;
	connect_with_words();
	cr_assert_eq(starts, 0);
	set_status(0);
	machine_settle(&m);
	cr_assert_eq(status(), 0);
	set_used_idx(0);
	memset(ram_at(ram, AVAIL, 4), 0, 4);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 1);
	answer(&started, 0);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(downs, 1);
	cr_assert_eq(status(), LIVE);
}

/* The back end shares the kick's eventfd, and whatever it does to it neither a vCPU nor the main loop waits. */
Test(device_hang, fault_46_kicks_that_exit_do_not_block)
{
	const uint64_t most = UINT64_MAX - 1;

	run_with_words();
	make_request();
	fd_event_clear(last_rings[0].kick);
	cr_assert_eq(write(last_rings[0].kick, &most, sizeof(most)), sizeof(most));
	cr_assert_eq(fcntl(last_rings[0].kick, F_SETFL, 0), 0);
	for (unsigned i = 0; i < 100; i++)
		guest_write(&m, BAR + 0x3000, 2, 0);
	cr_assert_geq(get_stats().transport.kicks_exited, 100);
	/* Another address for the same registers: the kick that may have been missed meanwhile is made good. */
	guest_set_config(&m, 1, 0x10, 4, BAR + 0x100000);
	DEVICE_UNTIL(hangs);
}

/* Nobody can take memory away from under those who have it mapped. */
Test(device_hang, fault_39_what_the_core_hands_out_can_not_shrink)
{
	const int fds[] = { ram_fd(ram), -1 };

	run_with_words();
	for (unsigned i = 0; i < 2; i++) {
		int fd = i ? last_start.inflight_fd : fds[0];
		struct stat st;

		cr_assert_geq(fd, 0);
		cr_assert_eq(fstat(fd, &st), 0);
		cr_assert(ftruncate(fd, 0) < 0 && errno == EPERM, "%u", i);
		cr_assert(ftruncate(fd, st.st_size - 4096) < 0 && errno == EPERM, "%u", i);
		cr_assert(ftruncate(fd, st.st_size + 4096) < 0 && errno == EPERM, "%u", i);
		cr_assert(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM, "%u", i);
	}
}

/* The region is the core's own, made before any back end says a word of its size; what a back end can say is a number of
 * queues, at first and, of a successor, once it exists. */
Test(device_hang, fault_40_queue_counts_of_a_back_end)
{
	struct stat st;

	attach();
	probe_answer(VERSION1 | MQ, INFLIGHT, 0);
	cr_assert_eq(downs, 1, "none");
	attach();
	probe_answer(VERSION1 | MQ, INFLIGHT, UINT16_MAX);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(guest_read(&m, BAR + VIRTIO_PCI_COMMON_NUMQ, 2), VIRTIO_PCI_QUEUES_MAX);
	cr_assert_eq(last_start.inflight_queues, 1);
	cr_assert_eq(fstat(last_start.inflight_fd, &st), 0);
	cr_assert_geq((uint64_t)st.st_size,
		      VIRTIO_PCI_QUEUES_MAX * inflight_queue_bytes(VIRTIO_PCI_QUEUE_SIZE_MAX, true));
	answer(&started, 0);
	lose();
	attach();
	probe_answer(VERSION1 | MQ, INFLIGHT, 0);
	cr_assert_eq(downs, 3, "a successor without queues");
	attach();
	probe_answer(VERSION1 | MQ, INFLIGHT, 1);
	answer(&started, 0);
	cr_assert_eq(guest_read(&m, BAR + VIRTIO_PCI_COMMON_NUMQ, 2), VIRTIO_PCI_QUEUES_MAX);
	cr_assert_eq(fstat(last_start.inflight_fd, &st), 0);
	cr_assert_geq((uint64_t)st.st_size, last_start.inflight_size);
}

/* ---- given up ---- */

Test(device_hang, a_device_that_was_given_up_needs_a_reset)
{
	run_with_words();
	make_request();
	lose();
	device_fail(d);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(get_stats().transport.config_interrupts, 1);
	cr_assert_eq(guest_read(&m, BAR + 0x1000, 1), 2, "the ISR says so too");
	cr_assert_eq(get_stats().failed, 1);
	set_status(0);
	machine_settle(&m);
	cr_assert_eq(status(), 0, "no process is left that the reset would have to wait for");
	/* Its requests wait for whoever comes. */
	starts = 0;
	memset(ram_at(ram, AVAIL, 4), 0, 4);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(status(), LIVE);
	cr_assert_eq(starts, 0);
	connect_with_words();
	cr_assert_eq(starts, 1);
	answer(&started, 0);
	cr_assert_eq(status(), LIVE);
}

/* A driver that takes no notice of it, as Linux's, finds all as it was. */
Test(device_hang, a_device_that_comes_back_goes_on_with_live_rings)
{
	int inflight;

	run_with_words();
	inflight = last_start.inflight_fd;
	lose();
	device_fail(d);
	connect_with_words();
	cr_assert_eq(starts, 2);
	cr_assert_eq(last_start.inflight_fd, inflight);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
	make_request();
	DEVICE_UNTIL(hangs);
	set_status(0);
	machine_settle(&m);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET, "this process may write");
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
}

/* The order may come before the end of the connection does. */
Test(device_hang, given_up_before_the_connection_ended)
{
	run_with_words();
	device_fail(d);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	set_status(0);
	machine_settle(&m);
	cr_assert_neq(status(), 0);
	lose();
	machine_settle(&m);
	cr_assert_eq(status(), 0);
}

Test(device_hang, given_up_before_it_was_ever_there)
{
	device_fail(d);
	cr_assert_not(device_is_known(d));
	run_with_words();
	cr_assert_eq(status(), LIVE);
}
