/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead events`: what happens in a running machine, as it happens. */
#include "client.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bus_events.h"
#include "client_priv.h"
#include "clock.h"
#include "machine.h"
#include "vmconf.h"

void client_events_help(FILE *to)
{
	fputs("usage: bulkhead events [--run-dir DIR] [--json] NAME\n"
	      "Tells what happens in a running machine, until it ends.\n\n"
	      "  --json         print each event as JSON, one in a line\n"
	      "  --run-dir DIR  the directory that bulkhead run was given\n"
	      "  --help         print this and exit\n",
	      to);
}

static void print_json(const struct bus_events_item *e)
{
	json_t *o = json_pack("{s:I, s:I, s:I, s:s, s:s, s:s}", "seq", (json_int_t)e->seq, "mono_ns",
			      (json_int_t)e->mono_ns, "wall_ns", (json_int_t)e->wall_ns, "source", e->source,
			      "kind", e->kind, "text", e->text);

	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

static void print(const struct bus_events_item *e, uint64_t missed)
{
	time_t s = (time_t)(e->wall_ns / NS_PER_S);
	char at[32] = "";
	struct tm tm;

	if (missed)
		printf("(%llu events were missed)\n", (unsigned long long)missed);
	if (localtime_r(&s, &tm))
		strftime(at, sizeof(at), "%H:%M:%S", &tm);
	printf("%s.%03u %s %s%s%s\n", at, (unsigned)(e->wall_ns % NS_PER_S / NS_PER_MS), e->source, e->kind,
	       *e->text ? ": " : "", e->text);
}

static bool is_last(const struct bus_events_item *e)
{
	return !strcmp(e->source, "machine") && !strcmp(e->kind, "ended");
}

static int follow(const struct client *c, struct bus_events_reader *reader)
{
	struct bus_events_item e = { .seq = 0 };
	uint64_t before = 0;
	int err;

	while (!(err = bus_events_read(reader, UINT64_MAX, &e)) || err == -ETIMEDOUT) {
		if (err)
			continue;
		if (c->json)
			print_json(&e);
		else
			print(&e, before ? e.seq - before - 1 : 0);
		before = e.seq;
		if (fflush(stdout) || is_last(&e))
			return 0;
	}
	if (err == -EPIPE)
		fprintf(
		    stderr,
		    "bulkhead: events: \"%s\": its supervisor is gone; bulkhead ps tells of the machine\n",
		    c->word[0]);
	else
		fprintf(stderr, "bulkhead: events: \"%s\": %s\n", c->word[0], strerror(-err));
	return EXIT_INTERNAL;
}

int client_events(int argc, char **argv)
{
	struct client c = { .command = "events" };
	struct bus_events_reader *reader;
	char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];
	int err = client_read_words(&c, 1, argc, argv), status;

	if (c.help)
		client_events_help(stdout);
	if (err || c.help)
		return err;
	if (!c.nwords) {
		fputs("bulkhead: events: a machine's name is missing; bulkhead ps lists all machines\n",
		      stderr);
		return EXIT_CONFIG;
	}
	if (!vmconf_name_ok(c.word[0]))
		return client_refuse(&c, c.word[0], "not a machine's name; bulkhead ps lists all");
	snprintf(path, sizeof(path), "%s/%s/events", c.base, c.word[0]);
	err = bus_events_open(path, &reader);
	if (err)
		return client_failed(&c, err);
	status = follow(&c, reader);
	bus_events_reader_close(reader);
	return status;
}
