/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of command-line options: one walk over the words, one form of --help, one form of error for every process. */
#ifndef SERVER_OPTION_H
#define SERVER_OPTION_H

#include <stdbool.h>
#include <stddef.h>

/* An option. A table ends with an entry without a name. */
struct server_option {
	const char *name;    /* without the dashes */
	const char *value;   /* what stands for its value in --help; NULL: a flag */
	const char *help;    /* one sentence */
	const char *allowed; /* completes "--name VALUE: must be ..." */
	/* Takes the value (NULL for a flag); kept by reference. 0, or 1: the option may be given again, or OPTION_ANEW, or
	 * -errno: the value is not allowed. NULL: option_parse does what --help and --version ask for. */
	int (*set)(void *arg, const char *value);
};

/* The last entries of a table that has them. */
#define OPTION_HELP_AND_VERSION                                                                              \
	{ "help", NULL, "Print this and exit.", NULL, NULL },                                                \
	{                                                                                                    \
		"version", NULL, "Print the version and exit.", NULL, NULL                                   \
	}

#define OPTION_ANEW 2 /* this one may be given again, and so may those of the tables that say so */

struct option_table {
	const struct server_option *options;
	void *arg; /* for set */
	bool anew;
};

#define OPTION_TABLES_MAX 4

struct option_set {
	const char *program, *summary, *usage;        /* "Usage: PROGRAM USAGE [options]" */
	struct option_table table[OPTION_TABLES_MAX]; /* in the order of --help; unused ones are zeros */
};

/* An inherited descriptor into *to, for set: a number from 3 to 1023, or -errno. */
int option_fd(const char *value, int *to);

/* For set: a number between min and max; on or off; the level of log lines, which holds from then on. 0 or -errno. */
int option_number(const char *value, unsigned min, unsigned max, unsigned *to);
int option_switch(const char *value, bool *to);

/* "on", "off", or "log": on, but *log. */
int option_sandbox(const char *value, bool *on, bool *log);
int option_log_level(void *unused, const char *value);

/* Whether --name is among the words, for what must be known before all are taken. */
bool option_given(int argc, char **argv, const char *name);

/* Takes all words. -1 to go on, else the exit status: 0 after --help or --version, 2 after an error, which is logged. */
int option_parse(int argc, char **argv, const struct option_set *set);

#endif
