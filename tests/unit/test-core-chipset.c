/* SPDX-License-Identifier: Apache-2.0 */
/* The small legacy models: PM timer and registers, clock, resets, debug exit, panic. */
#include <criterion/criterion.h>
#include <time.h>

#include "acpi_pm.h"
#include "clock.h"
#include "end.h"
#include "loop.h"
#include "rtc.h"
#include "smallports.h"

static struct loop *loop;
static struct end end;
static unsigned ended;
static bool sci;

static void on_end(void *arg)
{
	(void)arg;
	ended++;
}

static void on_sci(void *arg, bool level)
{
	(void)arg;
	sci = level;
}

static void set_up(void)
{
	ended = 0;
	sci = false;
	cr_assert_eq(loop_new("test", &loop), 0);
	end_init(&end, loop, on_end, NULL);
}

static void tear_down(void)
{
	loop_free(loop);
}

TestSuite(core_chipset, .init = set_up, .fini = tear_down);

Test(core_chipset, pm_timer_runs_at_its_rate)
{
	uint64_t before, after, value;

	cr_assert_eq(acpi_pm_ticks(NS_PER_S), 3579545);
	cr_assert_eq(acpi_pm_ticks(0), 0);
	cr_assert_eq(acpi_pm_ticks(1200 * NS_PER_S),
		     (uint32_t)(1200ULL * 3579545)); /* it wraps after 20 minutes */
	cr_assert_eq(acpi_pm_ticks(1000000 * NS_PER_S), (uint32_t)(1000000ULL * 3579545));
	before = clock_ns();
	value = acpi_pm_timer_ops.read(NULL, 0, 4);
	after = clock_ns();
	cr_assert_leq((uint32_t)(value - acpi_pm_ticks(before)),
		      (uint32_t)(acpi_pm_ticks(after) - acpi_pm_ticks(before)));
}

Test(core_chipset, power_button_raises_the_sci_until_cleared)
{
	struct acpi_pm pm;

	acpi_pm_init(&pm, &end, on_sci, NULL);
	acpi_pm_power_button(&pm);
	cr_assert_not(sci, "it is not enabled");
	acpi_pm_ops.write(&pm, 2, 2, 0x100);
	cr_assert(sci);
	cr_assert_eq(acpi_pm_ops.read(&pm, 0, 2), 0x100);
	cr_assert_eq(acpi_pm_ops.read(&pm, 0, 4), 0x01000100);
	acpi_pm_ops.write(&pm, 0, 1, 0xff);
	cr_assert(sci, "the low byte is not the button's");
	acpi_pm_ops.write(&pm, 1, 1, 0x01);
	cr_assert_not(sci);
	cr_assert_eq(acpi_pm_ops.read(&pm, 4, 2), 1, "always in ACPI mode");
}

Test(core_chipset, only_s5_powers_off)
{
	struct acpi_pm pm;

	acpi_pm_init(&pm, &end, on_sci, NULL);
	acpi_pm_ops.write(&pm, 4, 2, 5 << 10);
	acpi_pm_ops.write(&pm, 4, 2, 3 << 10 | 1 << 13);
	cr_assert_eq(end_reason(&end), END_NONE);
	acpi_pm_ops.write(&pm, 4, 2, 5 << 10 | 1 << 13);
	cr_assert_eq(end_reason(&end), END_POWEROFF);
	loop_run_once(loop, 0);
	cr_assert_eq(ended, 1);
}

Test(core_chipset, first_end_counts)
{
	end_post(&end, END_DEBUG_EXIT, 42);
	end_post(&end, END_RESET, 1);
	loop_run_once(loop, 0);
	cr_assert_eq(end_reason(&end), END_DEBUG_EXIT);
	cr_assert_eq(end_value(&end), 42);
	cr_assert_eq(ended, 1);
	cr_assert_str_eq(end_name(END_DEBUG_EXIT), "debug exit");
}

static enum end_reason reason_after(const struct space_ops *ops, uint64_t value)
{
	end_init(&end, loop, on_end, NULL);
	ops->write(&end, 0, 1, value);
	loop_run_once(loop, 0);
	return end_reason(&end);
}

Test(core_chipset, ports_end_the_guest_for_their_value_only)
{
	cr_assert_eq(reason_after(&i8042_ops, 0xfe), END_RESET);
	cr_assert_eq(reason_after(&i8042_ops, 0xd1), END_NONE);
	cr_assert_eq(reason_after(&i8042_data_ops, 0xfe), END_NONE);
	cr_assert_eq(reason_after(&port_a_ops, 0x01), END_RESET);
	cr_assert_eq(reason_after(&port_a_ops, 0x02), END_NONE);
	cr_assert_eq(reason_after(&pvpanic_ops, 0x01), END_PANIC);
	cr_assert_eq(reason_after(&pvpanic_ops, 0x02), END_NONE);
	cr_assert_eq(reason_after(&debugexit_ops, 0), END_DEBUG_EXIT);
	cr_assert_eq(i8042_ops.read(&end, 0, 1), 0, "never busy");
}

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

/* Every third hour or so of 1970-2199 against the C library's calendar. */
Test(core_chipset, clock_tells_the_date_as_libc_does)
{
	for (int64_t t = 0; t < 7258118400; t += 10007) {
		time_t at = (time_t)t;
		struct tm tm;

		gmtime_r(&at, &tm);
		cr_assert_eq(rtc_register(0x00, t), bcd(tm.tm_sec));
		cr_assert_eq(rtc_register(0x02, t), bcd(tm.tm_min));
		cr_assert_eq(rtc_register(0x04, t), bcd(tm.tm_hour));
		cr_assert_eq(rtc_register(0x06, t), bcd(tm.tm_wday + 1));
		cr_assert_eq(rtc_register(0x07, t), bcd(tm.tm_mday));
		cr_assert_eq(rtc_register(0x08, t), bcd(tm.tm_mon + 1));
		cr_assert_eq(rtc_register(0x09, t), bcd(tm.tm_year % 100));
		cr_assert_eq(rtc_register(0x32, t), bcd((tm.tm_year + 1900) / 100));
	}
}

Test(core_chipset, clock_keeps_its_memory_and_not_a_written_time)
{
	struct rtc rtc;

	rtc_init(&rtc);
	rtc_ops.write(&rtc, 0, 1, 0x80 | 0x20); /* with the NMI bit */
	rtc_ops.write(&rtc, 1, 1, 0x77);
	cr_assert_eq(rtc_ops.read(&rtc, 1, 1), 0x77);
	rtc_ops.write(&rtc, 0, 1, 0x32);
	rtc_ops.write(&rtc, 1, 1, 0x19);
	cr_assert_geq(rtc_ops.read(&rtc, 1, 1), 0x20);
	rtc_ops.write(&rtc, 0, 1, 0x0a);
	cr_assert_eq(rtc_ops.read(&rtc, 1, 1) & 0x80, 0, "never updating");
}
