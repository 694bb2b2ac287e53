/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to the supervisor that servers and other children give alike. Thread of the bus's loop. */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include <stdint.h>

struct bus;

/* BUS_OK. That it can't be sent is logged. */
void reply_ok(struct bus *bus, uint64_t id);

/* Adds a counter to a struct bus_msg of BUS_STATS, if there is room: what a stats function is given to call. */
void reply_add_stat(void *msg, const char *name, uint64_t value);

#endif
