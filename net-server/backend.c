/* SPDX-License-Identifier: Apache-2.0 */
/* What backends have in common: their descriptors. */
#include "backend.h"

#include <unistd.h>

#include "fd.h"
#include "log.h"

int backend_take_fd(int fd, const char *option)
{
	int err = fd_set_cloexec(fd, true);

	if (!err)
		err = fd_set_nonblock(fd, true);
	if (err)
		log_error_errno(err, "--%s %d", option, fd);
	return err;
}

void backend_close_fds(struct backend *b)
{
	for (unsigned i = 0; i < b->pairs; i++) {
		if (b->fd[i] >= 0)
			close(b->fd[i]);
		b->fd[i] = -1;
	}
}
