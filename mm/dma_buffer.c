/* SPDX-License-Identifier: MIT */
/* Buffers of devices, out of the unmapped cache: see dma_buffer.h. */
#include "mm/dma_buffer.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"

int dma_buffer_alloc(struct dma_buffer *b, u64 size)
{
	unsigned order;

	*b = (struct dma_buffer){ 0 };
	if (!size)
		return -EINVAL;
	if (size > DMA_BUFFER_MAX)
		return -E2BIG;
	order = log2_ceil((size + PAGE_SIZE - 1) >> PAGE_SHIFT);
	b->page = unmapped_pages_alloc(order, UNMAPPED_ZERO | UNMAPPED_MAY_RECLAIM, -1, NULL);
	if (!b->page)
		return -ENOMEM;
	b->pa = page_to_phys(b->page);
	b->size = size;
	b->order = (u8)order;
	return 0;
}

void dma_buffer_free(struct dma_buffer *b)
{
	if (b->page)
		unmapped_pages_free(b->page, b->order);
	*b = (struct dma_buffer){ 0 };
}

static bool inside(const struct dma_buffer *b, u64 offset, u64 len)
{
	return len && offset < b->size && len <= b->size - offset;
}

int dma_buffer_write(const struct dma_buffer *b, u64 offset, const void *src, u64 len)
{
	if (!inside(b, offset, len))
		return -EINVAL;
	temp_write(page_to_pfn(b->page), offset, src, len);
	return 0;
}

int dma_buffer_read(const struct dma_buffer *b, u64 offset, void *dst, u64 len)
{
	if (!inside(b, offset, len))
		return -EINVAL;
	temp_read(page_to_pfn(b->page), offset, dst, len);
	return 0;
}
