/* SPDX-License-Identifier: MIT */
/*
 * Mappings in kernel virtual areas: memory of one's own, aliases of frames, devices (SPEC VA1).
 *
 * All functions: task context, no spinlock held, interrupts on. Pointers are NULL when there is no memory or
 * no room; a bad argument is NULL too and named in the log. `caller` is who asks, for the table of areas: the macros
 * give the function's name.
 */
#ifndef MM_VMALLOC_H
#define MM_VMALLOC_H

#include "kernel/base/errno.h"
#include "kernel/base/types.h"
#include "mm/page.h"

/*
 * size bytes, zeroed, page-aligned, writable, NX, with guard pages. From 2 MiB on, each 2 MiB of it is one block mapped by
 * one 2M leaf as long as there are free blocks, and 512 single frames where there is none.
 */
#define vmalloc(size) vmalloc_for((size), __func__)
void *vmalloc_for(u64 size, const char *caller);
/*
 * NULL is fine; another pointer than vmalloc() gave is named in the log and changes nothing. Rights that were taken
 * from the frames meanwhile (set_memory_ro) are given back.
 */
void vfree(void *p);

/*
 * An alias of nr frames, writable or read-only, NX. The frames stay the caller's. vunmap() is 0, or -EIO: a CPU that was given up
 * may still reach them by the alias, which is nobody else's then; nor should the frames be.
 */
#define VMAP_RO 0x1u
#define vmap(pages, nr, flags) vmap_for((pages), (nr), (flags), __func__)
void *vmap_for(struct page *const *pages, u64 nr, unsigned flags, const char *caller);
int vunmap(void *p);

/* Memory types of ioremap(): indexes of the PAT as arch sets it up (reset value of entries 0..3; 4 is WC). */
enum ioremap_type {
	IOREMAP_WB,	/* tables of the firmware in RAM */
	IOREMAP_WT,
	IOREMAP_UC_MINUS,
	IOREMAP_UC,	/* registers */
	IOREMAP_WC,	/* framebuffers */
};
#define IOREMAP_RO 0x10u	/* or-ed to the type */

/*
 * Map [pa, pa + size): any alignment, the pointer returned has the same offset in its page. -EINVAL (NULL): size 0,
 * wraps, beyond the CPU's physical width, or memory that is in the direct map with another type.
 */
#define ioremap(pa, size, type) ioremap_for((pa), (size), (type), __func__)
void *ioremap_for(u64 pa, u64 size, unsigned type, const char *caller);
void iounmap(void *p);

#endif
