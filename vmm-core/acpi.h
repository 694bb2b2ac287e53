/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables: RSDP, XSDT, FADT, FACS, MADT, MCFG and the DSDT that iasl compiled from dsdt.asl. */
#ifndef CORE_ACPI_H
#define CORE_ACPI_H

#include <stdint.h>

struct ram;

/* Builds the tables for cpus processors in guest RAM at LAYOUT_ACPI_START. Set-up only. *rsdp is where the RSDP lies. -ENOSPC if
 * they don't fit, -EINVAL for a number of CPUs out of range. */
int acpi_build(const struct ram *ram, unsigned cpus, uint64_t *rsdp);

#endif
