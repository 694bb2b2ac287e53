/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the files of the host that a machine uses, each checked to be what it is meant to be. */
#ifndef SUPERVISOR_FILES_H
#define SUPERVISOR_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "usernet.h"
#include "vmconf.h"

/* Opens path, a regular file outside /proc and /sys, for reading. The descriptor, or -EINVAL with the reason. */
int files_open(const char *path, struct vmconf_error *error);

/* The same for a kernel, which must look like one; whether it can be booted is vmm-core's to find. */
int files_open_kernel(const char *path, struct vmconf_error *error);

/* Reads a whole text file of at most max bytes without NULs; *text is the caller's to free. */
int files_read_text(const char *path, size_t max, char **text, struct vmconf_error *error);

/* Opens /dev/kvm; what it can do is for the core to see. */
int files_open_kvm(struct vmconf_error *error);

/*
 * Opens a disk's image, a regular file or block device, and locks it (an open-file-description lock: it lives as
 * long as any copy of the descriptor). *direct tells whether it goes past the page cache.
 */
int files_open_image(const struct vmconf_disk *disk, bool *direct, struct vmconf_error *error);

/* Whether an image that was opened so begins as a qcow2 image does; false if that can't be read. */
bool files_begins_like_qcow2(int fd);

/* Opens a backing file, given as [FORMAT:]FILE, to be read, and locks it against writers. The same. */
int files_open_backing(const char *word, struct vmconf_error *error);
/* Where the name begins in such a word. */
const char *files_backing_path(const char *word);

/*
 * Listens on a unix stream socket at path that only this user may connect to, non-blocking. One of ours that nobody listens
 * on any more was left by a process that was killed, and is replaced. The descriptor, or -errno.
 */
int files_listen(const char *path);

/* Connects to a listening unix stream socket, non-blocking. The descriptor, or -errno. */
int files_connect(const char *path);

/* Takes a port of this host, as net-user is to, and gives it back: 0, or -errno if it can't be had. */
int files_try_port(const struct usernet_forward *forward);

/* The id of a process that has the file behind fd open and locked, or 0 if none is to be seen. */
int files_lock_holder(int fd);

#endif
