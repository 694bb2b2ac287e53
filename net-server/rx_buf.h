/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's receive buffers that rx.c has taken: struct rx's buf and iov. On its thread. */
#ifndef RX_BUF_H
#define RX_BUF_H

#include <stdbool.h>
#include <sys/uio.h>

#include "rx.h"

/* Memory for as many as are kept. 0 or -ENOMEM; to be closed in any case. */
int rx_buf_open(struct rx *rx);
void rx_buf_close(struct rx *rx);

/* Takes one more; false if there is none, or no place. */
bool rx_buf_take(struct rx *rx);

/* Whether the driver can give one more beside those that are there: its ring, and we, have a place for it. */
bool rx_buf_may_come(struct rx *rx);

/* Takes what a frame is to be read into, as far as there is. */
void rx_buf_prepare(struct rx *rx);

/* Whether rx_buf_prepare wants more than there is. */
bool rx_buf_wants(const struct rx *rx);

/* The vectors of all that are there; behind the last is place for one more. */
static inline struct iovec *rx_buf_vectors(const struct rx *rx)
{
	return rx->iov + (rx->first < rx->end ? rx->buf[rx->first].at : rx->iov_end);
}

static inline int rx_buf_count(const struct rx *rx)
{
	return (int)(rx->iov + rx->iov_end - rx_buf_vectors(rx));
}

#endif
