/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands that speak to running machines share. */
#ifndef SUPERVISOR_CLIENT_PRIV_H
#define SUPERVISOR_CLIENT_PRIV_H

#include <stdbool.h>

#include "rundir.h"

struct client {
	const char *command;
	bool json, help;
	const char *run_dir;
	const char *exec; /* NULL: none */
	const char *word[5];
	int nwords;
	char base[RUNDIR_PATH_MAX];
};

/* Reads a command's words, at most max that are no options. 0, or the exit status after having said what is wrong; so do the
 * others. */
int client_read_words(struct client *c, int max, int argc, char **argv);

int client_refuse(const struct client *c, const char *word, const char *why);

/* The machine of the first word could not be spoken to: err tells why, unless there is none. */
int client_failed(const struct client *c, int err);

#endif
