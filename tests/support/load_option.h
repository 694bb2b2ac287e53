/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a program that makes load: numbers, words and flags, as a table says. */
#ifndef SUPPORT_LOAD_OPTION_H
#define SUPPORT_LOAD_OPTION_H

#include <stdbool.h>
#include <stdint.h>

/* One option, which sets one of the three. A table ends with an entry without a name. */
struct load_option {
	const char *name; /* without the dashes */
	uint64_t *number; /* with K, M and so on; min and max are allowed, too */
	uint64_t min, max;
	const char **word;
	bool *flag; /* has no value */
};

#define LOAD_OPTIONS_MAX 24

/* Takes all words, and ends the process where they are wrong, or after --help, which prints help. */
void load_option_parse(int argc, char **argv, const struct load_option *options, const char *help);

#endif
