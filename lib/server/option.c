/* SPDX-License-Identifier: Apache-2.0 */
/* The walk over a command line by tables of options. */
#include "option.h"

#include <stdio.h>
#include <string.h>

#include "config.h"
#include "log.h"
#include "num.h"
#include "parse.h"

#define OPTIONS_MAX 64 /* in all tables together */

static int print_help(const struct option_set *set)
{
	printf("%s - %s\n\nUsage: %s %s [options]\n\nOptions:\n", set->program, set->summary, set->program,
	       set->usage);
	for (size_t t = 0; t < OPTION_TABLES_MAX; t++) {
		for (const struct server_option *o = set->table[t].options; o && o->name; o++) {
			char left[64];

			snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
				 o->value ? o->value : "");
			printf("  %-24s %s\n", left, o->help);
		}
	}
	return fflush(stdout) ? 1 : 0;
}

static int print_version(const struct option_set *set)
{
	printf("%s %s\n", set->program, PACKAGE_VERSION);
	return fflush(stdout) ? 1 : 0;
}

/* The option that a word names, up to a '='; *number is its place in all tables together. */
static const struct server_option *find(const struct option_set *set, const char *word, void **arg,
					size_t *number)
{
	size_t len = strcspn(word, "="), n = 0;

	for (size_t t = 0; t < OPTION_TABLES_MAX; t++) {
		for (const struct server_option *o = set->table[t].options; o && o->name; o++, n++) {
			if (strlen(o->name) != len || strncmp(word, o->name, len) != 0)
				continue;
			*arg = set->table[t].arg;
			*number = n;
			return o;
		}
	}
	return NULL;
}

/* The options of the tables that say so may be given again. */
static void forget_seen(const struct option_set *set, bool *seen)
{
	size_t n = 0;

	for (size_t t = 0; t < OPTION_TABLES_MAX; t++)
		for (const struct server_option *o = set->table[t].options; o && o->name && n < OPTIONS_MAX;
		     o++, n++)
			seen[n] &= !set->table[t].anew;
}

/* Takes the option at argv[*i], its value with it. -1 to go on, else the exit status. */
static int take(int argc, char **argv, int *i, const struct option_set *set, bool *seen)
{
	const char *word = argv[*i], *value;
	const struct server_option *o = NULL;
	size_t number = 0;
	void *arg = NULL;
	int again;

	if (!strncmp(word, "--", 2))
		o = find(set, word + 2, &arg, &number);
	if (!o) {
		log_error("%s: no such option; see %s --help", word, set->program);
		return 2;
	}
	value = strchr(word, '=');
	value = value ? value + 1 : NULL;
	if (o->value && !value && ++*i < argc)
		value = argv[*i];
	if (!o->value && value) {
		log_error("--%s takes no value", o->name);
		return 2;
	}
	if (!o->set)
		return !strcmp(o->name, "help") ? print_help(set) : print_version(set);
	if (o->value && !value) {
		log_error("--%s needs a value: %s", o->name, o->allowed);
		return 2;
	}
	if (number < OPTIONS_MAX && seen[number]) {
		log_error("--%s is given twice", o->name);
		return 2;
	}
	again = o->set(arg, value);
	if (again < 0) {
		log_error("--%s %s: must be %s", o->name, value ? value : "", o->allowed);
		return 2;
	}
	if (again == OPTION_ANEW)
		forget_seen(set, seen);
	if (number < OPTIONS_MAX)
		seen[number] = !again;
	return -1;
}

bool option_given(int argc, char **argv, const char *name)
{
	size_t len = strlen(name);

	for (int i = 1; i < argc; i++)
		if (!strncmp(argv[i], "--", 2) && !strncmp(argv[i] + 2, name, len) &&
		    (!argv[i][2 + len] || argv[i][2 + len] == '='))
			return true;
	return false;
}

int option_parse(int argc, char **argv, const struct option_set *set)
{
	bool seen[OPTIONS_MAX] = { false };

	for (int i = 1; i < argc; i++) {
		int status = take(argc, argv, &i, set, seen);

		if (status >= 0)
			return status;
	}
	return -1;
}

int option_number(const char *value, unsigned min, unsigned max, unsigned *to)
{
	uint64_t v;
	int err = parse_u64(value, min, max, &v);

	if (!err)
		*to = (unsigned)v;
	return err;
}

int option_switch(const char *value, bool *to)
{
	int on = parse_on_off(value);

	*to = on > 0;
	return on < 0 ? on : 0;
}

int option_sandbox(const char *value, bool *on, bool *log)
{
	*log = !strcmp(value, "log");
	*on = true;
	return *log ? 0 : option_switch(value, on);
}

int option_log_level(void *unused, const char *value)
{
	int level = log_level_parse(value);

	(void)unused;
	if (level < 0)
		return level;
	log_set_level((enum log_level)level);
	return 0;
}

int option_fd(const char *value, int *to)
{
	uint64_t fd;
	int err = parse_u64(value, 3, 1023, &fd);

	if (!err)
		*to = (int)fd;
	return err;
}
