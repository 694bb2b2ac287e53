/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System-call tables that several processes share, to be joined with a process's own by sandbox_compile. A call
 * stands in the smallest table that needs it; naming it again in another table costs nothing.
 */
#ifndef SANDBOX_TABLES_H
#define SANDBOX_TABLES_H

#include "sandbox.h"

/* Steady: any C program with threads: locks, heap without executable pages, signal return, exit. */
extern const struct sandbox_rule sandbox_table_runtime[];

/* Steady: lib/loop once its descriptors exist: waiting, waking, timers, changing what is watched. */
extern const struct sandbox_rule sandbox_table_loop[];

/* Steady: nng's own threads on a unix socket, its redialling included. */
extern const struct sandbox_rule sandbox_table_bus[];

/* Steady: messages with descriptors over sockets that exist already (vhost-user, the core's descriptor socket). */
extern const struct sandbox_rule sandbox_table_sockets[];

/* Stage one: starting threads. */
extern const struct sandbox_rule sandbox_table_threads[];

/* Stage one: making a loop, its eventfds and timers. */
extern const struct sandbox_rule sandbox_table_loop_setup[];

/* Stage one: opening nng and dialling the bus. */
extern const struct sandbox_rule sandbox_table_bus_setup[];

/* Stage one: installing the steady filter (sandbox_narrow) and the per-thread ones (sandbox_install). */
extern const struct sandbox_rule sandbox_table_narrow[];

#endif
