/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/parse: sizes, numbers and key=value lists. */
#include "parse.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "nbd_uri.h"

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
					   "52:54:00:12:34:5`" };
	uint8_t mac[6];

	cr_assert_eq(parse_mac("52:54:00:aB:Cd:eF", mac), 0);
	cr_assert_eq(memcmp(mac, "\x52\x54\0\xab\xcd\xef", 6), 0);
	cr_assert_eq(parse_mac("53:54:00:12:34:56", mac), -ERANGE);
	cr_assert_eq(parse_mac("ff:ff:ff:ff:ff:ff", mac), -ERANGE);
	cr_assert_eq(parse_mac("00:00:00:00:00:00", mac), -EADDRNOTAVAIL);
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

/* A comma in a value is written twice, so one alone at the end is a separator, with nothing behind it. */
Test(parse, pairs_with_a_comma_behind_the_last)
{
	static const struct {
		const char *text;
		int pairs, end;
	} lists[] = {
		{ "a,", 0, -EINVAL },     { ",", 0, -EINVAL },   { "a=1,", 0, -EINVAL },
		{ "a=1,b,", 0, -EINVAL }, { "a=1,,", 1, 0 },     { "a=1,,,", 0, -EINVAL },
		{ "a=,,", 1, 0 },         { "a,,", 1, -EINVAL }, { "a=1,b,,", 2, -EINVAL },
		{ "a=1,,b,c", 2, 0 },
	};

	for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		char text[16], *list = text, *key, *value;
		int got, pairs = 0;

		strcpy(text, lists[i].text);
		while ((got = parse_next_pair(&list, &key, &value)) > 0)
			pairs++;
		cr_expect_eq(pairs, lists[i].pairs, "%s: %d", lists[i].text, pairs);
		cr_expect_eq(got, lists[i].end, "%s", lists[i].text);
		if (!pairs)
			cr_expect_str_eq(list, lists[i].text);
	}
}

Test(parse, nbd_uris)
{
	static const struct {
		const char *text, *socket, *host, *port, *export;
	} good[] = {
		{ "nbd://localhost", "", "localhost", "10809", "" },
		{ "nbd://localhost/", "", "localhost", "10809", "" },
		{ "nbd://10.0.0.1:1234/disk", "", "10.0.0.1", "1234", "disk" },
		{ "nbd://[::1]:1234/a/b", "", "::1", "1234", "a/b" },
		{ "nbd://[fe80::1]", "", "fe80::1", "10809", "" },
		{ "nbd+unix:///?socket=/run/s", "/run/s", "", "", "" },
		{ "nbd+unix:///my%20disk?socket=/a%2cb", "/a,b", "", "", "my disk" },
	};
	static const char *const bad[] = { "",
					   "nbd:",
					   "nbd://",
					   "nbd://:10809",
					   "nbd://host:0",
					   "nbd://host:65536",
					   "nbd://host:x/",
					   "nbd://host:123456",
					   "nbd://[::1",
					   "nbd://[::1]x",
					   "nbd://me@host",
					   "nbd://host/x?socket=/s",
					   "nbd://host/%",
					   "nbd://host/%4",
					   "nbd://host/%4g",
					   "nbd://host/%00",
					   "nbds://host",
					   "nbds+unix:///?socket=/s",
					   "nbd+vsock://2",
					   "nbd+unix://host/?socket=/s",
					   "nbd+unix:///",
					   "nbd+unix:///?socket=",
					   "nbd+unix:///?socket=s",
					   "nbd+unix:///?socket=/s&x=y",
					   "nbd+unix:///?x=/s",
					   "file:///x" };
	struct nbd_uri uri;
	const char *why;
	char longest[256];

	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(nbd_uri_parse(good[i].text, &uri, &why), 0, "%s: %s", good[i].text, why);
		cr_assert_str_eq(uri.socket, good[i].socket);
		cr_assert_str_eq(uri.host, good[i].host);
		cr_assert_str_eq(uri.port, good[i].port);
		cr_assert_str_eq(uri.export, good[i].export);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why = "";
		cr_assert_eq(nbd_uri_parse(bad[i], &uri, &why), -EINVAL, "%s", bad[i]);
		cr_assert_neq(*why, 0);
	}
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	memcpy(longest, "nbd+unix:///?socket=/", 21);
	cr_assert_eq(nbd_uri_parse(longest, &uri, &why), -EINVAL);
}
