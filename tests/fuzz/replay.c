/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In libFuzzer's place where a compiler has none: feeds the files, and those of the folders, that are named as arguments
 * to the target, each once, and tells how many they were.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned count;

static int feed(const char *path)
{
	uint8_t *data = NULL;
	struct stat st;
	FILE *file = fopen(path, "rb");
	size_t len;

	if (!file || fstat(fileno(file), &st) < 0) {
		perror(path);
		if (file)
			fclose(file);
		return 1;
	}
	/* Of its very size, so that a read behind its end is seen. */
	len = (size_t)st.st_size;
	data = malloc(len ? len : 1);
	if (!data || fread(data, 1, len, file) != len) {
		fprintf(stderr, "%s: can't be read\n", path);
		fclose(file);
		free(data);
		return 1;
	}
	fclose(file);
	fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, len);
	free(data);
	count++;
	return 0;
}

static int feed_folder(const char *path, DIR *dir)
{
	struct dirent *entry;
	int status = 0;

	while (!status && (entry = readdir(dir))) {
		char *file;

		if (entry->d_name[0] == '.')
			continue;
		if (asprintf(&file, "%s/%s", path, entry->d_name) < 0)
			return 1;
		status = feed(file);
		free(file);
	}
	return status;
}

int main(int argc, char **argv)
{
	int status = 0;

	for (int i = 1; i < argc && !status; i++) {
		DIR *dir = opendir(argv[i]);

		status = dir ? feed_folder(argv[i], dir) : feed(argv[i]);
		if (dir)
			closedir(dir);
	}
	printf("%u inputs\n", count);
	return status;
}
