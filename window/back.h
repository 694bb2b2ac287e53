/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to the device's server, to which the window is the front end. All on the main thread. What the server says
 * is believed as far as a device may say it: features and configuration space, which the driver is then shown.
 */
#ifndef WINDOW_BACK_H
#define WINDOW_BACK_H

#include <stdbool.h>
#include <stdint.h>

#include "server.h"
#include "share.h"
#include "vhost_fe.h"

enum back_state {
	BACK_PROBING,  /* connected; ends when the server has said what it offers */
	BACK_IDLE,     /* its rings are not begun, or were stopped */
	BACK_STOPPING, /* its rings are being stopped, to be begun anew */
	BACK_STARTING, /* ... and begun */
	BACK_UP,       /* it serves the rings in the window */
	BACK_LOST,     /* the connection is over, for good */
};

struct back_ops {
	/* Makes the rings anew, as they are about to be begun. */
	void (*prepare)(void *arg);
	/* It serves the rings, which are empty. */
	void (*up)(void *arg);
	/* The connection is over, and with it all that was under way: the server closed it, or can't be gone on with. */
	void (*lost)(void *arg, bool closed);
	/* Configuration space is not what it was; back_get_config can be answered. */
	void (*config_changed)(void *arg);
	void (*config_ready)(void *arg);
};

struct back {
	int fd; /* of the connection, until it is the front end's; -1 */
	struct vhost_fe *fe;
	const struct share *share;
	const struct back_ops *ops;
	void *arg;
	enum back_state state;
	struct vhost_fe_info info, asked;    /* what it offers, as it said at first; and again */
	uint8_t config[VHOST_FE_CONFIG_MAX]; /* as the driver sees it */
	uint8_t fresh[VHOST_FE_CONFIG_MAX];  /* as it is being read */
	uint32_t written_off, written_len; /* what the driver wrote there that the server was not told yet */
	bool writing;                      /* it is being told of something else */
	bool reading, again;               /* ... which it is, and will be once more */
	bool awaited, looked;              /* the driver waits for that; it was so read */
	bool wanted;                       /* the rings are to be begun, anew if they were */
	uint64_t features;                 /* that the driver acknowledged */
	int kick[SERVER_QUEUES_MAX], call[SERVER_QUEUES_MAX],
	    err[SERVER_QUEUES_MAX]; /* eventfds, the window's */
};

/* Asks what the server offers, and waits for the answer, for long if patient: before there is a loop. 0, or -errno after having
 * logged it. */
int back_ask(struct back *b, uint32_t config_len, bool patient);

/* Takes the connection up, on this loop. 0 or -errno. */
int back_open(struct back *b, struct loop *loop);
void back_close(struct back *b);

/* The driver begins, with these features: ops->up follows. No ring is served. */
void back_start(struct back *b, uint64_t features);

/* There is no ring of the driver's any more: those in the window are stopped. There is one again: they are begun anew, unless they are. */
void back_stop(struct back *b);
void back_start_again(struct back *b);

/* Configuration space: all len bytes or -EINVAL. What is written is shown at once, and then as the server has it. Until the
 * driver begins, each reading asks the server, which may have been started long ago: -EINPROGRESS, until ops->config_ready. */
int back_get_config(struct back *b, uint32_t off, uint32_t len, uint8_t *buf);
int back_set_config(struct back *b, uint32_t off, uint32_t len, const uint8_t *buf);

/* The server calls for completions with events by index. */
bool back_has_event_idx(const struct back *b);

#endif
