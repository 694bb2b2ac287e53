/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that failed and are kept. */
#include "onerror.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "num.h"
#include "request.h"
#include "slow.h"

#define PAUSE_MIN_NS (100 * NS_PER_MS)
#define PAUSE_MAX_NS (5 * NS_PER_S)
#define ORDER_NS     (100 * NS_PER_MS) /* how often an order to try again is looked for */

int onerror_parse(const char *word, enum on_error *to)
{
	static const char *const words[] = { [ON_ERROR_REPORT] = "report",
					     [ON_ERROR_STOP] = "stop",
					     [ON_ERROR_ENOSPC] = "enospc",
					     [ON_ERROR_RETRY] = "retry" };

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(word, words[i])) {
			*to = (enum on_error)i;
			return 0;
		}
	return -EINVAL;
}

bool onerror_waits_for_order(enum on_error policy)
{
	return policy == ON_ERROR_STOP || policy == ON_ERROR_ENOSPC;
}

/* ---- the main thread ---- */

static void on_stopped(void *arg)
{
	struct disk *disk = arg;
	int err = atomic_exchange(&disk->stop_err, 0);
	char text[128];

	if (!err)
		return;
	snprintf(text, sizeof(text), "a request failed: %s", strerrordesc_np(-err));
	log_warn("%s; it waits until it is to be tried again", text);
	server_io_error(disk->stop_server, text);
}

void onerror_retry(struct disk *disk)
{
	if (disk->stop_server)
		server_io_error(disk->stop_server, NULL);
	atomic_fetch_add(&disk->retries, 1);
}

/* ---- the queue's thread ---- */

static void on_timer(void *arg)
{
	server_run(((struct blk_queue *)arg)->server);
}

void onerror_open(struct blk_queue *q)
{
	struct disk *disk = q->disk;

	q->kept_end = &q->kept;
	if (!disk->stop_server) {
		disk->stop_server = q->server;
		loop_bh_init(&disk->stopped, server_main_loop(q->server), on_stopped, disk);
	}
}

int onerror_attach(struct blk_queue *q)
{
	return loop_add_timer(server_loop(q->server), on_timer, q, &q->retry_timer);
}

void onerror_detach(struct blk_queue *q)
{
	loop_del_timer(q->retry_timer);
	q->retry_timer = NULL;
}

void onerror_close(struct blk_queue *q)
{
	if (q->disk->stop_server != q->server)
		return;
	loop_bh_cancel(&q->disk->stopped);
	q->disk->stop_server = NULL;
}

static bool is_no_room(int err)
{
	return err == -ENOSPC || err == -EDQUOT;
}

/* Errors that are the request's own come back however often it is tried. */
static bool can_pass(const struct request *r, int err)
{
	if (err == -EINVAL || err == -EOPNOTSUPP || err == -EBADF || r->final)
		return false;
	/* What needs a flush fails for ever once one did. */
	return !(r->io.dsync || r->queue->disk->owner) || !atomic_load(&r->queue->disk->flush_err);
}

static void put(struct blk_queue *q, struct request *r)
{
	r->next = NULL;
	*q->kept_end = r;
	q->kept_end = &r->next;
	q->nkept++;
	blk_count(&q->stats.kept, 1);
}

bool onerror_keep(struct request *r, int err)
{
	struct blk_queue *q = r->queue;
	struct disk *disk = q->disk;
	enum on_error policy = disk->on_error;

	if (policy == ON_ERROR_REPORT || !can_pass(r, err) || (policy == ON_ERROR_ENOSPC && !is_no_room(err)))
		return false;
	if (r->plain_write)
		gate_leave(disk->gate);
	r->plain_write = false;
	/* The order that it waits for is one that comes after it was kept. */
	if (!q->nkept)
		q->retries_seen = atomic_load(&disk->retries);
	put(q, r);
	r->tried = true;
	if (policy == ON_ERROR_RETRY) {
		q->pause_ns = q->pause_ns ? q->pause_ns : PAUSE_MIN_NS;
		if (q->nkept == 1) {
			q->retry_at = clock_ns() + q->pause_ns;
			loop_arm_timer(q->retry_timer, q->retry_at);
		}
		return true;
	}
	atomic_store(&disk->stop_err, err);
	loop_bh_post(&disk->stopped);
	loop_arm_timer(q->retry_timer, clock_ns() + ORDER_NS);
	return true;
}

static struct request *take_all(struct blk_queue *q)
{
	struct request *all = q->kept;

	q->kept = NULL;
	q->kept_end = &q->kept;
	q->nkept = 0;
	return all;
}

static void carry_on(struct blk_queue *q, struct request *r)
{
	server_take_up(q->server, r->head);
	request_carry_out(r);
	server_lay_down(q->server);
}

/* Whether it is time; else the timer says when to look again. */
static bool is_due(struct blk_queue *q)
{
	uint64_t now = clock_ns();

	if (onerror_waits_for_order(q->disk->on_error)) {
		unsigned retries = atomic_load(&q->disk->retries);

		if (retries != q->retries_seen)
			return true;
		loop_arm_timer(q->retry_timer, now + ORDER_NS);
		return false;
	}
	if (now < q->retry_at) {
		loop_arm_timer(q->retry_timer, q->retry_at);
		return false;
	}
	return true;
}

bool onerror_service(struct blk_queue *q)
{
	struct request *r, *next;

	if (q->releasing && q->nkept) {
		onerror_release(q);
		return false;
	}
	if (!q->nkept || server_rests(q->server) || !is_due(q))
		return false;
	q->pause_ns = MIN(2 * q->pause_ns, PAUSE_MAX_NS);
	for (r = take_all(q); r; r = next) {
		next = r->next;
		carry_on(q, r);
	}
	return true;
}

void onerror_forget(struct blk_queue *q)
{
	struct request *r, *next;

	loop_disarm_timer(q->retry_timer);
	for (r = take_all(q); r; r = next) {
		next = r->next;
		request_drop(r);
	}
}

/* Takes the one off the list that was taken from the ring last. */
static struct request *take_newest(struct request **list)
{
	struct request **newest = list, *r;

	for (struct request **at = list; *at; at = &(*at)->next)
		if ((*at)->seq > (*newest)->seq)
			newest = at;
	r = *newest;
	*newest = r->next;
	return r;
}

/* Those that can't be given back, as later ones were answered meanwhile, or a predecessor took them, are tried once more. */
void onerror_release(struct blk_queue *q)
{
	struct request *list, *r;

	q->releasing = true;
	if (!q->nkept || q->disk->engine->busy(q->engine) || q->njobs)
		return;
	loop_disarm_timer(q->retry_timer);
	for (list = take_all(q); list;) {
		r = take_newest(&list);
		if (request_give_back(r))
			continue;
		r->final = true;
		carry_on(q, r);
	}
}
