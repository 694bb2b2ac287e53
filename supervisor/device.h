/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a machine, or several that one process serves. The process, or a back end that somebody else runs, is started,
 * linked with the core, and replaced when it is lost or hangs: by a spare that waits, if there is one, else by a new one.
 * How often, and what follows when that was too often, is the device's policy. A new version of its program can take over
 * while it is in use. The machine hears of it through the device_ops; all on the loop's thread.
 */
#ifndef SUPERVISOR_DEVICE_H
#define SUPERVISOR_DEVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "child.h"
#include "vmconf.h"

enum device_state {
	DEVICE_IDLE,     /* no process: not started yet, or ended by order */
	DEVICE_STARTING, /* its active process was passed to the core; a deadline runs until both are content */
	DEVICE_UP,       /* it serves and the core knows it */
	DEVICE_CHANGING, /* its active process is told to finish, for another to take its place */
	DEVICE_STOPPING, /* told to end; the death of its last process leads to DEVICE_IDLE */
	DEVICE_WAITING,  /* it died; a timer, or the end of what remains of it, leads to DEVICE_STARTING */
	DEVICE_FAILED, /* it died too often: stays away until it is revived or the machine's next generation */
};

/* When each step of a start happened (clock_ns, 0: not yet). */
struct device_times {
	bool warm;        /* by a spare that was ready */
	uint64_t sign;    /* first sign of the predecessor's death; of a first start, 0 */
	uint64_t noticed; /* its pidfd woke us */
	uint64_t reaped;  /* ... or its anchor told us that its writes are over */
	uint64_t
	    begun; /* the start of the successor, after a back-off if there was one, or the spare taken */
	uint64_t spawned, hello, ready;
	uint64_t given;  /* its socket was passed to the core */
	uint64_t linked; /* the core has finished the handshake */
	/* As the process says, if its rings were live: begun, what was in flight resubmitted, the first completed. */
	uint64_t rings, replayed, first;
	uint32_t resubmitted, poisoned; /* requests */
	bool resumed;                   /* the core says that the rings were live */
};

struct device;

/* A property as it was set, at first or while it runs; it holds for all of its processes. */
#define DEVICE_SETS_MAX 16
struct device_set {
	char key[BUS_NAME_MAX]; /* empty: this and those behind it are free */
	char value[64];
};

/* Disks with common limits. */
struct device_group {
	const char *id;
	struct device_set set[DEVICE_SETS_MAX];
};

/* One of the devices that a process serves: what the core knows of it. */
struct device_link {
	/* For device_init. */
	char id[BUS_NAME_MAX];
	size_t conf; /* its number among the machine's settings */
	unsigned first_ring,
	    rings;           /* its part of the rings of its process, as that one's flight recorder counts */
	const char *storage; /* the file that it is in; NULL: none */
	struct device_group *group; /* whose limits hold, too; NULL: none */

	struct device *device;
	int front[KEEPER_SLOTS]; /* the front end's end of each process's socket, until the core has it; -1 */
	bool linked;             /* the core has finished the handshake */
	bool resumed;            /* ... and says that its rings were live */
	bool given, down, stale; /* device_unlinked tells */
	bool told;               /* its server has said what the present start on live rings came to */
	bool lost;               /* what it leads to is gone for good, and a port's link with it */
	uint64_t resubmitted, poisoned; /* requests, of all recoveries */
	struct device_set set[DEVICE_SETS_MAX];
};

struct device_ops {
	/* Passes the core the front end's end of a socket (the caller closes its copy) and, unless -1, what reads its
	 * flight recorder. -errno. */
	int (*hand_over)(void *arg, const struct device_link *l, int fd, const int flight[2]);
	/* It came to DEVICE_UP. */
	void (*up)(void *arg, struct device *d);
	/* It came to DEVICE_IDLE, as told. */
	void (*ended)(void *arg, struct device *d);
	/* It was given up; before the machine ever ran, wrong says that its status was that of a wrong option. */
	void (*given_up)(void *arg, struct device *d, bool wrong);
	/* The machine is ending: its processes are not replaced. */
	bool (*ending)(void *arg);
	/* Its helper serves again. */
	void (*helper_up)(void *arg, struct device *d);
	/* Its server keeps a request that failed, until it is told to try again; or what it leads to is gone. */
	void (*io_error)(void *arg, struct device_link *l, const char *text);
	/* Something else that people may want to know: a short name, and a line. */
	void (*event)(void *arg, const struct device *d, const char *kind, const char *text);
};

/* How a change that was asked for ended: err is 0 or -errno, text the answer's JSON or the reason. */
typedef void (*device_done_fn)(void *arg, int err, const char *text);

struct device_policy {
	unsigned restarts, restarts_s; /* more deaths than that in that time: given up */
	uint64_t start_ns;             /* deadline of a start */
	bool spare;
	enum vmconf_failure on_failure;
};

enum upgrade_step {
	UPGRADE_NONE,
	UPGRADE_CLEARING,  /* the spare is told to end; its slot becomes the new process's */
	UPGRADE_STARTING,  /* the new process starts beside the old one, which serves */
	UPGRADE_DRAINING,  /* the old one finishes what it has taken */
	UPGRADE_STOPPING,  /* the old one is told to end */
	UPGRADE_LINKING,   /* the core takes up the new one */
	UPGRADE_TRIAL,     /* the new one serves; should it die now, the old program takes over again */
	UPGRADE_REVERTING, /* the old program comes up again */
};

struct device_upgrade {
	enum upgrade_step step;
	size_t slot; /* of the new process */
	bool window; /* which is the window's, and else the server's */
	device_done_fn done;
	void *arg;
	uint64_t drain, stop; /* when these steps began */
	char program[KEEPER_PATH_MAX];
	char why[BUS_TEXT_MAX]; /* the old program had to come back */
};

#define DEVICE_DEATHS_MAX 1001

/* A process that a device needs besides its server (device_helper.h). */
struct device_helper {
	const char *process; /* its program; NULL: there is none */
	struct child child;
	struct loop_timer *timer; /* until it is started again */
	bool waiting;             /* ... which that timer will do */
	bool failed;              /* it died too often: stays away until it is revived */
	unsigned short_lives, restarts;
	uint64_t death[DEVICE_DEATHS_MAX]; /* ring of the times of the last deaths */
	size_t ndeaths;
	uint64_t last_noticed;
	char last_death[BUS_TEXT_MAX];
	device_done_fn revived;
	void *revived_arg;
	bool upgrading;  /* to another program: it is told to end, or that starts */
	bool was_failed; /* ... before that */
	device_done_fn upgraded;
	void *upgraded_arg;
};

/* One of the two processes of a slot that has a window (device_window.c), which died before the other. */
struct device_half {
	const struct child *child; /* NULL: both live, or none does */
	struct child_death death;
};

struct device {
	/* For device_init. */
	struct loop *loop;
	struct keeper *keeper;
	const struct device_ops *ops;
	void *arg;
	struct device_policy policy;
	const char *engine;         /* of a disk's server; NULL: there is none */
	size_t index;               /* of its first slot in the keeper's plan; the others follow */
	bool external;              /* somebody else runs its back end; there are no slots */
	bool windowed;              /* its server sees a window in place of the guest's memory */
	bool streams;               /* each of its processes gets a connection to the peer of its plan */
	const char *process, *kind; /* its program, and what that calls itself in HELLO */
	char id[BUS_NAME_MAX];      /* the device's, or the name of the process that serves several */
	bool shared;                /* the latter; their ids are those of the links */
	struct device_link link[VMCONF_SHARED_MAX];
	size_t links; /* so many */
	const int *flight,
	    *flight_reader; /* of each slot, the helper and the windows: the recorder's memory, and what reads it; kept by reference */

	enum device_state state;
	struct child slot[KEEPER_SLOTS];
	struct child window[KEEPER_SLOTS]; /* of each slot's process, if it has one */
	struct device_half first[KEEPER_SLOTS];
	size_t active;                     /* the slot that serves; the other one is the spare's */
	struct loop_timer *timer;          /* deadline or back-off, by state */
	struct loop_timer *spare_timer;    /* until a spare is started */
	struct loop_timer *trial_timer;    /* of an upgrade */
	unsigned short_lives;              /* deaths in a row without a time of service */
	unsigned absences;                 /* of an external one or a peer: connects that failed in a row */
	unsigned spare_deaths;             /* of spares, in a row */
	unsigned nrestarts;                /* all of them */
	bool away;                         /* the peer of its stream could not be connected to */
	bool slotless;                     /* it waits until nothing remains of a process before */
	bool was_up;                       /* in this generation */
	bool recovering;                   /* this start follows a death */
	bool restricted;                   /* it died too often and refuses writes since */
	uint64_t death[DEVICE_DEATHS_MAX]; /* ring of the times of the last deaths */
	size_t ndeaths;
	char last_death[BUS_TEXT_MAX];
	struct device_times now, last; /* of the present start, and of the last finished recovery */
	device_done_fn revived;
	void *revived_arg;
	struct device_upgrade upgrade;
	struct device_helper helper;
};

/* Sets up; dir is where the folders of its slots are (not of an external one). Starts nothing. -errno. */
int device_init(struct device *d, const char *dir);

/* Starts it for a new generation of the machine; former deaths are forgotten. Errors count as deaths. */
void device_start(struct device *d);

/* Ends its processes in order, and kills them after deadline_ns. ops->ended follows, at once if there is none. */
void device_stop(struct device *d, uint64_t deadline_ns);

/* The core says that the device is linked, or no more, or that its rings make no progress. */
void device_linked(struct device_link *l, bool resumed);
void device_unlinked(struct device_link *l, const char *reason);
void device_hung(struct device_link *l, const struct bus_msg *msg);

/* Its name in messages to and from its server: empty where that one serves no other. */
const char *device_link_name(const struct device_link *l);

/* Starts it again after it was given up, or with writes again; done is called when it is up, or not. */
void device_revive(struct device *d, device_done_fn done, void *arg);

/*
 * Replaces its process by one of the program at path (NULL: what is installed now). The old one is untouched until the
 * new one is ready; if that dies before it served for a while the old program takes over again. One that was given up is
 * started with the new program, or given up again with the old one. done is called when it is known how it ended. window: the
 * same with its window's program, if it has one.
 */
void device_upgrade(struct device *d, bool window, const char *path, device_done_fn done, void *arg);

/* The process of whose set this is took a change of a property, or is told of it as it starts. */
void device_note_set(struct device_set *set, const char *key, const char *value);

/* It, or what it needs, died too often and stays away. */
bool device_has_failed(const struct device *d);

/* Takes over from a supervisor that died, with the plain fields as that one left them. -errno. */
int device_adopt(struct device *d);

/* A device's part of the status; a new reference, NULL without memory. */
json_t *device_json(const struct device_link *l);

void device_fini(struct device *d);

/* It has a window, which is called that. */
bool device_has_window(const struct device *d, const char *id);

/* What every process's status has: id, program, state, process id, messages. */
const char *device_child_state(const struct child *child);
json_t *device_child_json(const char *id, const char *process, const char *state, const struct child *child);

#endif
