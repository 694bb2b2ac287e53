/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacks a cluster. However much its bytes would unpack to, no more than a cluster is made of them. */
#include "config.h"

#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "qcow2_priv.h"

#define WINDOW_BITS (-15) /* the largest, without zlib's header */

static int inflate_zlib(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	z_stream z = { .next_in = (z_const Bytef *)(uintptr_t)in,
		       .avail_in = (uInt)in_len,
		       .next_out = out,
		       .avail_out = (uInt)out_len };
	int res;

	if (inflateInit2(&z, WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	res = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* What is left of the input is another cluster's. */
	return (res == Z_STREAM_END || res == Z_BUF_ERROR) && !z.avail_out ? 0 : -WHAT_IS_WRONG;
}

#ifdef HAVE_ZSTD
static int inflate_zstd(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	ZSTD_inBuffer from = { .src = in, .size = in_len };
	ZSTD_outBuffer to = { .dst = out, .size = out_len };
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t res = 1;

	if (!ctx)
		return -ENOMEM;
	while (to.pos < to.size) {
		size_t before = to.pos + from.pos;

		res = ZSTD_decompressStream(ctx, &to, &from);
		if (ZSTD_isError(res) || to.pos + from.pos == before)
			break;
	}
	ZSTD_freeDCtx(ctx);
	return to.pos == to.size && !ZSTD_isError(res) ? 0 : -WHAT_IS_WRONG;
}
#endif

int inflate_cluster(unsigned type, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
#ifdef HAVE_ZSTD
	if (type == 1)
		return inflate_zstd(in, in_len, out, out_len);
#endif
	return type ? -ENOTSUP : inflate_zlib(in, in_len, out, out_len);
}
