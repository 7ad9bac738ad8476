/* SPDX-License-Identifier: MIT */
/*
 * The boot root: the tables that the kernel is entered with (boot_info.h says what they map).
 *
 * Built while the firmware's one-to-one mapping is in force, so a table's physical address is also the
 * pointer to it; a hosted test does the same with memory of its own. Only 2 MiB leaves, A and D set, none global.
 */
#ifndef BOOT_PAGING_H
#define BOOT_PAGING_H

#include "arch/x86_64/pte.h"
#include "boot/boot_info.h"
#include "kernel/base/range.h"
#include "kernel/base/types.h"

struct boot_paging {
	unsigned levels;	/* 4 or 5 */
	bool nx;		/* whether entries may say NX */
	u64 root;		/* the top table */
	u64 next;		/* first unused table of the pool */
	u64 end;		/* its end */
};

/* Tables that paging_build() takes at most for this map. */
u64 paging_tables_needed(const struct boot_mem *map, u32 count, unsigned levels);

/*
 * Build a root from the pool [pool.start, pool.end) of page-aligned memory: the direct map of RAM, the segments, and the
 * physical range `jump` one to one, read-only and executable. -ENOMEM: the pool is too small. -EINVAL: two parts
 * ask for different leaves in one place. Either way nothing outside the pool was written.
 */
int paging_build(struct boot_paging *p, struct range pool, const struct boot_mem *map, u32 count,
		 const struct boot_segment *segments, u32 segment_count, struct range jump) __must_check;

#endif
