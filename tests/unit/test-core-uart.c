/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port's registers, its interrupt, and its line under flood and loss. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "loop.h"
#include "uart16550.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

#define LSR_DATA 0x01
#define LSR_THRE 0x20

static struct loop *loop;
static struct uart *uart;
static int line[2]; /* the port's end, ours */
static bool irq;

static void on_irq(void *arg, bool level)
{
	(void)arg;
	cr_assert_neq(irq, level, "told twice");
	irq = level;
}

static void set_up(void)
{
	signal(SIGPIPE, SIG_IGN);
	irq = false;
	cr_assert_eq(loop_new("test", &loop), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, line), 0);
	cr_assert_eq(uart_new(loop, line[0], on_irq, NULL, &uart), 0);
}

static void tear_down(void)
{
	uart_free(uart);
	loop_free(loop);
	close(line[0]);
	if (line[1] >= 0)
		close(line[1]);
}

TestSuite(core_uart, .init = set_up, .fini = tear_down);

static uint8_t rd(unsigned reg)
{
	return (uint8_t)uart_ops.read(uart, reg, 1);
}

static void wr(unsigned reg, uint8_t value)
{
	uart_ops.write(uart, reg, 1, value);
}

/* Runs the loop until cond, at most 20 s. */
#define RUN_UNTIL(cond)                                                                                      \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + 20 * NS_PER_S;                                                  \
		while (!(cond) && clock_ns() < end_)                                                         \
			loop_run_once(loop, 10 * (int64_t)NS_PER_MS);                                        \
		cr_assert(cond);                                                                             \
	} while (0)

Test(core_uart, looks_like_a_16550a_to_a_probe)
{
	wr(SCR, 0x5a);
	cr_assert_eq(rd(SCR), 0x5a);
	wr(IER, 0xff);
	cr_assert_eq(rd(IER), 0x0f);
	wr(IER, 0);
	wr(MCR, 0x1a); /* loopback, OUT2 and RTS */
	cr_assert_eq(rd(MSR) & 0xf0, 0x90);
	wr(MCR, 0);
	cr_assert_eq(rd(MSR) & 0xf0, 0xb0);
	wr(IIR, 1);
	cr_assert_eq(rd(IIR), 0xc1);
	wr(IIR, 0);
	cr_assert_eq(rd(IIR), 0x01);
	wr(LCR, 0x80);
	wr(DATA, 0x34);
	wr(IER, 0x12);
	cr_assert_eq(rd(DATA), 0x34);
	cr_assert_eq(rd(IER), 0x12);
	wr(LCR, 0x03);
	cr_assert_eq(rd(IER), 0);
	cr_assert_eq(rd(LSR), 0x60);
}

Test(core_uart, sends_to_the_line)
{
	char buf[8] = "";

	for (const char *p = "hello"; *p; p++)
		wr(DATA, (uint8_t)*p);
	cr_assert_eq(uart_pending(uart), 5);
	RUN_UNTIL(!uart_pending(uart));
	cr_assert_eq(read(line[1], buf, sizeof(buf)), 5);
	cr_assert_str_eq(buf, "hello");
}

Test(core_uart, transmit_interrupt_comes_and_goes)
{
	wr(IER, 0x02);
	cr_assert(irq);
	cr_assert_eq(rd(IIR) & 0x0f, 0x02);
	cr_assert_not(irq); /* reading it acknowledges */
	wr(DATA, 'x');
	cr_assert(irq);
	wr(IER, 0);
	cr_assert_not(irq);
}

Test(core_uart, receives_with_interrupt_and_flow_control)
{
	char buf[40];

	memset(buf, 'a', sizeof(buf));
	buf[39] = 'z';
	wr(IER, 0x01);
	cr_assert_eq(write(line[1], buf, sizeof(buf)), sizeof(buf));
	RUN_UNTIL(irq);
	loop_run_once(loop, 0);
	cr_assert_eq(rd(IIR) & 0x0f, 0x04);
	for (unsigned i = 0; i < sizeof(buf); i++) {
		RUN_UNTIL(rd(LSR) & LSR_DATA);
		cr_assert_eq(rd(DATA), (uint8_t)buf[i], "byte %u", i);
	}
	cr_assert_not(irq);
	cr_assert_eq(rd(LSR) & (LSR_DATA | 0x02), 0, "data left or lost");
}

Test(core_uart, loopback_returns_what_is_sent)
{
	wr(MCR, 0x10);
	wr(DATA, 0xa5);
	cr_assert_eq(rd(LSR) & LSR_DATA, LSR_DATA);
	cr_assert_eq(rd(DATA), 0xa5);
	cr_assert_eq(uart_pending(uart), 0);
	for (unsigned i = 0; i < 17; i++)
		wr(DATA, (uint8_t)i);
	cr_assert_eq(rd(LSR) & 0x02, 0x02, "an overrun is told");
	cr_assert_eq(rd(LSR) & 0x02, 0);
	wr(IIR, 0x03);
	cr_assert_eq(rd(LSR) & LSR_DATA, 0, "the FIFO is cleared");
}

/* A reader that does not read: the port says "wait", loses nothing it announced room for, and goes on later. */
Test(core_uart, flood_is_held_back_and_nothing_is_lost)
{
	uint64_t sent = 0, got = 0, end = clock_ns() + 10 * NS_PER_S;
	unsigned full = 0;
	uint8_t buf[4096];

	while (full < 3) {
		if (rd(LSR) & LSR_THRE) {
			wr(DATA, (uint8_t)(sent++ % 251));
			continue;
		}
		loop_run_once(loop, 0);
		full = rd(LSR) & LSR_THRE ? 0 : full + 1;
		cr_assert_lt(sent, 16U << 20, "never held back");
	}
	cr_assert_not(rd(LSR) & LSR_THRE);
	while (got < sent && clock_ns() < end) {
		ssize_t n = read(line[1], buf, sizeof(buf));

		for (ssize_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], (uint8_t)(got++ % 251));
		loop_run_once(loop, 0);
	}
	cr_assert_eq(got, sent);
	cr_assert(rd(LSR) & LSR_THRE);
}

Test(core_uart, a_full_port_raises_its_interrupt_when_there_is_room)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;
	uint8_t buf[4096];

	wr(IER, 0x02);
	rd(IIR);
	while (rd(LSR) & LSR_THRE)
		wr(DATA, 'x');
	cr_assert_not(irq);
	while (!irq && clock_ns() < end) {
		loop_run_once(loop, 0);
		if (read(line[1], buf, sizeof(buf)) < 0)
			loop_run_once(loop, (int64_t)NS_PER_MS);
	}
	cr_assert(irq);
}

Test(core_uart, end_of_input_does_not_end_output)
{
	char c;

	cr_assert_eq(shutdown(line[1], SHUT_WR), 0);
	loop_run_once(loop, 100 * (int64_t)NS_PER_MS);
	wr(DATA, 'y');
	RUN_UNTIL(!uart_pending(uart));
	cr_assert_eq(read(line[1], &c, 1), 1);
	cr_assert_eq(c, 'y');
}

Test(core_uart, a_lost_line_never_holds_the_guest_back)
{
	close(line[1]);
	line[1] = -1;
	for (unsigned i = 0; i < 200000; i++) {
		wr(DATA, 'x');
		if (i % 10000 == 0)
			loop_run_once(loop, 0);
	}
	RUN_UNTIL(!uart_pending(uart));
	cr_assert(rd(LSR) & LSR_THRE);
}

static void set_flag(void *arg)
{
	*(bool *)arg = true;
}

Test(core_uart, drain_is_told_when_all_is_written)
{
	bool drained = false;

	wr(DATA, 'q');
	uart_drain(uart, set_flag, &drained);
	RUN_UNTIL(drained);
	cr_assert_eq(uart_pending(uart), 0);
	drained = false;
	uart_drain(uart, set_flag, &drained);
	cr_assert(drained, "at once when there is nothing");
}
