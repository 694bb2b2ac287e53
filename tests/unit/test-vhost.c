/* SPDX-License-Identifier: Apache-2.0 */
/* lib/vhost: our front end against our back end, the whole life of a device. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "inflight.h"
#include "vhost-peer.h"
#include "vhost_fe.h"

#define RAM_SIZE  0x100000u
#define RAM_USER  0x7f0000000000ULL
#define RING_SIZE 8

struct answer {
	bool done;
	int err;
	uint64_t value;
};

/* A device and its front end, with one region of RAM. */
struct pair {
	struct loop *loop;
	struct peer_device dev;
	struct vhost_fe *fe;
	struct vhost_fe_info info;
	bool lost, config_changed;
	int lost_err;
	unsigned changes;
	int ram_fd, inflight_fd;
	size_t inflight_size;
	uint8_t *ram;
	struct mem_region region;
	struct vhost_fe_ring rings[PEER_QUEUES];
};

static void on_lost(void *arg, int err, const char *why)
{
	struct pair *p = arg;

	cr_assert_not_null(why);
	p->lost = true;
	p->lost_err = err;
}

static void on_config_changed(void *arg)
{
	struct pair *p = arg;

	p->config_changed = true;
	p->changes++;
}

static void on_done(void *arg, int err)
{
	struct answer *a = arg;

	cr_assert_not(a->done);
	a->done = true;
	a->err = err;
}

static void on_u64(void *arg, int err, uint64_t value)
{
	struct answer *a = arg;

	on_done(arg, err);
	a->value = value;
}

static const struct vhost_fe_ops fe_ops = { .lost = on_lost, .config_changed = on_config_changed };

static int wait_for(struct pair *p, struct answer *a)
{
	cr_assert(peer_until(p->loop, &a->done), "no answer in time");
	return a->err;
}

static void open_pair(struct pair *p)
{
	int sock;

	memset(p, 0, sizeof(*p));
	cr_assert_eq(loop_new("test", &p->loop), 0);
	sock = peer_device_open(&p->dev, p->loop);
	cr_assert_eq(vhost_fe_new(p->loop, sock, PEER_WAIT_NS, &fe_ops, p, &p->fe), 0);
	p->ram_fd = peer_memfd(RAM_SIZE);
	p->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p->ram_fd, 0);
	cr_assert_neq(p->ram, MAP_FAILED);
	p->region = (struct mem_region) { .size = RAM_SIZE, .user_addr = RAM_USER };
	p->inflight_size = PEER_QUEUES * inflight_queue_bytes(RING_SIZE, false);
	p->inflight_fd = peer_memfd(p->inflight_size);
	for (unsigned i = 0; i < PEER_QUEUES; i++)
		p->rings[i] = (struct vhost_fe_ring) { .size = RING_SIZE,
						       .desc = RAM_USER + i * 0x3000u,
						       .avail = RAM_USER + i * 0x3000u + 0x1000,
						       .used = RAM_USER + i * 0x3000u + 0x2000,
						       .used_gpa = i * 0x3000u + 0x2000,
						       .base = 7,
						       .kick = peer_eventfd(),
						       .call = peer_eventfd(),
						       .err = -1 };
}

static void close_pair(struct pair *p)
{
	vhost_fe_free(p->fe);
	peer_device_close(&p->dev);
	loop_free(p->loop);
	for (unsigned i = 0; i < PEER_QUEUES; i++) {
		close(p->rings[i].kick);
		close(p->rings[i].call);
	}
	munmap(p->ram, RAM_SIZE);
	close(p->ram_fd);
	close(p->inflight_fd);
}

static void probe(struct pair *p)
{
	struct answer a = { .done = false };

	vhost_fe_probe(p->fe, PEER_CONFIG, &p->info, on_done, &a);
	cr_assert_not(a.done, "called back from within the call");
	cr_assert_eq(wait_for(p, &a), 0);
}

static int start(struct pair *p, unsigned n_rings)
{
	struct answer a = { .done = false };
	struct vhost_fe_start s = { .features = F_VERSION_1 | F_EVENT_IDX,
				    .regions = &p->region,
				    .fds = &p->ram_fd,
				    .n_regions = 1,
				    .inflight_fd = p->inflight_fd,
				    .inflight_size = p->inflight_size,
				    .inflight_queues = PEER_QUEUES,
				    .inflight_queue_size = RING_SIZE,
				    .rings = p->rings,
				    .n_rings = n_rings };

	cr_assert_eq(vhost_fe_start(p->fe, &s, on_done, &a), 0);
	return wait_for(p, &a);
}

static int reset(struct pair *p)
{
	struct answer a = { .done = false };

	vhost_fe_reset(p->fe, on_done, &a);
	return wait_for(p, &a);
}

Test(vhost, probe_tells_what_the_device_offers)
{
	const uint64_t all = VHOST_PF_MQ | VHOST_PF_LOG_SHMFD | VHOST_PF_REPLY_ACK | VHOST_PF_BACKEND_REQ |
			     VHOST_PF_CONFIG | VHOST_PF_INFLIGHT_SHMFD | VHOST_PF_RESET_DEVICE |
			     VHOST_PF_CONFIGURE_MEM_SLOTS | VHOST_PF_STATUS;
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(p.info.features, PEER_FEATURES);
	cr_assert_eq(p.info.protocol_features, all);
	cr_assert_eq(p.info.queues, PEER_QUEUES);
	cr_assert_eq(p.info.mem_slots, MEM_REGIONS_MAX);
	cr_assert_eq(p.info.config_len, PEER_CONFIG);
	cr_assert_arr_eq(p.info.config, p.dev.config, PEER_CONFIG);
	close_pair(&p);
}

Test(vhost, start_hands_the_described_rings_to_the_device)
{
	const struct vq_config *c;
	struct pair p;

	open_pair(&p);
	probe(&p);
	memset(p.ram, 0x5a, 16);
	cr_assert_eq(start(&p, 3), 0);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(p.dev.rings[i].running);
		c = &p.dev.rings[i].ring.config;
		cr_assert_eq(c->size, RING_SIZE);
		cr_assert_eq(c->features, F_VERSION_1 | F_EVENT_IDX);
		cr_assert_eq(c->base, 7);
		cr_assert_eq(c->desc, p.rings[i].desc);
		cr_assert_eq(c->avail, p.rings[i].avail);
		cr_assert_eq(c->used, p.rings[i].used);
		cr_assert_not_null(c->inflight);
		cr_assert_eq(p.dev.rings[i].ring.err, -1);
	}
	cr_assert_not(p.dev.rings[3].running);
	c = &p.dev.rings[0].ring.config;
	cr_assert_eq(*(uint8_t *)mem_at_user(c->mem, RAM_USER, 16), 0x5a);
	cr_assert_eq((uintptr_t)p.dev.rings[1].ring.config.inflight - (uintptr_t)c->inflight,
		     inflight_queue_bytes(RING_SIZE, false));
	close_pair(&p);
}

Test(vhost, eventfds_are_the_same_on_both_sides)
{
	uint64_t count = 0;
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 1), 0);
	cr_assert_eq(fd_event_set(p.rings[0].kick), 0);
	cr_assert_eq(read(p.dev.rings[0].ring.kick, &count, sizeof(count)), sizeof(count));
	cr_assert_eq(fd_event_set(p.dev.rings[0].ring.call), 0);
	cr_assert_eq(read(p.rings[0].call, &count, sizeof(count)), sizeof(count));
	close_pair(&p);
}

Test(vhost, blank_inflight_part_begins_at_the_live_used_index)
{
	struct pair p;
	uint16_t used_idx = 41;

	open_pair(&p);
	probe(&p);
	memcpy(p.ram + p.rings[0].used_gpa + 2, &used_idx, sizeof(used_idx));
	cr_assert_eq(start(&p, 1), 0);
	/* u64 features, u16 version, desc_num, last_batch_head, used_idx */
	cr_assert_eq(((uint16_t *)p.dev.rings[0].ring.config.inflight)[4], 1);
	cr_assert_eq(((uint16_t *)p.dev.rings[0].ring.config.inflight)[5], RING_SIZE);
	cr_assert_eq(((uint16_t *)p.dev.rings[0].ring.config.inflight)[7], 41);
	close_pair(&p);
}

Test(vhost, stopped_ring_tells_its_base_and_starts_again)
{
	struct answer a = { .done = false };
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 2), 0);
	vhost_fe_stop_ring(p.fe, 1, on_u64, &a);
	cr_assert_eq(wait_for(&p, &a), 0);
	cr_assert_eq(a.value, 10);
	cr_assert_not(p.dev.rings[1].running);
	cr_assert(p.dev.rings[0].running);
	cr_assert_eq(reset(&p), 0);
	p.rings[1].base = 10;
	cr_assert_eq(start(&p, 2), 0);
	cr_assert(p.dev.rings[1].running);
	cr_assert_eq(p.dev.rings[1].ring.config.base, 10);
	close_pair(&p);
}

Test(vhost, stop_waits_for_the_device)
{
	struct answer stop = { .done = false }, config = { .done = false };
	uint8_t buf[4];
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 1), 0);
	p.dev.defer = true;
	vhost_fe_stop_ring(p.fe, 0, on_u64, &stop);
	vhost_fe_get_config(p.fe, 0, 4, buf, on_done, &config);
	peer_settle(p.loop);
	cr_assert_eq(p.dev.stops, 1);
	cr_assert_not(stop.done);
	cr_assert_not(config.done);
	vhost_be_ring_stopped(p.dev.be, 0, 99);
	cr_assert_eq(wait_for(&p, &stop), 0);
	cr_assert_eq(stop.value, 99);
	cr_assert_eq(wait_for(&p, &config), 0);
	close_pair(&p);
}

Test(vhost, fault_26_reset_stops_every_ring_first)
{
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, PEER_QUEUES), 0);
	cr_assert_eq(reset(&p), 0);
	cr_assert_eq(p.dev.stops, PEER_QUEUES);
	cr_assert_geq(p.dev.resets, 1);
	cr_assert_eq(start(&p, 1), 0);
	cr_assert(p.dev.rings[0].running);
	close_pair(&p);
}

Test(vhost, log_marks_pages_only_while_it_is_on)
{
	int log_fd = peer_memfd(4096);
	uint8_t *log = mmap(NULL, 4096, PROT_READ, MAP_SHARED, log_fd, 0);
	struct answer on = { .done = false }, off = { .done = false };
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 1), 0);
	vhost_fe_set_log(p.fe, log_fd, 4096, on_done, &on);
	cr_assert_eq(wait_for(&p, &on), 0);
	cr_assert_geq(p.dev.mem_changes, 1, "a running ring was not told");
	mem_dirty(p.dev.mem, 0x9000, 1);
	cr_assert_eq(log[1], 1 << 1);
	vhost_fe_set_log(p.fe, -1, 0, on_done, &off);
	cr_assert_eq(wait_for(&p, &off), 0);
	mem_dirty(p.dev.mem, 0x1000, 1);
	cr_assert_eq(log[0], 0);
	cr_assert(p.dev.rings[0].running, "logging must not stop the ring");
	close_pair(&p);
	munmap(log, 4096);
	close(log_fd);
}

Test(vhost, log_that_began_before_the_start_counts)
{
	int log_fd = peer_memfd(4096);
	struct answer on = { .done = false };
	struct pair p;

	open_pair(&p);
	probe(&p);
	vhost_fe_set_log(p.fe, log_fd, 4096, on_done, &on);
	cr_assert_eq(wait_for(&p, &on), 0);
	cr_assert_eq(start(&p, 1), 0);
	cr_assert(mem_logging(p.dev.rings[0].ring.config.mem));
	close_pair(&p);
	close(log_fd);
}

Test(vhost, regions_come_and_go_while_rings_run)
{
	struct mem_region more = { .gpa = 0x10000000, .size = RAM_SIZE, .user_addr = RAM_USER + 0x10000000 };
	struct answer add = { .done = false }, again = { .done = false }, gone = { .done = false },
		      missing = { .done = false };
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 1), 0);
	p.dev.defer = true;
	vhost_fe_add_region(p.fe, &more, p.ram_fd, on_done, &add);
	peer_settle(p.loop);
	cr_assert_eq(p.dev.mem_changes, 1);
	cr_assert_not(add.done, "acknowledged before the device took the table");
	p.dev.defer = false;
	vhost_be_mem_taken(p.dev.be);
	cr_assert_eq(wait_for(&p, &add), 0);
	cr_assert_not_null(mem_at(p.dev.mem, more.gpa + 5, 1));
	vhost_fe_add_region(p.fe, &more, p.ram_fd, on_done, &again);
	cr_assert_eq(wait_for(&p, &again), -EREMOTEIO, "a region twice");
	vhost_fe_remove_region(p.fe, &more, on_done, &gone);
	cr_assert_eq(wait_for(&p, &gone), 0);
	cr_assert_null(mem_at(p.dev.mem, more.gpa + 5, 1));
	vhost_fe_remove_region(p.fe, &more, on_done, &missing);
	cr_assert_eq(wait_for(&p, &missing), -EREMOTEIO);
	cr_assert(p.dev.rings[0].running);
	close_pair(&p);
}

Test(vhost, more_regions_than_one_table_holds)
{
	struct mem_region regions[20];
	int fds[20];
	struct answer a = { .done = false };
	struct vhost_fe_start s = {
		.features = F_VERSION_1, .regions = regions, .fds = fds, .n_regions = 20, .inflight_fd = -1
	};
	struct pair p;

	open_pair(&p);
	probe(&p);
	for (unsigned i = 0; i < 20; i++) {
		regions[i] = (struct mem_region) { .gpa = i * 0x200000u,
						   .size = RAM_SIZE,
						   .user_addr = RAM_USER + i * 0x200000u };
		fds[i] = p.ram_fd;
	}
	s.rings = p.rings;
	s.n_rings = 1;
	cr_assert_eq(vhost_fe_start(p.fe, &s, on_done, &a), 0);
	cr_assert_eq(wait_for(&p, &a), 0);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_not_null(mem_at(p.dev.rings[0].ring.config.mem, regions[i].gpa, RAM_SIZE));
	close_pair(&p);
}

Test(vhost, config_is_read_and_written)
{
	struct answer get = { .done = false }, set = { .done = false }, past = { .done = false };
	uint8_t buf[8] = { 0xaa, 0xbb };
	struct pair p;

	open_pair(&p);
	probe(&p);
	vhost_fe_set_config(p.fe, 10, 2, buf, on_done, &set);
	cr_assert_eq(wait_for(&p, &set), 0);
	cr_assert_eq(p.dev.config[10], 0xaa);
	vhost_fe_get_config(p.fe, 9, 4, buf, on_done, &get);
	cr_assert_eq(wait_for(&p, &get), 0);
	cr_assert_arr_eq(buf, p.dev.config + 9, 4);
	vhost_fe_get_config(p.fe, PEER_CONFIG - 2, 4, buf, on_done, &past);
	cr_assert_eq(wait_for(&p, &past), -EREMOTEIO);
	cr_assert_not(p.lost);
	close_pair(&p);
}

Test(vhost, config_changes_are_told_however_many)
{
	struct pair p;

	open_pair(&p);
	probe(&p);
	/* Far more than the channel's socket holds, with nobody reading: none may block or fail. */
	for (int i = 0; i < 100000; i++)
		cr_assert_eq(vhost_be_config_changed(p.dev.be), 0);
	cr_assert(peer_until(p.loop, &p.config_changed));
	peer_settle(p.loop);
	cr_assert_not(p.lost);
	p.config_changed = false;
	cr_assert_eq(vhost_be_config_changed(p.dev.be), 0);
	cr_assert(peer_until(p.loop, &p.config_changed));
	close_pair(&p);
}

Test(vhost, device_that_refuses_a_ring_ends_the_connection)
{
	struct pair p;

	open_pair(&p);
	probe(&p);
	p.dev.start_error = -EFAULT;
	cr_assert_eq(start(&p, 1), -EPIPE);
	cr_assert(peer_until(p.loop, &p.lost));
	cr_assert_eq(p.dev.closed_err, -EPROTO);
	close_pair(&p);
}

Test(vhost, closing_front_end_closes_the_device)
{
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 2), 0);
	vhost_fe_free(p.fe);
	p.fe = NULL;
	cr_assert(peer_until(p.loop, &p.dev.closed));
	cr_assert_eq(p.dev.closed_err, 0);
	close_pair(&p);
}

Test(vhost, dying_device_ends_every_operation_in_order)
{
	struct answer a[3] = { { .done = false } };
	uint8_t buf[4];
	struct pair p;

	open_pair(&p);
	probe(&p);
	cr_assert_eq(start(&p, 1), 0);
	p.dev.defer = true;
	vhost_fe_stop_ring(p.fe, 0, on_u64, &a[0]);
	vhost_fe_get_config(p.fe, 0, 4, buf, on_done, &a[1]);
	peer_settle(p.loop);
	peer_device_close(&p.dev);
	cr_assert(peer_until(p.loop, &p.lost));
	cr_assert_eq(p.lost_err, -EPIPE);
	cr_assert(a[0].done && a[1].done);
	cr_assert_eq(a[0].err, -EPIPE);
	cr_assert_eq(a[1].err, -EPIPE);
	vhost_fe_get_config(p.fe, 0, 4, buf, on_done, &a[2]);
	cr_assert_eq(wait_for(&p, &a[2]), -EPIPE, "one that comes after the end");
	close_pair(&p);
}

static void free_in_callback(void *arg, int err)
{
	struct pair *p = arg;

	cr_assert_eq(err, 0);
	vhost_fe_free(p->fe);
	p->fe = NULL;
	p->lost = true;
}

Test(vhost, front_end_may_be_freed_by_a_callback)
{
	uint8_t buf[4];
	struct pair p;

	open_pair(&p);
	probe(&p);
	vhost_fe_get_config(p.fe, 0, 4, buf, free_in_callback, &p);
	vhost_fe_get_config(p.fe, 0, 4, buf, free_in_callback, &p);
	cr_assert(peer_until(p.loop, &p.lost));
	cr_assert(peer_until(p.loop, &p.dev.closed));
	close_pair(&p);
}

Test(vhost, fault_45_a_life_leaks_no_descriptor)
{
	unsigned before = 0;
	struct pair p;

	for (int round = 0; round < 3; round++) {
		open_pair(&p);
		probe(&p);
		cr_assert_eq(start(&p, PEER_QUEUES), 0);
		cr_assert_eq(reset(&p), 0);
		cr_assert_eq(start(&p, 1), 0);
		close_pair(&p);
		if (round == 0)
			before = peer_open_fds();
	}
	cr_assert_eq(peer_open_fds(), before);
}
