/* SPDX-License-Identifier: Apache-2.0 */
/* net-user beside a server that was started by hand. */
#include "user.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "beside.h"
#include "clean.h"
#include "clock.h"
#include "log.h"
#include "num.h"
#include "usernet.h"

#define DEADLINE_NS (10 * NS_PER_S)
#define ARP_FRAME   42
#define OWN_WORDS   9 /* of net-user's, before those that are handed on */

int user_add(struct user *user, const char *option, const char *value)
{
	if (user->count + 2 > USER_WORDS_MAX)
		return -E2BIG;
	user->word[user->count++] = option;
	user->word[user->count++] = value;
	return 1;
}

/* The gateway's address in the network of --net. What is wrong with that net-user says. */
static struct in_addr gateway(const struct user *user)
{
	struct usernet net;

	usernet_init(&net);
	if (user->net)
		usernet_set_net(&net, user->net);
	return net.gateway;
}

/*
 * It reads frames once all its ports are open and it is confined: so an answer to the question who the gateway is, asked
 * by nobody (an ARP probe), says that it is ready. What else comes is for a guest that is not there yet.
 */
static int await(int sock, int pidfd, struct in_addr who)
{
	uint8_t probe[ARP_FRAME] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6,
				     0,    1,    8,    0,    6,    4,    0, 1, 2, 0, 0, 0, 0, 1 };
	struct pollfd fds[] = { { .fd = sock, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	uint64_t end = clock_ns() + DEADLINE_NS;
	uint8_t frame[2048];

	memcpy(probe + ARP_FRAME - sizeof(who), &who, sizeof(who));
	if (send(sock, probe, sizeof(probe), MSG_NOSIGNAL) < 0)
		return errno == EPIPE ? -ECHILD : -errno; /* it was quick to end */
	for (uint64_t now = clock_ns(); now < end; now = clock_ns()) {
		ssize_t n;

		if (poll(fds, 2, (int)((end - now) / NS_PER_MS) + 1) < 0)
			continue;
		if (fds[1].revents)
			return -ECHILD;
		n = recv(sock, frame, sizeof(frame), MSG_DONTWAIT);
		if (n >= ARP_FRAME && frame[12] == 8 && frame[13] == 6 && frame[21] == 2)
			return 0;
	}
	return -ETIMEDOUT;
}

static int spawn(const struct user *user, const char *id, bool sandbox, unsigned mtu, int theirs, int *pidfd)
{
	char bytes[16];
	const char *argv[OWN_WORDS + USER_WORDS_MAX + 1] = { "net-user",  "--packet-fd", "3",     "--id", id,
							     "--sandbox", "off",         "--mtu", bytes };
	const struct beside beside = {
		.program = "net-user", .option = "--user", .argv = argv, .sandbox = sandbox
	};

	if (sandbox)
		argv[6] = "on";
	snprintf(bytes, sizeof(bytes), "%u", mtu);
	argv[OWN_WORDS] = NULL;
	if (user->count)
		memcpy(argv + OWN_WORDS, user->word, user->count * sizeof(*argv));
	return beside_start(&beside, theirs, pidfd);
}

int user_start(const struct user *user, const char *id, bool sandbox, unsigned mtu)
{
	CLEAN_FD int ours = -1;
	CLEAN_FD int theirs = -1;
	CLEAN_FD int pidfd = -1;
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err = -errno;
		log_error_errno(err, "--user");
		return err;
	}
	ours = pair[0];
	theirs = pair[1];
	err = spawn(user, id, sandbox, mtu, theirs, &pidfd);
	if (err)
		return err;
	close(take_fd(&theirs));
	err = await(ours, pidfd, gateway(user));
	/* An end of its own it has told of. */
	if (err && err != -ECHILD)
		log_error_errno(err, "--user: net-user does not answer");
	return err ? err : take_fd(&ours);
}
