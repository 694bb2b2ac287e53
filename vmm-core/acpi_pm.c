/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI's fixed hardware (ACPI 6.4, sections 4.8.2.1, 4.8.3): no timer interrupt, since the counter is 32 bits wide and
 * Linux uses none. */
#include "acpi_pm.h"

#include "clock.h"
#include "end.h"

#define PM_TIMER_HZ 3579545ULL

enum {
	REG_STATUS = 0,
	REG_ENABLE = 2,
	REG_CONTROL = 4,
	PM1_POWER_BUTTON = 1 << 8,
	PM1_ALL_EVENTS = 0x0521, /* timer, global lock, power button, RTC: what can be enabled */
	CONTROL_SCI_EN = 1 << 0,
	CONTROL_SLP_EN = 1 << 13,
	CONTROL_TYPE_SHIFT = 10,
	SLEEP_S5 = 5, /* dsdt.asl's \_S5 */
};

uint32_t acpi_pm_ticks(uint64_t ns)
{
	return (uint32_t)((unsigned __int128)ns * PM_TIMER_HZ / NS_PER_S);
}

static uint64_t timer_read(void *owner, uint64_t off, unsigned size)
{
	(void)owner;
	(void)size;
	return (uint64_t)acpi_pm_ticks(clock_ns()) >> (8 * off);
}

static void timer_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	(void)owner;
	(void)off;
	(void)size;
	(void)value;
}

const struct space_ops acpi_pm_timer_ops = { .read = timer_read, .write = timer_write, .max = 4 };

static void update_sci(struct acpi_pm *pm) REQUIRES(pm->lock)
{
	bool level = pm->status & pm->enable;

	if (level == pm->sci)
		return;
	pm->sci = level;
	pm->set_irq(pm->irq_arg, level);
}

/* Each register as two bytes, so that every width of access comes to the same. */
static uint8_t pm_byte(const struct acpi_pm *pm, uint64_t off) REQUIRES(pm->lock)
{
	const uint16_t regs[] = { pm->status, pm->enable, pm->control | CONTROL_SCI_EN };

	return (uint8_t)(regs[off / 2] >> (8 * (off & 1)));
}

static uint64_t pm_read(void *owner, uint64_t off, unsigned size)
{
	struct acpi_pm *pm = owner;
	uint64_t value = 0;

	lock_take(&pm->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)pm_byte(pm, off + i) << (8 * i);
	lock_drop(&pm->lock);
	return value;
}

static void put_byte(uint16_t *reg, unsigned high, uint8_t value)
{
	*reg = (uint16_t)((*reg & (high ? 0x00ff : 0xff00)) | value << (high ? 8 : 0));
}

/* True if the byte asked for the machine to be switched off. */
static bool pm_write_byte(struct acpi_pm *pm, uint64_t off, uint8_t value) REQUIRES(pm->lock)
{
	unsigned high = off & 1;

	switch (off & ~1ULL) {
	case REG_STATUS: /* writing a one clears */
		pm->status &= (uint16_t) ~(value << (8 * high));
		return false;
	case REG_ENABLE:
		put_byte(&pm->enable, high, value);
		pm->enable &= PM1_ALL_EVENTS;
		return false;
	case REG_CONTROL:
		put_byte(&pm->control, high, value);
		if (!(pm->control & CONTROL_SLP_EN))
			return false;
		pm->control &= (uint16_t)~CONTROL_SLP_EN; /* it always reads 0 */
		return (pm->control >> CONTROL_TYPE_SHIFT & 7) == SLEEP_S5;
	default:
		return false;
	}
}

static void pm_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = owner;
	bool off_now = false;

	lock_take(&pm->lock);
	for (unsigned i = 0; i < size; i++)
		off_now |= pm_write_byte(pm, off + i, (uint8_t)(value >> (8 * i)));
	update_sci(pm);
	lock_drop(&pm->lock);
	if (off_now)
		end_post(pm->end, END_POWEROFF, 0);
}

const struct space_ops acpi_pm_ops = { .read = pm_read, .write = pm_write, .max = 4 };

void acpi_pm_init(struct acpi_pm *pm, struct end *end, void (*set_irq)(void *arg, bool level), void *arg)
{
	*pm = (struct acpi_pm) { .end = end, .set_irq = set_irq, .irq_arg = arg };
	lock_init(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	lock_take(&pm->lock);
	pm->status |= PM1_POWER_BUTTON;
	update_sci(pm);
	lock_drop(&pm->lock);
}
