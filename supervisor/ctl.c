/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoints for people: `bulkhead ctl` asks here what a machine does and tells it what to do. */
#include "machine.h"
#include "machine_priv.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "device_helper.h"
#include "num.h"

/* ---- status ---- */

static double uptime_s(const struct machine *m)
{
	return m->running_since ? (double)(clock_ns() - m->running_since) / (double)NS_PER_S : 0.0;
}

static json_t *core_json(const struct machine *m)
{
	return device_child_json(
	    "core", m->core.process,
	    m->core.silent && m->core.state == CHILD_READY ? "silent" : device_child_state(&m->core),
	    &m->core);
}

/* The ids of what was given up. */
static json_t *failed_json(const struct machine *m)
{
	json_t *list = json_array();
	char helper[RUNDIR_SLOT_MAX];

	for (size_t i = 0; i < m->ndevices; i++) {
		const struct device *d = &m->device[i];

		for (size_t l = 0; l < d->links && d->state == DEVICE_FAILED; l++)
			json_array_append_new(list, json_string(d->link[l].id));
		if (!d->helper.failed)
			continue;
		rundir_slot(helper, d->id, KEEPER_HELPER);
		json_array_append_new(list, json_string(helper));
	}
	return list;
}

/* The device with this number in the settings. */
static const struct device_link *link_of(const struct machine *m, size_t conf)
{
	for (size_t i = 0; i < m->ndevices; i++)
		for (size_t l = 0; l < m->device[i].links; l++)
			if (m->device[i].link[l].conf == conf)
				return &m->device[i].link[l];
	return NULL; /* there is none without a server */
}

static void add_text(json_t *json, const char *key, const char *text)
{
	if (text && *text)
		json_object_set_new(json, key, json_string(text));
}

/* What a device is to the host, as its settings say. */
static void add_settings(json_t *json, const struct vmconf_device *conf)
{
	static const char *const links[] = {
		[LINK_USER] = "user",
		[LINK_TAP] = "tap",
		[LINK_STREAM] = "stream",
		[LINK_LISTEN] = "listen",
	};
	char mac[VMCONF_MAC_TEXT];

	add_text(json, "vhost_user", conf->vhost_user);
	add_text(json, "image", conf->disk.path);
	add_text(json, "nbd", conf->disk.nbd);
	if (conf->kind != KIND_NET)
		return;
	add_text(json, "network", links[conf->net.link]);
	add_text(json, "tap", conf->net.tap);
	add_text(json, "bridge", conf->net.bridge);
	add_text(json, "socket", conf->net.stream);
	vmconf_mac_text(mac, &conf->net);
	add_text(json, "mac", mac);
}

char *ctl_status_json(const struct machine *m)
{
	json_t *devices = json_array(), *root;
	char *text;

	for (size_t i = 0; i < m->conf->ndevices; i++) {
		json_t *device = device_json(link_of(m, i));

		add_settings(device, &m->conf->device[i]);
		json_array_append_new(devices, device);
	}
	root = json_pack(
	    "{s:s, s:i, s:s, s:o, s:s?, s:i, s:f, s:I, s:b, s:i, s:s, s:s, s:I, s:o, s:o}", "name",
	    m->conf->name, "pid", (int)getpid(), "state", machine_state_name(m), "failed", failed_json(m),
	    "stands_for", *m->io_error ? m->io_error : NULL, "generation", (int)m->generation, "uptime_s",
	    uptime_s(m), "memory_bytes", (json_int_t)m->conf->memory, "hugepages", m->conf->hugepages, "cpus",
	    (int)m->conf->cpus, "console", console_where(m->console), "kernel", m->conf->kernel,
	    "log_lines_dropped", (json_int_t)logs_dropped(), "core", core_json(m), "devices", devices);
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	return text;
}

/* ---- requests ---- */

static void ask_status(struct machine *m, struct bus_ctl_request *req)
{
	CLEAN_FREE char *json = ctl_status_json(m);

	if (json)
		bus_ctl_answer(req, json);
	else
		bus_ctl_refuse(req, -ENOMEM, "the status can't be put into words");
}

static void on_run_on(void *arg, int err, const struct bus_msg *reply)
{
	(void)arg;
	(void)err;
	(void)reply;
}

/* A core that answers too late may stop the guest yet: what it reads next lets it run again. */
static void run_on(struct machine *m)
{
	const struct bus_msg msg = { .type = BUS_RESUME };
	int err = bus_request(m->core.bus, &msg, CORE_ANSWER_NS, on_run_on, m);

	if (err)
		say_warn_errno(err, "%s: the core can't be told to let the guest run on", m->conf->name);
}

/* The core's answer to a pause or resume; who asked for it may have been another supervisor's client. */
static void on_core_answer(void *arg, int err, const struct bus_msg *reply)
{
	struct machine *m = arg;
	enum bus_type wanted = m->wanted;
	char text[BUS_TEXT_MAX];

	if (err == -EPIPE && !reply)
		return; /* it may have done it: unless that was its end it is asked again, once it is back on the bus */
	m->wanted = BUS_NONE;
	if (wanted == BUS_NONE)
		return;
	if (err == -ETIMEDOUT && wanted == BUS_PAUSE)
		run_on(m);
	if (err) {
		snprintf(text, sizeof(text), "the core did not do it: %s", strerror(-err));
		if (m->pending)
			bus_ctl_refuse(TAKE_PTR(m->pending), err, text);
		else if (wanted == BUS_PAUSE)
			machine_runs_on(m, text);
		return;
	}
	m->state = wanted == BUS_PAUSE ? MACHINE_PAUSED : MACHINE_RUNNING;
	snprintf(text, sizeof(text), "%s", wanted == BUS_PAUSE && *m->io_error ? m->io_error : "on request");
	say_info("%s: %s %s", m->conf->name, wanted == BUS_PAUSE ? "paused" : "resumed", text);
	machine_publish(m, "machine", wanted == BUS_PAUSE ? "paused" : "running", "%s", text);
	if (m->pending)
		bus_ctl_answer(TAKE_PTR(m->pending), NULL);
	machine_resumed(m);
}

void ctl_ask_again(struct machine *m)
{
	struct bus_msg msg = { .type = m->wanted };
	int err = 0;

	/* One that was taken over is asked when it is back on the bus. */
	if (m->wanted && !m->core.adopted)
		err = bus_request(m->core.bus, &msg, CORE_ANSWER_NS, on_core_answer, m);

	if (err)
		on_core_answer(m, err, NULL);
}

static void ask_core(struct machine *m, struct bus_ctl_request *req, enum bus_type type,
		     enum machine_state in)
{
	char text[BUS_TEXT_MAX];

	if (m->state == (type == BUS_PAUSE ? MACHINE_PAUSED : MACHINE_RUNNING)) {
		bus_ctl_answer(req, NULL); /* it is so already */
		return;
	}
	if (m->state != in || m->wanted) {
		snprintf(text, sizeof(text), "not possible while the machine is %s",
			 m->wanted ? "busy with another request" : machine_state_name(m));
		bus_ctl_refuse(req, -EBUSY, text);
		return;
	}
	m->pending = req;
	m->wanted = type;
	ctl_ask_again(m);
}

static void ask_pause(struct machine *m, struct bus_ctl_request *req)
{
	ask_core(m, req, BUS_PAUSE, MACHINE_RUNNING);
}

static void ask_resume(struct machine *m, struct bus_ctl_request *req)
{
	/* One that runs although a request is kept could not be stopped for it. */
	if ((m->state == MACHINE_PAUSED || (m->state == MACHINE_RUNNING && *m->io_error)) && !m->wanted)
		machine_retry(m);
	ask_core(m, req, BUS_RESUME, MACHINE_PAUSED);
}

/* A request whose answer has nothing to change here. */
struct button {
	struct bus_ctl_request *req;
};

static void on_button(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct button *b = arg;

	(void)reply;
	if (err)
		bus_ctl_refuse(b->req, err, "the core did not press the button");
	else
		bus_ctl_answer(b->req, NULL);
}

/* Presses the button and leaves the rest to the guest. */
static void ask_button(struct machine *m, struct bus_ctl_request *req)
{
	struct bus_msg msg = { .type = BUS_POWER_BUTTON };
	struct button *b;
	int err;

	if (m->state != MACHINE_RUNNING) {
		bus_ctl_refuse(req, -EBUSY, "only a running guest sees its power button");
		return;
	}
	if (m->core.adopted) {
		bus_ctl_refuse(req, -EAGAIN, "the core is not back on the bus yet; try again");
		return;
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		bus_ctl_refuse(req, -ENOMEM, "out of memory");
		return;
	}
	b->req = req;
	err = bus_request(m->core.bus, &msg, CORE_ANSWER_NS, on_button, b);
	if (err)
		on_button(b, err, NULL);
}

static void ask_quit(struct machine *m, struct bus_ctl_request *req)
{
	bus_ctl_answer(req, NULL);
	say_info("%s: ending on request", m->conf->name);
	machine_quit(m);
}

/* ---- requests about a device ---- */

/* The answer to a change of a device. */
static void on_changed(void *arg, int err, const char *text)
{
	struct bus_ctl_request *req = arg;

	if (err)
		bus_ctl_refuse(req, err, text);
	else
		bus_ctl_answer(req, text);
}

/* The device, as it was found, if anything can be done with it now. */
static struct device *check_found(struct machine *m, struct bus_ctl_request *req, struct device *d)
{
	char text[BUS_TEXT_MAX];

	if (m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED) {
		snprintf(text, sizeof(text), "not possible while the machine is %s", machine_state_name(m));
		bus_ctl_refuse(req, -EBUSY, text);
		return NULL;
	}
	if (!d)
		bus_ctl_refuse(req, -ENOENT, "there is no such device; status lists all");
	return d;
}

static struct device *find_device(struct machine *m, struct bus_ctl_request *req, const char *id)
{
	struct device *d = machine_device(m, id);

	return check_found(m, req, d ? d : machine_helped(m, id));
}

static void ask_revive(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	struct device *d = find_device(m, req, argv[0]);

	if (d)
		device_revive(d, on_changed, req);
}

static void ask_upgrade(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	struct device *windowed = machine_windowed(m, argv[0]);
	struct device *d = windowed ? check_found(m, req, windowed) : find_device(m, req, argv[0]);

	if (d && d == machine_helped(m, argv[0]))
		device_helper_upgrade(d, argv[1], on_changed, req);
	else if (d)
		device_upgrade(d, windowed, argv[1], on_changed, req);
}

static const struct {
	const char *verb;
	void (*fn)(struct machine *m, struct bus_ctl_request *req);
	void (*fn_args)(struct machine *m, struct bus_ctl_request *req, const char *const *argv);
	size_t min_args, max_args;
} verbs[] = {
	{ "status", .fn = ask_status },
	{ "pause", .fn = ask_pause },
	{ "resume", .fn = ask_resume },
	{ "power-button", .fn = ask_button },
	{ "quit", .fn = ask_quit },
	{ "revive", .fn_args = ask_revive, .min_args = 1, .max_args = 1 },
	{ "upgrade", .fn_args = ask_upgrade, .min_args = 1, .max_args = 2 },
	{ "resize", .fn_args = ctl_resize, .min_args = 2, .max_args = 2 },
	{ "set", .fn_args = ctl_set, .min_args = 2, .max_args = 2 },
	{ "stats", .fn_args = ctl_stats, .min_args = 1, .max_args = 1 },
	{ "loops", .fn = ctl_loops },
	{ "move-queue", .fn_args = ctl_move_queue, .min_args = 3, .max_args = 3 },
	{ "pin", .fn_args = ctl_pin, .min_args = 2, .max_args = 2 },
};

static void on_request(void *arg, struct bus_ctl_request *req, const char *verb, size_t argc,
		       const char *const *argv)
{
	const char *words[4] = { NULL }; /* those that are not there are NULL */
	size_t i = 0;

	while (i < ARRAY_SIZE(verbs) && strcmp(verb, verbs[i].verb))
		i++;
	if (i == ARRAY_SIZE(verbs)) {
		bus_ctl_refuse(req, -EINVAL,
			       "no such request; there are status, pause, resume, power-button, quit, "
			       "revive, upgrade, resize, set, stats, loops, move-queue, pin");
		return;
	}
	if (argc < verbs[i].min_args || argc > verbs[i].max_args) {
		bus_ctl_refuse(req, -EINVAL, "it has too many or too few arguments");
		return;
	}
	for (size_t w = 0; w < argc; w++)
		words[w] = argv[w];
	if (verbs[i].fn)
		verbs[i].fn(arg, req);
	else
		verbs[i].fn_args(arg, req, words);
}

int ctl_open(struct machine *m)
{
	char path[RUNDIR_PATH_MAX + 16];
	int err;

	loop_meter_begin(&m->meter, m->loop);
	snprintf(path, sizeof(path), "%s/ctl", m->dir->path);
	err = bus_ctl_listen(m->loop, path, on_request, m, &m->ctl);
	if (err)
		return err;
	snprintf(path, sizeof(path), "%s/events", m->dir->path);
	return bus_events_listen(m->loop, path, &m->events);
}
