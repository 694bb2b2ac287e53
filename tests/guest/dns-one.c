/* SPDX-License-Identifier: Apache-2.0 */
/* dns-one PORT ADDRESS: a name server by which every name has the one address, and nothing else; IPv4 and UDP only. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"

#define HEADER 12 /* RFC 1035 §4.1.1 */

/* Where the question after the header ends; 0 if it does not. */
static size_t question_end(const uint8_t *q, size_t n)
{
	size_t at = HEADER;

	while (at < n && q[at] && q[at] < 64)
		at += q[at] + 1U;
	return at + 5 <= n && !q[at] ? at + 5 : 0;
}

/* Makes the answer of the question in place; its length. */
static size_t answer(uint8_t *q, size_t end, struct in_addr address)
{
	const uint8_t record[] = { 0xc0, HEADER, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4 };
	bool wanted = !memcmp(q + end - 4, "\0\1\0\1", 4);

	q[2] = 0x81; /* an answer, as the question wanted */
	q[3] = 0x80;
	memset(q + 4, 0, HEADER - 4);
	q[5] = 1;
	q[7] = wanted;
	if (!wanted)
		return end;
	memcpy(q + end, record, sizeof(record));
	memcpy(q + end + sizeof(record), &address, 4);
	return end + sizeof(record) + 4;
}

int main(int argc, char **argv)
{
	struct sockaddr_in here = { .sin_family = AF_INET }, there;
	struct in_addr address;
	uint8_t q[512 + 16];
	int fd;

	log_init("dns-one", NULL, false);
	if (argc != 3 || !inet_aton(argv[2], &address))
		log_die(2, 0, "usage: dns-one PORT ADDRESS");
	here.sin_port = htons((uint16_t)atoi(argv[1]));
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof(here)))
		log_die(1, -errno, "port %s", argv[1]);
	for (;;) {
		socklen_t size = sizeof(there);
		ssize_t n = recvfrom(fd, q, 512, 0, (struct sockaddr *)&there, &size);
		size_t end = n > 0 ? question_end(q, (size_t)n) : 0;

		if (n < 0 && errno != EINTR)
			log_die(1, -errno, "receiving");
		if (end)
			sendto(fd, q, answer(q, end, address), 0, (struct sockaddr *)&there, size);
	}
}
