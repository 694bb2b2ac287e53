/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --user: the host's network without privileges, for a server that a person started. net-user is started beside it, before
 * anything is confined, and joined to it by a socket pair as the supervisor does; it ends with the process that started
 * both. Its options are handed on as they are, and it says what is wrong with them.
 */
#ifndef USER_H
#define USER_H

#include <stdbool.h>

#define USER_WORDS_MAX 256

struct user {
	bool on;
	const char *net; /* the value of --net, which is among the words, too; NULL: as net-user has it */
	unsigned count;
	const char *word[USER_WORDS_MAX]; /* for net-user: option, value, option, ... */
};

/* Notes an option of net-user's and its value. 1 (it may be given again) or -E2BIG. */
int user_add(struct user *user, const char *option, const char *value);

/* Starts net-user, for packets of mtu bytes, and waits until it answers. Our end of the socket, or -errno
 * after one line. */
int user_start(const struct user *user, const char *id, bool sandbox, unsigned mtu);

#endif
