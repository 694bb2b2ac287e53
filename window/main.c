/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window: stands between a disk's driver and its server, so that the server sees a window of memory and none of the
 * guest's. To the front end it is the device's back end, and to the server the front end.
 */
#include "window.h"

int main(int argc, char **argv)
{
	static struct window window;

	window_init(&window);
	return server_main(argc, argv, &window_device, &window);
}
