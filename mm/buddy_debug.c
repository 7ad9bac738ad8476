/* SPDX-License-Identifier: MIT */
/*
 * The page allocator under observation: allocations that are made to fail (PA8), and free frames that hold a pattern (PA7).
 *
 * A poisoned frame says so in its struct page, with the number of the time that poisoning was switched on: a frame that was
 * freed or used while it was off is not taken for one that somebody wrote to.
 */
#include "kernel/base/log.h"
#include "kernel/base/rng.h"
#include "kernel/base/string.h"
#include "mm/buddy_internal.h"
#include "mm/page_owner.h"

/* ---- Failures ---- */

static bool site_is_meant(const struct alloc_site *site, unsigned order)
{
	if (alloc_inject.site && alloc_inject.site != site)
		return false;
	return !alloc_inject.orders || (order <= ORDER_MAX && alloc_inject.orders >> order & 1);
}

bool alloc_injected(struct alloc_site *site, unsigned order)
{
	struct rng rng;
	bool fails;

	if (!site_is_meant(site, order))
		return false;
	alloc_inject.calls++;
	site->calls++;
	fails = alloc_inject.countdown && !--alloc_inject.countdown;
	if (alloc_inject.one_in && !fails) {
		rng.state = alloc_inject.seed;
		fails = !rng_below(&rng, alloc_inject.one_in);
		alloc_inject.seed = rng.state;
	}
	alloc_inject.failed += fails;
	site->failed += fails;
	return fails;
}

static bool ends_with(const char *text, const char *end)
{
	size_t a = strlen(text), b = strlen(end);

	return a >= b && !strcmp(text + a - b, end);
}

struct alloc_site *alloc_site_find(const char *file, int line)
{
	struct alloc_site *found = NULL;

	for (struct alloc_site *const *s = __start_alloc_sites; s < __stop_alloc_sites; s++)
		if (ends_with((*s)->file, file) && (*s)->line >= line && (!found || (*s)->line < found->line))
			found = *s;
	return found;
}

/* ---- Poison ---- */

#define POISON 0x9d3a5cc5a35c9d3aull
#define POISON_MARK 0x706f69736f6e0000ull	/* struct page's private: | the time it was switched on, 16 bits */

unsigned alloc_watch;
u64 buddy_poison_hits;
struct buddy_poison_hit buddy_poison_last;
static u16 poison_epoch;

static u64 poison_mark(void)
{
	return POISON_MARK | poison_epoch;
}

void page_poison(struct page *page, unsigned order)
{
	for (u64 i = 0; i < 1ull << order; i++) {
		u64 *words = page_to_virt(page + i);

		for (unsigned k = 0; k < PAGE_SIZE / sizeof(u64); k++)
			words[k] = POISON;
		page[i].private = poison_mark();
	}
}

/* Byte of the frame that differs; PAGE_SIZE: none. */
static unsigned poison_damage(const struct page *page)
{
	const u64 *words = page_to_virt(page);

	for (unsigned k = 0; k < PAGE_SIZE / sizeof(u64); k++)
		if (words[k] != POISON)
			return k * sizeof(u64) + (unsigned)__builtin_ctzll(words[k] ^ POISON) / 8;
	return PAGE_SIZE;
}

/* Look at a frame that holds the pattern, and take the mark off if it is not whole. */
static void poison_check(struct page *page)
{
	unsigned at = poison_damage(page);

	if (at == PAGE_SIZE)
		return;
	page->private = 0;
	fetch_add(&buddy_poison_hits, 1);
	buddy_poison_last = (struct buddy_poison_hit){ page_to_pfn(page), at };
	log_warn("frame %#llx was written to at byte %u while it was free: %#llx", (unsigned long long)page_to_pfn(page), at,
		 (unsigned long long)((const u64 *)page_to_virt(page))[at / sizeof(u64)]);
	if (alloc_watch & BUDDY_OWNER)
		page_owner_log_frame(page);
}

void page_unpoison(struct page *page, unsigned order)
{
	for (u64 i = 0; i < 1ull << order; i++) {
		if (page[i].private != poison_mark())
			continue;
		poison_check(page + i);
		page[i].private = 0;
	}
}

void buddy_check_poison(void)
{
	buddy_drain();
	for (pfn_t pfn = 0; alloc_watch & BUDDY_POISON && pfn < page_max_pfn;) {
		struct page *page = pfn_to_page(pfn);
		u64 nr = 1;

		if (!pfn_valid(pfn)) {
			pfn += SECTION_FRAMES;
			continue;
		}
		if (page->flags & PAGE_BUDDY)
			nr <<= page->order;
		for (u64 i = 0; page->flags & PAGE_BUDDY && i < nr; i++)
			if (page[i].private == poison_mark())
				poison_check(page + i);
		pfn += nr;
	}
}

void alloc_watched(struct page *page, unsigned order)
{
	if (alloc_watch & BUDDY_POISON)
		page_unpoison(page, order);
	if (alloc_watch & BUDDY_OWNER)
		page_owner_record(page, order);
}

void buddy_watch(unsigned what, bool on)
{
	if (what & BUDDY_POISON && on && !(alloc_watch & BUDDY_POISON))
		poison_epoch++;
	alloc_watch = on ? alloc_watch | what : alloc_watch & ~what;
	buddy_watch_changed();
}

unsigned buddy_watched(void)
{
	return alloc_watch;
}
