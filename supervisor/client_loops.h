/* SPDX-License-Identifier: Apache-2.0 */
/* The answer of `bulkhead ctl NAME loops`, for people. */
#ifndef SUPERVISOR_CLIENT_LOOPS_H
#define SUPERVISOR_CLIENT_LOOPS_H

#include <jansson.h>
#include <stdbool.h>

/* Completes the answer by what the kernel says of each thread, and prints it. */
void client_loops(json_t *root, bool as_json);

#endif
