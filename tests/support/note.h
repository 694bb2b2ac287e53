/* SPDX-License-Identifier: Apache-2.0 */
/* Figures that a Criterion test wants seen. It has no standard streams where its results are TAP on standard output, so
 * tests/in-tmp names a file that it adds to the test's log at the end. */
#ifndef SUPPORT_NOTE_H
#define SUPPORT_NOTE_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Adds a line, which needs no newline. */
__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...)
{
	const char *path = getenv("TEST_NOTES");
	int fd = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
	char line[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	dprintf(fd >= 0 ? fd : STDERR_FILENO, "# %s\n", line);
	if (fd >= 0)
		close(fd);
}

#endif
