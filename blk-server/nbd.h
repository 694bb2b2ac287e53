/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that is an export of an NBD server, by libnbd's asynchronous calls, straight from and to the guest's memory.
 *
 * Connections (links) are made by nbd-dial (dial.h), as this process has no network. A server that keeps what is
 * written over one connection in step with the others says so (multi-conn): then each queue has a link of its own,
 * which its thread drives. Otherwise all queues share one: the thread of the first queue drives it, and those of others
 * hand over their transfers.
 *
 * A link that breaks is made anew, and what was in flight is submitted again; the driver sees that it takes long. After
 * --reconnect seconds without a connection transfers fail with -ENOTCONN, and what becomes of them is --on-error's affair.
 *
 * The predecessor's requests. NBD has no way to ask whether the server still works on what came over a connection that is
 * gone, and no order between connections: a write that a dead process left there could land on top of a later one. So the
 * connection is kept by nbd-dial, the list of writes that were sent over it and not answered in the disk's state
 * (struct nbd_kept), and a successor reads the answers to the end before it sends anything (nbd_settle.c). That works as
 * long as the connection does. One that breaks under a living server leaves a doubt: it can still be carrying out
 * writes that it had read, and the same writes are then sent once more, over a new connection. Most servers end with
 * the connection; for one that does not, and is slow, nothing in the protocol helps.
 */
#ifndef NBD_H
#define NBD_H

#include <stdbool.h>
#include <stdint.h>

struct disk;
struct loop;
struct nbd;

/* What the options said. */
struct nbd_options {
	const char *uri; /* NULL: the disk is none of these */
	int dial_fd;     /* the socket to nbd-dial; -1: one is to be started beside this process */
	unsigned reconnect_s;
	void *kept; /* STATE_AREA bytes that successors see (lib/state) */
};

/* Before the process is confined, and nothing is read from the server. Logs why not. 0 or -errno. */
int nbd_open(struct disk *disk, bool sandbox);
void nbd_close_disk(struct disk *disk);

/* Confined, and before there are threads: finds out what the export is, of a predecessor's note or the server, and fills in the
 * disk. Logs why not. 0 or -errno. */
int nbd_examine(struct disk *disk, unsigned queues);

/*
 * How large the export is now. Serving, and called on the main thread, whose loop it is: 0, and done is called from there
 * within some seconds, or -errno. Its server says that only to a new connection: one is made for this alone. What is larger
 * only new connections can reach, so then each in use is made anew; it is, too, where a server that need not take several
 * connections does not answer that one, or has no room for it. End it before the loop ends; it may have ended.
 */
typedef void (*nbd_looked_fn)(struct disk *disk, int err, uint64_t bytes);
int nbd_look(struct disk *disk, struct loop *loop, nbd_looked_fn done);
void nbd_look_end(struct disk *disk);

/* How large a predecessor made the disk. */
uint64_t nbd_remembered(struct disk *disk);
/* The disk is so large from now on, for successors too. */
void nbd_set_bytes(struct disk *disk, uint64_t bytes);

#endif
