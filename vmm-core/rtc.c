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

/* A moment in UTC. Worked out here because gmtime_r may read the time zone's file, which a vCPU thread may not. */
struct moment {
	int year, month, day, weekday, hour, minute, second;
};

#define DAYS_400_YEARS 146097
#define DAYS_TO_1970   719468 /* from 1 March of year 0 */

/* Counting years from March puts the leap day last, so that a month's start is a plain product. */
static struct moment moment_at(int64_t seconds)
{
	int64_t days = seconds / 86400, rest = seconds % 86400, era, day_of_era, year, day_of_year, month;

	if (rest < 0) {
		rest += 86400;
		days--;
	}
	era = (days + DAYS_TO_1970) / DAYS_400_YEARS;
	day_of_era = (days + DAYS_TO_1970) % DAYS_400_YEARS;
	year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
	month = (5 * day_of_year + 2) / 153;
	return (struct moment) {
		.year = (int)(era * 400 + year + (month >= 10)),
		.month = (int)(month < 10 ? month + 3 : month - 9),
		.day = (int)(day_of_year - (153 * month + 2) / 5 + 1),
		.weekday = (int)((days + 4) % 7), /* 1 January 1970 was a Thursday */
		.hour = (int)(rest / 3600),
		.minute = (int)(rest / 60 % 60),
		.second = (int)(rest % 60),
	};
}

uint8_t rtc_register(uint8_t index, int64_t seconds)
{
	struct moment m = moment_at(seconds);

	switch (index) {
	case RTC_SECONDS:
		return bcd(m.second);
	case RTC_MINUTES:
		return bcd(m.minute);
	case RTC_HOURS:
		return bcd(m.hour);
	case RTC_WEEKDAY:
		return bcd(m.weekday + 1);
	case RTC_DAY:
		return bcd(m.day);
	case RTC_MONTH:
		return bcd(m.month);
	case RTC_YEAR:
		return bcd(m.year % 100);
	case RTC_CENTURY:
		return bcd(m.year / 100);
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

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
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
	return is_memory(index) ? value : rtc_register(index, now());
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
