/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line's way into a running `bulkhead run`: requests of a verb and arguments, answered with JSON or an
 * error. A unix socket of mode 0600; only the same user or root may connect.
 */
#ifndef BUS_CTL_H
#define BUS_CTL_H

#include <stddef.h>
#include <stdint.h>

#include "loop.h"

#define BUS_CTL_VERB_MAX 32    /* bytes of a verb, its NUL included */
#define BUS_CTL_ARGS_MAX 16    /* arguments of one request */
#define BUS_CTL_ARG_MAX  256   /* bytes of an argument, its NUL included */
#define BUS_CTL_TEXT_MAX 512   /* bytes of an error text, its NUL included */
#define BUS_CTL_JSON_MAX 49152 /* bytes of an answer's JSON, its NUL included */
#define BUS_CTL_CLIENTS  32    /* at a time */

struct bus_ctl;
struct
    bus_ctl_request; /* a request that must be answered exactly once, by bus_ctl_answer or bus_ctl_refuse */

/* verb and argv are valid during the call only. Malformed requests are refused before they come here. */
typedef void (*bus_ctl_fn)(void *arg, struct bus_ctl_request *req, const char *verb, size_t argc,
			   const char *const *argv);

/* Listens on the unix socket path; errors as of bus_listen. The loop's thread, as all of the listener. */
int bus_ctl_listen(struct loop *loop, const char *path, bus_ctl_fn fn, void *arg, struct bus_ctl **out);

/* Closes and frees, unanswered requests included. NULL is ignored. */
void bus_ctl_close(struct bus_ctl *ctl);

/* Answers with success, now or later; json (NULL: "{}") is copied. One that is too long is refused with -EMSGSIZE. */
void bus_ctl_answer(struct bus_ctl_request *req, const char *json);

/* Answers with an error: err is -errno, text one line for the user. */
void bus_ctl_refuse(struct bus_ctl_request *req, int err, const char *text);

/* Requests refused because malformed, and connections refused because of their user. */
void bus_ctl_get_counters(const struct bus_ctl *ctl, uint64_t *malformed, uint64_t *refused_peers);

struct bus_ctl_result {
	int err;                     /* 0, or the -errno that the request was refused with */
	char text[BUS_CTL_TEXT_MAX]; /* why, if err is set */
	char json[BUS_CTL_JSON_MAX]; /* the answer, if not */
};

/*
 * The command line's side: one request, and waits for its answer. Blocks; needs no loop. 0 if there was an answer
 * (result->err tells which), -ECONNREFUSED or -ENOENT if nobody listens, -ETIMEDOUT, -EPIPE if the supervisor went
 * away meanwhile, -EINVAL if the words are too many or too long, -EBADMSG if the answer is malformed.
 */
int bus_ctl_call(const char *path, const char *verb, size_t argc, const char *const *argv,
		 uint64_t timeout_ns, struct bus_ctl_result *result);

#endif
