/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System-call tables that several processes share, to be joined with a process's own by sandbox_compile. A call
 * stands in the smallest table that needs it; naming it again in another table costs nothing.
 */
#ifndef SANDBOX_TABLES_H
#define SANDBOX_TABLES_H

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "sandbox.h"

/*
 * fcntl(fd, command, argument) where the argument's O_NONBLOCK is as said. A descriptor's flags belong to all who share
 * it: a server that could make a kick eventfd blocking and fill it would stop the core in its next kick. So F_SETFL is
 * allowed with O_NONBLOCK only, and as rules of one call must look at the same arguments, so do the other commands.
 */
#define SANDBOX_FCNTL(command, nonblock, reason)                                                             \
	{                                                                                                    \
		.nr = __NR_fcntl,                                                                            \
		.args = { { .index = 1, .op = SANDBOX_EQ, .value = (command) },                              \
			  { .index = 2, .op = SANDBOX_MASKED, .mask = O_NONBLOCK, .value = (nonblock) } },   \
		.why = (reason)                                                                              \
	}

/*
 * The arguments of mmap, never executable. Anonymous memory is private: of what is shared no limit of the process's counts. Other
 * memory is a descriptor's, and shared.
 */
#define SANDBOX_MMAP(flags)                                                                                  \
	{                                                                                                    \
		{ .index = 2, .op = SANDBOX_MASKED, .mask = PROT_EXEC },                                     \
		{                                                                                            \
			.index = 3, .op = SANDBOX_MASKED, .mask = MAP_TYPE | MAP_ANONYMOUS, .value = (flags) \
		}                                                                                            \
	}

/* The arguments of socket: a kind without its flags. A protocol that is not named would have the kernel load its code. */
#define SANDBOX_SOCKET(domain, kind, protocol)                                                               \
	{                                                                                                    \
		{ .index = 0, .op = SANDBOX_EQ, .value = (domain) },                                         \
		    { .index = 1,                                                                            \
		      .op = SANDBOX_MASKED,                                                                  \
		      .mask = 0xffffffffU & ~(uint32_t)(SOCK_CLOEXEC | SOCK_NONBLOCK),                       \
		      .value = (kind) },                                                                     \
		{                                                                                            \
			.index = 2, .op = SANDBOX_EQ, .value = (protocol)                                    \
		}                                                                                            \
	}

/*
 * The arguments of seccomp: one more filter, for all threads (SECCOMP_FILTER_FLAG_TSYNC) or the caller's alone (0). Other
 * flags would give out a descriptor that is told of system calls, or take back the guard against speculation.
 */
#define SANDBOX_INSTALL(flags)                                                                               \
	{                                                                                                    \
		{ .index = 0, .op = SANDBOX_EQ, .value = 1 /* SECCOMP_SET_MODE_FILTER */ },                  \
		{                                                                                            \
			.index = 1, .op = SANDBOX_EQ, .value = (flags)                                       \
		}                                                                                            \
	}

/* The arguments of setsockopt and getsockopt: that option, whatever its value. */
#define SANDBOX_OPTION(level, option)                                                                        \
	{                                                                                                    \
		{ .index = 1, .op = SANDBOX_EQ, .value = (level) },                                          \
		{                                                                                            \
			.index = 2, .op = SANDBOX_EQ, .value = (option)                                      \
		}                                                                                            \
	}

/* Steady: any C program with threads that last: locks, heap without executable pages, exit. */
extern const struct sandbox_rule sandbox_table_runtime[];

/* Steady: lib/loop once its descriptors exist: waiting, waking, timers, changing what is watched. */
extern const struct sandbox_rule sandbox_table_loop[];

/* Steady: nng's own threads on a unix socket, its redialling included. */
extern const struct sandbox_rule sandbox_table_bus[];

/* Steady: messages with descriptors over sockets that exist already (vhost-user, the core's descriptor socket). */
extern const struct sandbox_rule sandbox_table_sockets[];

/* Stage one: starting threads, and ending them. */
extern const struct sandbox_rule sandbox_table_threads[];

/* Stage one: making a loop, its eventfds and timers. */
extern const struct sandbox_rule sandbox_table_loop_setup[];

/* Stage one: opening nng and dialling the bus. */
extern const struct sandbox_rule sandbox_table_bus_setup[];

/*
 * Whatever nng and the C library open and do without, refused, for a process that may open files with some flags: alternatives
 * must look at the same arguments, so that its rule is void for what this process allows.
 */
extern const struct sandbox_rule sandbox_table_no_files[];

/* Stage one: installing the steady filter (sandbox_narrow). A steady stage has its own rule for a thread's. */
extern const struct sandbox_rule sandbox_table_narrow[];

#endif
