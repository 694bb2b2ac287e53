/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors: flags, whole reads and writes, and passing them over unix sockets. All return -errno. */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FD_PASS_MAX 32 /* descriptors in one message, more than any message of ours carries */

int fd_set_nonblock(int fd, bool on);
int fd_set_cloexec(int fd, bool on);

/* Read or write exactly len bytes at the file position (or at off), retrying EINTR and short counts. May
 * block. -ENODATA if the file ends first. */
int fd_read_full(int fd, void *buf, size_t len);
int fd_pread_full(int fd, void *buf, size_t len, off_t off);
int fd_write_full(int fd, const void *buf, size_t len);
int fd_pwrite_full(int fd, const void *buf, size_t len, off_t off);

/* 0 if the file can't become shorter any more; -EPERM if it can. Only a memfd is asked: another error for the rest. */
int fd_check_unshrinkable(int fd);

#define FD_SOCKET_MAX 107 /* bytes of a unix socket's path, without its NUL */

/* A connection to who listens on the unix stream socket at path, close-on-exec: the descriptor or -errno. Waits while the
 * listener has no room for it. */
int fd_connect(const char *path);

/* Whether fd, from somebody else, is a unix stream socket with somebody at its other end; it is made close-on-exec. 0 or -errno. */
int fd_check_connected(int fd);

/* Adds 1 to an eventfd; a saturated counter (EAGAIN on a non-blocking one) is success: it is already
 * signalled. */
int fd_event_set(int fd);

/* Sets an eventfd's counter to 0 and never waits, even if a process that shares the descriptor made it blocking. */
void fd_event_clear(int fd);

/*
 * Sends len bytes and nfds descriptors as one sendmsg; the descriptors stay the caller's. Returns the bytes
 * sent or -errno (-EAGAIN if the socket is full and non-blocking). Never raises SIGPIPE.
 */
ssize_t fd_send(int sock, const void *buf, size_t len, const int *fds, size_t nfds);

/*
 * Receives at most len bytes and at most max descriptors (close-on-exec, the caller's from then on; *nfds
 * tells how many). Descriptors over max are closed and -E2BIG is returned with none handed over. 0 is end of
 * file.
 */
ssize_t fd_recv(int sock, void *buf, size_t len, int *fds, size_t max, size_t *nfds);

/*
 * The same without waiting, of a socket with SO_PASSCRED: *pid is the sender's process id here, 0 if it was not told.
 * Descriptors that come along are dropped.
 */
ssize_t fd_recv_pid(int sock, void *buf, size_t len, pid_t *pid);

/* A memfd of size bytes, close-on-exec, sealed against shrinking, growing and further seals. The descriptor
 * or -errno. */
int fd_sealed_memfd(const char *name, uint64_t size);

#endif
