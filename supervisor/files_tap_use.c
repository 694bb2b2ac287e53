/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many processes' queues a tap has, as the kernel itself says (rtnetlink, IFLA_TUN_NUM_QUEUES). Nobody can feign that
 * who may not open the tap.
 */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "files_tap.h"

#define ANSWER_BYTES 32768 /* what the kernel tells of one interface is a few KiB */

struct question {
	struct nlmsghdr header;
	struct ifinfomsg info;
};

/* The attribute of this type among the len bytes at a; NULL: there is none. */
static struct rtattr *find(struct rtattr *a, size_t len, unsigned short type)
{
	int left = (int)len;

	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if ((a->rta_type & NLA_TYPE_MASK) == type)
			return a;
	return NULL;
}

static struct rtattr *find_in(struct rtattr *outer, unsigned short type)
{
	return outer ? find(RTA_DATA(outer), RTA_PAYLOAD(outer), type) : NULL;
}

static int number(struct rtattr *a)
{
	uint32_t value = 0;

	if (a && RTA_PAYLOAD(a) >= sizeof(value))
		memcpy(&value, RTA_DATA(a), sizeof(value));
	return (int)value;
}

static int ask(unsigned index, void *answer, size_t size)
{
	const struct question question = { .header = { .nlmsg_len = sizeof(question),
						       .nlmsg_type = RTM_GETLINK,
						       .nlmsg_flags = NLM_F_REQUEST },
					   .info = { .ifi_family = AF_UNSPEC, .ifi_index = (int)index } };
	CLEAN_FD int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	ssize_t len;

	if (sock < 0 || send(sock, &question, sizeof(question), 0) < 0)
		return -errno;
	len = recv(sock, answer, size, MSG_TRUNC);
	return len < 0 ? -errno : (size_t)len > size ? -EMSGSIZE : (int)len;
}

int files_tap_queues(unsigned index)
{
	_Alignas(struct nlmsghdr) char answer[ANSWER_BYTES] = "";
	struct nlmsghdr *header = (struct nlmsghdr *)(void *)answer;
	const struct nlmsgerr *refused = NLMSG_DATA(header);
	struct rtattr *data;
	int len = ask(index, answer, sizeof(answer));

	if (len < 0)
		return len;
	if (!NLMSG_OK(header, (size_t)len))
		return -EPROTO;
	if (header->nlmsg_type == NLMSG_ERROR)
		return header->nlmsg_len >= NLMSG_LENGTH(sizeof(*refused)) ? refused->error : -EPROTO;
	if (header->nlmsg_type != RTM_NEWLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
		return -EPROTO;
	data =
	    find_in(find(IFLA_RTA(NLMSG_DATA(header)), IFLA_PAYLOAD(header), IFLA_LINKINFO), IFLA_INFO_DATA);
	return number(find_in(data, IFLA_TUN_NUM_QUEUES)) +
	       number(find_in(data, IFLA_TUN_NUM_DISABLED_QUEUES));
}
