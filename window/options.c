/* SPDX-License-Identifier: Apache-2.0 */
/* What a window is told. */
#include <errno.h>

#include "num.h"
#include "parse.h"
#include "window.h"

#define BYTES_MAX (4ULL << 30)

static int set_server(void *dev, const char *value)
{
	((struct window *)dev)->server = value;
	return *value ? 0 : -EINVAL;
}

static int set_server_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct window *)dev)->back.fd);
}

static int set_size(void *dev, const char *value)
{
	struct window *w = dev;
	int err = parse_size(value, &w->bytes);

	return err ? err : w->bytes < SHARE_PART_MIN || w->bytes > BYTES_MAX ? -ERANGE : 0;
}

const struct server_option window_options[] = {
	{ "server", "PATH", "Connect to the disk's server, which listens on this unix socket.",
	  "the path of a unix socket", set_server },
	{ "server-fd", "N", "The disk's server is at the other end of this inherited socket instead.",
	  "a descriptor from 3 to 1023", set_server_fd },
	{ "size", "SIZE", "Bytes of the window, at least 2M for each queue (64M).", "a size from 2M to 4G",
	  set_size },
	{ .name = NULL },
};
