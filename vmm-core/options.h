/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core's command line: docs/vmm-core.8 explains each option. */
#ifndef CORE_OPTIONS_H
#define CORE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"

#define OPTIONS_DEVICES_MAX 31 /* PCI slots behind the host bridge */

struct options_device {
	char id[DEVICE_ID_MAX];
	const struct device_kind *kind;
	const char *socket;       /* path to connect to; NULL: the connection comes over desc_fd */
	uint64_t hang_timeout_ns; /* without progress it counts as hung; 0: never */
	unsigned first_ring; /* of its own among those of its process, as that one's flight recorder counts */
	uint8_t mac[6];      /* its address, should its back end not tell one; 0: none */
};

/* Strings point into argv. A descriptor that was not given is -1. */
struct options {
	const char *id;
	const char *bus_dir; /* NULL: started by hand */
	int desc_fd, kvm_fd, kernel_fd, initrd_fd, console_fd, flight_fd;
	const char *append;
	unsigned cpus;
	uint64_t memory;
	bool hugepages;
	const char *cpu;
	struct options_device devices[OPTIONS_DEVICES_MAX];
	unsigned n_devices;
	bool test_devices;
	bool sandbox;
	bool sandbox_log; /* its filters forbid nothing, the kernel logs */
	int log_level;
};

/* 0; 1 if help was asked for and printed; -EINVAL with one line in err that names option, value and what is
 * allowed. Looks at descriptors, opens nothing. */
int options_parse(int argc, char **argv, struct options *o, char *err, size_t err_size);

#endif
