/* SPDX-License-Identifier: Apache-2.0 */
/* The control bus's messages between C structures and protobuf, everything checked in both directions. */
#include <errno.h>
#include <string.h>

#include "bulkhead.pb-c.h"
#include "bus_priv.h"
#include "num.h"

const struct bus_type_info bus_types[BUS_TYPE_COUNT] = {
	[BUS_ERROR] = { "Error", BUS_KIND_REPLY, BUS_BOTH, BUS_NONE },
	[BUS_OK] = { "Ok", BUS_KIND_REPLY, BUS_BOTH, BUS_NONE },
	[BUS_HELLO] = { "Hello", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_READY] = { "Ready", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_PING] = { "Ping", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_GET_STATS] = { "GetStats", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_STATS },
	[BUS_STATS] = { "Stats", BUS_KIND_REPLY, BUS_CHILD, BUS_NONE },
	[BUS_DRAIN] = { "Drain", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_RESUME] = { "Resume", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_PAUSE] = { "Pause", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_POWER_BUTTON] = { "PowerButton", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_SHUTDOWN] = { "Shutdown", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_DEVICE_UP] = { "DeviceUp", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_DEVICE_DOWN] = { "DeviceDown", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_GUEST_ENDED] = { "GuestEnded", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_DEVICE_HUNG] = { "DeviceHung", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_FAIL_DEVICE] = { "FailDevice", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_RECOVERED] = { "Recovered", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_SET] = { "Set", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_IO_ERROR] = { "IoError", BUS_KIND_EVENT, BUS_CHILD, BUS_NONE },
	[BUS_GET_LOOPS] = { "GetLoops", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_LOOPS },
	[BUS_LOOPS] = { "Loops", BUS_KIND_REPLY, BUS_CHILD, BUS_NONE },
	[BUS_MOVE_QUEUE] = { "MoveQueue", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
	[BUS_PIN] = { "Pin", BUS_KIND_REQUEST, BUS_SUPERVISOR, BUS_OK },
};

const char *bus_type_name(enum bus_type type)
{
	const char *name = type < BUS_TYPE_COUNT ? bus_types[type].name : NULL;

	return name ? name : "None";
}

/* A body's field number is its type plus one, so no table is needed between the two. */
#define BODY_CASE(type) ((unsigned)(type) + 1)
_Static_assert(BULKHEAD__ENVELOPE__BODY_ERROR == BODY_CASE(BUS_ERROR), "bulkhead.proto and bus_msg.h");
_Static_assert(BULKHEAD__ENVELOPE__BODY_STATS == BODY_CASE(BUS_STATS), "bulkhead.proto and bus_msg.h");
_Static_assert(BULKHEAD__ENVELOPE__BODY_SHUTDOWN == BODY_CASE(BUS_SHUTDOWN), "bulkhead.proto and bus_msg.h");
_Static_assert(BULKHEAD__ENVELOPE__BODY_RECOVERED == BODY_CASE(BUS_RECOVERED),
	       "bulkhead.proto and bus_msg.h");
_Static_assert(BULKHEAD__ENVELOPE__BODY_SET == BODY_CASE(BUS_SET), "bulkhead.proto and bus_msg.h");
_Static_assert(BULKHEAD__ENVELOPE__BODY_PIN == BODY_CASE(BUS_PIN), "bulkhead.proto and bus_msg.h");
_Static_assert(BUS_TYPE_COUNT == BUS_PIN + 1, "a new message needs its body in bulkhead.proto");

/* Room for whichever body a message has. */
union body {
	ProtobufCMessage base;
	Bulkhead__Error error;
	Bulkhead__Ok none; /* any message without fields */
	Bulkhead__Hello hello;
	Bulkhead__GetStats get_stats;
	Bulkhead__Stats stats;
	Bulkhead__DeviceUp device_up;
	Bulkhead__DeviceDown device_down;
	Bulkhead__GuestEnded guest_ended;
	Bulkhead__DeviceHung device_hung;
	Bulkhead__FailDevice fail_device;
	Bulkhead__Recovered recovered;
	Bulkhead__Set set;
	Bulkhead__IoError io_error;
	Bulkhead__Loops loops;
	Bulkhead__MoveQueue move_queue;
	Bulkhead__Pin pin;
};

/* A message while it is being encoded. */
struct draft {
	union body body;
	union {
		struct {
			Bulkhead__Stat stat[BUS_STATS_MAX];
			Bulkhead__Stat *stat_ptr[BUS_STATS_MAX];
		};
		struct {
			Bulkhead__Loop loop[BUS_LOOPS_MAX];
			Bulkhead__Loop *loop_ptr[BUS_LOOPS_MAX];
		};
	};
};

/* protobuf-c's structures take char * also where nothing is written. */
static char *str(const char *s)
{
	return (char *)(uintptr_t)s;
}

static bool is_text(const char *s)
{
	return strnlen(s, BUS_TEXT_MAX) < BUS_TEXT_MAX;
}

static bool is_name(const char *s)
{
	return bus_wire_is_name(s, BUS_NAME_MAX);
}

static bool get_name(char *to, const char *from)
{
	return bus_wire_get_name(to, BUS_NAME_MAX, from);
}

static bool get_text(char *to, const char *from)
{
	return bus_wire_get_text(to, BUS_TEXT_MAX, from);
}

/* The name of one of a server's devices, which is left out where it has one. */
static bool fill_device(const char *from, char **to)
{
	*to = *from ? str(from) : NULL;
	return !*from || is_name(from);
}

static bool take_device(char *to, const char *from)
{
	return !from || get_name(to, from);
}

/* For each message with fields: fill and take, which return false if a field breaks a limit. */

static bool is_err(int32_t err)
{
	return err < 0 && err >= -4095;
}

static bool fill_error(const struct bus_msg *msg, struct draft *d)
{
	d->body.error.err = msg->error.err;
	d->body.error.text = str(msg->error.text);
	return is_err(msg->error.err) && is_text(msg->error.text);
}

static bool take_error(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->error.err = env->error->err;
	return is_err(env->error->err) && get_text(out->error.text, env->error->text);
}

static bool fill_hello(const struct bus_msg *msg, struct draft *d)
{
	d->body.hello.protocol = msg->hello.protocol;
	d->body.hello.kind = str(msg->hello.kind);
	d->body.hello.name = str(msg->hello.name);
	d->body.hello.version = str(msg->hello.version);
	return is_name(msg->hello.kind) && is_name(msg->hello.name) && is_name(msg->hello.version);
}

static bool take_hello(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->hello.protocol = env->hello->protocol;
	return get_name(out->hello.kind, env->hello->kind) && get_name(out->hello.name, env->hello->name) &&
	       get_name(out->hello.version, env->hello->version);
}

static bool fill_get_stats(const struct bus_msg *msg, struct draft *d)
{
	return fill_device(msg->get_stats.device, &d->body.get_stats.device);
}

static bool take_get_stats(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return take_device(out->get_stats.device, env->get_stats->device);
}

static bool fill_stats(const struct bus_msg *msg, struct draft *d)
{
	if (msg->stats.count > BUS_STATS_MAX)
		return false;
	for (uint32_t i = 0; i < msg->stats.count; i++) {
		if (!is_name(msg->stats.stat[i].name))
			return false;
		bulkhead__stat__init(&d->stat[i]);
		d->stat[i].name = str(msg->stats.stat[i].name);
		d->stat[i].value = msg->stats.stat[i].value;
		d->stat_ptr[i] = &d->stat[i];
	}
	d->body.stats.n_stat = msg->stats.count;
	d->body.stats.stat = d->stat_ptr;
	return true;
}

static bool take_stats(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	const Bulkhead__Stats *m = env->stats;

	if (m->n_stat > BUS_STATS_MAX)
		return false;
	out->stats.count = (uint32_t)m->n_stat;
	for (size_t i = 0; i < m->n_stat; i++) {
		if (!get_name(out->stats.stat[i].name, m->stat[i]->name))
			return false;
		out->stats.stat[i].value = m->stat[i]->value;
	}
	return true;
}

static bool fill_device_up(const struct bus_msg *msg, struct draft *d)
{
	d->body.device_up.device = str(msg->device_up.device);
	d->body.device_up.handshake_ns = msg->device_up.handshake_ns;
	d->body.device_up.resumed = msg->device_up.resumed;
	return is_name(msg->device_up.device);
}

static bool take_device_up(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->device_up.handshake_ns = env->device_up->handshake_ns;
	out->device_up.resumed = env->device_up->resumed;
	return get_name(out->device_up.device, env->device_up->device);
}

static bool fill_device_down(const struct bus_msg *msg, struct draft *d)
{
	d->body.device_down.device = str(msg->device_down.device);
	d->body.device_down.reason = str(msg->device_down.reason);
	return is_name(msg->device_down.device) && is_text(msg->device_down.reason);
}

static bool take_device_down(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return get_name(out->device_down.device, env->device_down->device) &&
	       get_text(out->device_down.reason, env->device_down->reason);
}

static bool is_end(int end)
{
	return end >= BUS_END_POWEROFF && end <= BUS_END_DEBUG_EXIT;
}

static bool fill_guest_ended(const struct bus_msg *msg, struct draft *d)
{
	d->body.guest_ended.end = (Bulkhead__GuestEnded__End)msg->guest_ended.end;
	d->body.guest_ended.code = msg->guest_ended.code;
	d->body.guest_ended.text = str(msg->guest_ended.text);
	return is_end((int)msg->guest_ended.end) && is_text(msg->guest_ended.text);
}

static bool take_guest_ended(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->guest_ended.end = (enum bus_end)env->guest_ended->end;
	out->guest_ended.code = env->guest_ended->code;
	return is_end((int)env->guest_ended->end) && get_text(out->guest_ended.text, env->guest_ended->text);
}

static bool fill_device_hung(const struct bus_msg *msg, struct draft *d)
{
	d->body.device_hung.device = str(msg->device_hung.device);
	d->body.device_hung.queue = msg->device_hung.queue;
	d->body.device_hung.stalled_ns = msg->device_hung.stalled_ns;
	d->body.device_hung.reason = str(msg->device_hung.reason);
	return is_name(msg->device_hung.device) && is_text(msg->device_hung.reason);
}

static bool take_device_hung(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->device_hung.queue = env->device_hung->queue;
	out->device_hung.stalled_ns = env->device_hung->stalled_ns;
	return get_name(out->device_hung.device, env->device_hung->device) &&
	       get_text(out->device_hung.reason, env->device_hung->reason);
}

static bool fill_fail_device(const struct bus_msg *msg, struct draft *d)
{
	d->body.fail_device.device = str(msg->fail_device.device);
	return is_name(msg->fail_device.device);
}

static bool take_fail_device(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return get_name(out->fail_device.device, env->fail_device->device);
}

static bool fill_recovered(const struct bus_msg *msg, struct draft *d)
{
	d->body.recovered.resubmitted = msg->recovered.resubmitted;
	d->body.recovered.poisoned = msg->recovered.poisoned;
	d->body.recovered.start_ns = msg->recovered.start_ns;
	d->body.recovered.replayed_ns = msg->recovered.replayed_ns;
	d->body.recovered.first_ns = msg->recovered.first_ns;
	return fill_device(msg->recovered.device, &d->body.recovered.device) &&
	       msg->recovered.poisoned <= msg->recovered.resubmitted;
}

static bool take_recovered(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->recovered.resubmitted = env->recovered->resubmitted;
	out->recovered.poisoned = env->recovered->poisoned;
	out->recovered.start_ns = env->recovered->start_ns;
	out->recovered.replayed_ns = env->recovered->replayed_ns;
	out->recovered.first_ns = env->recovered->first_ns;
	return take_device(out->recovered.device, env->recovered->device) &&
	       out->recovered.poisoned <= out->recovered.resubmitted;
}

static bool fill_set(const struct bus_msg *msg, struct draft *d)
{
	d->body.set.key = str(msg->set.key);
	d->body.set.value = str(msg->set.value);
	return fill_device(msg->set.device, &d->body.set.device) && is_name(msg->set.key) &&
	       is_text(msg->set.value);
}

static bool take_set(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return take_device(out->set.device, env->set->device) && get_name(out->set.key, env->set->key) &&
	       get_text(out->set.value, env->set->value);
}

static bool fill_io_error(const struct bus_msg *msg, struct draft *d)
{
	d->body.io_error.text = str(msg->io_error.text);
	return fill_device(msg->io_error.device, &d->body.io_error.device) && is_text(msg->io_error.text);
}

static bool take_io_error(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return take_device(out->io_error.device, env->io_error->device) &&
	       get_text(out->io_error.text, env->io_error->text);
}

static void fill_loop(const struct bus_loop *from, Bulkhead__Loop *to)
{
	bulkhead__loop__init(to);
	to->name = str(from->name);
	to->thread = from->thread;
	to->queues = from->queues;
	to->busy_ns = from->busy_ns;
	to->over_ns = from->over_ns;
	to->passes = from->passes;
	to->sleeps = from->sleeps;
	to->poll_hits = from->poll_hits;
	to->poll_misses = from->poll_misses;
	to->poll_ns = from->poll_ns;
	to->poll_max_ns = from->poll_max_ns;
}

static bool fill_loops(const struct bus_msg *msg, struct draft *d)
{
	if (msg->loops.count > BUS_LOOPS_MAX)
		return false;
	for (uint32_t i = 0; i < msg->loops.count; i++) {
		if (!is_name(msg->loops.loop[i].name))
			return false;
		fill_loop(&msg->loops.loop[i], &d->loop[i]);
		d->loop_ptr[i] = &d->loop[i];
	}
	d->body.loops.n_loop = msg->loops.count;
	d->body.loops.loop = d->loop_ptr;
	return true;
}

static bool take_loop(const Bulkhead__Loop *from, struct bus_loop *to)
{
	to->thread = from->thread;
	to->queues = from->queues;
	to->busy_ns = from->busy_ns;
	to->over_ns = from->over_ns;
	to->passes = from->passes;
	to->sleeps = from->sleeps;
	to->poll_hits = from->poll_hits;
	to->poll_misses = from->poll_misses;
	to->poll_ns = from->poll_ns;
	to->poll_max_ns = from->poll_max_ns;
	return get_name(to->name, from->name);
}

static bool take_loops(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	const Bulkhead__Loops *m = env->loops;

	if (m->n_loop > BUS_LOOPS_MAX)
		return false;
	out->loops.count = (uint32_t)m->n_loop;
	for (size_t i = 0; i < m->n_loop; i++)
		if (!take_loop(m->loop[i], &out->loops.loop[i]))
			return false;
	return true;
}

static bool fill_move_queue(const struct bus_msg *msg, struct draft *d)
{
	d->body.move_queue.queue = msg->move_queue.queue;
	d->body.move_queue.thread = str(msg->move_queue.thread);
	return fill_device(msg->move_queue.device, &d->body.move_queue.device) &&
	       is_name(msg->move_queue.thread);
}

static bool take_move_queue(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	out->move_queue.queue = env->move_queue->queue;
	return take_device(out->move_queue.device, env->move_queue->device) &&
	       get_name(out->move_queue.thread, env->move_queue->thread);
}

static bool fill_pin(const struct bus_msg *msg, struct draft *d)
{
	d->body.pin.thread = str(msg->pin.thread);
	d->body.pin.cpus = str(msg->pin.cpus);
	return is_name(msg->pin.thread) && is_text(msg->pin.cpus);
}

static bool take_pin(const Bulkhead__Envelope *env, struct bus_msg *out)
{
	return get_name(out->pin.thread, env->pin->thread) && get_text(out->pin.cpus, env->pin->cpus);
}

static const struct {
	bool (*fill)(const struct bus_msg *msg, struct draft *d);
	bool (*take)(const Bulkhead__Envelope *env, struct bus_msg *out);
} fields[BUS_TYPE_COUNT] = {
	[BUS_ERROR] = { fill_error, take_error },
	[BUS_HELLO] = { fill_hello, take_hello },
	[BUS_GET_STATS] = { fill_get_stats, take_get_stats },
	[BUS_STATS] = { fill_stats, take_stats },
	[BUS_DEVICE_UP] = { fill_device_up, take_device_up },
	[BUS_DEVICE_DOWN] = { fill_device_down, take_device_down },
	[BUS_GUEST_ENDED] = { fill_guest_ended, take_guest_ended },
	[BUS_DEVICE_HUNG] = { fill_device_hung, take_device_hung },
	[BUS_FAIL_DEVICE] = { fill_fail_device, take_fail_device },
	[BUS_RECOVERED] = { fill_recovered, take_recovered },
	[BUS_SET] = { fill_set, take_set },
	[BUS_IO_ERROR] = { fill_io_error, take_io_error },
	[BUS_LOOPS] = { fill_loops, take_loops },
	[BUS_MOVE_QUEUE] = { fill_move_queue, take_move_queue },
	[BUS_PIN] = { fill_pin, take_pin },
};

int bus_codec_encode(const struct bus_msg *msg, struct bus_wire_message **out)
{
	Bulkhead__Envelope env = BULKHEAD__ENVELOPE__INIT;
	struct draft d;

	if (msg->type <= BUS_NONE || msg->type >= BUS_TYPE_COUNT)
		return -EINVAL;
	/* The descriptor lists the fields by number: first the id, then the bodies in the order of types. */
	protobuf_c_message_init(bulkhead__envelope__descriptor.fields[msg->type].descriptor, &d.body.base);
	if (fields[msg->type].fill && !fields[msg->type].fill(msg, &d))
		return -EINVAL;
	env.id = msg->id;
	env.body_case = (Bulkhead__Envelope__BodyCase)BODY_CASE(msg->type);
	env.ok = &d.body.none; /* the members of its union are all pointers to a message */
	return bus_wire_pack(&env.base, BUS_MSG_MAX, out);
}

/* The id of a message whose rest makes no sense, so that its sender can be told; 0 if there is none. We always write it
 * first. */
static uint64_t peek_id(const uint8_t *data, size_t len)
{
	uint64_t id = 0;

	if (len < 2 || data[0] != 0x08)
		return 0;
	for (size_t i = 1; i < MIN(len, 10U); i++) {
		id |= (uint64_t)(data[i] & 0x7f) << (7 * (i - 1));
		if (!(data[i] & 0x80))
			return id;
	}
	return 0;
}

int bus_codec_decode(struct bus_arena *arena, const void *data, size_t len, struct bus_msg *out,
		     const char **what)
{
	const Bulkhead__Envelope *env;

	memset(out, 0, sizeof(*out));
	env = (const void *)bus_wire_unpack(arena, &bulkhead__envelope__descriptor, data, len);
	*what = "not a message of this protocol";
	if (!env) {
		out->id = peek_id(data, len);
		return -EBADMSG;
	}
	out->id = env->id;
	*what = "a message without a body";
	if (env->body_case == BULKHEAD__ENVELOPE__BODY__NOT_SET || !env->ok)
		return -EBADMSG;
	out->type = (enum bus_type)(env->body_case - 1);
	*what = "an event with an id, or a request or reply without one";
	if ((bus_types[out->type].kind == BUS_KIND_EVENT) != (out->id == 0))
		return -EBADMSG;
	*what = "a field out of its limits";
	return !fields[out->type].take || fields[out->type].take(env, out) ? 0 : -EBADMSG;
}
