/* SPDX-License-Identifier: MIT */
/*
 * Page-table entries: bits and nothing else, no instruction and no policy.
 *
 * Intel SDM volume 3A, section 4.5 (4-level and 5-level paging), tables 4-15 to 4-20.
 * The level of an entry is the level of the table it stands in: 1 maps 4 KiB, 2 maps 2 MiB, 3 maps
 * 1 GiB, 4 (and 5) only point to tables. Level is arithmetic: one formula serves all of them.
 *
 * Attributes are handled in one normal form, that of a 4 KiB leaf (PAT in bit 7). A larger leaf has
 * PS in bit 7 and PAT in bit 12; pte_leaf() and pte_attrs() convert, and nothing else needs to know.
 */
#ifndef ARCH_X86_64_PTE_H
#define ARCH_X86_64_PTE_H

#include "kernel/base/bits.h"
#include "kernel/base/types.h"

typedef struct {
	u64 raw;
} pte_t;

enum pt_level {
	PT_4K = 1,
	PT_2M = 2,
	PT_1G = 3,
	PT_512G = 4,
	PT_256T = 5,
};

#define PT_ENTRIES 512u

#define PTE_P BIT(0)		/* present */
#define PTE_W BIT(1)		/* writable */
#define PTE_U BIT(2)		/* user */
#define PTE_PWT BIT(3)		/* PAT index bit 0 */
#define PTE_PCD BIT(4)		/* PAT index bit 1 */
#define PTE_A BIT(5)		/* accessed */
#define PTE_D BIT(6)		/* dirty (leaf) */
#define PTE_PAT BIT(7)		/* PAT index bit 2 of a 4 KiB leaf: the normal form */
#define PTE_PS BIT(7)		/* leaf, in a table of level 2 or 3 */
#define PTE_G BIT(8)		/* global (leaf) */
#define PTE_KEEP BIT(9)		/* ignored by the CPU: this leaf was asked for in its size, never collapse it */
#define PTE_PAT_LARGE BIT(12)	/* PAT index bit 2 of a 2 MiB or 1 GiB leaf */
#define PTE_PKEY (0xfull << 59)	/* protection key (leaf) */
#define PTE_NX BIT(63)

#define PTE_ADDR 0x000ffffffffff000ull	/* bits 51:12 */

/* Everything that a leaf says besides its frame, in the normal form. */
#define PTE_ATTRS (PTE_P | PTE_W | PTE_U | PTE_PWT | PTE_PCD | PTE_A | PTE_D | PTE_PAT | PTE_G | PTE_KEEP | \
		   PTE_PKEY | PTE_NX)
/* What the CPU sets by itself: never part of a comparison of rights. */
#define PTE_AD (PTE_A | PTE_D)
/* The PAT index. */
#define PTE_CACHE (PTE_PWT | PTE_PCD | PTE_PAT)

/* Bytes that one entry of a table of this level maps, and log2 of it. */
static inline unsigned pt_shift(unsigned level)
{
	return 3 + 9 * level;
}

static inline u64 pt_span(unsigned level)
{
	return 1ull << pt_shift(level);
}

/* The first address behind what one entry maps; at the top of the address space the last address instead of 0. */
static inline u64 pt_next(u64 va, unsigned level)
{
	u64 last = va | (pt_span(level) - 1);

	return last == UINT64_MAX ? last : last + 1;
}

static inline unsigned pt_index(u64 va, unsigned level)
{
	return (va >> pt_shift(level)) & (PT_ENTRIES - 1);
}

static inline bool pte_none(pte_t e)
{
	return e.raw == 0;
}

static inline bool pte_present(pte_t e)
{
	return e.raw & PTE_P;
}

static inline bool pte_is_leaf(pte_t e, unsigned level)
{
	return (e.raw & PTE_P) && (level == PT_4K || (e.raw & PTE_PS));
}

static inline bool pte_is_table(pte_t e, unsigned level)
{
	return (e.raw & (PTE_P | PTE_PS)) == PTE_P && level != PT_4K;
}

/* The table that an entry points to. */
static inline phys_t pte_table_pa(pte_t e)
{
	return phys(e.raw & PTE_ADDR);
}

/* The first frame that a leaf maps. */
static inline phys_t pte_leaf_pa(pte_t e, unsigned level)
{
	return phys(e.raw & PTE_ADDR & ~(pt_span(level) - 1));
}

/* The attributes of a leaf in the normal form. */
static inline u64 pte_attrs(pte_t e, unsigned level)
{
	u64 attrs = e.raw & PTE_ATTRS;

	if (level == PT_4K)
		return attrs;
	return (attrs & ~PTE_PAT) | (e.raw & PTE_PAT_LARGE) >> 5;
}

/* A leaf of this level; attrs in the normal form, pa aligned to the level's span. */
static inline pte_t pte_leaf(phys_t pa, u64 attrs, unsigned level)
{
	if (level == PT_4K)
		return (pte_t){ pa.raw | attrs };
	return (pte_t){ pa.raw | (attrs & ~PTE_PAT) | (attrs & PTE_PAT) << 5 | PTE_PS };
}

/* A permissive entry that points to a table: rights are decided by the leaf alone (PT3). */
static inline pte_t pte_table(phys_t table, bool user)
{
	return (pte_t){ table.raw | PTE_P | PTE_W | PTE_A | (user ? PTE_U : 0) };
}

#endif
