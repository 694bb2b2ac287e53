/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/usernet: what the guest's network of net-user may be. */
#include "usernet.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "num.h"

static struct usernet u;

static void init(void)
{
	usernet_init(&u);
}

TestSuite(usernet, .init = init);

static void expect_addr(struct in_addr addr, const char *want)
{
	char text[INET_ADDRSTRLEN];

	cr_expect_str_eq(inet_ntop(AF_INET, &addr, text, sizeof(text)), want);
}

static void refuse_all(int (*take)(struct usernet *, const char *), const char *const *bad)
{
	for (; *bad; bad++) {
		usernet_init(&u);
		cr_expect_eq(take(&u, *bad), -EINVAL, "%s", *bad);
	}
}

static void expect_fault(const char *key, const char *value)
{
	struct usernet_fault fault;

	cr_assert_eq(usernet_finish(&u, &fault), -EINVAL, "%s", value);
	cr_expect_str_eq(fault.key, key);
	cr_expect_str_eq(fault.value, value);
	cr_expect_not_null(fault.why);
	usernet_init(&u);
}

Test(usernet, who_is_who_follows_from_the_network)
{
	struct usernet_fault fault;

	cr_assert_eq(usernet_finish(&u, &fault), 0);
	expect_addr(u.gateway, "10.0.2.2");
	expect_addr(u.dns, "10.0.2.3");
	expect_addr(u.guest, "10.0.2.15");
	usernet_init(&u);
	cr_assert_eq(usernet_set_dns(&u, "192.168.4.40"), 0);
	cr_assert_eq(usernet_set_net(&u, "192.168.4.32/27"), 0);
	cr_assert_eq(usernet_add_forward(&u, "udp:0.0.0.0:53-:54"), 0);
	cr_assert_eq(usernet_add_forward(&u, "tcp::53-192.168.4.62:54"), 0);
	cr_assert_eq(usernet_finish(&u, &fault), 0, "%s", fault.why);
	expect_addr(u.gateway, "192.168.4.34");
	expect_addr(u.dns, "192.168.4.40");
	expect_addr(u.guest, "192.168.4.47");
	expect_addr(u.mask, "255.255.255.224");
	expect_addr(u.forward[0].guest, "192.168.4.47");
	expect_addr(u.forward[0].host, "0.0.0.0");
	expect_addr(u.forward[1].guest, "192.168.4.62");
	expect_addr(u.forward[1].host, "127.0.0.1");
}

Test(usernet, values_that_are_none)
{
	static const char *const nets[] = {
		"",          "10.0.2.0",    "10.0.2.0/28", "10.0.2.0/7",  "10.0.2.9/24",
		"10.0.2/24", "127.0.0.0/8", "0.0.0.0/8",   "224.0.0.0/8", "240.0.0.0/8",
		"::/8",      NULL
	};
	static const char *const names[] = { "", "one", "10.0.2", "10.0.2.3 ", "::1", NULL };
	static const char *const hosts[] = { "", "a b", "a_b", "\xc3\xa9", NULL };
	static const char *const forwards[] = { "",
						"22",
						"tcp:22",
						"tcp::22",
						"tcp::22-22",
						"sctp::1-:2",
						"tcp::0-:1",
						"tcp::1-:65536",
						"tcp:localhost:1-:2",
						"tcp::1-guest:2",
						"tcp::1-:2-:3",
						NULL };
	static const char *const allows[] = { "",
					      "foo.com",
					      "foo.com:80",
					      "1.2.3.4/33",
					      "1.2.3.4/24",
					      "1.2.3.4:0",
					      "1.2.3.4:99999",
					      "1.2.3.4:5-4",
					      "1.2.3.4/sctp",
					      "2001:db8::1",
					      "[2001:db8::1",
					      "[2001:db8::1/32]",
					      NULL };

	refuse_all(usernet_set_net, nets);
	refuse_all(usernet_set_dns, names);
	refuse_all(usernet_set_hostname, hosts);
	refuse_all(usernet_add_forward, forwards);
	refuse_all(usernet_add_allow, allows);
}

Test(usernet, values_that_do_not_go_together)
{
	static const char *const dns[] = { "1.1.1.1", "10.0.2.2", "10.0.2.15", "10.0.2.0", "10.0.2.255" };
	static const char *const guests[] = { "tcp::1-192.0.2.3:80", "tcp::1-10.0.2.2:80",
					      "tcp::1-10.0.2.3:80", "tcp::1-10.0.2.255:80" };

	for (size_t i = 0; i < ARRAY_SIZE(dns); i++) {
		cr_assert_eq(usernet_set_dns(&u, dns[i]), 0);
		expect_fault("dns", dns[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(guests); i++) {
		cr_assert_eq(usernet_add_forward(&u, guests[i]), 0);
		expect_fault("hostfwd", guests[i]);
	}
	cr_assert_eq(usernet_add_forward(&u, "tcp::1-:80"), 0);
	cr_assert_eq(usernet_add_forward(&u, "udp::1-:80"), 0);
	cr_assert_eq(usernet_add_forward(&u, "tcp:127.0.0.2:1-:80"), 0);
	cr_assert_eq(usernet_add_forward(&u, "tcp:127.0.0.1:1-:81"), 0);
	expect_fault("hostfwd", "tcp:127.0.0.1:1-:81");
}

Test(usernet, only_so_many)
{
	for (unsigned i = 0; i < USERNET_FORWARDS_MAX; i++)
		cr_assert_eq(usernet_add_forward(&u, "tcp::1-:80"), 0);
	cr_expect_eq(usernet_add_forward(&u, "tcp::1-:80"), -E2BIG);
	for (unsigned i = 0; i < USERNET_ALLOWS_MAX; i++)
		cr_assert_eq(usernet_add_allow(&u, "[2001:db8::/32]:443/tcp"), 0);
	cr_expect_eq(usernet_add_allow(&u, "1.2.3.4"), -E2BIG);
}
