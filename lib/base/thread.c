/* SPDX-License-Identifier: Apache-2.0 */
/* Names of threads, kept beside the kernel's own because reading that takes a call that filters forbid; their stacks. */
#include "thread.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>

#define STACK_BYTES (1UL << 20)

static _Thread_local char own_name[THREAD_NAME_MAX];

void thread_set_name(const char *name)
{
	snprintf(own_name, sizeof(own_name), "%s", name);
	prctl(PR_SET_NAME, own_name);
}

const char *thread_get_name(void)
{
	return own_name;
}

int thread_shrink_stacks(void)
{
	pthread_attr_t attr;
	int err = pthread_attr_init(&attr);

	if (!err)
		err = pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!err)
		err = pthread_setattr_default_np(&attr);
	return -err;
}
