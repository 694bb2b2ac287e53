/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of all processes of a machine: the sinks, and the reading end of each child's stderr. */
#include "logs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "num.h"

#define LINES_A_SECOND 100      /* of one child; more are counted, not written */
#define FACILITY       (3 << 3) /* daemon */

static struct {
	enum vmconf_log kind;
	int level;
	int fd;       /* of syslog; not connected, so that a syslogd that was started anew is found */
	bool journal; /* stderr goes to the journal, which takes "<N>" */
	const char *machine;
	uint64_t dropped;
} sink = { .level = LOG_LEVEL_INFO, .fd = -1, .machine = "" };

/* True if $JOURNAL_STREAM says that our stderr is a stream to the journal (systemd.exec(5)). */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char want[48];
	struct stat st;

	if (!stream || fstat(STDERR_FILENO, &st))
		return false;
	snprintf(want, sizeof(want), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	return !strcmp(stream, want);
}

void logs_plain(char *text)
{
	for (char *c = text; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

void logs_stderr_changed(void)
{
	sink.journal = sink.kind == LOG_TO_STDERR && stderr_is_journal();
}

static struct sockaddr_un syslog_addr = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };

static int open_syslog(void)
{
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CLEAN_FD int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(probe, (struct sockaddr *)&syslog_addr, sizeof(syslog_addr)))
		return -errno;
	return take_fd(&fd);
}

int logs_open(enum vmconf_log kind, int level, const char *machine, struct vmconf_error *error)
{
	sink.kind = kind;
	sink.level = level;
	sink.machine = machine;
	logs_stderr_changed();
	if (kind == LOG_TO_STDERR)
		return 0;
	sink.fd = open_syslog();
	if (sink.fd < 0)
		return vmconf_refuse(error,
				     "--log: \"syslog\" is not possible, /dev/log: %s; allowed here: stderr",
				     strerror(-sink.fd));
	return 0;
}

uint64_t logs_dropped(void)
{
	return sink.dropped;
}

/* One line into stderr, if that would not wait. */
static void write_stderr(const char *line, size_t len)
{
	struct pollfd ready = { .fd = STDERR_FILENO, .events = POLLOUT };

	if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT) || write(STDERR_FILENO, line, len) < 0)
		sink.dropped++;
}

/* By sendmsg, which the filter must allow anyway. */
static void write_syslog(char *line, size_t len)
{
	struct iovec iov = { .iov_base = line, .iov_len = len };
	struct msghdr msg = {
		.msg_name = &syslog_addr, .msg_namelen = sizeof(syslog_addr), .msg_iov = &iov, .msg_iovlen = 1
	};

	if (sendmsg(sink.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		sink.dropped++;
}

void logs_emit(int level, const char *process, const char *device, const char *text)
{
	char line[LOG_LINE_MAX + 2 * BUS_NAME_MAX + 32];
	int n = 0;

	if (level > sink.level)
		return;
	if (sink.kind == LOG_TO_SYSLOG)
		n = snprintf(line, sizeof(line), "<%d>bulkhead[%d]: %s: ", FACILITY | level, (int)getpid(),
			     sink.machine);
	else if (sink.journal)
		n = snprintf(line, sizeof(line), "<%d>", level);
	if (device)
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%s[%s]: %s\n", process, device, text);
	else
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%s: %s\n", process, text);
	if ((size_t)n >= sizeof(line)) {
		n = (int)sizeof(line) - 1;
		line[n - 1] = '\n';
	}
	if (sink.kind == LOG_TO_STDERR)
		write_stderr(line, (size_t)n);
	else
		write_syslog(line, (size_t)n - 1);
}

void logs_say(int level, int err, const char *fmt, ...)
{
	char text[LOG_LINE_MAX], reason[128];
	size_t len;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	len = strlen(text);
	if (err)
		snprintf(text + len, sizeof(text) - len, ": %s",
			 strerror_r(abs(err), reason, sizeof(reason)));
	logs_emit(level, "bulkhead", NULL, text);
}

/* ---- a child's stderr ---- */

struct logs_pipe {
	struct loop_fd *watch;
	int fd;
	const char *process, *device;
	struct log_limit limit;
	size_t len;
	bool skipping; /* the rest of a line that was too long */
	char line[LOG_LINE_MAX];
};

/* The level of "<N>text" and where the text begins; what has no level did not come from lib/base/log: a warning. */
static const char *split_level(const char *line, int *level)
{
	*level = LOG_LEVEL_WARNING;
	if (line[0] != '<' || line[1] < '0' || line[1] > '7' || line[2] != '>')
		return line;
	*level = line[1] - '0';
	return line + 3;
}

static void flush_line(struct logs_pipe *p)
{
	uint32_t held = 0;
	const char *text;
	int level;

	p->line[p->len] = '\0';
	for (size_t i = 0; i < p->len; i++)
		if ((unsigned char)p->line[i] < ' ' || p->line[i] == 127)
			p->line[i] = p->line[i] == '\t' ? ' ' : '?';
	text = split_level(p->line, &level);
	p->len = 0;
	if (level > sink.level || !*text || !log_limit_take(&p->limit, LINES_A_SECOND, &held))
		return;
	if (held) {
		char note[64];

		snprintf(note, sizeof(note), "%u lines were held back, more than %d a second", held,
			 LINES_A_SECOND);
		logs_emit(LOG_LEVEL_WARNING, p->process, p->device, note);
	}
	logs_emit(level, p->process, p->device, text);
}

static void take_bytes(struct logs_pipe *p, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] == '\n') {
			if (!p->skipping)
				flush_line(p);
			p->skipping = false;
		} else if (!p->skipping) {
			p->line[p->len++] = bytes[i];
			if (p->len == sizeof(p->line) - 1) {
				flush_line(p);
				p->skipping = true;
			}
		}
	}
}

/* At most one pipe's worth at a time, so that a flood leaves the loop its turn. */
static void on_readable(void *arg, uint32_t events)
{
	struct logs_pipe *p = arg;
	char buf[4096];

	for (int i = 0; i < 16; i++) {
		ssize_t n = read(p->fd, buf, sizeof(buf));

		if (n < 0)
			return;
		if (n == 0) {
			loop_del_fd(TAKE_PTR(p->watch));
			return;
		}
		take_bytes(p, buf, (size_t)n);
	}
	(void)events;
}

int logs_pipe_take(struct loop *loop, const char *process, const char *device, struct logs_pipe **out,
		   int *read_fd)
{
	CLEAN_FREE struct logs_pipe *p = calloc(1, sizeof(*p));
	CLEAN_FD int fd = take_fd(read_fd);
	int err;

	if (!p)
		return -ENOMEM;
	p->process = process;
	p->device = device;
	err = loop_add_fd(loop, fd, EPOLLIN, on_readable, p, &p->watch);
	if (err)
		return err;
	p->fd = take_fd(&fd);
	*out = TAKE_PTR(p);
	return 0;
}

int logs_pipe_new(struct loop *loop, const char *process, const char *device, struct logs_pipe **out,
		  int *write_fd)
{
	CLEAN_FD int write_end = -1;
	int pair[2], err;

	/* Both ends non-blocking: a child that is not read drops lines, it does not wait. */
	if (pipe2(pair, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	write_end = pair[1];
	err = logs_pipe_take(loop, process, device, out, &pair[0]);
	if (!err)
		*write_fd = take_fd(&write_end);
	return err;
}

int logs_pipe_fd(const struct logs_pipe *p)
{
	return p->fd;
}

void logs_pipe_free(struct logs_pipe *p)
{
	if (!p)
		return;
	if (p->watch)
		on_readable(p, 0);
	loop_del_fd(p->watch);
	if (p->len)
		flush_line(p);
	if (p->limit.suppressed) {
		char note[64];

		snprintf(note, sizeof(note), "%u lines were held back at its end", p->limit.suppressed);
		logs_emit(LOG_LEVEL_WARNING, p->process, p->device, note);
	}
	close(p->fd);
	free(p);
}
