/* SPDX-License-Identifier: MIT */
/*
 * The mechanisms under comparison, a row each.
 */
#include "mm/buddy.h"
#include "mm/directmap.h"
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

const struct lab_policy lab_policies[] = {
	{ "scattered", "each page is taken out of the direct map where the allocator found it", scattered_take,
	  scattered_give },
};
const unsigned lab_nr_policies = ARRAY_SIZE(lab_policies);
