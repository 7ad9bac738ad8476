/* SPDX-License-Identifier: MIT */
/* Rights by virtual address, and what W^X refuses (SPEC PT2, PT3, PT5). */
#include "mm/set_memory.h"

#include "boot/boot_info.h"
#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define PAGES 16u

/* Frames of a class of their own, mapped at `a` with some rights, and at `b` with none. */
struct scene {
	struct fixture_area a, b;
	struct page *page;
	pfn_t pfn;
	struct page *pages[PAGES];
};

static u64 attrs_of(bool w, bool x)
{
	u64 attrs = (fixture_attrs() & ~(PTE_W | PTE_NX)) | (w ? PTE_W : 0);

	return (attrs | (x ? 0 : PTE_NX)) & arch_mm.pte_mask;
}

static int map_at(struct scene *s, struct fixture_area *at, u64 first, u64 nr, u64 attrs)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = kernel_map_pages(at->va + first * PAGE_SIZE, s->pages + first, nr, attrs, PT_4K, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

static bool scene_get(struct scene *s, enum page_class class, u64 attrs)
{
	*s = (struct scene){ 0 };
	s->page = alloc_pages(4, 0);
	if (!CHECK(s->page != NULL))
		return false;
	s->pfn = page_to_pfn(s->page);
	page_set_class(s->pfn, PAGES, class);
	for (unsigned i = 0; i < PAGES; i++)
		s->pages[i] = s->page + i;
	if (!fixture_area_get(&s->a, PAGES * PAGE_SIZE, PAGE_SIZE) ||
	    !fixture_area_get(&s->b, PAGES * PAGE_SIZE, PAGE_SIZE))
		return false;
	return !attrs || CHECK_EQ(map_at(s, &s->a, 0, PAGES, attrs), 0);
}

static void scene_put(struct scene *s)
{
	fixture_area_put(&s->a);
	fixture_area_put(&s->b);
	if (!s->page)
		return;
	CHECK_EQ(set_direct_map_default(s->pfn, PAGES), 0);
	page_set_class(s->pfn, PAGES, PAGE_KERNEL);
	free_pages(s->page, 4);
}

static u64 attrs_at(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	return pte_is_leaf(s.value, s.level) ? pte_attrs(s.value, s.level) & ~PTE_KEEP : 0;
}

static u64 direct_attrs(const struct scene *s, unsigned i)
{
	return attrs_at(phys_to_va(phys((s->pfn + i) << PAGE_SHIFT)));
}

static bool have_nx(void)
{
	return arch_mm.pte_mask & PTE_NX;
}

/* ---- What each call does ---- */

/* ro and rw of an alias change that alias and W of the direct map, and nothing else. */
TEST_ID(set_memory, ro_and_rw_reach_the_direct_map, "PT2")
{
	const u64 direct = DIRECT_ATTRS & arch_mm.pte_mask;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		CHECK_EQ(set_memory_ro(s.a.va + 3 * PAGE_SIZE, 4), 0);
		for (unsigned i = 0; i < PAGES; i++) {
			bool in = i >= 3 && i < 7;

			CHECK_EQ(attrs_at(s.a.va + i * PAGE_SIZE), attrs_of(!in, false));
			CHECK_EQ(direct_attrs(&s, i), in ? direct & ~PTE_W : direct);
		}
		CHECK_EQ(set_memory_rw(s.a.va + 4 * PAGE_SIZE, 2), 0);
		for (unsigned i = 0; i < PAGES; i++) {
			bool in = i == 3 || i == 6;

			CHECK_EQ(attrs_at(s.a.va + i * PAGE_SIZE), attrs_of(!in, false));
			CHECK_EQ(direct_attrs(&s, i), in ? direct & ~PTE_W : direct);
		}
	}
	scene_put(&s);
}

/* rox makes executable what is writable now; x and nx leave W alone; the direct map is never executable. */
TEST_ID(set_memory, rox_x_and_nx, "PT2 PT5")
{
	const u64 sealed = DIRECT_ATTRS & arch_mm.pte_mask & ~PTE_W;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s, PAGE_EXECMEM, attrs_of(true, false))) {
		CHECK_EQ(set_memory_rox(s.a.va, 8), 0);
		CHECK_EQ(attrs_at(s.a.va), attrs_of(false, true));
		CHECK_EQ(direct_attrs(&s, 0), sealed);
		CHECK_EQ(set_memory_nx(s.a.va, 8), 0);
		CHECK_EQ(attrs_at(s.a.va), attrs_of(false, false));
		CHECK_EQ(direct_attrs(&s, 0), sealed);
		CHECK_EQ(set_memory_x(s.a.va, 8), 0);
		CHECK_EQ(attrs_at(s.a.va), attrs_of(false, true));
		CHECK_EQ(direct_attrs(&s, 0), sealed);
		CHECK_EQ(attrs_at(s.a.va + 8 * PAGE_SIZE), attrs_of(true, false));
	}
	scene_put(&s);
}

/* Frames that are executable elsewhere come back into the direct map read-only. */
TEST_ID(set_memory, executable_frames_come_back_read_only, "PT2 PT5")
{
	const u64 direct = DIRECT_ATTRS & arch_mm.pte_mask;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s, PAGE_EXECMEM, attrs_of(true, false))) {
		CHECK_EQ(set_memory_rox(s.a.va, 4), 0);
		CHECK_EQ(set_direct_map_invalid(s.pfn, PAGES), 0);
		CHECK_EQ(set_direct_map_default(s.pfn, PAGES), 0);
		CHECK_EQ(direct_attrs(&s, 3), direct & ~PTE_W);
		CHECK_EQ(direct_attrs(&s, 4), direct);
	}
	scene_put(&s);
}

/* A frame that is out of the direct map is not put back by a change of another alias. */
TEST_ID(set_memory, absent_frames_stay_absent, "PT2")
{
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		CHECK_EQ(set_direct_map_invalid(s.pfn + 1, 2), 0);
		CHECK_EQ(set_memory_ro(s.a.va, 4), 0);
		CHECK_EQ(set_memory_rw(s.a.va, 4), 0);
		CHECK_EQ(direct_attrs(&s, 1), 0);
		CHECK_EQ(direct_attrs(&s, 2), 0);
		CHECK_EQ(direct_attrs(&s, 3), DIRECT_ATTRS & arch_mm.pte_mask);
	}
	scene_put(&s);
}

/* Both aliases in one batch: one flush. */
TEST_ID(set_memory, both_aliases_in_one_batch, "PT2 TL1")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct tlb_stats before, after;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		tlb_read_stats(&before);
		CHECK_EQ(set_memory_ro(s.a.va, PAGES), 0);
		tlb_read_stats(&after);
		CHECK_EQ(after.batches - before.batches, 1);
	}
	scene_put(&s);
	fixture_policy(PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	fixture_policy(policy);
}

/* In the direct map itself: only W, and only there. */
TEST_ID(set_memory, direct_map_by_address, "PT2")
{
	const u64 direct = DIRECT_ATTRS & arch_mm.pte_mask;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		u64 va = phys_to_va(page_to_phys(s.page));

		CHECK_EQ(set_memory_ro(va + PAGE_SIZE, 2), 0);
		CHECK_EQ(direct_attrs(&s, 0), direct);
		CHECK_EQ(direct_attrs(&s, 1), direct & ~PTE_W);
		CHECK_EQ(direct_attrs(&s, 2), direct & ~PTE_W);
		CHECK_EQ(direct_attrs(&s, 3), direct);
		CHECK_EQ(attrs_at(s.a.va + PAGE_SIZE), attrs_of(true, false));
		CHECK_EQ(set_memory_rw(va, PAGES), 0);
		CHECK_EQ(direct_attrs(&s, 1), direct);
	}
	scene_put(&s);
}

/* ---- Refusals ---- */

typedef int (*set_fn)(u64 va, u64 nr);

TEST_ID(set_memory, bad_arguments, "PT2")
{
	static const set_fn all[] = { set_memory_ro, set_memory_rw, set_memory_x, set_memory_nx,
				      set_memory_rox };
	const struct {
		u64 va, nr;
		int rc;
	} rows[] = {
		{ VM_AREA_BASE + 1, 1, -EINVAL },
		{ VM_AREA_BASE + 0x800, 1, -EINVAL },
		{ VM_AREA_BASE, 0, -EINVAL },
		{ 0x1000, 1, -EINVAL },
		{ 0x0000800000000000, 1, -EINVAL },
		{ 0x7ffffffffffff000, 2, -EINVAL },
		{ VM_AREA_BASE, UINT64_MAX / PAGE_SIZE, -EINVAL },
		{ VM_AREA_BASE, 1ull << 52, -EINVAL },
		{ -PAGE_SIZE, 1, -EINVAL },
		{ -2 * PAGE_SIZE, 4, -EINVAL },
		{ VM_AREA_END, 1, -EFAULT },
		{ phys_to_va(phys(page_max_pfn << PAGE_SHIFT)) - PAGE_SIZE, 1u << 20, -EFAULT },
	};
	struct fixture_picture before;

	fixture_take(&before);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(all); k++)
			if (!CHECK_EQ(all[k](rows[i].va, rows[i].nr), rows[i].rc))
				test_note("row=%u call=%u", i, k);
	fixture_same(&before);
}

TEST_ID(set_memory, a_hole_in_the_range_is_efault, "PT2")
{
	struct fixture_picture before;
	struct tlb_batch batch;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(kernel_unmap(range_len(s.a.va + 7 * PAGE_SIZE, PAGE_SIZE), &batch), 0);
		tlb_batch_finish(&batch);
		fixture_take(&before);
		CHECK_EQ(set_memory_ro(s.a.va, PAGES), -EFAULT);
		CHECK_EQ(set_memory_nx(s.a.va, PAGES), -EFAULT);
		CHECK_EQ(set_memory_ro(s.a.va + 7 * PAGE_SIZE, 1), -EFAULT);
		CHECK_EQ(set_memory_ro(s.a.va - PAGE_SIZE, 2), -EFAULT);
		fixture_same(&before);
	}
	scene_put(&s);
}

/*
 * The requests that PT5 forbids. Each row starts from frames of a class mapped at a; `rox` makes that alias
 * executable first. Then one request, that must be -EPERM and change nothing.
 */
enum request {
	REQ_A_X,
	REQ_A_RW,
	REQ_A_ROX,
	REQ_B_MAP_W,
	REQ_B_MAP_X,
	REQ_B_MAP_WX,
	REQ_B_ROX,
	REQ_DIRECT_X,
	REQ_DIRECT_ROX,
	REQ_DIRECT_RW,
};

static const struct forbidden {
	const char *name;
	enum page_class class;
	bool w;			/* the alias at a, at first */
	bool rox;		/* made executable then */
	bool b_w, b_r;		/* a second alias, at b: writable, or read-only */
	enum request request;
} forbidden[] = {
	{ "x_of_writable", PAGE_EXECMEM, true, false, false, false, REQ_A_X },
	{ "x_of_wrong_class", PAGE_KERNEL, false, false, false, false, REQ_A_X },
	{ "rox_of_wrong_class", PAGE_KERNEL, true, false, false, false, REQ_A_ROX },
	{ "x_while_direct_map_is_writable", PAGE_EXECMEM, false, false, false, false, REQ_A_X },
	{ "rw_of_executable", PAGE_EXECMEM, true, true, false, false, REQ_A_RW },
	{ "rw_of_direct_map_of_executable", PAGE_EXECMEM, true, true, false, false, REQ_DIRECT_RW },
	{ "map_writable_over_executable", PAGE_EXECMEM, true, true, false, false, REQ_B_MAP_W },
	{ "map_writable_and_executable", PAGE_EXECMEM, true, false, false, false, REQ_B_MAP_WX },
	{ "map_executable_of_writable", PAGE_EXECMEM, true, false, false, false, REQ_B_MAP_X },
	{ "map_executable_of_wrong_class", PAGE_KERNEL, false, false, false, false, REQ_B_MAP_X },
	{ "rox_while_another_alias_is_writable", PAGE_EXECMEM, true, false, true, false, REQ_A_ROX },
	{ "rox_of_read_only_while_another_is_writable", PAGE_EXECMEM, true, false, false, true, REQ_B_ROX },
	{ "direct_map_x", PAGE_EXECMEM, true, false, false, false, REQ_DIRECT_X },
	{ "direct_map_rox", PAGE_EXECMEM, true, false, false, false, REQ_DIRECT_ROX },
};

static unsigned count_forbidden(void)
{
	return ARRAY_SIZE(forbidden);
}

static void name_forbidden(unsigned row, char *buf, size_t size)
{
	size_t n = 0;

	for (const char *c = forbidden[row].name; *c && n + 1 < size; c++)
		buf[n++] = *c;
	buf[n] = '\0';
}

static int do_request(struct scene *s, enum request request)
{
	u64 direct = phys_to_va(page_to_phys(s->page));

	switch (request) {
	case REQ_A_X:
		return set_memory_x(s->a.va, PAGES);
	case REQ_A_RW:
		return set_memory_rw(s->a.va, PAGES);
	case REQ_A_ROX:
		return set_memory_rox(s->a.va, PAGES);
	case REQ_B_MAP_W:
		return map_at(s, &s->b, 0, PAGES, attrs_of(true, false));
	case REQ_B_MAP_X:
		return map_at(s, &s->b, 0, PAGES, attrs_of(false, true));
	case REQ_B_MAP_WX:
		return map_at(s, &s->b, 0, PAGES, attrs_of(true, true));
	case REQ_B_ROX:
		return set_memory_rox(s->b.va, PAGES);
	case REQ_DIRECT_X:
		return set_memory_x(direct, PAGES);
	case REQ_DIRECT_ROX:
		return set_memory_rox(direct, PAGES);
	case REQ_DIRECT_RW:
		return set_memory_rw(direct, PAGES);
	}
	return 0;
}

TEST_ROWS(w_xor_x, is_refused, "PT5", 0, count_forbidden, name_forbidden)
{
	const struct forbidden *f = &forbidden[test_row()];
	struct fixture_picture before;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s, f->class, attrs_of(f->w, false))) {
		if (f->rox)
			CHECK_EQ(set_memory_rox(s.a.va, PAGES), 0);
		if (f->b_w || f->b_r)
			CHECK_EQ(map_at(&s, &s.b, 0, PAGES, attrs_of(f->b_w, false)), 0);
		fixture_take(&before);
		CHECK_EQ(do_request(&s, f->request), -EPERM);
		fixture_same(&before);
	}
	scene_put(&s);
}

/* Only the last page of the range is the trouble: the others stay as they were. */
TEST_ID(set_memory, one_bad_page_refuses_the_range, "PT5")
{
	struct fixture_picture before;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s, PAGE_EXECMEM, attrs_of(true, false))) {
		CHECK_EQ(map_at(&s, &s.b, PAGES - 1, 1, attrs_of(true, false)), 0);
		fixture_take(&before);
		CHECK_EQ(set_memory_rox(s.a.va, PAGES), -EPERM);
		fixture_same(&before);
		CHECK_EQ(set_memory_rox(s.a.va, PAGES - 1), 0);
	}
	scene_put(&s);
}

/* A frame twice in one range, once writable: refused, as SPEC asks for all aliases. */
TEST_ID(set_memory, the_same_frame_twice, "PT5")
{
	struct fixture_picture before;
	struct scene s;

	if (!have_nx())
		SKIP("no NX");
	if (scene_get(&s, PAGE_EXECMEM, 0)) {
		s.pages[1] = s.pages[0];
		CHECK_EQ(map_at(&s, &s.a, 0, 1, attrs_of(true, false)), 0);
		CHECK_EQ(map_at(&s, &s.a, 1, 1, attrs_of(false, false)), 0);
		fixture_take(&before);
		CHECK_EQ(set_memory_rox(s.a.va, 2), -EPERM);
		fixture_same(&before);
	}
	scene_put(&s);
}

/* ---- Mapping ---- */

TEST_ID(kernel_map, is_all_or_nothing, "PT2 PT5")
{
	struct fixture_picture before;
	struct tlb_batch batch;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, 0)) {
		CHECK_EQ(map_at(&s, &s.a, PAGES - 1, 1, attrs_of(true, false)), 0);
		fixture_take(&before);
		CHECK_EQ(map_at(&s, &s.a, 0, PAGES, attrs_of(true, false)), -EBUSY);
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(kernel_map_pages(s.a.va + 1, s.pages, 1, attrs_of(true, false), PT_4K, &batch),
			 -EINVAL);
		CHECK_EQ(kernel_map_pages(s.a.va, s.pages, 0, attrs_of(true, false), PT_4K, &batch), -EINVAL);
		CHECK_EQ(kernel_map_pages(s.a.va, s.pages, 1, attrs_of(true, false) & ~PTE_P, PT_4K, &batch),
			 -EINVAL);
		CHECK_EQ(kernel_map_pages(0x1000, s.pages, 1, attrs_of(true, false), PT_4K, &batch), -EINVAL);
		CHECK_EQ(kernel_map_pages(arch_mm.direct_base, s.pages, 1, attrs_of(true, false), PT_4K,
					  &batch),
			 -EINVAL);
		CHECK_EQ(kernel_map_range(s.a.va, range(1, PAGE_SIZE), attrs_of(true, false), PT_4K, &batch),
			 -EINVAL);
		CHECK_EQ(kernel_map_range(s.a.va, range_len(BIT(arch_mm.phys_bits), PAGE_SIZE),
					  attrs_of(true, false), PT_4K, &batch),
			 -EINVAL);
		CHECK_EQ(kernel_unmap(range_len(arch_mm.direct_base, PAGE_SIZE), &batch), -EINVAL);
		CHECK_EQ(kernel_unmap(range(s.a.va, s.a.va), &batch), -EINVAL);
		CHECK_EQ(kernel_unmap(range(0x1000, 0x2000), &batch), -EINVAL);
		/* A page table among the frames. */
		s.pages[1] = phys_to_page(kernel_space.root);
		CHECK_EQ(kernel_map_pages(s.a.va, s.pages, 2, attrs_of(false, false), PT_4K, &batch), -EPERM);
		tlb_batch_finish(&batch);
		fixture_same(&before);
	}
	scene_put(&s);
}

/* ---- Waiting ---- */

/* A call that finds the right already set must not return before it is set in every TLB. */
TEST_ID(set_memory, nothing_to_do_still_waits, "PT2 TL1")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct tlb_batch open;
	struct scene s;

	if (scene_get(&s, PAGE_KERNEL, attrs_of(true, false))) {
		u64 gen;

		tlb_batch_init(&open, &kernel_space);
		CHECK_EQ(set_memory_batch(s.a.va, 4, MEMORY_RO, &open), 0);
		gen = kernel_space.gen;
		CHECK(!tlb_flushed(&kernel_space, gen));
		CHECK_EQ(set_memory_ro(s.a.va + PAGE_SIZE, 1), 0);
		CHECK_EQ(kernel_space.gen, gen);
		CHECK(tlb_flushed(&kernel_space, gen));
		tlb_batch_finish(&open);
	}
	scene_put(&s);
	fixture_policy(PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	fixture_policy(policy);
}

/* The same for a frame that is out already. */
TEST_ID(set_memory, nothing_to_take_out_still_waits, "PT2 TL1")
{
	struct page *page = alloc_page(0);
	struct tlb_batch open;
	u64 gen;

	REQUIRE(page != NULL);
	tlb_batch_init(&open, &kernel_space);
	CHECK_EQ(set_direct_map_batch(page_to_pfn(page), 1, false, &open), 0);
	gen = kernel_space.gen;
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(page), 1), 0);
	CHECK(tlb_flushed(&kernel_space, gen));
	tlb_batch_finish(&open);
	CHECK_EQ(set_direct_map_default(page_to_pfn(page), 1), 0);
	free_page(page);
}

/* ---- Break-before-make ---- */

TEST_ID(bbm, split_and_collapse, "PT3")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	int bbm = pt_bbm;
	struct fixture_area a;

	if (fixture_area_get(&a, 2 * MIB, 2 * MIB)) {
		pte_t was;

		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		was = fixture_leaf(a.va).value;
		pt_bbm = 1;
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va + PAGE_SIZE, PAGE_SIZE), 0, 0, PTE_W), 0);
		CHECK_EQ(fixture_leaf(a.va).level, PT_4K);
		CHECK_EQ(attrs_at(a.va), fixture_attrs());
		CHECK_EQ(attrs_at(a.va + PAGE_SIZE), fixture_attrs() & ~PTE_W);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va + PAGE_SIZE, PAGE_SIZE), 0, PTE_W, 0), 0);
		CHECK_EQ(fixture_leaf(a.va).value.raw, was.raw);
		pt_bbm = bbm;
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/*
 * What the split itself runs on cannot be absent for a moment: the kernel's text, and the table that is
 * changed.
 */
TEST_ID(bbm, what_it_runs_on_is_busy, "PT3")
{
	struct fixture_picture before;
	struct pt_slot s = fixture_leaf(KERNEL_BASE);
	int bbm = pt_bbm;
	u64 table;

	REQUIRE(pte_is_leaf(s.value, s.level) && s.level == PT_2M);
	/* The direct-map leaf over the table in which that leaf itself stands. */
	table = 0;
	for (u64 va = kernel_space.direct.start; va < kernel_space.direct.end; va = pt_next(va, s.level)) {
		s = fixture_leaf(va);
		if (pte_is_leaf(s.value, s.level) && s.level > PT_4K &&
		    range_has(range_len(va, pt_span(s.level)), phys_to_va(virt_to_phys(s.pte))))
			table = va;
	}
	fixture_take(&before);
	pt_bbm = 1;
	CHECK_EQ(fixture_split(range_len(KERNEL_BASE, 2 * MIB), PT_4K), -EBUSY);
	if (arch_mm.pte_mask & PTE_NX)		/* else there is nothing to change */
		CHECK_EQ(set_memory_nx(KERNEL_BASE + PAGE_SIZE, 1), -EBUSY);
	if (table)
		CHECK_EQ(fixture_split(range_len(table, PAGE_SIZE), PT_4K), -EBUSY);
	pt_bbm = bbm;
	fixture_same(&before);
}
