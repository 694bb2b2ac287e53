/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines of all processes of a machine, to stderr or syslog. A child's lines come over a pipe and are named
 * here, so none can speak as another; they are cleaned of control characters and rationed. Nothing here waits: a line
 * that the receiver has no room for is dropped and counted.
 */
#ifndef SUPERVISOR_LOGS_H
#define SUPERVISOR_LOGS_H

#include <stdint.h>

#include "log.h"
#include "loop.h"
#include "vmconf.h"

/* Opens the sink; machine (kept by reference) goes in front in syslog. */
int logs_open(enum vmconf_log sink, int level, const char *machine, struct vmconf_error *error);

/* One line of the process process for its device (NULL: none). */
void logs_emit(int level, const char *process, const char *device, const char *text);

/* Lines of the supervisor itself; err (an errno of either sign) adds its text unless 0. */
__attribute__((format(printf, 3, 4))) void logs_say(int level, int err, const char *fmt, ...);

#define say_error(...)            logs_say(LOG_LEVEL_ERROR, 0, __VA_ARGS__)
#define say_warn(...)             logs_say(LOG_LEVEL_WARNING, 0, __VA_ARGS__)
#define say_info(...)             logs_say(LOG_LEVEL_INFO, 0, __VA_ARGS__)
#define say_debug(...)            logs_say(LOG_LEVEL_DEBUG, 0, __VA_ARGS__)
#define say_error_errno(err, ...) logs_say(LOG_LEVEL_ERROR, (err), __VA_ARGS__)
#define say_warn_errno(err, ...)  logs_say(LOG_LEVEL_WARNING, (err), __VA_ARGS__)

/* Has nothing but printable ASCII stay of what a child said: it is to stand in JSON, which takes no bytes that are not UTF-8. */
void logs_plain(char *text);

/* Stderr leads elsewhere now. */
void logs_stderr_changed(void);

/* Lines that no receiver took, of all processes. */
uint64_t logs_dropped(void);

/* The reading end of a child's stderr. */
struct logs_pipe;

/* Makes the pipe and watches its reading end; *write_fd is for the child (the caller closes its copy). -errno. */
int logs_pipe_new(struct loop *loop, const char *process, const char *device, struct logs_pipe **out,
		  int *write_fd);

/* Goes on with the reading end *read_fd of a pipe that another made; it is taken, also on error. -errno. */
int logs_pipe_take(struct loop *loop, const char *process, const char *device, struct logs_pipe **out,
		   int *read_fd);

/* The reading end, which stays the pipe's. */
int logs_pipe_fd(const struct logs_pipe *pipe);

/* Reads what is left (never waiting), and frees. NULL is ignored. */
void logs_pipe_free(struct logs_pipe *pipe);

#endif
