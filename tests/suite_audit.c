/* SPDX-License-Identifier: MIT */
/*
 * The audit (SPEC PT5): clean as it is, and it finds what is planted. A violation is planted by writing the
 * entry of a mapping that was made properly, behind the back of all the code that would refuse it, and taken
 * back at once.
 */
#include "mm/pt_audit.h"

#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/set_memory.h"
#include "tests/fixture.h"
#include "tests/test.h"

/* Put a value into the entry that maps va, and flush. Returns what stood there. */
static pte_t plant(u64 va, pte_t value)
{
	struct tlb_batch batch;
	struct pt_slot s;

	tlb_batch_init(&batch, &kernel_space);
	spin_lock(&kernel_space.lock);
	s = pt_walk(&kernel_space, va, PT_4K);
	arch_pte_store(s.pte, value, s.level);
	tlb_batch_add(&batch, range_len(align_down(va, pt_span(s.level)), pt_span(s.level)), pt_shift(s.level));
	spin_unlock(&kernel_space.lock);
	tlb_batch_finish(&batch);
	return s.value;
}

static pte_t wx(pte_t leaf)
{
	return (pte_t){ (leaf.raw | PTE_W) & ~PTE_NX };
}

static bool have_nx(void)
{
	return arch_mm.pte_mask & PTE_NX;
}

TEST_ID(audit, finds_nothing_as_it_is, "PT5")
{
	struct pt_audit audit;

	CHECK_EQ(pt_audit(&audit), 0);
	if (have_nx())
		CHECK(audit.leaves > 0 && audit.exec_leaves > 0);
	CHECK_EQ(audit.windows, 0);
}

/* A writable and executable leaf of each size, over frames that are no RAM: their class is wrong besides. */
static void planted_wx(unsigned level)
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct fixture_area a;
	struct pt_audit audit;

	if (fixture_area_get(&a, pt_span(level), pt_span(level))) {
		pte_t was;

		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		CHECK_EQ(fixture_leaf(a.va).level, level);
		was = plant(a.va, wx(fixture_leaf(a.va).value));
		CHECK_EQ(pt_audit(&audit), 2);
		CHECK_EQ(audit.found[PT_AUDIT_WX], 1);
		CHECK_EQ(audit.found[PT_AUDIT_CLASS], 1);
		CHECK_EQ(audit.first.kind, PT_AUDIT_WX);
		CHECK_EQ(audit.first.va, a.va);
		plant(a.va, was);
		CHECK_EQ(pt_audit(&audit), 0);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

TEST_ID(audit, finds_planted_wx_4k, "PT5")
{
	if (!have_nx())
		SKIP("no NX");
	planted_wx(PT_4K);
}

TEST_ID(audit, finds_planted_wx_2m, "PT5")
{
	if (!have_nx())
		SKIP("no NX");
	planted_wx(PT_2M);
}

TEST_ID(audit, finds_planted_wx_1g, "PT5")
{
	if (!have_nx())
		SKIP("no NX");
	if (arch_mm.max_leaf < PT_1G)
		SKIP("no 1G leaves");
	planted_wx(PT_1G);
}

/* One frame of class execmem, executable at a, and read-only at b. */
struct scene {
	struct fixture_area a, b;
	struct page *page;
};

static bool scene_get(struct scene *s)
{
	const u64 ro = fixture_attrs() & ~PTE_W;
	struct tlb_batch batch;

	*s = (struct scene){ .page = alloc_page(0) };
	if (!CHECK(s->page != NULL))
		return false;
	s->page->class = PAGE_EXECMEM;
	if (!fixture_area_get(&s->a, PAGE_SIZE, PAGE_SIZE) || !fixture_area_get(&s->b, PAGE_SIZE, PAGE_SIZE))
		return false;
	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(kernel_map_pages(s->a.va, &s->page, 1, ro, PT_4K, &batch), 0);
	CHECK_EQ(kernel_map_pages(s->b.va, &s->page, 1, ro, PT_4K, &batch), 0);
	tlb_batch_finish(&batch);
	return CHECK_EQ(set_memory_rox(s->a.va, 1), 0);
}

static void scene_put(struct scene *s)
{
	fixture_area_put(&s->a);
	fixture_area_put(&s->b);
	if (!s->page)
		return;
	CHECK_EQ(set_direct_map_default(page_to_pfn(s->page), 1), 0);
	s->page->class = PAGE_KERNEL;
	free_page(s->page);
}

TEST_ID(audit, finds_planted_cross_alias, "PT5")
{
	struct pt_audit audit;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s)) {
		pte_t was;

		CHECK_EQ(pt_audit(&audit), 0);
		was = plant(s.b.va, (pte_t){ fixture_leaf(s.b.va).value.raw | PTE_W });
		pt_audit(&audit);
		CHECK_EQ(audit.found[PT_AUDIT_CROSS], 1);
		CHECK_EQ(audit.found[PT_AUDIT_COUNT], 1);	/* nobody has counted that alias either */
		CHECK_EQ(audit.found[PT_AUDIT_WX], 0);
		plant(s.b.va, was);
		CHECK_EQ(pt_audit(&audit), 0);
	}
	scene_put(&s);
}

/* The other alias is the direct map's own. */
TEST_ID(audit, finds_planted_cross_alias_in_the_direct_map, "PT5")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct pt_audit audit;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s)) {
		u64 va = phys_to_va(page_to_phys(s.page));
		pte_t was = plant(va, (pte_t){ fixture_leaf(va).value.raw | PTE_W });

		CHECK_EQ(pt_audit(&audit), 1);
		CHECK_EQ(audit.found[PT_AUDIT_CROSS], 1);
		CHECK_EQ(audit.first.va, va);
		plant(va, was);
		CHECK_EQ(pt_audit(&audit), 0);
	}
	scene_put(&s);
	fixture_policy(PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	fixture_policy(policy);
}

/* An executable frame that changed hands. */
TEST_ID(audit, finds_the_wrong_class, "PT5")
{
	struct pt_audit audit;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s)) {
		s.page->class = PAGE_KERNEL;
		CHECK_EQ(pt_audit(&audit), 1);
		CHECK_EQ(audit.found[PT_AUDIT_CLASS], 1);
		CHECK_EQ(audit.first.va, s.a.va);
		s.page->class = PAGE_EXECMEM;
	}
	scene_put(&s);
}

TEST_ID(audit, finds_wrong_counts, "PT5")
{
	struct pt_audit audit;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s)) {
		pte_t was = plant(s.a.va, (pte_t){ fixture_leaf(s.a.va).value.raw | PTE_NX });

		CHECK_EQ(pt_audit(&audit), 1);
		CHECK_EQ(audit.found[PT_AUDIT_COUNT], 1);
		plant(s.a.va, was);
	}
	scene_put(&s);
}

/* A registered window is counted apart, and only for as long as it is registered. */
TEST_ID(audit, windows_are_no_violations, "PT5")
{
	struct pt_audit audit;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s)) {
		pte_t was;

		CHECK_EQ(pt_audit_window_add(&kernel_space, range_len(s.b.va, PAGE_SIZE)), 0);
		was = plant(s.b.va, (pte_t){ fixture_leaf(s.b.va).value.raw | PTE_W });
		CHECK_EQ(pt_audit(&audit), 0);
		CHECK_EQ(audit.windows, 1);
		pt_audit_window_remove(&kernel_space, range_len(s.b.va, PAGE_SIZE));
		CHECK(pt_audit(&audit) > 0);
		CHECK_EQ(audit.windows, 0);
		plant(s.b.va, was);
		CHECK_EQ(pt_audit(&audit), 0);
	}
	scene_put(&s);
}

TEST_ID(audit, bad_windows_are_refused, "PT5")
{
	CHECK_EQ(pt_audit_window_add(NULL, range_len(0, PAGE_SIZE)), -EINVAL);
	CHECK_EQ(pt_audit_window_add(&kernel_space, range(PAGE_SIZE, PAGE_SIZE)), -EINVAL);
}
