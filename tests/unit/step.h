/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every state in which a process can leave shared memory when it is killed: the process is run one instruction
 * at a time, and each time the memory has changed, a copy is kept.
 */
#ifndef UNIT_STEP_H
#define UNIT_STEP_H

#include <stddef.h>
#include <stdint.h>

struct steps {
	uint8_t **copies; /* n, each of len bytes; the first is of before the first instruction */
	unsigned n;
	size_t len;
};

/* Runs action(arg) in a child and fills *steps with what becomes of the len shared bytes at area. 0, or -errno if
 * this process may not trace (then nothing was run). The child's exit status must be 0, else -ECHILD. */
int step_run(void (*action)(void *arg), void *arg, uint8_t *area, size_t len, struct steps *steps);
void step_free(struct steps *steps);

#endif
