/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other end of taken.h, for escape.sh:
 *
 *	taken-page make FILE STAGES HOST-PID PORT ABSTRACT SOCKET NEIGHBOUR IMAGE     what a process is to do
 *	taken-page stages FILE          which stages it is through with, as "one steady ..."
 *	taken-page fds FILE             what was open when it began
 *	taken-page report FILE NAME     the results as TAP; "# blocked N / N" in the end
 *	taken-page serves FILE          succeeds if it serves
 *	taken-page attack FILE NAME MS  it does that to others, for so long
 *	taken-page ask CTL MS           for so long asks the machine's core for its counters, again and again: the longest
 *	                                time that an answer took, in us, and how many came
 *	taken-page lure ABSTRACT SOCKET listens for who gets through; says on which port, and then what came
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus_ctl.h"
#include "clock.h"
#include "num.h"
#include "taken.h"

static const char *const stages[TAKEN_STAGES] = { [TAKEN_ANCHOR] = "anchor",
						  [TAKEN_ONE] = "one",
						  [TAKEN_STEADY] = "steady",
						  [TAKEN_THREAD] = "thread",
						  [TAKEN_SERVES] = "serves" };

__attribute__((noreturn)) static void die(const char *what)
{
	perror(what);
	exit(2);
}

static struct taken_page *map_page(const char *path, bool make)
{
	struct taken_page *page;
	int fd;

	/* Whoever has the old one keeps it: to make that shorter would kill him. */
	if (make)
		unlink(path);
	fd = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT | O_EXCL : 0), 0666);
	if (fd < 0 || (make && (ftruncate(fd, sizeof(*page)) || fchmod(fd, 0666))))
		die(path);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		die(path);
	close(fd);
	return page;
}

/* "one,steady" */
static uint32_t parse_stages(const char *words)
{
	uint32_t bits = 0;

	for (size_t i = 0; i < TAKEN_STAGES; i++)
		if (strstr(words, stages[i]))
			bits |= 1U << i;
	return bits;
}

static void make(char **arg)
{
	struct taken_page *page = map_page(arg[0], true);

	page->stages = parse_stages(arg[1]);
	page->host_pid = (uint32_t)atoi(arg[2]);
	page->tcp_port = (uint32_t)atoi(arg[3]);
	snprintf(page->abstract, sizeof(page->abstract), "%s", arg[4]);
	snprintf(page->socket, sizeof(page->socket), "%s", arg[5]);
	snprintf(page->neighbour, sizeof(page->neighbour), "%s", arg[6]);
	snprintf(page->image, sizeof(page->image), "%s", arg[7]);
}

/* ---- results ---- */

/* An error that proves that it can't be done, and not just that the arguments were wrong. */
static bool is_refusal(int err)
{
	static const int errors[] = { EPERM,        EACCES,          ENOENT,         ESRCH,   EROFS,
				      ENOSYS,       ENETUNREACH,     ECONNREFUSED,   ENOTDIR, ENOMEM,
				      EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT };

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if (err == errors[i])
			return true;
	return false;
}

/* Why it counts as got through; NULL: it does not. */
static const char *got_through(int32_t outcome)
{
	if (outcome == TAKEN_RUNNING)
		return "it ended the process";
	if (outcome == TAKEN_WORKED)
		return "it worked";
	if (outcome < 0 && !is_refusal(-outcome))
		return strerror(-outcome);
	return NULL;
}

struct sum {
	unsigned tried, blocked, trapped, refused, tasks;
};

static void report_stage(const struct taken_page *page, enum taken_stage stage, const char *name,
			 struct sum *all)
{
	struct sum sum = { 0 };

	for (size_t i = 0; i < TAKEN_TRIES; i++) {
		int32_t outcome = page->outcome[stage][i];
		const char *why = got_through(outcome);

		sum.tasks += outcome == TAKEN_IS_TASK;
		if (outcome == TAKEN_NOT_TRIED || outcome == TAKEN_IS_TASK)
			continue;
		sum.tried++;
		sum.trapped += outcome == TAKEN_TRAPPED;
		sum.refused += outcome < 0 && !why;
		if (why)
			printf("# %s, %s: %.*s: %s\n", name, stages[stage], TAKEN_NAME, page->name[i], why);
	}
	sum.blocked = sum.trapped + sum.refused;
	printf("%s 1 - %s, %s: %u escape probes blocked, %u of them by the filter\n",
	       sum.tried && sum.blocked == sum.tried ? "ok" : "not ok", name, stages[stage], sum.blocked,
	       sum.trapped);
	all->tried += sum.tried;
	all->blocked += sum.blocked;
}

static void report(const char *path, const char *name)
{
	const struct taken_page *page = map_page(path, false);
	struct sum all = { 0 };

	for (int s = 0; s < TAKEN_STAGES; s++)
		if (page->done & 1U << s || page->outcome[s][0] || page->outcome[s][1])
			report_stage(page, (enum taken_stage)s, name, &all);
	printf("# blocked %u / %u\n", all.blocked, all.tried);
}

static void list_stages(const char *path)
{
	const struct taken_page *page = map_page(path, false);

	for (int s = 0; s < TAKEN_STAGES; s++)
		if (page->done & 1U << s)
			printf("%s ", stages[s]);
	putchar('\n');
}

/* ---- attacks ---- */

static void begin_attack(const char *path, const char *name, const char *ms)
{
	struct taken_page *page = map_page(path, false);

	snprintf(page->attack, sizeof(page->attack), "%s", name);
	atomic_store(&page->attack_ms, (uint32_t)atoi(ms));
}

static void ask(const char *ctl, const char *ms)
{
	static struct bus_ctl_result result;
	static const char *const core[] = { "core" };
	uint64_t end = clock_ns() + (uint64_t)atoi(ms) * NS_PER_MS, worst = 0;
	unsigned n = 0;

	while (clock_ns() < end) {
		uint64_t from = clock_ns();
		int err = bus_ctl_call(ctl, "stats", 1, core, 20 * NS_PER_S, &result);

		if (err || result.err) {
			fprintf(stderr, "no answer: %s %s\n", strerror(-(err ? err : result.err)),
				result.text);
			exit(1);
		}
		worst = MAX(worst, clock_ns() - from);
		n++;
	}
	printf("%llu %u\n", (unsigned long long)(worst / NS_PER_US), n);
}

/* ---- the lure ---- */

static int listen_on(int family, const void *addr, size_t len)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, addr, (socklen_t)len) || listen(fd, 16))
		die("lure");
	return fd;
}

static void lure(const char *abstract, const char *path)
{
	struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr_un un = { .sun_family = AF_UNIX }, hidden = un;
	socklen_t len = sizeof(tcp);
	struct pollfd wait[3];
	static const char *const names[] = { "loopback", "path", "abstract" };

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	snprintf(hidden.sun_path + 1, sizeof(hidden.sun_path) - 1, "%s", abstract);
	wait[0] = (struct pollfd) { .fd = listen_on(AF_INET, &tcp, sizeof(tcp)), .events = POLLIN };
	wait[1] = (struct pollfd) { .fd = listen_on(AF_UNIX, &un, sizeof(un)), .events = POLLIN };
	wait[2] =
	    (struct pollfd) { .fd = listen_on(AF_UNIX, &hidden,
					      offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract)),
			      .events = POLLIN };
	if (chmod(path, 0777) || getsockname(wait[0].fd, (struct sockaddr *)&tcp, &len))
		die("lure");
	printf("port %u\n", ntohs(tcp.sin_port));
	fflush(stdout);
	while (poll(wait, ARRAY_SIZE(wait), -1) > 0)
		for (size_t i = 0; i < ARRAY_SIZE(wait); i++)
			if (wait[i].revents) {
				close(accept(wait[i].fd, NULL, NULL));
				printf("visited %s\n", names[i]);
				fflush(stdout);
			}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "";

	if (!strcmp(verb, "make") && argc == 10)
		make(argv + 2);
	else if (!strcmp(verb, "stages"))
		list_stages(argv[2]);
	else if (!strcmp(verb, "fds"))
		fputs(map_page(argv[2], false)->fds, stdout);
	else if (!strcmp(verb, "report") && argc == 4)
		report(argv[2], argv[3]);
	else if (!strcmp(verb, "serves"))
		return !map_page(argv[2], false)->serves;
	else if (!strcmp(verb, "attack") && argc == 5)
		begin_attack(argv[2], argv[3], argv[4]);
	else if (!strcmp(verb, "ask") && argc == 4)
		ask(argv[2], argv[3]);
	else if (!strcmp(verb, "lure") && argc == 4)
		lure(argv[2], argv[3]);
	else
		return 2;
	return 0;
}
