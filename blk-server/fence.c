/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps a server back until the kernel is through with what its predecessors left to it. */
#include "fence.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

int fence_open(struct fence *f, int state_fd, _Atomic uint64_t *word)
{
	char path[32];

	*f = (struct fence) { .fd = -1, .word = word };
	/* Not a duplicate, whose locks would be the same. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", state_fd);
	f->fd = open(path, O_RDWR | O_CLOEXEC);
	return f->fd < 0 ? -errno : 0;
}

void fence_close(struct fence *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

static int lock(const struct fence *f, int how)
{
	while (flock(f->fd, how) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int fence_begin(struct fence *f)
{
	int err = 0;

	if (f->fd < 0 || f->begun)
		return 0;
	if (atomic_load(f->word))
		err = lock(f, LOCK_EX | LOCK_NB);
	if (err == -EAGAIN && !fence_waits(f)) {
		log_info("waits for what a predecessor left to the kernel");
		f->since = clock_ns();
		atomic_store(&f->waits, true);
	}
	if (!err)
		err = lock(f, LOCK_SH);
	if (err)
		return err;
	atomic_store(f->word, 1);
	f->begun = true;
	if (fence_waits(f))
		log_info("what a predecessor left to the kernel is done");
	atomic_store(&f->waits, false);
	return 0;
}

void fence_end(struct fence *f)
{
	if (f->fd >= 0 && f->begun)
		atomic_store(f->word, 0);
}
