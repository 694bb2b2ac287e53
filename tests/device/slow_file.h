/* SPDX-License-Identifier: Apache-2.0 */
/* An image on storage that holds requests for as long as a test wants (tests/support/slow-file). */
#ifndef SLOW_FILE_H
#define SLOW_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct slow_file {
	char dir[128], file[160], backing[160]; /* file is the slow one, backing has its bytes */
	int backing_fd;
	pid_t pid;
	FILE *words; /* what it says */
};

/* Makes it, of so many bytes. Skips the test where that can't be. */
void slow_file_start(struct slow_file *s, uint64_t bytes);
/* Ends it, and removes all. */
void slow_file_stop(struct slow_file *s);

/* Waits for the next line, which is to be this one; the same of the answer to a signal. */
void slow_file_expect(struct slow_file *s, const char *line);
void slow_file_tell(struct slow_file *s, int sig, const char *answer);

#endif
