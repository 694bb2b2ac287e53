/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/virtio_pci: the driver's state machine and every register, as a guest reaches them. */
#include <criterion/criterion.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vm.h"
#include "layout.h"
#include "virtio_pci.h"

#define SLOT    1
#define QUEUES  4
#define BAR     LAYOUT_MMIO32_START
#define COMMON  BAR
#define ISR     (BAR + 0x1000)
#define CONFIG  (BAR + 0x2000)
#define NOTIFY  (BAR + 0x3000)
#define WCE_BIT 11
#define WCE_OFF 32
#define LIVE                                                                                                 \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |                \
	 VIRTIO_CONFIG_S_DRIVER_OK)
#define OFFERED (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << WCE_BIT)

static struct machine m;
static struct virtio_pci *t;
static _Atomic unsigned driver_oks, resets, config_writes;
static uint8_t config[60];

static void on_driver_ok(void *arg)
{
	(void)arg;
	driver_oks++;
}

static void on_reset(void *arg)
{
	(void)arg;
	resets++;
}

static void on_config(void *arg)
{
	(void)arg;
	config_writes++;
}

static void set_up(void)
{
	static const struct virtio_pci_ops ops = { .driver_ok = on_driver_ok,
						   .reset = on_reset,
						   .config_written = on_config };
	struct virtio_pci_args args = { .slot = SLOT,
					.device_id = 2,
					.class = 0x018000,
					.queues = QUEUES,
					.config_write_off = WCE_OFF,
					.config_write_len = 1,
					.config_write_max = 0x77,
					.config_write_feature = WCE_BIT,
					.ops = &ops };

	machine_init(&m);
	args.vm = &m.vm;
	args.bus = m.pci;
	args.loop = m.loop;
	cr_assert_eq(virtio_pci_new(&args, &t), 0);
	for (unsigned i = 0; i < sizeof(config); i++)
		config[i] = (uint8_t)(i + 1);
	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	machine_settle(&m);
}

static void tear_down(void)
{
	virtio_pci_free(t);
	cr_assert_eq(m.vm.n_kicks, 0, "an ioeventfd was left behind");
	machine_fini(&m);
}

TestSuite(virtio, .init = set_up, .fini = tear_down);

static uint64_t common(unsigned off, unsigned size)
{
	return guest_read(&m, COMMON + off, size);
}

static void set_common(unsigned off, unsigned size, uint64_t value)
{
	guest_write(&m, COMMON + off, size, value);
}

static uint64_t status(void)
{
	return common(VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(uint8_t value)
{
	set_common(VIRTIO_PCI_COMMON_STATUS, 1, value);
}

static void set_features(uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		set_common(VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		set_common(VIRTIO_PCI_COMMON_GF, 4, features >> i * 32 & 0xffffffff);
	}
}

static void negotiate(uint64_t features)
{
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_features(features);
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static void enable_queue(unsigned queue)
{
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
	set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 128);
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x10000);
	set_common(VIRTIO_PCI_COMMON_Q_AVAILLO, 4, 0x20000);
	set_common(VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 1);
	set_common(VIRTIO_PCI_COMMON_Q_USEDLO, 4, 0x30000);
	set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static void go_live(void)
{
	negotiate(OFFERED);
	enable_queue(0);
	enable_queue(2);
	set_status(LIVE);
}

Test(virtio, capabilities_name_structures_within_the_bar)
{
	unsigned seen = 0;

	for (unsigned at = (unsigned)guest_config(&m, SLOT, PCI_CAPABILITY_LIST, 1); at;
	     at = (unsigned)guest_config(&m, SLOT, at + 1, 1)) {
		uint64_t type = guest_config(&m, SLOT, at + VIRTIO_PCI_CAP_CFG_TYPE, 1);

		if (guest_config(&m, SLOT, at, 1) != PCI_CAP_ID_VNDR)
			continue;
		seen |= 1u << type;
		cr_assert_leq(guest_config(&m, SLOT, at + VIRTIO_PCI_CAP_OFFSET, 4) +
				  guest_config(&m, SLOT, at + VIRTIO_PCI_CAP_LENGTH, 4),
			      0x10000);
	}
	cr_assert_eq(seen, 0x3e, "common, notify, ISR, device and PCI configuration access");
}

Test(virtio, features_are_shown_in_halves)
{
	cr_assert_eq(common(VIRTIO_PCI_COMMON_DF, 4), OFFERED & 0xffffffff);
	set_common(VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_DF, 4), OFFERED >> 32);
	set_common(VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_DF, 4), 0);
	virtio_pci_offer(t, UINT64_MAX, config, sizeof(config));
	set_common(VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_DF, 4) & 0x3ffff, 1 | 1 << 2 | 1 << 3,
		     "of the transport's features only those that this one has");
}

Test(virtio, a_driver_comes_up)
{
	go_live();
	cr_assert_eq(status(), LIVE);
	cr_assert_eq(driver_oks, 1);
	set_status(LIVE);
	cr_assert_eq(driver_oks, 1, "reported once");
}

Test(virtio, fault_24_features_not_offered_are_refused)
{
	negotiate(OFFERED | 1ULL << 5);
	cr_assert_eq(status(), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	set_features(OFFERED & ~(1ULL << VIRTIO_F_VERSION_1));
	set_status(VIRTIO_CONFIG_S_FEATURES_OK);
	cr_assert_not(status() & VIRTIO_CONFIG_S_FEATURES_OK, "a legacy driver");
	set_features(1ULL << VIRTIO_F_VERSION_1);
	set_status(VIRTIO_CONFIG_S_FEATURES_OK);
	cr_assert(status() & VIRTIO_CONFIG_S_FEATURES_OK);
}

Test(virtio, driver_ok_needs_features_ok)
{
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	cr_assert_not(status() & VIRTIO_CONFIG_S_DRIVER_OK);
	cr_assert_eq(driver_oks, 0);
}

/* FAULTS 24: what a live device was started with can't be renegotiated. */
Test(virtio, fault_24_features_are_fixed_once_agreed)
{
	uint64_t acked;

	go_live();
	set_features(1ULL << VIRTIO_F_VERSION_1);
	cr_assert(virtio_pci_get_acked(t, &acked));
	cr_assert_eq(acked, OFFERED);
}

Test(virtio, a_reset_before_driver_ok_is_immediate)
{
	uint64_t acked;

	negotiate(OFFERED);
	enable_queue(1);
	set_common(VIRTIO_PCI_COMMON_MSIX, 2, 0);
	set_status(0);
	cr_assert_eq(status(), 0);
	cr_assert_eq(resets, 0);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	cr_assert_not(virtio_pci_get_acked(t, &acked));
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VIRTIO_PCI_QUEUE_SIZE_MAX);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
}

Test(virtio, fault_26_a_reset_of_a_live_device_ends_when_it_has_stopped)
{
	go_live();
	set_status(0);
	cr_assert_eq(resets, 1);
	cr_assert_eq(status(), LIVE, "the old status until then");
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_status(0);
	set_features(0);
	cr_assert_eq(status(), LIVE);
	cr_assert_eq(resets, 1);
	virtio_pci_reset_done(t);
	cr_assert_eq(status(), 0);
	go_live();
	cr_assert_eq(driver_oks, 2);
}

/* FAULTS 13 */
Test(virtio, fault_13_queue_registers_are_fixed_once_enabled)
{
	negotiate(OFFERED);
	enable_queue(0);
	set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0xdead0000);
	set_common(VIRTIO_PCI_COMMON_Q_USEDHI, 4, 1);
	set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x10000);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_AVAILLO, 8), 0x100020000);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_USEDHI, 4), 0);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	set_status(LIVE);
	enable_queue(1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0, "too late for another queue");
}

/* FAULTS 12 */
Test(virtio, fault_12_queue_sizes)
{
	static const uint16_t bad[] = { 0, 3, 129, 512, 32768, 65535 };

	negotiate(OFFERED);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, bad[i]);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VIRTIO_PCI_QUEUE_SIZE_MAX, "%u", bad[i]);
	}
	set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 1);
}

Test(virtio, fault_28_queues_that_do_not_exist)
{
	for (unsigned q = QUEUES; q <= 0xffff; q = q * 2 + 1) {
		negotiate(OFFERED);
		enable_queue(q);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
		set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	}
}

Test(virtio, fault_27_vectors)
{
	set_common(VIRTIO_PCI_COMMON_MSIX, 2, QUEUES);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_MSIX, 2), QUEUES);
	set_common(VIRTIO_PCI_COMMON_MSIX, 2, QUEUES + 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 3);
	set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
}

Test(virtio, kicks_are_wired_and_follow_the_bar)
{
	uint64_t new = BAR + 0x500000;

	go_live();
	cr_assert_eq(m.vm.n_kicks, 0);
	virtio_pci_wire(t);
	cr_assert_eq(m.vm.n_kicks, 2, "one for each enabled queue");
	cr_assert_eq(fake_kick(&m.vm, NOTIFY)->fd, virtio_pci_kick_fd(t, 0));
	cr_assert_eq(fake_kick(&m.vm, NOTIFY + 8)->fd, virtio_pci_kick_fd(t, 2));

	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, new);
	guest_write(&m, new + 0x3000 + 8, 2, 2);
	machine_settle(&m);
	cr_assert(event_taken(virtio_pci_kick_fd(t, 2)), "served by the core until the kernel knows");
	cr_assert_null(fake_kick(&m.vm, NOTIFY));
	cr_assert_not_null(fake_kick(&m.vm, new + 0x3000));
	cr_assert(event_taken(virtio_pci_kick_fd(t, 0)), "a kick may have hit neither place");

	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 0);
	machine_settle(&m);
	cr_assert_eq(m.vm.n_kicks, 0, "decoding is off");
	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 2);
	machine_settle(&m);
	cr_assert_eq(m.vm.n_kicks, 2);
	set_status(0);
	virtio_pci_reset_done(t);
	cr_assert_eq(m.vm.n_kicks, 0);
}

/* FAULTS 28 */
Test(virtio, fault_28_notifications)
{
	struct virtio_pci_stats stats;

	go_live();
	guest_write(&m, NOTIFY + 4, 2, 1);
	cr_assert_not(event_taken(virtio_pci_kick_fd(t, 1)), "a vCPU touches nothing that a back end shares");
	machine_settle(&m);
	cr_assert(event_taken(virtio_pci_kick_fd(t, 1)));
	cr_assert_not(event_taken(virtio_pci_kick_fd(t, 0)));
	guest_write(&m, NOTIFY, 2, 0xffff);
	machine_settle(&m);
	cr_assert(event_taken(virtio_pci_kick_fd(t, 0)), "the address counts, not the value");
	guest_write(&m, NOTIFY + QUEUES * 4, 2, 0);
	guest_write(&m, NOTIFY + 255 * 4, 4, 0);
	virtio_pci_get_stats(t, &stats);
	cr_assert_eq(stats.kicks_exited, 2);
	cr_assert_eq(guest_read(&m, NOTIFY, 4), 0);
}

/* FAULTS 23 */
Test(virtio, fault_23_device_configuration)
{
	cr_assert_eq(guest_read(&m, CONFIG, 8), 0x0807060504030201);
	cr_assert_eq(guest_read(&m, CONFIG + 3, 1), 4);
	cr_assert_eq(guest_read(&m, CONFIG + 3, 2), 0x0504);
	cr_assert_eq(guest_read(&m, CONFIG + 59, 4), 60, "past the end");
	cr_assert_eq(guest_read(&m, CONFIG + 60, 8), 0);
	cr_assert_eq(guest_read(&m, CONFIG + 255, 8) & 0xff, 0);
	guest_write(&m, CONFIG + 255, 8, UINT64_MAX);
	go_live();
	guest_write(&m, CONFIG, 4, 0);
	guest_write(&m, CONFIG + WCE_OFF, 2, 0);
	cr_assert_eq(guest_read(&m, CONFIG, 4), 0x04030201, "not writable");
	cr_assert_eq(config_writes, 0, "a write that also means the next byte");
}

Test(virtio, a_configuration_write_is_handed_on)
{
	uint8_t buf[VIRTIO_PCI_CONFIG_MAX];
	uint32_t off, len;

	guest_write(&m, CONFIG + WCE_OFF, 1, 0);
	cr_assert_eq(config_writes, 0, "nothing is negotiated");
	negotiate(OFFERED & ~(1ULL << WCE_BIT));
	guest_write(&m, CONFIG + WCE_OFF, 1, 0);
	cr_assert_eq(config_writes, 0, "the feature is not negotiated");
	set_status(0);
	negotiate(OFFERED);
	guest_write(&m, CONFIG + WCE_OFF, 1, 0x77);
	cr_assert_eq(config_writes, 1);
	cr_assert(virtio_pci_take_config_write(t, &off, &len, buf));
	cr_assert(off == WCE_OFF && len == 1 && buf[0] == 0x77);
	cr_assert_not(virtio_pci_take_config_write(t, &off, &len, buf));
}

/* A back end would refuse it, and end over it. */
Test(virtio, a_configuration_value_that_the_device_does_not_know_stays_here)
{
	uint64_t before;

	negotiate(OFFERED);
	before = guest_read(&m, CONFIG + WCE_OFF, 1);
	guest_write(&m, CONFIG + WCE_OFF, 1, 0x78);
	guest_write(&m, CONFIG + WCE_OFF, 1, 0xff);
	cr_assert_eq(config_writes, 0);
	cr_assert_eq(guest_read(&m, CONFIG + WCE_OFF, 1), before);
}

Test(virtio, a_write_that_nobody_took_outlives_an_older_reading)
{
	uint8_t buf[VIRTIO_PCI_CONFIG_MAX];
	uint32_t off, len;

	go_live();
	guest_write(&m, CONFIG + WCE_OFF, 1, 0x77);
	config[0] = 99;
	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	cr_assert_eq(guest_read(&m, CONFIG, 1), 99);
	cr_assert(virtio_pci_take_config_write(t, &off, &len, buf));
	cr_assert_eq(buf[0], 0x77, "%#x", buf[0]);
	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	cr_assert_eq(guest_read(&m, CONFIG + WCE_OFF, 1), WCE_OFF + 1,
		     "once it was taken the back end's word counts");
}

Test(virtio, a_changed_configuration_is_told)
{
	uint64_t before = common(VIRTIO_PCI_COMMON_CFGGENERATION, 1);

	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	cr_assert_eq(common(VIRTIO_PCI_COMMON_CFGGENERATION, 1), before, "nothing changed");
	go_live();
	config[0] = 99;
	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	cr_assert_neq(common(VIRTIO_PCI_COMMON_CFGGENERATION, 1), before);
	cr_assert_eq(guest_read(&m, CONFIG, 1), 99);
	cr_assert_eq(guest_read(&m, ISR, 1), 2);
	cr_assert_eq(guest_read(&m, ISR, 1), 0, "reading clears it");
}

Test(virtio, needs_reset)
{
	virtio_pci_needs_reset(t);
	cr_assert_eq(status(), 0, "nothing is live");
	go_live();
	virtio_pci_needs_reset(t);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(guest_read(&m, ISR, 1), 2);
	set_status(0);
	virtio_pci_reset_done(t);
	cr_assert_eq(status(), 0);
}

static unsigned window_cap(void)
{
	unsigned at = (unsigned)guest_config(&m, SLOT, PCI_CAPABILITY_LIST, 1);

	while (guest_config(&m, SLOT, at, 1) != PCI_CAP_ID_VNDR ||
	       guest_config(&m, SLOT, at + VIRTIO_PCI_CAP_CFG_TYPE, 1) != VIRTIO_PCI_CAP_PCI_CFG)
		at = (unsigned)guest_config(&m, SLOT, at + 1, 1);
	return at;
}

static void aim(uint8_t bar, uint32_t off, uint32_t len)
{
	unsigned cap = window_cap();

	guest_set_config(&m, SLOT, cap + VIRTIO_PCI_CAP_BAR, 1, bar);
	guest_set_config(&m, SLOT, cap + VIRTIO_PCI_CAP_OFFSET, 4, off);
	guest_set_config(&m, SLOT, cap + VIRTIO_PCI_CAP_LENGTH, 4, len);
}

Test(virtio, fault_23_configuration_access_window)
{
	static const struct {
		uint8_t bar;
		uint32_t off, len;
	} bad[] = { { 1, 0, 4 },       { 0, 0, 0 },          { 0, 0, 3 },          { 0, 2, 4 },
		    { 0, 0x10000, 4 }, { 0, 0xfffffffc, 4 }, { 0, 0, 0xffffffff }, { 255, 0xffffffff, 1 } };
	unsigned data = window_cap() + 16;

	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 0);
	aim(0, VIRTIO_PCI_COMMON_NUMQ, 2);
	cr_assert_eq(guest_config(&m, SLOT, data, 2), QUEUES, "works without memory decoding");
	aim(0, VIRTIO_PCI_COMMON_STATUS, 1);
	guest_set_config(&m, SLOT, data, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	cr_assert_eq(guest_config(&m, SLOT, data, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	guest_set_config(&m, SLOT, data, 4, 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		aim(bad[i].bar, bad[i].off, bad[i].len);
		guest_set_config(&m, SLOT, data, 4, 0xffffffff);
		guest_config(&m, SLOT, data, 4);
	}
	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 2);
	cr_assert_eq(status(), 0, "none of them reached a register");
}

/* FAULTS 29, under the address sanitizer in CI: nothing that a guest does to the registers hurts. */
Test(virtio, fault_29_random_accesses)
{
	srandom(20261121);
	for (unsigned i = 0; i < 300000; i++) {
		unsigned size = 1 + (unsigned)random() % 8;
		uint64_t value = (uint64_t)random() << 32 ^ (uint64_t)random(), at = BAR + value % 0x10010;

		if (random() % 2)
			at = COMMON + value % 64;
		switch (random() % 8) {
		case 0:
		case 1:
		case 2:
			guest_write(&m, at, size, random() % 2 ? value : value & 15);
			break;
		case 3:
			guest_set_config(&m, SLOT, 0x40 + (unsigned)value % 0xb0, size, value);
			break;
		case 4:
			guest_config(&m, SLOT, (unsigned)value % 256, size);
			break;
		case 5:
			if (i % 50 == 0 && resets)
				virtio_pci_reset_done(t);
			break;
		default:
			guest_read(&m, at, size);
		}
	}
	machine_settle(&m);
}

static _Atomic unsigned guests_running;

/* A vCPU with a random stream of its own. */
static void *wild_guest(void *arg)
{
	unsigned seed = *(unsigned *)arg;

	space_thread_enter();
	for (unsigned i = 0; i < 20000; i++) {
		unsigned off = (unsigned)rand_r(&seed) % 0x40, size = 1u << (unsigned)rand_r(&seed) % 4;
		uint64_t value = (uint64_t)rand_r(&seed);

		switch (rand_r(&seed) % 6) {
		case 0:
			set_common(off, size, value & 15);
			break;
		case 1:
			guest_write(&m, BAR + 0x8000 + off, size, value);
			break;
		case 2:
			guest_set_config(&m, SLOT, PCI_COMMAND, 2, value & 2);
			break;
		case 3:
			guest_set_config(&m, SLOT, 0x40 + off, size, value);
			break;
		case 4:
			guest_write(&m, NOTIFY + off, 2, 0);
			break;
		default:
			guest_read(&m, BAR + ((value & 0xf) << 12) + off, size);
		}
	}
	space_thread_leave();
	guests_running--;
	return NULL;
}

/* Under the thread sanitizer in CI: two processors and the main loop at the same registers. */
Test(virtio, threads)
{
	unsigned seeds[2] = { 1, 2 };
	pthread_t guests[2];

	guests_running = 2;
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&guests[i], NULL, wild_guest, &seeds[i]), 0);
	for (unsigned n = 0; guests_running; n++) {
		cr_assert_eq(loop_run_once(m.loop, 0), 0);
		config[1] = (uint8_t)n;
		virtio_pci_offer(t, OFFERED, config, sizeof(config));
		virtio_pci_needs_reset(t);
		virtio_pci_wire(t);
		virtio_pci_reset_done(t);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(guests[i], NULL);
	machine_settle(&m);
	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 2);
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, BAR);
	set_status(0);
	virtio_pci_reset_done(t);
	cr_assert_eq(status(), 0);
	go_live();
	cr_assert_eq(status(), LIVE, "fit for use after all that");
}
