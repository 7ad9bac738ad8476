/* SPDX-License-Identifier: MIT */
/*
 * What a type of executable memory means: one table per policy, one row per type (SPEC XM1, XM5). There
 * is nothing else to a policy.
 *
 * Init types are folded into those that stay, where memory is packed: what they leave behind when init is
 * over is the others' to use. Data keeps its direct-map alias, as all data has one. Read-only data and
 * text have none, so that nothing in the direct map has to follow their rights; RO_AFTER_INIT has a page
 * of its own for what must change its rights alone.
 */
#include "arch/x86_64/pte.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "mm/execmem_internal.h"
#include "mm/plant.h"
#include "mm/text_poke.h"

#define PROT_RX (PTE_P | PTE_A | PTE_D | PTE_G)
#define PROT_R (PROT_RX | PTE_NX)
#define PROT_RW (PROT_R | PTE_W)

/* ---- fill ---- */

/* Through the address itself: it is writable. */
static int fill_direct(u64 dst, pfn_t pfn, const void *src, u64 len)
{
	const u8 *from = src;

	(void)pfn;
	for (u64 n; len; len -= n, dst += n, from += n) {
		void *to = arch_va_ptr(dst, true);

		n = MIN(len, PAGE_SIZE - (dst & (PAGE_SIZE - 1)));
		memcpy(to, from, n);
		if (memcmp(to, from, n))
			return -EIO;
	}
	return 0;
}

/* ---- invalidate ---- */

static int invalidate_int3(u64 start, pfn_t pfn, u64 len)
{
	return PLANTED(PLANT_EXECMEM_NO_INT3) ? 0 : text_poke_set(start, pfn, EXECMEM_INT3, len);
}

static int invalidate_zero(u64 start, pfn_t pfn, u64 len)
{
	return text_poke_set(start, pfn, 0, len);
}

static int invalidate_direct(u64 start, pfn_t pfn, u64 len)
{
	(void)pfn;
	for (u64 n; len; len -= n, start += n) {
		n = MIN(len, PAGE_SIZE - (start & (PAGE_SIZE - 1)));
		memset(arch_va_ptr(start, true), 0, n);
	}
	return 0;
}

/* ---- The tables ---- */

/* One user per page: written while it is writable, re-protected, and undone when it is freed. */
#define OWN_PAGES(type, prot_) \
	[type] = { .folded = (type), .flags = (prot_) & PTE_W ? 0 : EXECMEM_REPROTECT, .leaf = PT_4K, \
		   .align = PAGE_SIZE, .prot = (prot_), .fill = fill_direct }

#define PACKED_TEXT(type, leaf_, more) \
	[type] = { .folded = EXECMEM_TEXT, .flags = EXECMEM_PACKED | EXECMEM_UNMAPPED | (more), .leaf = (leaf_), \
		   .align = EXECMEM_CHUNK, .prot = PROT_RX, .fill = text_poke, .invalidate = invalidate_int3 }

#define PACKED_RODATA(type, leaf_) \
	[type] = { .folded = EXECMEM_RODATA, .flags = EXECMEM_PACKED | EXECMEM_UNMAPPED, .leaf = (leaf_), \
		   .align = EXECMEM_CHUNK, .prot = PROT_R, .fill = text_poke, .invalidate = invalidate_zero }

#define PACKED_DATA(type, leaf_) \
	[type] = { .folded = EXECMEM_DATA, .flags = EXECMEM_PACKED, .leaf = (leaf_), .align = EXECMEM_CHUNK, \
		   .prot = PROT_RW, .fill = fill_direct, .invalidate = invalidate_direct }

#define PACKED_SEALED(type) \
	[type] = { .folded = (type), .flags = EXECMEM_PACKED | EXECMEM_UNMAPPED | EXECMEM_REPROTECT, \
		   .leaf = PT_4K, .align = PAGE_SIZE, .prot = PROT_R, .fill = fill_direct, .invalidate = invalidate_zero }

#define PACKED(leaf_, more)                              \
	{                                                \
		PACKED_TEXT(EXECMEM_TEXT, leaf_, more),      \
		PACKED_DATA(EXECMEM_DATA, leaf_),            \
		PACKED_RODATA(EXECMEM_RODATA, leaf_),        \
		PACKED_SEALED(EXECMEM_RO_AFTER_INIT),        \
		PACKED_TEXT(EXECMEM_INIT_TEXT, leaf_, more), \
		PACKED_DATA(EXECMEM_INIT_DATA, leaf_),       \
		PACKED_RODATA(EXECMEM_INIT_RODATA, leaf_),   \
	}

static struct execmem_params tables[EXECMEM_POLICIES][EXECMEM_TYPES] = {
	[EXECMEM_PAGES] = {
		OWN_PAGES(EXECMEM_TEXT, PROT_RX),
		OWN_PAGES(EXECMEM_DATA, PROT_RW),
		OWN_PAGES(EXECMEM_RODATA, PROT_R),
		OWN_PAGES(EXECMEM_RO_AFTER_INIT, PROT_R),
		OWN_PAGES(EXECMEM_INIT_TEXT, PROT_RX),
		OWN_PAGES(EXECMEM_INIT_DATA, PROT_RW),
		OWN_PAGES(EXECMEM_INIT_RODATA, PROT_R),
	},
	[EXECMEM_PACK] = PACKED(PT_4K, 0),
	[EXECMEM_HUGE] = PACKED(PT_2M, 0),
	[EXECMEM_HUGE_TAIL] = PACKED(PT_2M, EXECMEM_TAIL),
};

static const char *const policy_names[EXECMEM_POLICIES] = {
	[EXECMEM_PAGES] = "pages",
	[EXECMEM_PACK] = "pack",
	[EXECMEM_HUGE] = "huge",
	[EXECMEM_HUGE_TAIL] = "huge+tail",
};

static const char *const type_names[EXECMEM_TYPES] = {
	[EXECMEM_TEXT] = "text",
	[EXECMEM_DATA] = "data",
	[EXECMEM_RODATA] = "rodata",
	[EXECMEM_RO_AFTER_INIT] = "ro-after-init",
	[EXECMEM_INIT_TEXT] = "init-text",
	[EXECMEM_INIT_DATA] = "init-data",
	[EXECMEM_INIT_RODATA] = "init-rodata",
};

const char *execmem_policy_name(enum execmem_policy policy)
{
	return (unsigned)policy < EXECMEM_POLICIES ? policy_names[policy] : "?";
}

const char *execmem_type_name(enum execmem_type type)
{
	return (unsigned)type < EXECMEM_TYPES ? type_names[type] : type == EXECMEM_TYPES ? "all" : "?";
}

const struct execmem_params *execmem_params(enum execmem_policy policy, enum execmem_type type)
{
	bool exists = (unsigned)policy < EXECMEM_POLICIES && (unsigned)type < EXECMEM_TYPES;

	return exists ? &tables[policy][type] : NULL;
}

const struct execmem_params *execmem_row(enum execmem_type type)
{
	return &tables[execmem.policy][type];
}

void execmem_types_set_ranges(enum execmem_type type, struct range preferred, struct range fallback)
{
	for (unsigned policy = 0; policy < EXECMEM_POLICIES; policy++) {
		tables[policy][type].ranges[0] = preferred;
		tables[policy][type].ranges[1] = fallback;
	}
}

/* Whatever the CPU can do: without NX everything is executable, but only this was meant to be. */
bool execmem_is_executable(const struct execmem_params *row)
{
	return !(row->prot & PTE_NX);
}
