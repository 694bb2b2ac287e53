/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines to stderr, rate limits for the places that a guest or a peer can make noisy. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"

static const char *log_process = "bulkhead";
static const char *log_device;
static bool log_supervised;
static _Atomic int log_max_level = LOG_LEVEL_INFO;
static _Atomic uint64_t log_drops;

void log_init(const char *process, const char *device, bool supervised)
{
	log_process = process;
	log_device = device;
	log_supervised = supervised;
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_max_level, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *word)
{
	static const struct {
		const char *word;
		enum log_level level;
	} words[] = { { "error", LOG_LEVEL_ERROR },
		      { "warning", LOG_LEVEL_WARNING },
		      { "info", LOG_LEVEL_INFO },
		      { "debug", LOG_LEVEL_DEBUG } };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(word, words[i].word))
			return (int)words[i].level;
	return -EINVAL;
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&log_drops, memory_order_relaxed);
}

/* Appends to a line of LOG_LINE_MAX bytes, leaving room for the newline; returns the new length. */
__attribute__((format(printf, 3, 0))) static size_t append(char *line, size_t at, const char *fmt, va_list ap)
{
	size_t room = LOG_LINE_MAX - 1 - at;
	int n = vsnprintf(line + at, room, fmt, ap);

	if (n < 0)
		return at;
	return (size_t)n < room ? at + (size_t)n : LOG_LINE_MAX - 2;
}

__attribute__((format(printf, 3, 4))) static size_t appendf(char *line, size_t at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	at = append(line, at, fmt, ap);
	va_end(ap);
	return at;
}

size_t log_prefix(enum log_level level, char *out, size_t size)
{
	int n;

	if (log_supervised)
		n = snprintf(out, size, "<%d>", (int)level);
	else if (log_device)
		n = snprintf(out, size, "%s[%s]: ", log_process, log_device);
	else
		n = snprintf(out, size, "%s: ", log_process);
	return MIN((size_t)MAX(n, 0), size - 1);
}

__attribute__((format(printf, 3, 0))) static void log_write(enum log_level level, int err, const char *fmt,
							    va_list ap)
{
	char line[LOG_LINE_MAX], text[128];
	size_t len;

	if ((int)level > atomic_load_explicit(&log_max_level, memory_order_relaxed))
		return;
	len = log_prefix(level, line, sizeof(line));
	len = append(line, len, fmt, ap);
	if (err)
		len = appendf(line, len, ": %s", strerror_r(err < 0 ? -err : err, text, sizeof(text)));
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) != (ssize_t)len)
		atomic_fetch_add_explicit(&log_drops, 1, memory_order_relaxed);
}

void log_line(enum log_level level, int err, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	log_write(level, err, fmt, ap);
	va_end(ap);
	errno = saved;
}

bool log_limit_take(struct log_limit *limit, uint32_t burst, uint32_t *suppressed)
{
	uint64_t now = clock_ns();

	if (now - limit->window_start >= NS_PER_S) {
		limit->window_start = now;
		limit->used = 0;
	}
	if (limit->used >= burst) {
		limit->suppressed++;
		return false;
	}
	limit->used++;
	*suppressed = limit->suppressed;
	limit->suppressed = 0;
	return true;
}

void log_die(int status, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_write(LOG_LEVEL_ERROR, err, fmt, ap);
	va_end(ap);
	exit(status);
}
