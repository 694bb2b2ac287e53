/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the tap of a network port, which it makes if there is none of that name. */
#include "files_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "logs.h"

#define HEADER_BYTES 12 /* virtio 1: with num_buffers */

static struct ifreq named(const char *name)
{
	struct ifreq request = { 0 };

	memcpy(request.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	return request;
}

/* ---- queues ---- */

/* One more queue of the tap. The descriptor, or -errno. */
static int open_queue(const char *name, bool many)
{
	CLEAN_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct ifreq request = named(name);
	int size = HEADER_BYTES;

	request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (many)
		request.ifr_flags |= IFF_MULTI_QUEUE;
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) || ioctl(fd, TUNSETVNETHDRSZ, &size))
		return -errno;
	return take_fd(&fd);
}

static int refuse_taken(const char *name, struct vmconf_error *error)
{
	return vmconf_refuse(error, "tap=\"%s\" is in use by another process; one that is free is needed",
			     name);
}

static int refuse_queue(const char *name, unsigned queues, int err, struct vmconf_error *error)
{
	if (err == -ENOENT || err == -ENXIO || err == -ENODEV)
		return vmconf_refuse(error, "tap=\"%s\": there is no /dev/net/tun; load the module tun",
				     name);
	if (err == -EPERM || err == -EACCES)
		return vmconf_refuse(error,
				     "tap=\"%s\": not allowed; root can make it for this user: ip tuntap add "
				     "dev %s mode tap user USER%s",
				     name, name, queues > 1 ? " multi_queue" : "");
	if (err == -EBUSY)
		return refuse_taken(name, error);
	if (err == -EINVAL && queues > 1)
		return vmconf_refuse(
		    error, "tap=\"%s\" is no tap, or one without queues=%u; make it with multi_queue", name,
		    queues);
	if (err == -EINVAL)
		return vmconf_refuse(error, "tap=\"%s\" is an interface of another kind; a tap is needed",
				     name);
	return vmconf_refuse(error, "tap=\"%s\" can't be opened: %s", name, strerror(-err));
}

/*
 * The kernel lets any number of processes open queues of a tap that was made for several. So nobody may have one before we
 * do, and nobody but us afterwards: of two that begin at the same time one or both find the other's.
 */
static int check_alone(const char *name, unsigned ours, struct vmconf_error *error)
{
	unsigned index = if_nametoindex(name);
	int queues = index ? files_tap_queues(index) : 0;

	if (queues < 0)
		return vmconf_refuse(error, "tap=\"%s\": whether it is in use can't be told: %s", name,
				     strerror(-queues));
	return (unsigned)queues > ours ? refuse_taken(name, error) : 0;
}

static int open_queues(const struct vmconf_device *port, struct files_tap *tap, struct vmconf_error *error)
{
	const char *name = port->net.tap;
	bool many = port->queues > 1;

	for (unsigned i = 0; i < port->queues; i++) {
		tap->queue[i] = open_queue(name, many);
		/* One that was made for several is taken by one with the same flag alone. */
		if (tap->queue[i] == -EINVAL && !many)
			tap->queue[i] = open_queue(name, true);
		if (tap->queue[i] < 0)
			return refuse_queue(name, port->queues, tap->queue[i], error);
	}
	return 0;
}

/* ---- the interface ---- */

static int set_mtu(const struct vmconf_net *net, int sock, struct files_tap *tap, struct vmconf_error *error)
{
	struct ifreq request = named(net->tap);

	if (ioctl(sock, SIOCGIFMTU, &request))
		return vmconf_refuse(error, "tap=\"%s\": its MTU can't be read: %s", net->tap,
				     strerror(errno));
	tap->mtu = (unsigned)request.ifr_mtu;
	if (!net->mtu || net->mtu == tap->mtu)
		return 0;
	request.ifr_mtu = (int)net->mtu;
	if (ioctl(sock, SIOCSIFMTU, &request))
		return vmconf_refuse(error, "mtu=\"%u\": %s does not take it: %s", net->mtu, net->tap,
				     strerror(errno));
	tap->mtu = net->mtu;
	return 0;
}

#define PORTS_MAX 1024 /* of a bridge */
#define GET_PORTS 7    /* linux/if_bridge.h, whose header does not go with net/if.h */

/* Whether an interface is a port of the bridge. */
static bool is_port(int sock, const char *bridge, unsigned index)
{
	int ports[PORTS_MAX] = { 0 };
	unsigned long args[4] = { GET_PORTS, (unsigned long)ports, PORTS_MAX, 0 };
	struct ifreq request = named(bridge);

	request.ifr_data = (char *)args;
	if (ioctl(sock, SIOCDEVPRIVATE, &request) < 0)
		return false;
	for (size_t i = 0; i < PORTS_MAX; i++)
		if (ports[i] == (int)index)
			return true;
	return false;
}

static int join_bridge(const struct vmconf_net *net, bool made, int sock, struct files_tap *tap,
		       struct vmconf_error *error)
{
	struct ifreq request = named(net->bridge);
	int err;

	if (!*net->bridge || is_port(sock, net->bridge, tap->index))
		return 0;
	request.ifr_ifindex = (int)tap->index;
	err = ioctl(sock, SIOCBRADDIF, &request) ? errno : 0;
	if (!err && !made)
		memcpy(tap->bridge, net->bridge, sizeof(tap->bridge));
	if (err == ENODEV)
		return vmconf_refuse(error,
				     "bridge=\"%s\": there is no such interface; root makes one: ip link add "
				     "%s type bridge && ip link set %s up",
				     net->bridge, net->bridge, net->bridge);
	if (err == EOPNOTSUPP || err == EINVAL || err == ENOTTY)
		return vmconf_refuse(error, "bridge=\"%s\" is no bridge that takes a tap; a bridge is needed",
				     net->bridge);
	if (err == EBUSY)
		return vmconf_refuse(error, "bridge=\"%s\": %s is a port of another bridge already",
				     net->bridge, net->tap);
	if (err == EPERM)
		return vmconf_refuse(error,
				     "bridge=\"%s\": not allowed; root can do it: ip link set %s master %s",
				     net->bridge, net->tap, net->bridge);
	if (err)
		return vmconf_refuse(error, "bridge=\"%s\" does not take %s: %s", net->bridge, net->tap,
				     strerror(err));
	return 0;
}

/* Its own state is the administrator's, who may want it down; but a guest without a network wonders. */
static void look_at_bridge(const struct vmconf_device *port, int sock)
{
	struct ifreq request = named(port->net.bridge);

	if (*port->net.bridge && !ioctl(sock, SIOCGIFFLAGS, &request) && !(request.ifr_flags & IFF_UP))
		say_warn("%s: its bridge, %s, is down, and passes nothing until root brings it up: ip link "
			 "set %s up",
			 port->id, port->net.bridge, port->net.bridge);
}

static int bring_up(const struct vmconf_net *net, int sock, struct vmconf_error *error)
{
	struct ifreq request = named(net->tap);

	if (ioctl(sock, SIOCGIFFLAGS, &request))
		return vmconf_refuse(error, "tap=\"%s\": it is gone: %s", net->tap, strerror(errno));
	if (request.ifr_flags & IFF_UP)
		return 0;
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request))
		return vmconf_refuse(error,
				     "tap=\"%s\" is down and can't be brought up: %s; root can: ip link set "
				     "%s up",
				     net->tap, strerror(errno), net->tap);
	return 0;
}

int files_open_tap(const struct vmconf_device *port, struct files_tap *tap, struct vmconf_error *error)
{
	CLEAN_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool made = !if_nametoindex(port->net.tap);

	if (sock < 0)
		return vmconf_refuse(error, "tap=\"%s\": no socket: %s", port->net.tap, strerror(errno));
	if (check_alone(port->net.tap, 0, error) || open_queues(port, tap, error) ||
	    check_alone(port->net.tap, port->queues, error))
		return -EINVAL;
	tap->index = if_nametoindex(port->net.tap);
	if (set_mtu(&port->net, sock, tap, error) || join_bridge(&port->net, made, sock, tap, error) ||
	    bring_up(&port->net, sock, error))
		return -EINVAL;
	look_at_bridge(port, sock);
	return 0;
}

void files_leave_bridge(const struct files_tap *tap)
{
	CLEAN_FD int sock = -1;
	struct ifreq request = named(tap->bridge);

	if (!*tap->bridge)
		return;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	request.ifr_ifindex = (int)tap->index;
	if (sock >= 0)
		ioctl(sock, SIOCBRDELIF, &request); /* somebody may have done it before */
}

void files_close_tap(struct files_tap *tap)
{
	for (size_t i = 0; i < VMCONF_PAIRS_MAX; i++)
		clean_fd(&tap->queue[i]);
	*tap = FILES_NO_TAP;
}
