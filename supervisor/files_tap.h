/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the tap of a network port, which it makes if there is none of that name. */
#ifndef SUPERVISOR_FILES_TAP_H
#define SUPERVISOR_FILES_TAP_H

#include <stdbool.h>

#include "vmconf.h"

/* What is there of a tap. One that was made here goes when nobody has it open any more, and its place in a bridge with
 * it; one that was there before stays, so that its place must be given back. */
struct files_tap {
	int queue[VMCONF_PAIRS_MAX]; /* descriptors; -1 */
	unsigned mtu;
	char bridge[VMCONF_TAP_MAX]; /* to be left by files_leave_bridge; empty: none */
	unsigned index;              /* of its interface */
};

#define FILES_NO_TAP ((struct files_tap) { .queue = { [0 ... VMCONF_PAIRS_MAX - 1] = -1 } })

/*
 * Opens as many queues of the port's tap as it has pairs, with the vnet header of virtio 1, sets its MTU if that is
 * wanted, puts it into the port's bridge and brings it up. -EINVAL with the reason; what was opened is in *tap even then.
 */
int files_open_tap(const struct vmconf_device *port, struct files_tap *tap, struct vmconf_error *error);

/* Takes a tap that was there before out of the bridge that it was put into; nothing for any other. */
void files_leave_bridge(const struct files_tap *tap);

void files_close_tap(struct files_tap *tap);

/* The queues that all processes have of the tap with this index that was made for several, those that take no part
 * included; 0: of any other interface. -errno. */
int files_tap_queues(unsigned index);

#endif
