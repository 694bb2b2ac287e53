/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the user's end of a console: a terminal, a pty, a file or a socket; or goes on with what another opened. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "console_priv.h"
#include "fd.h"
#include "files.h"

/* A descriptor of our own for a standard stream, so that non-blocking is not forced on who shares it. */
static int own_stream(int fd, int flags)
{
	struct stat st;
	char path[32];
	int own = -1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!fstat(fd, &st) && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)))
		own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int open_stdio(struct console *c, struct vmconf_error *error)
{
	struct termios raw;

	snprintf(c->where, sizeof(c->where), "stdio");
	c->out.fd = own_stream(STDOUT_FILENO, O_WRONLY);
	if (c->out.fd < 0)
		return vmconf_refuse(error, "--console: \"stdio\" is not possible, standard output: %s",
				     strerror(errno));
	if (tcgetattr(STDIN_FILENO, &c->settings)) {
		c->in.fd = own_stream(STDIN_FILENO, O_RDONLY);
		return 0;
	}
	/* In the background a terminal's input is not ours, and reading it would stop us. */
	if (tcgetpgrp(STDIN_FILENO) != getpgrp())
		return 0;
	c->in.fd = own_stream(STDIN_FILENO, O_RDONLY);
	raw = c->settings;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* log lines end in a bare newline */
	if (c->in.fd < 0 || tcsetattr(STDIN_FILENO, TCSANOW, &raw))
		return vmconf_refuse(error, "--console: \"stdio\" is not possible: %s", strerror(errno));
	c->terminal = true;
	return 0;
}

static int open_pty(struct console *c, struct vmconf_error *error)
{
	struct termios raw;

	c->out.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (c->out.fd < 0 || grantpt(c->out.fd) || unlockpt(c->out.fd) ||
	    ptsname_r(c->out.fd, c->where, sizeof(c->where)))
		return vmconf_refuse(error, "--console: \"pty\" is not possible: %s", strerror(errno));
	c->slave_fd = open(c->where, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (c->slave_fd < 0 || tcgetattr(c->slave_fd, &raw))
		return vmconf_refuse(error, "--console: \"pty\" is not possible: %s", strerror(errno));
	cfmakeraw(&raw);
	tcsetattr(c->slave_fd, TCSANOW, &raw);
	return 0;
}

static int open_file(struct console *c, const char *path, struct vmconf_error *error)
{
	snprintf(c->where, sizeof(c->where), "%s", path);
	c->out.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
	if (c->out.fd < 0)
		return vmconf_refuse(
		    error,
		    "--console: file=\"%s\" can't be opened: %s; a file that can be written is "
		    "needed",
		    path, strerror(errno));
	return 0;
}

static int open_socket(struct console *c, const char *path, struct vmconf_error *error)
{
	int err;

	snprintf(c->where, sizeof(c->where), "%s", path);
	c->listener.fd = files_listen(path);
	c->listener.events = EPOLLIN;
	err = c->listener.fd < 0 ? c->listener.fd : 0;
	if (!err)
		c->socket_path = strdup(path);
	if (err)
		return vmconf_refuse(
		    error,
		    "--console: socket=\"%s\" can't be made: %s; a path where nothing is yet is "
		    "needed",
		    path, strerror(-err));
	return 0;
}

int console_listener(const struct console *c)
{
	return c->listener.fd;
}

void console_keep(const struct console *c, int fds[KEEPER_CONSOLE_MAX])
{
	bool stays = c->kind != CONSOLE_STDIO;

	fds[0] = stays ? c->out.fd : -1;
	fds[1] = stays ? c->slave_fd : -1;
	fds[2] = stays ? c->listener.fd : -1;
}

static struct console *new_console(enum vmconf_console kind)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->kind = kind;
	c->core.fd = c->in.fd = c->out.fd = c->listener.fd = c->slave_fd = -1;
	c->lossy = c->both_ways = kind == CONSOLE_PTY || kind == CONSOLE_SOCKET;
	return c;
}

int console_go_on(const struct vmconf *conf, int fds[KEEPER_CONSOLE_MAX], struct console **out,
		  struct vmconf_error *error)
{
	struct console *c;

	if (fds[0] < 0 && fds[2] < 0)
		return console_open(conf, out, error);
	c = new_console(conf->console);
	if (!c)
		return vmconf_refuse(error, "out of memory");
	c->out.fd = take_fd(&fds[0]);
	c->slave_fd = take_fd(&fds[1]);
	c->listener.fd = take_fd(&fds[2]);
	c->listener.events = EPOLLIN;
	snprintf(c->where, sizeof(c->where), "%s", conf->console_path ? conf->console_path : "");
	if (c->kind == CONSOLE_PTY && ptsname_r(c->out.fd, c->where, sizeof(c->where)))
		snprintf(c->where, sizeof(c->where), "pty");
	if (c->kind == CONSOLE_SOCKET && conf->console_path)
		c->socket_path = strdup(conf->console_path);
	*out = c;
	return 0;
}

int console_open(const struct vmconf *conf, struct console **out, struct vmconf_error *error)
{
	struct console *c = new_console(conf->console);
	int err;

	if (!c)
		return vmconf_refuse(error, "out of memory");
	switch (conf->console) {
	case CONSOLE_PTY:
		err = open_pty(c, error);
		break;
	case CONSOLE_FILE:
		err = open_file(c, conf->console_path, error);
		break;
	case CONSOLE_SOCKET:
		err = open_socket(c, conf->console_path, error);
		break;
	case CONSOLE_STDIO:
	default:
		err = open_stdio(c, error);
	}
	if (err)
		console_close(c);
	else
		*out = c;
	return err;
}
