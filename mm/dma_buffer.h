/* SPDX-License-Identifier: MIT */
/*
 * Buffers that a device reads and writes and the kernel has no mapping of (SPEC UM6).
 *
 * A stray pointer of the kernel cannot reach one, and what a device was given is seen by the driver that owns it alone, through
 * copies made by temporary mappings. Physically contiguous, zero at first, and scrubbed when freed.
 *
 * Task context, no spinlock held, interrupts on.
 */
#ifndef MM_DMA_BUFFER_H
#define MM_DMA_BUFFER_H

#include "kernel/base/types.h"
#include "mm/page.h"

#define DMA_BUFFER_MAX (2 * MIB)

struct dma_buffer {
	phys_t pa;		/* for the device */
	u64 size;		/* as asked for */
	struct page *page;	/* NULL: nothing is allocated */
	u8 order;
};

/* -EINVAL: size is 0. -E2BIG: more than DMA_BUFFER_MAX. -ENOMEM. On an error *b is empty. */
int dma_buffer_alloc(struct dma_buffer *b, u64 size) __must_check;
/* The device is through with it. An empty one is fine. */
void dma_buffer_free(struct dma_buffer *b);

/* Copy into what the device will read, or out of what it has written. -EINVAL, and nothing copied: not all inside the buffer. */
int dma_buffer_write(const struct dma_buffer *b, u64 offset, const void *src, u64 len) __must_check;
int dma_buffer_read(const struct dma_buffer *b, u64 offset, void *dst, u64 len) __must_check;

#endif
