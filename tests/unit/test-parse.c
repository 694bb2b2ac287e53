/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/parse: sizes, numbers and key=value lists. */
#include "parse.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(parse, hardware_addresses)
{
	static const char *const bad[] = { "",
					   "52",
					   "52:54:00:12:34",
					   "52:54:00:12:34:5",
					   "52:54:00:12:34:567",
					   "52:54:00:12:34:56:",
					   "52-54-00-12-34-56",
					   "5:254:00:12:34:56",
					   "+2:54:00:12:34:56",
					   " 2:54:00:12:34:56",
					   "5g:54:00:12:34:56",
					   "52:54:00:12:34:5`",
					   "00:00:00:00:00:00" };
	uint8_t mac[6];

	cr_assert_eq(parse_mac("52:54:00:aB:Cd:eF", mac), 0);
	cr_assert_eq(memcmp(mac, "\x52\x54\0\xab\xcd\xef", 6), 0);
	cr_assert_eq(parse_mac("53:54:00:12:34:56", mac), -ERANGE);
	cr_assert_eq(parse_mac("ff:ff:ff:ff:ff:ff", mac), -ERANGE);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(parse_mac(bad[i], mac), -EINVAL, "%s", bad[i]);
}

Test(parse, sizes_with_units)
{
	uint64_t v = 0;

	cr_assert_eq(parse_size("512", &v), 0);
	cr_assert_eq(v, 512);
	cr_assert_eq(parse_size("64k", &v), 0);
	cr_assert_eq(v, 65536);
	cr_assert_eq(parse_size("2G", &v), 0);
	cr_assert_eq(v, 2ULL << 30);
}

Test(parse, sizes_refused)
{
	uint64_t v = 7;

	cr_assert_eq(parse_size("", &v), -EINVAL);
	cr_assert_eq(parse_size("-1", &v), -EINVAL);
	cr_assert_eq(parse_size("1Q", &v), -EINVAL);
	cr_assert_eq(parse_size("1GB", &v), -EINVAL);
	cr_assert_eq(parse_size("18446744073709551616", &v), -ERANGE);
	cr_assert_eq(parse_size("99999999T", &v), -ERANGE);
	cr_assert_eq(v, 7);
}

Test(parse, numbers_within_bounds)
{
	uint64_t v = 0;

	cr_assert_eq(parse_u64("4", 1, 8, &v), 0);
	cr_assert_eq(v, 4);
	cr_assert_eq(parse_u64("0", 1, 8, &v), -ERANGE);
	cr_assert_eq(parse_u64("9", 1, 8, &v), -ERANGE);
	cr_assert_eq(parse_u64("4x", 1, 8, &v), -EINVAL);
}

Test(parse, pairs)
{
	char text[] = "path=/a,,b,id=x,ro,last=";
	char *list = text, *key, *value;

	cr_assert_eq(parse_next_pair(&list, &key, &value), 1);
	cr_assert_str_eq(key, "path");
	cr_assert_str_eq(value, "/a,b");
	cr_assert_eq(parse_next_pair(&list, &key, &value), 1);
	cr_assert_str_eq(key, "id");
	cr_assert_str_eq(value, "x");
	cr_assert_eq(parse_next_pair(&list, &key, &value), 1);
	cr_assert_str_eq(key, "ro");
	cr_assert_null(value);
	cr_assert_eq(parse_next_pair(&list, &key, &value), 1);
	cr_assert_str_eq(key, "last");
	cr_assert_str_eq(value, "");
	cr_assert_eq(parse_next_pair(&list, &key, &value), 0);
}

Test(parse, pairs_with_empty_key_refused)
{
	char text[] = ",a=1";
	char *list = text, *key, *value;

	cr_assert_eq(parse_next_pair(&list, &key, &value), -EINVAL);
}
