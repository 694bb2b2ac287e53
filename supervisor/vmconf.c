/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's settings: defaults, the JSON file, and what only the whole can show to be wrong. */
#include "vmconf.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "log.h"
#include "num.h"
#include "files.h"
#include "options.h"
#include "options_priv.h"
#include "usernet.h"

#define CONFIG_BYTES_MAX (1 << 20)

int vmconf_refuse(struct vmconf_error *error, const char *fmt, ...)
{
	char text[sizeof(error->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = '?';
	memcpy(error->text, text, sizeof(text));
	return -EINVAL;
}

bool vmconf_name_ok(const char *name)
{
	static const char chars[] = "-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t len = strlen(name);

	return len && len < BUS_NAME_MAX && strspn(name, chars) == len && *name != '-' && *name != '_';
}

void vmconf_init(struct vmconf *conf)
{
	*conf = (struct vmconf) {
		.cpus = 1,
		.memory = 512ULL << 20,
		.restart_on_reboot = true,
		.sandbox = true,
		.log_level = LOG_LEVEL_INFO,
		.grace_s = 10,
		.start_timeout_s = 30,
		.restarts = 30,
		.restarts_s = 60,
	};
}

static void free_words(struct vmconf_words *words)
{
	while (words->n)
		free(words->word[--words->n]);
}

static void free_device(struct vmconf_device *device)
{
	free(device->vhost_user);
	free(device->io_threads);
	free(device->map);
	free(device->disk.path);
	free(device->disk.nbd);
	free_words(&device->disk.backing);
	free(device->net.stream);
	free(device->net.subnet);
	free(device->net.dns);
	free(device->net.hostname);
	free_words(&device->net.forwards);
	free_words(&device->net.allowed);
	for (size_t i = 0; i < LIMITS; i++)
		free(device->net.limit[i]);
	for (size_t i = 0; i < QUOTA_KEYS; i++)
		free(device->disk.limit[i]);
}

void vmconf_free(struct vmconf *conf)
{
	for (size_t i = 0; i < conf->ndevices; i++)
		free_device(&conf->device[i]);
	for (size_t i = 0; i < VMCONF_GROUPS_MAX; i++) /* the last one may be half read */
		for (size_t k = 0; k < QUOTA_KEYS; k++)
			free(conf->group[i].word[k]);
	free(conf->kernel);
	free(conf->initrd);
	free(conf->append);
	free(conf->cpu);
	free(conf->console_path);
	free(conf->run_dir);
	free(conf->crash_dir);
	free(conf->cgroup);
	free(conf->config);
	free(conf->words);
}

const char *vmconf_helper(const struct vmconf_device *device)
{
	if (device->disk.nbd)
		return "nbd-dial";
	return device->net.link == LINK_USER ? "net-user" : NULL;
}

int vmconf_note(struct vmconf *conf, const char *option, const char *value)
{
	size_t n = strlen(option) + 1, v = strlen(value) + 1;
	char *more = realloc(conf->words, conf->words_len + n + v);

	if (!more)
		return -ENOMEM;
	conf->words = more;
	memcpy(more + conf->words_len, option, n);
	memcpy(more + conf->words_len + n, value, v);
	conf->words_len += n + v;
	return 0;
}

/* ---- the JSON file ---- */

/* Appends to a text of size bytes; false if it does not fit. */
static bool append(char *text, size_t size, const char *piece, bool double_commas)
{
	size_t len = strlen(text);

	for (; *piece; piece++) {
		if (len + 3 > size)
			return false;
		if (*piece == ',' && double_commas)
			text[len++] = ',';
		text[len++] = *piece;
	}
	text[len] = '\0';
	return true;
}

/* A string, number or boolean as the word that a command line would have; NULL for anything else. */
static const char *scalar(const json_t *value, char *number, size_t size)
{
	if (json_is_string(value))
		return json_string_value(value);
	if (json_is_boolean(value))
		return json_is_true(value) ? "on" : "off";
	if (!json_is_integer(value))
		return NULL;
	snprintf(number, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return number;
}

/* Appends "key=value". */
static int append_pair(char *word, size_t size, const char *key, const json_t *value,
		       struct vmconf_error *error)
{
	char number[32];
	const char *text = scalar(value, number, sizeof(number));

	if (!text)
		return vmconf_refuse(error, "\"%s\" holds no text, number or boolean, which is allowed", key);
	if (!*key || strpbrk(key, ",="))
		return vmconf_refuse(error, "\"%s\" is not possible as a key", key);
	if ((*word && !append(word, size, ",", false)) || !append(word, size, key, false) ||
	    !append(word, size, "=", false) || !append(word, size, text, true))
		return vmconf_refuse(error, "is too long; %zu bytes are allowed", size);
	return 0;
}

/* An object becomes "key=value,..."; a list in it is its key over and over. */
static int object_word(json_t *object, char *word, size_t size, struct vmconf_error *error)
{
	const char *key;
	json_t *value, *one;
	size_t i;

	*word = '\0';
	json_object_foreach(object, key, value)
	{
		if (!json_is_array(value) && append_pair(word, size, key, value, error))
			return -EINVAL;
		json_array_foreach(value, i, one)
		{
			if (append_pair(word, size, key, one, error))
				return -EINVAL;
		}
	}
	return 0;
}

static int apply_value(struct vmconf *conf, const struct option_def *option, json_t *value,
		       struct vmconf_error *error)
{
	char number[32], built[8192];
	CLEAN_FREE char *word = NULL;
	const char *text;

	if (json_is_object(value)) {
		if (object_word(value, built, sizeof(built), error))
			return -EINVAL;
		text = built;
	} else {
		text = scalar(value, number, sizeof(number));
	}
	if (!text)
		return vmconf_refuse(error, "null, a fraction or a list is not possible; allowed: %s",
				     option->arg ? option->arg : "true, false");
	word = strdup(text);
	return word && !vmconf_note(conf, option->name, text) ? option->parse(conf, word, error)
							      : vmconf_refuse(error, "out of memory");
}

static int apply_key(struct vmconf *conf, const char *key, json_t *value, const bool *given,
		     struct vmconf_error *error)
{
	int i = option_find(key, strlen(key));
	const struct option_def *option;

	if (i < 0 || option_table[i].command_line_only)
		return vmconf_refuse(error, "no such key; bulkhead-config(5) lists all");
	option = &option_table[i];
	if (given[i] && !option->repeats)
		return 0;
	if (!json_is_array(value) || !option->repeats)
		return apply_value(conf, option, value, error);
	for (size_t j = 0; j < json_array_size(value); j++)
		if (apply_value(conf, option, json_array_get(value, j), error))
			return -EINVAL;
	return 0;
}

int vmconf_load(struct vmconf *conf, const char *path, const bool *given, struct vmconf_error *error)
{
	struct vmconf_error why;
	json_error_t at;
	json_t *root, *value;
	const char *key;
	CLEAN_FREE char *text = NULL;
	int err = 0;

	if (files_read_text(path, CONFIG_BYTES_MAX, &text, &why))
		return vmconf_refuse(error, "--config: %s", why.text);
	root = json_loads(text, JSON_REJECT_DUPLICATES, &at);
	if (!root)
		return vmconf_refuse(error, "%s:%d: %s; allowed: one JSON object, each key once", path,
				     at.line, at.text);
	if (!json_is_object(root))
		err =
		    vmconf_refuse(error, "%s: not a JSON object; allowed: {\"kernel\": \"FILE\", ...}", path);
	json_object_foreach(root, key, value)
	{
		if (!err && apply_key(conf, key, value, given, &why))
			err = vmconf_refuse(error, "%s: %s: %s", path, key, why.text);
	}
	json_decref(root);
	return err;
}

/* ---- the whole ---- */

static const char *const kind_names[] = { [KIND_DISK] = "disk", [KIND_NET] = "net" };

const char *vmconf_kind_name(enum vmconf_kind kind)
{
	return kind_names[kind];
}

const char *const vmconf_limit_names[LIMITS] = {
	[LIMIT_RX_BYTES] = "rx-bytes",
	[LIMIT_RX_PACKETS] = "rx-packets",
	[LIMIT_TX_BYTES] = "tx-bytes",
	[LIMIT_TX_PACKETS] = "tx-packets",
};

const char *const vmconf_engine_names[ENGINES] = {
	[ENGINE_AIO] = "aio",
	[ENGINE_IO_URING] = "io_uring",
	[ENGINE_NULL] = "null",
};

const char *const vmconf_on_error_names[ERROR_RETRY + 1] = {
	[ERROR_DEFAULT] = "",      [ERROR_REPORT] = "report", [ERROR_STOP] = "stop",
	[ERROR_ENOSPC] = "enospc", [ERROR_RETRY] = "retry",
};

int vmconf_find_group(const struct vmconf *conf, const char *id)
{
	for (size_t i = 0; i < conf->ngroups; i++)
		if (!strcmp(conf->group[i].id, id))
			return (int)i;
	return -1;
}

static int check_groups(const struct vmconf *conf, struct vmconf_error *error)
{
	for (size_t i = 0; i < conf->ndevices; i++) {
		const char *id = conf->device[i].disk.group;

		if (*id && vmconf_find_group(conf, id) < 0)
			return vmconf_refuse(
			    error,
			    "--disk: group=\"%s\" is not there; --limit-group id=%s[,bps=RATE...] makes it",
			    id, id);
	}
	return 0;
}

size_t vmconf_count(const struct vmconf *conf, enum vmconf_kind kind)
{
	size_t n = 0;

	for (size_t i = 0; i < conf->ndevices; i++)
		n += conf->device[i].kind == kind;
	return n;
}

static int give_ids(struct vmconf *conf, struct vmconf_error *error)
{
	size_t number[ARRAY_SIZE(kind_names)] = { 0 };

	for (size_t i = 0; i < conf->ndevices; i++) {
		struct vmconf_device *device = &conf->device[i];
		const char *name = kind_names[device->kind];

		if (!*device->id)
			snprintf(device->id, sizeof(device->id), "%s%zu", name, number[device->kind]);
		number[device->kind]++;
		for (size_t j = 0; j < i; j++)
			if (!strcmp(device->id, conf->device[j].id))
				return vmconf_refuse(
				    error, "--%s: id=\"%s\" is given twice; each device needs its own", name,
				    device->id);
	}
	return 0;
}

size_t vmconf_leader(const struct vmconf *conf, size_t i)
{
	for (size_t j = 0; *conf->device[i].server && j < i; j++)
		if (!strcmp(conf->device[j].server, conf->device[i].server))
			return j;
	return i;
}

unsigned vmconf_rings(const struct vmconf_device *device)
{
	return device->kind == KIND_NET ? 2 * device->queues + 1 : device->queues;
}

unsigned vmconf_first_ring(const struct vmconf *conf, size_t i)
{
	unsigned before = 0;

	for (size_t j = 0; *conf->device[i].server && j < i; j++)
		if (!strcmp(conf->device[j].server, conf->device[i].server))
			before += vmconf_rings(&conf->device[j]);
	return before;
}

const char *vmconf_process_id(const struct vmconf_device *device)
{
	return *device->server ? device->server : device->id;
}

/* Stable for a machine's name and a device's id; locally administered, so that it is no maker's. */
static void make_mac(const struct vmconf *conf, struct vmconf_device *device)
{
	uint64_t hash = 14695981039346656037ULL; /* FNV-1a */
	char text[2 * BUS_NAME_MAX + 1];

	snprintf(text, sizeof(text), "%s/%s", conf->name, device->id);
	for (const char *p = text; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 1099511628211ULL;
	hash ^= hash >> 48;
	memcpy(device->net.mac, &hash, VMCONF_MAC_LEN);
	device->net.mac[0] = (uint8_t)((device->net.mac[0] & 0xfc) | 0x02);
}

void vmconf_mac_text(char text[VMCONF_MAC_TEXT], const struct vmconf_net *net)
{
	for (size_t i = 0; i < VMCONF_MAC_LEN; i++)
		snprintf(text + 3 * i, 4, "%02x%s", net->mac[i], i < VMCONF_MAC_LEN - 1 ? ":" : "");
}

/* Each has a net-user, of which one would find a port of the host that both are to listen on in use. */
static int check_forwards(const struct vmconf_device *a, const struct vmconf_device *b,
			  struct vmconf_error *error)
{
	struct usernet_forward mine, other;

	for (size_t i = 0; i < a->net.forwards.n; i++) {
		if (usernet_parse_forward(a->net.forwards.word[i], &mine))
			continue; /* options_net has refused it */
		for (size_t j = 0; j < b->net.forwards.n; j++)
			if (!usernet_parse_forward(b->net.forwards.word[j], &other) &&
			    usernet_is_same_port(&mine, &other))
				return vmconf_refuse(
				    error, "--net: hostfwd=\"%s\" of %s is of a port that %s forwards, too",
				    mine.word, a->id, b->id);
	}
	return 0;
}

/* Ports of one machine: two with one address, or one tap, or one port of the host. */
static int check_nets(const struct vmconf_device *a, const struct vmconf_device *b,
		      struct vmconf_error *error)
{
	const uint8_t *mac = a->net.mac;

	if (a->kind != KIND_NET || b->kind != KIND_NET)
		return 0;
	if (!memcmp(mac, b->net.mac, VMCONF_MAC_LEN))
		return vmconf_refuse(error,
				     "--net: mac=\"%02x:%02x:%02x:%02x:%02x:%02x\" of %s is that of %s, too; "
				     "each port needs its own",
				     mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], a->id, b->id);
	if (*a->net.tap && !strcmp(a->net.tap, b->net.tap))
		return vmconf_refuse(error, "--net: tap=\"%s\" is given twice; each port needs its own",
				     a->net.tap);
	return check_forwards(a, b, error);
}

static int finish_nets(struct vmconf *conf, struct vmconf_error *error)
{
	for (size_t i = 0; i < conf->ndevices; i++) {
		struct vmconf_device *device = &conf->device[i];

		if (device->kind == KIND_NET && !device->net.own_mac)
			make_mac(conf, device);
		for (size_t j = 0; j < i; j++)
			if (check_nets(device, &conf->device[j], error))
				return -EINVAL;
	}
	return 0;
}

int vmconf_finish(struct vmconf *conf, struct vmconf_error *error)
{
	if (!conf->kernel)
		return vmconf_refuse(error, "--kernel: missing; a guest kernel is needed: --kernel FILE");
	if (!*conf->name)
		snprintf(conf->name, sizeof(conf->name), "vm-%d", (int)getpid());
	if (!conf->cpu)
		conf->cpu = strdup("host");
	if (!conf->append)
		conf->append = strdup("");
	if (!conf->cpu || !conf->append)
		return vmconf_refuse(error, "out of memory");
	for (size_t i = 0; i < conf->ndevices; i++) {
		if (conf->device[i].own_restarts)
			continue;
		conf->device[i].restarts = conf->restarts;
		conf->device[i].restarts_s = conf->restarts_s;
	}
	return check_groups(conf, error) || give_ids(conf, error) || options_servers(conf, error) ||
		       finish_nets(conf, error)
		   ? -EINVAL
		   : 0;
}

/* The NUL-terminated string at *at, which moves past it; NULL if there is none before the end. */
static const char *next_word(const char **at, const char *end)
{
	const char *word = *at, *nul = word < end ? memchr(word, '\0', (size_t)(end - word)) : NULL;

	if (nul)
		*at = nul + 1;
	return nul ? word : NULL;
}

int vmconf_repeat(struct vmconf *conf, const char *words, size_t len, struct vmconf_error *error)
{
	const char *at = words, *name;

	while ((name = next_word(&at, words + len))) {
		const char *value = next_word(&at, words + len);
		int i = option_find(name, strlen(name));
		CLEAN_FREE char *copy = value ? strdup(value) : NULL;

		if (i < 0 || !copy || vmconf_note(conf, name, value))
			return vmconf_refuse(error, "\"%s\" of its settings is unknown here", name);
		if (option_table[i].parse(conf, copy, error))
			return -EINVAL;
	}
	return vmconf_finish(conf, error);
}
