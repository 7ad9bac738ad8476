/* SPDX-License-Identifier: MIT */
/*
 * Mapping frames at kernel addresses outside the direct map. See kernel_map.h.
 *
 * Each call is one run of the protocol (pgtable.h): every frame is checked and every table counted under the lock
 * before the first store, so that a refusal leaves no trace.
 */
#include "mm/kernel_map.h"

#include "kernel/base/errno.h"
#include "mm/alias.h"

struct map {
	u64 va;
	u64 nr;				/* pages */
	struct page *const *pages;	/* or NULL: */
	pfn_t pfn;			/* consecutive frames from here on */
	u64 attrs;
	u8 max_leaf;
};

/* Pages of consecutive frames from the i-th on. */
static u64 run_length(const struct map *m, u64 i)
{
	u64 n = 1;

	if (!m->pages)
		return m->nr - i;
	while (i + n < m->nr && m->pages[i + n] == m->pages[i] + n)
		n++;
	return n;
}

static pfn_t frame_at(const struct map *m, u64 i)
{
	return m->pages ? page_to_pfn(m->pages[i]) : m->pfn + i;
}

static struct pt_change run_change(const struct map *m, u64 i, u64 n)
{
	return (struct pt_change){
		.op = PT_OP_MAP,
		.va = range_len(m->va + (i << PAGE_SHIFT), n << PAGE_SHIFT),
		.pa = phys(frame_at(m, i) << PAGE_SHIFT),
		.set = m->attrs,
		.max_leaf = m->max_leaf,
	};
}

/* A page table's struct page has its breaks where aliases are counted; nobody else may map one. */
static bool has_table(pfn_t pfn, u64 nr)
{
	for (u64 i = 0; i < nr; i++)
		if (pfn_valid(pfn + i) && page_class(pfn_to_page(pfn + i)) == PAGE_TABLE)
			return true;
	return false;
}

/* MAP would take an equal leaf for done, but that one has been counted already. */
static int check_absent(u64 va, u64 end)
{
	while (va < end) {
		struct pt_slot s = pt_walk(&kernel_space, va, PT_4K);

		if (!pte_none(s.value))
			return -EBUSY;
		va = pt_next(va, s.level);
	}
	return 0;
}

static int map_plan(void *arg, struct pt_plan *plan)
{
	const struct map *m = arg;
	int rc = check_absent(m->va, m->va + (m->nr << PAGE_SHIFT));

	for (u64 i = 0, n; !rc && i < m->nr; i += n) {
		struct pt_change c;

		n = run_length(m, i);
		c = run_change(m, i, n);
		if (has_table(frame_at(m, i), n))
			return -EPERM;
		rc = alias_allows(frame_at(m, i), n, m->attrs, 0, false);
		if (!rc)
			rc = pt_plan(&kernel_space, &c, plan);
	}
	return rc;
}

static void map_apply(void *arg, struct pt_pool *pool, struct tlb_batch *batch)
{
	const struct map *m = arg;

	for (u64 i = 0, n; i < m->nr; i += n) {
		struct pt_change c;

		n = run_length(m, i);
		c = run_change(m, i, n);
		alias_count(frame_at(m, i), n, alias_writable(m->attrs), alias_executable(m->attrs));
		pt_apply(&kernel_space, &c, pool, batch);
	}
}

static bool map_ok(const struct map *m)
{
	struct range va = range_len(m->va, m->nr << PAGE_SHIFT);

	return m->nr && m->nr < BIT(40) && is_aligned(m->va, PAGE_SIZE) && va.end > va.start &&
	       va.start >= 1ull << 63 && va.end <= -PAGE_SIZE && !range_overlaps(va, kernel_space.direct) &&
	       (m->attrs & PTE_P) && m->max_leaf >= PT_4K && m->max_leaf <= PT_1G;
}

static int map_run(struct map *m, struct tlb_batch *batch)
{
	static const struct pt_protocol protocol = { map_plan, map_apply };

	if (!map_ok(m))
		return -EINVAL;
	/* Asked for in 4K: a table of it that is full and uniform is what the caller wants, not a leaf in the making. */
	if (m->max_leaf == PT_4K)
		m->attrs |= PTE_KEEP;
	m->attrs &= arch_mm.pte_mask;
	return pt_run(&kernel_space, &protocol, m, batch);
}

int kernel_map_pages(u64 va, struct page *const *pages, u64 nr, u64 attrs, unsigned max_leaf, struct tlb_batch *batch)
{
	struct map m = { .va = va, .nr = nr, .pages = pages, .attrs = attrs, .max_leaf = (u8)max_leaf };

	for (u64 i = 0; i < nr; i++)
		if (!pages[i])
			return -EINVAL;
	return map_run(&m, batch);
}

int kernel_map_range(u64 va, struct range pa, u64 attrs, unsigned max_leaf, struct tlb_batch *batch)
{
	struct map m = { .va = va, .attrs = attrs, .max_leaf = (u8)max_leaf };

	if (range_empty(pa) || !is_aligned(pa.start | pa.end, PAGE_SIZE) || pa.end > BIT(arch_mm.phys_bits))
		return -EINVAL;
	m.pfn = pa.start >> PAGE_SHIFT;
	m.nr = range_size(pa) >> PAGE_SHIFT;
	return map_run(&m, batch);
}

/* ---- Unmapping ---- */

static int unmap_plan(void *arg, struct pt_plan *plan)
{
	return pt_plan(&kernel_space, arg, plan);
}

static void unmap_apply(void *arg, struct pt_pool *pool, struct tlb_batch *batch)
{
	const struct pt_change *c = arg;

	for (u64 va = c->va.start; va < c->va.end;) {
		struct pt_slot s = pt_walk(&kernel_space, va, PT_4K);
		u64 base = align_down(va, pt_span(s.level));
		u64 end = MIN(pt_next(va, s.level), c->va.end);

		if (pte_is_leaf(s.value, s.level)) {
			u64 attrs = pte_attrs(s.value, s.level);
			u64 pa = pte_leaf_pa(s.value, s.level).raw + (va - base);

			alias_count(pa >> PAGE_SHIFT, (end - va) >> PAGE_SHIFT, -alias_writable(attrs),
				    -alias_executable(attrs));
		}
		va = end;
	}
	pt_apply(&kernel_space, c, pool, batch);
}

int kernel_unmap(struct range va, struct tlb_batch *batch)
{
	static const struct pt_protocol protocol = { unmap_plan, unmap_apply };
	struct pt_change c = { .op = PT_OP_UNMAP, .va = va };

	if (range_empty(va) || !is_aligned(va.start | va.end, PAGE_SIZE) || va.start < 1ull << 63 ||
	    va.end > -PAGE_SIZE || range_overlaps(va, kernel_space.direct))
		return -EINVAL;
	return pt_run(&kernel_space, &protocol, &c, batch);
}
