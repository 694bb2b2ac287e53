/* SPDX-License-Identifier: Apache-2.0 */
/* What machines answer, in words and tables for people. */
#include "client_print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"

#define STATE_MAX 256 /* bytes of a machine's state in words */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "?";
}

static long long number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void print_uptime(double s)
{
	if (s >= 86400)
		printf("%.0fd%02.0fh", s / 86400, (double)((long)s % 86400 / 3600));
	else if (s >= 3600)
		printf("%ldh%02ldm", (long)s / 3600, (long)s % 3600 / 60);
	else if (s >= 60)
		printf("%ldm%02lds", (long)s / 60, (long)s % 60);
	else
		printf("%.1fs", s);
}

/* Storage that requests wait for. */
static void print_away(const json_t *away)
{
	if (!away)
		return;
	if (!strcmp(text_of(away, "what"), "predecessor"))
		printf(", waits for what a predecessor left to the kernel, for ");
	else if (!strcmp(text_of(away, "what"), "storage"))
		printf(", waits for its storage, %s, for ", text_of(away, "name"));
	else
		printf(", without its %s for ", text_of(away, "what"));
	print_uptime(json_number_value(json_object_get(away, "for_s")));
	if (json_object_get(away, "requests"))
		printf(", %lld request%s waiting", number_of(away, "requests"),
		       number_of(away, "requests") == 1 ? "" : "s");
}

static void print_limits(const char *first, const json_t *limits)
{
	const char *key, *before = first;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)limits, key, value)
	{
		printf("%s%s=%s", before, key, json_is_string(value) ? json_string_value(value) : "?");
		before = " ";
	}
}

static void print_text(const char *before, const json_t *object, const char *key)
{
	if (json_object_get(object, key))
		printf("%s%s", before, text_of(object, key));
}

/* What a device is to the host. */
static void print_settings(const json_t *device)
{
	print_text(", ", device, "image");
	print_text(", ", device, "nbd");
	print_text(", of ", device, "vhost_user");
	print_text(", ", device, "network");
	print_text(" ", device, "tap");
	print_text(" ", device, "socket");
	print_text(" in ", device, "bridge");
	print_text(", ", device, "mac");
}

/* machine: of a device, which can be revived. */
static void print_child(const char *machine, const json_t *child)
{
	const json_t *recovery = json_object_get(child, "last_recovery_ms");
	bool up = !strcmp(text_of(child, "state"), "up");

	printf("  %-12s %-11s ", text_of(child, "id"), text_of(child, "process"));
	if (number_of(child, "pid"))
		printf("%-9s process %lld", text_of(child, "state"), number_of(child, "pid"));
	else
		printf("%s", text_of(child, "state"));
	if (json_object_get(child, "killed_for"))
		printf(" (%s)", text_of(child, "killed_for"));
	print_settings(child);
	if (number_of(child, "restarts"))
		printf(", %lld restart%s", number_of(child, "restarts"),
		       number_of(child, "restarts") == 1 ? "" : "s");
	if (json_object_get(child, "engine") && strcmp(text_of(child, "engine"), "aio"))
		printf(", engine %s", text_of(child, "engine"));
	if (json_object_get(child, "spare") && strcmp(text_of(child, "spare"), "off"))
		printf(", spare %s", text_of(child, "spare"));
	if (json_object_get(child, "link") && strcmp(text_of(child, "link"), "up"))
		printf(", link %s", text_of(child, "link"));
	print_limits(", at most ", json_object_get(child, "limits"));
	if (json_object_get(child, "group")) {
		printf(", in group %s", text_of(json_object_get(child, "group"), "id"));
		print_limits(": at most ", json_object_get(json_object_get(child, "group"), "limits"));
	}
	print_away(json_object_get(child, "away"));
	if (json_object_get(child, "server"))
		printf(", served by %s", text_of(child, "server"));
	if (json_is_true(json_object_get(child, "refuses_writes")))
		printf(", refuses writes");
	if (json_object_get(child, "last_death"))
		printf(", the last %s", text_of(child, "last_death"));
	if (machine && (json_is_true(json_object_get(child, "refuses_writes")) ||
			!strcmp(text_of(child, "state"), "failed")))
		printf("; bulkhead ctl %s revive %s tries again", machine, text_of(child, "id"));
	if (up && json_is_object(recovery)) {
		const char *key;
		json_t *value;

		printf(", back in %.1f ms (", json_number_value(json_object_get(recovery, "total")));
		json_object_foreach((json_t *)(uintptr_t)recovery, key, value)
		{
			if (strcmp(key, "total"))
				printf("%s%s %.1f", strcmp(key, "detect") ? ", " : "", key,
				       json_number_value(value));
		}
		putchar(')');
	}
	putchar('\n');
}

void client_print_upgrade(const char *device, const json_t *root)
{
	const json_t *stall = json_object_get(root, "stall_ms"), *away = json_object_get(root, "away_ms");

	printf("%s: upgraded", device);
	if (stall)
		printf("; its requests waited for %.1f ms", json_number_value(stall));
	if (away)
		printf("; it was away for %.1f ms: %s", json_number_value(away), text_of(root, "lost"));
	putchar('\n');
}

void client_print_stats(json_t *root)
{
	const char *name;
	json_t *value;

	json_object_foreach(root, name, value)
	{
		printf("%-32s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
	}
}

/* The state of a machine, and of what of it was given up: "running, disk0 failed". */
static void machine_state(const json_t *root, char *text, size_t size)
{
	const json_t *failed = json_object_get(root, "failed"), *id;
	int n = snprintf(text, size, "%s", text_of(root, "state"));
	size_t i;

	json_array_foreach(failed, i, id)
	{
		if (n >= 0 && (size_t)n < size)
			n += snprintf(text + n, size - (size_t)n, ", %s", json_string_value(id));
	}
	if (json_array_size(failed) && n >= 0 && (size_t)n < size)
		snprintf(text + n, size - (size_t)n, " failed");
}

void client_print_status(const json_t *root)
{
	json_t *devices = json_object_get(root, "devices"), *device;
	char state[STATE_MAX];
	size_t i;

	machine_state(root, state, sizeof(state));
	printf("%s: %s", text_of(root, "name"), state);
	if (json_number_value(json_object_get(root, "uptime_s")) > 0) {
		printf(", up for ");
		print_uptime(json_number_value(json_object_get(root, "uptime_s")));
	}
	printf(", %lld cpu%s, %lld MiB, console %s, process %lld\n", number_of(root, "cpus"),
	       number_of(root, "cpus") == 1 ? "" : "s", number_of(root, "memory_bytes") >> 20,
	       text_of(root, "console"), number_of(root, "pid"));
	if (json_is_string(json_object_get(root, "stands_for")))
		printf("  stands: %s; resume tries it again\n", text_of(root, "stands_for"));
	print_child(NULL, json_object_get(root, "core"));
	json_array_foreach(devices, i, device)
	{
		print_child(text_of(root, "name"), device);
		if (json_is_object(json_object_get(device, "helper")))
			print_child(text_of(root, "name"), json_object_get(device, "helper"));
		if (json_is_object(json_object_get(device, "window")))
			print_child(text_of(root, "name"), json_object_get(device, "window"));
	}
}

/* Width: of the state's column. */
static void print_row(const json_t *m, int width)
{
	char memory[32], state[STATE_MAX];

	machine_state(m, state, sizeof(state));
	/* Nobody answers for one that is alone or silent. */
	if (!json_object_get(m, "cpus")) {
		printf("%-20s %8lld %-*s %4s %8s %7s %s\n", text_of(m, "name"), number_of(m, "pid"), width,
		       state, "-", "-", "-", "-");
		return;
	}
	snprintf(memory, sizeof(memory), "%lldM", number_of(m, "memory_bytes") >> 20);
	printf("%-20s %8lld %-*s %4lld %8s %7zu ", text_of(m, "name"), number_of(m, "pid"), width, state,
	       number_of(m, "cpus"), memory, json_array_size(json_object_get(m, "devices")));
	print_uptime(json_number_value(json_object_get(m, "uptime_s")));
	putchar('\n');
}

void client_print_machines(const json_t *list)
{
	char state[STATE_MAX];
	const json_t *machine;
	int width = 10;
	size_t i;

	json_array_foreach(list, i, machine)
	{
		machine_state(machine, state, sizeof(state));
		width = MAX(width, (int)strlen(state));
	}
	printf("%-20s %8s %-*s %4s %8s %7s %s\n", "NAME", "PID", width, "STATE", "CPUS", "MEMORY", "DEVICES",
	       "UPTIME");
	json_array_foreach(list, i, machine)
	{
		print_row(machine, width);
	}
}
