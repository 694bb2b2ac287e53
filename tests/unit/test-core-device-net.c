/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/device: what is different for a network device, whose rings come in pairs with a control ring behind them. */
#include <criterion/criterion.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "device_rig.h"
#include "fd.h"
#include "flight.h"

#define TIMEOUT (160 * NS_PER_MS)

#define BIT(n)      (1ULL << (n))
#define CONTROL     BIT(VIRTIO_NET_F_CTRL_VQ)
#define PAIRS       (CONTROL | BIT(VIRTIO_NET_F_MQ))
#define CONFIG      (BAR + 0x2000)
#define FIELD(name) (CONFIG + offsetof(struct virtio_net_config, name))
#define RING(i)     (DESC + 0x100000ULL * (i)), (AVAIL + 0x100000ULL * (i)), (USED + 0x100000ULL * (i))

static struct flight *words; /* as the back end writes them */

static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

static void set_up(void)
{
	device_set_up_kind("net", TIMEOUT);
}

static void set_up_mac(void)
{
	device_mac = mac;
	set_up();
}

static void tear_down(void)
{
	device_tear_down();
	flight_free(words);
}

TestSuite(device_net, .init = set_up, .fini = tear_down, .timeout = 60);
TestSuite(device_net_mac, .init = set_up_mac, .fini = tear_down, .timeout = 60);

/* A back end that tells of so many pairs in its configuration space, and of so many when asked for queues. */
static void be_probed(uint64_t features, uint16_t pairs, uint16_t queues)
{
	const struct virtio_net_config config = { .max_virtqueue_pairs = pairs,
						  .status = VIRTIO_NET_S_LINK_UP,
						  .mtu = 9000 };

	memset(probing, 0, sizeof(*probing));
	probing->features = VERSION1 | features;
	probing->protocol_features = INFLIGHT;
	probing->queues = queues;
	probing->config_len = sizeof(config);
	memcpy(probing->config, &config, sizeof(config));
	answer(&probed, 0);
}

/* One that has no configuration space. */
static void be_probed_bare(uint64_t features, uint16_t queues)
{
	memset(probing, 0, sizeof(*probing));
	probing->features = VERSION1 | features;
	probing->queues = queues;
	answer(&probed, 0);
}

static unsigned rings(void)
{
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	return (unsigned)guest_read(&m, BAR + VIRTIO_PCI_COMMON_NUMQ, 2);
}

static uint64_t offered(void)
{
	uint64_t low, high;

	guest_write(&m, BAR + VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	low = guest_read(&m, BAR + VIRTIO_PCI_COMMON_DF, 4);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	high = guest_read(&m, BAR + VIRTIO_PCI_COMMON_DF, 4);
	return high << 32 | low;
}

Test(device_net, is_an_ethernet_controller)
{
	attach();
	be_probed(PAIRS, 2, 2);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	cr_assert_eq(guest_config(&m, 1, 2, 2), 0x1041);
	cr_assert_eq(guest_config(&m, 1, 8, 4) >> 8, 0x020000);
}

Test(device_net, has_two_rings_for_each_pair_and_one_for_control)
{
	attach();
	be_probed(PAIRS, 4, 4);
	cr_assert_eq(rings(), 9);
	cr_assert_eq(guest_read(&m, FIELD(max_virtqueue_pairs), 2), 4);
	cr_assert_eq(guest_read(&m, FIELD(mtu), 2), 9000);
}

Test(device_net, without_the_feature_there_is_one_pair)
{
	attach();
	be_probed(CONTROL, 4, 4);
	cr_assert_eq(rings(), 3);
}

/* As passt and DPDK, which count pairs or rings when they are asked for queues. */
Test(device_net, without_configuration_space_there_is_one_pair_and_no_control)
{
	attach();
	be_probed_bare(
	    PAIRS | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_MAC), 8);
	cr_assert_eq(rings(), 2);
	cr_assert_eq(offered() & ~VERSION1, BIT(VIRTIO_NET_F_MRG_RXBUF));
}

Test(device_net_mac, an_address_of_our_own_where_the_back_end_tells_none)
{
	attach();
	be_probed_bare(BIT(VIRTIO_NET_F_MRG_RXBUF), 1);
	rings();
	cr_assert_eq(offered() & ~VERSION1, BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_MAC));
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(guest_read(&m, CONFIG + i, 1), mac[i]);
	driver_low = (uint32_t)(BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_MAC));
	drive_features();
	drive_ring(0, RING(0));
	drive_ok();
	cr_assert_eq(last_start.features & ~VERSION1, BIT(VIRTIO_NET_F_MRG_RXBUF), "which it is not told of");
	answer(&started, 0);
	/* A successor fits. */
	lose();
	attach();
	be_probed_bare(BIT(VIRTIO_NET_F_MRG_RXBUF), 1);
	answer(&started, 0);
	cr_assert_eq(downs, 1);
	cr_assert_eq(status(), LIVE);
}

Test(device_net_mac, a_back_end_that_tells_its_address_has_it_shown)
{
	attach();
	be_probed(BIT(VIRTIO_NET_F_MAC), 1, 1);
	rings();
	cr_assert_eq(offered() & ~VERSION1, BIT(VIRTIO_NET_F_MAC));
	cr_assert_eq(guest_read(&m, CONFIG, 1), 0);
}

Test(device_net, a_back_end_that_counts_fewer_pairs_than_it_configures)
{
	attach();
	be_probed(PAIRS, 4, 2);
	cr_assert_eq(rings(), 5);
	cr_assert_eq(guest_read(&m, FIELD(max_virtqueue_pairs), 2), 2, "the driver is told of what there is");
}

Test(device_net, more_pairs_than_the_transport_has_rings)
{
	attach();
	be_probed(PAIRS, 0x8000, 256);
	cr_assert_eq(rings(), 255);
	cr_assert_eq(guest_read(&m, FIELD(max_virtqueue_pairs), 2), 127);
}

Test(device_net, offers_the_newer_features_that_it_knows)
{
	const uint64_t known =
	    BIT(VIRTIO_NET_F_NOTF_COAL) | BIT(54) | BIT(55) | BIT(56) | BIT(VIRTIO_NET_F_SPEED_DUPLEX);

	attach();
	be_probed(CONTROL | known | BIT(VIRTIO_NET_F_STANDBY) | BIT(VIRTIO_NET_F_RSC_EXT) | BIT(50) | BIT(4),
		  1, 1);
	rings();
	cr_assert_eq(offered() & ~VERSION1, CONTROL | known);
}

Test(device_net, rings_are_handed_over_where_the_driver_has_them)
{
	attach();
	be_probed(PAIRS, 2, 2);
	driver_low = (uint32_t)PAIRS;
	drive_features();
	drive_ring(0, RING(0));
	drive_ring(1, RING(1));
	drive_ring(4, RING(4));
	drive_ok();
	cr_assert_eq(last_start.n_rings, 5);
	cr_assert_eq(last_start.inflight_queues, 5);
	cr_assert_eq(last_rings[2].size, 0);
	cr_assert_eq(last_rings[3].size, 0);
	cr_assert_eq(last_rings[4].size, 16);
	cr_assert_eq(last_start.features & ~VERSION1, PAIRS);
	answer(&started, 0);
}

/* ---- what the watch sees ---- */

static void run_with_rings(uint64_t features, unsigned n_rings)
{
	int fd = flight_create(5), reader = flight_reader(fd);
	struct flight *theirs;

	cr_assert_geq(reader, 0);
	cr_assert_eq(flight_map(fd, true, &words), 0);
	cr_assert_eq(flight_map_health(reader, &theirs), 0);
	close(reader);
	close(fd);
	attach_with(theirs);
	be_probed(PAIRS, 2, 2);
	driver_low = (uint32_t)features;
	drive_features();
	for (unsigned i = 0; i < n_rings; i++)
		drive_ring(i, RING(i));
	drive_ok();
	answer(&started, 0);
}

static void run_with_words(uint64_t features)
{
	run_with_rings(features, features & BIT(VIRTIO_NET_F_MQ) ? 5 : 3);
}

static void make_available(unsigned ring)
{
	uint16_t *avail = ram_at(ram, AVAIL + 0x100000ULL * ring, 4);

	avail[1]++;
	fd_event_set(last_rings[ring].kick);
}

Test(device_net, buffers_that_nothing_comes_into_are_no_hang)
{
	run_with_words(PAIRS);
	make_available(0);
	make_available(2);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	make_available(3);
	DEVICE_UNTIL(hangs);
}

Test(device_net, frames_that_the_network_holds_are_no_hang)
{
	run_with_words(PAIRS);
	make_available(1);
	for (uint64_t end = clock_ns() + DEVICE_DEADLINE; !stalls && clock_ns() < end;) {
		/* It looks at its ring, whose frames lie with the backend. */
		struct flight_queue *q = (struct flight_queue *)(uintptr_t)flight_queue(words, 1);

		flight_set(&q->passes, flight_get(&q->passes) + 1);
		flight_set(&q->held, 1);
		cr_assert_eq(loop_run_once(m.loop, (int64_t)NS_PER_MS), 0);
	}
	cr_assert_eq(stalls, 1);
	cr_assert_eq(hangs, 0);
	cr_assert_str_eq(reason, "its network, or a limit, holds what was sent");
}

Test(device_net, a_control_ring_that_is_not_answered_is_a_hang)
{
	run_with_words(PAIRS);
	make_available(4);
	DEVICE_UNTIL(hangs);
}

/* Where the third ring is the control ring, as the driver uses one pair. */
Test(device_net, a_control_ring_behind_one_pair_is_watched_too)
{
	run_with_words(CONTROL);
	make_available(0);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	make_available(2);
	DEVICE_UNTIL(hangs);
}

/* A driver may set up rings that its features do not name; the back end does not owe them anything. */
Test(device_net, rings_that_no_feature_names_are_no_hang)
{
	run_with_rings(CONTROL, 5);
	make_available(3);
	make_available(4);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	make_available(1);
	DEVICE_UNTIL(hangs);
}

Test(device_net, a_control_ring_without_its_feature_is_no_hang)
{
	run_with_rings(0, 3);
	make_available(2);
	device_run_for(3 * TIMEOUT);
	cr_assert_eq(hangs + stalls, 0);
	make_available(1);
	DEVICE_UNTIL(hangs);
}

/* ---- link status ---- */

Test(device_net, a_change_of_the_link_interrupts_the_driver)
{
	unsigned generation;
	uint8_t isr;

	attach();
	be_probed(CONTROL, 1, 1);
	driver_low = (uint32_t)CONTROL;
	drive_features();
	drive_ring(0, RING(0));
	drive_ok();
	answer(&started, 0);
	generation = (unsigned)guest_read(&m, BAR + VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	guest_read(&m, BAR + 0x1000, 1);
	fe->ops->config_changed(fe->arg);
	answer(&config_read, 0);
	machine_settle(&m);
	cr_assert_neq(guest_read(&m, BAR + VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	isr = (uint8_t)guest_read(&m, BAR + 0x1000, 1);
	cr_assert_eq(isr, 2, "the configuration bit: %u", isr);
	cr_assert_eq(guest_read(&m, FIELD(status), 2), 0x5a5a);
	cr_assert_eq(guest_read(&m, FIELD(max_virtqueue_pairs), 2), 1);
}
