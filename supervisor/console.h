/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's serial console: relays between a socket of the core and a terminal, a pty, a file or a socket.
 * Non-blocking and bounded. A reader that stops (stdio, file) stops the relay, and the core drops what it can't
 * send; a pty or socket that nobody reads keeps the last part.
 */
#ifndef SUPERVISOR_CONSOLE_H
#define SUPERVISOR_CONSOLE_H

#include <termios.h>

#include "keeper.h"
#include "loop.h"
#include "vmconf.h"

struct console;

/* Opens the user's end and sets the terminal raw; on_quit is called for the escape key's x. -EINVAL with reason. */
int console_open(const struct vmconf *conf, struct console **out, struct vmconf_error *error);

/* If the user's end is a terminal whose settings were changed: its descriptor, and what they were; else -1. */
int console_terminal(const struct console *c, struct termios *settings);

/* What another supervisor would need to go on with it, -1 where there is nothing: the stream, the pty's other end, the
 * listening socket. They stay the console's. A terminal is the user's and of no use to others. */
void console_keep(const struct console *c, int fds[KEEPER_CONSOLE_MAX]);

/* Goes on with what console_keep gave, which is taken; if there was nothing, opens what conf says as console_open does. */
int console_go_on(const struct vmconf *conf, int fds[KEEPER_CONSOLE_MAX], struct console **out,
		  struct vmconf_error *error);

/* The socket on which clients connect, or -1. */
int console_listener(const struct console *c);

/* Starts relaying on loop. on_quit is called when the user asks for the end by Ctrl-A x. */
int console_start(struct console *c, struct loop *loop, void (*on_quit)(void *arg), void *arg);

/* A socketpair for a new core, of which *core_fd is the core's end; replaces the last one. -errno. */
int console_connect(struct console *c, int *core_fd);

/* Relays for a core that is there already; core_fd is our end, taken even on error. -errno. */
int console_take_core(struct console *c, int *core_fd);

/* Our end of that, or -1. */
int console_core_fd(const struct console *c);

/* Where the console is, for status: "stdio", "/dev/pts/3", a path. */
const char *console_where(const struct console *c);

/* Gives the terminal back, if it is one; of the rest nothing is touched, for another supervisor may go on with it. */
void console_restore(const struct console *c);

/* Writes what the core sent last, as far as the user's end takes it at once; then restores the terminal and frees. */
void console_close(struct console *c);

#endif
