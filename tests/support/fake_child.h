/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of fake-child share. */
#ifndef FAKE_CHILD_H
#define FAKE_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "bus.h"
#include "flight.h"
#include "loop.h"

#define DEVICES_MAX 16

struct device {
	char id[BUS_NAME_MAX];
	int fd;
	bool rejected;
	bool ended; /* its connection, and there is no other one that the supervisor heard of */
	struct loop_fd *watch;
};

struct fake {
	bool core, user, window, mute, deaf, stay, silent_down, said_ready, active, late, runs, restricted,
	    ignore, reject;
	struct loop_timer *exit_timer, *ready_timer;
	struct loop_fd *command_watch;
	char dir[200];
	const char *id, *bus_dir, *kind;
	char script[512];
	char device_name[BUS_NAME_MAX]; /* which of the devices that it serves it speaks of */
	int desc_fd, console_fd, vhost_fd, anchor_fd, packet_fd, flight_fd, server_fd;
	struct flight *flight;
	struct flight_ring log;
	struct loop *loop;
	struct bus *bus;
	struct bus_msg ended; /* BUS_NONE: the guest runs */
	struct device device[DEVICES_MAX];
	size_t declared, linked;
	FILE *commands;
};
extern struct fake fake;

/* ---- fake-child.c ---- */

/* The value of "word=N" in the script, -1 if it is not there; a bare word is 1. */
int fake_script_word(const char *word);

/* What tells it from the server of the same device. */
const char *fake_end_of_id(void);

void fake_send_event(const struct bus_msg *msg);

/* Once, unless the script has it not be. */
void fake_say_ready(void);

void fake_join_bus(void);

/* ---- fake_command.c ---- */

/* Takes commands from here on: those of a spare, until it is none any more. */
void fake_open_commands(void);

void fake_flood(int lines);
void fake_end_guest(const char *how);

/* ---- fake_core.c ---- */

/* Says once more, to a supervisor that may not know, which devices' connections ended. */
void fake_core_repeat(void);

/* Says what there is to say of its devices. */
void fake_core_progress(void);

void fake_core_on_descriptor(void *arg, uint32_t events);
void fake_core_on_console(void *arg, uint32_t events);

#endif
