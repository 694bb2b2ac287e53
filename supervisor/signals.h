/* SPDX-License-Identifier: Apache-2.0 */
/* The signals that end a machine. */
#ifndef SUPERVISOR_SIGNALS_H
#define SUPERVISOR_SIGNALS_H

/* Blocks them, and gives the descriptor on which they come; SIGPIPE is an error of write from then on. Or -errno. */
int signals_take(void);

#endif
