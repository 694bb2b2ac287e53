/* SPDX-License-Identifier: Apache-2.0 */
/* What the tables of a stage mean. */
#include "sandbox_stage.h"

static bool matches_arg(const struct sandbox_arg *arg, const uint64_t *args)
{
	switch ((enum sandbox_op)arg->op) {
	case SANDBOX_EQ:
		return args[arg->index] == arg->value;
	case SANDBOX_NE:
		return args[arg->index] != arg->value;
	case SANDBOX_LE:
		return args[arg->index] <= arg->value;
	case SANDBOX_MASKED:
		return (args[arg->index] & arg->mask) == arg->value;
	case SANDBOX_ANY:
	default:
		return true;
	}
}

bool stage_matches(const struct sandbox_rule *rule, const struct call *call)
{
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
		if (!matches_arg(&rule->args[i], call->args))
			return false;
	return rule->nr == call->nr;
}

static bool has_conditions(const struct sandbox_rule *rule)
{
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
		if (rule->args[i].op != SANDBOX_ANY)
			return true;
	return false;
}

int stage_meaning(const struct stage *stage, const struct call *call)
{
	int verdict = STAGE_FORBIDDEN;
	bool some = false; /* of this call is allowed */

	for (size_t t = 0; t < stage->n; t++)
		for (const struct sandbox_rule *r = stage->table[t]; r->why; r++) {
			some = some || (r->nr == call->nr && !r->refuse);
			if (stage_matches(r, call) && !r->refuse)
				return STAGE_ALLOWED;
		}
	for (size_t t = 0; t < stage->n; t++)
		for (const struct sandbox_rule *r = stage->table[t]; r->why; r++)
			if (stage_matches(r, call) && r->refuse && (has_conditions(r) || !some))
				verdict = r->refuse;
	return verdict;
}

void stage_join(struct stage *stage, const struct sandbox_rule *const *list,
		const struct sandbox_rule *const *more)
{
	stage->n = 0;
	for (; list && *list; list++)
		stage->table[stage->n++] = *list;
	for (; more && *more; more++)
		stage->table[stage->n++] = *more;
}
