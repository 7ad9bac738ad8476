/* SPDX-License-Identifier: MIT */
/*
 * Mappings in kernel virtual areas. See vmalloc.h.
 *
 * Each of the three kinds is: take an area, map (kernel_map.h), or undo in reverse order. Frames of vmalloc() go back through the batch
 * that unmaps them, so nobody gets them before the last CPU has forgotten where they were.
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

/* ---- Frames of an area ---- */

/* log2 of the frames that an array of nr pointers takes. */
static unsigned array_order(u64 nr)
{
	return log2_ceil(align_up(nr * sizeof(struct page *), PAGE_SIZE) >> PAGE_SHIFT);
}

/* Whole blocks come first, as far as page_order says so; what is left over is single frames. */
static unsigned order_at(const struct vm_area *a, u64 i)
{
	return a->page_order == ORDER_2M && i < align_down(a->size >> PAGE_SHIFT, BLOCK_PAGES) ? ORDER_2M : 0;
}

/* Free the first nr pages' frames, which were never mapped. */
static void free_frames(const struct vm_area *a, u64 nr)
{
	for (u64 i = 0; i < nr; i += BIT(order_at(a, i)))
		free_pages(a->pages[i], order_at(a, i));
}

static bool get_frames(struct vm_area *a)
{
	u64 nr = a->size >> PAGE_SHIFT;

	for (u64 i = 0; i < nr;) {
		unsigned order = order_at(a, i);
		struct page *page = alloc_pages(order, ALLOC_ZERO);

		if (!page) {
			free_frames(a, i);
			return false;
		}
		for (u64 k = 0; k < BIT(order); k++)
			a->pages[i++] = page + k;
	}
	return true;
}

/* ---- vmalloc ---- */

static bool fill_area(struct vm_area *a)
{
	u64 nr = a->size >> PAGE_SHIFT;
	struct tlb_batch batch;
	struct page *array;
	int rc;

	if (array_order(nr) > ORDER_MAX)
		return false;
	array = alloc_pages(array_order(nr), 0);
	if (!array)
		return false;
	a->pages = page_to_virt(array);
	a->page_order = nr >= BLOCK_PAGES ? ORDER_2M : 0;
	if (!get_frames(a)) {
		/* No whole blocks: single frames will do. */
		if (!a->page_order)
			goto out_array;
		a->page_order = 0;
		if (!get_frames(a))
			goto out_array;
	}
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_pages(a->start, a->pages, nr, RW_ATTRS, PT_2M, &batch);
	tlb_batch_finish(&batch);
	if (!rc) {
		a->nr_pages = nr;
		return true;
	}
	free_frames(a, nr);
out_array:
	free_pages(array, array_order(nr));
	return false;
}

void *vmalloc(u64 size)
{
	struct vm_area *a;

	if (!size) {
		log_warn("vmalloc: size 0");
		return NULL;
	}
	a = get_vm_area(size, size >= 2 * MIB ? 2 * MIB : PAGE_SIZE, VM_AREA_ALLOC, __func__);
	if (!a)
		return NULL;
	if (!fill_area(a)) {
		free_vm_area(a);
		return NULL;
	}
	return (void *)a->start;
}

/* The area that begins at p and is of this kind, or NULL and a line in the log. */
static struct vm_area *area_of(const void *p, enum vm_area_kind kind, const char *what)
{
	struct vm_area *a = find_vm_area((u64)p);

	if (a && a->kind == kind && a->start == align_down((u64)p, PAGE_SIZE))
		return a;
	log_warn("%s of %p: %s", what, p, !a ? "no such area" : a->kind != kind ? "an area of another kind" :
		 "not the beginning of the area");
	return NULL;
}

static bool unmap_area(struct vm_area *a, struct tlb_batch *batch)
{
	int rc = kernel_unmap(range_len(a->start, a->size), batch);

	if (rc)
		log_warn("area at 0x%llx cannot be unmapped (%d): kept", (unsigned long long)a->start, rc);
	return !rc;
}

/*
 * Whatever rights the frames had while they were ours, the direct map has them as it should before they are anyone's. A
 * frame that cannot be put back is kept: that is a leak with a name, not a fault in whoever gets it.
 */
static void give_back(struct vm_area *a, struct tlb_batch *batch)
{
	for (u64 i = 0; i < a->nr_pages; i += BIT(order_at(a, i))) {
		unsigned order = order_at(a, i);
		int rc = set_direct_map_batch(page_to_pfn(a->pages[i]), BIT(order), true, batch);

		if (rc)
			log_warn("vfree: frame 0x%llx cannot go back to the direct map (%d): kept",
				 (unsigned long long)page_to_pfn(a->pages[i]), rc);
		else
			tlb_batch_free(batch, a->pages[i], order);
	}
}

void vfree(void *p)
{
	struct tlb_batch batch;
	struct vm_area *a;

	if (!p)
		return;
	a = area_of(p, VM_AREA_ALLOC, "vfree");
	if (!a)
		return;
	tlb_batch_init(&batch, &kernel_space);
	if (unmap_area(a, &batch)) {
		give_back(a, &batch);
		tlb_batch_finish(&batch);
		free_pages(virt_to_page(a->pages), array_order(a->nr_pages));
		free_vm_area(a);
		return;
	}
	tlb_batch_finish(&batch);
}

/* ---- vmap ---- */

void *vmap(struct page *const *pages, u64 nr, unsigned flags)
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
	a = get_vm_area(nr << PAGE_SHIFT, blocks ? 2 * MIB : PAGE_SIZE, VM_AREA_MAP, __func__);
	if (!a)
		return NULL;
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_pages(a->start, pages, nr, flags & VMAP_RO ? RO_ATTRS : RW_ATTRS, PT_2M, &batch);
	tlb_batch_finish(&batch);
	if (rc) {
		free_vm_area(a);
		return NULL;
	}
	a->nr_pages = nr;
	return (void *)a->start;
}

static void unmap_and_free(const void *p, enum vm_area_kind kind, const char *what)
{
	struct tlb_batch batch;
	struct vm_area *a;
	bool done;

	if (!p)
		return;
	a = area_of(p, kind, what);
	if (!a)
		return;
	tlb_batch_init(&batch, &kernel_space);
	done = unmap_area(a, &batch);
	tlb_batch_finish(&batch);
	if (done)
		free_vm_area(a);
}

void vunmap(void *p)
{
	unmap_and_free(p, VM_AREA_MAP, "vunmap");
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

void *ioremap(u64 pa, u64 size, unsigned type)
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
	a = get_vm_area(range_size(frames), large ? 2 * MIB : PAGE_SIZE, VM_AREA_IOREMAP, __func__);
	if (!a)
		return NULL;
	a->pa = pa;
	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_range(a->start, frames, attrs | cache_bits[type & ~IOREMAP_RO], large ? PT_2M : PT_4K, &batch);
	tlb_batch_finish(&batch);
	if (rc) {
		free_vm_area(a);
		return NULL;
	}
	a->nr_pages = range_size(frames) >> PAGE_SHIFT;
	return (void *)(a->start + (pa - frames.start));
}

void iounmap(void *p)
{
	unmap_and_free(p, VM_AREA_IOREMAP, "iounmap");
}
