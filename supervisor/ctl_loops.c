/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead ctl NAME loops`, move-queue and pin: the event loops of all processes, and what is to be changed of them. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "device_helper.h"
#include "machine_priv.h"
#include "num.h"
#include "parse.h"

#define ANSWER_NS (5 * NS_PER_S)
#define MOVE_NS   (60 * NS_PER_S) /* what was taken of the queue is finished first, and storage may be slow */

/* ---- loops ---- */

/* A question to all processes, answered when each of them has answered, or has not in time. */
struct gathering {
	struct bus_ctl_request *req;
	json_t *processes;
	unsigned waiting; /* for so many; and for one more while they are being asked */
};

/* One process of it. */
struct asked {
	struct gathering *all;
	json_t *process;             /* in all->processes */
	const struct device *device; /* whose server it is, or NULL */
};

/* A queue by its number in its process; where that serves several devices, "DEVICE:NUMBER" by its number in its device. */
static json_t *queue_json(const struct asked *a, unsigned i)
{
	const struct device *d = a ? a->device : NULL;

	for (size_t l = 0; d && d->links > 1 && l < d->links; l++)
		if (i - d->link[l].first_ring < d->link[l].rings)
			return json_sprintf("%s:%u", d->link[l].id, i - d->link[l].first_ring);
	return json_integer(i);
}

static json_t *queues_json(const struct asked *a, uint64_t queues)
{
	json_t *list = json_array();

	for (unsigned i = 0; queues; i++, queues >>= 1)
		if (queues & 1)
			json_array_append_new(list, queue_json(a, i));
	return list;
}

static json_t *loop_json(const struct asked *a, const struct bus_loop *l)
{
	double busy = l->over_ns ? (double)l->busy_ns / (double)l->over_ns : 0;

	return json_pack("{s:s, s:I, s:o, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f}", "name", l->name, "thread",
			 (json_int_t)l->thread, "queues", queues_json(a, l->queues), "busy", MIN(busy, 1.0),
			 "over_s", (double)l->over_ns / (double)NS_PER_S, "passes", (json_int_t)l->passes,
			 "sleeps", (json_int_t)l->sleeps, "polls",
			 (json_int_t)(l->poll_hits + l->poll_misses), "poll_hits", (json_int_t)l->poll_hits,
			 "poll_us", (double)l->poll_ns / (double)NS_PER_US, "poll_max_us",
			 (double)l->poll_max_ns / (double)NS_PER_US);
}

static json_t *loops_json(const struct asked *a, const struct bus_msg *msg)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < msg->loops.count; i++)
		json_array_append_new(list, loop_json(a, &msg->loops.loop[i]));
	return list;
}

/* One less to wait for. */
static void count_down(struct gathering *all)
{
	CLEAN_FREE char *text = NULL;
	json_t *root;

	if (--all->waiting)
		return;
	root = json_pack("{s:o}", "processes", all->processes);
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	if (text)
		bus_ctl_answer(all->req, text);
	else
		bus_ctl_refuse(all->req, -ENOMEM, "the loops can't be put into words");
	free(all);
}

static void on_loops(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct asked *a = arg;

	if (err)
		json_object_set_new(a->process, "error", json_string(strerrordesc_np(-err)));
	else
		json_object_set_new(a->process, "loops", loops_json(a, reply));
	count_down(a->all);
}

static void add_own(struct gathering *all, struct machine *m)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));

	if (!msg)
		return;
	bus_add_loop(msg, &m->meter, 0, 0);
	json_array_append_new(all->processes, json_pack("{s:s, s:i, s:o}", "id", "supervisor", "pid",
							(int)getpid(), "loops", loops_json(NULL, msg)));
	free(msg);
}

/* Asks a process, if it serves, and calls it id; a spare goes by its device's (d, if it is a server). */
static void ask_loops(struct gathering *all, struct child *c, const char *id, const struct device *d,
		      bool spare)
{
	const struct bus_msg msg = { .type = BUS_GET_LOOPS };
	struct asked *a;

	if (c->state != CHILD_READY || c->adopted)
		return;
	a = calloc(1, sizeof(*a));
	if (!a)
		return;
	a->all = all;
	a->device = d;
	a->process = json_pack("{s:s, s:i, s:b}", "id", id, "pid", (int)c->pid, "spare", spare);
	json_array_append_new(all->processes, a->process);
	all->waiting++;
	if (bus_request(c->bus, &msg, ANSWER_NS, on_loops, a))
		on_loops(a, -EPIPE, NULL);
}

void ctl_loops(struct machine *m, struct bus_ctl_request *req)
{
	struct gathering *all = calloc(1, sizeof(*all));
	char helper[RUNDIR_SLOT_MAX];

	if (!all) {
		bus_ctl_refuse(req, -ENOMEM, "out of memory");
		return;
	}
	all->req = req;
	all->processes = json_array();
	all->waiting = 1;
	add_own(all, m);
	ask_loops(all, &m->core, m->core.id, NULL, false);
	for (size_t i = 0; i < m->ndevices; i++) {
		struct device *d = &m->device[i];

		if (d->external)
			continue;
		ask_loops(all, &d->slot[d->active], d->id, d, false);
		ask_loops(all, &d->slot[!d->active], d->id, d, true);
		if (d->windowed) {
			rundir_slot(helper, d->id, KEEPER_WINDOW);
			ask_loops(all, &d->window[d->active], helper, NULL, false);
		}
		if (!d->helper.process)
			continue;
		rundir_slot(helper, d->id, KEEPER_HELPER);
		ask_loops(all, &d->helper.child, helper, NULL, false);
	}
	count_down(all);
}

/* ---- changes ---- */

static void on_moved(void *arg, int err, const struct bus_msg *reply)
{
	struct ctl_question *q = arg;

	if (err != -ETIMEDOUT || reply) {
		ctl_on_changed(arg, err, reply);
		return;
	}
	bus_ctl_refuse(q->req, err, "its requests are not done yet; it moves when they are");
	free(q);
}

void ctl_move_queue(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE };
	const struct device_link *l = machine_link(m, argv[0]);
	struct ctl_question *q;
	uint64_t queue;

	if (!l || l->device->external) {
		bus_ctl_refuse(req, -ENOENT,
			       "there is no such device with a server of ours; status lists all");
		return;
	}
	if (parse_u64(argv[1], 0, UINT32_MAX, &queue) || !*argv[2] ||
	    strlen(argv[2]) >= sizeof(msg.move_queue.thread)) {
		bus_ctl_refuse(req, -EINVAL, "it is not DEVICE QUEUE THREAD");
		return;
	}
	q = ctl_new_question(m, req, argv[0]);
	if (!q)
		return;
	snprintf(msg.move_queue.device, sizeof(msg.move_queue.device), "%s", device_link_name(l));
	msg.move_queue.queue = (uint32_t)queue;
	snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "%s", argv[2]);
	snprintf(q->change, sizeof(q->change), "queue %u is served by %s", msg.move_queue.queue, argv[2]);
	ctl_ask(q, ctl_find_child(m, argv[0]), &msg, MOVE_NS, on_moved);
}

/* The device that has an I/O thread of this name, or NULL after a refusal. */
static const struct device *find_thread(struct machine *m, struct bus_ctl_request *req, const char *name)
{
	const struct device *found = NULL;

	for (size_t i = 0; i < m->ndevices; i++) {
		const struct device *d = &m->device[i];

		if (d->external || placing_find(&m->conf->device[d->link[0].conf].placing, name) < 0)
			continue;
		if (found) {
			bus_ctl_refuse(
			    req, -EINVAL,
			    "several devices have a thread of this name; DEVICE/THREAD says which");
			return NULL;
		}
		found = d;
	}
	if (!found)
		bus_ctl_refuse(req, -ENOENT, "no device has an I/O thread of this name; loops lists all");
	return found;
}

void ctl_pin(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	const char *slash = strchr(argv[0], '/'), *thread = slash ? slash + 1 : argv[0];
	struct bus_msg msg = { .type = BUS_PIN };
	const struct device *d;
	struct ctl_question *q;
	char id[BUS_NAME_MAX];

	if (!*thread || strlen(thread) >= sizeof(msg.pin.thread) || strlen(argv[1]) >= sizeof(msg.pin.cpus) ||
	    (slash && (size_t)(slash - argv[0]) >= sizeof(id))) {
		bus_ctl_refuse(req, -EINVAL, "it is not [DEVICE/]THREAD CPUS");
		return;
	}
	if (slash) {
		snprintf(id, sizeof(id), "%.*s", (int)(slash - argv[0]), argv[0]);
		d = machine_device(m, id);
		if (machine_helped(m, id)) {
			bus_ctl_refuse(req, -EOPNOTSUPP,
				       "only threads of a device's server are pinned; taskset -p does it to "
				       "the TID that loops shows, until that process ends");
			return;
		}
		if (!d || d->external) {
			bus_ctl_refuse(req, -ENOENT,
				       "there is no such device with a server of ours; status lists all");
			return;
		}
	} else {
		d = find_thread(m, req, thread);
		if (!d)
			return;
		snprintf(id, sizeof(id), "%s", d->slot[d->active].id);
	}
	q = ctl_new_question(m, req, id);
	if (!q)
		return;
	snprintf(msg.pin.thread, sizeof(msg.pin.thread), "%s", thread);
	snprintf(msg.pin.cpus, sizeof(msg.pin.cpus), "%s", argv[1]);
	snprintf(q->change, sizeof(q->change), "%.31s runs on processors %.255s", thread, argv[1]);
	ctl_ask(q, ctl_find_child(m, id), &msg, ANSWER_NS, ctl_on_changed);
}
