/* SPDX-License-Identifier: MIT */
/* boot/paging.c: every block of the boot root, found again by a walk of the tables, with 4 and 5 levels. */
#include <stdlib.h>
#include <string.h>

#include "boot/elf_load.h"
#include "boot/memmap.h"
#include "boot/paging.h"
#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
#define JUMP 0x7e5ffff0ull	/* crosses a block with the 32 bytes behind it */

static const struct boot_mem map[] = {
	{ .start = 0, .end = 0xa0000, .type = BOOT_MEM_CONVENTIONAL },
	{ .start = 0xc0000, .end = 0x100000, .type = BOOT_MEM_RESERVED },
	{ .start = 0x100000, .end = 0x7e600000, .type = BOOT_MEM_CONVENTIONAL },
	{ .start = 0x7e600000, .end = 0x7e601000, .type = BOOT_MEM_RUNTIME_DATA },
	{ .start = 0x7f000000, .end = 0x7f3ff000, .type = BOOT_MEM_ACPI_NVS },
	{ .start = 0xe0000000, .end = 0xf0000000, .type = BOOT_MEM_MMIO },
	{ .start = 4 * GIB, .end = 9 * GIB, .type = BOOT_MEM_BOOT_SERVICES_DATA },
	{ .start = 600 * GIB, .end = 600 * GIB + PAGE_SIZE, .type = BOOT_MEM_CONVENTIONAL },
	{ .start = MEMMAP_LIMIT - BLOCK, .end = MEMMAP_LIMIT, .type = BOOT_MEM_LOADER_CODE },
};

static const struct boot_segment segments[] = {
	{ .va = KERNEL_BASE, .pa = 16 * MIB, .size = BLOCK, .used = 5, .flags = ELF_PF_R | ELF_PF_X },
	{ .va = KERNEL_BASE + 4 * MIB, .pa = 18 * MIB, .size = BLOCK, .used = 5, .flags = ELF_PF_R },
	{ .va = KERNEL_BASE + GIB, .pa = 20 * MIB, .size = 2 * BLOCK, .used = BLOCK + 1, .flags = ELF_PF_R | ELF_PF_W },
};

struct built {
	void *pool;
	u64 pages;
	struct boot_paging p;
	int rc;
};

static struct built build(unsigned levels, bool nx, u64 pages)
{
	struct built b = { .pages = pages, .p = { .levels = levels, .nx = nx } };

	b.pool = aligned_alloc(PAGE_SIZE, pages * PAGE_SIZE);
	memset(b.pool, 0x5a, pages * PAGE_SIZE);
	b.rc = paging_build(&b.p, range_len((u64)b.pool, pages * PAGE_SIZE), map, ARRAY_SIZE(map), segments,
			    ARRAY_SIZE(segments), range_len(JUMP, 32));
	return b;
}

static bool block_has_ram(u64 pa)
{
	for (unsigned i = 0; i < ARRAY_SIZE(map); i++)
		if (memmap_is_ram(map[i].type) &&
		    range_overlaps(range(map[i].start, map[i].end), range_len(pa, BLOCK)))
			return true;
	return false;
}

/* What must stand at va: 0, or the leaf's address and attributes. */
static u64 expected(u64 va, bool nx)
{
	u64 no_exec = nx ? PTE_NX : 0;

	if (va >= BOOT_DIRECT_BASE && va < VMEMMAP_BASE && block_has_ram(va - BOOT_DIRECT_BASE))
		return (va - BOOT_DIRECT_BASE) | PTE_P | PTE_W | PTE_AD | PTE_PS | no_exec;
	if (va == align_down(JUMP, BLOCK) || va == align_down(JUMP, BLOCK) + BLOCK)
		return va | PTE_P | PTE_AD | PTE_PS;
	for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
		const struct boot_segment *s = &segments[i];

		if (va >= s->va && va - s->va < s->size)
			return (s->pa + va - s->va) | PTE_P | PTE_AD | PTE_PS | (s->flags & ELF_PF_W ? PTE_W : 0) |
			       (s->flags & ELF_PF_X ? 0 : no_exec);
	}
	return 0;
}

struct walk {
	bool nx;
	u64 leaves, wrong, tables;
};

static void walk(struct walk *w, u64 table, unsigned level, unsigned levels, u64 va)
{
	const pte_t *entries = (const pte_t *)table;

	w->tables++;
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		u64 at = va | (u64)i << pt_shift(level);

		if (level == levels && i >= PT_ENTRIES / 2)
			at |= ~0ull << (pt_shift(level) + 8);
		if (level > PT_2M) {
			if (pte_present(entries[i]))
				walk(w, pte_table_pa(entries[i]).raw, level - 1, levels, at);
			else
				w->wrong += entries[i].raw != 0;
			continue;
		}
		w->leaves += pte_present(entries[i]);
		w->wrong += entries[i].raw != expected(at, w->nx);
	}
}

/* Leaves that there must be, so that none is missing for lack of a table. */
static u64 leaves_expected(void)
{
	u64 leaves = 2 + 1 + 1 + 2;	/* the jump, the segments */
	u64 next = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(map); i++) {
		u64 start = MAX(align_down(map[i].start, BLOCK), next);
		u64 end = align_up(map[i].end, BLOCK);

		if (!memmap_is_ram(map[i].type) || start >= end)
			continue;
		leaves += (end - start) / BLOCK;
		next = end;
	}
	return leaves;
}

static const struct {
	const char *name;
	unsigned levels;
	bool nx;
} kinds[] = {
	{ "four_levels", 4, true },
	{ "five_levels", 5, true },
	{ "four_levels_without_nx", 4, false },
};

static unsigned kind_count(void)
{
	return ARRAY_SIZE(kinds);
}

static void kind_name(unsigned row, char *buf, size_t size)
{
	strncpy(buf, kinds[row].name, size - 1);
	buf[size - 1] = '\0';
}

TEST_ROWS(paging, builds, "BT1 BT3", 0, kind_count, kind_name)
{
	unsigned levels = kinds[test_row()].levels;
	u64 needed = paging_tables_needed(map, ARRAY_SIZE(map), levels);
	struct built b = build(levels, kinds[test_row()].nx, needed);
	struct walk w = { .nx = b.p.nx };

	CHECK_EQ(b.rc, 0);
	if (b.rc == 0) {
		walk(&w, b.p.root, levels, levels, 0);
		CHECK_EQ(w.wrong, 0);
		CHECK_EQ(w.leaves, leaves_expected());
		CHECK_EQ(w.tables, (b.p.next - (u64)b.pool) / PAGE_SIZE);
		CHECK(w.tables <= needed);
	}
	free(b.pool);
}

TEST_ID(paging, every_smaller_pool_is_enomem, "BT2")
{
	struct built whole = build(4, true, paging_tables_needed(map, ARRAY_SIZE(map), 4));
	u64 used = (whole.p.next - (u64)whole.pool) / PAGE_SIZE;
	u64 other = 0;

	for (u64 pages = 1; pages < used; pages++) {
		struct built b = build(4, true, pages);

		other += b.rc != -ENOMEM;
		free(b.pool);
	}
	CHECK_EQ(whole.rc, 0);
	CHECK_EQ(other, 0);
	free(whole.pool);
}

TEST_ID(paging, two_leaves_in_one_place_are_einval, "BT2")
{
	struct boot_segment twice[] = { segments[0], segments[0] };
	struct boot_paging p = { .levels = 4, .nx = true };
	void *pool = aligned_alloc(PAGE_SIZE, 64 * PAGE_SIZE);

	twice[1].pa += BLOCK;
	CHECK_EQ(paging_build(&p, range_len((u64)pool, 64 * PAGE_SIZE), map, 1, twice, 2, range_len(JUMP, 32)), -EINVAL);
	free(pool);
}
