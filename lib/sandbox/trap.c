/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process says before it dies of a forbidden system call.
 *
 * Theory of operation. The filters answer a forbidden call by SIGSYS in the thread that made it (SECCOMP_RET_TRAP); the
 * call itself is never carried out. The handler notes number, architecture and thread, writes one line, and makes
 * a call that every filter answers by killing the whole process (SANDBOX_CALL_DIE). That is the only way out of it. It
 * allocates nothing, takes no lock and returns nowhere, and every signal is blocked in it: if one of its own calls is
 * forbidden too, the kernel finds SIGSYS blocked, puts its disposition back to default and kills. The same happens in a
 * thread that blocks the signal, in a process that ignores it or has no handler, and where the stack can't take
 * the frame: whoever can't run the handler dies without a word, but dies.
 *
 * No filter in force allows rt_sigaction for SIGSYS, so the handler can't be replaced by who took the process over.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox_priv.h"
#include "thread.h"

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* the si_code; glibc has it only lately */
#endif

#define PREFIX_MAX 128
#define X32_BIT    0x40000000

static struct sandbox_trap trap;
static char prefix[PREFIX_MAX];

/* A line in the making; async-signal-safe. */
struct line {
	char text[PREFIX_MAX + 160];
	size_t len;
};

static void add_text(struct line *line, const char *text)
{
	while (*text && line->len < sizeof(line->text))
		line->text[line->len++] = *text++;
}

static void add_number(struct line *line, unsigned long value, unsigned base)
{
	char digits[20];
	size_t n = sizeof(digits);

	digits[--n] = '\0';
	do
		digits[--n] = "0123456789abcdef"[value % base];
	while ((value /= base) && n);
	add_text(line, digits + n);
}

static void write_line(int nr, uint32_t arch, const char *thread)
{
	struct line line = { .len = 0 };

	add_text(&line, prefix);
	add_text(&line, "forbidden system call ");
	add_number(&line, (unsigned)nr, 10);
	add_text(&line, ", architecture 0x");
	add_number(&line, arch, 16);
	if (*thread) {
		add_text(&line, ", thread ");
		add_text(&line, thread);
	}
	add_text(&line, "\n");
	if (write(STDERR_FILENO, line.text, line.len) < 0)
		return; /* nobody listens */
}

static void on_sigsys(int signal, siginfo_t *info, void *context)
{
	const char *thread = thread_get_name();

	(void)signal;
	(void)context;
	if (info->si_code != SYS_SECCOMP)
		return; /* somebody sent it, and could have sent SIGKILL: where no rule allows to return, it ends here */
	if (trap.note)
		trap.note(trap.arg, info->si_syscall, info->si_arch, thread);
	write_line(info->si_syscall, info->si_arch, thread);
	syscall(SANDBOX_CALL_DIE);
	__builtin_trap();
}

int sandbox_set_trap(const struct sandbox_trap *new)
{
	struct sigaction sa = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO };

	trap = *new;
	snprintf(prefix, sizeof(prefix), "%s", new->prefix);
	trap.prefix = prefix;
	sigfillset(&sa.sa_mask);
	return sigaction(SIGSYS, &sa, NULL) < 0 ? -errno : 0;
}

void sandbox_describe_call(int nr, uint32_t arch, char *out, size_t size)
{
	bool x32 = arch == AUDIT_ARCH_X86_64 && nr >= X32_BIT;
	const char *arch_name = x32                         ? "x32"
				: arch == AUDIT_ARCH_X86_64 ? "x86_64"
				: arch == AUDIT_ARCH_I386   ? "i386"
							    : NULL;
	char *name = nr < 0 ? NULL : seccomp_syscall_resolve_num_arch(x32 ? SCMP_ARCH_X32 : arch, nr);
	char number[16];

	snprintf(number, sizeof(number), "0x%x", arch);
	snprintf(out, size, "%s (%d, %s)", name ? name : "unknown", nr, arch_name ? arch_name : number);
	free(name);
}
