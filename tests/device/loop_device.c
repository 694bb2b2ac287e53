/* SPDX-License-Identifier: Apache-2.0 */
/* A block device for a test. */
#include "loop_device.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "temp_dir.h"

int loop_device(char *device, size_t size, unsigned block, uint64_t bytes)
{
	char dir[64], image[80], command[256];
	FILE *f;
	int fd;

	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(image, sizeof(image), "%s/image", dir);
	fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
	snprintf(command, sizeof(command), "losetup --sector-size %u --find --show %s 2>/dev/null", block,
		 image);
	f = popen(command, "re");
	cr_assert_not_null(f);
	device[0] = '\0';
	if (fgets(device, (int)size, f))
		device[strcspn(device, "\n")] = '\0';
	pclose(f);
	unlink(image);
	rmdir(dir);
	if (!device[0])
		cr_skip_test("no loop device with %u-byte blocks can be had", block);
	fd = open(device, O_RDONLY | O_CLOEXEC);
	snprintf(command, sizeof(command), "losetup --detach %s", device);
	cr_assert_eq(system(command), 0);
	cr_assert(fd >= 0);
	return fd;
}
