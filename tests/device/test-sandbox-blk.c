/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of the real blk-server while it serves: its ids, capabilities, filters, namespaces, mounts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "probe.h"
#include "rig.h"

#define DEADLINE_NS (40 * NS_PER_S)

/* Serves requests until both filters are in force, which is after the front end's first questions. */
static void serve_until_steady(struct rig *rig)
{
	uint64_t gpa = rig_alloc(rig, 4096, 4096), deadline = clock_ns() + DEADLINE_NS;
	char filters[16] = "";

	do {
		cr_assert_eq(rig_request(rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
		cr_assert_not_null(probe_status(rig->pid, "Seccomp_filters", filters, sizeof(filters)));
	} while (strtoul(filters, NULL, 10) < 2 && clock_ns() < deadline);
}

Test(sandbox_blk, the_serving_process_is_confined, .timeout = 60)
{
	struct rig_options options = { .queues = 2 };
	const char *wrong;
	struct rig rig;

#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	rig_start(&rig, &options);
	serve_until_steady(&rig);
	wrong = probe_check_state(rig.pid, geteuid() == 0 ? SANDBOX_NOBODY : geteuid(), 2, false);
	cr_assert_null(wrong, "%s", wrong);
	cr_assert_eq(probe_mounts(rig.pid), 1);
	rig_stop(&rig);
}
