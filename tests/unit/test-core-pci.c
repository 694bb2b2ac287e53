/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/pci: configuration space by both ways, BARs that are sized, moved and switched off, odd accesses. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vm.h"
#include "layout.h"

#define BAR_SIZE 0x10000
#define SLOT     3

static struct machine m;
static struct pci_dev dev;
static uint8_t bar[BAR_SIZE];
static _Atomic unsigned written_off, written_size;

static uint64_t bar_read(void *arg, unsigned index, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	(void)arg;
	cr_assert_eq(index, 0);
	cr_assert_leq(off + size, BAR_SIZE);
	memcpy(&value, bar + off, size);
	return value;
}

static void bar_write(void *arg, unsigned index, uint64_t off, unsigned size, uint64_t value)
{
	(void)arg;
	cr_assert_eq(index, 0);
	cr_assert_leq(off + size, BAR_SIZE);
	memcpy(bar + off, &value, size);
}

static void config_written(void *arg, unsigned off, unsigned size)
{
	(void)arg;
	written_off = off;
	written_size = size;
}

static void set_up(void)
{
	static const struct pci_dev_ops ops = { .bar_read = bar_read,
						.bar_write = bar_write,
						.config_written = config_written };
	static const struct pci_id id = { 0x1af4, 0x1042, 0x1af4, 0x42, 0x018000, 1 };

	machine_init(&m);
	pci_dev_init(&dev, &id, &ops, NULL);
	pci_dev_add_bar(&dev, 0, BAR_SIZE);
	cr_assert_eq(pci_bus_attach(m.pci, SLOT, &dev), 0);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
}

static void tear_down(void)
{
	pci_bus_detach(m.pci, SLOT);
	machine_fini(&m);
}

TestSuite(pci, .init = set_up, .fini = tear_down);

Test(pci, both_ways_show_the_same)
{
	cr_assert_eq(guest_config(&m, 0, PCI_VENDOR_ID, 4), 0x0d578086);
	cr_assert_eq(guest_config(&m, SLOT, PCI_VENDOR_ID, 4), 0x10421af4);
	cr_assert_eq(guest_config(&m, SLOT, PCI_CLASS_REVISION, 4), 0x01800001);
	guest_out(&m, 0xcf8, 4, 0x80000000 | SLOT << 11);
	cr_assert_eq(guest_in(&m, 0xcf8, 4), 0x80000000 | SLOT << 11);
	cr_assert_eq(guest_in(&m, 0xcfc, 4), 0x10421af4);
	cr_assert_eq(guest_in(&m, 0xcfe, 2), 0x1042);
	cr_assert_eq(guest_in(&m, 0xcff, 1), 0x10);
	guest_out(&m, 0xcf8, 4, SLOT << 11);
	cr_assert_eq(guest_in(&m, 0xcfc, 4), 0xffffffff, "the address register is not enabled");
}

Test(pci, nobody_home_reads_as_ones)
{
	cr_assert_eq(guest_config(&m, 7, 0, 4), 0xffffffff);
	cr_assert_eq(guest_read(&m, LAYOUT_ECAM_START + (SLOT << 15 | 1 << 12), 4), 0xffffffff, "function 1");
	cr_assert_eq(guest_read(&m, LAYOUT_ECAM_START + (1 << 20), 4), 0xffffffff, "bus 1");
	cr_assert_eq(guest_config(&m, SLOT, 256, 4), 0xffffffff, "no extended space");
	cr_assert_eq(guest_config(&m, SLOT, 4092, 4), 0xffffffff);
	guest_out(&m, 0xcf8, 4, 0x80010000);
	cr_assert_eq(guest_in(&m, 0xcfc, 4), 0xffffffff, "bus 1 by ports");
}

Test(pci, fault_29_odd_accesses_give_the_bytes_that_stand_there)
{
	uint64_t whole = guest_config(&m, SLOT, 0, 4) | guest_config(&m, SLOT, 4, 4) << 32;

	for (unsigned off = 0; off < 4; off++)
		for (unsigned size = 1; size <= 4; size++) {
			uint64_t mask = (1ULL << size * 8) - 1;

			cr_assert_eq(guest_config(&m, SLOT, off, size), whole >> off * 8 & mask, "%u+%u", off,
				     size);
		}
	cr_assert_eq(guest_config(&m, SLOT, 0, 8), whole);
	cr_assert_eq(guest_config(&m, SLOT, 254, 4) >> 16, 0xffff, "half inside, half past the end");
	guest_out(&m, 0xcf8, 2, 0x1234);
	guest_out(&m, 0xcfa, 1, 0x12);
	cr_assert_eq(guest_in(&m, 0xcf8, 4), 0, "the address register takes whole words only");
}

Test(pci, read_only_bits_stay)
{
	for (unsigned off = 0; off < PCI_CONFIG_SIZE; off += 4)
		guest_set_config(&m, SLOT, off, 4, 0xffffffff);
	cr_assert_eq(guest_config(&m, SLOT, PCI_VENDOR_ID, 4), 0x10421af4);
	cr_assert_eq(guest_config(&m, SLOT, PCI_COMMAND, 4), 0x0406,
		     "memory, master, no INTx; no status bit");
	cr_assert_eq(guest_config(&m, SLOT, PCI_HEADER_TYPE, 1), 0);
	cr_assert_eq(guest_config(&m, SLOT, PCI_BASE_ADDRESS_2, 4), 0);
	cr_assert_eq(guest_config(&m, SLOT, PCI_ROM_ADDRESS, 4), 0);
	cr_assert_eq(guest_config(&m, SLOT, PCI_CAPABILITY_LIST, 1), 0);
}

Test(pci, bars_are_sized)
{
	uint64_t low = guest_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4);

	cr_assert_eq(low & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	cr_assert_eq(low & ~0xfULL, LAYOUT_MMIO32_START, "assigned before the guest runs");
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_1, 4, 0xffffffff);
	cr_assert_eq(guest_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4), (uint32_t) ~(BAR_SIZE - 1) | 4);
	cr_assert_eq(guest_config(&m, SLOT, PCI_BASE_ADDRESS_1, 4), 0xffffffff);
	cr_assert_eq(guest_read(&m, LAYOUT_MMIO32_START, 4), 0xffffffff, "is nowhere meanwhile");
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, low);
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_1, 4, 0);
	cr_assert_eq(guest_read(&m, LAYOUT_MMIO32_START, 4), 0);
}

Test(pci, a_moved_bar_answers_at_once)
{
	uint64_t old = LAYOUT_MMIO32_START, new = LAYOUT_MMIO32_START + 0x1230000;

	guest_write(&m, old + 8, 8, 0x1122334455667788);
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, new);
	cr_assert_eq(written_off, PCI_BASE_ADDRESS_0);
	cr_assert_eq(written_size, 4);
	cr_assert_eq(guest_read(&m, new + 8, 8), 0x1122334455667788);
	cr_assert_eq(guest_read(&m, old + 8, 8), UINT64_MAX);
	guest_set_config(&m, SLOT, PCI_COMMAND, 2, 0);
	cr_assert_eq(guest_read(&m, new + 8, 8), UINT64_MAX, "decoding is off");
	guest_set_config(&m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	cr_assert_eq(guest_read(&m, new + 8, 8), 0x1122334455667788);
}

Test(pci, a_bar_outside_of_the_window_is_not_seen)
{
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, 0x00100000);
	cr_assert_eq(guest_read(&m, 0x00100000, 4), 0xffffffff);
	guest_set_config(&m, SLOT, PCI_BASE_ADDRESS_0, 4, LAYOUT_ECAM_START);
	cr_assert_eq(guest_config(&m, SLOT, 0, 4), 0x10421af4, "ECAM stays what it is");
}

Test(pci, fault_29_accesses_over_the_end_of_a_bar)
{
	uint64_t end = LAYOUT_MMIO32_START + BAR_SIZE;

	bar[BAR_SIZE - 1] = 0x5a;
	cr_assert_eq(guest_read(&m, end - 1, 4), 0xffffff5a);
	guest_write(&m, end - 3, 8, 0x1122334455667788);
	cr_assert_eq(bar[BAR_SIZE - 3], 0x88);
	cr_assert_eq(bar[BAR_SIZE - 1], 0x66);
}

Test(pci, reset_by_port_0xcf9)
{
	guest_out(&m, 0xcf9, 1, 0x02);
	cr_assert_eq(guest_in(&m, 0xcf9, 1), 0x02);
	cr_assert_eq(end_reason(&m.end), END_NONE);
	guest_out(&m, 0xcf9, 1, 0x06);
	cr_assert_eq(end_reason(&m.end), END_RESET);
}

Test(pci, slots)
{
	static struct pci_dev other;

	cr_assert_eq(pci_bus_attach(m.pci, 0, &other), -ERANGE);
	cr_assert_eq(pci_bus_attach(m.pci, 32, &other), -ERANGE);
	cr_assert_eq(pci_bus_attach(m.pci, SLOT, &other), -EBUSY);
}

static void *write_high_byte(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 20000; i++)
		pci_config_write(m.pci, SLOT, PCI_COMMAND + 1, 1, i % 2 ? 0x04 : 0);
	return NULL;
}

Test(pci, writers_of_one_word_do_not_lose_each_others_bytes)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, write_high_byte, NULL), 0);
	for (unsigned i = 0; i < 20000; i++) {
		pci_config_write(m.pci, SLOT, PCI_COMMAND, 1, i % 2 ? 6 : 2);
		cr_assert_eq(pci_config_read(m.pci, SLOT, PCI_COMMAND, 1), i % 2 ? 6u : 2u);
	}
	pthread_join(thread, NULL);
	cr_assert_eq(pci_config_read(m.pci, SLOT, PCI_COMMAND, 2), 0x0406);
}

Test(pci, random_accesses)
{
	srandom(20261121);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned size = 1 + (unsigned)random() % 8, off = (unsigned)random() % 512;
		uint64_t value = (uint64_t)random() << 32 ^ (uint64_t)random();

		switch (random() % 6) {
		case 0:
			guest_set_config(&m, (unsigned)random() % 33, off, size, value);
			break;
		case 1:
			guest_config(&m, (unsigned)random() % 33, off, size);
			break;
		case 2:
			guest_out(&m, (uint16_t)(0xcf0 + off % 32), size, value);
			break;
		case 3:
			guest_in(&m, (uint16_t)(0xcf0 + off % 32), size);
			break;
		case 4:
			guest_write(&m, LAYOUT_MMIO32_START + (value & 0x1ffff), size, value);
			break;
		default:
			guest_read(&m, LAYOUT_MMIO32_START + (value & 0x1ffff), size);
		}
	}
	cr_assert_eq(guest_config(&m, SLOT, PCI_VENDOR_ID, 4), 0x10421af4);
}
