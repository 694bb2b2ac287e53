/* SPDX-License-Identifier: Apache-2.0 */
/* The socket over which the supervisor passes the connections of device processes (docs/architecture.md). */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core.h"
#include "fd.h"
#include "log.h"

#define MESSAGE_SIZE 32 /* the device's id, padded with NUL */

static struct core_device *find(struct core *core, const char id[MESSAGE_SIZE])
{
	for (unsigned i = 0; i < core->opts->n_devices; i++)
		if (!strncmp(device_id(core->devices[i].device), id, MESSAGE_SIZE))
			return &core->devices[i];
	return NULL;
}

static void take(struct core *core, const char id[MESSAGE_SIZE], int fd)
{
	struct core_device *d = find(core, id);
	int r;

	if (!d) {
		log_warn_limited("a connection came for a device that is not declared");
		close(fd);
		return;
	}
	control_device_pending(d);
	r = device_attach(d->device, 0, fd);
	if (r < 0)
		log_warn_errno(r, "the connection for device %s can't be used", device_id(d->device));
}

static void on_message(void *arg, uint32_t events)
{
	struct core *core = arg;
	char id[MESSAGE_SIZE];
	size_t nfds;
	int fd;
	ssize_t n;

	(void)events;
	n = fd_recv(core->opts->desc_fd, id, sizeof(id), &fd, 1, &nfds);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n == MESSAGE_SIZE && nfds == 1) {
		take(core, id, fd);
	} else if (n > 0 || n == -E2BIG) {
		log_warn_limited("a malformed message came on the descriptor socket");
		if (n > 0 && nfds == 1)
			close(fd);
	} else {
		/* The supervisor is gone; devices that die from now on stay away. */
		loop_del_fd(core->desc_watch);
		core->desc_watch = NULL;
	}
}

int attach_start(struct core *core)
{
	int r;

	if (core->opts->desc_fd < 0)
		return 0;
	r = fd_set_nonblock(core->opts->desc_fd, true);
	if (r == 0)
		r = loop_add_fd(core->loop, core->opts->desc_fd, EPOLLIN, on_message, core,
				&core->desc_watch);
	if (r < 0)
		log_error_errno(r, "the descriptor socket can't be used");
	return r;
}
