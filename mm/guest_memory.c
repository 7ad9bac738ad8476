/* SPDX-License-Identifier: MIT */
/* Memory for guests, out of the unmapped cache: see guest_memory.h. An extent's order stands in its first page's `prev`. */
#include "mm/guest_memory.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "mm/unmapped.h"

static void append(struct guest_memory *g, struct page *page, unsigned order)
{
	u32 pfn = (u32)page_to_pfn(page);

	page->next = PFN_NONE;
	page->prev = order;
	if (g->last == PFN_NONE)
		g->first = pfn;
	else
		pfn_to_page(g->last)->next = pfn;
	g->last = pfn;
	g->size += PAGE_SIZE << order;
	g->extents++;
}

int guest_memory_take(struct guest_memory *g, u64 size, unsigned flags)
{
	unsigned how = (flags & GUEST_MEMORY_ZERO ? UNMAPPED_ZERO : 0) |
		       (flags & GUEST_MEMORY_NOSCRUB ? UNMAPPED_NOSCRUB : 0);
	unsigned order = UNMAPPED_ORDER_MAX;

	*g = (struct guest_memory){ .first = PFN_NONE, .last = PFN_NONE };
	if (!size || !is_aligned(size, PAGE_SIZE) || flags & ~(GUEST_MEMORY_ZERO | GUEST_MEMORY_NOSCRUB))
		return -EINVAL;
	while (g->size < size) {
		struct page *page;

		order = MIN(order, log2_floor((size - g->size) >> PAGE_SHIFT));
		page = unmapped_pages_alloc(order, how | (order ? 0 : UNMAPPED_MAY_RECLAIM), -1, NULL);
		if (page) {
			append(g, page, order);
		} else if (order) {
			order--;		/* there are none of that size any more */
		} else {
			guest_memory_give(g);
			return -ENOMEM;
		}
	}
	return 0;
}

void guest_memory_give(struct guest_memory *g)
{
	while (g->extents) {
		struct page *page = pfn_to_page(g->first);

		g->first = page->next;
		g->extents--;
		unmapped_pages_free(page, page->prev);
	}
	*g = (struct guest_memory){ .first = PFN_NONE, .last = PFN_NONE };
}

void guest_memory_each(const struct guest_memory *g, guest_extent_fn visit, void *arg)
{
	u64 gpa = 0;
	u32 pfn = g->first;

	for (u64 i = 0; i < g->extents; i++) {
		const struct page *page = pfn_to_page(pfn);
		unsigned order = page->prev;
		u32 next = page->next;

		visit(arg, gpa, pfn, order);
		gpa += PAGE_SIZE << order;
		pfn = next;
	}
}

struct lookup {
	u64 gpa;
	pfn_t found;
};

static void look(void *arg, u64 gpa, pfn_t pfn, unsigned order)
{
	struct lookup *l = arg;

	if (l->gpa >= gpa && l->gpa < gpa + (PAGE_SIZE << order))
		l->found = pfn + ((l->gpa - gpa) >> PAGE_SHIFT);
}

pfn_t guest_memory_frame(const struct guest_memory *g, u64 guest_frame)
{
	struct lookup l = { guest_frame << PAGE_SHIFT, PFN_NONE };

	if (guest_frame >= g->size >> PAGE_SHIFT)
		return PFN_NONE;
	guest_memory_each(g, look, &l);
	return l.found;
}
