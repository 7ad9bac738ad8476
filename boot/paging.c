/* SPDX-License-Identifier: MIT */
/*
 * The boot root.
 *
 * Invariants: every table comes from the pool and is zeroed before it is linked; an entry is written once.
 * Intel SDM volume 3A, section 4.5. With 5 levels the kernel half is the last entry of the top table, so that all
 * addresses of boot_info.h are the same (canonical for 4 levels).
 */
#include "boot/paging.h"

#include "boot/elf_load.h"
#include "boot/memmap.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"

#define BLOCK (2 * MIB)

/*
 * Besides the direct map: the root; at every level below it one table for the image and one for the jump code, and
 * one more where either crosses a table's border.
 */
#define FIXED_TABLES 16u

u64 paging_tables_needed(const struct boot_mem *map, u32 count, unsigned levels)
{
	u64 tables = FIXED_TABLES;

	/* A table of level n spans what an entry of level n + 1 maps. The map ascends: a table is counted once. */
	for (unsigned level = PT_2M; level < levels; level++) {
		u64 seen = ~0ull;

		for (u32 i = 0; i < count; i++) {
			u64 first = map[i].start >> pt_shift(level + 1);
			u64 last = (align_up(map[i].end, BLOCK) - 1) >> pt_shift(level + 1);

			if (!memmap_is_ram(map[i].type))
				continue;
			tables += last - first + (first != seen);
			seen = last;
		}
	}
	return tables;
}

static u64 new_table(struct boot_paging *p)
{
	u64 table = p->next;

	if (p->end - p->next < PAGE_SIZE)
		return 0;
	p->next += PAGE_SIZE;
	memset((void *)table, 0, PAGE_SIZE);
	return table;
}

static int map_block(struct boot_paging *p, u64 va, u64 pa, u64 attrs)
{
	pte_t leaf = pte_leaf(phys(pa), attrs & ~(p->nx ? 0 : PTE_NX), PT_2M);
	u64 table = p->root;
	pte_t *entry;

	for (unsigned level = p->levels; level > PT_2M; level--) {
		entry = (pte_t *)table + pt_index(va, level);
		if (pte_none(*entry)) {
			u64 child = new_table(p);

			if (!child)
				return -ENOMEM;
			*entry = pte_table(phys(child), false);
		}
		table = pte_table_pa(*entry).raw;
	}
	entry = (pte_t *)table + pt_index(va, PT_2M);
	/* Ranges of RAM are rounded out to blocks, so two of them may share one. */
	if (!pte_none(*entry) && entry->raw != leaf.raw)
		return -EINVAL;
	*entry = leaf;
	return 0;
}

static int map_blocks(struct boot_paging *p, u64 va, u64 pa, u64 size, u64 attrs)
{
	for (u64 done = 0; done < size; done += BLOCK) {
		int rc = map_block(p, va + done, pa + done, attrs);

		if (rc)
			return rc;
	}
	return 0;
}

static u64 segment_attrs(u32 flags)
{
	return PTE_P | PTE_AD | (flags & ELF_PF_W ? PTE_W : 0) | (flags & ELF_PF_X ? 0 : PTE_NX);
}

int paging_build(struct boot_paging *p, struct range pool, const struct boot_mem *map, u32 count,
		 const struct boot_segment *segments, u32 segment_count, struct range jump)
{
	u64 jump_start = align_down(jump.start, BLOCK);
	int rc;

	p->next = pool.start;
	p->end = pool.end;
	p->root = new_table(p);
	if (!p->root)
		return -ENOMEM;
	for (u32 i = 0; i < count; i++) {
		u64 start = align_down(map[i].start, BLOCK);
		u64 end = align_up(map[i].end, BLOCK);

		if (!memmap_is_ram(map[i].type))
			continue;
		rc = map_blocks(p, BOOT_DIRECT_BASE + start, start, end - start, PTE_P | PTE_W | PTE_AD | PTE_NX);
		if (rc)
			return rc;
	}
	for (u32 i = 0; i < segment_count; i++) {
		const struct boot_segment *s = &segments[i];

		rc = map_blocks(p, s->va, s->pa, s->size, segment_attrs(s->flags));
		if (rc)
			return rc;
	}
	return map_blocks(p, jump_start, jump_start, align_up(jump.end, BLOCK) - jump_start, PTE_P | PTE_AD);
}
