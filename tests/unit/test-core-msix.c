/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/msix: masks, pending bits, odd accesses, and threads that change vectors at the same time. */
#include <criterion/criterion.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fake_vm.h"
#include "msix.h"

#define VECTORS 3
#define SOURCES 3

static struct vm vm;
static struct pci_dev dev;
static struct msix *msix;
static int fds[SOURCES];
static unsigned cap;

static void set_up(void)
{
	static const struct pci_id id = { .vendor = 0x1af4 };
	struct msix_args args = { .vm = &vm,
				  .dev = &dev,
				  .table_off = 0x8000,
				  .pba_off = 0xc000,
				  .vectors = VECTORS,
				  .fds = fds,
				  .sources = SOURCES };

	for (unsigned i = 0; i < SOURCES; i++)
		fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	pci_dev_init(&dev, &id, NULL, NULL);
	cr_assert_eq(msix_new(&args, &msix), 0);
	cap = pci_dev_get(&dev, PCI_CAPABILITY_LIST, 1);
}

static void tear_down(void)
{
	msix_free(msix);
	cr_assert_eq(vm.n_irqfds, 0, "an irqfd was left behind");
	for (unsigned i = 0; i < SOURCES; i++)
		close(fds[i]);
}

TestSuite(msix, .init = set_up, .fini = tear_down);

static void set_control(uint16_t value)
{
	pci_dev_set(&dev, cap + PCI_MSIX_FLAGS, 2, value | (VECTORS - 1),
		    PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	msix_config_written(msix, cap + PCI_MSIX_FLAGS, 2);
}

static void set_entry(unsigned vector, uint64_t addr, uint32_t data, uint32_t control)
{
	msix_table_write(msix, vector * 16, 8, addr);
	msix_table_write(msix, vector * 16 + 8, 4, data);
	msix_table_write(msix, vector * 16 + 12, 4, control);
}

static bool attached(unsigned source)
{
	uint32_t gsi;

	return fake_irqfd(&vm, fds[source], &gsi);
}

Test(msix, capability)
{
	cr_assert_eq(pci_dev_get(&dev, cap, 1), PCI_CAP_ID_MSIX);
	cr_assert_eq(pci_dev_get(&dev, cap + PCI_MSIX_FLAGS, 2), VECTORS - 1);
	cr_assert_eq(pci_dev_get(&dev, cap + PCI_MSIX_TABLE, 4), 0x8000);
	cr_assert_eq(pci_dev_get(&dev, cap + PCI_MSIX_PBA, 4), 0xc000);
	for (unsigned v = 0; v < VECTORS; v++)
		cr_assert_eq(msix_table_read(msix, v * 16 + 12, 4), 1, "masked at first");
}

Test(msix, delivers_only_what_nothing_masks)
{
	uint32_t gsi = 99;

	msix_set_source(msix, 0, 1);
	set_entry(1, 0xfee01000, 0x41, 0);
	cr_assert_not(attached(0), "the function is not enabled");
	set_control(PCI_MSIX_FLAGS_ENABLE);
	cr_assert(fake_irqfd(&vm, fds[0], &gsi));
	cr_assert(vm.msi[gsi].set);
	cr_assert_eq(vm.msi[gsi].addr, 0xfee01000);
	cr_assert_eq(vm.msi[gsi].data, 0x41);
	set_control(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	cr_assert_not(attached(0));
	set_control(PCI_MSIX_FLAGS_ENABLE);
	cr_assert(attached(0));
	msix_table_write(msix, 16 + 12, 4, 1);
	cr_assert_not(attached(0));
	msix_table_write(msix, 16 + 12, 4, 0xfffffffe);
	cr_assert(attached(0));
	cr_assert_eq(msix_table_read(msix, 16 + 12, 4), 0, "only the mask bit is there");
	set_control(0);
	cr_assert_not(attached(0));
}

Test(msix, a_message_changes_while_in_use)
{
	uint32_t gsi = 99;

	set_control(PCI_MSIX_FLAGS_ENABLE);
	msix_set_source(msix, 0, 0);
	set_entry(0, 0xfee00000, 0x41, 0);
	msix_table_write(msix, 8, 4, 0x52);
	cr_assert(fake_irqfd(&vm, fds[0], &gsi));
	cr_assert_eq(vm.msi[gsi].data, 0x52);
}

Test(msix, pending_bits_are_what_the_eventfds_hold)
{
	set_control(PCI_MSIX_FLAGS_ENABLE);
	msix_set_source(msix, 0, 2);
	msix_set_source(msix, 1, 0);
	cr_assert_eq(msix_pba_read(msix, 0, 8), 0);
	eventfd_write(fds[0], 1);
	cr_assert_eq(msix_pba_read(msix, 0, 8), 1 << 2);
	cr_assert_eq(msix_pba_read(msix, 0, 1), 1 << 2);
	cr_assert_eq(msix_pba_read(msix, 1, 1), 0);
	eventfd_write(fds[1], 1);
	cr_assert_eq(msix_pba_read(msix, 0, 4), 1 << 2 | 1);
	set_entry(2, 0xfee00000, 0x41, 0);
	cr_assert(attached(0), "the signal waits in the eventfd for KVM");
	cr_assert_eq(msix_pba_read(msix, 0, 4), 1);
}

Test(msix, two_sources_may_share_a_vector)
{
	uint32_t a = 1, b = 2;

	set_control(PCI_MSIX_FLAGS_ENABLE);
	msix_set_source(msix, 0, 1);
	msix_set_source(msix, 2, 1);
	set_entry(1, 0xfee00000, 0x41, 0);
	cr_assert(fake_irqfd(&vm, fds[0], &a) && fake_irqfd(&vm, fds[2], &b));
	cr_assert_eq(a, b);
	msix_set_source(msix, 0, 0);
	cr_assert_not(attached(0));
	cr_assert(attached(2));
}

Test(msix, fault_27_vectors_that_do_not_exist_are_none)
{
	cr_assert_eq(msix_set_source(msix, 0, VECTORS), MSIX_NO_VECTOR);
	cr_assert_eq(msix_source(msix, 0), MSIX_NO_VECTOR);
	cr_assert_eq(msix_set_source(msix, 0, 0xfffe), MSIX_NO_VECTOR);
	cr_assert_eq(msix_set_source(msix, 0, VECTORS - 1), VECTORS - 1);
	msix_clear_sources(msix);
	cr_assert_eq(msix_source(msix, 0), MSIX_NO_VECTOR);
}

/* CVE-2020-13754 was a table access that crossed the end. */
Test(msix, fault_27_odd_accesses_do_nothing)
{
	for (unsigned size = 0; size <= 9; size++)
		for (uint64_t off = VECTORS * 16 - 9; off < VECTORS * 16 + 20; off++) {
			if ((size == 4 || size == 8) && off % size == 0 && off + size <= VECTORS * 16)
				continue;
			msix_table_write(msix, off, size, UINT64_MAX);
			cr_assert_eq(msix_table_read(msix, off, size), 0);
			msix_pba_read(msix, off, size);
		}
	cr_assert_eq(msix_table_read(msix, UINT64_MAX - 3, 4), 0);
	cr_assert_eq(msix_table_read(msix, UINT64_MAX - 7, 8), 0);
	cr_assert_eq(msix_pba_read(msix, UINT64_MAX - 7, 8), 0);
	cr_assert_eq(msix_table_read(msix, (VECTORS - 1) * 16, 8), 0, "the last entry is untouched");
	cr_assert_eq(msix_table_read(msix, (VECTORS - 1) * 16 + 12, 4), 1);
}

static void mask_vector_0(void)
{
	msix_table_write(msix, 12, 4, 1);
	cr_assert(attached(0), "the thread that is at it will do it");
}

Test(msix, a_change_behind_the_back_of_the_thread_that_settles)
{
	set_control(PCI_MSIX_FLAGS_ENABLE);
	msix_set_source(msix, 0, 0);
	msix_set_source(msix, 1, 1);
	set_entry(0, 0xfee00000, 0x41, 0);
	set_entry(1, 0xfee00000, 0x42, 0);
	vm.meanwhile = mask_vector_0;
	msix_table_write(msix, 16 + 8, 4, 0x43);
	cr_assert_null(vm.meanwhile);
	cr_assert_not(attached(0));
	cr_assert(attached(1));
}

static void *toggle(void *arg)
{
	unsigned vector = *(unsigned *)arg;

	for (unsigned i = 0; i < 20; i++) {
		msix_table_write(msix, vector * 16 + 12, 4, 1);
		msix_table_write(msix, vector * 16 + 8, 4, i);
		msix_table_write(msix, vector * 16 + 12, 4, 0);
	}
	return NULL;
}

Test(msix, threads_agree_in_the_end)
{
	unsigned vectors[2] = { 0, 1 };
	pthread_t threads[2];
	uint32_t gsi = 99;

	set_control(PCI_MSIX_FLAGS_ENABLE);
	for (unsigned i = 0; i < 2; i++)
		msix_set_source(msix, i, (uint16_t)i);
	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 2; i++)
			cr_assert_eq(pthread_create(&threads[i], NULL, toggle, &vectors[i]), 0);
		for (unsigned i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
		for (unsigned i = 0; i < 2; i++) {
			cr_assert(fake_irqfd(&vm, fds[i], &gsi));
			cr_assert_eq(vm.msi[gsi].data, 19);
		}
	}
}
