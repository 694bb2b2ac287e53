/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the NBD engine share. */
#ifndef NBD_PRIV_H
#define NBD_PRIV_H

#include <stdatomic.h>

#include "clock.h"
#include "dial.h"
#include "engine.h"
#include "lock.h"
#include "loop.h"
#include "nbd.h"
#include "nbd_uri.h"
#include "state.h"

#define NBD_COMMANDS     64               /* of a link, at a time */
#define NBD_BYTES_MAX    (1U << 25)       /* of one, where the server does not say: what all must take */
#define NBD_BLOCK_MAX    4096             /* the largest block that a server may insist on */
#define NBD_PAUSE_MIN_NS (20 * NS_PER_MS) /* between two tries to connect, at first */

/* What the export can do, in struct nbd_kept. */
#define NBD_KNOWN     (1U << 0) /* the rest is filled in */
#define NBD_READ_ONLY (1U << 1)
#define NBD_FLUSH     (1U << 2)
#define NBD_FUA       (1U << 3)
#define NBD_TRIM      (1U << 4)
#define NBD_ZERO      (1U << 5)
#define NBD_MULTI     (1U << 6)

#define NBD_SENDING UINT64_MAX /* in place of a cookie: perhaps not the whole of it was sent */

/*
 * In the disk's state (lib/state), which outlives the process. A successor believes nothing that stands in it, or no more than
 * it would believe a server: it may have been written by a process that was taken over.
 */
struct nbd_kept {
	_Atomic uint64_t flags, bytes, block_min, block_max;
	/* Commands that change the export, by the cookies that the server answers with; 0: none. */
	_Atomic uint64_t sent[DIAL_SLOTS][NBD_COMMANDS];
};

_Static_assert(sizeof(struct nbd_kept) <= STATE_AREA, "fits");

struct nbd_handle;
struct nbd_link;

/* What is left of a transfer to be cut into commands, in engine_io.priv. */
struct nbd_io {
	struct engine *engine;
	struct engine_io *next;
	uint64_t total, cut; /* bytes of it, and those that are commands already */
	uint32_t iov_off;
	uint16_t iov_at;
	bool flushing;
	uint32_t out; /* commands that are not done */
	int32_t err;
};

_Static_assert(sizeof(struct nbd_io) <= sizeof(((struct engine_io *)0)->priv), "fits an engine_io");

static inline struct nbd_io *nbd_io(struct engine_io *io)
{
	return (struct nbd_io *)(void *)io->priv;
}

enum nbd_command_state { NBD_FREE, NBD_WAITING, NBD_ISSUED };

struct nbd_command {
	struct nbd_link *link;
	struct engine_io *io;
	uint8_t *buf;
	uint64_t off, len;
	uint64_t got; /* of a read: bytes that came */
	enum engine_op op;
	enum nbd_command_state state;
	unsigned losses; /* connections that broke with it in flight */
	uint64_t cookie;
};

/* Answers that a predecessor's connection owes (nbd_settle.c). */
struct nbd_settle {
	int fd; /* -1: none is open */
	_Atomic uint64_t *kept;
	unsigned nsent; /* that are noted there and not answered */
	bool unsure;    /* one may have been sent in part */
	bool shut;      /* the server was told that no more comes */
	uint64_t quiet_at, silent_at;
	uint8_t tail[32]; /* of what was read: an answer may come in two pieces */
	unsigned ntail;
};

/* Takes fd over, and what is noted beside it. */
void nbd_settle_begin(struct nbd_settle *s, int fd, _Atomic uint64_t *kept);
/* Goes on: 0 when all is over, else when to come again if nothing is to be read before. */
uint64_t nbd_settle_go(struct nbd_settle *s);
/* Closes it; what was noted is forgotten. */
void nbd_settle_end(struct nbd_settle *s);
/* What was noted of a connection that is gone. */
void nbd_settle_forget(_Atomic uint64_t *kept);

enum nbd_link_state {
	NBD_IDLE,   /* nobody has needed it */
	NBD_ASKING, /* for a predecessor's connection */
	NBD_SETTLING,
	NBD_DIALLING,
	NBD_SHAKING,
	NBD_READY,
	NBD_PAUSING, /* before it is tried again */
};

struct nbd_link {
	struct nbd *nbd;
	unsigned index;
	struct loop *loop; /* of the thread that drives it; NULL: it is not attached */
	struct loop_fd *watch, *answers;
	struct loop_timer *timer;
	struct loop_bh bh;
	struct dial dial;
	struct nbd_settle settle;

	struct lock lock;
	enum nbd_link_state state GUARDED_BY(lock);
	int fd GUARDED_BY(lock);                    /* of the handle, which closes its own when it likes */
	struct nbd_handle *handle GUARDED_BY(lock); /* in NBD_SHAKING and NBD_READY */
	struct nbd_command commands[NBD_COMMANDS] GUARDED_BY(lock);
	unsigned nwaiting GUARDED_BY(lock);           /* of them */
	struct nbd_command *sending GUARDED_BY(lock); /* of which not the whole may be sent; NULL: none */
	struct engine_io *first GUARDED_BY(lock);     /* that are to be cut into commands */
	struct engine_io *last GUARDED_BY(lock);
	uint64_t lost_at GUARDED_BY(
	    lock); /* since when there is no connection that answers; 0: there is one */
	uint64_t next_at GUARDED_BY(lock); /* when to get on with the state */
	uint64_t pause_ns GUARDED_BY(lock);
	unsigned slot GUARDED_BY(lock); /* that is being settled */
	bool leaving GUARDED_BY(lock);  /* the server said that it is about to end */
	bool settled GUARDED_BY(lock), told GUARDED_BY(lock);
	bool unkept GUARDED_BY(lock); /* there is another nbd-dial */
	bool renew GUARDED_BY(
	    lock); /* another connection is wanted, which tells how large the export is now */
	uint64_t bytes GUARDED_BY(lock); /* that it had when the last connection was made; 0: none was */
	_Atomic uint64_t away;           /* lost_at, for any thread */
	struct engine *driver;           /* of the queue whose thread is the link's */
};

/* Finding out how large the export is (nbd_look.c). The main thread's. */
struct nbd_look {
	struct loop *loop; /* NULL: nobody asks */
	nbd_looked_fn done;
	struct loop_timer *timer;
	struct loop_fd *answers; /* of nbd-dial: from the first time on, as one may come late */
	struct loop_fd *watch, *renewed;
	bool asked;                /* and there is no answer yet */
	struct nbd_handle *handle; /* of the connection for it, and its socket */
	int fd;
};

struct nbd {
	struct disk *disk;
	struct nbd_uri uri;
	uint64_t reconnect_ns;
	int dial_fd, beside; /* beside: pidfd of a nbd-dial of our own */
	int renewed;         /* eventfd: a link has another connection */
	struct nbd_kept *kept;
	uint64_t flags, bytes, block_min, block_max; /* of the export */
	unsigned nlinks, nengines;
	struct nbd_link link[DIAL_SLOTS];
	struct dial dial;
	struct loop_fd *news; /* of nbd-dial, with the first link */
	struct nbd_look look;
};

/* ---- nbd_link.c; the link's thread where nothing else is said ---- */

int nbd_link_open(struct nbd *nbd, unsigned index);
void nbd_link_close(struct nbd_link *l);
/* Gives the first link a connection that serves; nothing of a predecessor's is left then. */
void nbd_link_give(struct nbd *nbd, struct nbd_handle *h, int fd);

/* Registers with the loop, and takes it back. 0 or -errno. */
int nbd_link_attach(struct nbd_link *l, struct loop *loop);
void nbd_link_detach(struct nbd_link *l);

/* Has it connect anew as soon as nothing is in flight, and told by nbd->renewed; any thread. */
void nbd_link_renew(struct nbd_link *l);
/* How large the export is by its connection: 0 or -ENOTCONN; -EAGAIN until it has connected anew. Any thread. */
int nbd_link_bytes(struct nbd_link *l, uint64_t *bytes);

/* Adds a transfer; any thread. What of it can't be sent at once is the link's thread's. */
void nbd_link_add(struct nbd_link *l, struct engine_io *io);

/* A handle that is about to shake hands over fd, which stays the caller's; NULL, with the reason logged. */
struct nbd_handle *nbd_shake(const struct nbd *nbd, int fd);
/* What the export is, as its server says it now, into nbd. 0 or -errno, logged. */
int nbd_learn(struct nbd *nbd, struct nbd_handle *h);
/* Whether it is what the guest was told, and how large. */
bool nbd_fits(const struct nbd *nbd, struct nbd_handle *h, uint64_t *bytes);

/* ---- nbd_command.c; any thread, with the lock ---- */

/* Sends what can be sent. */
void nbd_send(struct nbd_link *l) REQUIRES(l->lock);
/* Notes what was sent, once the whole of it was. */
void nbd_see_sent(struct nbd_link *l) REQUIRES(l->lock);
/* What was in flight is to be sent again. */
void nbd_take_back(struct nbd_link *l) REQUIRES(l->lock);
/* All that is not in flight is answered: there is no connection. */
void nbd_fail_all(struct nbd_link *l) REQUIRES(l->lock);

/* Whether an answer is owed. */
bool nbd_is_waiting(struct nbd_link *l) REQUIRES(l->lock);

/* Whether the handle is of no use any more. */
bool nbd_is_over(struct nbd_handle *h);

/* ---- engine_nbd.c ---- */

/* The transfer is done, with its result in io->res. Any thread. */
void nbd_engine_done(struct engine *e, struct engine_io *io);
/* Has its queue make a pass. */
void nbd_engine_run(struct engine *e);

#endif
