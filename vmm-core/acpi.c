/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (ACPI 6.4, section 5.2), written one behind the other into the BIOS area: RSDP first, where a
 * guest that was given no address finds it by its signature, then what it leads to.
 */
#include "acpi.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "dsdt.hex"
#include "layout.h"
#include "num.h"
#include "ram.h"

#define PACKED __attribute__((packed))

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table[8];
	uint32_t oem_revision;
	char creator[4];
	uint32_t creator_revision;
} PACKED;

struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} PACKED;

struct address {
	uint8_t space; /* 1: port I/O */
	uint8_t bits;
	uint8_t offset;
	uint8_t access; /* 1 byte, 2 word, 3 dword */
	uint64_t addr;
} PACKED;

struct fadt {
	struct header head;
	uint32_t facs;
	uint32_t dsdt;
	uint8_t reserved0;
	uint8_t profile;
	uint16_t sci;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct address reset;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct address x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct address sleep_control, sleep_status;
	uint64_t hypervisor;
} PACKED;

struct facs {
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
} PACKED;

struct madt {
	struct header head;
	uint32_t lapic;
	uint32_t flags;
} PACKED;

struct madt_lapic {
	uint8_t type, length;
	uint8_t processor, apic_id;
	uint32_t flags;
} PACKED;

struct madt_ioapic {
	uint8_t type, length;
	uint8_t id, reserved;
	uint32_t addr, gsi_base;
} PACKED;

struct madt_override {
	uint8_t type, length;
	uint8_t bus, source;
	uint32_t gsi;
	uint16_t flags;
} PACKED;

struct madt_nmi {
	uint8_t type, length;
	uint8_t processor;
	uint16_t flags;
	uint8_t lint;
} PACKED;

struct mcfg {
	struct header head;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved1;
} PACKED;

static_assert(sizeof(struct header) == 36 && sizeof(struct rsdp) == 36 && sizeof(struct facs) == 64,
	      "ACPI 5.2");
static_assert(sizeof(struct fadt) == 276 && sizeof(struct madt) == 44 && sizeof(struct mcfg) == 60,
	      "ACPI 5.2");

enum {
	FADT_WBINVD = 1U << 0,
	FADT_PROC_C1 = 1U << 2,
	FADT_NO_SLEEP_BUTTON = 1U << 5,
	FADT_NO_RTC_WAKE = 1U << 6,
	FADT_TIMER_32BIT = 1U << 8,
	FADT_RESET = 1U << 10,
	BOOT_LEGACY = 1U << 0, /* there are devices at ISA addresses */
	BOOT_NO_VGA = 1U << 2,
	BOOT_NO_ASPM = 1U << 4,
	MADT_PCAT = 1U << 0, /* two 8259 beside the IOAPIC */
	LAPIC_ENABLED = 1U << 0,
	INT_ACTIVE_HIGH = 1U << 0,
	INT_LEVEL = 3U << 2,
};

/* The area being filled. */
struct area {
	uint8_t *base;
	uint64_t used;
};

static uint8_t sum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* Room for len bytes on a 64-byte boundary, or NULL; *gpa is where. */
static void *area_take(struct area *a, size_t len, uint64_t *gpa)
{
	uint64_t at = num_align_up(a->used, 64);

	if (at + len > LAYOUT_ACPI_SIZE)
		return NULL;
	a->used = at + len;
	*gpa = LAYOUT_ACPI_START + at;
	memset(a->base + at, 0, len);
	return a->base + at;
}

static struct header header_for(const char *signature, size_t len, uint8_t revision)
{
	struct header h = {
		.length = (uint32_t)len,
		.revision = revision,
		.oem_id = { 'B', 'U', 'L', 'K', 'H', 'D' },
		.oem_table = { 'B', 'U', 'L', 'K', 'H', 'E', 'A', 'D' },
		.oem_revision = 1,
		.creator = { 'B', 'H', 'V', 'M' },
		.creator_revision = 1,
	};

	memcpy(h.signature, signature, sizeof(h.signature));
	return h;
}

static void seal(void *table, size_t len)
{
	struct header *h = table;

	h->checksum = 0;
	h->checksum = (uint8_t)-sum(table, len);
}

static struct address port(uint64_t addr, uint8_t bits)
{
	return (struct address) { .space = 1,
				  .bits = bits,
				  .access = bits == 8    ? 1
					    : bits == 16 ? 2
							 : 3,
				  .addr = addr };
}

static uint64_t build_dsdt(struct area *a)
{
	uint64_t gpa;
	void *dsdt = area_take(a, sizeof(dsdt_aml_code), &gpa);

	if (!dsdt)
		return 0;
	memcpy(dsdt, dsdt_aml_code, sizeof(dsdt_aml_code));
	return gpa;
}

static uint64_t build_facs(struct area *a)
{
	uint64_t gpa;
	struct facs *facs = area_take(a, sizeof(*facs), &gpa);

	if (!facs)
		return 0;
	*facs = (struct facs) { .signature = { 'F', 'A', 'C', 'S' }, .length = sizeof(*facs), .version = 2 };
	return gpa;
}

static uint64_t build_fadt(struct area *a, uint64_t dsdt, uint64_t facs)
{
	uint64_t gpa;
	struct fadt *f = area_take(a, sizeof(*f), &gpa);

	if (!f)
		return 0;
	*f = (struct fadt) {
		.head = header_for("FACP", sizeof(*f), 6),
		.minor = 4,
		.facs = (uint32_t)facs,
		.dsdt = (uint32_t)dsdt,
		.x_dsdt = dsdt,
		.sci = LAYOUT_GSI_SCI,
		.pm1a_evt = LAYOUT_PORT_PM,
		.pm1a_cnt = LAYOUT_PORT_PM + 4,
		.pm_tmr = LAYOUT_PORT_PMTIMER,
		.pm1_evt_len = 4,
		.pm1_cnt_len = 2,
		.pm_tmr_len = 4,
		.c2_latency = 0xffff, /* no C2, no C3 */
		.c3_latency = 0xffff,
		.century = 0x32,
		.boot_arch = BOOT_LEGACY | BOOT_NO_VGA | BOOT_NO_ASPM,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_RTC_WAKE |
			 FADT_TIMER_32BIT | FADT_RESET,
		.reset = port(LAYOUT_PORT_RESET, 8),
		.reset_value = 6,
		.x_pm1a_evt = port(LAYOUT_PORT_PM, 32),
		.x_pm1a_cnt = port(LAYOUT_PORT_PM + 4, 16),
		.x_pm_tmr = port(LAYOUT_PORT_PMTIMER, 32),
	};
	memcpy(&f->hypervisor, "BULKHEAD", sizeof(f->hypervisor));
	seal(f, sizeof(*f));
	return gpa;
}

/* Every processor's LAPIC, the IOAPIC, and the lines that are not as on the ISA bus of old. */
static uint64_t build_madt(struct area *a, unsigned cpus)
{
	uint64_t gpa;
	size_t len = sizeof(struct madt) + cpus * sizeof(struct madt_lapic) + sizeof(struct madt_ioapic) +
		     2 * sizeof(struct madt_override) + sizeof(struct madt_nmi);
	struct madt *m = area_take(a, len, &gpa);
	struct madt_lapic *lapic;
	struct madt_ioapic *ioapic;
	struct madt_override *override;
	struct madt_nmi *nmi;

	if (!m)
		return 0;
	m->head = header_for("APIC", len, 5);
	m->lapic = (uint32_t)LAYOUT_LAPIC;
	m->flags = MADT_PCAT;
	lapic = (void *)(m + 1);
	for (unsigned i = 0; i < cpus; i++)
		*lapic++ = (struct madt_lapic) { 0, sizeof(*lapic), (uint8_t)i, (uint8_t)i, LAPIC_ENABLED };
	ioapic = (void *)lapic;
	*ioapic++ = (struct madt_ioapic) { 1, sizeof(*ioapic), 0, 0, (uint32_t)LAYOUT_IOAPIC, 0 };
	override = (void *)ioapic;
	*override++ = (struct madt_override) { 2, sizeof(*override), 0, 0, 2, 0 };
	*override++ = (struct madt_override) {
		2, sizeof(*override), 0, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, INT_ACTIVE_HIGH | INT_LEVEL
	};
	nmi = (void *) override;
	*nmi = (struct madt_nmi) { 4, sizeof(*nmi), 0xff, 0, 1 };
	seal(m, len);
	return gpa;
}

static uint64_t build_mcfg(struct area *a)
{
	uint64_t gpa;
	struct mcfg *m = area_take(a, sizeof(*m), &gpa);

	if (!m)
		return 0;
	*m = (struct mcfg) {
		.head = header_for("MCFG", sizeof(*m), 1),
		.base = LAYOUT_ECAM_START,
		.first_bus = 0,
		.last_bus = (uint8_t)((LAYOUT_ECAM_SIZE >> 20) - 1),
	};
	seal(m, sizeof(*m));
	return gpa;
}

static uint64_t build_xsdt(struct area *a, const uint64_t *tables, unsigned n)
{
	uint64_t gpa;
	size_t len = sizeof(struct header) + n * sizeof(uint64_t);
	struct header *h = area_take(a, len, &gpa);

	if (!h)
		return 0;
	*h = header_for("XSDT", len, 1);
	memcpy(h + 1, tables, n * sizeof(uint64_t));
	seal(h, len);
	return gpa;
}

static void fill_rsdp(struct rsdp *r, uint64_t xsdt)
{
	*r = (struct rsdp) {
		.signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
		.oem_id = { 'B', 'U', 'L', 'K', 'H', 'D' },
		.revision = 2,
		.length = sizeof(*r),
		.xsdt = xsdt,
	};
	r->checksum = (uint8_t)-sum(r, 20);
	r->extended_checksum = (uint8_t)-sum(r, sizeof(*r));
}

int acpi_build(const struct ram *ram, unsigned cpus, uint64_t *rsdp)
{
	struct area a = { .base = ram_at(ram, LAYOUT_ACPI_START, LAYOUT_ACPI_SIZE) };
	uint64_t dsdt, facs, tables[3], xsdt;
	struct rsdp *r;

	if (cpus < 1 || cpus > LAYOUT_CPUS_MAX)
		return -EINVAL;
	r = area_take(&a, sizeof(*r), rsdp);
	dsdt = build_dsdt(&a);
	facs = build_facs(&a);
	tables[0] = build_fadt(&a, dsdt, facs);
	tables[1] = build_madt(&a, cpus);
	tables[2] = build_mcfg(&a);
	xsdt = build_xsdt(&a, tables, ARRAY_SIZE(tables));
	if (!r || !dsdt || !facs || !tables[0] || !tables[1] || !tables[2] || !xsdt)
		return -ENOSPC;
	fill_rsdp(r, xsdt);
	return 0;
}
