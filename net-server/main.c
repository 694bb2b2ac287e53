/* SPDX-License-Identifier: Apache-2.0 */
/* net-server: a virtio network device in a process of its own, as a vhost-user back end. */
#include "port.h"

int main(int argc, char **argv)
{
	static struct port port = { .packet_fd = -1, .stream_fd = -1, .listen_fd = -1 };

	return server_main(argc, argv, &net_device, &port);
}
