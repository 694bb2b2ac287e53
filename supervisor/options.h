/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of what `bulkhead run` can be told: it drives the command line, --help and the keys of the
 * JSON file. */
#ifndef SUPERVISOR_OPTIONS_H
#define SUPERVISOR_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "vmconf.h"

struct option_def {
	const char *name;     /* without its dashes; the key of the JSON file */
	const char *arg;      /* what it takes, for people; NULL for a switch */
	const char *fallback; /* its default, for people; NULL if there is none */
	const char *help;
	bool repeats;
	bool command_line_only;
	/* Makes the setting; value is the parser's to modify. -EINVAL with the reason in error. */
	int (*parse)(struct vmconf *conf, char *value, struct vmconf_error *error);
};

#define OPTIONS_MAX 32

extern const struct option_def option_table[];

/* The index of the option, or -1. */
int option_find(const char *name, size_t len);

/* What parse_run found to be wanted. */
enum option_verb { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION, OPTIONS_REFUSED };

/* Reads the words after "run", then the JSON file if one is named, then checks the whole. */
enum option_verb options_parse(int argc, char **argv, struct vmconf *conf, struct vmconf_error *error);

void options_help(FILE *to);
void options_usage(FILE *to);

#endif
