/* SPDX-License-Identifier: Apache-2.0 */
/* The device of device_rig.h. */
#include "device_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "watch.h"

/* ---- a front end that answers when the test says so ---- */

struct vhost_fe *fe; /* the present one */
static unsigned fe_count;
struct vhost_fe_info *probing;
vhost_fe_done_fn probed, started, reset, config_read;
void *done_arg;
struct vhost_fe_start last_start;
struct vhost_fe_ring last_rings[8];
unsigned starts, sets, sets_before_start;
static unsigned frees;
uint8_t last_wce;
static const struct device_kind *kind;
const uint8_t *device_mac;

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
	cr_assert_eq(config_len, kind->config_len);
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

struct machine m;
struct ram *ram;
struct device *d;
unsigned ups, resumes, downs, hangs, stalls;
static struct watch *watch;
char reason[128];

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

static void on_hung(void *arg, struct device *device, unsigned queue, uint64_t stalled_ns, const char *why)
{
	(void)arg;
	(void)device;
	(void)queue;
	cr_assert_gt(stalled_ns, 0);
	hangs++;
	snprintf(reason, sizeof(reason), "%s", why);
}

static void on_stalled(void *arg, struct device *device, unsigned queue, uint64_t stalled_ns, const char *why)
{
	(void)arg;
	(void)device;
	(void)queue;
	cr_assert_gt(stalled_ns, 0);
	stalls++;
	snprintf(reason, sizeof(reason), "%s", why);
}

void device_set_up(uint64_t hang_timeout_ns)
{
	device_set_up_kind("blk", hang_timeout_ns);
}

void device_set_up_kind(const char *name, uint64_t hang_timeout_ns)
{
	static const struct device_ops ops = {
		.up = on_up, .down = on_down, .hung = on_hung, .stalled = on_stalled
	};
	struct device_args args = { .id = "disk0",
				    .slot = 1,
				    .backends = 1,
				    .timeout_ns = NS_PER_S,
				    .hang_timeout_ns = hang_timeout_ns,
				    .ops = &ops };

	kind = args.kind = device_kind_find(name);
	machine_init(&m);
	cr_assert_eq(ram_new(16 << 20, false, &ram), 0);
	cr_assert_eq(watch_new(m.loop, &watch), 0);
	args.watch = watch;
	args.mac = device_mac;
	args.loop = m.loop;
	args.vm = &m.vm;
	args.bus = m.pci;
	args.ram = ram;
	cr_assert_eq(device_new(&args, &d), 0);
}

void device_tear_down(void)
{
	device_free(d);
	watch_free(watch);
	ram_free(ram);
	machine_fini(&m);
	cr_assert_eq(frees, fe_count);
}

void answer(vhost_fe_done_fn *which, int err)
{
	vhost_fe_done_fn done = *which;

	cr_assert_not_null(done);
	*which = NULL;
	done(done_arg, err);
	machine_settle(&m);
}

void attach(void)
{
	attach_with(NULL);
}

void attach_with(struct flight *flight)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[1]);
	cr_assert_eq(device_attach(d, 0, pair[0], flight, NULL), 0);
}

void probe_with(uint64_t features, uint64_t protocol_features, uint16_t queues)
{
	attach();
	probe_answer(features, protocol_features, queues);
}

void probe_answer(uint64_t features, uint64_t protocol_features, uint16_t queues)
{
	memset(probing, 0, sizeof(*probing));
	probing->features = features;
	probing->protocol_features = protocol_features;
	probing->queues = queues;
	probing->config_len = 60;
	memcpy(probing->config + 34, &queues, sizeof(queues));
	answer(&probed, 0);
}

void probe(void)
{
	probe_with(VERSION1 | MQ, INFLIGHT, 2);
}

uint8_t status(void)
{
	return (uint8_t)guest_read(&m, BAR + VIRTIO_PCI_COMMON_STATUS, 1);
}

void set_status(uint8_t value)
{
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_STATUS, 1, value);
}

uint32_t driver_low;  /* features below bit 32 that the driver takes */
uint32_t driver_high; /* and from there, beside VERSION_1 */

void drive_features(void)
{
	cr_assert_eq(pci_bus_assign(m.pci), 0);
	set_status(3);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GF, 4, driver_low);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_GF, 4, VERSION1 >> 32 | driver_high);
	set_status(11);
}

void drive_ring(unsigned queue, uint64_t desc, uint64_t avail, uint64_t used)
{
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_DESCLO, 8, desc);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_AVAILLO, 8, avail);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_USEDLO, 8, used);
	guest_write(&m, BAR + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void drive_ok(void)
{
	set_status(LIVE);
	cr_assert_eq(status(), LIVE);
	machine_settle(&m);
}

/* The driver up to DRIVER_OK, with queue 0 at these addresses. */
void drive(uint64_t desc, uint64_t avail, uint64_t used)
{
	drive_features();
	drive_ring(0, desc, avail, used);
	drive_ok();
}

void run(void)
{
	probe();
	drive(DESC, AVAIL, USED);
	answer(&started, 0);
}

void lose(void)
{
	fe->ops->lost(fe->arg, -EPIPE, "the back end closed the connection");
	machine_settle(&m);
}

void set_used_idx(uint16_t idx)
{
	memcpy(ram_at(ram, USED + 2, 2), &idx, sizeof(idx));
}

void device_run_for(uint64_t ns)
{
	uint64_t end = clock_ns() + ns;

	while (clock_ns() < end)
		cr_assert_eq(loop_run_once(m.loop, 20 * (int64_t)NS_PER_MS), 0);
}
