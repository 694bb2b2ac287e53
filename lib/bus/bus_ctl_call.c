/* SPDX-License-Identifier: Apache-2.0 */
/* The command line's endpoint, the client's side: one request, blocking. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bulkhead.pb-c.h"
#include "bus_client.h"
#include "bus_ctl.h"
#include "clean.h"
#include "clock.h"
#include "num.h"

static int make_request(const char *verb, size_t argc, const char *const *argv, struct bus_wire_message **out)
{
	Bulkhead__CtlRequest req = BULKHEAD__CTL_REQUEST__INIT;
	char *args[BUS_CTL_ARGS_MAX];

	if (!bus_wire_is_name(verb, BUS_CTL_VERB_MAX) || argc > BUS_CTL_ARGS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < argc; i++) {
		if (strlen(argv[i]) >= BUS_CTL_ARG_MAX)
			return -EINVAL;
		args[i] = (char *)(uintptr_t)argv[i];
	}
	req.verb = (char *)(uintptr_t)verb;
	req.n_arg = argc;
	req.arg = args;
	return bus_wire_pack(&req.base, 65536, out);
}

static int take_reply(const uint8_t *data, size_t len, struct bus_ctl_result *result)
{
	CLEAN_FREE struct bus_arena *arena = malloc(sizeof(*arena)); /* too large for a stack */
	const Bulkhead__CtlReply *in;

	if (!arena)
		return -ENOMEM;
	in = (const void *)bus_wire_unpack(arena, &bulkhead__ctl_reply__descriptor, data, len);
	if (!in || in->err > 0 || in->err < -4095 || strlen(in->json) >= sizeof(result->json) ||
	    !bus_wire_get_text(result->text, sizeof(result->text), in->text))
		return -EBADMSG;
	result->err = in->err;
	memcpy(result->json, in->json, strlen(in->json) + 1);
	return 0;
}

int bus_ctl_call(const char *path, const char *verb, size_t argc, const char *const *argv,
		 uint64_t timeout_ns, struct bus_ctl_result *result)
{
	CLEAN_FREE struct bus_wire_message *m = NULL;
	struct bus_client *client;
	const uint8_t *data;
	uint64_t end;
	size_t len;
	int err = make_request(verb, argc, argv, &m);

	if (err)
		return err;
	if (!num_add(clock_ns(), timeout_ns, &end))
		end = UINT64_MAX;
	err = bus_client_open(path, BUS_CTL_JSON_MAX + 1024, end, &client);
	if (err)
		return err;
	err = bus_client_send(client, m, end);
	if (!err)
		err = bus_client_receive(client, end, &data, &len);
	if (!err)
		err = take_reply(data, len, result);
	bus_client_close(client);
	return err;
}
