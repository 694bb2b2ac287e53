/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program that the keeper starts a child from. Once open it stays the same file, so that a death in the middle of
 * a package's upgrade does not mix versions, and the version before an upgrade is there to go back to.
 */
#ifndef SUPERVISOR_PROGRAM_H
#define SUPERVISOR_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

#include "keeper.h"

#define PROGRAM_EXE_MAX 32

struct program {
	int fd; /* O_PATH, or -1: not open yet */
	char name[KEEPER_PATH_MAX];
};

/* Opens and checks path (keeper_program tells what for) and puts it in p's place. -errno, with the reason in why. */
int program_set(struct program *p, const char *path, char *why, size_t why_size);

/* to becomes what from is. -errno. */
int program_copy(struct program *to, const struct program *from);

/* What a start of child needs: exe is the path to exec, *argv its words (to be freed, the words are borrowed). */
int program_take(struct program *p, const struct keeper_child *child, bool restricted,
		 char exe[PROGRAM_EXE_MAX], char ***argv);

#endif
