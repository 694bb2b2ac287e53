/* SPDX-License-Identifier: Apache-2.0 */
/* The core's part of a stand-in: devices that come and go, and the console. */
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "fake_child.h"
#include "fd.h"
#include "log.h"
#include "num.h"

static void tell_of_end(const char *id, const char *reason)
{
	struct bus_msg msg = { .type = BUS_DEVICE_DOWN };

	snprintf(msg.device_down.device, sizeof(msg.device_down.device), "%s", id);
	snprintf(msg.device_down.reason, sizeof(msg.device_down.reason), "%s", reason);
	fake_send_event(&msg);
}

static void on_device_gone(void *arg, uint32_t events)
{
	struct device *d = arg;
	char byte;

	(void)events;
	if (recv(d->fd, &byte, 1, MSG_DONTWAIT) > 0)
		return;
	loop_del_fd(TAKE_PTR(d->watch));
	close(d->fd);
	d->fd = -1;
	d->ended = true;
	if (!fake.silent_down)
		tell_of_end(d->id, "its connection was closed");
}

void fake_core_repeat(void)
{
	for (size_t i = 0; i < fake.linked; i++) {
		struct device *d = &fake.device[i];

		if (d->ended && !fake.silent_down)
			tell_of_end(d->id, "its connection was closed");
		d->ended = d->fd < 0;
	}
}

void fake_core_progress(void)
{
	if (!fake.bus || !bus_is_connected(fake.bus))
		return;
	for (size_t i = 0; i < fake.linked; i++) {
		struct device *d = &fake.device[i];
		struct bus_msg msg = { .type = BUS_DEVICE_UP, .device_up = { .resumed = fake.runs } };

		if (d->watch || d->fd < 0 || d->rejected)
			continue;
		snprintf(msg.device_up.device, sizeof(msg.device_up.device), "%s", d->id);
		d->rejected = fake.reject;
		fake.reject = false;
		if (d->rejected) {
			tell_of_end(d->id, "the test rejects it");
			continue;
		}
		loop_add_fd(fake.loop, d->fd, EPOLLIN, on_device_gone, d, &d->watch);
		if (!fake.ignore)
			fake_send_event(&msg);
		fake.ignore = false;
	}
	if (fake.linked == fake.declared)
		fake_say_ready();
}

void fake_core_on_descriptor(void *arg, uint32_t events)
{
	char id[BUS_NAME_MAX];
	struct device *d = NULL;
	size_t nfds;
	int fds[3], fd;

	(void)arg;
	(void)events;
	if (fd_recv(fake.desc_fd, id, sizeof(id), fds, ARRAY_SIZE(fds), &nfds) != sizeof(id) || !nfds)
		log_die(1, 0, "bad message on the descriptor socket");
	while (nfds > 1)
		close(fds[--nfds]);
	fd = fds[0];
	if (send(fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_info("%s is gone already", id);
	for (size_t i = 0; i < fake.linked; i++)
		if (!strcmp(fake.device[i].id, id))
			d = &fake.device[i];
	if (!d) {
		d = &fake.device[fake.linked++];
		d->fd = -1;
	}
	loop_del_fd(TAKE_PTR(d->watch));
	clean_fd(&d->fd);
	memcpy(d->id, id, sizeof(id));
	d->fd = fd;
	d->rejected = false;
	d->ended = d->ended && !bus_is_connected(fake.bus);
	fake_core_progress();
}

void fake_core_on_console(void *arg, uint32_t events)
{
	char buf[256];
	ssize_t n = read(fake.console_fd, buf, sizeof(buf));

	(void)arg;
	(void)events;
	if (n <= 0)
		return;
	dprintf(fake.console_fd, "[%.*s]", (int)n, buf);
}
