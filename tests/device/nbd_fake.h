/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server that breaks the protocol, or only falls silent, as often as it is told to. */
#ifndef DEVICE_NBD_FAKE_H
#define DEVICE_NBD_FAKE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_BYTES       (16U << 20)
#define FAKE_OPTIONS_MAX 16

/* What it does in place of what it should. */
enum fake_how {
	FAKE_NOTHING,
	/* to a request, of any kind unless it says read */
	FAKE_WRONG_COOKIE,
	FAKE_BAD_MAGIC,
	FAKE_TWICE,         /* answers it, and once more */
	FAKE_UNASKED,       /* answers another one before, that nobody sent */
	FAKE_ERROR,         /* refuses it: EIO */
	FAKE_STRANGE_ERROR, /* ... by a number that has no meaning */
	FAKE_SILENT,        /* stops in the middle of the answer */
	FAKE_CLOSE,         /* ends the connection there */
	FAKE_SIMPLE,        /* read: by the simple answer that was agreed not to be used */
	FAKE_LONG,          /* read: more data than was asked for */
	FAKE_HUGE,          /* read: a chunk of 4 GiB */
	FAKE_BEHIND,        /* read: data of behind what was asked for */
	FAKE_NO_DATA,       /* read: done, without any */
	FAKE_STRANGE_CHUNK, /* read: of a kind that there is not */
	FAKE_SHORT_ERROR,   /* read: an error of fewer bytes than it says */
	FAKE_ENDLESS,       /* read: the same data again and again, and never the end */
	/* to a connection */
	FAKE_HANG_UP,     /* ends it at once */
	FAKE_GARBAGE,     /* begins with something else */
	FAKE_HALF_HELLO,  /* begins, and stops */
	FAKE_NO_EXPORT,   /* knows of no such export */
	FAKE_LONG_OPTION, /* answers an option by 4 GiB */
	FAKE_INFOS,       /* answers an option without end */
	FAKE_SMALLER,     /* the export has shrunk */
	FAKE_READ_ONLY,   /* nobody may write to it now */
	FAKE_AHEAD,       /* answers what the last one asked at first, before this one asks */
	FAKE_HOWS,
};

/* In memory that is shared with the server; it goes through at most `times` misdeeds, and behaves again. */
struct fake {
	_Atomic unsigned how, times;
	_Atomic unsigned done, connections, requests; /* misdeeds; all that came */
	_Atomic unsigned ahead;                       /* connections that have all their answers */
	_Atomic bool multi;                           /* it says that its connections are in step */
	uint32_t options[FAKE_OPTIONS_MAX], noptions; /* that the last one asked for */
	uint8_t image[FAKE_BYTES];
};

struct fake *fake_new(void);
void fake_free(struct fake *f);

/* From now on, so many times. */
void fake_be(struct fake *f, enum fake_how how, unsigned times);

/* Serves connections to the socket, each by a process of its own that ends with this one; does not return. */
_Noreturn void fake_serve(struct fake *f, const char *socket);

#endif
