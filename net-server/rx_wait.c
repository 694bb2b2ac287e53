/* SPDX-License-Identifier: Apache-2.0 */
/* A frame that waits, for the limit or for buffers. */
#include "rx_wait.h"

#include <string.h>

#include "count.h"
#include "port.h"
#include "rx_buf.h"
#include "vec.h"

void rx_wait(struct rx *rx, uint32_t len, uint32_t placed, uint64_t needs, bool paid)
{
	rx->held = len;
	rx->held_at = placed;
	rx->held_needs = needs;
	rx->paid = paid;
}

void rx_wait_end(struct rx *rx)
{
	rx->held = 0;
	rx->paid = false;
}

void rx_wait_drop(struct rx *rx, _Atomic uint64_t *why)
{
	if (rx->held)
		count_add(why, 1);
	throttle_leave(&rx->port->throttle, THROTTLE_RX, &rx->turn);
	rx_wait_end(rx);
	rx->limited = false;
	loop_disarm_timer(rx->timer);
}

void rx_wait_unplace(struct rx *rx)
{
	if (!rx->held)
		return;
	memmove(rx->spill + rx->held_at, rx->spill, rx->held - rx->held_at);
	vec_get(rx_buf_vectors(rx), rx_buf_count(rx), 0, rx->spill, rx->held_at);
	rx->held_at = 0;
}

bool rx_wait_pay(struct rx *rx, uint32_t len)
{
	uint64_t at = throttle_wait(&rx->port->throttle, THROTTLE_RX, &rx->turn, len - NET_HDR_BYTES);

	if (!at)
		return true;
	rx->limited = true;
	loop_arm_timer(rx->timer, at);
	return false;
}

bool rx_wait_over(struct rx *rx)
{
	bool any = false;

	if (rx->limited || (!rx->paid && !rx_wait_pay(rx, rx->held)))
		return false;
	rx->paid = true;
	while (rx->room < rx->held && rx_buf_take(rx))
		any = true;
	if (any)
		server_lay_down(rx->server);
	if (rx->room >= rx->held)
		return true;
	if (rx_buf_may_come(rx))
		return false;
	rx_wait_drop(rx, &rx->stats.too_large); /* of such small buffers it would need too many */
	return true;
}
