/* SPDX-License-Identifier: Apache-2.0 */
/* bulkhead trace FILE: a crash report for people. Everything in the file is hostile. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "report.h"
#include "fd.h"
#include "machine.h"

static void help(FILE *to)
{
	fputs("usage: bulkhead trace FILE\n"
	      "Prints a crash report: how the process ended, and its last requests, messages and changes of "
	      "state.\n\n"
	      "  --help  print this and exit\n",
	      to);
}

/* The words of a head of REPORT_HEAD bytes, up to their NUL. */
static void print_words(const char *head, FILE *to)
{
	for (const char *c = head + strlen(REPORT_MAGIC); c < head + REPORT_HEAD && *c; c++)
		fputc(*c == '\n' || (*c >= ' ' && *c <= '~') ? *c : '?', to);
}

static int refuse(const char *path, const char *why)
{
	fprintf(stderr, "bulkhead trace: %.200s: %s\n", path, why);
	return EXIT_CONFIG;
}

static int print_report(const char *path)
{
	CLEAN_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct flight *flight = NULL;
	char head[REPORT_HEAD];
	struct stat st;
	int err;

	if (fd < 0)
		return refuse(path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return refuse(path, "is no regular file");
	if (fd_pread_full(fd, head, sizeof(head), 0) || memcmp(head, REPORT_MAGIC, strlen(REPORT_MAGIC)))
		return refuse(path, "is no crash report");
	print_words(head, stdout);
	err = st.st_size == REPORT_HEAD ? -ENODATA : flight_load(fd, REPORT_HEAD, &flight);
	if (err == -ENODATA || err == -EINVAL) {
		puts("The process had recorded nothing.");
		return fflush(stdout) ? EXIT_INTERNAL : 0;
	}
	if (err)
		return refuse(path, strerror(-err));
	err = flight_dump(flight, stdout);
	flight_free(flight);
	return err ? EXIT_INTERNAL : 0;
}

int report_trace(int argc, char **argv)
{
	if (argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))) {
		help(stdout);
		return 0;
	}
	if (argc != 1 || *argv[0] == '-') {
		help(stderr);
		return EXIT_CONFIG;
	}
	return print_report(argv[0]);
}
