/* SPDX-License-Identifier: MIT */
/* Aged memory. The frames held are marked in struct page (`private`), so that this takes no memory itself. */
#include "tests/lab/aging.h"

#include "mm/buddy.h"
#include "mm/page.h"
#include "mm/pgtable.h"

static struct page *marked_page(pfn_t pfn, u64 mark)
{
	struct page *page;

	if (!pfn_valid(pfn))
		return NULL;
	page = pfn_to_page(pfn);
	return page->class == PAGE_KERNEL && page->private == mark ? page : NULL;
}

static void free_marked(struct page *page)
{
	page->private = 0;
	free_page(page);
}

u64 aging_hold_all(u64 mark)
{
	struct page *page;
	u64 n = 0;

	while ((page = alloc_page(0))) {
		page->private = mark;
		n++;
	}
	return n;
}

void aging_free_some(struct rng *rng, u64 mark, u64 nr)
{
	while (nr) {
		struct page *page = marked_page(rng_below(rng, page_max_pfn), mark);

		if (!page)
			continue;
		free_marked(page);
		nr--;
	}
}

void aging_free_all(u64 mark)
{
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++) {
		struct page *page = marked_page(pfn, mark);

		if (page)
			free_marked(page);
	}
}

u64 aging_table_frames(void)
{
	struct buddy_stats b;

	buddy_read_stats(&b);
	return b.frames / PT_ENTRIES + b.frames / PT_ENTRIES / PT_ENTRIES + 128;
}
