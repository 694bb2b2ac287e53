/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/device: back ends that come, die, hang and do not fit, behind a driver that must not notice. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "device.h"
#include "fake_vm.h"
#include "inflight.h"
#include "layout.h"
#include "ram.h"
#include "vhost_fe.h"

#define BAR      LAYOUT_MMIO32_START
#define VERSION1 (1ULL << VIRTIO_F_VERSION_1)
#define MQ       (1ULL << 12)
#define LIVE     0xf
#define INFLIGHT (1ULL << 12)
#define DESC     0x10000ULL
#define AVAIL    0x20000ULL
#define USED     0x30000ULL

/* ---- a front end that answers when the test says so ---- */

struct vhost_fe {
	const struct vhost_fe_ops *ops;
	void *arg;
	int fd;
};

static struct vhost_fe *fe; /* the present one */
static unsigned fe_count;
static struct vhost_fe_info *probing;
static vhost_fe_done_fn probed, started, reset, config_read;
static void *done_arg;
static struct vhost_fe_start last_start;
static struct vhost_fe_ring last_rings[8];
static unsigned starts, frees, sets, sets_before_start;
static uint8_t last_wce;

int vhost_fe_new(struct loop *loop, int fd, uint64_t timeout_ns, const struct vhost_fe_ops *ops, void *arg,
		 struct vhost_fe **out)
{
	(void)loop;
	cr_assert_gt(timeout_ns, 0);
	*out = fe = malloc(sizeof(*fe));
	*fe = (struct vhost_fe) { ops, arg, fd };
	fe_count++;
	return 0;
}

void vhost_fe_free(struct vhost_fe *old)
{
	if (!old)
		return;
	close(old->fd);
	free(old);
	frees++;
	fe = NULL;
	probed = started = reset = config_read = NULL;
}

void vhost_fe_probe(struct vhost_fe *f, uint32_t config_len, struct vhost_fe_info *info,
		    vhost_fe_done_fn done, void *arg)
{
	(void)f;
	cr_assert_eq(config_len, 60);
	probing = info;
	probed = done;
	done_arg = arg;
}

int vhost_fe_start(struct vhost_fe *f, const struct vhost_fe_start *start, vhost_fe_done_fn done, void *arg)
{
	(void)f;
	last_start = *start;
	cr_assert_leq(start->n_rings, 8);
	memcpy(last_rings, start->rings, start->n_rings * sizeof(last_rings[0]));
	started = done;
	done_arg = arg;
	starts++;
	return 0;
}

void vhost_fe_reset(struct vhost_fe *f, vhost_fe_done_fn done, void *arg)
{
	(void)f;
	reset = done;
	done_arg = arg;
}

void vhost_fe_get_config(struct vhost_fe *f, uint32_t off, uint32_t len, uint8_t *buf, vhost_fe_done_fn done,
			 void *arg)
{
	(void)f;
	memset(buf + off, 0x5a, len);
	config_read = done;
	done_arg = arg;
}

void vhost_fe_set_config(struct vhost_fe *f, uint32_t off, uint32_t len, const uint8_t *buf,
			 vhost_fe_done_fn done, void *arg)
{
	(void)f;
	(void)done;
	(void)arg;
	cr_assert(off == 32 && len == 1);
	last_wce = buf[0];
	sets++;
	sets_before_start += starts == 0;
}

/* ---- the device under test ---- */

static struct machine m;
static struct ram *ram;
static struct device *d;
static unsigned ups, resumes, downs;
static char reason[128];

static void on_up(void *arg, struct device *device, bool resumed, uint64_t handshake_ns)
{
	(void)arg;
	(void)handshake_ns;
	cr_assert_str_eq(device_id(device), "disk0");
	ups++;
	resumes += resumed;
}

static void on_down(void *arg, struct device *device, const char *why)
{
	(void)arg;
	(void)device;
	downs++;
	snprintf(reason, sizeof(reason), "%s", why);
}

static void set_up(void)
{
	static const struct device_ops ops = { .up = on_up, .down = on_down };
	struct device_args args = { .id = "disk0",
				    .kind = device_kind_find("blk"),
				    .slot = 1,
				    .backends = 1,
				    .timeout_ns = NS_PER_S,
				    .ops = &ops };

	machine_init(&m);
	cr_assert_eq(ram_new(16 << 20, false, &ram), 0);
	args.loop = m.loop;
	args.vm = &m.vm;
	args.bus = m.pci;
	args.ram = ram;
	cr_assert_eq(device_new(&args, &d), 0);
}

static void tear_down(void)
{
	device_free(d);
	ram_free(ram);
	machine_fini(&m);
	cr_assert_eq(frees, fe_count);
}

TestSuite(device, .init = set_up, .fini = tear_down);

static void answer(vhost_fe_done_fn *which, int err)
{
	vhost_fe_done_fn done = *which;

	cr_assert_not_null(done);
	*which = NULL;
	done(done_arg, err);
	machine_settle(&m);
}

static void attach(void)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[1]);
	cr_assert_eq(device_attach(d, 0, pair[0], NULL), 0);
}

static void probe_with(uint64_t features, uint64_t protocol_features, uint16_t queues)
{
	attach();
	memset(probing, 0, sizeof(*probing));
	probing->features = features;
	probing->protocol_features = protocol_features;
	probing->queues = queues;
	probing->config_len = 60;
	memcpy(probing->config + 34, &queues, sizeof(queues));
	answer(&probed, 0);
}

static void probe(void)
{
	probe_with(VERSION1 | MQ, INFLIGHT, 2);
}

static uint8_t status(void)
{
	return (uint8_t)guest_read(&m, BAR + VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(uint8_t value)
{
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_STATUS, 1, value);
}

static uint32_t driver_low;  /* features below bit 32 that the driver takes */
static uint32_t driver_high; /* and from there, beside VERSION_1 */

/* The driver up to DRIVER_OK, with queue 0 at these addresses. */
static void drive(uint64_t desc, uint64_t avail, uint64_t used)
{
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	set_status(3);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GF, 4, driver_low);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GF, 4, VERSION1 >> 32 | driver_high);
	set_status(11);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_DESCLO, 8, desc);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_AVAILLO, 8, avail);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_USEDLO, 8, used);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	set_status(LIVE);
	cr_assert_eq(status(), LIVE);
	machine_settle(&m);
}

static void run(void)
{
	probe();
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
}

static void lose(void)
{
	fe->ops->lost(fe->arg, -EPIPE, "the back end closed the connection");
	machine_settle(&m);
}

static void set_used_idx(uint16_t idx)
{
	memcpy(ram_at(ram, USED + 2, 2), &idx, sizeof(idx));
}

Test(device, is_known_once_it_was_probed)
{
	attach();
	cr_assert_not(device_is_known(d));
	cr_assert_eq(ups, 0);
	probe();
	cr_assert(device_is_known(d));
	cr_assert_eq(ups, 1);
	cr_assert_eq(resumes, 0);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	cr_assert_eq(guest_read(&m, BAR + VIRTIO_PCI_COMMON_NUMQ, 2), 2);
	cr_assert_eq(guest_config(&m, 1, 0, 4), 0x10421af4);
}

Test(device, driver_ok_hands_the_rings_over)
{
	set_used_idx(7);
	probe();
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 1);
	cr_assert_eq(last_start.features, VERSION1);
	cr_assert_eq(last_start.n_rings, 1);
	cr_assert_eq(last_rings[0].size, 16);
	cr_assert_eq(last_rings[0].desc, (uintptr_t)ram_at(ram, DESC, 1));
	cr_assert_eq(last_rings[0].used, (uintptr_t)ram_at(ram, USED, 1));
	cr_assert_eq(last_rings[0].base, 7);
	cr_assert_geq(last_start.inflight_fd, 0);
	cr_assert_geq(last_start.inflight_size, inflight_queue_bytes(16, false));
	cr_assert_eq(last_start.inflight_queue_size, 16);
	answer(&started, 0);
	cr_assert_eq(ups, 1, "it was up before the driver came");
	cr_assert_eq(m.vm.n_kicks, 1);
}

/* Law 1: nothing the guest does to the registers waits for a process that says nothing. */
Test(device, a_silent_back_end_does_not_hold_a_register_access_up)
{
	uint64_t worst = 0;

	probe();
	drive(DESC, AVAIL, USED);
	set_status(0);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t from = clock_ns(), took;

		guest_read(&m, BAR + i % 0x40, 4);
		guest_write(&m, BAR + 0x3000, 2, 0);
		set_status(0);
		cr_assert_eq(status(), LIVE, "the reset is not complete");
		took = clock_ns() - from;
		worst = took > worst ? took : worst;
		loop_run_once(m.loop, 0);
	}
	cr_assert_lt(worst, NS_PER_S);
	answer(&started, 0);
	cr_assert_eq(status(), LIVE);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
}

Test(device, a_dead_back_end_is_replaced_on_live_rings)
{
	int inflight, kick, call;

	run();
	inflight = last_start.inflight_fd;
	kick = last_rings[0].kick;
	call = last_rings[0].call;
	lose();
	cr_assert_eq(downs, 1);
	cr_assert_eq(status(), LIVE, "the guest sees a stall only");
	set_used_idx(42);
	probe();
	cr_assert_eq(starts, 2);
	cr_assert_eq(resumes, 0, "not before it has the rings");
	cr_assert_eq(last_start.inflight_fd, inflight);
	cr_assert_eq(last_rings[0].kick, kick);
	cr_assert_eq(last_rings[0].call, call);
	cr_assert_eq(last_rings[0].base, 42);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
	cr_assert_eq(m.vm.n_kicks, 1);
}

Test(device, a_death_while_starting)
{
	probe();
	drive(DESC, AVAIL, USED);
	lose();
	probe();
	cr_assert_eq(starts, 2);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
}

Test(device, a_death_while_probing)
{
	attach();
	lose();
	cr_assert_eq(downs, 1);
	cr_assert_not(device_is_known(d));
	probe();
	cr_assert(device_is_known(d));
}

Test(device, replaced_without_a_death)
{
	run();
	probe();
	cr_assert_eq(downs, 0);
	cr_assert_eq(starts, 2);
}

Test(device, a_reset_pending_at_the_death_completes_when_the_process_is_gone)
{
	run();
	set_status(0);
	machine_settle(&m);
	lose();
	cr_assert_eq(status(), LIVE, "the old process may still write");
	attach();
	machine_settle(&m);
	cr_assert_eq(status(), 0);
	answer(&probed, 0);
	cr_assert_eq(starts, 1);
}

Test(device, a_reset_of_rings_that_no_process_has_is_immediate)
{
	probe();
	lose();
	drive(DESC, AVAIL, USED);
	set_status(0);
	machine_settle(&m);
	cr_assert_eq(status(), 0);
}

Test(device, restarted_after_a_reset)
{
	run();
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
	cr_assert_eq(m.vm.n_kicks, 0);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 2);
}

Test(device, a_successor_that_lacks_features_is_refused)
{
	driver_low = MQ;
	run();
	lose();
	probe_with(VERSION1, INFLIGHT, 2);
	cr_assert_eq(downs, 2);
	cr_assert_str_eq(reason, "the back end lacks features that the driver was given");
	cr_assert_eq(starts, 1);
	cr_assert_eq(status(), LIVE);
	probe_with(VERSION1 | MQ, 0, 2);
	cr_assert_eq(starts, 1, "one that can't take over what is in flight");
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(device, without_in_flight_tracking_it_goes_on_at_the_used_index)
{
	probe_with(VERSION1, 0, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(last_start.inflight_fd, -1);
	answer(&started, 0);
	lose();
	set_used_idx(5);
	probe_with(VERSION1, 0, 1);
	cr_assert_eq(last_rings[0].base, 5);
}

/* A driver that chose write-through sends no flushes: a successor must not go back to its own default. */
Test(device, a_successor_is_told_what_the_driver_wrote)
{
	const uint64_t features = VERSION1 | 1ULL << 11;

	driver_low = 1U << 11;
	probe_with(features, INFLIGHT, 1);
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
	guest_write(&m, BAR + 0x2000 + 32, 1, 1);
	machine_settle(&m);
	cr_assert_eq(sets, 1);
	lose();
	starts = 0;
	probe_with(features, INFLIGHT, 1);
	cr_assert(sets == 2 && last_wce == 1);
	cr_assert_eq(sets_before_start, 1, "before it has the rings");
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 32, 1), 1, "the driver sees no other value");
	answer(&started, 0);
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	probe_with(features, INFLIGHT, 1);
	cr_assert_eq(sets, 2, "after a reset it is as new");
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 32, 1), 0);
}

static bool offers_packed(void)
{
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return guest_read(&m, BAR + VIRTIO_PCI_COMMON_DF, 4) >> (VIRTIO_F_RING_PACKED - 32) & 1;
}

Test(device, packed_rings_are_offered_only_with_in_flight_tracking)
{
	probe_with(VERSION1 | 1ULL << VIRTIO_F_RING_PACKED, 0, 1);
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	cr_assert_not(offers_packed());
	probe_with(VERSION1 | 1ULL << VIRTIO_F_RING_PACKED, INFLIGHT, 1);
	cr_assert(offers_packed());
}

/* The region goes to the successor as it stands; positions in it count, and no base (vhost-user "Inflight"). */
Test(device, a_packed_ring_is_taken_over)
{
	const uint64_t features = VERSION1 | 1ULL << VIRTIO_F_RING_PACKED;
	int inflight;

	driver_high = 1U << (VIRTIO_F_RING_PACKED - 32);
	probe_with(features, INFLIGHT, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_eq(last_start.features, features);
	cr_assert_eq(last_rings[0].base, 0x80008000);
	inflight = last_start.inflight_fd;
	answer(&started, 0);
	lose();
	probe_with(features, INFLIGHT, 1);
	cr_assert_eq(starts, 2);
	cr_assert_eq(last_start.inflight_fd, inflight);
	answer(&started, 0);
	cr_assert_eq(resumes, 1);
	cr_assert_eq(status(), LIVE);
}

/* No shortage of descriptors while the device is made leaves half a device behind. */
Test(device, too_few_descriptors_are_survived)
{
	struct rlimit limit;
	int lowest = dup(0);
	unsigned tries = 0;

	close(lowest);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (rlim_t room = 0; !device_is_known(d); room++, tries++) {
		struct rlimit tight = { .rlim_cur = (rlim_t)lowest + 1 + room, .rlim_max = limit.rlim_max };

		cr_assert_lt(room, 64);
		attach();
		memset(probing, 0, sizeof(*probing));
		probing->features = VERSION1;
		probing->protocol_features = INFLIGHT;
		probing->queues = 1;
		probing->config_len = 60;
		setrlimit(RLIMIT_NOFILE, &tight);
		answer(&probed, 0);
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	cr_assert_gt(tries, 1);
	drive(DESC, AVAIL, USED);
	cr_assert_geq(last_start.inflight_fd, 0);
}

Test(device, a_refusal_is_a_loss)
{
	probe();
	drive(DESC, AVAIL, USED);
	answer(&started, -EREMOTEIO);
	cr_assert_eq(downs, 1);
	cr_assert_str_eq(reason, "the back end refused its rings");
	cr_assert_null(fe);
}

Test(device, a_connection_that_ends_is_reported_once)
{
	vhost_fe_done_fn done;

	probe();
	drive(DESC, AVAIL, USED);
	done = started;
	done(done_arg, -ETIMEDOUT);
	cr_assert_eq(downs, 0);
	fe->ops->lost(fe->arg, -ETIMEDOUT, "the back end did not answer in time");
	cr_assert_eq(downs, 1);
	cr_assert_str_eq(reason, "the back end did not answer in time");
}

/* FAULTS 5, 14: a ring where none can be never reaches a back end. */
Test(device, rings_outside_of_ram_need_a_reset)
{
	static const uint64_t bad[][3] = {
		{ 16 << 20, AVAIL, USED }, { DESC, (16 << 20) - 2, USED }, { DESC, AVAIL, UINT64_MAX - 3 },
		{ DESC + 8, AVAIL, USED }, { DESC, AVAIL + 1, USED },      { DESC, AVAIL, USED + 2 },
		{ DESC, DESC + 16, USED }, { DESC, AVAIL, AVAIL },         { DESC, AVAIL, DESC + 0xfc },
	};

	probe();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		drive(bad[i][0], bad[i][1], bad[i][2]);
		cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET, "%u", i);
		cr_assert_eq(starts, 0);
		set_status(0);
		machine_settle(&m);
		cr_assert_eq(status(), 0);
	}
	drive(DESC, AVAIL, USED);
	cr_assert_eq(starts, 1);
}

Test(device, a_broken_ring_needs_a_reset)
{
	struct device_stats stats;

	run();
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	device_get_stats(d, &stats);
	cr_assert_eq(stats.broken, 1, "a flood of them is looked at once");
	set_status(0);
	machine_settle(&m);
	answer(&reset, 0);
	cr_assert_eq(status(), 0);
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
	eventfd_write(last_rings[0].err, 1);
	machine_settle(&m);
	cr_assert_eq(status(), LIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(device, a_changed_configuration_is_read_and_shown)
{
	run();
	fe->ops->config_changed(fe->arg);
	fe->ops->config_changed(fe->arg);
	answer(&config_read, 0);
	answer(&config_read, 0);
	cr_assert_null(config_read);
	cr_assert_eq(guest_read(&m, BAR + 0x2000, 1), 0x5a);
	cr_assert_eq(guest_read(&m, BAR + 0x2000 + 34, 2), 2, "but not the number of queues");
}

Test(device, a_back_end_that_is_no_modern_device)
{
	probe_with(MQ, INFLIGHT, 1);
	cr_assert_eq(downs, 1);
	cr_assert_not(device_is_known(d));
	probe_with(VERSION1, INFLIGHT, 0);
	cr_assert_eq(downs, 2);
}
