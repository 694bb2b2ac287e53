/* SPDX-License-Identifier: Apache-2.0 */
/* The control ring. */
#include "control.h"

#include <linux/virtio_net.h>

#include "clock.h"
#include "crash.h"
#include "driver.h"
#include "log.h"
#include "port.h"
#include "vec.h"

/* Main thread. */
static void on_work(void *arg)
{
	struct control *c = arg;
	uint64_t now = clock_ns(), wait;

	if (!atomic_load(&c->asked))
		return; /* it was looked at already */
	wait = driver_command_wait(c->port, c->command, c->len, now);
	if (wait && !atomic_load(&c->recalled)) {
		loop_arm_timer(c->later, now + wait);
		return;
	}
	c->obeyed = !wait;
	if (c->obeyed) {
		bool good;

		CRASH_POINT_AT("command", c->len);
		good = driver_command(c->port, c->command, c->len);
		CRASH_POINT("control obeyed");
		c->answer = good ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	}
	atomic_store(&c->asked, false);
	loop_bh_post(&c->done);
}

static void on_done(void *arg)
{
	struct control *c = arg;

	c->busy = false;
	atomic_store(&c->recalled, false);
	if (c->obeyed) {
		*c->answer_at = c->answer;
		mem_dirty_ptr(server_mem(c->server), c->answer_at, 1);
		server_push(c->server, c->head, 1, c->answer);
	} else {
		server_unpop(c->server, c->head);
	}
	server_run(c->server);
}

int control_open(struct control *c, struct port *port, struct loop *loop)
{
	c->port = port;
	return loop_add_timer(loop, on_work, c, &c->later);
}

void control_close(struct control *c)
{
	loop_del_timer(c->later);
	c->later = NULL;
	if (!c->server)
		return;
	loop_bh_cancel(&c->work);
	loop_bh_cancel(&c->done);
}

void control_ring(struct control *c, struct server_queue *server, bool on)
{
	c->on = on;
	/* One that was only disabled may have a command with the main thread. */
	if (!on || c->server == server)
		return;
	c->server = server;
	loop_bh_init(&c->work, server_main_loop(server), on_work, c);
	loop_bh_init(&c->done, server_loop(server), on_done, c);
}

void control_attach(struct control *c, struct server_queue *server)
{
	if (c->server == server)
		loop_bh_init(&c->done, server_loop(server), on_done, c);
}

/* Servers died of it: another is not given the chance. Said again by each that dies before the driver was told. */
static void give_up(struct control *c, const struct vq_chain *chain)
{
	uint8_t what[2] = { 0 };

	vec_get(chain->iov, chain->out_num, 0, what, sizeof(what));
	log_warn_limited(
	    "%s: a command that %u servers died with is answered with an error: class %u, command %u",
	    c->port->backend.name, chain->deaths, what[0], what[1]);
	server_poisoned(c->server, c->head);
}

bool control_service(struct control *c)
{
	struct vq_chain chain = { .iov = c->iov };
	const struct iovec *answer;

	if (!c->on || c->busy || server_pop(c->server, &chain) != 1)
		return false;
	if (!chain.in_len) {
		server_break(c->server, "a command has no room for the answer");
		return false;
	}
	answer = &c->iov[chain.out_num];
	c->answer_at = answer->iov_base;
	c->head = chain.head;
	c->len = 0;
	if (chain.poisoned)
		give_up(c, &chain);
	else if (chain.out_len <= CONTROL_BYTES)
		c->len = (uint32_t)vec_get(c->iov, chain.out_num, 0, c->command, chain.out_len);
	c->busy = true;
	atomic_store(&c->asked, true);
	loop_bh_post(&c->work);
	return true;
}

void control_release(struct control *c)
{
	if (!c->busy)
		return;
	atomic_store(&c->recalled, true);
	loop_bh_post(&c->work);
}

bool control_has_room(const struct control *c)
{
	return c->on && !c->busy;
}

bool control_held(const struct control *c)
{
	return c->busy;
}
