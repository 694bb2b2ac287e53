/* SPDX-License-Identifier: Apache-2.0 */
/* What one machine is to be: the settings that the command line and a JSON file can make, and how they are
 * refused. */
#ifndef SUPERVISOR_VMCONF_H
#define SUPERVISOR_VMCONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus_msg.h"
#include "placing.h"
#include "quota.h"

#define VMCONF_DISKS_MAX    16
#define VMCONF_NETS_MAX     8
#define VMCONF_GROUPS_MAX   16 /* of disks with common limits */
#define VMCONF_DEVICES_MAX  (VMCONF_DISKS_MAX + VMCONF_NETS_MAX)
#define VMCONF_SHARED_MAX   8 /* disks of one server */
#define VMCONF_BACKING_MAX  7 /* backing files of a disk */
#define VMCONF_CPUS_MAX     64
#define VMCONF_QUEUES_MAX   64
#define VMCONF_PAIRS_MAX    16 /* of queues of a network port; each is a descriptor of a tap */
#define VMCONF_TAP_MAX      16 /* bytes of the name of an interface, its NUL included */
#define VMCONF_MAC_LEN      6
#define VMCONF_MAC_TEXT     (3 * VMCONF_MAC_LEN)
#define VMCONF_WORDS_MAX    64      /* values of a key that can be repeated */
#define VMCONF_APPEND_MAX   2047    /* what a Linux guest keeps of its command line */
#define VMCONF_HANG_MAX     3600000 /* ms */
#define VMCONF_SOCKET_MAX   107     /* bytes of a path that a unix socket address can hold */
#define VMCONF_POLL_DEFAULT UINT32_MAX
#define VMCONF_MEMORY_MIN   (16ULL << 20)
#define VMCONF_MEMORY_MAX   (1ULL << 39) /* what vmm-core takes */
#define VMCONF_MEMORY_STEP  (1ULL << 20)

/* One line that says what is wrong with a setting. */
struct vmconf_error {
	char text[BUS_TEXT_MAX];
};

/* Fills the line; always -EINVAL. Control characters of what a user gave are replaced. */
__attribute__((format(printf, 2, 3))) int vmconf_refuse(struct vmconf_error *error, const char *fmt, ...);

enum vmconf_console { CONSOLE_STDIO, CONSOLE_PTY, CONSOLE_FILE, CONSOLE_SOCKET };
enum vmconf_cache { CACHE_DEFAULT, CACHE_DIRECT, CACHE_BUFFERED };
enum vmconf_engine { ENGINE_AIO, ENGINE_IO_URING, ENGINE_NULL, ENGINES };
enum vmconf_on_error { ERROR_DEFAULT, ERROR_REPORT, ERROR_STOP, ERROR_ENOSPC, ERROR_RETRY };
enum vmconf_log { LOG_TO_STDERR, LOG_TO_SYSLOG };

/* What becomes of a device that died too often. */
enum vmconf_failure { FAILURE_QUARANTINE, FAILURE_READ_ONLY, FAILURE_NEEDS_RESET, FAILURE_STOP };

enum vmconf_kind { KIND_DISK, KIND_NET };
enum vmconf_link { LINK_NONE, LINK_USER, LINK_TAP, LINK_STREAM, LINK_LISTEN };

struct vmconf_words {
	char *word[VMCONF_WORDS_MAX];
	size_t n;
};

/* What only a disk has. */
struct vmconf_disk {
	char *path;           /* the image, or NULL */
	char *nbd;            /* the export of an NBD server in its place, or NULL */
	unsigned reconnect_s; /* of that; 0: blk-server's own */
	bool qcow2;
	bool format_said;            /* else it is raw, whatever is in it */
	struct vmconf_words backing; /* the files that may be below it, nearest first: [FORMAT:]FILE */
	bool readonly;
	enum vmconf_cache cache;
	enum vmconf_engine engine;
	enum vmconf_on_error on_error;
	bool window;              /* its server sees a window in place of the guest's memory */
	uint64_t window_bytes;    /* of that */
	char *limit[QUOTA_KEYS];  /* as their options of blk-server take them; NULL: none */
	char group[BUS_NAME_MAX]; /* whose limits hold, too; empty: none */
};

/* Disks with common limits. */
struct vmconf_group {
	char id[BUS_NAME_MAX];
	uint64_t limit[QUOTA_KEYS]; /* 0: none */
	char *word[QUOTA_KEYS];     /* ... as they were given; NULL: not */
};

/* What is limited of the traffic, each with the words of its option of net-server. */
enum vmconf_limit { LIMIT_RX_BYTES, LIMIT_RX_PACKETS, LIMIT_TX_BYTES, LIMIT_TX_PACKETS, LIMITS };

/* What only a network port has. */
struct vmconf_net {
	enum vmconf_link link; /* LINK_NONE: vhost_user is given */
	char tap[VMCONF_TAP_MAX], bridge[VMCONF_TAP_MAX];
	char *stream; /* the socket of a peer, or for one */
	uint8_t mac[VMCONF_MAC_LEN];
	bool own_mac;
	unsigned mtu;                          /* 0: whatever the tap has, or not said */
	bool restricted;                       /* user: the guest reaches nothing but what allow tells */
	struct vmconf_words forwards, allowed; /* user */
	bool ipv6;                             /* user */
	char *subnet, *dns, *hostname;         /* user; NULL: net-user's own */
	char *limit[LIMITS];
};

struct vmconf_device {
	enum vmconf_kind kind;
	char id[BUS_NAME_MAX];
	char *vhost_user;          /* the socket of a back end that somebody else runs, or NULL */
	char server[BUS_NAME_MAX]; /* the process that serves it and others; empty: it has its own */
	unsigned commons;          /* bits of enum options_common: what was said of that process here */
	unsigned queues;
	char *io_threads, *map; /* as the server takes them, or NULL */
	struct placing placing; /* what they come to */
	unsigned poll_max_us;   /* VMCONF_POLL_DEFAULT: the server's own */
	bool spare;             /* a second process waits to take over */
	bool own_restarts;
	unsigned restarts, restarts_s; /* the machine's, unless own_restarts */
	enum vmconf_failure on_failure;
	unsigned hang_timeout_ms; /* without progress; 0: it may take for ever */
	struct vmconf_disk disk;  /* of that kind */
	struct vmconf_net net;
};

struct vmconf {
	char name[BUS_NAME_MAX];
	char *kernel, *initrd, *append;
	unsigned cpus;
	uint64_t memory; /* bytes */
	bool hugepages;
	char *cpu;                                       /* "host[,-feature...]" */
	struct vmconf_device device[VMCONF_DEVICES_MAX]; /* in the order of their PCI slots */
	size_t ndevices;
	struct vmconf_group group[VMCONF_GROUPS_MAX];
	size_t ngroups;
	enum vmconf_console console;
	char *console_path; /* of file= and socket= */
	char *run_dir;      /* NULL: the default */
	bool restart_on_reboot, restart_on_crash;
	bool test_devices, sandbox;
	bool sandbox_log; /* every process with --sandbox log */
	enum vmconf_log log;
	int log_level;
	unsigned grace_s;              /* between the power button and the end */
	unsigned start_timeout_s;      /* for a process to become ready */
	unsigned restarts, restarts_s; /* how many deaths of one device in how many seconds are too many */
	bool keep;                     /* the machine outlives its supervisor */
	char *crash_dir;               /* of crash reports; NULL: the default */
	char *cgroup;                  /* a folder for its control groups, or "self"; NULL: it has none */
	char *config;                  /* the JSON file */
	char *words;                   /* "option\0value\0..." of all that was set, in that order */
	size_t words_len;
};

/* The first of the devices that the server of device i serves; what they have in common is there. */
size_t vmconf_leader(const struct vmconf *conf, size_t i);

/* The rings of a device, and where they begin among those of its process. */
unsigned vmconf_rings(const struct vmconf_device *device);
unsigned vmconf_first_ring(const struct vmconf *conf, size_t i);

/* A port's address, as 52:54:00:12:34:56. */
void vmconf_mac_text(char text[VMCONF_MAC_TEXT], const struct vmconf_net *net);

/* What the process that serves a device is called. */
const char *vmconf_process_id(const struct vmconf_device *device);

/* The process that a device needs besides its server, as it has the host's network; NULL: none. */
const char *vmconf_helper(const struct vmconf_device *device);

/* What the option of a kind is called. */
const char *vmconf_kind_name(enum vmconf_kind kind);

/* The key of each limit, which is net-server's option, too. */
extern const char *const vmconf_limit_names[LIMITS];

/* The number of the group of this name, or -1. */
int vmconf_find_group(const struct vmconf *conf, const char *id);

/* What each is called, by blk-server too. */
extern const char *const vmconf_engine_names[ENGINES];
extern const char *const vmconf_on_error_names[ERROR_RETRY + 1];

/* How many devices of a kind there are. */
size_t vmconf_count(const struct vmconf *conf, enum vmconf_kind kind);

/* The settings before anybody made one. */
void vmconf_init(struct vmconf *conf);
void vmconf_free(struct vmconf *conf);

/*
 * Reads a JSON file into conf through the same table as the command line; given[i] tells that the command line
 * made option i of that table, which then wins. -EINVAL with the reason in error, which names the file.
 */
int vmconf_load(struct vmconf *conf, const char *path, const bool *given, struct vmconf_error *error);

/* Remembers a setting that is about to be made, for vmconf_repeat. -ENOMEM. */
int vmconf_note(struct vmconf *conf, const char *option, const char *value);

/* Makes all settings that words tells of, and finishes. -EINVAL with the reason. */
int vmconf_repeat(struct vmconf *conf, const char *words, size_t len, struct vmconf_error *error);

/* What no single option can see: something missing, an id or a path used twice, ids given where absent. */
int vmconf_finish(struct vmconf *conf, struct vmconf_error *error);

/* True for 1 to BUS_NAME_MAX - 1 of a-z A-Z 0-9 - _ that starts with a letter or a digit. */
bool vmconf_name_ok(const char *name);

#endif
