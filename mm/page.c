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

/* The first frame of the allocation that a frame lies in, if that is not the frame itself. */
static struct page *allocation_of(pfn_t pfn)
{
	for (unsigned order = 1; order < 64 && pfn >> order; order++) {
		struct page *head = pfn_to_page(pfn & ~((1ull << order) - 1));

		if (!pfn_valid(page_to_pfn(head)))
			return NULL;
		if (load_relaxed(&head->flags) & PAGE_HEAD)
			return load_relaxed(&head->order) >= order ? head : NULL;
	}
	return NULL;
}

/*
 * The allocator does not look at the frames inside a block. That somebody has changed their class is noted in
 * the first one's flags, so that free_pages() knows when it has to look after all. Returns where what the note is about ends.
 */
static struct page *note_class(struct page *page, pfn_t pfn, pfn_t end)
{
	struct page *head;

	/* What is not the allocator's yet is inside nothing. */
	if (page->flags & PAGE_HEAD || page_class(page) == PAGE_RESERVED || page_class(page) == PAGE_BOOT)
		return page + 1;
	head = allocation_of(pfn);
	if (!head)
		return page + 1;
	page_flags_add(head, PAGE_CLASSED);
	return MIN(head + (1ull << head->order), pfn_to_page(end));
}

void page_set_class(pfn_t pfn, u64 nr, enum page_class class)
{
	pfn_t end = pfn + nr;

	while (pfn < end) {
		struct page *page = pfn_to_page(pfn);
		struct page *last = note_class(page, pfn, end);

		for (; page < last; page++)
			page_put_class(page, class);
		pfn = page_to_pfn(page);
	}
}
