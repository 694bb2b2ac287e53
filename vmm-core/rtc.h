/* SPDX-License-Identifier: Apache-2.0 */
/* The CMOS clock: the host's UTC time in an MC146818's registers. */
#ifndef CORE_RTC_H
#define CORE_RTC_H

#include <stdint.h>

#include "lock.h"
#include "space.h"

struct rtc {
	struct lock lock;
	uint8_t index GUARDED_BY(lock);
	uint8_t bytes[128] GUARDED_BY(lock); /* what is not the clock is plain memory */
};

void rtc_init(struct rtc *rtc);

/* Ports 0x70 (index) and 0x71 (data); owner is the rtc. */
extern const struct space_ops rtc_ops;

/* What register index reads at a time in seconds since 1970 (for tests); the clock's and the status registers only. */
uint8_t rtc_register(uint8_t index, int64_t seconds);

#endif
