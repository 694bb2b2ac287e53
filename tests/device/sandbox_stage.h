/* SPDX-License-Identifier: Apache-2.0 */
/* What the tables of a stage mean, worked out from sandbox.h and not by lib/sandbox. */
#ifndef SANDBOX_STAGE_H
#define SANDBOX_STAGE_H

#include "sandbox.h"

#define STAGE_FORBIDDEN  (-1)
#define STAGE_ALLOWED    0
#define STAGE_TABLES_MAX 32

/* All tables of a stage. */
struct stage {
	const char *name;
	const struct sandbox_rule *table[STAGE_TABLES_MAX];
	size_t n;
};

struct call {
	int nr;
	uint64_t args[6];
	int verdict; /* STAGE_FORBIDDEN, STAGE_ALLOWED or an errno */
};

/* Two lists, each ended by NULL, or NULL. */
void stage_join(struct stage *stage, const struct sandbox_rule *const *list,
		const struct sandbox_rule *const *more);

bool stage_matches(const struct sandbox_rule *rule, const struct call *call);
int stage_meaning(const struct stage *stage, const struct call *call);

#endif
