/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead image`: snapshots of a qcow2 image that no machine uses. */
#ifndef SUPERVISOR_IMAGE_H
#define SUPERVISOR_IMAGE_H

/* The words after the command's own; an exit status. */
int image_command(int argc, char **argv);

#endif
