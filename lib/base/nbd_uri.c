/* SPDX-License-Identifier: Apache-2.0 */
/* The name of an export of an NBD server. */
#include "nbd_uri.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"

#define PORT "10809"

/* Copies len bytes, %41 as A, into to, which has size bytes. */
static int decode(const char *from, size_t len, char *to, size_t size, const char **why)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++, n++) {
		char hex[3] = "";
		int c = (unsigned char)from[i];

		if (c == '%') {
			if (i + 2 >= len || !isxdigit((unsigned char)from[i + 1]) ||
			    !isxdigit((unsigned char)from[i + 2])) {
				*why = "% is followed by no two hexadecimal digits";
				return -EINVAL;
			}
			memcpy(hex, from + i + 1, 2);
			c = (int)strtol(hex, NULL, 16);
			i += 2;
		}
		if (!c || n + 1 >= size) {
			*why = c ? "a part of it is too long" : "it has a zero byte";
			return -EINVAL;
		}
		to[n] = (char)c;
	}
	to[n] = '\0';
	return 0;
}

/* The one parameter that is known here, of those behind "?". */
static int find_socket(const char *query, struct nbd_uri *out, const char **why)
{
	*why = "the one parameter that is known is socket=PATH";
	if (strncmp(query, "socket=", 7) || strchr(query, '&'))
		return -EINVAL;
	if (decode(query + 7, strlen(query + 7), out->socket, sizeof(out->socket), why))
		return -EINVAL;
	*why = "socket= needs an absolute path";
	return *out->socket == '/' ? 0 : -EINVAL;
}

/* HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT, of len bytes. */
static int split_place(const char *place, size_t len, struct nbd_uri *out, const char **why)
{
	const char *end = place + len, *host = place, *host_end, *port;
	uint64_t number;

	if (len && *place == '[') {
		host++;
		host_end = memchr(place, ']', len);
		port = host_end ? host_end + 1 : NULL;
	} else {
		host_end = memchr(place, ':', len);
		host_end = host_end ? host_end : end;
		port = host_end;
	}
	*why = "it names no host";
	if (!host_end || host_end == host || memchr(place, '@', len))
		return -EINVAL;
	if (decode(host, (size_t)(host_end - host), out->host, sizeof(out->host), why))
		return -EINVAL;
	snprintf(out->port, sizeof(out->port), PORT);
	if (port == end)
		return 0;
	*why = "its port is no number from 1 to 65535";
	if (*port != ':' || end - port - 1 >= (long)sizeof(out->port))
		return -EINVAL;
	snprintf(out->port, sizeof(out->port), "%.*s", (int)(end - port - 1), port + 1);
	return parse_u64(out->port, 1, 65535, &number) ? -EINVAL : 0;
}

int nbd_uri_parse(const char *text, struct nbd_uri *out, const char **why)
{
	bool is_unix = !strncmp(text, "nbd+unix://", 11);
	const char *place = text + (is_unix ? 11 : 6);
	size_t len;

	*out = (struct nbd_uri) { .socket = "" };
	*why = "TLS is not spoken";
	if (!strncmp(text, "nbds", 4))
		return -EINVAL;
	*why = "it does not begin with nbd:// or nbd+unix://";
	if (!is_unix && strncmp(text, "nbd://", 6))
		return -EINVAL;
	len = strcspn(place, "/?");
	if (is_unix ? len > 0 : split_place(place, len, out, why)) {
		*why = is_unix ? "nbd+unix:// is followed by a third slash" : *why;
		return -EINVAL;
	}
	place += len + (place[len] == '/');
	len = strcspn(place, "?");
	if (decode(place, len, out->export, sizeof(out->export), why))
		return -EINVAL;
	if (is_unix && !place[len]) {
		*why = "?socket=PATH is missing";
		return -EINVAL;
	}
	if (!is_unix && place[len]) {
		*why = "nbd:// has no parameters";
		return -EINVAL;
	}
	return is_unix ? find_socket(place + len + 1, out, why) : 0;
}
