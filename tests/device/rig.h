/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server under test, blk-server unless options say net-server: the real program, confined as a supervisor would, with
 * a front end and drivers of our own in this process. Guest memory, rings, eventfds and the in-flight region outlive
 * the server, so that it can be killed and replaced. Whatever fails here fails the test.
 */
#ifndef RIG_H
#define RIG_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "clock.h"
#include "crashes.h"
#include "guest.h"
#include "loop.h"
#include "ring.h"
#include "vhost_fe.h"

#define RIG_QUEUES_MAX 9
#define RIG_SIZE       128   /* descriptors of a ring */
#define RIG_SIZE_MAX   32768 /* ... at most */
#define RIG_SLOTS      64    /* requests of a queue that rig_add can keep apart */
#define RIG_DEADLINE_S 40
#define RIG_ARGS_MAX   48
#define RIG_FDS_MAX    16

/* A net-server in place of a blk-server: rig_options.queues counts pairs, and ring 2i receives, 2i + 1 transmits. */
struct rig_net {
	const char *option; /* of the backend, as --packet-fd, which gets the descriptors */
	int fds[4];
	unsigned n_fds;
	bool control; /* one more ring, the last */
	int state_fd; /* 0: none */
};

/* A disk that is an export of an NBD server, device being what that serves; nbd.h. */
struct rig_nbd {
	const char *uri;
	int fd, its_fd; /* of the socket between blk-server and nbd-dial */
};

struct rig;

struct rig_options {
	const struct rig_net *net; /* NULL: blk-server */
	uint64_t image_bytes;      /* 0: 16 MiB */
	const char *directory;     /* for the image; NULL: $TMPDIR or /tmp */
	const char *device;        /* a block device in place of an image of its own */
	const char *
	    make; /* a line of shell that makes "image" (or what is on the device), a qcow2 one, in the folder that it runs in */
	bool backing; /* that has a raw backing file, "base" */
	const struct rig_nbd *nbd;
	uint64_t ring_features;   /* RING_F_* */
	uint64_t refuse;          /* device features that the driver does not accept */
	unsigned queues;          /* 0: 1 */
	unsigned io_threads;      /* 0: 1 */
	const char *thread_names; /* in place of so many */
	bool readonly;
	const char *const *args; /* further arguments, ended by NULL */
	uint64_t file_limit;     /* RLIMIT_FSIZE of the server; 0: none */
	int flight_fd;           /* the flight recorder's memory; 0: none */
	int state_fd;            /* of a disk: what its successors are to know; 0: nothing */
	const char
	    *engine;       /* of a disk; NULL: the default. The test is skipped where the kernel has it not */
	int group_fd;      /* of a disk: the limits of its group; 0: it has none */
	const char *crash; /* runs the program with crash points, under this order (crashes.h); may change */
	int log_fd;        /* the server's standard error, with warnings; 0: this process's, errors only */
	bool may_refuse;   /* a server need not take what the front end asks for */
	uint16_t ring_size; /* 0: RIG_SIZE; of a larger one no more are in use at a time */
	uint16_t start_at;  /* index that the rings start from */
	bool start_wrapped; /* packed: on a lap with wrap bit 0 */
	bool window;        /* of a disk: the program `window` stands between; it dies with the server */
	bool window_first;  /* it is killed before the server is */
	/* ... and this plays the server: it takes its end of the connection, and there is no such process. */
	void (*play)(struct rig *rig, int fd);
	unsigned window_mib; /* of each queue; 0: 2 */
	bool by_hand;        /* started as a person does: --socket DIR/socket --image DIR/image */
	/* Two disks of one process, "one" and "two": the other's rig, which is started first and has no process of its own.
	 * Both have one loop; a process is this one's to start, kill, reap and stop, for both. */
	bool lodger;
	struct rig *beside;
};

struct rig_queue {
	struct ring ring;
	int kick, call, err;
	struct loop_fd *watch;
	unsigned calls;        /* wake-ups by the call eventfd */
	uint64_t headers;      /* RIG_SLOTS request headers and status bytes, 32 bytes apart */
	int slot_of[RIG_SIZE]; /* by ring id; -1: none */
	bool slot_used[RIG_SLOTS];
};

struct rig {
	struct rig_options options;
	char dir[128], image[160], socket[160];
	struct guest guest;
	struct loop *loop;
	struct vhost_fe *fe;
	struct vhost_fe_info info;
	struct virtio_blk_config config;
	struct rig_queue queue[RIG_QUEUES_MAX];
	unsigned queues;
	int inflight_fd;
	uint8_t *inflight;
	uint64_t inflight_bytes;
	int image_fd; /* for the test's own look at the image, past the cache's back if that is off */
	int lock_fd;  /* what the server gets */
	int its_fd;   /* a lodger's end of the connection, until it is used; -1 */
	int state_fd; /* made for the engine; -1: the options' */
	pid_t pid;
	int pidfd;
	pid_t window_pid; /* 0: none */
	int window_pidfd;
	int go_fd; /* shared with a server that has crash points */
	struct crashes_shared *told;
	bool lost;
	unsigned config_changes; /* of which the server told */
	bool refused; /* with options.may_refuse: the last server did not take what the front end asked for */
};

/* If this is root it goes on as an ordinary user, who can still start the program wherever it is. */
void rig_become_user(void);

/* Image, memory, rings, server, handshake: everything up to rings that are served. */
void rig_start(struct rig *rig, const struct rig_options *options);

/* Ends the server in order, checks that it exits with 0, and gives everything back. */
void rig_stop(struct rig *rig);

/* Kills the server and reaps it; then starts another on the same rings. */
void rig_kill(struct rig *rig);
void rig_respawn(struct rig *rig);

/* The same with something that is done between the start of the process and the connection, as with a spare. */
void rig_respawn_spare(struct rig *rig, void (*meanwhile)(void *arg), void *arg);

/* The same for a server that may die before it serves, or refuse what it is told: false if it did (lost, refused). */
bool rig_try_respawn(struct rig *rig);

/* Waits for the end of a server that is dying by itself: its exit status, or 128 and the signal. */
int rig_reap(struct rig *rig);

/* Tells a server with crash points that what it is to do later is to be done from now on. */
void rig_go(struct rig *rig);

/* The labels of the crash points that the program has, each followed by a newline. */
void rig_crash_list(bool net, char *out, size_t size);

/* By hand: the front end goes, and another connects to the same server. */
void rig_disconnect(struct rig *rig);
void rig_connect(struct rig *rig);

/* Starts the program with these arguments (ended by NULL) and what it prints on standard error in out (may be
 * NULL); waits for its end: the exit status. */
int rig_run(const char *const *args, char *out, size_t size);

/* Reads configuration space. */
void rig_get_config(struct rig *rig, uint32_t off, void *buf, uint32_t len);

/* Writes one byte of it: 0, or the error that came back. */
int rig_set_config(struct rig *rig, uint32_t off, uint8_t value);

/* Adds a region to the memory that the server was told of, or takes it away again. */
void rig_change_memory(struct rig *rig, const struct mem_region *region, int fd, bool add);

/* Has the server finish and forget a ring; the second one returns false if it died of that. */
void rig_stop_ring(struct rig *rig, unsigned queue);
bool rig_try_stop_ring(struct rig *rig, unsigned queue);

/* Starts them again once all are stopped. */
void rig_restart_rings(struct rig *rig);

/* Another driver begins, with rings of its own: what was in the others is forgotten. Of a net-server. */
void rig_reset_driver(struct rig *rig);

/* A buffer in guest memory. */
uint64_t rig_alloc(struct rig *rig, uint64_t len, uint64_t align);
uint8_t *rig_ptr(struct rig *rig, uint64_t gpa);

/* ---- requests ---- */

struct rig_done {
	int slot;
	uint8_t status;
	uint32_t len; /* used.len */
};

/* Adds a request of one data buffer (len 0: none) and kicks if that is wanted; its slot. */
int rig_add(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len);

/* The same without making it visible; rig_publish does that. */
int rig_stage(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len);
void rig_publish(struct rig *rig, unsigned queue);

/* Takes a completion if there is one; fails the test for one that nobody waits for. */
bool rig_get(struct rig *rig, unsigned queue, struct rig_done *done);

/* Waits for the next completion of a queue. */
struct rig_done rig_wait(struct rig *rig, unsigned queue);

/* One request from start to end. */
struct rig_done rig_request(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa,
			    uint32_t len);

/* A chain as it is given, with header and status among its buffers; used.len, or -1 if the server signalled that the
 * ring is broken instead. */
int64_t rig_raw(struct rig *rig, unsigned queue, const struct ring_buf *bufs, unsigned n);

/* Runs the loop until the condition holds, or fails at the deadline. */
#define rig_until(rig, condition)                                                                            \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + RIG_DEADLINE_S * NS_PER_S;                                      \
		while (!(condition)) {                                                                       \
			cr_assert(!(rig)->lost, "the server is gone");                                       \
			cr_assert(clock_ns() < end_, "deadline: %s", #condition);                            \
			cr_assert_eq(loop_run_once((rig)->loop, (int64_t)(20 * NS_PER_MS)), 0);              \
		}                                                                                            \
	} while (0)

/* len bytes of the image at off, as they stand on the disk. Of a qcow2 image, as QEMU reads them: all of it when off is 0. */
void rig_judge_image(
    struct rig *rig); /* a qcow2 image, while no server runs: qemu-img finds nothing worse than leaks */
void rig_read_image(struct rig *rig, uint64_t off, uint8_t *buf, uint32_t len);

/* A pattern that tells every sector and every seed apart. */
void rig_fill(uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed);
bool rig_check(const uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed);

#endif
