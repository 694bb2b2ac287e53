/* SPDX-License-Identifier: Apache-2.0 */
/* The real net-user between a test that plays net-server, with frames made by hand, and the same test as its supervisor. */
#ifndef DEVICE_USER_H
#define DEVICE_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bus.h"
#include "loop.h"

#define USER_DEADLINE_S 30

struct user {
	pid_t pid;
	int pidfd;
	int sock; /* net-server's end */
	char dir[64], path[80];
	struct loop *loop;
	struct bus *bus;
	struct bus_msg *hello, *reply;
	bool ready, answered;
	int err;
};

/* Starts it with options up to NULL, sandboxed unless built with sanitizers, and waits for READY. */
void user_start(struct user *u, const char *const *options);

/* SHUTDOWN, and it exits with 0. */
void user_stop(struct user *u);

/* Waits for its end and gives all back; its wait status as of waitid: the exit status, or minus a signal. */
int user_wait(struct user *u);

/* A request and its answer in u->reply; what it failed with. */
int user_ask(struct user *u, enum bus_type type);

/* The same with a deadline of its own. */
int user_ask_within(struct user *u, enum bus_type type, uint64_t timeout_ns);

uint64_t user_stat(struct user *u, const char *name);

/* Sends a frame, waiting for room. */
void user_send(struct user *u, const void *frame, size_t len);

/* The next frame for the guest within timeout_ms; its length, or 0. */
size_t user_receive(struct user *u, void *frame, size_t size, int timeout_ms);

/* A ping of the gateway is answered. */
bool user_answers(struct user *u);

/* ---- frames: from the guest at 10.0.2.15 to the gateway unless said; room for the rest behind them ---- */

#define USER_IP    14 /* where IP begins */
#define USER_UPPER 34 /* where TCP, UDP or ICMP begins */

void user_put16(uint8_t *p, uint32_t v);
void user_put32(uint8_t *p, uint32_t v);
uint32_t user_get16(const uint8_t *p);
uint32_t user_get32(const uint8_t *p);

/* Ethernet and IPv4 headers for len bytes after them; the length of the frame. The address is in host order. */
size_t user_ip(uint8_t *frame, uint8_t protocol, uint32_t dst, size_t len);

/* The same with a UDP header, or a TCP one, before len bytes of data that are there already; checksums are right. */
size_t user_udp(uint8_t *frame, uint32_t dst, unsigned src_port, unsigned dst_port, size_t len);
size_t user_tcp(uint8_t *frame, uint32_t dst, unsigned src_port, unsigned dst_port, uint32_t seq,
		uint32_t ack, uint8_t flags, size_t len);
#define USER_UDP_DATA 42
#define USER_TCP_DATA 54

#define USER_GATEWAY 0x0a000202U
#define USER_GUEST   0x0a00020fU

#endif
