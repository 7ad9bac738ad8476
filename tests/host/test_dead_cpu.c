/* SPDX-License-Identifier: MIT */
/*
 * What a CPU that never acknowledges costs (SPEC TL1): whatever it may still reach by its TLB is nobody else's any more, and who asked for rights to
 * be taken away is told that they were not. Each case in a process of its own, where the last CPU stops answering at some moment; who
 * finds that out first is the call that the case is about, unless it says otherwise.
 */
#include <stdio.h>

#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/kernel_map.h"
#include "mm/set_memory.h"
#include "mm/unmapped.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

static unsigned wrong;

#define EXPECT(what)                                                    \
	do {                                                            \
		if (!(what)) {                                          \
			printf("%s:%d: %s\n", __func__, __LINE__, #what); \
			wrong++;                                        \
		}                                                       \
	} while (0)

static void last_cpu_dies(void)
{
	cpumask_set(&host.deaf, host.nr_cpus - 1);
}

/* And this is known: a change of rights was not answered. */
static void last_cpu_is_dead(void)
{
	struct page *page = alloc_page(0);

	last_cpu_dies();
	EXPECT(page && set_memory_ro(phys_to_va(page_to_phys(page)), 1) == -EIO);
	EXPECT(!cpumask_has(&host.online, host.nr_cpus - 1));
}

static u64 quarantined(void)
{
	struct tlb_stats stats;

	tlb_read_stats(&stats);
	return stats.frames_quarantined;
}

static bool is_mapped(const struct page *page)
{
	return sim_access(host_cpu(), phys_to_va(page_to_phys(page)), SIM_WRITE).fault == SIM_OK;
}

/* ---- Who asks is told ---- */

static void rights_are_taken(void)
{
	struct page *page = alloc_page(0);
	u64 va = phys_to_va(page_to_phys(page));

	last_cpu_dies();
	EXPECT(set_memory_ro(va, 1) == -EIO);
	EXPECT(sim_access(host_cpu(), va, SIM_WRITE).fault == SIM_RIGHTS);
	EXPECT(set_memory_ro(va, 1) == -EIO);	/* nothing to do, and no one to wait for in vain */
}

static void *text_of(u64 size)
{
	static const u8 code[] = { 0x90, 0xc3 };
	void *text;

	EXPECT(execmem_set_policy(EXECMEM_PAGES) == 0);
	text = execmem_alloc(EXECMEM_TEXT, size, 0);
	EXPECT(text && execmem_fill(text, code, sizeof(code)) == 0);
	return text;
}

static void text_is_sealed(void)
{
	void *text = text_of(PAGE_SIZE);

	last_cpu_dies();
	EXPECT(execmem_seal(text) == -EIO);
}

static void text_is_sealed_later(void)
{
	void *text = text_of(PAGE_SIZE);

	last_cpu_is_dead();
	EXPECT(execmem_seal(text) == -EIO);
	EXPECT(sim_access(host_cpu(), (u64)text, SIM_EXEC).fault == SIM_RIGHTS);
}

static void frame_is_made_invalid(void)
{
	struct page *page = alloc_page(0);
	u64 free = buddy_free_frames();

	last_cpu_dies();
	EXPECT(set_direct_map_invalid(page_to_pfn(page), 1) == -EIO);
	EXPECT(is_mapped(page));
	EXPECT(set_direct_map_invalid(page_to_pfn(page), 1) == -EIO);
	EXPECT(is_mapped(page));
	free_page(page);
	EXPECT(buddy_free_frames() + 2 * arch_mm.levels > free);	/* but for tables: no collapse either */
}

/* It cannot be put back, as a frame loses its right to be executed at the same time, and the dead CPU does not know. */
static void frame_cannot_be_put_back(void)
{
	struct page *page = alloc_page(0);
	void *text = text_of(PAGE_SIZE);
	struct tlb_batch open;
	u64 warnings, free;

	EXPECT(execmem_seal(text) == 0);
	last_cpu_dies();
	tlb_batch_init(&open, &kernel_space);
	EXPECT(set_memory_batch((u64)text, 1, MEMORY_NX, &open) == 0);
	EXPECT(set_direct_map_invalid(page_to_pfn(page), 1) == -EIO);
	EXPECT(!is_mapped(page));
	warnings = log_warnings;
	free = buddy_free_frames();
	free_page(page);
	EXPECT(log_warnings == warnings + 1);
	EXPECT(buddy_free_frames() == free);
	EXPECT(tlb_batch_finish(&open) == -EIO);
}

/* ---- Nobody gets it ---- */

static void alias_is_unmapped(void)
{
	struct page *page = alloc_page(0);
	void *alias = vmap(&page, 1, 0);

	EXPECT(alias);
	last_cpu_dies();
	EXPECT(vunmap(alias) == -EIO);
	for (unsigned i = 0; i < 20; i++)
		EXPECT(vmap(&page, 1, VMAP_RO) != alias);
}

/* Its frames are quarantined, once. */
static void area_is_freed(void)
{
	u64 before = quarantined(), warnings = log_warnings;
	void *area = vmalloc(3 * PAGE_SIZE);

	EXPECT(area);
	last_cpu_dies();
	vfree(area);
	EXPECT(quarantined() - before >= 3 && quarantined() - before <= 3 + 2u * arch_mm.levels);
	EXPECT(log_warnings - warnings <= 1);
	before = quarantined();
	vfree(area);
	EXPECT(quarantined() == before);
}

static void area_is_freed_later(void)
{
	void *text = text_of(PAGE_SIZE), *area = vmalloc(3 * PAGE_SIZE);
	u64 before, warnings;

	EXPECT(area && execmem_seal(text) == 0);
	last_cpu_is_dead();
	execmem_free(text);
	before = quarantined();
	warnings = log_warnings;
	vfree(area);
	EXPECT(quarantined() - before >= 3);
	EXPECT(log_warnings == warnings);
}

/* Its region is tried again with each new one, and said to be stuck once. */
static void text_is_freed(void)
{
	void *text = text_of(PAGE_SIZE);
	u64 warnings, pa = fixture_pa((u64)text);

	last_cpu_dies();
	warnings = log_warnings;
	execmem_free(text);
	for (unsigned i = 0; i < 5; i++) {
		void *other = execmem_alloc(EXECMEM_TEXT, PAGE_SIZE, 0);

		EXPECT(other && other != text && fixture_pa((u64)other) != pa);
	}
	EXPECT(log_warnings == warnings + 1);
}

/* What the dead CPU may reach by the direct map is no secret. Each attempt leaves memory as it was, but for tables of the first. */
static void try_unmapped(void)
{
	u64 free = buddy_free_frames();

	EXPECT(!unmapped_pages_alloc(ORDER_2M, 0, -1, NULL));
	for (unsigned i = 0; i < 20; i++)
		EXPECT(!unmapped_pages_alloc(i % 4, 0, -1, NULL));
	EXPECT(buddy_free_frames() + 2 * arch_mm.levels > free);
	EXPECT(unmapped_check() == 0);
	EXPECT(pt_check(&kernel_space) == 0);
}

static void unmapped_page_is_wanted(void)
{
	unmapped_shrink(UNMAPPED_ALL);
	last_cpu_dies();
	try_unmapped();
}

/* After executable memory went, without the dead CPU's knowledge. */
static void unmapped_page_is_wanted_later(void)
{
	void *text = text_of(PAGE_SIZE);

	EXPECT(execmem_seal(text) == 0);
	unmapped_shrink(UNMAPPED_ALL);
	last_cpu_dies();
	execmem_free(text);
	try_unmapped();
}

static const struct {
	const char *name;
	void (*fn)(void);
} cases[] = {
	{ "rights_are_taken", rights_are_taken },
	{ "text_is_sealed", text_is_sealed },
	{ "text_is_sealed_later", text_is_sealed_later },
	{ "frame_is_made_invalid", frame_is_made_invalid },
	{ "frame_cannot_be_put_back", frame_cannot_be_put_back },
	{ "alias_is_unmapped", alias_is_unmapped },
	{ "area_is_freed", area_is_freed },
	{ "area_is_freed_later", area_is_freed_later },
	{ "text_is_freed", text_is_freed },
	{ "unmapped_page_is_wanted", unmapped_page_is_wanted },
	{ "unmapped_page_is_wanted_later", unmapped_page_is_wanted_later },
};

static unsigned count_cases(void)
{
	return ARRAY_SIZE(cases);
}

static void name_case(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", cases[row].name);
}

static int run_case(void *row)
{
	cases[*(unsigned *)row].fn();
	EXPECT(host_faults() == 0);
	return wrong != 0;
}

TEST_ROWS(dead_cpu, may_reach_nothing_of_others, "TL1 XM2 UM1 PT2", 0, count_cases, name_case)
{
	struct apart apart = { 0 };
	unsigned row = test_row();

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	REQUIRE(apart_run(&apart, run_case, &row));
	if (!CHECK(apart_came_back(&apart)))
		apart_show(&apart);
}
