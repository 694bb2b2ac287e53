/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines, to stderr, one write(2) each: never a partial line, never more than LOG_LINE_MAX bytes.
 *
 * A process that a person started prints "PROCESS[DEVICE]: text"; one that the supervisor started prints
 * "<N>text" with the syslog level N (sd-daemon(3)), and the supervisor adds the name, which a child therefore
 * can't forge. If stderr is a full non-blocking pipe the line is dropped and counted, so no caller ever waits.
 * Only processes log; libraries under lib/ other than lib/server return errors.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_LINE_MAX 1024

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/*
 * Sets the process's name and, if it is for one device, the device's (NULL otherwise); both are kept by reference.
 * supervised selects the "<N>" form. Call once, before the first thread starts.
 */
void log_init(const char *process, const char *device, bool supervised);

/* Lines above this level are not written; LOG_LEVEL_INFO at first. Any thread. */
void log_set_level(enum log_level level);

/* "error", "warning", "info" or "debug" to its level; -EINVAL for another word. */
int log_level_parse(const char *word);

/* What every line of this level begins with, for one that is written in another way; its length. size is not 0. */
size_t log_prefix(enum log_level level, char *out, size_t size);

/* Lines dropped because stderr would have blocked. Any thread. */
uint64_t log_dropped(void);

void log_line(enum log_level level, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, 0, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARNING, 0, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, 0, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, 0, __VA_ARGS__)

/* The same, followed by ": " and the text of err, an errno value of either sign. */
#define log_error_errno(err, ...) log_line(LOG_LEVEL_ERROR, (err), __VA_ARGS__)
#define log_warn_errno(err, ...)  log_line(LOG_LEVEL_WARNING, (err), __VA_ARGS__)

/* A budget of lines for one place that a guest or a peer can make noisy: burst lines a second. */
struct log_limit {
	uint64_t window_start; /* clock_ns of the window's first line */
	uint32_t used;         /* lines in this window */
	uint32_t suppressed;   /* lines not written since the last one that was */
};

/* True if the caller may log; then *suppressed tells how many lines were held back since. One thread per limit. */
bool log_limit_take(struct log_limit *limit, uint32_t burst, uint32_t *suppressed);

/* A line that at most so many times a second leaves this place; says how many were held back. */
#define log_limited(level, lines, fmt, ...)                                                                  \
	do {                                                                                                 \
		static _Thread_local struct log_limit limit_;                                                \
		uint32_t held_;                                                                              \
		if (log_limit_take(&limit_, lines, &held_)) {                                                \
			if (held_)                                                                           \
				log_line(level, 0, "%u more lines like the next were held back", held_);     \
			log_line(level, 0, fmt, ##__VA_ARGS__);                                              \
		}                                                                                            \
	} while (0)

/* A warning that does so ten times a second. */
#define log_warn_limited(fmt, ...) log_limited(LOG_LEVEL_WARNING, 10, fmt, ##__VA_ARGS__)

/* Logs an error and exits with status: for main.c and set-up before the loop only. */
__attribute__((noreturn, format(printf, 3, 4))) void log_die(int status, int err, const char *fmt, ...);

#endif
