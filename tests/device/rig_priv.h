/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the rig share: where a request's parts lie, and the server's process. */
#ifndef RIG_PRIV_H
#define RIG_PRIV_H

#define HEADER_STEP 32
#define STATUS_AT   16 /* behind the header */

struct rig;

/* Starts the program, confined as a supervisor would, or as a person does; our end of the connection. */
int rig_spawn(struct rig *rig);
int rig_spawn_by_hand(struct rig *rig);
/*
 * Kills a server that was started by hand, and its guardian, and waits for the server's end. Killing the guardian alone ends a
 * confined server some time later, and another one only when it has finished its requests: it listens until then.
 */
void rig_kill_guarded(struct rig *rig);

/* Another connection to one that was started by hand. */
int rig_dial(struct rig *rig);

/* Kills one that was not. */
void rig_kill_processes(struct rig *rig);

/* Reaps the process: its exit status, or 128 and the signal. */
int rig_wait_end(struct rig *rig);

#endif
