/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kicks that the core makes itself, not the kernel for the guest: those that exited, and those in case one was lost. The
 * eventfd is shared with a back end, which may make it blocking and fill its counter at any moment, the one between a look
 * at it and the write included. All of it is for the main loop's thread.
 */
#ifndef CORE_KICK_H
#define CORE_KICK_H

/* Once, on the main loop's thread, before the first kick. Starts a thread; -errno. */
int kick_init(void);

/* Signals a kick's eventfd. One that is full is signalled already and left alone; if it fills up just now, 1 ms is waited. */
void kick_offer(int fd);

#endif
