/* SPDX-License-Identifier: MIT */
/*
 * struct page: what is known of each frame, in 32 bytes; and struct block: of each 2 MiB of them.
 *
 * Both arrays are indexed from `page_array` and `block_array` by frame number and block number. They
 * have holes where there is no RAM: pfn_valid() tells, and must be asked before the page of a frame
 * that was not handed out by the allocator is touched.
 *
 * A frame always has exactly one owner class. It changes hands by one store of `class`, and the audit
 * (pt_audit.h) checks that only frames of the right class are executable.
 *
 * Blocks of more than one frame: the allocator touches the first frame's page only (an order-9 allocation is
 * not 512 stores). So alloc_pages() makes the first frame PAGE_KERNEL, and the others go on showing PAGE_FREE
 * until their owner says otherwise, by page_set_class(), for as many of them as it likes. free_pages() makes
 * all of them PAGE_FREE again: an owner need not undo its page_set_class().
 */
#ifndef MM_PAGE_H
#define MM_PAGE_H

#include "kernel/base/atomic.h"
#include "kernel/base/types.h"
#include "mm/arch.h"

/* Never looked up in another program's tables: position-independent hosted builds reach it directly too. */
#define __hidden __attribute__((visibility("hidden")))

enum page_class {
	PAGE_RESERVED = 0,	/* RAM the kernel may not use, or no frame at all */
	PAGE_FREE,		/* in the page allocator */
	PAGE_KERNEL,		/* handed out, no further class */
	PAGE_TABLE,		/* a page table */
	PAGE_SLAB,		/* small objects */
	PAGE_MEMMAP,		/* struct page itself */
	PAGE_BOOT,		/* taken at boot and never given back */
	PAGE_KERNEL_TEXT,	/* the image's text, and its tail */
	PAGE_KERNEL_RODATA,
	PAGE_KERNEL_DATA,
	PAGE_AP_START,		/* start code of the other CPUs */
	PAGE_EXECMEM,		/* executable memory pool */
	PAGE_UNMAPPED,		/* unmapped cache, or handed out by it */
	PAGE_USER,
	PAGE_DEVICE,
	PAGE_RUNTIME,		/* EFI runtime code and data */
	PAGE_CLASSES,
};

/* Name of a class, for reports. */
const char *page_class_name(enum page_class class);

#define PAGE_BUDDY 0x01		/* flags: heads a block of the buddy's free lists */
#define PAGE_CACHED 0x02	/* flags: in a per-CPU list */
#define PAGE_PENDING 0x04	/* flags, table: on its space's list of tables to collapse or free */
#define PAGE_CHARGED 0x04	/* flags, with PAGE_HEAD, no table: `account` is charged, until it is freed */
#define PAGE_PINNED 0x08	/* flags, table: never collapsed and never freed */
#define PAGE_QUARANTINE 0x10	/* flags: a CPU that may still translate to it is dead; never used again */
#define PAGE_HEAD 0x20		/* flags: first frame of an allocation; `order` says how long it is */
#define PAGE_CLASSED 0x40	/* flags, with PAGE_HEAD: page_set_class() was used on other frames of it */
#define PAGE_STEERED 0x80	/* flags: in 2 MiB that are kept for frames without a direct mapping (ALLOC_UNMAPS) */

#define PFN_NONE UINT32_MAX	/* end of a list by frame number */

struct page {
	u32 next;	/* frame numbers of neighbours on a list; PFN_NONE ends it */
	u32 prev;
	union {
		struct {
			union {
				struct {
					u8 class;	/* enum page_class; plain store, read by the audit */
					u8 order;	/* of the block or allocation that this frame heads; a
							   table: its level */
					u8 flags;
					u8 node;
				};
				u32 state;		/* the four as one word (page_state()), for the allocator */
			};
			union {
				struct {		/* class table */
					u16 breaks;	/* pairs of neighbouring entries that are not one run (pgtable.h) */
					u16 list;	/* which list of its space it is on (PAGE_PENDING): enum pt_list_id */
				};
				struct {		/* any other */
					u16 writable_aliases;	/* writable leaves outside the direct map, shared roots */
					u16 exec_aliases;	/* executable ones */
				};
			};
		};
		u64 word;	/* state and aliases in one, for free_pages(): a frame that is still mapped is not taken */
	};
	union {
		u64 gen;	/* table: generation of the last change of rights in it */
		u64 private;	/* the owner's word (slab: the cache; of the unmapped cache: its state, in use or not) */
	};
	union {
		u64 va;		/* table: first address it translates */
		u64 account;	/* who is charged */
		u64 objects;	/* slab: which of its objects are in use, one bit each */
	};
};

_Static_assert(sizeof(struct page) == 32, "metadata per frame");

/* Of each 2 MiB block. exec_* let a check of a whole leaf skip the blocks with nothing executable. */
struct block {
	u16 exec_frames;	/* frames with exec_aliases != 0 */
	u16 audit_exec;		/* scratch of a running audit: frames found executable */
	u32 plan_2m;		/* scratch of a plan: number of the plan that splits this block's direct-map leaf */
	u32 plan_1g;		/* the same for the gigabyte that this block is the first of */
	u16 unmapped;		/* frames that the unmapped cache has, in use or not */
};

/* Class, order, flags and node as the word struct page has them in. */
static inline u32 page_state(enum page_class class, unsigned order, unsigned flags, unsigned node)
{
	return (u32)class | order << 8 | flags << 16 | node << 24;
}

extern struct page *page_array __hidden;
extern struct block *block_array __hidden;
/* One past the highest frame number that has a struct page. */
extern pfn_t page_max_pfn __hidden;

#define BLOCK_ORDER 9u

static inline struct page *pfn_to_page(pfn_t pfn)
{
	return page_array + pfn;
}

static inline pfn_t page_to_pfn(const struct page *page)
{
	return (pfn_t)(page - page_array);
}

static inline phys_t page_to_phys(const struct page *page)
{
	return phys(page_to_pfn(page) << PAGE_SHIFT);
}

static inline pfn_t phys_to_pfn(phys_t pa)
{
	return pa.raw >> PAGE_SHIFT;
}

static inline struct page *phys_to_page(phys_t pa)
{
	return pfn_to_page(phys_to_pfn(pa));
}

static inline struct block *pfn_to_block(pfn_t pfn)
{
	return block_array + (pfn >> BLOCK_ORDER);
}

static inline void *page_to_virt(const struct page *page)
{
	return phys_to_virt(page_to_phys(page));
}

static inline struct page *virt_to_page(const void *p)
{
	return phys_to_page(virt_to_phys(p));
}

/*
 * Class, order and flags are written by the frame's owner, or under the lock of who has it on a list; others look at any time
 * (the allocator at its buddy, the audit, walkers), so each store is one of a whole byte.
 */
static inline enum page_class page_class(const struct page *page)
{
	return (enum page_class)load_relaxed(&page->class);
}

static inline void page_put_class(struct page *page, enum page_class class)
{
	store_relaxed(&page->class, (u8)class);
}

static inline void page_flags_add(struct page *page, unsigned flags)
{
	store_relaxed(&page->flags, (u8)(load_relaxed(&page->flags) | flags));
}

static inline void page_flags_remove(struct page *page, unsigned flags)
{
	store_relaxed(&page->flags, (u8)(load_relaxed(&page->flags) & ~flags));
}

/*
 * The struct page array exists in sections of 256 MiB of memory (2 MiB of struct page: one 2M leaf).
 * One bit each: a section with RAM. Set up by page_section_add(), constant after boot.
 */
#define SECTION_SHIFT 28u
#define SECTIONS_MAX (1u << (46 - SECTION_SHIFT))	/* 64 TiB */
extern u64 page_sections[SECTIONS_MAX / 64];

static inline bool pfn_valid(pfn_t pfn)
{
	u64 section = pfn >> (SECTION_SHIFT - PAGE_SHIFT);

	return section < SECTIONS_MAX && (page_sections[section / 64] >> (section % 64) & 1);
}

#define SECTION_FRAMES (1ull << (SECTION_SHIFT - PAGE_SHIFT))

/*
 * Declare that struct page and struct block of section nr exist, make every frame of it PAGE_RESERVED, and raise
 * page_max_pfn to the section's end. Sections of a number from SECTIONS_MAX on are not. Boot only.
 */
void page_section_add(u64 section);

/* Forget all sections (hosted tests and benchmarks, which make themselves another machine). */
void page_sections_reset(void);

/*
 * Set the class of nr frames. The caller owns them: it has allocated them and frees them, or they were never
 * the allocator's. Any context.
 */
void page_set_class(pfn_t pfn, u64 nr, enum page_class class);

#endif
