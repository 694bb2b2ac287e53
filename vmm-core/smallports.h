/* SPDX-License-Identifier: Apache-2.0 */
/* Models of a port or two that keep no state: each one's owner is the struct end that it reports to. */
#ifndef CORE_SMALLPORTS_H
#define CORE_SMALLPORTS_H

#include "space.h"

extern const struct space_ops i8042_ops;      /* i8042.c: 0x64 */
extern const struct space_ops i8042_data_ops; /* i8042.c: 0x60 */
extern const struct space_ops port_a_ops;     /* i8042.c: 0x92 */
extern const struct space_ops debugexit_ops;  /* debugexit.c: 0xf4 */
extern const struct space_ops pvpanic_ops;    /* pvpanic.c: 0x505 */

#endif
