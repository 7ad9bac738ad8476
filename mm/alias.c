/* SPDX-License-Identifier: MIT */
/* Counts of writable and executable aliases per frame. See alias.h. */
#include "mm/alias.h"

#include "kernel/base/errno.h"
#include "kernel/base/panic.h"

/* Generation of the last change that took executability away: writability waits until it is flushed. */
static u64 exec_lost_gen;

u64 alias_total_writable;
u64 alias_total_executable;

bool alias_class_executable(enum page_class class)
{
	return class == PAGE_KERNEL_TEXT || class == PAGE_AP_START || class == PAGE_EXECMEM;
}

/* Whether any of the frames is writable through the direct map now. */
static bool direct_writable(pfn_t pfn, u64 nr)
{
	u64 va = phys_to_va(phys(pfn << PAGE_SHIFT));
	u64 end = va + (nr << PAGE_SHIFT);

	while (va < end) {
		struct pt_slot s = pt_walk(&kernel_space, va, PT_4K);

		if (pte_is_leaf(s.value, s.level) && s.value.raw & PTE_W)
			return true;
		va = pt_next(va, s.level);
	}
	return false;
}

static int allows_executable(pfn_t pfn, u64 nr, unsigned own, bool sealing)
{
	for (u64 i = 0; i < nr; i++) {
		const struct page *page = pfn_to_page(pfn + i);

		if (!pfn_valid(pfn + i) || !alias_class_executable(page_class(page)) || page->writable_aliases > own)
			return -EPERM;
	}
	if (!sealing && direct_writable(pfn, nr))
		return -EPERM;
	/* Whoever could write these frames has been made to forget it: rare enough to ask for everything. */
	return tlb_flushed(&kernel_space, kernel_space.gen) ? 0 : -EAGAIN;
}

static int allows_writable(pfn_t pfn, u64 nr)
{
	u64 i = 0;

	while (i < nr) {
		if (!pfn_valid(pfn + i) || !pfn_to_block(pfn + i)->exec_frames) {
			i = align_up(pfn + i + 1, BIT(BLOCK_ORDER)) - pfn;	/* nothing executable in the block */
			continue;
		}
		if (page_class(pfn_to_page(pfn + i)) != PAGE_TABLE && pfn_to_page(pfn + i)->exec_aliases)
			return -EPERM;
		i++;
	}
	return alias_exec_flushed() ? 0 : -EAGAIN;
}

bool alias_exec_flushed(void)
{
	return tlb_flushed(&kernel_space, exec_lost_gen);
}

int alias_allows(pfn_t pfn, u64 nr, u64 attrs, unsigned own, bool sealing)
{
	if (alias_executable(attrs)) {
		if (alias_writable(attrs))
			return -EPERM;
		return allows_executable(pfn, nr, own, sealing);
	}
	return alias_writable(attrs) ? allows_writable(pfn, nr) : 0;
}

/* A count that has reached its end stays there: the frame is then refused for ever rather than miscounted. */
static void count(u16 *n, int by, u64 *total)
{
	if (!by || *n == UINT16_MAX)
		return;
	debug_assert(by > 0 || *n > 0);
	*n = (u16)(*n + by);
	*total += (u64)(i64)by;
}

static void count_in_block(struct page *page, u64 nr, struct block *block, int writable, int executable)
{
	for (struct page *end = page + nr; page < end; page++) {
		u16 before = page->exec_aliases;

		count(&page->writable_aliases, writable, &alias_total_writable);
		if (!executable)
			continue;
		count(&page->exec_aliases, executable, &alias_total_executable);
		if (!before != !page->exec_aliases)
			block->exec_frames = (u16)(block->exec_frames + (before ? -1 : 1));
	}
}

void alias_count(pfn_t pfn, u64 nr, int writable, int executable)
{
	assert_held(&kernel_space.lock);
	if (!writable && !executable)
		return;
	if (executable < 0)
		exec_lost_gen = kernel_space.gen + 1;	/* that of the change being made */
	for (u64 i = 0; i < nr;) {
		u64 behind = MIN(align_up(pfn + i + 1, BIT(BLOCK_ORDER)) - pfn, nr);

		if (pfn_valid(pfn + i))
			count_in_block(pfn_to_page(pfn + i), behind - i, pfn_to_block(pfn + i), writable, executable);
		i = behind;
	}
}
