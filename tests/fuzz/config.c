/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-config: a machine's settings as bulkhead takes them: from a JSON file, from a command line, from the words that a
 * supervisor left for its successor. What is refused has one line that says why; what is taken is taken again from its words.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "options.h"
#include "vmconf.h"

#define ARGS_MAX 24

static int fd = -1;
static char path[40];

static void check_line(const struct vmconf_error *error)
{
	size_t len = strnlen(error->text, sizeof(error->text));

	MUST(len && len < sizeof(error->text));
	for (size_t i = 0; i < len; i++)
		MUST((uint8_t)error->text[i] >= ' ' && error->text[i] != 127);
}

/* The words of what was taken make the same machine. */
static void check_taken(const struct vmconf *conf)
{
	struct vmconf_error error = { "" };
	struct vmconf again;

	vmconf_init(&again);
	MUST(vmconf_repeat(&again, conf->words, conf->words_len, &error) == 0);
	MUST(again.ndevices == conf->ndevices && again.cpus == conf->cpus && again.memory == conf->memory);
	MUST(!strcmp(again.name, conf->name));
	MUST(conf->cpus >= 1 && conf->cpus <= VMCONF_CPUS_MAX && conf->ndevices <= VMCONF_DEVICES_MAX);
	for (size_t i = 0; i < conf->ndevices; i++)
		MUST(vmconf_name_ok(conf->device[i].id) && !strcmp(conf->device[i].id, again.device[i].id));
	vmconf_free(&again);
}

static void from_json(struct input *in)
{
	static const bool given[OPTIONS_MAX];
	struct vmconf_error error = { "" };
	struct vmconf conf;

	if (fd < 0) {
		fd = memfd_create("vm.json", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	MUST(ftruncate(fd, (off_t)in->left) == 0);
	MUST(pwrite(fd, in->at, in->left, 0) == (ssize_t)in->left);
	vmconf_init(&conf);
	if (vmconf_load(&conf, path, given, &error) || vmconf_finish(&conf, &error))
		check_line(&error);
	else
		check_taken(&conf);
	vmconf_free(&conf);
}

/* The input's words, with a NUL behind each. */
static void from_command_line(struct input *in)
{
	char *text = malloc(in->left + 1), *argv[ARGS_MAX + 1];
	struct vmconf_error error = { "" };
	size_t len = in->left;
	struct vmconf conf;
	int argc = 0;

	memcpy(text, in->at, len);
	text[len] = '\0';
	for (size_t at = 0; at < len && argc < ARGS_MAX; at += strlen(text + at) + 1) {
		/* A file to be read is the input's affair only as from_json has it. */
		if (!strncmp(text + at, "--config", 8))
			break;
		argv[argc++] = text + at;
	}
	argv[argc] = NULL;
	vmconf_init(&conf);
	switch (options_parse(argc, argv, &conf, &error)) {
	case OPTIONS_REFUSED:
		check_line(&error);
		break;
	case OPTIONS_RUN:
		check_taken(&conf);
		break;
	case OPTIONS_HELP:
	case OPTIONS_VERSION:
		break;
	}
	vmconf_free(&conf);
	free(text);
}

static void from_words(struct input *in)
{
	char *words = malloc(in->left ? in->left : 1);
	struct vmconf_error error = { "" };
	struct vmconf conf;

	memcpy(words, in->at, in->left);
	vmconf_init(&conf);
	if (vmconf_repeat(&conf, words, in->left, &error))
		check_line(&error);
	vmconf_free(&conf);
	free(words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	uint8_t how = in_u8(&in);

	/* Letters, so that an input can be written with an editor: JSON begins with "{". */
	if (how == 'a')
		from_command_line(&in);
	else if (how == 'w')
		from_words(&in);
	else if (len) {
		in = (struct input) { data, len };
		from_json(&in);
	}
	return 0;
}
