/* SPDX-License-Identifier: Apache-2.0 */
/* What a server that was taken over can be told to do to others. */
#ifndef TAKEN_ATTACK_H
#define TAKEN_ATTACK_H

#include <stdint.h>

struct bus;
struct sandbox_anchor;

struct attack {
	uint64_t end_ns;               /* (clock_ns) it goes on so long */
	int vhost;                     /* the connection to the core */
	struct bus *bus;               /* NULL: none */
	struct sandbox_anchor *anchor; /* what the anchor will do when we are dead; NULL: there is none */
};

/* The attack of that name (attack.c has the list); it may not come back. */
void attack_do(const char *name, const struct attack *a);

#endif
