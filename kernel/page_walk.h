/* SPDX-License-Identifier: MIT */
/* How an address is translated, level by level, as lines of the log: for panics (SPEC RP4) and the monitor (RP3). */
#ifndef KERNEL_PAGE_WALK_H
#define KERNEL_PAGE_WALK_H

#include "mm/pgtable.h"

/*
 * Write the entry at each level from that root down to where the walk ends, and return it (pte is NULL). Tables are read by
 * loads that may fault, so this ends whatever the root holds. Any context, no lock: the answer may be out of date.
 */
struct pt_slot page_walk_say(phys_t root, unsigned levels, u64 va);

/* "1G", "2M", "4K"; of the memory type that the PAT is set up to give (mm/vmalloc.h): "write-back". */
const char *page_walk_leaf_name(unsigned level);
const char *page_walk_type_name(pte_t leaf, unsigned level);

#endif
