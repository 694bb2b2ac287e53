/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside a program under test: the Nth allocation fails (the order alloc=LABEL:N of crashes.h), and says so on standard
 * error. Stands in front of the C library's functions for the whole process, its libraries included but for
 * libseccomp: without memory, seccomp_export_bpf of 2.5.4 crashes or leaves rules out of the filter, which is nothing that
 * its caller could do something about.
 */
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "crashes.h"

static _Atomic int64_t left =
    -1; /* allocations that succeed before the one that fails; below 0: no more fails */

static uintptr_t spared, spared_end; /* where libseccomp's code is */

static int find_spared(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	if (!strstr(info->dlpi_name, "libseccomp"))
		return 0;
	spared = spared_end = info->dlpi_addr;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		uintptr_t end = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type == PT_LOAD && end > spared_end)
			spared_end = end;
	}
	return 1;
}

void fail_alloc_at(int64_t number)
{
	dl_iterate_phdr(find_spared, NULL);
	atomic_store(&left, number - 1);
}

/* A sanitizer's own functions stand there. */
#ifndef BH_SANITIZE

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static int fails(void *caller)
{
	if ((uintptr_t)caller >= spared && (uintptr_t)caller < spared_end)
		return 0;
	if (atomic_load_explicit(&left, memory_order_relaxed) < 0 || atomic_fetch_sub(&left, 1) != 0)
		return 0;
	if (write(STDERR_FILENO, FAIL_ALLOC_TOLD "\n", sizeof(FAIL_ALLOC_TOLD)) < 0)
		_exit(CRASHES_STATUS);
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(align, size);
}

#endif
