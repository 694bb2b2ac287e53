/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI's fixed hardware: PM1 event and control registers with the power button, and the PM timer. */
#ifndef CORE_ACPI_PM_H
#define CORE_ACPI_PM_H

#include <stdbool.h>
#include <stdint.h>

#include "lock.h"
#include "space.h"

struct end;

struct acpi_pm {
	struct end *end;
	void (*set_irq)(void *arg, bool level); /* the SCI; called with the lock held */
	void *irq_arg;
	struct lock lock;
	uint16_t status GUARDED_BY(lock);
	uint16_t enable GUARDED_BY(lock);
	uint16_t control GUARDED_BY(lock);
	bool sci GUARDED_BY(lock);
};

void acpi_pm_init(struct acpi_pm *pm, struct end *end, void (*set_irq)(void *arg, bool level), void *arg);

/* Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);

/* PM1 status, enable and control, 6 bytes from LAYOUT_PORT_PM; owner is the acpi_pm. */
extern const struct space_ops acpi_pm_ops;

/* The timer, 4 bytes from LAYOUT_PORT_PMTIMER; no owner, no lock. */
extern const struct space_ops acpi_pm_timer_ops;

/* The timer's 32-bit count at a time of clock_ns. */
uint32_t acpi_pm_ticks(uint64_t ns);

#endif
