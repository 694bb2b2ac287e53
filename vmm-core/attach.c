/* SPDX-License-Identifier: Apache-2.0 */
/* The socket over which the supervisor passes the connections of device processes (docs/architecture.md). */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clean.h"
#include "core.h"
#include "fd.h"
#include "flight.h"
#include "log.h"

#define MESSAGE_SIZE 32 /* the device's id, padded with NUL */
/* Its connection, its flight recorder's memory if it has one, and that of what stands before it, if there is such. */
#define FDS_MAX 3

/* What a device process tells of itself, if it came with the connection. A peer may have prepared it, so it is looked at
 * closely, and a region that is none costs the connection nothing. */
static struct flight *map_flight(const struct core_device *d, int fd)
{
	struct flight *flight = NULL;
	int r = flight_map_health(fd, &flight);

	if (r < 0)
		log_warn_errno(r, "the health words of device %s are refused", device_id(d->device));
	return flight;
}

static void take(struct core *core, const char id[MESSAGE_SIZE], int fds[FDS_MAX], size_t nfds)
{
	CLEAN_FD int socket = fds[0], region = nfds > 1 ? fds[1] : -1, before = nfds > 2 ? fds[2] : -1;
	struct core_device *d = core_find_device(core, id, MESSAGE_SIZE);
	int r;

	if (!d) {
		log_warn_limited("a connection came for a device that is not declared");
		return;
	}
	control_device_pending(d);
	r = device_attach(d->device, 0, take_fd(&socket), region < 0 ? NULL : map_flight(d, region),
			  before < 0 ? NULL : map_flight(d, before));
	if (r < 0)
		log_warn_errno(r, "the connection for device %s can't be used", device_id(d->device));
}

static void on_message(void *arg, uint32_t events)
{
	struct core *core = arg;
	char id[MESSAGE_SIZE];
	int fds[FDS_MAX];
	size_t nfds;
	ssize_t n;

	(void)events;
	n = fd_recv(core->opts->desc_fd, id, sizeof(id), fds, FDS_MAX, &nfds);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n == MESSAGE_SIZE && nfds > 0) {
		take(core, id, fds, nfds);
	} else if (n > 0 || n == -E2BIG) {
		log_warn_limited("a malformed message came on the descriptor socket");
		while (n > 0 && nfds)
			close(fds[--nfds]);
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
