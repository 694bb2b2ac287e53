/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes at an offset of a list of vectors. Guest memory may change under us: what was copied is what counts. */
#ifndef VEC_H
#define VEC_H

#include <stddef.h>
#include <string.h>
#include <sys/uio.h>

#include "num.h"

static inline size_t vec_len(const struct iovec *iov, int n)
{
	size_t len = 0;

	for (; n; iov++, n--)
		len += iov->iov_len;
	return len;
}

/* Copies at most len bytes from off; how many there were. */
static inline size_t vec_get(const struct iovec *iov, int n, size_t off, void *buf, size_t len)
{
	size_t done = 0;

	for (; n && done < len; iov++, n--) {
		size_t part;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			continue;
		}
		part = MIN(iov->iov_len - off, len - done);
		memcpy((char *)buf + done, (const char *)iov->iov_base + off, part);
		done += part;
		off = 0;
	}
	return done;
}

/* Copies len bytes to off, as far as there is room; how many that were. */
static inline size_t vec_put(const struct iovec *iov, int n, size_t off, const void *buf, size_t len)
{
	size_t done = 0;

	for (; n && done < len; iov++, n--) {
		size_t part;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			continue;
		}
		part = MIN(iov->iov_len - off, len - done);
		memcpy((char *)iov->iov_base + off, (const char *)buf + done, part);
		done += part;
		off = 0;
	}
	return done;
}

#endif
