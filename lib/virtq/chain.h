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

/*
 * Reads entry i of an indirect table at addr. The table may lie over adjacent regions, each entry in one of
 * them. Tables need not be aligned.
 */
int vq_table_read(struct vq *vq, uint64_t addr, uint32_t i, struct vq_desc *out);

/* Number of entries of the indirect table that d names, or -EINVAL. */
static inline int vq_table_entries(const struct vq *vq, struct vq_desc d)
{
	uint32_t len = vq_desc_len(d);

	if (VQ_UNLIKELY(!vq->indirect || !len || len % sizeof(struct vq_desc)))
		return -EINVAL;
	/* Longer tables than iov_max entries can't be used whole, and vq_chain_add says so at that point. */
	return (int)(len / sizeof(struct vq_desc));
}

static inline void vq_chain_start(struct vq_chain *c)
{
	c->out_num = c->in_num = 0;
	c->out_len = c->in_len = 0;
}

#endif
