/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A serial port (National Semiconductor PC16550D data sheet).
 *
 * The registers are called by vCPU threads; the line is served by the main loop; between them are two rings under a
 * leaf lock. Sent bytes go to the transmit ring; while it is full the line status does not show "holding register
 * empty", so a guest that floods its console waits for the reader as it would for a slow line, and a byte that it
 * sends nevertheless is lost, as in hardware. Received bytes wait in a ring of the FIFO's size; while it is full the
 * descriptor is not read, so that flow control goes back to the sender.
 */
#include "uart16550.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clean.h"
#include "lock.h"
#include "loop.h"
#include "num.h"

#define TX_SIZE 65536U /* powers of two: positions only grow, and wrap with their type */
#define RX_SIZE 16U

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

enum {
	IER_RX = 1 << 0,
	IER_TX = 1 << 1,
	IER_LINE = 1 << 2,
	IER_ALL = 0x0f,
	IIR_NONE = 0x01,
	IIR_TX = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_FIFO = 0xc0,
	FCR_ENABLE = 1 << 0,
	FCR_CLEAR_RX = 1 << 1,
	LCR_DLAB = 1 << 7,
	MCR_DTR = 1 << 0,
	MCR_RTS = 1 << 1,
	MCR_OUT1 = 1 << 2,
	MCR_OUT2 = 1 << 3,
	MCR_LOOP = 1 << 4,
	MCR_ALL = 0x1f,
	LSR_DATA = 1 << 0,
	LSR_OVERRUN = 1 << 1,
	LSR_THRE = 1 << 5,
	LSR_IDLE = 1 << 6,
	MSR_CTS = 1 << 4,
	MSR_DSR = 1 << 5,
	MSR_RI = 1 << 6,
	MSR_DCD = 1 << 7,
};

struct uart {
	struct loop *loop;
	void (*set_irq)(void *arg, bool level);
	void *irq_arg;
	struct loop_bh work; /* output to write, or room for input again */

	/* The loop's thread only. */
	int fd;           /* -1 once it is gone */
	bool input_ended; /* the other end sends no more; it may still read */
	struct loop_fd *watch;
	uint32_t watched;
	void (*drained)(void *arg);
	void *drained_arg;

	struct lock lock;
	uint8_t ier GUARDED_BY(lock);
	uint8_t fcr GUARDED_BY(lock);
	uint8_t lcr GUARDED_BY(lock);
	uint8_t mcr GUARDED_BY(lock);
	uint8_t scr GUARDED_BY(lock);
	uint8_t dll GUARDED_BY(lock);
	uint8_t dlm GUARDED_BY(lock);
	bool overrun GUARDED_BY(lock);
	bool tx_event GUARDED_BY(lock); /* "holding register empty" is to be reported */
	bool irq GUARDED_BY(lock);
	bool discard GUARDED_BY(lock);     /* nobody will read the output */
	uint32_t tx_head GUARDED_BY(lock); /* sent here, ... */
	uint32_t tx_tail GUARDED_BY(lock); /* ... written from here */
	uint32_t rx_head GUARDED_BY(lock);
	uint32_t rx_tail GUARDED_BY(lock);
	uint8_t rx[RX_SIZE] GUARDED_BY(lock);
	uint8_t tx[TX_SIZE] GUARDED_BY(lock);
};

/* ---- registers; all with the lock held ---- */

static bool tx_has_room(const struct uart *u) REQUIRES(u->lock)
{
	return u->discard || u->tx_head - u->tx_tail < TX_SIZE;
}

static uint8_t interrupt_id(const struct uart *u) REQUIRES(u->lock)
{
	if (u->overrun && (u->ier & IER_LINE))
		return IIR_LINE;
	if (u->rx_head != u->rx_tail && (u->ier & IER_RX))
		return IIR_RX;
	if (u->tx_event && (u->ier & IER_TX))
		return IIR_TX;
	return IIR_NONE;
}

static void update_irq(struct uart *u) REQUIRES(u->lock)
{
	bool level = interrupt_id(u) != IIR_NONE;

	if (level == u->irq)
		return;
	u->irq = level;
	u->set_irq(u->irq_arg, level);
}

static void receive(struct uart *u, uint8_t byte) REQUIRES(u->lock)
{
	if (u->rx_head - u->rx_tail == RX_SIZE)
		u->overrun = true;
	else
		u->rx[u->rx_head++ % RX_SIZE] = byte;
}

/* A byte that finds no room is lost; the room was announced before, so only a guest that does not look loses any. */
static void send(struct uart *u, uint8_t byte) REQUIRES(u->lock)
{
	if (u->mcr & MCR_LOOP) {
		receive(u, byte);
		u->tx_event = true;
		return;
	}
	if (!u->discard && tx_has_room(u)) {
		if (u->tx_head == u->tx_tail)
			loop_bh_post(&u->work);
		u->tx[u->tx_head++ % TX_SIZE] = byte;
	}
	u->tx_event = tx_has_room(u);
}

static uint8_t read_data(struct uart *u) REQUIRES(u->lock)
{
	uint8_t byte;

	if (u->rx_head == u->rx_tail)
		return 0;
	if (u->rx_head - u->rx_tail == RX_SIZE)
		loop_bh_post(&u->work); /* it may read on */
	byte = u->rx[u->rx_tail++ % RX_SIZE];
	return byte;
}

static uint8_t read_iir(struct uart *u) REQUIRES(u->lock)
{
	uint8_t id = interrupt_id(u);

	if (id == IIR_TX)
		u->tx_event = false;
	return id | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u) REQUIRES(u->lock)
{
	uint8_t lsr = 0;

	if (u->rx_head != u->rx_tail)
		lsr |= LSR_DATA;
	if (u->overrun)
		lsr |= LSR_OVERRUN;
	if (tx_has_room(u))
		lsr |= LSR_THRE | LSR_IDLE;
	u->overrun = false;
	return lsr;
}

/* In loopback the four outputs of the modem control come back on the inputs; otherwise the other end is there. */
static uint8_t read_msr(const struct uart *u) REQUIRES(u->lock)
{
	uint8_t msr = 0;

	if (!(u->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (u->mcr & MCR_RTS)
		msr |= MSR_CTS;
	if (u->mcr & MCR_DTR)
		msr |= MSR_DSR;
	if (u->mcr & MCR_OUT1)
		msr |= MSR_RI;
	if (u->mcr & MCR_OUT2)
		msr |= MSR_DCD;
	return msr;
}

static void write_fcr(struct uart *u, uint8_t value) REQUIRES(u->lock)
{
	if (value & FCR_CLEAR_RX || (value ^ u->fcr) & FCR_ENABLE) {
		if (u->rx_head - u->rx_tail == RX_SIZE)
			loop_bh_post(&u->work);
		u->rx_tail = u->rx_head;
	}
	u->fcr = value & FCR_ENABLE;
}

static void write_ier(struct uart *u, uint8_t value) REQUIRES(u->lock)
{
	if (value & ~u->ier & IER_TX)
		u->tx_event = tx_has_room(u);
	u->ier = value & IER_ALL;
}

static uint64_t uart_read(void *owner, uint64_t off, unsigned size)
{
	struct uart *u = owner;
	uint8_t value = 0;

	(void)size;
	lock_take(&u->lock);
	switch (off) {
	case REG_DATA:
		value = u->lcr & LCR_DLAB ? u->dll : read_data(u);
		break;
	case REG_IER:
		value = u->lcr & LCR_DLAB ? u->dlm : u->ier;
		break;
	case REG_IIR:
		value = read_iir(u);
		break;
	case REG_LCR:
		value = u->lcr;
		break;
	case REG_MCR:
		value = u->mcr;
		break;
	case REG_LSR:
		value = read_lsr(u);
		break;
	case REG_MSR:
		value = read_msr(u);
		break;
	case REG_SCR:
		value = u->scr;
		break;
	}
	update_irq(u);
	lock_drop(&u->lock);
	return value;
}

static void uart_write(void *owner, uint64_t off, unsigned size, uint64_t value64)
{
	struct uart *u = owner;
	uint8_t value = (uint8_t)value64;

	(void)size;
	lock_take(&u->lock);
	switch (off) {
	case REG_DATA:
		if (u->lcr & LCR_DLAB)
			u->dll = value;
		else
			send(u, value);
		break;
	case REG_IER:
		if (u->lcr & LCR_DLAB)
			u->dlm = value;
		else
			write_ier(u, value);
		break;
	case REG_IIR:
		write_fcr(u, value);
		break;
	case REG_LCR:
		u->lcr = value;
		break;
	case REG_MCR:
		u->mcr = value & MCR_ALL;
		break;
	case REG_SCR:
		u->scr = value;
		break;
	}
	update_irq(u);
	lock_drop(&u->lock);
}

const struct space_ops uart_ops = { .read = uart_read, .write = uart_write, .max = 1 };

/* ---- the line; the loop's thread ---- */

static void watch(struct uart *u, uint32_t events)
{
	if (u->fd >= 0 && events != u->watched && !loop_mod_fd(u->watch, events))
		u->watched = events;
}

/* The other end is gone: what the guest sends from now on is dropped, so that it never waits for room. */
static void line_gone(struct uart *u)
{
	loop_del_fd(u->watch);
	u->watch = NULL;
	u->fd = -1;
	lock_take(&u->lock);
	u->discard = true;
	u->tx_tail = u->tx_head;
	u->tx_event = true;
	update_irq(u);
	lock_drop(&u->lock);
}

/* The longest run of pending output that lies in one piece, copied out so that writing needs no lock. */
static size_t peek_output(struct uart *u, uint8_t *buf, size_t max)
{
	size_t len, at;

	lock_take(&u->lock);
	at = u->tx_tail % TX_SIZE;
	len = MIN(u->tx_head - u->tx_tail, TX_SIZE - at);
	len = MIN(len, max);
	memcpy(buf, u->tx + at, len);
	lock_drop(&u->lock);
	return len;
}

static void consume_output(struct uart *u, size_t len)
{
	lock_take(&u->lock);
	if (!tx_has_room(u))
		u->tx_event = true;
	u->tx_tail += (uint32_t)len;
	update_irq(u);
	lock_drop(&u->lock);
}

/* Writes what goes; false if the line must be waited for. A bounded amount a pass, so that others get their turn. */
static bool write_output(struct uart *u)
{
	uint8_t buf[4096];

	for (unsigned round = 0; round < 16 && u->fd >= 0; round++) {
		size_t len = peek_output(u, buf, sizeof(buf));
		ssize_t n;

		if (!len)
			return true;
		n = write(u->fd, buf, len);
		if (n > 0)
			consume_output(u, (size_t)n);
		else if (n < 0 && errno == EAGAIN)
			return false;
		else if (n < 0 && errno != EINTR)
			line_gone(u);
	}
	if (u->fd >= 0)
		loop_bh_post(&u->work);
	return true;
}

static uint32_t rx_room(struct uart *u)
{
	uint32_t room;

	lock_take(&u->lock);
	room = RX_SIZE - (u->rx_head - u->rx_tail);
	lock_drop(&u->lock);
	return room;
}

static void read_input(struct uart *u)
{
	uint8_t buf[RX_SIZE];
	uint32_t room = rx_room(u);
	ssize_t n;

	if (!room || u->fd < 0)
		return;
	n = read(u->fd, buf, room);
	if (n == 0) {
		u->input_ended = true;
		return;
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		line_gone(u);
		return;
	}
	lock_take(&u->lock);
	for (ssize_t i = 0; i < n; i++)
		receive(u, buf[i]);
	update_irq(u);
	lock_drop(&u->lock);
}

static void serve_line(struct uart *u)
{
	bool wrote_all = write_output(u);
	void (*fn)(void *arg) = u->drained;

	watch(u,
	      (wrote_all ? 0 : (uint32_t)EPOLLOUT) | (rx_room(u) && !u->input_ended ? (uint32_t)EPOLLIN : 0));
	if (fn && !uart_pending(u)) {
		u->drained = NULL;
		fn(u->drained_arg);
	}
}

static void on_work(void *arg)
{
	serve_line(arg);
}

static void on_line(void *arg, uint32_t events)
{
	struct uart *u = arg;

	if ((events & EPOLLIN) && !u->input_ended)
		read_input(u);
	else if (events & (EPOLLHUP | EPOLLERR))
		line_gone(u);
	serve_line(u);
}

int uart_new(struct loop *loop, int fd, void (*set_irq)(void *arg, bool level), void *arg, struct uart **out)
{
	CLEAN_FREE struct uart *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return -ENOMEM;
	u->loop = loop;
	u->set_irq = set_irq;
	u->irq_arg = arg;
	u->fd = fd;
	lock_init(&u->lock);
	lock_take(&u->lock);
	u->discard = fd < 0;
	lock_drop(&u->lock);
	if (fd >= 0) {
		rc = loop_add_fd(loop, fd, EPOLLIN, on_line, u, &u->watch);
		if (rc)
			return rc;
		u->watched = EPOLLIN;
	}
	loop_bh_init(&u->work, loop, on_work, u);
	*out = TAKE_PTR(u);
	return 0;
}

void uart_free(struct uart *u)
{
	if (!u)
		return;
	loop_bh_cancel(&u->work);
	loop_del_fd(u->watch);
	lock_destroy(&u->lock);
	free(u);
}

uint32_t uart_pending(struct uart *u)
{
	uint32_t pending;

	lock_take(&u->lock);
	pending = u->tx_head - u->tx_tail;
	lock_drop(&u->lock);
	return pending;
}

void uart_drain(struct uart *u, void (*fn)(void *arg), void *arg)
{
	u->drained = fn;
	u->drained_arg = arg;
	serve_line(u);
}
