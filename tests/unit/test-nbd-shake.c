/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to an NBD server that libnbd gives up at once: each descriptor is closed once, as the number may be
 * another thread's the next moment. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd_priv.h"

static unsigned closed_twice;

int __real_close(int fd);
int __wrap_close(int fd);

int __wrap_close(int fd)
{
	int r = __real_close(fd);

	closed_twice += r < 0 && errno == EBADF;
	return r;
}

Test(nbd_shake, no_hello_of_nbd)
{
	static const char garbage[64] = "HTTP/1.1 400 Bad Request";
	static struct nbd nbd;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(send(pair[1], garbage, sizeof(garbage), 0), sizeof(garbage));
	cr_assert_null(nbd_shake(&nbd, pair[0]));
	cr_assert_eq(closed_twice, 0);
	cr_assert_eq(close(pair[0]), 0);
	cr_assert_eq(close(pair[1]), 0);
}
