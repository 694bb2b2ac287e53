/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nng's byte stream and its asynchronous operations, in memory: the linker has those calls of what is tested end here (--wrap).
 * An operation is through when the target says so, whose thread its callback then has. One stream at a time.
 */
#ifndef FUZZ_STREAM_H
#define FUZZ_STREAM_H

#include <nng/nng.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stream_way { STREAM_IN, STREAM_OUT, STREAM_WAYS };

/* Told of each operation as it begins, which may end it at once. */
typedef void (*stream_begun_fn)(enum stream_way way);

/* A stream; what is left of the last one is a finding. Of the next operations that are made the one with this number, from
 * 1 on, can't be had; 0: all can. */
nng_stream *stream_open(stream_begun_fn begun, unsigned lacking);

/* The bytes that an operation is for, which is under way; NULL if none is. */
uint8_t *stream_waits(enum stream_way way, size_t *len);

/* It ends: so many bytes were moved, or it failed with an error of nng's. */
void stream_moved(enum stream_way way, size_t n);
void stream_fails(enum stream_way way, int err);

/* Streams and operations that are not freed. */
unsigned stream_left(void);

#endif
