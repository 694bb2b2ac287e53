/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the legacy devices and places them in the port space. */
#include "chipset.h"

#include <errno.h>
#include <stdlib.h>

#include "acpi_pm.h"
#include "layout.h"
#include "rtc.h"
#include "smallports.h"
#include "uart16550.h"
#include "vm.h"

struct chipset {
	struct vm *vm;
	struct space *pio;
	struct uart *uart;
	struct rtc rtc;
	struct acpi_pm pm;
};

#define PLACES_MAX 12

static void com1_irq(void *arg, bool level)
{
	vm_set_irq(arg, LAYOUT_GSI_COM1, level);
}

static void sci_irq(void *arg, bool level)
{
	vm_set_irq(arg, LAYOUT_GSI_SCI, level);
}

/* Ports 0x80 and 0x61 are missing on purpose: the first needs no answer, the second is in KVM's PIT. */
static unsigned places(struct chipset *c, struct end *end, bool test_devices, struct space_range *r)
{
	unsigned n = 0;

	r[n++] = (struct space_range) { 0x60, 1, &i8042_data_ops, end };
	r[n++] = (struct space_range) { 0x64, 1, &i8042_ops, end };
	r[n++] = (struct space_range) { LAYOUT_PORT_RTC, 2, &rtc_ops, &c->rtc };
	r[n++] = (struct space_range) { LAYOUT_PORT_A, 1, &port_a_ops, end };
	r[n++] = (struct space_range) { LAYOUT_PORT_COM1, 8, &uart_ops, c->uart };
	r[n++] = (struct space_range) { LAYOUT_PORT_PVPANIC, 1, &pvpanic_ops, end };
	r[n++] = (struct space_range) { LAYOUT_PORT_PM, 6, &acpi_pm_ops, &c->pm };
	r[n++] = (struct space_range) { LAYOUT_PORT_PMTIMER, 4, &acpi_pm_timer_ops, NULL };
	if (test_devices)
		r[n++] = (struct space_range) { LAYOUT_PORT_DEBUGEXIT, 4, &debugexit_ops, end };
	return n;
}

int chipset_new(const struct chipset_args *args, struct chipset **out)
{
	struct chipset *c = calloc(1, sizeof(*c));
	struct space_range range[PLACES_MAX];
	unsigned n;
	int rc;

	if (!c)
		return -ENOMEM;
	c->vm = args->vm;
	c->pio = args->pio;
	rtc_init(&c->rtc);
	acpi_pm_init(&c->pm, args->end, sci_irq, c->vm);
	rc = uart_new(args->loop, args->console_fd, com1_irq, c->vm, &c->uart);
	if (rc) {
		free(c);
		return rc;
	}
	n = places(c, args->end, args->test_devices, range);
	for (unsigned i = 0; i < n; i++) {
		rc = space_add(c->pio, &range[i]);
		if (rc) {
			while (i-- > 0)
				space_remove(c->pio, range[i].base);
			uart_free(c->uart);
			free(c);
			return rc;
		}
	}
	*out = c;
	return 0;
}

void chipset_free(struct chipset *c)
{
	struct space_range range[PLACES_MAX];
	unsigned n;

	if (!c)
		return;
	n = places(c, NULL, true, range);
	for (unsigned i = 0; i < n; i++)
		space_remove(c->pio, range[i].base); /* the debug port may not be there */
	uart_free(c->uart);
	free(c);
}

void chipset_power_button(struct chipset *c)
{
	acpi_pm_power_button(&c->pm);
}

uint32_t chipset_console_pending(struct chipset *c)
{
	return uart_pending(c->uart);
}

void chipset_console_drain(struct chipset *c, void (*fn)(void *arg), void *arg)
{
	uart_drain(c->uart, fn, arg);
}
