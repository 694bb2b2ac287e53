/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. A source is an eventfd that a device process signals. While its vector can be delivered
 * the eventfd is an irqfd on the vector's GSI and the kernel raises the message without us. While the vector or
 * the function is masked the irqfd is taken away, so a signal stays in the eventfd's counter: that is the
 * pending bit, read by poll(2), and KVM raises it at once when the irqfd comes back.
 *
 * What should be (the table, control word and the sources' vectors) is written under the leaf lock by whoever
 * changes it. Making the kernel agree takes ioctls, which are not for leaf locks: settle() makes one thread at a
 * time go over the sources, looking under the lock and acting without it. A thread that finds another one at
 * it only asks that one for another round; so the kernel agrees at the latest when the first one is through.
 */
#include "msix.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lock.h"
#include "num.h"
#include "vm.h"

#define POLL_BATCH 32

struct message {
	uint64_t addr;
	uint32_t data;
};

struct vector {
	struct message message;
	uint32_t control; /* PCI_MSIX_ENTRY_CTRL_MASKBIT */
	uint32_t gsi;
};

struct source {
	int fd;
	uint16_t vector;   /* as the driver wants it */
	uint16_t attached; /* the vector on whose GSI the irqfd is now */
	struct message message;
};

struct msix {
	struct vm *vm;
	struct pci_dev *dev;
	unsigned cap;
	unsigned n_vectors, n_sources;
	struct lock lock;
	struct vector *vectors PT_GUARDED_BY(lock);
	struct source *sources PT_GUARDED_BY(lock); /* fd never changes */
	bool settling GUARDED_BY(lock);
	bool again GUARDED_BY(lock);
};

/* One source's way from what is to what should be. */
struct plan {
	int fd;
	uint16_t from, to;
	uint32_t from_gsi, to_gsi;
	struct message message;
};

static bool deliverable(const struct msix *m, uint16_t v) REQUIRES(m->lock)
{
	uint32_t control = pci_dev_get(m->dev, m->cap + PCI_MSIX_FLAGS, 2);

	return v < m->n_vectors && (control & PCI_MSIX_FLAGS_ENABLE) && !(control & PCI_MSIX_FLAGS_MASKALL) &&
	       !(m->vectors[v].control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* False if the source is as it should be. */
static bool plan_source(const struct msix *m, const struct source *s, struct plan *plan) REQUIRES(m->lock)
{
	const struct vector *v;

	*plan = (struct plan) { .fd = s->fd, .from = s->attached, .to = MSIX_NO_VECTOR };
	if (s->attached != MSIX_NO_VECTOR)
		plan->from_gsi = m->vectors[s->attached].gsi;
	if (!deliverable(m, s->vector))
		return s->attached != MSIX_NO_VECTOR;
	v = &m->vectors[s->vector];
	plan->to = s->vector;
	plan->to_gsi = v->gsi;
	plan->message = v->message;
	return s->attached != s->vector || s->message.addr != v->message.addr ||
	       s->message.data != v->message.data;
}

/* Returns the vector the source is on then. */
static uint16_t carry_out(struct vm *vm, const struct plan *plan)
{
	if (plan->from != MSIX_NO_VECTOR && plan->from != plan->to)
		vm_del_irqfd(vm, plan->from_gsi, plan->fd);
	if (plan->to == MSIX_NO_VECTOR)
		return MSIX_NO_VECTOR;
	if (vm_msi_set(vm, plan->to_gsi, plan->message.addr, plan->message.data) < 0)
		return plan->from == plan->to ? plan->to : MSIX_NO_VECTOR;
	if (plan->from != plan->to && vm_add_irqfd(vm, plan->to_gsi, plan->fd) < 0)
		return MSIX_NO_VECTOR;
	return plan->to;
}

static void settle(struct msix *m)
{
	struct plan plan;

	lock_take(&m->lock);
	m->again = true;
	if (m->settling) {
		lock_drop(&m->lock);
		return;
	}
	m->settling = true;
	while (m->again) {
		m->again = false;
		for (unsigned i = 0; i < m->n_sources; i++) {
			uint16_t now;

			if (!plan_source(m, &m->sources[i], &plan))
				continue;
			lock_drop(&m->lock);
			now = carry_out(m->vm, &plan);
			lock_take(&m->lock);
			m->sources[i].attached = now;
			m->sources[i].message = plan.message;
		}
	}
	m->settling = false;
	lock_drop(&m->lock);
}

/* ---- life ---- */

static int add_cap(struct msix *m, const struct msix_args *args)
{
	int cap = pci_dev_add_cap(args->dev, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);

	if (cap < 0)
		return cap;
	m->cap = (unsigned)cap;
	pci_dev_set(args->dev, m->cap + PCI_MSIX_FLAGS, 2, args->vectors - 1,
		    PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_dev_set(args->dev, m->cap + PCI_MSIX_TABLE, 4, args->table_off | args->bar, 0);
	pci_dev_set(args->dev, m->cap + PCI_MSIX_PBA, 4, args->pba_off | args->bar, 0);
	return 0;
}

static int alloc_vectors(struct msix *m, unsigned n)
{
	for (; m->n_vectors < n; m->n_vectors++) {
		struct vector *v = &m->vectors[m->n_vectors];
		int r = vm_msi_alloc(m->vm, &v->gsi);

		if (r < 0)
			return r;
		v->control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
	}
	return 0;
}

int msix_new(const struct msix_args *args, struct msix **out)
{
	struct msix *m = calloc(1, sizeof(*m));
	int r = -ENOMEM;

	if (!m)
		return -ENOMEM;
	lock_init(&m->lock);
	m->vm = args->vm;
	m->dev = args->dev;
	m->vectors = calloc(args->vectors, sizeof(*m->vectors));
	m->sources = calloc(args->sources, sizeof(*m->sources));
	if (m->vectors && m->sources)
		r = alloc_vectors(m, args->vectors);
	if (r == 0)
		r = add_cap(m, args);
	if (r < 0) {
		msix_free(m);
		return r;
	}
	lock_take(&m->lock);
	for (unsigned i = 0; i < args->sources; i++)
		m->sources[i] = (struct source) { .fd = args->fds[i],
						  .vector = MSIX_NO_VECTOR,
						  .attached = MSIX_NO_VECTOR };
	lock_drop(&m->lock);
	m->n_sources = args->sources;
	*out = m;
	return 0;
}

/* Nobody else has it any more. */
void msix_free(struct msix *m) NO_THREAD_SAFETY
{
	if (!m)
		return;
	msix_clear_sources(m);
	for (unsigned v = 0; v < m->n_vectors; v++)
		vm_msi_free(m->vm, m->vectors[v].gsi);
	free(m->vectors);
	free(m->sources);
	lock_destroy(&m->lock);
	free(m);
}

/* ---- sources ---- */

uint16_t msix_set_source(struct msix *m, unsigned source, uint16_t vector)
{
	if (vector >= m->n_vectors)
		vector = MSIX_NO_VECTOR;
	lock_take(&m->lock);
	m->sources[source].vector = vector;
	lock_drop(&m->lock);
	settle(m);
	return vector;
}

uint16_t msix_source(struct msix *m, unsigned source)
{
	uint16_t vector;

	lock_take(&m->lock);
	vector = m->sources[source].vector;
	lock_drop(&m->lock);
	return vector;
}

void msix_clear_sources(struct msix *m)
{
	lock_take(&m->lock);
	for (unsigned i = 0; i < m->n_sources; i++)
		m->sources[i].vector = MSIX_NO_VECTOR;
	lock_drop(&m->lock);
	settle(m);
}

/* ---- the table ---- */

static uint32_t entry_get(const struct msix *m, uint64_t off) REQUIRES(m->lock)
{
	const struct vector *v = &m->vectors[off / MSIX_ENTRY_SIZE];

	switch (off % MSIX_ENTRY_SIZE / 4) {
	case 0:
		return (uint32_t)v->message.addr;
	case 1:
		return (uint32_t)(v->message.addr >> 32);
	case 2:
		return v->message.data;
	default:
		return v->control;
	}
}

static void entry_set(struct msix *m, uint64_t off, uint32_t value) REQUIRES(m->lock)
{
	struct vector *v = &m->vectors[off / MSIX_ENTRY_SIZE];

	switch (off % MSIX_ENTRY_SIZE / 4) {
	case 0:
		v->message.addr = (v->message.addr & ~0xffffffffULL) | (value & ~3u);
		break;
	case 1:
		v->message.addr = (v->message.addr & 0xffffffffULL) | (uint64_t)value << 32;
		break;
	case 2:
		v->message.data = value;
		break;
	default:
		v->control = value & PCI_MSIX_ENTRY_CTRL_MASKBIT;
	}
}

/* Whole words within the table; anything else is not defined by the specification and does nothing here. */
static bool table_access_ok(const struct msix *m, uint64_t off, unsigned size)
{
	uint64_t end;

	return (size == 4 || size == 8) && off % size == 0 && num_add(off, size, &end) &&
	       end <= (uint64_t)m->n_vectors * MSIX_ENTRY_SIZE;
}

uint64_t msix_table_read(struct msix *m, uint64_t off, unsigned size)
{
	uint64_t value;

	if (!table_access_ok(m, off, size))
		return 0;
	lock_take(&m->lock);
	value = entry_get(m, off);
	if (size == 8)
		value |= (uint64_t)entry_get(m, off + 4) << 32;
	lock_drop(&m->lock);
	return value;
}

void msix_table_write(struct msix *m, uint64_t off, unsigned size, uint64_t value)
{
	if (!table_access_ok(m, off, size))
		return;
	lock_take(&m->lock);
	entry_set(m, off, (uint32_t)value);
	if (size == 8)
		entry_set(m, off + 4, (uint32_t)(value >> 32));
	lock_drop(&m->lock);
	settle(m);
}

void msix_config_written(struct msix *m, unsigned off, unsigned size)
{
	if (off < m->cap + PCI_MSIX_FLAGS + 2 && off + size > m->cap + PCI_MSIX_FLAGS)
		settle(m);
}

/* ---- pending bits ---- */

struct pending {
	struct pollfd fds[POLL_BATCH];
	unsigned bit[POLL_BATCH];
	unsigned n;
};

static uint64_t pending_poll(struct pending *p)
{
	uint64_t bits = 0;

	if (p->n && poll(p->fds, p->n, 0) > 0)
		for (unsigned i = 0; i < p->n; i++)
			if (p->fds[i].revents & POLLIN)
				bits |= 1ULL << p->bit[i];
	p->n = 0;
	return bits;
}

/* Takes in sources from *next on, as many as fit, that wait on a vector of [first, first + n). */
static void pending_collect(struct msix *m, unsigned *next, uint64_t first, unsigned n, struct pending *p)
{
	lock_take(&m->lock);
	for (; *next < m->n_sources && p->n < POLL_BATCH; ++*next) {
		const struct source *s = &m->sources[*next];

		if (s->vector == MSIX_NO_VECTOR || s->vector < first || s->vector >= first + n ||
		    deliverable(m, s->vector))
			continue;
		p->fds[p->n] = (struct pollfd) { .fd = s->fd, .events = POLLIN };
		p->bit[p->n++] = (unsigned)(s->vector - first);
	}
	lock_drop(&m->lock);
}

uint64_t msix_pba_read(struct msix *m, uint64_t off, unsigned size)
{
	struct pending p = { .n = 0 };
	uint64_t bits = 0;

	if (size > 8 || off >= MSIX_PBA_MAX)
		return 0;
	for (unsigned next = 0; next < m->n_sources;) {
		pending_collect(m, &next, off * 8, size * 8, &p);
		bits |= pending_poll(&p);
	}
	return bits;
}
