/* SPDX-License-Identifier: Apache-2.0 */
/* The name of an export of an NBD server, as NBD's own document of URIs has it: nbd://HOST[:PORT]/EXPORT and
 * nbd+unix:///EXPORT?socket=PATH. */
#ifndef BASE_NBD_URI_H
#define BASE_NBD_URI_H

#define NBD_URI_NAME_MAX 4096 /* bytes of an export's name that the protocol has room for */
#define NBD_URI_FORM     "nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH"

struct nbd_uri {
	char socket[108]; /* of a server on this host; empty: host and port */
	char host[256];
	char port[6];
	char export[NBD_URI_NAME_MAX + 1];
};

/* 0, or -EINVAL with the reason in *why (a constant): some forms that others know are refused, as TLS is not spoken here. */
int nbd_uri_parse(const char *text, struct nbd_uri *out, const char **why);

#endif
