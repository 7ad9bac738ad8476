/* SPDX-License-Identifier: MIT */
/*
 * The mechanisms under comparison, a row each.
 */
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/unmapped.h"
#include "tests/lab/lab.h"

/* What everyone does first: any frame the allocator has, unmapped where it stands. */
static struct page *scattered_take(void)
{
	struct page *page = alloc_page(0);

	if (page && set_direct_map_invalid(page_to_pfn(page), 1)) {
		free_page(page);
		return NULL;
	}
	return page;
}

static int scattered_give(struct page *page)
{
	int rc = set_direct_map_default(page_to_pfn(page), 1);

	if (!rc)
		free_page(page);
	return rc;
}

/* Out of blocks that have left the direct map whole. Not zeroed when taken; scrubbed when given. */
static struct page *unmapped_take(void)
{
	return unmapped_pages_alloc(0, 0, -1, NULL);
}

static int unmapped_give(struct page *page)
{
	unmapped_pages_free(page, 0);
	return 0;
}

const struct lab_policy lab_policies[] = {
	[LAB_SCATTERED] = { "scattered", "each page is taken out of the direct map where the allocator found it",
			    scattered_take, scattered_give, UNMAPPED_OFF },
	[LAB_UNMAPPED_2M] = { "unmapped-2m", "pages come from blocks of 2 MiB that leave the direct map by one entry",
			      unmapped_take, unmapped_give, UNMAPPED_2M },
	[LAB_UNMAPPED_1G] = { "unmapped-1g", "the same with blocks of 1 GiB", unmapped_take, unmapped_give,
			      UNMAPPED_1G },
};
