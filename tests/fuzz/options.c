/* SPDX-License-Identifier: Apache-2.0 */
/* How the address sanitizer is to run under the fuzzer. */

const char *__asan_default_options(void);

/* What was freed is kept for a while, not for hundreds of megabytes; a failed allocation is the program's affair. */
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=8:allocator_may_return_null=1:detect_stack_use_after_return=0";
}
