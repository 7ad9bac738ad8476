/* SPDX-License-Identifier: MIT */
/*
 * Writing memory that is mapped read-only, by the poke window (SPEC XM2).
 *
 * The frames behind a kernel address are mapped a second time, writable and never executable, in the
 * temporary root of this CPU (temp_map.h): 4 KiB of at most two pages at a time, interrupts off,
 * forgotten by this CPU alone. The slots are the one writable alias of executable frames that the audit
 * expects (PT5). One window is open in the whole machine at a time.
 *
 * What may be written is the caller's decision: execmem_fill() asks whether it is one allocation.
 */
#ifndef MM_TEXT_POKE_H
#define MM_TEXT_POKE_H

#include "kernel/base/types.h"

/*
 * Write len bytes at a kernel address, whatever the rights of its mapping, and read them back by that
 * address. pfn: the frame that va lies in; those behind it follow each other, as far as it takes. Code
 * that runs meanwhile is the caller's business; so is text_poke_sync() afterwards. Task context. 0; -EIO:
 * memory does not hold what was written.
 */
int text_poke(u64 va, pfn_t pfn, const void *src, u64 len) __must_check;
/* The same with one byte everywhere. */
int text_poke_set(u64 va, pfn_t pfn, u8 byte, u64 len) __must_check;

/*
 * Make this CPU forget what it has fetched of text that was written: it may call it. Any context.
 */
void text_poke_sync(void);

/*
 * Text that other CPUs may have fetched has been overwritten, and its memory is going to be free for other text
 * (SPEC XM2). Any context; the overwriting comes before.
 */
void text_poke_retire(void);

/*
 * Memory of retired text is about to hold other text: every CPU has core-serialised since, when this returns. Nothing to do but a
 * compare where nothing was retired since the last time, so many frees cost one round. Task context, no spinlock held, interrupts on.
 */
void text_poke_reuse(void);

struct text_poke_stats {
	u64 windows;	/* opened */
	u64 bytes;
	u64 syncs;	/* core-serialisations of the CPU that wrote */
	u64 rounds;	/* before memory of retired text was used again: each takes all CPUs that use the kernel's space */
};
void text_poke_read_stats(struct text_poke_stats *out);

/* For tests: called with the window open, what it shows written and not yet read back. NULL: nothing. */
extern void (*text_poke_midway)(u64 va, u64 len);

#endif
