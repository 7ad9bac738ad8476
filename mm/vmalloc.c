/* SPDX-License-Identifier: MIT */
/*
 * Mappings in kernel virtual areas. See vmalloc.h.
 *
 * Each of the three kinds is: take an area, map (kernel_map.h), or undo in reverse order. The frames of vmalloc() are a list
 * through struct page, so that an area of any size needs nothing besides them; they go back through the batch that
 * unmaps them, so nobody gets them before the last CPU has forgotten where they were.
 */
#include "mm/vmalloc.h"

#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/vm_area.h"

#define RW_ATTRS DIRECT_ATTRS
#define RO_ATTRS (DIRECT_ATTRS & ~PTE_W)
#define BLOCK_PAGES BIT(BLOCK_ORDER)
#define RUN_PAGES 64u	/* single frames that are mapped at a time */

/* ---- vmalloc ---- */

/* What the area has so far: frames on its list, the first nr_pages pages mapped. */
static void area_add(struct vm_area *a, struct page *page)
{
	page->next = a->frames;
	a->frames = (u32)page_to_pfn(page);
}

static bool add_block(struct vm_area *a, struct tlb_batch *batch)
{
	struct page *page = alloc_pages(ORDER_2M, ALLOC_ZERO);

	if (!page)
		return false;
	if (kernel_map_range(a->start + (a->nr_pages << PAGE_SHIFT), range_len(page_to_phys(page).raw, 2 * MIB), RW_ATTRS,
			     PT_2M, batch)) {
		free_pages(page, ORDER_2M);
		return false;
	}
	area_add(a, page);
	counter_add(&a->nr_pages, BLOCK_PAGES);
	return true;
}

/* nr single frames, RUN_PAGES at most: all or none. */
static bool add_singles(struct vm_area *a, u64 nr, struct tlb_batch *batch)
{
	struct page *pages[RUN_PAGES];
	u64 got = 0;

	while (got < nr && (pages[got] = alloc_page(ALLOC_ZERO)))
		got++;
	if (got == nr && !kernel_map_pages(a->start + (a->nr_pages << PAGE_SHIFT), pages, nr, RW_ATTRS, PT_2M, batch)) {
		for (u64 i = 0; i < nr; i++)
			area_add(a, pages[i]);
		counter_add(&a->nr_pages, nr);
		return true;
	}
	while (got)
		free_page(pages[--got]);
	return false;
}

static bool fill_area(struct vm_area *a, struct tlb_batch *batch)
{
	u64 nr = a->size >> PAGE_SHIFT;

	while (a->nr_pages < nr) {
		u64 left = nr - a->nr_pages;

		if (is_aligned(a->nr_pages, BLOCK_PAGES) && left >= BLOCK_PAGES && add_block(a, batch))
			continue;
		if (!add_singles(a, MIN(left, RUN_PAGES), batch))
			return false;
	}
	return true;
}

/*
 * Whatever rights the frames had while they were ours, the direct map has them as it should before they are anyone's. A
 * frame that cannot be put back is kept: that is a leak with a name, not a fault in whoever gets it. What a dead CPU may
 * still reach is quarantined by the batch, put back or not.
 */
static void give_back(struct vm_area *a, struct tlb_batch *batch)
{
	for (u32 pfn = a->frames, next; pfn != PFN_NONE; pfn = next) {
		struct page *page = pfn_to_page(pfn);
		unsigned order = page->order;
		int rc = set_direct_map_batch(pfn, BIT(order), true, batch);

		next = page->next;	/* the batch has a list of its own through it */
		if (rc && rc != -EIO)
			log_warn("vfree: frame 0x%x cannot go back to the direct map (%d): kept", pfn, rc);
		else
			tlb_batch_free(batch, page, order);
	}
}

/* Unmap what is mapped in an area. */
static bool unmap_area(struct vm_area *a, struct tlb_batch *batch)
{
	int rc = a->nr_pages ? kernel_unmap(range_len(a->start, a->nr_pages << PAGE_SHIFT), batch) : 0;

	if (rc)
		log_warn("area at 0x%llx cannot be unmapped (%d): kept", (unsigned long long)a->start, rc);
	return !rc;
}

/*
 * Undo an area in a batch that is finished here, too. -EIO: a CPU that died may still translate the addresses, so nobody gets
 * them again; nor is there anything left in them that could be freed once more.
 */
static int undo_area(struct vm_area *a, struct tlb_batch *batch)
{
	bool done = unmap_area(a, batch);
	int rc;

	if (done)
		give_back(a, batch);
	rc = tlb_batch_finish(batch);
	if (!done)
		unclaim_vm_area(a);
	else if (!rc || !a->nr_pages)
		free_vm_area(a);
	return rc;
}

void *vmalloc_for(u64 size, const char *caller)
{
	struct tlb_batch batch;
	struct vm_area *a;

	if (!size) {
		log_warn("vmalloc: size 0, by %s", caller);
		return NULL;
	}
	/* Not for exactness: so that a size beyond all memory does not take all of it first. */
	if (size >> PAGE_SHIFT > buddy_free_frames())
		return NULL;
	a = get_vm_area(size, size >= 2 * MIB ? 2 * MIB : PAGE_SIZE, VM_AREA_ALLOC, caller);
	if (!a)
		return NULL;
	tlb_batch_init(&batch, &kernel_space);
	if (!fill_area(a, &batch)) {
		undo_area(a, &batch);
		return NULL;
	}
	tlb_batch_finish(&batch);
	return (void *)a->start;
}

/* Claim, unmap and free the area that begins at p. -EIO: a CPU that died may still reach what was mapped there. */
static int free_area(const void *p, enum vm_area_kind kind, const char *what)
{
	struct tlb_batch batch;
	struct vm_area *a;
	const char *why;

	if (!p)
		return 0;
	a = claim_vm_area(align_down((u64)p, PAGE_SIZE), kind, &why);
	if (!a) {
		log_warn("%s of %p: %s", what, p, why);
		return 0;
	}
	tlb_batch_init(&batch, &kernel_space);
	return undo_area(a, &batch);
}

void vfree(void *p)
{
	if ((u64)p & (PAGE_SIZE - 1)) {
		log_warn("vfree of %p: not what vmalloc() gave", p);
		return;
	}
	free_area(p, VM_AREA_ALLOC, "vfree");
}

/* ---- vmap ---- */

void *vmap_for(struct page *const *pages, u64 nr, unsigned flags, const char *caller)
{
	struct tlb_batch batch;
	struct vm_area *a;
	bool blocks;
	int rc;

	if (!nr || nr >= BIT(36) || (flags & ~VMAP_RO)) {
		log_warn("vmap: %llu pages, flags 0x%x", (unsigned long long)nr, flags);
		return NULL;
	}
	blocks = nr >= BLOCK_PAGES && pages[0] && is_aligned(page_to_pfn(pages[0]), BLOCK_PAGES);
	a = get_vm_area(nr << PAGE_SHIFT, blocks ? 2 * MIB : PAGE_SIZE, VM_AREA_MAP, caller);
	if (!a)
		return NULL;
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_pages(a->start, pages, nr, flags & VMAP_RO ? RO_ATTRS : RW_ATTRS, PT_2M, &batch);
	tlb_batch_finish(&batch);
	if (rc) {
		free_vm_area(a);
		return NULL;
	}
	store_relaxed(&a->nr_pages, nr);
	return (void *)a->start;
}

int vunmap(void *p)
{
	return free_area(p, VM_AREA_MAP, "vunmap");
}

/* ---- ioremap ---- */

/* PAT index to entry bits, in the normal form (pte.h). */
static const u64 cache_bits[] = {
	[IOREMAP_WB] = 0,
	[IOREMAP_WT] = PTE_PWT,
	[IOREMAP_UC_MINUS] = PTE_PCD,
	[IOREMAP_UC] = PTE_PCD | PTE_PWT,
	[IOREMAP_WC] = PTE_PAT,
};

/* A CPU without the PAT has no write-combining by pages: uncached, but for what the MTRRs say, comes closest. */
static u64 ioremap_bits(unsigned type)
{
	u64 bits = cache_bits[type & ~IOREMAP_RO];

	return bits & PTE_PAT && !(arch_mm.pte_mask & PTE_PAT_LARGE) ? cache_bits[IOREMAP_UC_MINUS] : bits;
}

/* Why [pa) must not be mapped with this type, or NULL. */
static const char *ioremap_refused(u64 pa, u64 size, unsigned type)
{
	if (!size)
		return "size 0";
	if ((type & ~IOREMAP_RO) >= ARRAY_SIZE(cache_bits))
		return "no such memory type";
	if (pa + size < pa || pa + size > BIT(arch_mm.phys_bits))
		return "beyond the physical addresses of this CPU";
	if ((type & ~IOREMAP_RO) == IOREMAP_WB)
		return NULL;
	for (pfn_t pfn = pa >> PAGE_SHIFT; pfn <= (pa + size - 1) >> PAGE_SHIFT && pfn < page_max_pfn; pfn++)
		if (directmap_has(pfn))
			return "it is in the direct map, write-back";	/* SDM 3A 12.12.4: one frame, one type */
	return NULL;
}

void *ioremap_for(u64 pa, u64 size, unsigned type, const char *caller)
{
	const char *why = ioremap_refused(pa, size, type);
	struct range frames = range(align_down(pa, PAGE_SIZE), align_up(pa + size, PAGE_SIZE));
	u64 attrs = type & IOREMAP_RO ? RO_ATTRS : RW_ATTRS;
	struct tlb_batch batch;
	struct vm_area *a;
	bool large;
	u64 end;
	int rc;

	if (why) {
		log_warn("ioremap of 0x%llx, 0x%llx bytes, type %u: %s", (unsigned long long)pa, (unsigned long long)size,
			 type, why);
		return NULL;
	}
	/* A large leaf must not span two types of the MTRRs. */
	arch_memory_type(phys(frames.start), &end);
	large = is_aligned(frames.start, 2 * MIB) && range_size(frames) >= 2 * MIB && end >= frames.end;
	a = get_vm_area(range_size(frames), large ? 2 * MIB : PAGE_SIZE, VM_AREA_IOREMAP, caller);
	if (!a)
		return NULL;
	a->pa = pa;
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_range(a->start, frames, attrs | ioremap_bits(type), large ? PT_2M : PT_4K, &batch);
	tlb_batch_finish(&batch);
	if (rc) {
		free_vm_area(a);
		return NULL;
	}
	store_relaxed(&a->nr_pages, range_size(frames) >> PAGE_SHIFT);
	return (void *)(a->start + (pa - frames.start));
}

void iounmap(void *p)
{
	free_area(p, VM_AREA_IOREMAP, "iounmap");
}
