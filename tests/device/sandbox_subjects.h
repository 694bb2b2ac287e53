/* SPDX-License-Identifier: Apache-2.0 */
/* Whose tables test-sandbox tries, and the tables themselves. */
#ifndef SANDBOX_SUBJECTS_H
#define SANDBOX_SUBJECTS_H

#include "blk-server/syscalls.h"
#include "nbd-dial/syscalls.h"
#include "net-server/syscalls.h"
#include "net-user/syscalls.h"
#include "probe.h"
#include "supervisor/syscalls.h"
#include "vmm-core/syscalls.h"
#include "window/syscalls.h"

extern const struct sandbox_rule *const server_stage_one[],
    *const server_steady[], *const server_steady_bus[], *const server_io[];

#define SANDBOX_LIMITS                                                                                       \
	{                                                                                                    \
		.files = 64, .processes = 64, .file_size = UINT64_MAX, .memlock = 65536                      \
	}

/* The first has nothing but what all processes share. */
extern const struct probe_subject sandbox_subjects[];
extern const size_t sandbox_subjects_n;

#endif
