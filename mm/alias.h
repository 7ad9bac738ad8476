/* SPDX-License-Identifier: MIT */
/*
 * Aliases of frames, and what W^X allows (SPEC PT5).
 *
 * struct page counts, for each frame, the writable and the executable leaves that map it outside the direct map in the
 * shared kernel half. The direct map's own alias is not counted: its leaf is looked up where it matters. So whether
 * a right may be given is decided from the frame alone, without searching for its other mappings.
 *
 * All functions: kernel_space locked.
 */
#ifndef MM_ALIAS_H
#define MM_ALIAS_H

#include "mm/pgtable.h"

/* What a leaf lets the kernel do. */
static inline bool alias_writable(u64 attrs)
{
	return attrs & PTE_W;
}

/* Without NX in the CPU everything is executable, and W^X is not to be had: nothing counts as executable then. */
static inline bool alias_executable(u64 attrs)
{
	return !(attrs & PTE_NX) && (arch_mm.pte_mask & PTE_NX);
}

/* Whether frames of this class may be executable at kernel addresses. */
bool alias_class_executable(enum page_class class);

/*
 * Whether nr frames from pfn on may be mapped with `attrs` besides the aliases they have now, of which `own` (0 or 1)
 * writable ones are about to go, and so does the direct map's writability if `sealing`. 0, -EPERM, or -EAGAIN: allowed by
 * the tables, but a CPU may still hold the right that was taken away for it; flush and try again (pt_run() does).
 */
int alias_allows(pfn_t pfn, u64 nr, u64 attrs, unsigned own, bool sealing) __must_check;

/* Whether every CPU has forgotten whatever was executable once and is no longer. */
bool alias_exec_flushed(void);

/* Count leaves that come (+1) or go (-1). Frames without struct page are skipped. */
void alias_count(pfn_t pfn, u64 nr, int writable, int executable);

/* Sums over all frames, for the audit to compare with a walk. */
extern u64 alias_total_writable;
extern u64 alias_total_executable;

#endif
