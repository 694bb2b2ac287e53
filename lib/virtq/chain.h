/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From descriptors to a chain of checked vectors: what both ring formats do with each descriptor. Inline, as
 * it is the inner loop of every device.
 */
#ifndef VIRTQ_CHAIN_H
#define VIRTQ_CHAIN_H

#include <errno.h>

#include "virtq_priv.h"

#define VQ_LIKELY(x)   __builtin_expect(!!(x), 1)
#define VQ_UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline uint32_t vq_desc_len(struct vq_desc d)
{
	return (uint32_t)d.rest;
}

/* Each word by one load that the compiler may not repeat: what was checked is what is used, even while a
 * second vCPU rewrites the descriptor. */
static inline struct vq_desc vq_desc_read(const struct vq_desc *shared)
{
	return (struct vq_desc) { .addr = __atomic_load_n(&shared->addr, __ATOMIC_RELAXED),
				  .rest = __atomic_load_n(&shared->rest, __ATOMIC_RELAXED) };
}

/* The range lies over a region's end: whole if the next region adjoins. */
int vq_chain_add_slow(struct vq *vq, struct vq_chain *c, uint64_t addr, uint32_t len, bool write);

/* Appends the bytes that one descriptor names. */
static inline int vq_chain_add(struct vq *vq, struct vq_chain *c, uint64_t addr, uint32_t len, bool write)
{
	uint32_t n = (uint32_t)c->out_num + c->in_num;
	void *ptr;

	if (VQ_UNLIKELY(!len || (!write && c->in_num)))
		return -EINVAL;
	if (VQ_UNLIKELY(__builtin_add_overflow(write ? c->in_len : c->out_len, len,
					       write ? &c->in_len : &c->out_len)))
		return -EINVAL;
	if (VQ_UNLIKELY(n >= vq->iov_max))
		return -E2BIG;
	ptr = mem_at_window(vq->mem, &vq->window, addr, len);
	if (VQ_UNLIKELY(!ptr))
		return vq_chain_add_slow(vq, c, addr, len, write);
	c->iov[n] = (struct iovec) { .iov_base = ptr, .iov_len = len };
	if (write)
		c->in_num++;
	else
		c->out_num++;
	return 0;
}

/* An indirect table: direct when it lies whole and aligned in one region, as tables do. */
struct vq_table {
	const struct vq_desc *direct; /* or NULL */
	uint64_t addr;
	uint32_t entries;
};

/* The table that d names, or -EINVAL for one of no or of odd length. Tables longer than iov_max can't be used
 * whole, and vq_chain_add says so at that point. */
static inline int vq_table_open(struct vq *vq, struct vq_desc d, struct vq_table *table)
{
	uint32_t len = vq_desc_len(d);
	const void *at;

	if (VQ_UNLIKELY(!vq->indirect || !len || len % sizeof(struct vq_desc)))
		return -EINVAL;
	at = mem_at_window(vq->mem, &vq->window, d.addr, len);
	*table = (struct vq_table) { .direct = (uintptr_t)at % 8 ? NULL : at,
				     .addr = d.addr,
				     .entries = len / (uint32_t)sizeof(struct vq_desc) };
	return 0;
}

/* An entry of a table that lies unaligned, or over adjacent regions, each entry whole in one of them. */
int vq_table_read_slow(struct vq *vq, uint64_t addr, struct vq_desc *out);

static inline int vq_table_read(struct vq *vq, const struct vq_table *table, uint32_t i, struct vq_desc *out)
{
	if (VQ_UNLIKELY(!table->direct)) {
		uint64_t addr;

		if (__builtin_add_overflow(table->addr, (uint64_t)i * sizeof(*out), &addr))
			return -EFAULT;
		return vq_table_read_slow(vq, addr, out);
	}
	*out = vq_desc_read(&table->direct[i]);
	return 0;
}

static inline void vq_chain_start(struct vq_chain *c)
{
	c->out_num = c->in_num = 0;
	c->out_len = c->in_len = 0;
}

#endif
