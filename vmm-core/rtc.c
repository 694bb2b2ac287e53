/* SPDX-License-Identifier: Apache-2.0 */
/* The CMOS clock. Writing the time is ignored: the clock is the host's. No alarm, no periodic interrupt. */
#include "rtc.h"

#include <string.h>
#include <time.h>

enum {
	RTC_SECONDS = 0x00,
	RTC_MINUTES = 0x02,
	RTC_HOURS = 0x04,
	RTC_WEEKDAY = 0x06,
	RTC_DAY = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_STATUS_A = 0x0a,
	RTC_STATUS_B = 0x0b,
	RTC_STATUS_C = 0x0c,
	RTC_STATUS_D = 0x0d,
	RTC_CENTURY = 0x32,
	A_32KHZ =
	    0x26,     /* the usual divider; "update in progress" is never set: each read is of one instant */
	B_24H = 0x02, /* BCD, 24 hours */
	D_VALID = 0x80,
};

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

uint8_t rtc_register(uint8_t index, int64_t seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;

	gmtime_r(&t, &tm);
	switch (index) {
	case RTC_SECONDS:
		return bcd(tm.tm_sec);
	case RTC_MINUTES:
		return bcd(tm.tm_min);
	case RTC_HOURS:
		return bcd(tm.tm_hour);
	case RTC_WEEKDAY:
		return bcd(tm.tm_wday + 1);
	case RTC_DAY:
		return bcd(tm.tm_mday);
	case RTC_MONTH:
		return bcd(tm.tm_mon + 1);
	case RTC_YEAR:
		return bcd(tm.tm_year % 100);
	case RTC_CENTURY:
		return bcd((tm.tm_year + 1900) / 100);
	case RTC_STATUS_A:
		return A_32KHZ;
	case RTC_STATUS_B:
		return B_24H;
	case RTC_STATUS_D:
		return D_VALID;
	default:
		return 0;
	}
}

static bool is_memory(uint8_t index)
{
	return index > RTC_STATUS_D && index != RTC_CENTURY;
}

static uint64_t rtc_read(void *owner, uint64_t off, unsigned size)
{
	struct rtc *rtc = owner;
	uint8_t index, value;

	(void)size;
	if (off == 0)
		return 0xff; /* the index can't be read back */
	lock_take(&rtc->lock);
	index = rtc->index;
	value = rtc->bytes[index];
	lock_drop(&rtc->lock);
	return is_memory(index) ? value : rtc_register(index, time(NULL));
}

static void rtc_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct rtc *rtc = owner;

	(void)size;
	lock_take(&rtc->lock);
	if (off == 0)
		rtc->index = value & 0x7f; /* bit 7 masks the NMI */
	else if (is_memory(rtc->index))
		rtc->bytes[rtc->index] = (uint8_t)value;
	lock_drop(&rtc->lock);
}

const struct space_ops rtc_ops = { .read = rtc_read, .write = rtc_write, .max = 1 };

void rtc_init(struct rtc *rtc)
{
	memset(rtc, 0, sizeof(*rtc));
	lock_init(&rtc->lock);
}
