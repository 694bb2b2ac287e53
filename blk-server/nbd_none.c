/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of the NBD engine where there is no libnbd: no disk is an export, which is said at once. */
#include <errno.h>

#include "disk.h"
#include "log.h"

int nbd_open(struct disk *disk, bool sandbox)
{
	(void)disk;
	(void)sandbox;
	log_error("--nbd: this program was built without libnbd");
	return -EOPNOTSUPP;
}

void nbd_close_disk(struct disk *disk)
{
	(void)disk;
}

int nbd_examine(struct disk *disk, unsigned queues)
{
	(void)disk;
	(void)queues;
	return -EOPNOTSUPP;
}

int nbd_look(struct disk *disk, struct loop *loop, nbd_looked_fn done)
{
	(void)disk;
	(void)loop;
	(void)done;
	return -EOPNOTSUPP;
}

void nbd_look_end(struct disk *disk)
{
	(void)disk;
}

uint64_t nbd_remembered(struct disk *disk)
{
	return disk_bytes(disk);
}

void nbd_set_bytes(struct disk *disk, uint64_t bytes)
{
	(void)disk;
	(void)bytes;
}
