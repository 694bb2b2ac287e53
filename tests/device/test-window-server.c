/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window between a driver and a server that the test plays. It was taken over: nothing that it writes into its ring does
 * more than end the window. And it dies of a request: that one fails in the end, and no other.
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "flight.h"
#include "num.h"
#include "rig.h"
#include "vhost_be.h"

TestSuite(window_server, .timeout = 600);

#define PLAYED_SIZE 1024 /* of the ring in the window */

#define PLAYED_QUEUES 2

static struct {
	struct vhost_be *be;
	struct vhost_be_ring ring[PLAYED_QUEUES];
	struct mem *mem; /* NULL: no ring was started */
	bool started[PLAYED_QUEUES], answered[PLAYED_QUEUES];
	uint64_t sectors; /* that it says the disk has */
	unsigned asked;   /* how often */
} played;

static int played_config(void *arg, uint32_t off, uint32_t len, uint8_t *buf)
{
	(void)arg;
	cr_assert_eq(off, 0);
	memset(buf, 0, len);
	memcpy(buf, &played.sectors, sizeof(played.sectors));
	played.asked++;
	return 0;
}

static int played_start(void *arg, unsigned index, const struct vhost_be_ring *ring)
{
	(void)arg;
	cr_assert_lt(index, PLAYED_QUEUES);
	played.ring[index] = *ring;
	if (!played.mem)
		played.mem = mem_get(ring->config.mem);
	played.started[index] = true;
	return 0;
}

static void played_stop(void *arg, unsigned index)
{
	(void)arg;
	vhost_be_ring_stopped(played.be, index, 0);
}

static void played_fd(void *arg, unsigned index, int fd)
{
	(void)arg;
	(void)index;
	if (fd >= 0)
		close(fd);
}

static void played_enable(void *arg, unsigned index, bool on)
{
	(void)arg;
	(void)index;
	(void)on;
}

static void played_mem(void *arg, struct mem *mem)
{
	(void)arg;
	(void)mem;
	vhost_be_mem_taken(played.be);
}

static void played_reset(void *arg)
{
	(void)arg;
}

static void played_closed(void *arg, int err, const char *why)
{
	(void)arg;
	(void)err;
	(void)why;
	vhost_be_free(TAKE_PTR(played.be));
}

static void play(struct rig *rig, int fd)
{
	static const struct vhost_be_ops ops = {
		.features = 1ULL << 32 | 1ULL << 29 | 1ULL << VIRTIO_BLK_F_FLUSH,
		.queues = PLAYED_QUEUES,
		.get_config = played_config,
		.ring_start = played_start,
		.ring_stop = played_stop,
		.ring_set_call = played_fd,
		.ring_set_err = played_fd,
		.ring_enable = played_enable,
		.mem_changed = played_mem,
		.reset = played_reset,
		.closed = played_closed,
	};

	cr_assert_eq(vhost_be_new(rig->loop, fd, &ops, NULL, &played.be), 0);
}

static uint16_t *at_user(uint64_t addr, size_t len)
{
	uint16_t *p = mem_at_user(played.mem, addr, len);

	cr_assert_not_null(p);
	return p;
}

/* Writes an element of the used ring, then its index, and calls. */
static void use_in(unsigned queue, uint16_t at, uint32_t id, uint32_t len, uint16_t idx)
{
	uint16_t *used = at_user(played.ring[queue].config.used, 4 + 8 * PLAYED_SIZE);
	uint32_t element[2] = { id, len };

	memcpy(&used[2 + 4 * at], element, sizeof(element));
	__atomic_store_n(&used[1], idx, __ATOMIC_RELEASE);
	cr_assert_eq(fd_event_set(played.ring[queue].call), 0);
}

static void use(uint16_t at, uint32_t id, uint32_t len, uint16_t idx)
{
	use_in(0, at, id, len, idx);
}

/* How many requests the window made available so far. */
static uint16_t offered_in(unsigned queue)
{
	const struct vq_config *c = &played.ring[queue].config;

	return played.started[queue] ? __atomic_load_n(&at_user(c->avail, 4)[1], __ATOMIC_ACQUIRE) : 0;
}

static uint16_t offered(void)
{
	return offered_in(0);
}

static uint16_t head_at(uint16_t i)
{
	return at_user(played.ring[0].config.avail, 4 + 2 * PLAYED_SIZE)[2 + i];
}

static void start_played(struct rig *rig, uint64_t ring_features)
{
	struct rig_options options = { .window = true, .play = play, .ring_features = ring_features };

	rig_start(rig, &options);
}

static void end_played(void)
{
	vhost_be_free(TAKE_PTR(played.be));
	mem_put(played.mem);
	memset(&played, 0, sizeof(played));
}

/* The end of a test with a played server: the window ends, and is replaced by one with a real server. */
static void stop_played(struct rig *r)
{
	rig_disconnect(r);
	rig_reap(r);
	end_played();
	r->options.play = NULL;
	rig_respawn(r);
	rig_stop(r);
}

/* The window has ended, by itself, and the driver was told of nothing. */
static void expect_end(struct rig *rig)
{
	struct rig_done done;

	rig_until(rig, rig->lost || rig_get(rig, 0, &done));
}

struct lie {
	uint32_t id, len;
	uint16_t idx;
	const char *what;
};

static void tell(const struct lie *lie, uint64_t ring_features)
{
	struct pollfd end = { .events = POLLIN };
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;

	start_played(&rig, ring_features);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 8, gpa, 4096);
	rig_until(&rig, offered() == 2);
	cr_assert_eq(head_at(0), 0);
	cr_assert_eq(head_at(1), 4);
	use(0, lie->id, lie->len, lie->idx);
	end.fd = rig.window_pidfd;
	while (poll(&end, 1, 0) == 0)
		cr_assert_eq(loop_run_once(rig.loop, (int64_t)(5 * NS_PER_MS)), 0);
	cr_assert_not(rig_get(&rig, 0, &done), "%s: the driver was told of it", lie->what);
	cr_assert_eq(rig_reap(&rig), 1, "%s", lie->what);
	/* Both requests are the successor's. */
	rig.options.play = NULL;
	rig_respawn(&rig);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK);
	end_played();
	rig_stop(&rig);
}

static const struct lie lies[] = {
	{ 0, 4097, 3, "an index beyond what is out" },
	{ 0, 4097, 40000, "an index far away" },
	{ 0, 4097, 65535, "an index behind" },
	{ 1, 4097, 1, "a descriptor in the middle of a request" },
	{ 8, 4097, 1, "a request that is not out" },
	{ PLAYED_SIZE, 4097, 1, "an id beyond the ring" },
	{ 0xffffffff, 4097, 1, "the largest id" },
	{ 0, 4098, 1, "one byte more than there is room for" },
	{ 0, 0xffffffff, 1, "the largest length" },
};

Test(window_server, lies_of_the_server_end_it_split)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++)
		tell(&lies[i], RING_F_EVENT_IDX);
}

Test(window_server, lies_of_the_server_end_it_packed)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i += 3)
		tell(&lies[i], RING_F_PACKED);
}

/* The same request twice: once is right, and counts. */
Test(window_server, a_request_completed_twice_ends_it)
{
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 8, gpa, 4096);
	rig_until(&rig, offered() == 2);
	use(0, 4, 4097, 1);
	done = rig_wait(&rig, 0);
	cr_assert_eq(done.len, 4097);
	use(1, 4, 4097, 2);
	expect_end(&rig);
	cr_assert(rig.lost);
	cr_assert_eq(rig_reap(&rig), 1);
	rig.options.play = NULL;
	rig_respawn(&rig);
	cr_assert_eq(rig_wait(&rig, 0).status, VIRTIO_BLK_S_OK, "the other one is the successor's");
	end_played();
	rig_stop(&rig);
}

/* What it writes over the window's side of the ring, and over what it was given to read, leads nowhere but to itself. */
Test(window_server, what_the_server_writes_elsewhere_is_not_read)
{
	struct rig rig;
	struct rig_done done;
	uint64_t gpa;
	uint8_t *in;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 8192, 4096);
	memset(rig_ptr(&rig, gpa), 0xee, 8192);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_until(&rig, offered() == 1);
	/* The first page, where what it reads for the request lies, and then the whole ring but what is used. */
	in = (uint8_t *)at_user(played.ring[0].config.desc, 1);
	memset(in + 16 * PLAYED_SIZE + 4096 + 12288 + 64 * 256, 0x5a, 4096);
	memset(in, 0xa5, 16 * PLAYED_SIZE + 4096);
	in[16 * PLAYED_SIZE + 4096 + 12288 + 32] = VIRTIO_BLK_S_OK;
	use(0, 0, 4097, 1);
	done = rig_wait(&rig, 0);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 4096; i++)
		cr_assert_eq(*rig_ptr(&rig, gpa + i), 0x5a);
	cr_assert_eq(*rig_ptr(&rig, gpa + 4096), 0xee);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 512);
	rig_until(&rig, offered() == 2);
	use(1, head_at(1), 513, 2);
	rig_wait(&rig, 0);
	stop_played(&rig);
}

/* Whoever watches the driver's ring kicks it to see whether it is looked at: that is asked of the server. */
Test(window_server, a_kick_for_nothing_reaches_the_server)
{
	struct pollfd kick = { .events = POLLIN };
	struct rig rig;
	uint64_t gpa, n;

	start_played(&rig, 0);
	gpa = rig_alloc(&rig, 4096, 4096);
	rig_add(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	rig_until(&rig, offered() == 1);
	kick.fd = played.ring[0].kick;
	rig_until(&rig, poll(&kick, 1, 0) == 1);
	cr_assert_eq(read(kick.fd, &n, sizeof(n)), sizeof(n));
	cr_assert_eq(fd_event_set(rig.queue[0].kick), 0);
	rig_until(&rig, poll(&kick, 1, 0) == 1);
	use(0, 0, 4097, 1);
	rig_wait(&rig, 0);
	stop_played(&rig);
}

/* ---- what it offers ---- */

/* The window has asked all that it asks by itself, at its start and when it took the connection up; then the disk grows. */
static void grow(void *arg)
{
	rig_until((struct rig *)arg, played.asked == 2);
	played.sectors = 4321;
}

Test(window_server, a_spare_says_what_the_disk_is_now)
{
	struct rig_options options = { .window = true, .play = play };
	struct rig rig;

	rig_start(&rig, &options);
	rig_kill(&rig);
	end_played();
	rig_respawn_spare(&rig, grow, &rig);
	cr_assert_eq(rig.config.capacity, 4321);
	cr_assert_eq(played.asked, 3);
	stop_played(&rig);
}

/* ---- a request that it dies of ---- */

/* Asks whether the request of a queue is looked at, and waits until the server is asked. */
static void ask(struct rig *rig, unsigned queue)
{
	struct pollfd kick = { .fd = played.ring[queue].kick, .events = POLLIN };
	uint64_t n;

	while (read(kick.fd, &n, sizeof(n)) == sizeof(n))
		;
	cr_assert_eq(fd_event_set(rig->queue[queue].kick), 0);
	rig_until(rig, poll(&kick, 1, 0) == 1);
}

/* The server has one of this queue. */
static bool waits_in(unsigned queue)
{
	return offered_in(queue) && !played.answered[queue];
}

/* True if another one came back. */
static bool take(struct rig *rig, bool got[PLAYED_QUEUES], struct rig_done done[PLAYED_QUEUES])
{
	bool any = false;

	for (unsigned i = 0; i < PLAYED_QUEUES; i++)
		if (!got[i] && rig_get(rig, i, &done[i]))
			any = got[i] = true;
	return any;
}

/*
 * Each queue has a request, and the server dies of one of them: some time after it was given that, when the window has passed on
 * whatever it does. The other one is in flight at as many deaths, and answered where it is there without the poisonous one.
 */
static void die_of_one(unsigned poison)
{
	CLEAN_FD int recorder = flight_create(PLAYED_QUEUES);
	struct rig_options options = {
		.window = true, .play = play, .queues = PLAYED_QUEUES, .flight_fd = recorder
	};
	const unsigned other = 1 - poison;
	const struct flight_queue *words;
	struct flight *flight;
	struct rig_done done[PLAYED_QUEUES];
	bool got[PLAYED_QUEUES] = { false };
	unsigned deaths = 0;
	struct rig rig;

	cr_assert_eq(flight_map(recorder, true, &flight), 0);
	words = flight_queue(flight, other);
	rig_start(&rig, &options);
	for (unsigned i = 0; i < PLAYED_QUEUES; i++)
		rig_add(&rig, i, VIRTIO_BLK_T_IN, 8 * i, rig_alloc(&rig, 4096, 4096), 512);
	while (!got[0] || !got[1]) {
		rig_until(&rig, take(&rig, got, done) || waits_in(poison) || waits_in(other));
		if (waits_in(poison) || waits_in(other))
			ask(&rig, waits_in(poison) ? poison : other);
		if (waits_in(poison)) {
			/* Whoever watches is told why nothing of the other queue is done. */
			rig_until(&rig, deaths < 2 || got[other] || waits_in(other) ||
					    flight_get(&words->resting) == FLIGHT_KEPT_BACK);
			cr_assert_lt(deaths++, 5, "it is tried for ever");
			rig_kill(&rig);
			end_played();
			rig_respawn(&rig);
		} else if (waits_in(other)) {
			use_in(other, 0, 0, 513, 1);
			played.answered[other] = true;
		}
	}
	cr_expect_eq(done[poison].status, VIRTIO_BLK_S_IOERR);
	cr_expect_eq(done[other].status, VIRTIO_BLK_S_OK, "the innocent one is failed");
	cr_expect_eq(deaths, 5);
	cr_expect_eq(flight_get(&words->resting), FLIGHT_TAKES);
	flight_free(flight);
	rig_disconnect(&rig);
	rig_reap(&rig);
	end_played();
	rig.options.play = NULL;
	rig.options.flight_fd = 0;
	rig_respawn(&rig);
	rig_stop(&rig);
}

Test(window_server, f48_dies_of_a_request_of_the_first_queue)
{
	die_of_one(0);
}

Test(window_server, f48_dies_of_a_request_of_the_last_queue)
{
	die_of_one(1);
}
