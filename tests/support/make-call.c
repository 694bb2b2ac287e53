/* SPDX-License-Identifier: Apache-2.0 */
/* make-call PID THREAD NR [32]: inject_call for shell tests. Exits 77 if this user may not trace the process. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inject.h"

int main(int argc, char **argv)
{
	int err;

	if (argc < 4 || argc > 5 || (argc == 5 && strcmp(argv[4], "32"))) {
		fprintf(stderr, "usage: make-call PID THREAD NR [32]\n");
		return 2;
	}
	err = inject_call((pid_t)atoi(argv[1]), argv[2], atol(argv[3]), argc == 5);
	if (err)
		fprintf(stderr, "make-call: %s\n", strerror(-err));
	if (err == -EPERM || err == -EACCES)
		return 77;
	return err ? 1 : 0;
}
