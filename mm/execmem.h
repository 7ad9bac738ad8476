/* SPDX-License-Identifier: MIT */
/*
 * Executable memory: code nobody can write, packed in large leaves (SPEC XM1..XM6; seed
 * 001_b4b10785a11bcafd.txt).
 *
 * A caller asks for memory of a type; what that means is one row of a table, and a policy is a table of
 * rows. Memory of an executable type is read-only and executable from its first mapping, by then filled
 * with INT3 (0xCC); it is written through a poke window only (text_poke.h), and what is freed is INT3
 * again before anyone gets it.
 *
 * All functions but those that only read: task context, no spinlock held, interrupts on. Of one
 * allocation, fill, seal and free are not called at the same time by two callers; of different ones, all
 * may be.
 */
#ifndef MM_EXECMEM_H
#define MM_EXECMEM_H

#include "kernel/base/range.h"
#include "kernel/base/types.h"

enum execmem_type {
	EXECMEM_TEXT,
	EXECMEM_DATA,
	EXECMEM_RODATA,
	EXECMEM_RO_AFTER_INIT,	/* writable by its own address until execmem_seal() */
	EXECMEM_INIT_TEXT,
	EXECMEM_INIT_DATA,
	EXECMEM_INIT_RODATA,
	EXECMEM_TYPES,
};

enum execmem_policy {
	EXECMEM_PAGES,		/* 4K pages per allocation, re-protected each time: where everyone starts from */
	EXECMEM_PACK,		/* allocations packed in 2 MiB regions of 4K leaves */
	EXECMEM_HUGE,		/* packed in 2M leaves */
	EXECMEM_HUGE_TAIL,	/* the same, and the tail of the kernel's own text first */
	EXECMEM_POLICIES,
};

#define EXECMEM_CHUNK 64u	/* bytes: allocations of packing policies are multiples of it, and aligned to it */
#define EXECMEM_INT3 0xccu
#define EXECMEM_SIZE_MAX (1ull << 30)
#define EXECMEM_ALIGN_MAX (1ull << 21)

/* What a type means under a policy. */
struct execmem_params {
	enum execmem_type folded;	/* the type whose regions it shares (itself: its own) */
	u32 flags;			/* EXECMEM_* below */
	u8 leaf;			/* granularity: PT_4K or PT_2M */
	u32 align;			/* bytes: sizes are rounded up to it, and addresses at least so aligned */
	u64 prot;			/* attributes of its leaves, normal form of pte.h (REPROTECT: once sealed) */
	struct range ranges[2];		/* preferred, fallback; empty: none */
	/*
	 * Write into memory of this type; fill memory that becomes free (NULL: it always goes back
	 * whole). Of one region: pfn is the frame that the address lies in, those behind it follow. 0, or
	 * -EIO.
	 */
	int (*fill)(u64 dst, pfn_t pfn, const void *src, u64 len);
	int (*invalidate)(u64 start, pfn_t pfn, u64 len);
};
#define EXECMEM_PACKED 0x1u	/* regions of 2 MiB, shared by allocations */
#define EXECMEM_UNMAPPED 0x2u	/* frames come from the unmapped cache: no direct-map alias */
#define EXECMEM_TAIL 0x4u	/* the text tail may be used */
#define EXECMEM_REPROTECT 0x8u	/* mapped writable, made read-only (and executable) by the first execmem_seal() */

/*
 * Boot: addresses, the text tail (empty: none), a random number for the base (0: pinned), policy. The
 * preferred range is used from a random 2 MiB boundary in its lower half on. Again, with nothing
 * allocated: everything anew.
 *   -EINVAL  a range is not 2 MiB-aligned, or out of reach: beyond 1 GiB below KERNEL_BASE, so that any
 *            byte of the image and any of the range are within 2 GiB of each other; ranges overlap; the
 *            tail is not 64-byte aligned or not text
 *   -EBUSY   allocations are alive
 *   -ENOMEM
 */
int execmem_init(struct range preferred, struct range fallback, struct range tail, u64 random,
		 enum execmem_policy policy) __must_check;
/*
 * Another policy, at a quiescent point. -EBUSY: allocations are alive. -EINVAL: there is no such policy.
 * -ENOMEM.
 */
int execmem_set_policy(enum execmem_policy policy) __must_check;
enum execmem_policy execmem_policy(void);
/* The text tail as it was told at boot, whatever the policy; empty: none. */
struct range execmem_text_tail(void);
/*
 * Where memory of one type may lie, under every policy, until the next execmem_init(): each range is part of
 * one of those that were told at boot, or empty (not there). A type that is folded into another one lies where
 * that does. -EINVAL: there is no such type, a range is no such part or not 2 MiB-aligned, or both are empty.
 * -EBUSY: allocations are alive.
 */
int execmem_set_ranges(enum execmem_type type, struct range preferred, struct range fallback) __must_check;
const char *execmem_policy_name(enum execmem_policy policy);
const char *execmem_type_name(enum execmem_type type);
const struct execmem_params *execmem_params(enum execmem_policy policy, enum execmem_type type);

/*
 * size bytes of a type (up to EXECMEM_SIZE_MAX), aligned to align (a power of two up to
 * EXECMEM_ALIGN_MAX, 0: the type's). NULL: bad argument (named in the log), no memory, no addresses. If
 * no whole block is to be had, 4K frames in the same range serve. What new memory holds: INT3 if
 * executable, else zero.
 */
void *execmem_alloc(enum execmem_type type, u64 size, u64 align);

/*
 * Write len bytes into memory of one allocation, whatever its rights. -EINVAL, and nothing written, if
 * any byte lies outside the size that one allocation was asked with (or in no allocation, or len is 0, or
 * wraps). Read back: -EIO if memory does not hold what was written. For executable types this CPU is
 * core-serialised before it returns; code that is being executed meanwhile is the caller's business (live
 * patching comes later).
 */
int execmem_fill(void *dst, const void *src, u64 len) __must_check;

/*
 * Make memory final: RO_AFTER_INIT becomes read-only, and under `pages` text becomes read-only and
 * executable, rodata read-only, direct-map alias included. Elsewhere nothing is left to do. Twice is
 * harmless. -EINVAL: not the beginning of an allocation; -ENOMEM (`pages`: the direct map has to be
 * split); -EIO: a CPU that was given up may still write it.
 */
int execmem_seal(void *ptr) __must_check;

/* NULL is fine; another pointer than execmem_alloc() gave is named in the log and changes nothing. */
void execmem_free(void *ptr);

struct execmem_stats {
	u64 allocs, frees, fails, fills, bytes_filled;
	u64 asked;		/* bytes callers asked for, alive now */
	u64 used;		/* the same, rounded up */
	/* Bytes of frames mapped for it (and of the tail in use), without what types folded into it use. */
	u64 held;
	u64 wasted;		/* held - asked */
	u64 regions;		/* blocks and frames mapped */
	u64 leaves_4k, leaves_2m;
	u64 blocks_taken, blocks_returned, fallbacks_4k;	/* blocks; frames that stood in for one */
	u64 tail_bytes;		/* of the text tail in use */
	u64 serialisations;	/* core-serialise requests to CPUs */
};
/* EXECMEM_TYPES: the sum. A type that is folded into another one has no regions and leaves of its own. */
void execmem_read_stats(enum execmem_type type, struct execmem_stats *out);

/* The table by type, as diagnostics. */
void execmem_print(void);

/*
 * Free spans, allocations, regions and mappings compared; every byte of an executable region (and of the
 * tail, if it is used) that no allocation has asked for is INT3; no frame of the unmapped cache has a
 * direct-map alias. Number of faults. Quiescent points.
 */
unsigned execmem_check(void);

#endif
