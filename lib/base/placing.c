/* SPDX-License-Identifier: Apache-2.0 */
/* The words that place queues on threads. */
#include "placing.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "parse.h"

#define GOES_ROUND UINT8_MAX /* in place of a queue's thread, until all threads are there */

static bool is_name(const char *s)
{
	if (!isalpha((unsigned char)*s) || strlen(s) >= PLACING_NAME_MAX || !strcmp(s, "main"))
		return false;
	while (isalnum((unsigned char)*s) || *s == '-' || *s == '_')
		s++;
	return !*s;
}

int placing_find(const struct placing *p, const char *name)
{
	for (unsigned i = 0; i < p->threads; i++)
		if (!strcmp(p->thread[i].name, name))
			return (int)i;
	return -ENOENT;
}

static void set_count(struct placing *p, unsigned n)
{
	p->threads = n;
	for (unsigned i = 0; i < n; i++) {
		snprintf(p->thread[i].name, sizeof(p->thread[i].name), "io%u", i);
		p->thread[i].pinned = false;
	}
}

/* "NAME" or "NAME@CPUS". */
static int add_thread(struct placing *p, char *word)
{
	char *cpus = strchr(word, '@');

	if (cpus)
		*cpus++ = '\0';
	if (p->threads == PLACING_THREADS_MAX || !is_name(word) || placing_find(p, word) >= 0)
		return -EINVAL;
	if (cpus && cpus_parse(cpus, &p->thread[p->threads].cpus))
		return -EINVAL;
	p->thread[p->threads].pinned = cpus;
	snprintf(p->thread[p->threads].name, PLACING_NAME_MAX, "%s", word);
	p->threads++;
	return 0;
}

int placing_set_threads(struct placing *p, const char *value)
{
	CLEAN_FREE char *copy = NULL;
	char *rest, *word;
	uint64_t n;

	p->said = true;
	if (isdigit((unsigned char)*value)) {
		if (parse_u64(value, 1, PLACING_THREADS_MAX, &n))
			return -EINVAL;
		set_count(p, (unsigned)n);
		return 0;
	}
	rest = copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	p->threads = 0;
	p->named = true;
	while ((word = strsep(&rest, ":")))
		if (add_thread(p, word))
			return -EINVAL;
	return 0;
}

/* "Q:THREAD" or "Q-Q:THREAD". */
static int place(struct placing *p, unsigned base, char *word, bool *given)
{
	char *thread = strchr(word, ':'), *dash;
	uint64_t first, last, end = p->queues - base - 1;
	int found;

	if (!thread)
		return -EINVAL;
	*thread++ = '\0';
	dash = strchr(word, '-');
	if (dash)
		*dash++ = '\0';
	found = placing_find(p, thread);
	if (found < 0 || parse_u64(word, 0, end, &first) || parse_u64(dash ? dash : word, first, end, &last))
		return -EINVAL;
	for (; first <= last; first++) {
		if (given[first])
			return -EINVAL;
		given[first] = true;
		p->of[base + first] = (uint8_t)found;
	}
	return 0;
}

/* The next threads that are nobody's own yet, each for one queue; they are made unless it was said which there are. */
static int place_one_each(struct placing *p, unsigned base)
{
	unsigned needed = p->own + p->queues - base;

	if (needed > (p->said ? p->threads : PLACING_THREADS_MAX))
		return -EINVAL;
	if (!p->said)
		set_count(p, needed);
	for (unsigned i = base; i < p->queues; i++)
		p->of[i] = (uint8_t)p->own++;
	return 0;
}

int placing_set_map(struct placing *p, unsigned queues, const char *map)
{
	bool given[PLACING_QUEUES_MAX] = { false };
	CLEAN_FREE char *copy = NULL;
	unsigned base = p->queues;
	char *rest, *word;

	if (queues > PLACING_QUEUES_MAX - base)
		return -EINVAL;
	p->queues += queues;
	if (map && !strcmp(map, "1:1"))
		return place_one_each(p, base);
	if (!p->threads)
		set_count(p, 1);
	memset(p->of + base, GOES_ROUND, queues);
	if (!map || !strcmp(map, "round-robin"))
		return 0;
	rest = copy = strdup(map);
	if (!copy)
		return -ENOMEM;
	while ((word = strsep(&rest, ",")))
		if (place(p, base, word, given))
			return -EINVAL;
	return 0;
}

int placing_finish(struct placing *p)
{
	if (p->said && !p->named && p->threads > p->queues)
		return -ERANGE;
	for (unsigned i = 0; i < p->queues; i++)
		if (p->of[i] == GOES_ROUND)
			p->of[i] = (uint8_t)(i % p->threads);
	return 0;
}
