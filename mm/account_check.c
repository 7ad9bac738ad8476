/* SPDX-License-Identifier: MIT */
/*
 * Charges compared with the frames that are in use (SPEC PA5): what each open account is charged is what is found of it by looking
 * at all frames.
 *
 * Three kinds of frames say whom they are charged to: an allocation with PAGE_CHARGED, by its first frame; a region of the unmapped
 * cache that is in use, by its first frame, whatever class its owner has set; a slab, by its cache. The rest of what the
 * first frame heads is stepped over, free blocks too, so that one look is as long as memory is fragmented.
 */
#include "mm/account.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "mm/slab.h"
#include "mm/unmapped_internal.h"

#define REPORTS 8u	/* differences that are named; all are counted */

static bool is_open(const struct account *account)
{
	for (const struct account *a = account_next(NULL); a; a = account_next(a))
		if (a == account)
			return true;
	return false;
}

static unsigned count(const struct page *page, struct account *account, u64 frames)
{
	if (!account)
		return 0;
	if (!is_open(account)) {
		log_warn("account_check: frame %#llx and %llu behind it are charged to what is no open account (%p)",
			 (unsigned long long)page_to_pfn(page), (unsigned long long)frames - 1, (void *)account);
		return 1;
	}
	for (struct account *a = account; a; a = a->parent)
		a->found += frames;
	return 0;
}

/* One frame, and what it heads, which is *frames long. */
static unsigned look_at(const struct page *page, u64 *frames)
{
	*frames = 1;
	if (page_class(page) == PAGE_TABLE)
		return 0;
	if (um_ours(page)) {
		if (um_state(page) == UM_INSIDE)
			return 0;
		*frames = BIT(um_order(page));
		return um_state(page) == UM_TAKEN ? count(page, (struct account *)page->account, *frames) : 0;
	}
	if (!(page->flags & (PAGE_BUDDY | PAGE_CACHED | PAGE_HEAD)))
		return 0;
	*frames = BIT(page->order);
	if (!(page->flags & PAGE_HEAD))
		return 0;
	if (page_class(page) == PAGE_SLAB)
		return count(page, ((const struct slab_cache *)page->private)->account, *frames);
	return page->flags & PAGE_CHARGED ? count(page, (struct account *)page->account, *frames) : 0;
}

unsigned account_check(void)
{
	unsigned faults = 0;
	u64 frames;

	for (struct account *a = account_next(NULL); a; a = account_next(a))
		a->found = 0;
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn += frames) {
		if (pfn_valid(pfn))
			faults += look_at(pfn_to_page(pfn), &frames);
		else
			frames = SECTION_FRAMES - pfn % SECTION_FRAMES;
	}
	for (struct account *a = account_next(NULL); a; a = account_next(a)) {
		u64 charged = account_charged(a);

		if (charged != a->found && faults++ < REPORTS)
			log_warn("account %s: %llu frames charged, %llu in use", a->name, (unsigned long long)charged,
				 (unsigned long long)a->found);
	}
	return faults;
}
