/* SPDX-License-Identifier: Apache-2.0 */
/* A 16550A serial port whose line is a stream socket or a pipe, served by the main loop. */
#ifndef CORE_UART16550_H
#define CORE_UART16550_H

#include <stdbool.h>
#include <stdint.h>

#include "space.h"

struct loop;
struct uart;

/*
 * Makes a port on loop (the caller's thread is the loop's). fd, non-blocking, stays the caller's; -1: output is
 * dropped and there is no input. The process ignores SIGPIPE. set_irq(arg, level) is called with the port's lock held,
 * so it must not block and not come back. -errno on failure.
 */
int uart_new(struct loop *loop, int fd, void (*set_irq)(void *arg, bool level), void *arg, struct uart **out);
void uart_free(
    struct uart *uart); /* the loop's thread; nobody may access its registers any more; NULL is ignored */

/* Its eight registers; owner is the uart. */
extern const struct space_ops uart_ops;

/* Output not written yet, in bytes. Any thread. */
uint32_t uart_pending(struct uart *uart);

/* Calls fn(arg) once, on the loop's thread, when no output is pending: perhaps at once. */
void uart_drain(struct uart *uart, void (*fn)(void *arg), void *arg);

#endif
