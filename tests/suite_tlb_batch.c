/* SPDX-License-Identifier: MIT */
/* Batches, generations, and what they count (SPEC TL1, TL2), as far as one CPU can see them. */
#include "mm/tlb_batch.h"

#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define PAGES 128u

/* 128 pages mapped one by one, and no collapse to disturb the counts. */
struct pages {
	struct fixture_area a;
	enum pt_collapse_policy policy;
};

static bool pages_get(struct pages *p)
{
	p->policy = fixture_policy(PT_COLLAPSE_OFF);
	if (!fixture_area_get(&p->a, PAGES * PAGE_SIZE, PAGE_SIZE))
		return false;
	return CHECK_EQ(fixture_change(PT_OP_MAP, range_len(p->a.va, p->a.size), fixture_nowhere() + PAGE_SIZE,
				       fixture_attrs(), 0), 0);
}

static void pages_put(struct pages *p)
{
	fixture_area_put(&p->a);
	fixture_policy(p->policy);
}

/* Take W from page i, in a batch that stays open. */
static void seal(struct pages *p, unsigned i, unsigned n, struct tlb_batch *batch)
{
	struct pt_change c = {
		.op = PT_OP_PROTECT,
		.va = range_len(p->a.va + i * PAGE_SIZE, n * PAGE_SIZE),
		.clear = PTE_W,
	};

	CHECK_EQ(pt_change(&kernel_space, &c, batch), 0);
}

/* Each CPU that uses the kernel space invalidates for itself, and counts. */
static u64 cpus(void)
{
	u64 n = 0;

	for_each_cpu(cpu, arch_cpus_online())
		n += cpu < MAX_CPUS;
	return n;
}

TEST_ID(tlb_batch, an_empty_batch_does_nothing, "TL1")
{
	struct tlb_stats before, after;
	struct tlb_batch batch;
	u64 gen = kernel_space.gen;

	pt_settle(&kernel_space);
	tlb_read_stats(&before);
	tlb_batch_init(&batch, &kernel_space);
	tlb_batch_finish(&batch);
	tlb_read_stats(&after);
	CHECK_EQ(after.batches, before.batches);
	CHECK_EQ(after.nr_tlb_local_flush_all, before.nr_tlb_local_flush_all);
	CHECK_EQ(after.nr_tlb_local_flush_one, before.nr_tlb_local_flush_one);
	CHECK_EQ(kernel_space.gen, gen);
}

TEST_ID(tlb_batch, each_change_has_a_generation, "TL1")
{
	struct tlb_batch batch;
	struct pages p;

	if (pages_get(&p)) {
		u64 gen = kernel_space.gen;

		tlb_batch_init(&batch, &kernel_space);
		seal(&p, 0, 1, &batch);
		CHECK_EQ(kernel_space.gen, gen + 1);
		seal(&p, 9, 1, &batch);
		CHECK_EQ(kernel_space.gen, gen + 2);
		CHECK(tlb_flushed(&kernel_space, gen));
		CHECK(!tlb_flushed(&kernel_space, gen + 1));
		tlb_batch_finish(&batch);
		CHECK(tlb_flushed(&kernel_space, gen + 2));
	}
	pages_put(&p);
}

/* n pages changed in one batch: invalidated one by one up to the ceiling, then one full flush. */
static void by_pages(unsigned n)
{
	struct tlb_stats before, after;
	struct tlb_batch batch;
	struct pages p;

	if (pages_get(&p)) {
		tlb_read_stats(&before);
		tlb_batch_init(&batch, &kernel_space);
		seal(&p, 1, n, &batch);
		tlb_batch_finish(&batch);
		tlb_read_stats(&after);
		CHECK_EQ(after.batches - before.batches, 1);
		if (n <= tlb_flush_ceiling) {
			CHECK_EQ(after.nr_tlb_local_flush_one - before.nr_tlb_local_flush_one, n * cpus());
			CHECK_EQ(after.nr_tlb_local_flush_all, before.nr_tlb_local_flush_all);
		} else {
			CHECK_EQ(after.nr_tlb_local_flush_one, before.nr_tlb_local_flush_one);
			CHECK_EQ(after.nr_tlb_local_flush_all - before.nr_tlb_local_flush_all, cpus());
		}
	}
	pages_put(&p);
}

TEST_ID(tlb_batch, one_page, "TL1 TL2")
{
	by_pages(1);
}

TEST_ID(tlb_batch, as_many_pages_as_the_ceiling, "TL1 TL2")
{
	by_pages(MIN(tlb_flush_ceiling, PAGES - 2));
}

TEST_ID(tlb_batch, one_more_than_the_ceiling, "TL1 TL2")
{
	if (tlb_flush_ceiling + 1 > PAGES - 2)
		SKIP("ceiling=%u is more than the test has pages", tlb_flush_ceiling);
	by_pages(tlb_flush_ceiling + 1);
}

/* A leaf is invalidated once, whatever its size. */
TEST_ID(tlb_batch, a_large_leaf_is_one_invalidation, "TL1 TL2")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	struct tlb_stats before, after;
	struct fixture_area a;

	if (fixture_area_get(&a, 4 * MIB, 2 * MIB)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(),
					fixture_attrs(), 0),
			 0);
		tlb_read_stats(&before);
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, a.size), 0, 0, PTE_W), 0);
		tlb_read_stats(&after);
		CHECK_EQ(after.nr_tlb_local_flush_one - before.nr_tlb_local_flush_one, 2 * cpus());
		CHECK_EQ(after.nr_tlb_local_flush_all, before.nr_tlb_local_flush_all);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* More separate ranges than a batch can hold. */
TEST_ID(tlb_batch, many_ranges_become_a_full_flush, "TL1 TL2")
{
	struct tlb_stats before, after;
	struct tlb_batch batch;
	struct pages p;

	if (pages_get(&p)) {
		tlb_read_stats(&before);
		tlb_batch_init(&batch, &kernel_space);
		for (unsigned i = 0; i <= TLB_RANGES; i++)
			seal(&p, 2 * i, 1, &batch);
		tlb_batch_finish(&batch);
		tlb_read_stats(&after);
		CHECK_EQ(after.nr_tlb_local_flush_all - before.nr_tlb_local_flush_all, cpus());
	}
	pages_put(&p);
}

/* Mapping what was absent needs no flush: nothing absent is cached (SDM 3A, 4.10.2.3). */
TEST_ID(tlb_batch, mapping_flushes_nothing, "TL1")
{
	struct tlb_stats before, after;
	struct pages p;

	tlb_read_stats(&before);
	if (pages_get(&p)) {
		tlb_read_stats(&after);
		CHECK_EQ(after.batches, before.batches);
	}
	pages_put(&p);
}

/* A frame given to the batch is free when the batch is finished, not before. */
TEST_ID(tlb_batch, frames_are_freed_after_the_flush, "TL1 TL2")
{
	struct page *page = alloc_page(0), *block = alloc_pages(3, 0);
	struct tlb_stats before, after;
	struct tlb_batch batch;
	struct pages p;

	if (page && block && pages_get(&p)) {
		u64 free = buddy_free_frames();

		tlb_read_stats(&before);
		tlb_batch_init(&batch, &kernel_space);
		seal(&p, 0, 1, &batch);
		spin_lock(&kernel_space.lock);
		tlb_batch_free(&batch, page, 0);
		tlb_batch_free(&batch, block, 3);
		spin_unlock(&kernel_space.lock);
		CHECK_EQ(buddy_free_frames(), free);
		tlb_batch_finish(&batch);
		CHECK_EQ(buddy_free_frames(), free + 9);
		tlb_read_stats(&after);
		CHECK(after.frames_freed > before.frames_freed);
		CHECK_EQ(after.frames_quarantined, before.frames_quarantined);
		pages_put(&p);
	}
	CHECK(page && block);
}

/* A finished batch can be filled again. */
TEST_ID(tlb_batch, can_be_used_again, "TL1")
{
	struct tlb_stats before, after;
	struct tlb_batch batch;
	struct pages p;

	if (pages_get(&p)) {
		tlb_batch_init(&batch, &kernel_space);
		seal(&p, 0, 1, &batch);
		tlb_batch_finish(&batch);
		tlb_read_stats(&before);
		seal(&p, 5, 2, &batch);
		tlb_batch_finish(&batch);
		tlb_read_stats(&after);
		CHECK_EQ(after.nr_tlb_local_flush_one - before.nr_tlb_local_flush_one, 2 * cpus());
		CHECK(tlb_flushed(&kernel_space, kernel_space.gen));
	}
	pages_put(&p);
}

/*
 * Two batches open at the same time: the second to be finished must not rely on ranges that it does not know.
 */
TEST_ID(tlb_batch, interleaved_batches, "TL1")
{
	struct tlb_batch first, second;
	struct pages p;

	if (pages_get(&p)) {
		tlb_batch_init(&first, &kernel_space);
		tlb_batch_init(&second, &kernel_space);
		seal(&p, 0, 1, &first);
		seal(&p, 10, 1, &second);
		seal(&p, 20, 1, &first);
		tlb_batch_finish(&second);
		CHECK(tlb_flushed(&kernel_space, kernel_space.gen - 1));
		tlb_batch_finish(&first);
		CHECK(tlb_flushed(&kernel_space, kernel_space.gen));
	}
	pages_put(&p);
}
