/* SPDX-License-Identifier: MIT */
/*
 * Temporary mappings, by a root per CPU: see temp_map.h.
 *
 * Invariants: only its own CPU loads a root, with interrupts off from before that until the old root is back; outside of
 * that every slot is absent, in the tables and in this CPU's TLB. An interrupt that cannot be masked uses a slot of
 * its own level and leaves the root as it found it, so it may come at any point in between.
 *
 * Entries are stored past the page-table core: the spaces take part in no flush, their tables are never collapsed, and at
 * rest they are as they were made, which is what pt_check() sees.
 */
#include "mm/temp_map.h"

#include "kernel/base/errno.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/plant.h"
#include "mm/pt_audit.h"

/* What a CPU has for it: one frame. */
struct temp_root {
	struct pt_space space;
	u64 cpu_gen[MAX_CPUS];		/* the space takes part in no flush: never used, but a space has it */
	pte_t *slots;			/* entry of TEMP_MAP_BASE */
	struct temp_map_stats stats;	/* without local_flushes */
	bool busy[TEMP_MAP_LEVELS];
	char name[8];			/* "temp255" */
};

_Static_assert(sizeof(struct temp_root) <= PAGE_SIZE, "one frame each");

static struct temp_root *roots[MAX_CPUS];

/* ---- Boot ---- */

static void name_root(char *name, u32 cpu)
{
	memcpy(name, "temp", 4);
	name += 4;
	if (cpu >= 100)
		*name++ = (char)('0' + cpu / 100);
	if (cpu >= 10)
		*name++ = (char)('0' + cpu / 10 % 10);
	*name++ = (char)('0' + cpu % 10);
	*name = 0;
}

static int root_make(u32 cpu)
{
	struct page *page = alloc_page(ALLOC_ZERO);
	struct temp_root *r;
	int rc;

	if (!page)
		return -ENOMEM;
	r = page_to_virt(page);
	name_root(r->name, cpu);
	rc = pt_space_init(&r->space, r->name, 0, phys(0), r->cpu_gen);
	if (rc)
		goto out_page;
	rc = pt_fill_tables(&r->space, TEMP_MAP_SLOTS, PT_4K);
	if (!rc)
		rc = pt_audit_window_add(&r->space, TEMP_MAP_SLOTS);
	if (rc)
		goto out_space;
	r->slots = pt_walk(&r->space, TEMP_MAP_BASE, PT_4K).pte;
	roots[cpu] = r;
	return 0;

out_space:
	pt_space_destroy(&r->space);
out_page:
	free_page(page);
	return rc;
}

int temp_map_init(u32 nr)
{
	int rc = 0;

	if (!nr || nr > MAX_CPUS)
		return -EINVAL;
	if (roots[0])
		return -EBUSY;
	for (u32 cpu = 0; cpu < nr && !rc; cpu++)
		rc = root_make(cpu);
	if (rc)
		temp_map_reset();
	return rc;
}

int temp_map_add_cpu(u32 cpu)
{
	if (cpu >= MAX_CPUS)
		return -EINVAL;
	return roots[cpu] ? -EBUSY : root_make(cpu);
}

void temp_map_remove_cpu(u32 cpu)
{
	struct temp_root *r = roots[cpu];

	if (!r)
		return;
	roots[cpu] = NULL;
	pt_audit_window_remove(&r->space, TEMP_MAP_SLOTS);
	pt_space_destroy(&r->space);
	free_page(virt_to_page(r));
}

void temp_map_reset(void)
{
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		temp_map_remove_cpu(cpu);
}

struct pt_space *temp_map_space(u32 cpu)
{
	return cpu < MAX_CPUS && roots[cpu] ? &roots[cpu]->space : NULL;
}

/* ---- One mapping ---- */

static inline pte_t *slot_of(const struct temp_root *r, unsigned level)
{
	return r->slots + level * (TEMP_MAP_STRIDE / PAGE_SIZE);
}

void temp_map_begin(struct temp_map *t, const pfn_t *pfns, unsigned nr, bool writable)
{
	u64 attrs = (PTE_P | PTE_A | PTE_D | PTE_NX | (writable ? PTE_W : 0)) & arch_mm.pte_mask;
	u64 flags = arch_irq_save();
	struct cpu_state *cpu = arch_this_cpu();
	struct temp_root *r = roots[cpu->id];
	unsigned level = cpu->nesting;
	pte_t *slot;

	assert(r && nr - 1 < TEMP_MAP_PAGES && !r->busy[level]);
	r->busy[level] = true;
	t->root = r;
	t->irq_flags = flags;
	t->level = (u8)level;
	t->nr = (u8)nr;
	t->va = TEMP_MAP_BASE + level * TEMP_MAP_STRIDE;
	/* An interrupt of a higher level may find this root loaded already: then it stays loaded. */
	t->old_root = arch_current_root();
	if (likely(t->old_root.raw != r->space.root.raw))
		arch_switch_root(r->space.root);
	slot = slot_of(r, level);
	arch_pte_store(slot, pte_leaf(phys(pfns[0] << PAGE_SHIFT), attrs, PT_4K), PT_4K);
	if (unlikely(nr > 1))
		arch_pte_store(slot + 1, pte_leaf(phys(pfns[1] << PAGE_SHIFT), attrs, PT_4K), PT_4K);
	r->stats.mappings++;
	r->stats.pages += nr;
}

/* Loading the old root would forget it today. With PCIDs it would not, and where this root stays loaded it does not. */
static inline void close_page(pte_t *slot, u64 va)
{
	if (!PLANTED(PLANT_TEMP_LEFT_MAPPED))
		arch_pte_store(slot, (pte_t){ 0 }, PT_4K);
	if (!PLANTED(PLANT_TEMP_NO_FLUSH))
		arch_tlb_flush_page(va);
}

void temp_map_end(struct temp_map *t)
{
	struct temp_root *r = t->root;
	pte_t *slot = slot_of(r, t->level);

	close_page(slot, t->va);
	if (unlikely(t->nr > 1))
		close_page(slot + 1, t->va + PAGE_SIZE);
	if (likely(t->old_root.raw != r->space.root.raw))
		arch_switch_root(t->old_root);
	r->busy[t->level] = false;
	arch_irq_restore(t->irq_flags);
}

/* Bytes from offset on that lie in one page, at most len. */
static inline u64 within_page(u64 offset, u64 len)
{
	return MIN(len, PAGE_SIZE - (offset & (PAGE_SIZE - 1)));
}

void temp_map_copy_in(const struct temp_map *t, u64 offset, const void *src, u64 len)
{
	const u8 *from = src;

	assert(offset + len <= t->nr * PAGE_SIZE);
	for (u64 n; len; len -= n, offset += n, from += n) {
		n = within_page(offset, len);
		memcpy(temp_map_ptr(t, offset, true), from, n);
	}
}

void temp_map_copy_out(const struct temp_map *t, u64 offset, void *dst, u64 len)
{
	u8 *to = dst;

	assert(offset + len <= t->nr * PAGE_SIZE);
	for (u64 n; len; len -= n, offset += n, to += n) {
		n = within_page(offset, len);
		memcpy(to, temp_map_ptr(t, offset, false), n);
	}
}

/* ---- Whole frames ---- */

void temp_zero(pfn_t pfn, u64 nr)
{
	for (pfn_t end = pfn + nr; pfn < end; pfn++) {
		struct temp_map t;

		temp_map_begin(&t, &pfn, 1, true);
		arch_zero_page(temp_map_ptr(&t, 0, true));
		temp_map_end(&t);
	}
}

void temp_fill(pfn_t pfn, u64 nr, u8 byte)
{
	for (pfn_t end = pfn + nr; pfn < end; pfn++) {
		struct temp_map t;

		temp_map_begin(&t, &pfn, 1, true);
		memset(temp_map_ptr(&t, 0, true), byte, PAGE_SIZE);
		temp_map_end(&t);
	}
}

void temp_write(pfn_t pfn, u64 offset, const void *src, u64 len)
{
	const u8 *from = src;

	for (u64 n; len; len -= n, offset += n, from += n) {
		pfn_t at = pfn + (offset >> PAGE_SHIFT);
		struct temp_map t;

		n = within_page(offset, len);
		temp_map_begin(&t, &at, 1, true);
		temp_map_copy_in(&t, offset & (PAGE_SIZE - 1), from, n);
		temp_map_end(&t);
	}
}

void temp_read(pfn_t pfn, u64 offset, void *dst, u64 len)
{
	u8 *to = dst;

	for (u64 n; len; len -= n, offset += n, to += n) {
		pfn_t at = pfn + (offset >> PAGE_SHIFT);
		struct temp_map t;

		n = within_page(offset, len);
		temp_map_begin(&t, &at, 1, false);
		temp_map_copy_out(&t, offset & (PAGE_SIZE - 1), to, n);
		temp_map_end(&t);
	}
}

/* Pages that are mapped now. Each is flushed once, when it is closed. */
static u64 open_pages(const struct temp_root *r)
{
	u64 n = 0;

	for (unsigned level = 0; level < TEMP_MAP_LEVELS; level++)
		for (unsigned i = 0; i < TEMP_MAP_PAGES; i++)
			n += load_relaxed(&slot_of(r, level)[i].raw) != 0;
	return n;
}

void temp_map_read_stats(struct temp_map_stats *out)
{
	*out = (struct temp_map_stats){ 0 };
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (roots[cpu]) {
			out->mappings += load_relaxed(&roots[cpu]->stats.mappings);
			out->pages += load_relaxed(&roots[cpu]->stats.pages);
			out->local_flushes += load_relaxed(&roots[cpu]->stats.pages) - open_pages(roots[cpu]);
		}
}
