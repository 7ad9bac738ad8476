/* SPDX-License-Identifier: MIT */
/*
 * Splits of what the kernel itself stands on: the image's leaves under running code and the IDT, and the direct map's
 * leaves over the frames of the image, the stack and the page tables (PT3: never through non-present). pt_split_range()
 * splits without changing a right; then, with nothing but 4K leaves in use, a right of a page that nobody needs is changed
 * in each block and put back; then everything is collapsed, and must be as it was.
 */
#include "arch/x86_64/insn.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "kernel/memory.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/pgtable.h"
#include "tests/machine/trial.h"
#include "tests/test.h"

/* linker.ld */
extern const char _text_start[], _text_end[], _rodata_start[], _rodata_end[], _data_start[], _image_end[];

#define LEAF_2M (2 * MIB)
#define VA(symbol) ((u64)(symbol))

/* The image's segments: [start, used) is code or data, from there to the end of the last block is nobody's. */
struct segment {
	const char *name;
	const char *start, *used;
	enum page_class class;
};

static const struct segment segments[] = {
	{ "text", _text_start, _text_end, PAGE_KERNEL_TEXT },
	{ "rodata", _rodata_start, _rodata_end, PAGE_KERNEL_RODATA },
	{ "data", _data_start, _image_end, PAGE_KERNEL_DATA },
};

static struct range segment_range(const struct segment *s)
{
	return range(VA(s->start), align_up(VA(s->used), LEAF_2M));
}

/* The last page of a segment's last block, if nothing of the segment lies in it; else 0. */
static u64 tail_page(const struct segment *s)
{
	u64 page = segment_range(s).end - PAGE_SIZE;

	return page >= VA(s->used) ? page : 0;
}

/* ---- what must come back ---- */

struct shape {
	u64 leaves[PT_PARTS][PT_1G + 1];
	u64 tables[PT_PARTS];
	u64 splits, collapses;
	enum pt_collapse_policy policy;
};

static struct shape read_shape(void)
{
	struct shape s = { .policy = kernel_space.policy };

	for (unsigned part = 0; part < PT_PARTS; part++) {
		const struct pt_stats *stats = &kernel_space.stats[part];

		s.tables[part] = stats->tables;
		for (unsigned level = PT_4K; level <= PT_1G; level++) {
			s.leaves[part][level] = stats->leaves[level];
			s.splits += stats->splits[level];
			s.collapses += stats->collapses[level];
		}
	}
	return s;
}

/* Settled, and from here on nothing is collapsed by itself. */
static struct shape shape_open(void)
{
	enum pt_collapse_policy policy = kernel_space.policy;
	struct shape s;

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	s = read_shape();
	s.policy = policy;
	pt_set_policy(&kernel_space, PT_COLLAPSE_OFF);
	return s;
}

/* Collapse all, and compare. at_least: splits that there must have been. */
static void shape_close(const struct shape *before, u64 at_least)
{
	struct shape after;

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	pt_set_policy(&kernel_space, before->policy);
	after = read_shape();
	for (unsigned part = 0; part < PT_PARTS; part++) {
		CHECK_EQ(after.tables[part], before->tables[part]);
		for (unsigned level = PT_4K; level <= PT_1G; level++)
			CHECK_EQ(after.leaves[part][level], before->leaves[part][level]);
	}
	CHECK(after.splits - before->splits >= at_least);
	CHECK_EQ(after.splits - before->splits, after.collapses - before->collapses);
}

static int split_to(struct range va, unsigned level)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = pt_split_range(&kernel_space, va, level, &batch);
	tlb_batch_finish(&batch);
	/* A split needs no flush. It is made here so that from now on the new leaves are what is used. */
	arch_tlb_flush_all();
	return rc;
}

/*
 * Break-before-make may not be used on what it runs on itself: such a split is refused, and nothing has changed (PT3).
 * Without it every split here is carried out.
 */
static bool breaks_before_making(void)
{
	return pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm != ARCH_BBM_NONE);
}

static bool carried_out(int rc)
{
	if (rc == -EBUSY && breaks_before_making())
		return false;
	return CHECK_EQ(rc, 0);
}

static unsigned level_at(u64 va)
{
	return pt_walk(&kernel_space, va, PT_4K).level;
}

static u64 direct_va_of(u64 va)
{
	struct pt_slot s = pt_walk(&kernel_space, va, PT_4K);
	u64 offset = va & (pt_span(s.level) - 1);

	return pte_present(s.value) ? (u64)phys_to_virt(phys(pte_leaf_pa(s.value, s.level).raw + offset)) : 0;
}

static bool has_nx(void)
{
	return arch_mm.pte_mask & PTE_NX;
}

/* ---- the image's own leaves ---- */

/* Nothing of the kernel works without these: each must be mapped by a 4K leaf now, and still be there. */
static void check_running_on_4k(void)
{
	struct descriptor_pointer idt, gdt;

	insn_sidt(&idt);
	insn_sgdt(&gdt);
	CHECK_EQ(level_at(VA(check_running_on_4k)), PT_4K);
	CHECK_EQ(level_at(idt.base), PT_4K);
	CHECK_EQ(level_at(gdt.base), PT_4K);
	CHECK_EQ(level_at((u64)&kernel_space), PT_4K);
	CHECK_EQ(level_at((u64)segments), PT_4K);
	/* A fault goes through the IDT, the handlers' code and their data; so does the way back. */
	CHECK_EQ(trial_write(VA(_text_start)), PF_PRESENT | PF_WRITE);
	CHECK_EQ(trial_write(VA(_rodata_start)), PF_PRESENT | PF_WRITE);
	CHECK_EQ(trial_read(VA(_rodata_start)), TRIAL_OK);
}

/* The text tail is INT3 from end to end (BT3), executable until that is taken away. */
static void toggle_text_tail(u64 page)
{
	CHECK_EQ(trial_call(page), TRIAL_OTHER(TRAP_BREAKPOINT));
	CHECK_EQ(set_memory_nx(page, 1), 0);
	if (has_nx())
		CHECK_EQ(trial_call(page), PF_PRESENT | PF_FETCH);
	CHECK_EQ(set_memory_x(page, 1), 0);
	CHECK_EQ(trial_call(page), TRIAL_OTHER(TRAP_BREAKPOINT));
	CHECK_EQ(trial_write(page), PF_PRESENT | PF_WRITE);
}

/* Constants may not be made writable: so the page is taken away and put back. */
static void toggle_rodata_tail(u64 page)
{
	phys_t pa = virt_to_phys((void *)direct_va_of(page));
	u64 attrs = (PTE_P | PTE_A | PTE_D | PTE_G | PTE_NX) & arch_mm.pte_mask;
	struct tlb_batch batch;

	CHECK_EQ(set_memory_rw(page, 1), -EPERM);
	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(kernel_unmap(range_len(page, PAGE_SIZE), &batch), 0);
	tlb_batch_finish(&batch);
	CHECK_EQ(trial_read(page), 0);
	CHECK_EQ(trial_read(page - PAGE_SIZE), TRIAL_OK);
	CHECK_EQ(kernel_map_range(page, range_len(pa.raw, PAGE_SIZE), attrs, PT_2M, &batch), 0);
	tlb_batch_finish(&batch);
	CHECK_EQ(trial_read(page), TRIAL_OK);
	CHECK_EQ(trial_write(page), PF_PRESENT | PF_WRITE);
}

static void toggle_data_tail(u64 page)
{
	CHECK_EQ(set_memory_ro(page, 1), 0);
	CHECK_EQ(trial_write(page), PF_PRESENT | PF_WRITE);
	CHECK_EQ(trial_read(page), TRIAL_OK);
	CHECK_EQ(set_memory_rw(page, 1), 0);
	CHECK_EQ(trial_write(page), TRIAL_OK);
}

static void toggle_tails(void)
{
	static void (*const toggles[])(u64 page) = { toggle_text_tail, toggle_rodata_tail, toggle_data_tail };

	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		u64 page = tail_page(&segments[i]);

		if (page)
			toggles[i](page);
		else
			test_note("segment=%s tail=none", segments[i].name);
	}
	CHECK(tail_page(&segments[0]));		/* one of them at least is there to be tried */
}

TEST_ID(image, is_mapped_by_2m_leaves, "BT3")
{
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		struct range r = segment_range(&segments[i]);

		for (u64 va = r.start; va < r.end; va += LEAF_2M) {
			CHECK_EQ(level_at(va), PT_2M);
			CHECK_EQ(virt_to_page((void *)direct_va_of(va))->class, segments[i].class);
		}
	}
}

TEST_ID(image, leaves_split_under_running_code, "PT3 PT4 BT3")
{
	struct range image = range(segment_range(&segments[0]).start, segment_range(&segments[2]).end);
	struct shape before = shape_open();

	if (breaks_before_making()) {
		CHECK_EQ(split_to(image, PT_4K), -EBUSY);
		shape_close(&before, 0);
		return;
	}
	if (CHECK_EQ(split_to(image, PT_4K), 0)) {
		check_running_on_4k();
		toggle_tails();
		check_running_on_4k();
	}
	shape_close(&before, 3);
	CHECK_EQ(level_at(VA(check_running_on_4k)), PT_2M);
}

/* Collapsed by itself, under eager, as soon as the right is put back. */
TEST_ID(image, change_in_the_text_tail_splits_and_collapses, "PT2 PT4")
{
	u64 page = tail_page(&segments[0]);
	struct shape before = shape_open();

	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	if (breaks_before_making()) {
		CHECK_EQ(set_memory_nx(page, 1), has_nx() ? -EBUSY : 0);
		shape_close(&before, 0);
		return;
	}
	if (CHECK(page)) {
		CHECK_EQ(set_memory_nx(page, 1), 0);
		CHECK_EQ(level_at(page), has_nx() ? PT_4K : PT_2M);
		CHECK_EQ(level_at(VA(_text_start)), has_nx() ? PT_4K : PT_2M);
		CHECK_EQ(set_memory_x(page, 1), 0);
		CHECK_EQ(level_at(page), PT_2M);
	}
	shape_close(&before, has_nx());
}

/* ---- the direct map over the image ---- */

/* Change W of one page, below the rules of W^X: by the mechanism alone. */
static void protect(u64 va, u64 set, u64 clear)
{
	struct pt_change change = {
		.op = PT_OP_PROTECT, .va = range_len(va, PAGE_SIZE), .set = set, .clear = clear,
	};
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(pt_change(&kernel_space, &change, &batch), 0);
	tlb_batch_finish(&batch);
}

/*
 * The direct-map alias of the text tail may not be made writable; that its leaf can be changed all the same is shown by the
 * mechanism, while the page is not executable.
 */
static void toggle_text_alias(u64 tail)
{
	u64 alias = direct_va_of(tail);

	CHECK_EQ(set_memory_rw(alias, 1), -EPERM);
	if (!carried_out(set_memory_nx(tail, 1)))
		return;
	CHECK_EQ(set_memory_rw(alias, 1), -EPERM);
	protect(alias, PTE_W, 0);
	CHECK_EQ(trial_write(alias + 8), TRIAL_OK);
	CHECK_EQ(trial_write(alias - PAGE_SIZE), PF_PRESENT | PF_WRITE);
	*(volatile u64 *)(alias + 8) = 0xcccccccccccccccc;
	protect(alias, 0, PTE_W);
	CHECK_EQ(trial_write(alias + 8), PF_PRESENT | PF_WRITE);
	CHECK_EQ(set_memory_x(tail, 1), 0);
	CHECK_EQ(trial_call(tail), TRIAL_OTHER(TRAP_BREAKPOINT));
}

TEST_ID(image, direct_map_splits_over_the_image, "PT3 PT4")
{
	u64 tail = tail_page(&segments[0]);
	struct shape before = shape_open();
	unsigned split = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		struct range r = segment_range(&segments[i]);

		for (u64 va = r.start; va < r.end; va += LEAF_2M) {
			u64 direct = direct_va_of(va);

			if (!carried_out(split_to(range_len(direct, LEAF_2M), PT_4K)))
				continue;
			split++;
			CHECK_EQ(level_at(direct), PT_4K);
			CHECK(!memcmp((void *)direct, (void *)va, PAGE_SIZE));
			if (segments[i].class != PAGE_KERNEL_DATA)
				CHECK_EQ(trial_write(direct), PF_PRESENT | PF_WRITE);
		}
	}
	if (CHECK(tail))
		toggle_text_alias(tail);
	shape_close(&before, split);
}

/* ---- the direct map over the stack and the page tables ---- */

#define TARGETS_MAX 16u

struct target {
	const char *what;
	u64 va;			/* in the direct map */
	struct page *page;	/* a page of the same block that nobody uses: ours; NULL: the block has none */
};

static unsigned add_target(struct target *t, unsigned n, const char *what, u64 va)
{
	for (unsigned i = 0; i < n; i++)
		if (t[i].va / LEAF_2M == va / LEAF_2M)
			return n;	/* the block is among them */
	if (n < TARGETS_MAX)
		t[n++] = (struct target){ what, va, NULL };
	return n;
}

/* The tables that a walk to va goes through. */
static unsigned add_tables(struct target *t, unsigned n, const char *what, u64 va)
{
	for (unsigned level = kernel_space.levels; level >= PT_4K; level--) {
		struct pt_slot s = pt_walk(&kernel_space, va, level);

		n = add_target(t, n, what, (u64)s.pte);
		if (pte_is_leaf(s.value, s.level))
			break;
	}
	return n;
}

static unsigned find_targets(struct target *t)
{
	u64 stack = (u64)__builtin_frame_address(0);
	unsigned n = 0;

	n = add_target(t, n, "stack", direct_va_of(stack));
	n = add_target(t, n, "stack", direct_va_of(stack & ~(PAGE_SIZE - 1)));
	n = add_target(t, n, "root", (u64)phys_to_virt(kernel_space.root));
	n = add_tables(t, n, "tables of the stack", stack);
	n = add_tables(t, n, "tables of the text", VA(check_running_on_4k));
	n = add_tables(t, n, "tables of the data", (u64)&kernel_space);
	n = add_tables(t, n, "tables of the direct map", direct_va_of(stack));
	return add_tables(t, n, "tables of struct page", (u64)page_array);
}

/*
 * Have one page of each target's block: allocate until there is nothing more, keep those that fit, free the others. What
 * is held is chained through struct page.
 */
static void find_pages(struct target *t, unsigned n)
{
	u32 head = PFN_NONE;
	struct page *page;

	while ((page = alloc_page(0))) {
		u64 va = (u64)page_to_virt(page);
		unsigned i = 0;

		while (i < n && (t[i].page || t[i].va / LEAF_2M != va / LEAF_2M))
			i++;
		if (i < n) {
			t[i].page = page;
		} else {
			page->next = head;
			head = (u32)page_to_pfn(page);
		}
	}
	while (head != PFN_NONE) {
		page = pfn_to_page(head);
		head = page->next;
		free_page(page);
	}
}

static bool split_target(const struct target *t)
{
	struct range block = range_len(align_down(t->va, LEAF_2M), LEAF_2M);
	u64 page;

	if (!carried_out(split_to(block, PT_4K)))
		return false;
	CHECK_EQ(level_at(t->va), PT_4K);
	CHECK_EQ(trial_write((u64)__builtin_frame_address(0) - 2048), TRIAL_OK);
	if (!t->page)
		return true;
	page = (u64)page_to_virt(t->page);
	CHECK_EQ(set_memory_ro(page, 1), 0);
	CHECK_EQ(trial_write(page), PF_PRESENT | PF_WRITE);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(t->page), 1), 0);
	CHECK_EQ(trial_read(page), 0);
	CHECK_EQ(set_direct_map_default(page_to_pfn(t->page), 1), 0);
	CHECK_EQ(trial_write(page), TRIAL_OK);
	return true;
}

TEST_ID(image, direct_map_splits_over_stack_and_tables, "PT3 PT4")
{
	struct target targets[TARGETS_MAX];
	unsigned n = find_targets(targets), pages = 0, were_large = 0, large = 0;
	struct shape before;

	find_pages(targets, n);
	before = shape_open();
	for (unsigned i = 0; i < n; i++) {
		bool was_large = level_at(targets[i].va) > PT_4K;

		were_large += was_large;
		large += split_target(&targets[i]) && was_large;
		pages += targets[i].page != NULL;
	}
	test_note("blocks=%u large=%u split=%u with_a_free_page=%u", n, were_large, large, pages);
	CHECK(large == were_large || breaks_before_making());
	CHECK(pages > 0);
	shape_close(&before, large);
	for (unsigned i = 0; i < n; i++)
		if (targets[i].page)
			free_page(targets[i].page);
	/* The firmware leaves holes in the blocks where it had its own: a driver more, and they are ragged. */
	if (!were_large)
		SKIP("stack and tables lie in blocks of 4K leaves here");
}

/* ---- 1G leaves ---- */

/* With 1G leaves in the CPU and this much memory there is a whole gigabyte somewhere. */
#define MEMORY_WITH_1G (3 * GIB)

struct find_1g {
	u64 va;		/* the first 1G leaf */
	u64 nr;
};

static bool note_1g(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct find_1g *f = arg;

	(void)leaf;
	(void)effective;
	if (level == PT_1G && !f->nr++)
		f->va = va;
	return true;
}

static bool find_1g_leaf(struct find_1g *f)
{
	*f = (struct find_1g){ 0 };
	pt_for_each_leaf(&kernel_space, kernel_space.direct, note_1g, f);
	if (arch_mm.max_leaf == PT_1G && memory_usable() > MEMORY_WITH_1G)
		CHECK(f->nr > 0);
	return f->nr > 0;
}

/* One page of the gigabyte, ours, or NULL. */
static struct page *page_within(u64 va)
{
	struct page *page = alloc_pages(ORDER_2M, 0), *found = NULL;
	u32 head = PFN_NONE;

	for (; page; page = alloc_pages(ORDER_2M, 0)) {
		if (range_has(range_len(va, GIB), (u64)page_to_virt(page))) {
			found = page;
			break;
		}
		page->next = head;
		head = (u32)page_to_pfn(page);
	}
	while (head != PFN_NONE) {
		page = pfn_to_page(head);
		head = page->next;
		free_pages(page, ORDER_2M);
	}
	return found;
}

static void toggle_second_page(u64 va)
{
	CHECK_EQ(set_memory_ro(va + PAGE_SIZE, 1), 0);
	CHECK_EQ(trial_write(va), TRIAL_OK);
	CHECK_EQ(trial_write(va + PAGE_SIZE), PF_PRESENT | PF_WRITE);
	CHECK_EQ(trial_write(va + 2 * PAGE_SIZE), TRIAL_OK);
	CHECK_EQ(set_memory_rw(va + PAGE_SIZE, 1), 0);
	CHECK_EQ(trial_write(va + PAGE_SIZE), TRIAL_OK);
}

TEST_ID(image, gigabyte_leaf_splits_to_4k_and_collapses, "PT3 PT4")
{
	struct shape before = shape_open();
	u64 splits = 0;
	struct find_1g f;
	struct page *page;

	if (!find_1g_leaf(&f)) {
		shape_close(&before, 0);
		SKIP("the direct map has no 1G leaf (CPU: %s, memory: %llu MiB)",
		     arch_mm.max_leaf == PT_1G ? "has them" : "has none", (unsigned long long)(memory_usable() / MIB));
	}
	page = page_within(f.va);
	if (carried_out(split_to(range_len(f.va, GIB), PT_2M))) {
		CHECK_EQ(level_at(f.va), PT_2M);
		CHECK_EQ(split_to(range_len(f.va, GIB), PT_4K), 0);
		for (u64 va = f.va; va < f.va + GIB; va += LEAF_2M)
			CHECK_EQ(level_at(va), PT_4K);
		splits = 1 + PT_ENTRIES;
		if (CHECK(page != NULL))
			toggle_second_page((u64)page_to_virt(page));
	}
	if (page)
		free_pages(page, ORDER_2M);
	shape_close(&before, splits);
	CHECK_EQ(level_at(f.va), PT_1G);
}

TEST_ID(image, one_page_out_of_a_gigabyte_leaf_and_back, "PT2 PT4")
{
	struct shape before = shape_open();
	u64 splits = 0;
	struct find_1g f;
	struct page *page;

	if (!find_1g_leaf(&f)) {
		shape_close(&before, 0);
		SKIP("the direct map has no 1G leaf");
	}
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	page = page_within(f.va);
	if (CHECK(page != NULL)) {
		u64 va = (u64)page_to_virt(page);

		CHECK_EQ(level_at(va), PT_1G);
		if (carried_out(set_direct_map_invalid(page_to_pfn(page) + 3, 1))) {
			splits = 2;
			CHECK_EQ(level_at(va), PT_4K);
			CHECK_EQ(level_at(va ^ LEAF_2M), PT_2M);
			CHECK_EQ(trial_read(va + 2 * PAGE_SIZE), TRIAL_OK);
			CHECK_EQ(trial_read(va + 3 * PAGE_SIZE), 0);
			CHECK_EQ(trial_read(va + 4 * PAGE_SIZE), TRIAL_OK);
			CHECK_EQ(set_direct_map_default(page_to_pfn(page) + 3, 1), 0);
		}
		CHECK_EQ(level_at(va), PT_1G);
		free_pages(page, ORDER_2M);
	}
	shape_close(&before, splits);
}
