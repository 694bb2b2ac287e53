/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead image`: its words, the file that they name, and what is printed of it. */
#include "image.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "files.h"
#include "image_work.h"
#include "machine.h"
#include "parse.h"

static void help(FILE *to)
{
	fputs("usage: bulkhead image snapshots [--json] FILE\n"
	      "       bulkhead image revert FILE SNAPSHOT\n"
	      "Lists the snapshots in a qcow2 image, or makes its disk what it was at one, by id or name.\n"
	      "No machine may write to the image meanwhile, and for revert none may use it.\n\n"
	      "  --json            print the list as JSON\n"
	      "  --sandbox on|off  confine the process that reads the image (default: on)\n"
	      "  --help            print this and exit\n",
	      to);
}

/* ---- words ---- */

struct image {
	bool help, json, sandbox;
	const char *word[3]; /* what to do, FILE, SNAPSHOT */
	int nwords;
	bool revert;
};

static int refuse(const char *word, const char *why)
{
	fprintf(stderr, "bulkhead: image: \"%s\": %s\n", word, why);
	return EXIT_CONFIG;
}

static int read_sandbox(struct image *im, const char *value)
{
	int on = value ? parse_on_off(value) : -EINVAL;

	im->sandbox = on > 0;
	return on < 0 ? refuse("--sandbox", "needs a value: on or off") : 0;
}

static int read_words(struct image *im, int argc, char **argv)
{
	int err = 0;

	for (int i = 0; i < argc && !err; i++) {
		const char *word = argv[i];

		if (!strcmp(word, "--help") || !strcmp(word, "-h"))
			im->help = true;
		else if (!strcmp(word, "--json"))
			im->json = true;
		else if (!strncmp(word, "--sandbox=", 10))
			err = read_sandbox(im, word + 10);
		else if (!strcmp(word, "--sandbox"))
			err = read_sandbox(im, ++i < argc ? argv[i] : NULL);
		else if (*word == '-')
			err = refuse(word, "no such option; allowed: --json, --sandbox on|off, --help");
		else if (im->nwords == 3)
			err = refuse(word, "one word too many; --help tells what is allowed");
		else
			im->word[im->nwords++] = word;
	}
	return err;
}

static int check_words(struct image *im)
{
	if (!im->nwords) {
		help(stderr);
		return EXIT_CONFIG;
	}
	im->revert = !strcmp(im->word[0], "revert");
	if (!im->revert && strcmp(im->word[0], "snapshots"))
		return refuse(im->word[0], "no such request; allowed: snapshots, revert");
	if (im->nwords != 2 + im->revert)
		return refuse(im->word[0], im->revert ? "needs FILE and SNAPSHOT after it"
						      : "needs FILE after it, and nothing else");
	if (im->revert && im->json)
		return refuse("--json", "goes with snapshots only");
	return 0;
}

/* ---- what is said of the image ---- */

/* A program that was taken over may say anything, and a name may be anything: what a terminal would obey goes, and what is
 * no UTF-8. */
static void make_printable(char *text, size_t size)
{
	json_t *utf8;
	bool ascii;

	text[size - 1] = '\0';
	utf8 = json_string(text);
	ascii = !utf8;
	json_decref(utf8);
	for (unsigned char *c = (unsigned char *)text; *c; c++) {
		bool control = *c < ' ' || *c == 0x7f || (*c == 0xc2 && c[1] < 0xa0); /* U+0080 to U+009F */

		if (control && *c == 0xc2 && !ascii)
			*c++ = '?';
		if (control || (ascii && *c > '~'))
			*c = '?';
	}
}

static void print_snapshot(const struct qcow2_snapshot *s)
{
	time_t seconds = (time_t)s->time;
	char when[40] = "?";
	struct tm tm;

	if (localtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%-6s %-19s %14llu %14llu  %s\n", s->id, when, (unsigned long long)s->bytes,
	       (unsigned long long)s->vm_state, s->name);
}

static json_t *snapshot_json(const struct qcow2_snapshot *s)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I}", "id", s->id, "name", s->name, "time",
			 (json_int_t)s->time, "bytes", (json_int_t)s->bytes, "vm_state_bytes",
			 (json_int_t)s->vm_state);
}

/* Takes all that the process says. The exit status; -1 if it ended before it had said the last word. */
/* What the format allows, and lib/qcow2 takes. */
#define SNAPSHOTS_MAX 65536

static int listen_to(const struct image *im, int from, json_t *list)
{
	const char *path = im->word[1];
	struct image_record r;
	unsigned snapshots = 0;

	while (!fd_read_full(from, &r, sizeof(r))) {
		make_printable(r.why, sizeof(r.why));
		make_printable(r.snapshot.id, sizeof(r.snapshot.id));
		make_printable(r.snapshot.name, sizeof(r.snapshot.name));
		switch (r.said) {
		case IMAGE_SNAPSHOT:
			if (snapshots++ == SNAPSHOTS_MAX)
				return -1; /* it is not our program any more that speaks */
			if (snapshots == 1 && !im->json)
				printf("%-6s %-19s %14s %14s  %s\n", "ID", "TIME", "DISK BYTES",
				       "STATE BYTES", "NAME");
			if (im->json)
				json_array_append_new(list, snapshot_json(&r.snapshot));
			else
				print_snapshot(&r.snapshot);
			break;
		case IMAGE_DONE:
			if (im->revert)
				printf("%s: reverted to snapshot %s\n", path, im->word[2]);
			else if (!snapshots && !im->json)
				printf("%s: no snapshots\n", path);
			return 0;
		case IMAGE_ABSENT:
			fprintf(stderr,
				"bulkhead: image: \"%s\": there is no snapshot \"%s\"; bulkhead image "
				"snapshots %s lists all\n",
				path, im->word[2], path);
			return EXIT_CONFIG;
		case IMAGE_REFUSED:
			refuse(path, r.why);
			return EXIT_CONFIG;
		case IMAGE_FAILED:
			fprintf(
			    stderr,
			    "bulkhead: image: \"%s\": it can't be reverted: %s; its disk is as it was, or "
			    "as it is to be, and it may have leaks, which qemu-img check -r leaks frees\n",
			    path, r.why);
			return EXIT_INTERNAL;
		default:
			return -1;
		}
	}
	return -1;
}

static int say_ended(const struct image *im, int status)
{
	if (WIFSIGNALED(status))
		fprintf(stderr,
			"bulkhead: image: \"%s\": the process that reads it was ended by signal %d (%s)\n",
			im->word[1], WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		fprintf(stderr,
			"bulkhead: image: \"%s\": the process that reads it ended without an answer\n",
			im->word[1]);
	return EXIT_INTERNAL;
}

/* Opens and locks FILE as a disk's image is, so that no machine has it. */
static int open_file(const struct image *im, struct image_job *job)
{
	char *path = strdup(im->word[1]);
	const struct vmconf_disk disk = { .path = path, .readonly = !im->revert, .cache = CACHE_BUFFERED };
	struct vmconf_error error;
	struct stat st;
	bool direct;

	job->fd = path ? files_open_image(&disk, &direct, &error) : -ENOMEM;
	if (!path)
		snprintf(error.text, sizeof(error.text), "out of memory");
	free(path);
	if (job->fd < 0) {
		fprintf(stderr, "bulkhead: image: %s\n", error.text);
		return EXIT_CONFIG;
	}
	job->device = !fstat(job->fd, &st) && S_ISBLK(st.st_mode);
	return 0;
}

static int run(const struct image *im)
{
	struct image_job job = { .fd = -1,
				 .sandbox = im->sandbox,
				 .revert = im->revert ? im->word[2] : NULL };
	CLEAN_FD int fd = -1, from = -1;
	const char *what = "";
	json_t *list;
	int status = open_file(im, &job), ended = 0;
	pid_t pid;

	if (status)
		return status;
	fd = job.fd;
	status = image_work_start(&job, &pid, &from, &what);
	if (status) {
		fprintf(stderr, "bulkhead: image: no process can be started to read \"%s\" (%s): %s\n",
			im->word[1], what, strerror(-status));
		return EXIT_INTERNAL;
	}
	list = json_array();
	status = listen_to(im, from, list);
	/* What it does after its last word is not waited for. */
	kill(pid, SIGKILL);
	while (waitpid(pid, &ended, 0) < 0 && errno == EINTR)
		;
	if (status < 0)
		status = say_ended(im, ended);
	else if (!status && im->json)
		status = json_dumpf(list, stdout, JSON_INDENT(2)) || putchar('\n') == EOF ? EXIT_INTERNAL : 0;
	json_decref(list);
	return fflush(stdout) && !status ? EXIT_INTERNAL : status;
}

int image_command(int argc, char **argv)
{
	struct image im = { .sandbox = true };
	int err = read_words(&im, argc, argv);

	if (!err && im.help) {
		help(stdout);
		return 0;
	}
	if (!err)
		err = check_words(&im);
	return err ? err : run(&im);
}
