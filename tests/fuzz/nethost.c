/* SPDX-License-Identifier: Apache-2.0 */
/* The far side of a port: a backend of net-server that checks what it is handed, and that it asks for nothing that was not
 * agreed on. */
#include "nethost.h"

#include <errno.h>

struct nethost nethost;

static void rewrite(void)
{
	if (!nethost.rewrite)
		return;
	nethost.rewrite = false;
	ring_write_desc(&nethost.rig->ring[nethost.ring], (uint16_t)nethost.at, nethost.desc);
}

bool nethost_agreed(unsigned feature)
{
	return nethost.rig->features & NET_BIT(feature);
}

/* What the host is handed asks for nothing that was not agreed on. */
static void check_header(const struct virtio_net_hdr_v1 *h)
{
	unsigned gso = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	MUST(!(h->flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM));
	MUST(!h->flags || nethost_agreed(VIRTIO_NET_F_CSUM));
	MUST(!(h->gso_type & VIRTIO_NET_HDR_GSO_ECN) || nethost_agreed(VIRTIO_NET_F_HOST_ECN));
	MUST(gso != VIRTIO_NET_HDR_GSO_TCPV4 || nethost_agreed(VIRTIO_NET_F_HOST_TSO4));
	MUST(gso != VIRTIO_NET_HDR_GSO_TCPV6 || nethost_agreed(VIRTIO_NET_F_HOST_TSO6));
	MUST(gso != NET_GSO_UDP_L4 || nethost_agreed(NET_F_HOST_USO));
	MUST(gso == 0 || gso == VIRTIO_NET_HDR_GSO_TCPV4 || gso == VIRTIO_NET_HDR_GSO_TCPV6 ||
	     gso == NET_GSO_UDP_L4);
}

static int nethost_send(struct backend *b, unsigned pair, struct iovec *iov, int n)
{
	int answer = nethost.answer;
	size_t len = 0;

	(void)b;
	MUST(pair < NETHOST_PAIRS && n >= 2 && n <= NET_IOV + 1);
	MUST(iov[0].iov_len == NET_HDR_BYTES && !rig_is_ram(iov[0].iov_base, NET_HDR_BYTES));
	check_header(iov[0].iov_base);
	for (int i = 1; i < n; i++) {
		MUST(rig_is_ram(iov[i].iov_base, iov[i].iov_len));
		len += iov[i].iov_len;
	}
	MUST(len >= NET_ETH_BYTES && len <= NET_FRAME_MAX);
	rewrite();
	check_header(iov[0].iov_base);
	if (answer != -EAGAIN)
		nethost.answer = 0;
	return answer;
}

/* The spill area, or behind the place that it has for a header which the frame does not bring. */
static bool is_spill(unsigned pair, const void *at)
{
	const uint8_t *spill = nethost.port->pair[pair].rx.spill;

	return at == spill || at == spill + NET_HDR_BYTES;
}

/* Mostly guest memory, and behind it the spill area. */
static ssize_t nethost_receive(struct backend *b, unsigned pair, const struct iovec *iov, int n)
{
	size_t done = 0;

	(void)b;
	MUST(n >= 1 && n <= NET_IOV + 1);
	if (!nethost.frames)
		return -EAGAIN;
	nethost.frames--;
	for (int i = 0; i < n && done < nethost.len; i++) {
		size_t part = MIN(iov[i].iov_len, nethost.len - done);

		MUST(is_spill(pair, iov[i].iov_base) || rig_is_ram(iov[i].iov_base, iov[i].iov_len));
		for (size_t k = 0; k < MIN(part, sizeof(nethost.head)); k++)
			((uint8_t *)iov[i].iov_base)[k] = nethost.head[(done + k) % sizeof(nethost.head)];
		if (part)
			((uint8_t *)iov[i].iov_base)[part - 1] = 0;
		done += part;
	}
	rewrite();
	return (ssize_t)done;
}

static int nethost_attach(struct backend *b, unsigned pair, bool on)
{
	(void)b;
	(void)on;
	MUST(pair < NETHOST_PAIRS);
	return nethost.answer == -EIO ? -EIO : 0;
}

static int nethost_set_offload(struct backend *b, uint64_t features)
{
	(void)b;
	MUST(!(features & ~nethost.rig->features));
	return nethost.answer == -EIO ? -EIO : 0;
}

static void nethost_close(struct backend *b)
{
	(void)b;
}

/* In the place of backend_packet.c's. */
int backend_open_packet(struct backend *b, int fd)
{
	static struct backend_ops ops = { .name = "fuzz",
					  .send = nethost_send,
					  .receive = nethost_receive,
					  .attach = nethost_attach,
					  .set_offload = nethost_set_offload,
					  .close = nethost_close };

	(void)fd;
	ops.vnet = nethost.vnet;
	b->ops = &ops;
	b->name = "of the fuzzer";
	b->features = NET_BIT(VIRTIO_NET_F_CSUM) | NET_BIT(VIRTIO_NET_F_HOST_TSO4) |
		      NET_BIT(VIRTIO_NET_F_HOST_TSO6) | NET_BIT(VIRTIO_NET_F_HOST_ECN) |
		      NET_BIT(NET_F_HOST_USO) | NET_BIT(VIRTIO_NET_F_GUEST_CSUM) |
		      NET_BIT(VIRTIO_NET_F_GUEST_TSO4) | NET_BIT(VIRTIO_NET_F_GUEST_TSO6) |
		      NET_BIT(VIRTIO_NET_F_GUEST_ECN) | NET_BIT(NET_F_GUEST_USO4) | NET_BIT(NET_F_GUEST_USO6);
	for (unsigned i = 0; i < b->pairs; i++)
		b->fd[i] = nethost.fd[i] = still_fd();
	return 0;
}
