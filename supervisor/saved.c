/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a machine in memory that outlives its supervisor. Tables say which fields of which structure it is made
 * of, and both directions follow them. There is room for two states: the one that is not current is written, then made
 * current, so that a writer that dies half way leaves the one before. The form is JSON, which a reader of another version
 * understands as far as the fields go by the same name.
 */
#include "saved.h"

#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "num.h"

#define MAGIC        0x7661736b6c75626bULL
#define SETTINGS_MAX (2U << 20)
#define STATE_MAX    (1U << 20)

struct state_text {
	uint32_t len;
	char text[STATE_MAX];
};

struct region {
	uint64_t magic;
	_Atomic uint32_t current; /* 1 or 2: which state is the last whole one; 0: there is none yet */
	uint32_t settings_len;
	char settings[SETTINGS_MAX];
	struct state_text state[2];
};

struct saved {
	struct region *region;
	uint64_t hash; /* of the state that was written last */
	bool complained;
};

/* ---- what it is made of ---- */

struct field {
	const char *key;
	size_t offset, size;
	bool text;    /* a string of at most size - 1 bytes; else a number of 1, 4 or 8 bytes */
	uint64_t max; /* 0: whatever the size allows */
};

/* Fields of the structure OF, which each table defines for itself. */
#define NUMBER_TO(limit, member)                                                                             \
	{                                                                                                    \
		.key = #member, .offset = offsetof(OF, member), .size = sizeof(((OF *)0)->member),           \
		.max = (limit)                                                                               \
	}
#define NUMBER(member) NUMBER_TO(0, member)
#define FLAG(member)   NUMBER_TO(1, member)
#define TEXT(member)                                                                                         \
	{                                                                                                    \
		.key = #member, .offset = offsetof(OF, member), .size = sizeof(((OF *)0)->member),           \
		.text = true                                                                                 \
	}
#define END                                                                                                  \
	{                                                                                                    \
		.key = NULL                                                                                  \
	}

#define OF struct machine
static const struct field machine_fields[] = {
	NUMBER_TO(MACHINE_ENDED, state),
	NUMBER(generation),
	FLAG(again),
	FLAG(asked),
	FLAG(device_failed),
	FLAG(ever_ran),
	NUMBER_TO(255, status),
	NUMBER(begun),
	NUMBER(running_since),
	NUMBER_TO(BUS_TYPE_COUNT - 1, wanted),
	END,
};
#undef OF

#define OF struct child
static const struct field child_fields[] = {
	NUMBER_TO(CHILD_STOPPING, state),
	NUMBER_TO(INT32_MAX, pid),
	NUMBER(serial),
	FLAG(restricted),
	FLAG(killed),
	TEXT(reason),
	TEXT(version),
	NUMBER(times.begun),
	NUMBER(times.spawned),
	NUMBER(times.hello),
	NUMBER(times.ready),
	NUMBER(times.sign),
	END,
};
#undef OF

#define OF struct device_times
static const struct field times_fields[] = {
	FLAG(warm),    NUMBER(sign),        NUMBER(noticed),  NUMBER(reaped), NUMBER(begun), NUMBER(spawned),
	NUMBER(hello), NUMBER(ready),       NUMBER(given),    NUMBER(linked), NUMBER(rings), NUMBER(replayed),
	NUMBER(first), NUMBER(resubmitted), NUMBER(poisoned), FLAG(resumed),  END,
};
#undef OF

#define OF struct device_helper
static const struct field helper_fields[] = {
	FLAG(waiting),       FLAG(failed),     FLAG(upgrading),  NUMBER(last_noticed),
	NUMBER(short_lives), NUMBER(restarts), TEXT(last_death), END,
};
#undef OF

#define OF struct device_link
static const struct field link_fields[] = {
	FLAG(linked), FLAG(resumed),       FLAG(given),      FLAG(down), FLAG(stale),
	FLAG(told),   NUMBER(resubmitted), NUMBER(poisoned), FLAG(lost), END,
};
#undef OF

#define OF struct device
static const struct field device_fields[] = {
	NUMBER_TO(DEVICE_FAILED, state),
	NUMBER_TO(KEEPER_SLOTS - 1, active),
	NUMBER(short_lives),
	NUMBER(absences),
	NUMBER(spare_deaths),
	NUMBER(nrestarts),
	FLAG(was_up),
	FLAG(recovering),
	FLAG(restricted),
	TEXT(last_death),
	NUMBER_TO(UPGRADE_REVERTING, upgrade.step),
	NUMBER_TO(KEEPER_SLOTS - 1, upgrade.slot),
	FLAG(upgrade.window),
	NUMBER(upgrade.drain),
	NUMBER(upgrade.stop),
	TEXT(upgrade.program),
	TEXT(upgrade.why),
	END,
};
#undef OF

/* ---- fields ---- */

static uint64_t get_number(const struct field *f, const char *at)
{
	uint64_t wide = 0;

	memcpy(&wide, at + f->offset, f->size); /* little end first, as all that we run on */
	return wide;
}

static json_t *save_fields(const struct field *f, const void *from)
{
	json_t *to = json_object();

	for (; f->key; f++)
		json_object_set_new(to, f->key,
				    f->text ? json_string((const char *)from + f->offset)
					    : json_integer((json_int_t)get_number(f, from)));
	return to;
}

static bool set_field(const struct field *f, const json_t *value, char *at)
{
	const char *text = json_string_value(value);
	uint64_t number;

	if (f->text) {
		if (!text || strlen(text) >= f->size)
			return false;
		memcpy(at + f->offset, text, strlen(text) + 1);
		return true;
	}
	number = (uint64_t)json_integer_value(value);
	if (!json_is_integer(value) || (f->max && number > f->max) || (f->size == 4 && number > UINT32_MAX))
		return false;
	memcpy(at + f->offset, &number, f->size);
	return true;
}

/* A field that is not there stays as it is; one that makes no sense is an error. */
static int read_fields(const struct field *f, const json_t *from, void *to)
{
	for (; f->key; f++) {
		const json_t *value = json_object_get(from, f->key);

		if (value && !set_field(f, value, to))
			return -EINVAL;
	}
	return json_is_object(from) ? 0 : -EINVAL;
}

/* The times in a ring of DEVICE_DEATHS_MAX that still count after so many seconds, oldest first. */
static json_t *save_ring(const uint64_t *ring, size_t n, unsigned seconds)
{
	size_t kept = MIN(n, (size_t)DEVICE_DEATHS_MAX);
	uint64_t now = clock_ns();
	json_t *to = json_array();

	for (size_t i = n - kept; i < n; i++)
		if (now - ring[i % DEVICE_DEATHS_MAX] <= seconds * NS_PER_S)
			json_array_append_new(to, json_integer((json_int_t)ring[i % DEVICE_DEATHS_MAX]));
	return to;
}

static void read_ring(const json_t *from, uint64_t *ring, size_t *n)
{
	for (*n = 0; *n < MIN(json_array_size(from), (size_t)DEVICE_DEATHS_MAX); (*n)++)
		ring[*n] = (uint64_t)json_integer_value(json_array_get(from, *n));
}

static json_t *save_set(const struct device_set *set)
{
	json_t *to = json_object();

	for (size_t i = 0; i < DEVICE_SETS_MAX && *set[i].key; i++)
		json_object_set_new(to, set[i].key, json_string(set[i].value));
	return to;
}

static void read_set(const json_t *from, struct device_set *set)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)from, key, value) if (json_is_string(value))
	    device_note_set(set, key, json_string_value(value));
}

static json_t *save_link(const struct device_link *l)
{
	json_t *to = save_fields(link_fields, l);

	json_object_set_new(to, "set", save_set(l->set));
	return to;
}

static int read_link(const json_t *from, struct device_link *l)
{
	read_set(json_object_get(from, "set"), l->set);
	return read_fields(link_fields, from, l);
}

/* ---- the whole ---- */

static json_t *save_device(const struct device *d)
{
	json_t *to = save_fields(device_fields, d), *slots = json_array(), *links = json_array();
	json_t *windows = json_array();

	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		json_array_append_new(slots, save_fields(child_fields, &d->slot[i]));
	json_object_set_new(to, "slots", slots);
	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		json_array_append_new(windows, save_fields(child_fields, &d->window[i]));
	json_object_set_new(to, "windows", windows);
	for (size_t i = 0; i < d->links; i++)
		json_array_append_new(links, save_link(&d->link[i]));
	json_object_set_new(to, "links", links);
	json_object_set_new(to, "now", save_fields(times_fields, &d->now));
	json_object_set_new(to, "last", save_fields(times_fields, &d->last));
	json_object_set_new(to, "deaths", save_ring(d->death, d->ndeaths, d->policy.restarts_s));
	json_object_set_new(to, "helper", save_fields(helper_fields, &d->helper));
	json_object_set_new(to, "helper_process", save_fields(child_fields, &d->helper.child));
	json_object_set_new(to, "helper_deaths",
			    save_ring(d->helper.death, d->helper.ndeaths, d->policy.restarts_s));
	return to;
}

static json_t *save_machine(const struct machine *m)
{
	json_t *to = save_fields(machine_fields, m), *devices = json_array(), *groups = json_array();

	for (size_t i = 0; i < m->ndevices; i++)
		json_array_append_new(devices, save_device(&m->device[i]));
	for (size_t i = 0; i < m->conf->ngroups; i++)
		json_array_append_new(groups, save_set(m->group[i].set));
	json_object_set_new(to, "groups", groups);
	json_object_set_new(to, "core", save_fields(child_fields, &m->core));
	json_object_set_new(to, "devices", devices);
	json_object_set_new(to, "crashes", save_ring(m->crash, m->ncrashes, m->conf->restarts_s));
	return to;
}

static int read_device(const json_t *from, struct device *d)
{
	const json_t *slots = json_object_get(from, "slots"), *links = json_object_get(from, "links");
	const json_t *windows = json_object_get(from, "windows");

	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		if (read_fields(child_fields, json_array_get(slots, i), &d->slot[i]) ||
		    read_fields(child_fields, json_array_get(windows, i), &d->window[i]))
			return -EINVAL;
	for (size_t i = 0; i < d->links; i++)
		if (read_link(json_array_get(links, i), &d->link[i]))
			return -EINVAL;
	read_ring(json_object_get(from, "deaths"), d->death, &d->ndeaths);
	read_ring(json_object_get(from, "helper_deaths"), d->helper.death, &d->helper.ndeaths);
	if (read_fields(helper_fields, json_object_get(from, "helper"), &d->helper) ||
	    read_fields(child_fields, json_object_get(from, "helper_process"), &d->helper.child) ||
	    read_fields(times_fields, json_object_get(from, "now"), &d->now) ||
	    read_fields(times_fields, json_object_get(from, "last"), &d->last))
		return -EINVAL;
	return read_fields(device_fields, from, d);
}

static int read_machine(const json_t *from, struct machine *m)
{
	const json_t *devices = json_object_get(from, "devices"), *groups = json_object_get(from, "groups");

	for (size_t i = 0; i < m->ndevices; i++)
		if (read_device(json_array_get(devices, i), &m->device[i]))
			return -EINVAL;
	for (size_t i = 0; i < m->conf->ngroups; i++)
		read_set(json_array_get(groups, i), m->group[i].set);
	read_ring(json_object_get(from, "crashes"), m->crash, &m->ncrashes);
	return read_fields(child_fields, json_object_get(from, "core"), &m->core)
		   ? -EINVAL
		   : read_fields(machine_fields, from, m);
}

/* ---- whether it changed ---- */

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
	for (const unsigned char *p = bytes; n--; p++)
		hash = (hash ^ *p) * 1099511628211ULL; /* FNV-1a */
	return hash;
}

static uint64_t hash_fields(uint64_t hash, const struct field *f, const void *of)
{
	for (; f->key; f++) {
		const char *at = (const char *)of + f->offset;

		hash = hash_bytes(hash, at, f->text ? strlen(at) + 1 : f->size);
	}
	return hash;
}

static uint64_t hash_machine(const struct machine *m)
{
	uint64_t hash = hash_fields(14695981039346656037ULL, machine_fields, m);

	hash = hash_fields(hash, child_fields, &m->core);
	hash = hash_bytes(hash, &m->ncrashes, sizeof(m->ncrashes));
	for (size_t i = 0; i < m->conf->ngroups; i++)
		hash = hash_bytes(hash, m->group[i].set, sizeof(m->group[i].set));
	for (size_t i = 0; i < m->ndevices; i++) {
		const struct device *d = &m->device[i];

		hash = hash_fields(hash, device_fields, d);
		for (size_t j = 0; j < d->links; j++) {
			hash = hash_fields(hash, link_fields, &d->link[j]);
			hash = hash_bytes(hash, d->link[j].set, sizeof(d->link[j].set));
		}
		hash = hash_fields(hash, times_fields, &d->now);
		hash = hash_fields(hash, times_fields, &d->last);
		hash = hash_bytes(hash, &d->ndeaths, sizeof(d->ndeaths));
		hash = hash_fields(hash, helper_fields, &d->helper);
		hash = hash_fields(hash, child_fields, &d->helper.child);
		hash = hash_bytes(hash, &d->helper.ndeaths, sizeof(d->helper.ndeaths));
		for (size_t j = 0; j < KEEPER_SLOTS; j++)
			hash = hash_fields(hash_fields(hash, child_fields, &d->slot[j]), child_fields,
					   &d->window[j]);
	}
	return hash | 1; /* never what it is before the first time */
}

/* ---- memory ---- */

static int map(int fd, struct saved **out)
{
	CLEAN_FREE struct saved *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->region = mmap(NULL, sizeof(*s->region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s->region == MAP_FAILED)
		return -errno;
	*out = TAKE_PTR(s);
	return 0;
}

int saved_new(const struct vmconf *conf, int *fd, struct saved **out)
{
	CLEAN_FD int memory = fd_sealed_memfd("bulkhead-state", sizeof(struct region));
	int err = memory < 0 ? memory : 0;

	if (!err && conf->words_len > SETTINGS_MAX)
		err = -E2BIG;
	if (!err)
		err = map(memory, out);
	if (err)
		return err;
	memcpy((*out)->region->settings, conf->words, conf->words_len);
	(*out)->region->settings_len = (uint32_t)conf->words_len;
	(*out)->region->magic = MAGIC;
	*fd = take_fd(&memory);
	return 0;
}

bool saved_is_there(int fd)
{
	uint32_t current = 0;

	return pread(fd, &current, sizeof(current), offsetof(struct region, current)) == sizeof(current) &&
	       current;
}

int saved_map(int fd, struct saved **out)
{
	off_t size = lseek(fd, 0, SEEK_END);
	int err;

	if (size != (off_t)sizeof(struct region))
		return -EPROTONOSUPPORT;
	err = map(fd, out);
	if (!err && (*out)->region->magic != MAGIC) {
		saved_free(TAKE_PTR(*out));
		err = -EPROTONOSUPPORT;
	}
	return err;
}

int saved_settings(const struct saved *s, struct vmconf *conf, struct vmconf_error *error)
{
	return vmconf_repeat(conf, s->region->settings, MIN(s->region->settings_len, SETTINGS_MAX), error);
}

void saved_write(struct saved *s, const struct machine *m)
{
	uint64_t hash = s ? hash_machine(m) : 0;
	struct state_text *to;
	uint32_t next;
	json_t *root;
	size_t len;

	if (!s || hash == s->hash)
		return;
	next = s->region->current == 1 ? 2 : 1;
	to = &s->region->state[next - 1];
	root = save_machine(m);
	len = json_dumpb(root, to->text, STATE_MAX, JSON_COMPACT);
	json_decref(root);
	if (!len || len > STATE_MAX) {
		if (!s->complained)
			say_error("%s: its state can't be saved for another supervisor", m->conf->name);
		s->complained = true;
		return;
	}
	to->len = (uint32_t)len;
	atomic_store_explicit(&s->region->current, next, memory_order_release);
	s->hash = hash;
}

int saved_read(const struct saved *s, struct machine *m)
{
	uint32_t current = atomic_load(&s->region->current);
	const struct state_text *from;
	json_t *root;
	int err;

	if (current < 1 || current > 2)
		return -EINVAL;
	from = &s->region->state[current - 1];
	root = json_loadb(from->text, MIN(from->len, STATE_MAX), 0, NULL);
	err = root ? read_machine(root, m) : -EINVAL;
	json_decref(root);
	return err;
}

void saved_free(struct saved *s)
{
	if (s)
		munmap(s->region, sizeof(*s->region));
	free(s);
}
