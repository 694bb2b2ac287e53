/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of a program that makes load. */
#include "load_option.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "parse.h"

static void take(const struct load_option *o, const char *value)
{
	if (o->flag)
		*o->flag = true;
	else if (o->word)
		*o->word = value;
	else if (parse_size(value, o->number) || *o->number < o->min || *o->number > o->max)
		log_die(2, 0, "--%s %s: from %llu to %llu is allowed", o->name, value,
			(unsigned long long)o->min, (unsigned long long)o->max);
}

void load_option_parse(int argc, char **argv, const struct load_option *options, const char *help)
{
	struct option names[LOAD_OPTIONS_MAX + 2] = { { "help", no_argument, NULL, 'h' } };
	int c, index = 0;

	for (unsigned i = 0; i < LOAD_OPTIONS_MAX && options[i].name; i++)
		names[i + 1] =
		    (struct option) { options[i].name, options[i].flag ? no_argument : required_argument,
				      NULL, 'o' };
	while ((c = getopt_long(argc, argv, "", names, &index)) == 'o')
		take(&options[index - 1], optarg);
	if (c == 'h') {
		fputs(help, stdout);
		exit(0);
	}
	if (c != -1)
		exit(2);
	if (optind != argc)
		log_die(2, 0, "%s: only options are expected, see --help", argv[optind]);
}
