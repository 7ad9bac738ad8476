/* SPDX-License-Identifier: MIT */
/* Temporary mappings: what is mapped, for whom, and what is left of it (SPEC UM4, PT5). */
#include "mm/temp_map.h"

#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/pt_audit.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define FRAMES 8u

/* Frames that the direct map does not hold, no two side by side. */
struct scene {
	struct page *pages[FRAMES];
	pfn_t pfn[FRAMES];
};

static void scene_put(struct scene *s)
{
	for (unsigned i = 0; i < FRAMES; i++)
		if (s->pages[i]) {
			CHECK_EQ(set_direct_map_default(s->pfn[i], 1), 0);
			free_pages(s->pages[i], 1);
		}
}

static bool scene_get(struct scene *s)
{
	*s = (struct scene){ 0 };
	for (unsigned i = 0; i < FRAMES; i++) {
		s->pages[i] = alloc_pages(1, 0);
		if (!CHECK(s->pages[i] != NULL))
			return false;
		s->pfn[i] = page_to_pfn(s->pages[i]);
		CHECK_EQ(set_direct_map_invalid(s->pfn[i], 1), 0);
	}
	return true;
}

static u32 nr_cpus(void)
{
	u32 nr = 0;

	for_each_cpu(cpu, arch_cpus_online())
		nr = MAX(nr, cpu + 1);
	return nr;
}

static struct pt_slot leaf_at(u64 va)
{
	return pt_walk_lockless(arch_current_root(), arch_mm.levels, va);
}

/* Nothing is mapped in any temporary root, and its tables are as they were made. */
static void check_at_rest(void)
{
	for (u32 cpu = 0; cpu < nr_cpus(); cpu++) {
		struct pt_space *space = temp_map_space(cpu);

		if (!CHECK(space != NULL))
			return;
		CHECK_EQ(pt_check(space), 0);
		for (u64 va = TEMP_MAP_SLOTS.start; va < TEMP_MAP_SLOTS.end; va += PAGE_SIZE)
			CHECK(pte_none(pt_walk_lockless(space->root, space->levels, va).value));
	}
}

/* Two frames from different places, side by side, by entries of the right kind; and nothing is left of it. */
TEST_ID(temp_map, two_frames_side_by_side, "UM4")
{
	const u64 attrs = (PTE_P | PTE_W | PTE_A | PTE_D | PTE_NX) & arch_mm.pte_mask;
	phys_t root = arch_current_root();
	bool irqs = arch_irqs_enabled();
	struct scene s;

	if (scene_get(&s)) {
		pfn_t pair[2] = { s.pfn[5], s.pfn[2] };
		static const char text[] = "across the edge of two pages";
		char back[sizeof(text)];
		struct temp_map t;

		temp_map_begin(&t, pair, 2, true);
		CHECK(!arch_irqs_enabled());
		CHECK_EQ(arch_current_root().raw, temp_map_space(arch_this_cpu()->id)->root.raw);
		for (unsigned i = 0; i < 2; i++) {
			struct pt_slot slot = leaf_at(t.va + i * PAGE_SIZE);

			CHECK_EQ(slot.level, PT_4K);
			CHECK_EQ(slot.value.raw, pair[i] << PAGE_SHIFT | attrs);
		}
		CHECK(pte_none(leaf_at(t.va + 2 * PAGE_SIZE).value));
		temp_map_copy_in(&t, PAGE_SIZE - 7, text, sizeof(text));
		temp_map_copy_out(&t, PAGE_SIZE - 7, back, sizeof(text));
		temp_map_end(&t);
		CHECK_EQ(memcmp(back, text, sizeof(text)), 0);
		CHECK_EQ(arch_irqs_enabled(), irqs);
		CHECK_EQ(arch_current_root().raw, root.raw);
		check_at_rest();

		temp_read(s.pfn[5], PAGE_SIZE - 7, back, 7);
		temp_read(s.pfn[2], 0, back + 7, sizeof(text) - 7);
		CHECK_EQ(memcmp(back, text, sizeof(text)), 0);
	}
	scene_put(&s);
}

TEST_ID(temp_map, read_only_is_read_only, "UM4")
{
	struct scene s;

	if (scene_get(&s)) {
		struct temp_map t;

		temp_map_begin(&t, &s.pfn[0], 1, false);
		CHECK_EQ(pte_attrs(leaf_at(t.va).value, PT_4K), (PTE_P | PTE_A | PTE_D | PTE_NX) & arch_mm.pte_mask);
		temp_map_end(&t);
	}
	scene_put(&s);
}

/*
 * A mapping on each level, one inside another: each has a slot of its own, the root stays loaded until the outermost
 * ends, and a slot that is used twice shows the second frame the second time.
 */
TEST_ID(temp_map, levels_have_slots_of_their_own, "UM4")
{
	struct cpu_state *cpu = arch_this_cpu();
	phys_t root = arch_current_root();
	struct scene s;

	if (scene_get(&s)) {
		struct temp_map t[TEMP_MAP_LEVELS];
		u8 byte;

		for (unsigned round = 0; round < 2; round++) {
			for (unsigned i = 0; i < TEMP_MAP_LEVELS; i++) {
				cpu->nesting = (u8)i;
				temp_map_begin(&t[i], &s.pfn[4 * round + i], 1, true);
				CHECK_EQ(t[i].va, TEMP_MAP_BASE + i * TEMP_MAP_STRIDE);
				memset(temp_map_ptr(&t[i], 0, true), (int)(0x10 * (round + 1) + i), PAGE_SIZE);
			}
			for (unsigned i = TEMP_MAP_LEVELS; i--;) {
				temp_map_end(&t[i]);
				CHECK_EQ(arch_current_root().raw,
					 i ? temp_map_space(cpu->id)->root.raw : root.raw);
			}
			cpu->nesting = CPU_TASK;
		}
		for (unsigned i = 0; i < FRAMES; i++) {
			temp_read(s.pfn[i], i * 99, &byte, 1);
			CHECK_EQ(byte, 0x10 * (i / 4 + 1) + i % 4);
		}
		/* Under one task mapping, an interrupt after another. */
		temp_map_begin(&t[0], &s.pfn[0], 1, false);
		cpu->nesting = CPU_IRQ;
		for (unsigned i = 1; i < FRAMES; i++) {
			temp_read(s.pfn[i], 0, &byte, 1);
			CHECK_EQ(byte, 0x10 * (i / 4 + 1) + i % 4);
		}
		cpu->nesting = CPU_TASK;
		temp_map_end(&t[0]);
		check_at_rest();
	}
	scene_put(&s);
}

/* Work on many frames flushes locally, a page at a time, and asks nobody else; nothing happens to the kernel's space. */
TEST_ID(temp_map, only_this_cpu_forgets, "UM4 TL2")
{
	struct temp_map_stats before, after;
	struct tlb_stats tlb_before, tlb_after;
	u64 gen = kernel_space.gen;
	struct scene s;

	if (scene_get(&s)) {
		gen = kernel_space.gen;
		tlb_read_stats(&tlb_before);
		temp_map_read_stats(&before);
		for (unsigned i = 0; i < FRAMES; i++) {
			temp_fill(s.pfn[i], 1, 0xcc);
			temp_zero(s.pfn[i], 1);
		}
		temp_map_read_stats(&after);
		tlb_read_stats(&tlb_after);
		CHECK_EQ(after.mappings - before.mappings, 2 * FRAMES);
		CHECK_EQ(after.pages - before.pages, 2 * FRAMES);
		CHECK_EQ(after.local_flushes - before.local_flushes, 2 * FRAMES);
		CHECK_EQ(kernel_space.gen, gen);
		CHECK_EQ(tlb_after.batches, tlb_before.batches);
		CHECK_EQ(tlb_after.nr_tlb_remote_flush, tlb_before.nr_tlb_remote_flush);
		CHECK_EQ(tlb_after.pages_invalidated, tlb_before.pages_invalidated);
		CHECK_EQ(tlb_after.nr_tlb_local_flush_all, tlb_before.nr_tlb_local_flush_all);
	}
	scene_put(&s);
}

/* Writes, reads, fills at any offset over consecutive frames, compared with a copy. */
TEST_ID(temp_map, reads_what_was_written, "UM4")
{
	static u8 model[4 * PAGE_SIZE], buffer[4 * PAGE_SIZE];
	struct page *page = alloc_pages(2, 0);
	struct rng rng = test_rng();
	pfn_t pfn;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page);
	CHECK_EQ(set_direct_map_invalid(pfn, 4), 0);
	temp_fill(pfn, 4, 0xa5);
	memset(model, 0xa5, sizeof(model));
	for (unsigned i = 0; i < 200; i++) {
		u64 offset = rng_below(&rng, sizeof(model));
		u64 len = rng_below(&rng, sizeof(model) - offset) + 1;
		u64 frame = rng_below(&rng, 4);

		for (u64 k = 0; k < len; k++)
			buffer[k] = (u8)rng_next(&rng);
		switch (rng_below(&rng, 8)) {
		case 0:
			temp_zero(pfn + frame, 1);
			memset(model + frame * PAGE_SIZE, 0, PAGE_SIZE);
			break;
		case 1:
			temp_fill(pfn + frame, 4 - frame, buffer[0]);
			memset(model + frame * PAGE_SIZE, buffer[0], (4 - frame) * PAGE_SIZE);
			break;
		default:
			temp_write(pfn, offset, buffer, len);
			memcpy(model + offset, buffer, len);
		}
		temp_read(pfn, offset, buffer, len);
		if (!CHECK_EQ(memcmp(buffer, model + offset, len), 0))
			break;
	}
	temp_read(pfn, 0, buffer, sizeof(buffer));
	CHECK_EQ(memcmp(buffer, model, sizeof(model)), 0);
	CHECK_EQ(set_direct_map_default(pfn, 4), 0);
	CHECK_EQ(memcmp(page_to_virt(page), model, sizeof(model)), 0);
	free_pages(page, 2);
}

/* Every root shares the whole kernel half as it is now: its top level was filled before there was a second root. */
TEST_ID(temp_map, roots_share_the_kernel_half, "UM4")
{
	const pte_t *kernel = phys_to_virt(kernel_space.root);

	for (u32 cpu = 0; cpu < nr_cpus(); cpu++) {
		struct pt_space *space = temp_map_space(cpu);
		const pte_t *root;

		REQUIRE(space != NULL);
		root = phys_to_virt(space->root);
		for (unsigned i = PT_ENTRIES / 2; i < PT_ENTRIES; i++)
			CHECK_EQ((root[i].raw ^ kernel[i].raw) & ~PTE_AD, 0);
		CHECK(cpu == 0 || space->root.raw != temp_map_space(0)->root.raw);
		for (struct pt_slot s = { .level = space->levels }; s.level > PT_4K; s.level--) {
			s = pt_walk(space, TEMP_MAP_BASE, s.level);
			CHECK(pte_is_table(s.value, s.level));
			CHECK(phys_to_page(pte_table_pa(s.value))->flags & PAGE_PINNED);
		}
	}
	check_at_rest();
}

/* A frame that is executable elsewhere, mapped writable in a slot: the registered window and nothing else. */
TEST_ID(temp_map, audit_sees_the_window, "UM4 PT5")
{
	struct fixture_area area;
	struct tlb_batch batch;
	struct pt_audit audit;
	struct page *page;
	struct temp_map t;
	pfn_t pfn;

	if (!(arch_mm.pte_mask & PTE_NX))
		SKIP("no NX");
	REQUIRE(fixture_area_get(&area, PAGE_SIZE, PAGE_SIZE));
	page = alloc_page(0);
	if (CHECK(page != NULL)) {
		struct pt_space *space = temp_map_space(arch_this_cpu()->id);

		pfn = page_to_pfn(page);
		page_set_class(pfn, 1, PAGE_EXECMEM);
		CHECK_EQ(set_direct_map_invalid(pfn, 1), 0);
		tlb_batch_init(&batch, &kernel_space);
		CHECK_EQ(kernel_map_pages(area.va, &page, 1, fixture_attrs() & ~(PTE_W | PTE_NX), PT_4K, &batch), 0);
		tlb_batch_finish(&batch);
		CHECK_EQ(pt_audit(&audit), 0);
		CHECK_EQ(audit.windows, 0);

		temp_map_begin(&t, &pfn, 1, true);
		CHECK_EQ(pt_audit(&audit), 0);
		CHECK_EQ(audit.windows, 1);
		/* The control: the same mapping, not registered. */
		pt_audit_window_remove(space, TEMP_MAP_SLOTS);
		CHECK(pt_audit(&audit) > 0);
		CHECK_EQ(audit.found[PT_AUDIT_CROSS], 1);
		CHECK_EQ(audit.windows, 0);
		CHECK_EQ(pt_audit_window_add(space, TEMP_MAP_SLOTS), 0);
		temp_map_end(&t);
		CHECK_EQ(pt_audit(&audit), 0);
		CHECK_EQ(audit.windows, 0);
	}
	fixture_area_put(&area);
	if (page) {
		CHECK_EQ(set_direct_map_default(page_to_pfn(page), 1), 0);
		free_page(page);
	}
}

/* One more CPU. Its number is the highest there can be: nobody runs as that. */
TEST_ID(temp_map, a_root_for_one_more_cpu, "UM4 BT5")
{
	u32 cpu = MAX_CPUS - 1;
	struct pt_space *space;

	if (temp_map_space(cpu))
		SKIP("all CPUs that there can be have one");
	CHECK_EQ(temp_map_add_cpu(MAX_CPUS), -EINVAL);
	REQUIRE(temp_map_add_cpu(cpu) == 0);
	space = temp_map_space(cpu);
	REQUIRE(space);
	CHECK(strcmp(space->name, "temp255") == 0);
	CHECK_EQ(pt_check(space), 0);
	CHECK_EQ(temp_map_add_cpu(cpu), -EBUSY);
	temp_map_remove_cpu(cpu);
	CHECK(!temp_map_space(cpu));
	temp_map_remove_cpu(cpu);
}

/* Made anew with each of its allocations failing in turn: -ENOMEM, and everything is given back. */
TEST_ID(temp_map, init_fails_without_a_trace, "UM4 PA8")
{
	u32 nr = nr_cpus();
	int rc = -ENOMEM;
	u64 free, n;

	CHECK_EQ(temp_map_init(nr), -EBUSY);
	temp_map_reset();
	CHECK(!temp_map_space(0));
	CHECK_EQ(temp_map_init(0), -EINVAL);
	CHECK_EQ(temp_map_init(MAX_CPUS + 1), -EINVAL);
	free = buddy_free_frames();
	for (n = 1; rc && n < 1000; n++) {
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
		rc = temp_map_init(nr);
		alloc_inject = (struct alloc_inject){ 0 };
		if (rc) {
			CHECK_EQ(rc, -ENOMEM);
			CHECK_EQ(buddy_free_frames(), free);
			CHECK(!temp_map_space(0));
		}
	}
	CHECK_EQ(rc, 0);
	/* A page of data, a root and the tables below it, per CPU. */
	CHECK_EQ(n - 2, nr * (1u + arch_mm.levels));
	CHECK_EQ(free - buddy_free_frames(), nr * (1u + arch_mm.levels));
	check_at_rest();
}
