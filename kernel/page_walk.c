/* SPDX-License-Identifier: MIT */
/* Walks for people: each entry as it stands, and what its bits say. */
#include "kernel/page_walk.h"

#include "arch/x86_64/trap.h"
#include "kernel/base/log.h"
#include "mm/arch.h"

const char *page_walk_leaf_name(unsigned level)
{
	static const char *const names[] = { [PT_4K] = "4K", [PT_2M] = "2M", [PT_1G] = "1G" };

	return level < ARRAY_SIZE(names) && names[level] ? names[level] : "?";
}

const char *page_walk_type_name(pte_t leaf, unsigned level)
{
	static const char *const types[] = { "write-back", "write-through", "uncached-", "uncached", "write-combining" };
	u64 attrs = pte_attrs(leaf, level);
	unsigned index = (attrs & PTE_PWT ? 1 : 0) + (attrs & PTE_PCD ? 2 : 0) + (attrs & PTE_PAT ? 4 : 0);

	return index < ARRAY_SIZE(types) ? types[index] : "unknown memory type";
}

static void say_entry(unsigned level, u64 va, pte_t e)
{
	static const struct {
		u64 bit;
		char letter;
	} flags[] = { { PTE_W, 'W' }, { PTE_U, 'U' }, { PTE_PWT, 'T' }, { PTE_PCD, 'C' },
		      { PTE_A, 'A' }, { PTE_D, 'D' }, { PTE_G, 'G' } };
	char text[ARRAY_SIZE(flags) + 1];
	size_t n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
		if (e.raw & flags[i].bit)
			text[n++] = flags[i].letter;
	text[n] = 0;
	log_info("  level %u entry %3u: %016lx %s %s%s", level, pt_index(va, level), e.raw,
		 !pte_present(e) ? "absent" : pte_is_leaf(e, level) ? "leaf" : "table", text, e.raw & PTE_NX ? " NX" : "");
}

struct pt_slot page_walk_say(phys_t root, unsigned levels, u64 va)
{
	struct pt_slot s = { .level = (u8)levels };
	phys_t table = root;

	for (;; s.level--) {
		if (!trap_read_u64(arch_mm.direct_base + table.raw + 8 * pt_index(va, s.level), &s.value.raw)) {
			log_info("  level %u: the table at 0x%lx cannot be read", s.level, table.raw);
			return (struct pt_slot){ .level = s.level };
		}
		say_entry(s.level, va, s.value);
		if (!pte_is_table(s.value, s.level))
			return s;
		table = pte_table_pa(s.value);
	}
}
