/* SPDX-License-Identifier: MIT */
/* Shared parts of the page-table suites. See fixture.h. */
#include "tests/fixture.h"

#include "kernel/base/errno.h"
#include "mm/buddy.h"
#include "mm/kernel_map.h"
#include "tests/test.h"

u64 fixture_attrs(void)
{
	return (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX) & arch_mm.pte_mask;
}

bool fixture_area_get(struct fixture_area *a, u64 size, u64 align)
{
	a->area = get_vm_area(size, align, VM_AREA_SPARSE, "test");
	a->va = a->area ? a->area->start : 0;
	a->size = size;
	return CHECK(a->area != NULL);
}

void fixture_area_put(struct fixture_area *a)
{
	struct tlb_batch batch;

	if (!a->area)
		return;
	tlb_batch_init(&batch, &kernel_space);
	CHECK_EQ(kernel_unmap(range_len(a->va, a->size), &batch), 0);
	tlb_batch_finish(&batch);
	free_vm_area(a->area);
	a->area = NULL;
}

u64 fixture_nowhere(void)
{
	u64 pa = BIT(arch_mm.phys_bits) - 4 * GIB;

	CHECK(!pfn_valid(pa >> PAGE_SHIFT) && !pfn_valid((pa + 2 * GIB - 1) >> PAGE_SHIFT));
	return pa;
}

struct pt_slot fixture_leaf(u64 va)
{
	struct pt_slot s;

	spin_lock(&kernel_space.lock);
	s = pt_walk(&kernel_space, va, PT_4K);
	spin_unlock(&kernel_space.lock);
	return s;
}

u64 fixture_pa(u64 va)
{
	struct pt_slot s = fixture_leaf(va);

	return pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1));
}

struct page *fixture_block_in(u64 gigabyte)
{
	u32 held = PFN_NONE;	/* a list through struct page */
	struct page *block;

	while ((block = alloc_pages(ORDER_2M, 0)) && page_to_phys(block).raw / GIB != gigabyte) {
		block->next = held;
		held = (u32)page_to_pfn(block);
	}
	while (held != PFN_NONE) {
		struct page *other = pfn_to_page(held);

		held = other->next;
		free_pages(other, ORDER_2M);
	}
	return block;
}

int fixture_change(enum pt_op op, struct range va, u64 pa, u64 set, u64 clear)
{
	struct pt_change c = { .op = op, .va = va, .pa = phys(pa), .set = set, .clear = clear };
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = pt_change(&kernel_space, &c, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

int fixture_split(struct range va, unsigned level)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = pt_split_range(&kernel_space, va, level, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

void fixture_events(struct fixture_events *out)
{
	for (unsigned l = 0; l <= PT_1G; l++) {
		out->splits[l] =
			kernel_space.stats[PT_DIRECT].splits[l] + kernel_space.stats[PT_OTHER].splits[l];
		out->collapses[l] = kernel_space.stats[PT_DIRECT].collapses[l] +
				    kernel_space.stats[PT_OTHER].collapses[l];
	}
}

/* FNV-1a, a word at a time. */
static bool digest_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct fixture_picture *p = arg;
	const u64 words[] = { va, level, leaf.raw, effective };

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		p->digest = (p->digest ^ words[i]) * 0x100000001b3ull;
	p->leaves++;
	return true;
}

void fixture_take(struct fixture_picture *out)
{
	out->digest = 0xcbf29ce484222325ull;
	out->leaves = 0;
	out->free = buddy_free_frames();
	for (unsigned part = 0; part < PT_PARTS; part++)
		out->stats[part] = kernel_space.stats[part];
	pt_for_each_leaf(&kernel_space, range(0, UINT64_MAX), digest_leaf, out);
}

void fixture_same(const struct fixture_picture *before)
{
	struct fixture_picture now;

	fixture_take(&now);
	CHECK_EQ(now.leaves, before->leaves);
	CHECK_EQ(now.digest, before->digest);
	CHECK_EQ(now.free, before->free);
	for (unsigned part = 0; part < PT_PARTS; part++) {
		const struct pt_stats *a = &before->stats[part], *b = &now.stats[part];

		CHECK_EQ(b->tables, a->tables);
		for (unsigned l = PT_4K; l <= PT_1G; l++) {
			CHECK_EQ(b->leaves[l], a->leaves[l]);
			CHECK_EQ(b->splits[l], a->splits[l]);
			CHECK_EQ(b->collapses[l], a->collapses[l]);
		}
	}
}

enum pt_collapse_policy fixture_policy(enum pt_collapse_policy policy)
{
	enum pt_collapse_policy before = kernel_space.policy;

	pt_set_policy(&kernel_space, policy);
	return before;
}
