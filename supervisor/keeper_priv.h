/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's inside: what it is asked and answers, and what its files share. */
#ifndef SUPERVISOR_KEEPER_PRIV_H
#define SUPERVISOR_KEEPER_PRIV_H

#include <stdint.h>

#include "bus_msg.h"
#include "report.h"
#include "keeper.h"
#include "program.h"
#include "state.h"

/* Between a keeper and an adopter, which may be of another version. Its children speak the bus as their supervisor did, and
 * share its devices' state. */
#define KEEPER_PROTOCOL 8
_Static_assert(BUS_PROTOCOL == 7, "with another bus protocol KEEPER_PROTOCOL is another, too");
_Static_assert(STATE_BYTES == 32768, "the same with another state");

/* KEEPER_FINISH has no answer but the keeper's end, KEEPER_REPORT none at all. */
enum keeper_verb {
	KEEPER_SPAWN = 1,
	KEEPER_REAP,
	KEEPER_KILL,
	KEEPER_CONNECT,
	KEEPER_PROGRAM,
	KEEPER_SAME_PROGRAM,
	KEEPER_FORGET, /* what it holds of a child's front end */
	KEEPER_FETCH,  /* all that it has of a child */
	KEEPER_RECORDER,
	KEEPER_QUIET,  /* whether transfers of a device may go on */
	KEEPER_SETTLE, /* an adopter's stderr, and its terminal if it has one */
	KEEPER_REPORT, /* of the process that was last reaped of a child */
	KEEPER_FINISH,
	KEEPER_VERBS
};

struct keeper_request {
	uint32_t verb, child;
	uint32_t number; /* of this request; its answer has it, too */
	uint32_t option; /* of SPAWN: restricted; of SAME_PROGRAM: the other child; of QUIET: the device */
	uint32_t nheld;  /* of SPAWN: how many of its descriptors, the last ones, are to be held */
	union {
		char path[KEEPER_PATH_MAX]; /* of PROGRAM; empty: the plan's */
		char text[REPORT_TEXT_MAX]; /* of REPORT */
	};
	struct termios settings; /* of SETTLE with a terminal */
};

/* Also the first thing that an adopter hears: err, or the protocol as status and what there is of the rest as mask. */
struct keeper_answer {
	int32_t err, pid, code, status;
	uint32_t number; /* of the request */
	uint32_t serial; /* of SPAWN and FETCH */
	uint32_t mask;   /* of FETCH and to an adopter: which descriptors came along, in order */
	char what[128];
};

/* A report that is to be written. */
struct keeper_report {
	size_t child;
	struct timespec when;  /* it was reaped */
	struct flight *flight; /* what it had recorded; NULL: nothing */
	char text[REPORT_TEXT_MAX];
};

#define KEEPER_REPORTS_MAX 8

struct keeper_reports {
	struct keeper_report report[KEEPER_REPORTS_MAX]; /* in order; the first one is being written */
	size_t n;
	int writer; /* pidfd of who writes it; -1 */
	int result; /* ... and the pipe in which that says how it went */
};

/* The keeper's state. */
struct keeper_self {
	const struct keeper_plan *plan;
	struct program program[KEEPER_CHILDREN_MAX];
	int sock;          /* to the supervisor; -1: there is none */
	int listener;      /* for adopters; -1 unless the machine outlives its supervisor */
	int supervisor_fd; /* pidfd, or -1 */
	pid_t supervisor;
	bool finished;   /* it took its leave */
	unsigned starts; /* so far */
	unsigned serial[KEEPER_CHILDREN_MAX];
	pid_t pid[KEEPER_CHILDREN_MAX];
	int pidfd[KEEPER_CHILDREN_MAX];
	int held[KEEPER_CHILDREN_MAX][KEEPER_HELD_MAX];
	struct flight
	    *last[KEEPER_CHILDREN_MAX]; /* what the one that was reaped last had recorded, or NULL */
	struct timespec reaped[KEEPER_CHILDREN_MAX];  /* ... and when that was */
	unsigned long oom_kills[KEEPER_CHILDREN_MAX]; /* in its control group, so far */
	struct keeper_reports reports;
	int terminal; /* as in the plan, of the present supervisor */
	struct termios settings;
};

/* ---- keeper.c ---- */

/* The keeper's life; listener is -1 or the socket of keeper_listen. */
__attribute__((noreturn)) void keeper_main(const struct keeper_plan *plan, int sock, int listener,
					   int supervisor_fd);

/* ---- keeper_alone.c ---- */

/* The socket on which adopters knock. -errno. */
int keeper_listen(const struct keeper_plan *plan);

/* Somebody knocked: it is let in as the supervisor if it may and there is none. */
void keeper_answer_door(struct keeper_self *s);

/* Whether the machine can do without a supervisor: if that is wanted, and from when all of it is started. */
bool keeper_can_stay(const struct keeper_self *s);

/* Standard streams that are the supervisor's are held no longer. */
void keeper_drop_streams(void);

/* The supervisor is gone: makes sure of it, says what became of it, and makes all ready for an adopter. */
void keeper_stay_alone(struct keeper_self *s);

/* The machine ends: cleans up, and says what became of the supervisor unless it took its leave. */
void keeper_end(struct keeper_self *s, void (*clean_up)(struct keeper_self *s));

/* ---- keeper_report.c ---- */

/* Has a report written of the process of child i that was last reaped, after those that wait; if too many do, it is not. */
void keeper_add_report(struct keeper_self *s, size_t i, const char *text);

/* The pidfd s->reports.writer is readable. */
void keeper_report_written(struct keeper_self *s);

/* The keeper ends: gives the reports that are left a moment. */
void keeper_end_reports(struct keeper_self *s);

#endif
