/* SPDX-License-Identifier: Apache-2.0 */
/* How a user ends a machine: at once, or by the power button and a time of grace; and the signals that ask for it. */
#include "machine.h"
#include "machine_priv.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "clock.h"

void machine_quit(struct machine *m)
{
	m->asked = true;
	machine_end(m, EXIT_POWEROFF, false);
}

void machine_on_grace_over(void *arg)
{
	struct machine *m = arg;

	say_warn("%s: the guest did not power off in %u s; ending it", m->conf->name, m->conf->grace_s);
	machine_end(m, EXIT_POWEROFF, false);
}

static void on_button(void *arg, int err, const struct bus_msg *reply)
{
	struct machine *m = arg;

	(void)reply;
	if (err && err != -ECANCELED) {
		say_warn_errno(err, "%s: the power button can't be pressed; ending the guest", m->conf->name);
		machine_end(m, EXIT_POWEROFF, false);
	}
}

void machine_power_off(struct machine *m)
{
	struct bus_msg button = { .type = BUS_POWER_BUTTON }, resume = { .type = BUS_RESUME };
	int err;

	m->asked = true;
	if ((m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED) || !m->conf->grace_s) {
		machine_end(m, EXIT_POWEROFF, false);
		return;
	}
	say_info("%s: asking the guest to power off, %u s at most", m->conf->name, m->conf->grace_s);
	loop_arm_timer(m->grace, clock_ns() + m->conf->grace_s * NS_PER_S);
	if (m->core.adopted)
		return; /* it is asked when it is back on the bus */
	err = bus_request(m->core.bus, &button, CORE_ANSWER_NS, on_button, m);
	if (!err && m->state == MACHINE_PAUSED) {
		m->state = MACHINE_RUNNING;
		machine_retry(m); /* there may be room by now for what it will write */
		err = bus_request(m->core.bus, &resume, CORE_ANSWER_NS, on_button, m);
	}
	if (err)
		on_button(m, err, NULL);
}

void machine_on_signal(void *arg, uint32_t events)
{
	struct machine *m = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(m->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (m->asked)
		say_info("%s: ending at once", m->conf->name);
	if (m->asked || m->state >= MACHINE_ENDING_CORE)
		machine_quit(m);
	else
		machine_power_off(m);
}
