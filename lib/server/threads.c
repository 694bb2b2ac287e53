/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The I/O threads of a server: their start, the processors that they run on, and the record of what was changed since,
 * which a successor begins with (lib/state). It believes nothing of it that its own options do not allow.
 *
 * Processors are set by the main loop: it may for threads of its own process, without a privilege and whatever
 * namespaces it is in, and so the I/O threads, which read what the guest writes, need no call for it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "sandbox.h"
#include "server_priv.h"
#include "thread.h"

/* ---- start ---- */

/* On an I/O thread: from here on it can do little more than move data. */
static void on_confine(void *arg)
{
	struct io_thread *t = arg;

	t->confine_err = sandbox_install(t->filter, false);
	sem_post(&t->step);
}

static void *io_main(void *arg)
{
	struct io_thread *t = arg;
	int err;

	thread_set_name(loop_name(t->loop));
	loop_meter_begin(&t->meter, t->loop);
	sem_post(&t->step);
	err = loop_run(t->loop);

	if (err)
		log_error_errno(err, "%s can't wait for events", loop_name(t->loop));
	return NULL;
}

int threads_make(struct server *s)
{
	int err = 0;

	for (unsigned i = 0; !err && i < s->opts.placing.threads; i++) {
		err = loop_new(s->opts.placing.thread[i].name, &s->io[i].loop);
		if (!err)
			loop_set_poll_max(s->io[i].loop, s->opts.poll_max_us * NS_PER_US);
	}
	return err;
}

static int set_cpus(pid_t thread, const cpu_set_t *cpus)
{
	return sched_setaffinity(thread, sizeof(*cpus), cpus) ? -errno : 0;
}

static int pin_first(const struct server *s, unsigned i)
{
	char text[CPUS_TEXT_MAX];
	int err;

	if (!s->opts.placing.thread[i].pinned)
		return 0;
	err = set_cpus(s->io[i].meter.thread, &s->opts.placing.thread[i].cpus);
	if (!err)
		return 0;
	cpus_format(&s->opts.placing.thread[i].cpus, text, sizeof(text));
	if (!s->inherited) {
		log_error_errno(err, "I/O thread %s can't run on processors %s",
				s->opts.placing.thread[i].name, text);
		return err;
	}
	log_warn_errno(err, "I/O thread %s does not run on processors %s, as its predecessor did",
		       s->opts.placing.thread[i].name, text);
	return 0;
}

int threads_start(struct server *s)
{
	int err = 0;

	if (s->main_pinned && set_cpus(s->meter.thread, &s->main_cpus))
		log_warn("the main loop does not run where its predecessor's did");
	for (unsigned i = 0; !err && i < s->opts.placing.threads; i++) {
		struct io_thread *t = &s->io[i];

		sem_init(&t->step, 0, 0);
		loop_bh_init(&t->confine, t->loop, on_confine, t);
		err = -pthread_create(&t->thread, NULL, io_main, t);
		if (err)
			break;
		t->running = true;
		while (sem_wait(&t->step) < 0)
			;
		err = pin_first(s, i);
	}
	return err;
}

struct io_thread *threads_find(struct server *s, const char *name)
{
	int i = placing_find(&s->opts.placing, name);

	return i < 0 ? NULL : &s->io[i];
}

int threads_pin(struct server *s, const char *name, const cpu_set_t *cpus)
{
	int i = placing_find(&s->opts.placing, name), err;

	if (i < 0 && strcmp(name, "main"))
		return -ENOENT;
	err = set_cpus(i < 0 ? s->meter.thread : s->io[i].meter.thread, cpus);
	if (err)
		return err;
	if (i < 0) {
		s->main_pinned = true;
		s->main_cpus = *cpus;
	} else {
		s->opts.placing.thread[i].pinned = true;
		s->opts.placing.thread[i].cpus = *cpus;
	}
	threads_save(s);
	return 0;
}

/* ---- for a successor ---- */

#define RECORD_VERSION 1

/* What is in force. Threads and sets go by their numbers, which are those of the options. */
struct record {
	uint8_t version, threads, queues;
	uint8_t of[PLACING_QUEUES_MAX];          /* the thread of each set */
	uint8_t pinned[PLACING_THREADS_MAX + 1]; /* the last one is the main loop */
	cpu_set_t cpus[PLACING_THREADS_MAX + 1];
};
_Static_assert(sizeof(struct record) <= STATE_RECORD_MAX, "the record fits");

static void save_export(struct export *e)
{
	const struct server *s = e->server;
	const struct placing *p = &s->opts.placing;
	struct record r = { .version = RECORD_VERSION,
			    .threads = (uint8_t)p->threads,
			    .queues = (uint8_t)e->opts.queues };

	for (unsigned i = 0; i < e->opts.queues; i++)
		r.of[i] = (uint8_t)(e->set[i].thread - s->io);
	for (unsigned i = 0; i < p->threads; i++) {
		r.pinned[i] = p->thread[i].pinned;
		r.cpus[i] = p->thread[i].cpus;
	}
	r.pinned[PLACING_THREADS_MAX] = s->main_pinned;
	r.cpus[PLACING_THREADS_MAX] = s->main_cpus;
	state_save(e->state, STATE_SERVER, &r, sizeof(r));
}

void threads_save(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++)
		save_export(&s->export[i]);
}

static bool load(const struct export *e, struct record *r)
{
	unsigned threads = e->server->opts.placing.threads;
	bool good = state_load(e->state, STATE_SERVER, r, sizeof(*r)) == sizeof(*r) &&
		    r->version == RECORD_VERSION && r->threads == threads && r->queues == e->opts.queues;

	for (unsigned i = 0; good && i < e->opts.queues; i++)
		good = r->of[i] < threads;
	return good;
}

/* Processors are in the records of all exports, and the first one's count. */
static void load_cpus(struct server *s, const struct record *r)
{
	struct placing *p = &s->opts.placing;

	s->inherited = true;
	for (unsigned i = 0; i < p->threads; i++) {
		p->thread[i].pinned = r->pinned[i];
		p->thread[i].cpus = r->cpus[i];
	}
	s->main_pinned = r->pinned[PLACING_THREADS_MAX];
	s->main_cpus = r->cpus[PLACING_THREADS_MAX];
}

void threads_load(struct server *s)
{
	struct record r;

	for (unsigned i = 0; i < s->exports; i++) {
		const struct export *e = &s->export[i];

		if (!load(e, &r))
			continue;
		memcpy(&s->opts.placing.of[e->set - s->set], r.of, e->opts.queues);
		if (!i)
			load_cpus(s, &r);
	}
}

/* One that may have changed since this process was opened as a spare. What fails is no reason not to serve, nor to forget
 * what was wanted: the processor may be there again for the next. */
static void repin(const char *name, pid_t thread, bool *pinned, cpu_set_t *cpus, bool is,
		  const cpu_set_t *now)
{
	int err = is && (!*pinned || !CPU_EQUAL(cpus, now)) ? set_cpus(thread, now) : 0;

	*pinned = is;
	*cpus = *now;
	if (err)
		log_warn_errno(err, "%s does not run where its predecessor did", name);
}

static void catch_up_cpus(struct server *s, const struct record *r)
{
	struct placing *p = &s->opts.placing;

	for (unsigned i = 0; i < p->threads; i++)
		repin(p->thread[i].name, s->io[i].meter.thread, &p->thread[i].pinned, &p->thread[i].cpus,
		      r->pinned[i], &r->cpus[i]);
	repin("main", s->meter.thread, &s->main_pinned, &s->main_cpus, r->pinned[PLACING_THREADS_MAX],
	      &r->cpus[PLACING_THREADS_MAX]);
}

void threads_catch_up(struct server *s)
{
	struct record r;

	for (unsigned i = 0; i < s->exports; i++) {
		struct export *e = &s->export[i];

		if (!load(e, &r))
			continue;
		for (unsigned q = 0; q < e->opts.queues; q++)
			move_start(s, &e->set[q], &s->io[r.of[q]], 0);
		if (!i)
			catch_up_cpus(s, &r);
	}
}
