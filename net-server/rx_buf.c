/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's receive buffers: taken from the ring before they are needed, and kept until they are. */
#include "rx_buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "port.h"

#define BUFS    1024 /* chains that are kept, at most */
#define VECTORS 4096 /* of those chains */
#define OFFER   64   /* vectors to offer for a frame, unless one chain alone has more */

int rx_buf_open(struct rx *rx)
{
	rx->buf = calloc(BUFS, sizeof(*rx->buf));
	rx->iov = calloc(VECTORS + 1, sizeof(*rx->iov)); /* the spill area's comes behind the last */
	return rx->buf && rx->iov ? 0 : -ENOMEM;
}

void rx_buf_close(struct rx *rx)
{
	free(rx->buf);
	free(rx->iov);
}

/* Has room for one more chain of any length; false if there is none. */
static bool make_place(struct rx *rx)
{
	uint32_t shift = rx->first < rx->end ? rx->buf[rx->first].at : rx->iov_end;

	if (rx->end < BUFS && rx->iov_end + NET_IOV <= VECTORS)
		return true;
	memmove(rx->iov, rx->iov + shift, (rx->iov_end - shift) * sizeof(*rx->iov));
	memmove(rx->buf, rx->buf + rx->first, (rx->end - rx->first) * sizeof(*rx->buf));
	rx->iov_end -= shift;
	rx->end -= rx->first;
	rx->first = 0;
	for (uint32_t i = 0; i < rx->end; i++)
		rx->buf[i].at -= shift;
	return rx->end < BUFS && rx->iov_end + NET_IOV <= VECTORS;
}

bool rx_buf_take(struct rx *rx)
{
	struct vq_chain chain;

	if (!make_place(rx))
		return false;
	chain.iov = rx->iov + rx->iov_end;
	if (server_pop(rx->server, &chain) != 1)
		return false;
	if (chain.in_len < NET_HDR_BYTES || rx->legacy) {
		server_break(rx->server,
			     rx->legacy ? PORT_LEGACY : "a receive buffer is shorter than a header");
		return false;
	}
	if (chain.out_num)
		memmove(chain.iov, chain.iov + chain.out_num, chain.in_num * sizeof(*chain.iov));
	rx->buf[rx->end++] = (struct rx_buf) { .at = rx->iov_end, .len = chain.in_len, .head = chain.head };
	rx->iov_end += chain.in_num;
	rx->room += chain.in_len;
	return true;
}

bool rx_buf_may_come(struct rx *rx)
{
	return rx->end - rx->first < server_size(rx->server) && make_place(rx);
}

bool rx_buf_wants(const struct rx *rx)
{
	return rx->first == rx->end || (rx->mergeable && rx->room < rx->want && rx_buf_count(rx) < OFFER);
}

void rx_buf_prepare(struct rx *rx)
{
	if (!rx_buf_wants(rx))
		return;
	while (rx_buf_wants(rx) && rx_buf_take(rx))
		;
	server_lay_down(rx->server);
}
