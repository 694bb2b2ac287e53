/* SPDX-License-Identifier: Apache-2.0 */
/* A machine's life: generations of a core and its device processes, from the first start to the last end. */
#ifndef SUPERVISOR_MACHINE_H
#define SUPERVISOR_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "bus_ctl.h"
#include "bus_events.h"
#include "child.h"
#include "clock.h"
#include "console.h"
#include "device.h"
#include "keeper.h"
#include "loop.h"
#include "plan.h"
#include "rundir.h"
#include "vmconf.h"

/* What `bulkhead run` exits with; bulkhead(1) documents them. */
enum exit_code {
	EXIT_POWEROFF = 0, /* or ended as asked */
	EXIT_INTERNAL = 1,
	EXIT_CONFIG = 2,
	EXIT_PANIC = 3,
	EXIT_CRASH = 4,
	EXIT_CORE = 5,
	EXIT_DEVICE = 6,
};

#define CORE_ANSWER_NS (10 * NS_PER_S) /* for the core to do what it is asked for */

enum machine_state {
	MACHINE_STARTING,       /* processes start; ends when all are up and the core has taken RESUME */
	MACHINE_RUNNING,        /* vCPUs run; devices may die and come back */
	MACHINE_PAUSED,         /* vCPUs stand, on request; RESUME leads back */
	MACHINE_ENDING_CORE,    /* the core was told to end; when it is gone, the servers are */
	MACHINE_ENDING_SERVERS, /* when all are gone: a new generation, or MACHINE_ENDED */
	MACHINE_ENDED,          /* the loop stops */
};

struct machine {
	const struct vmconf *conf;
	const struct rundir *dir;
	const struct plan_files *files;
	struct keeper *keeper;
	struct console *console;
	struct loop *loop;
	struct loop_meter meter; /* of it */
	enum machine_state state;
	struct child core;
	struct device
	    device[VMCONF_DEVICES_MAX]; /* as in conf, but for those that share a process: they are one */
	size_t ndevices;
	struct device_group group[VMCONF_GROUPS_MAX]; /* as in conf */
	int desc_fd; /* our end of the socket on which the core gets descriptors */
	unsigned generation;
	bool again;         /* a new generation follows the end */
	bool asked;         /* somebody asked for the end */
	bool device_failed; /* a device was given up while the guest ran */
	bool ever_ran;
	int status; /* to exit with */
	uint64_t begun, running_since;
	uint64_t crash[DEVICE_DEATHS_MAX]; /* ring of the times of restarts after crashes */
	size_t ncrashes;
	bool failed[VMCONF_DEVICES_MAX]; /* of devices that were given up: the guest was told */
	struct loop_timer *fail_timer;   /* tries that again */
	struct loop_timer *grace;        /* until a guest that was asked to power off is ended */
	struct loop_bh ended_bh;         /* looks whether all processes have ended */
	struct loop_fd *signal_watch, *keeper_watch;
	int signal_fd;
	struct bus_ctl *ctl;
	struct bus_events *events;
	struct bus_ctl_request *pending; /* a pause or resume that the core has not answered */
	enum bus_type wanted;            /* which of them, for a successor */
	char io_error[BUS_TEXT_MAX];     /* why it stands, if no person asked for that; empty: none */
	struct saved *saved;             /* NULL unless the machine outlives its supervisor */
};

/* Sets up all that needs no process; signals of the caller's mask arrive on signal_fd. -errno, *what the step. */
int machine_init(struct machine *m, int signal_fd, const char **what);

/* Takes over what a supervisor that died left, after machine_init and saved_read. -errno. */
int machine_adopt(struct machine *m);

/* Starts the first generation, unless the machine was taken over, and runs until the last one has ended; the exit status. */
int machine_run(struct machine *m);

/* Takes in the last log lines, and lets who watches events have the last ones. Loop and other endpoints end with the process. */
void machine_fini(struct machine *m);

/* ---- what ctl.c and the console ask for ---- */

/* Ends in order; status is to be exited with, unless again starts a new generation. */
void machine_end(struct machine *m, int status, bool again);

/* As the user wishes: now, or by the power button and a time of grace. */
void machine_quit(struct machine *m);
void machine_power_off(struct machine *m);

/* The device of that id, or NULL; and what serves it, which can also be had by its own name. */
struct device_link *machine_link(struct machine *m, const char *id);
struct device *machine_device(struct machine *m, const char *id);

/* The device whose helper goes by that id, its own with an end; or NULL. */
struct device *machine_helped(struct machine *m, const char *id);

/* The device whose window has this id, or NULL. */
struct device *machine_windowed(struct machine *m, const char *id);

const char *machine_state_name(const struct machine *m);

__attribute__((format(printf, 4, 5))) void machine_publish(struct machine *m, const char *source,
							   const char *kind, const char *fmt, ...);

/* ctl.c: opens the endpoints of ctl and events. -errno. */
int ctl_open(struct machine *m);

/* ctl.c: asks the core for what is wanted, which may be a predecessor's wish. */
void ctl_ask_again(struct machine *m);

/* ctl.c: the state of all as JSON, to be freed; NULL if there is no memory. */
char *ctl_status_json(const struct machine *m);

#endif
