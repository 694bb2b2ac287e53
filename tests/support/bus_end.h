/* SPDX-License-Identifier: Apache-2.0 */
/* What a test's end of a control bus does where it only listens: connections come and go, messages are well formed. */
#ifndef TESTS_SUPPORT_BUS_END_H
#define TESTS_SUPPORT_BUS_END_H

#include <criterion/criterion.h>
#include <stdbool.h>

static inline void bus_end_connected(void *arg, bool up)
{
	(void)arg;
	(void)up;
}

static inline void bus_end_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	cr_assert_fail("malformed message %u: %s", count, what);
}

#endif
