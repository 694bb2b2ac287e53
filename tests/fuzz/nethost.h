/* SPDX-License-Identifier: Apache-2.0 */
/* The host of fuzz-net's port: it takes frames and has some when the input says so. There is one. */
#ifndef FUZZ_NETHOST_H
#define FUZZ_NETHOST_H

#include "port.h"
#include "rig.h"

#define NETHOST_PAIRS 2

/* The input's to set. */
struct nethost {
	struct rig *rig;
	struct port *port;
	bool vnet;
	int answer;       /* of the next send: 0 or -errno */
	unsigned frames;  /* that wait to be received */
	uint32_t len;     /* of each */
	uint8_t head[32]; /* their first bytes */
	int fd[NETHOST_PAIRS];
	/* A descriptor that the driver rewrites while the device works. */
	bool rewrite;
	unsigned ring, at;
	struct ring_desc desc;
};
extern struct nethost nethost;

/* Whether the driver has accepted this feature. */
bool nethost_agreed(unsigned feature);

#endif
