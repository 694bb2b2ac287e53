/* SPDX-License-Identifier: Apache-2.0 */
/* An image on storage that holds requests for as long as a test wants. */
#include "slow_file.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "temp_dir.h"

void slow_file_expect(struct slow_file *s, const char *line)
{
	char text[32] = "";

	cr_assert_not_null(fgets(text, sizeof(text), s->words), "slow-file is gone");
	text[strcspn(text, "\n")] = '\0';
	cr_assert_str_eq(text, line);
}

void slow_file_tell(struct slow_file *s, int sig, const char *answer)
{
	cr_assert_eq(kill(s->pid, sig), 0);
	slow_file_expect(s, answer);
}

static void start_program(struct slow_file *s)
{
	const char *top = getenv("top_builddir");
	char program[4096], ready[32] = "";
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	snprintf(program, sizeof(program), "%s/tests/support/slow-file", top ? top : "../..");
	s->pid = fork();
	cr_assert_geq(s->pid, 0);
	if (!s->pid) {
		prctl(PR_SET_PDEATHSIG, SIGTERM); /* a failed test leaves none behind */
		dup2(ends[1], 1);
		close(ends[0]);
		close(ends[1]);
		execl(program, "slow-file", s->file, s->backing, NULL);
		_exit(127);
	}
	close(ends[1]);
	s->words = fdopen(ends[0], "r");
	if (!fgets(ready, sizeof(ready), s->words) || strcmp(ready, "ready\n"))
		cr_skip_test("no FUSE file can be mounted here");
}

void slow_file_start(struct slow_file *s, uint64_t bytes)
{
	int fd;

	if (geteuid() != 0)
		cr_skip_test("only root can mount a file of its own");
	cr_assert(temp_dir_make(s->dir, sizeof(s->dir)));
	snprintf(s->file, sizeof(s->file), "%s/slow", s->dir);
	snprintf(s->backing, sizeof(s->backing), "%s/backing", s->dir);
	fd = open(s->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	close(fd);
	s->backing_fd = open(s->backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_geq(s->backing_fd, 0);
	cr_assert_eq(ftruncate(s->backing_fd, (off_t)bytes), 0);
	start_program(s);
}

void slow_file_stop(struct slow_file *s)
{
	int status;

	kill(s->pid, SIGTERM);
	cr_assert_eq(waitpid(s->pid, &status, 0), s->pid);
	fclose(s->words);
	close(s->backing_fd);
	unlink(s->backing);
	unlink(s->file);
	rmdir(s->dir);
}
