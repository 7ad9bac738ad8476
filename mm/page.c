/* SPDX-License-Identifier: MIT */
/*
 * The arrays that describe frames, and which parts of them exist.
 *
 * page_array and block_array are set by whoever made room for them (kernel/memory.c, or the hosted set-up)
 * before the first section is added. All of it is constant after boot but the contents of the arrays.
 */
#include "mm/page.h"

#include "kernel/base/atomic.h"
#include "kernel/base/string.h"

struct page *page_array;
struct block *block_array;
pfn_t page_max_pfn;
u64 page_sections[SECTIONS_MAX / 64];

static const char *const class_names[PAGE_CLASSES] = {
	[PAGE_RESERVED] = "reserved",
	[PAGE_FREE] = "free",
	[PAGE_KERNEL] = "kernel",
	[PAGE_TABLE] = "table",
	[PAGE_SLAB] = "slab",
	[PAGE_MEMMAP] = "memmap",
	[PAGE_BOOT] = "boot",
	[PAGE_KERNEL_TEXT] = "kernel-text",
	[PAGE_KERNEL_RODATA] = "kernel-rodata",
	[PAGE_KERNEL_DATA] = "kernel-data",
	[PAGE_AP_START] = "ap-start",
	[PAGE_EXECMEM] = "execmem",
	[PAGE_UNMAPPED] = "unmapped",
	[PAGE_USER] = "user",
	[PAGE_DEVICE] = "device",
	[PAGE_RUNTIME] = "runtime",
};

const char *page_class_name(enum page_class class)
{
	return (unsigned)class < PAGE_CLASSES ? class_names[class] : "?";
}

void page_section_add(u64 section)
{
	pfn_t first = section * SECTION_FRAMES;

	if (section >= SECTIONS_MAX)
		return;
	_Static_assert(PAGE_RESERVED == 0, "a zeroed struct page is one of a reserved frame");
	memset(pfn_to_page(first), 0, SECTION_FRAMES * sizeof(struct page));
	memset(pfn_to_block(first), 0, (SECTION_FRAMES >> BLOCK_ORDER) * sizeof(struct block));
	page_sections[section / 64] |= 1ull << (section % 64);
	page_max_pfn = MAX(page_max_pfn, first + SECTION_FRAMES);
}

void page_sections_reset(void)
{
	memset(page_sections, 0, sizeof(page_sections));
	page_max_pfn = 0;
}

/*
 * What a frame inside a block shows is not looked at when the block is allocated or freed; that
 * somebody changed it is noted by 2 MiB, so that free_pages() knows where it has to look after all. The mark comes
 * first, in case a free of another part of the same 2 MiB comes in between: it never clears it for a part.
 */
void page_set_class(pfn_t pfn, u64 nr, enum page_class class)
{
	if (nr != 1 || !(pfn_to_page(pfn)->flags & PAGE_HEAD))
		for (pfn_t at = pfn; at < pfn + nr; at = (at | ((1u << BLOCK_ORDER) - 1)) + 1)
			store_relaxed(&pfn_to_block(at)->classed, 1);
	for (pfn_t at = pfn; at < pfn + nr; at++)
		store_relaxed(&pfn_to_page(at)->class, (u8)class);
}
