/* SPDX-License-Identifier: MIT */
/*
 * Page owner: who allocated each block that is in use, by call stack (SPEC PA6). Off unless it is started (`page_owner=on` at boot).
 *
 * While it is on, every allocation takes the allocator's slow path, which records the stack in a depot (depot.h) and
 * its number beside each of the frames: 4 bytes each, in memory of its own. The number stays when the block is freed, so a double free,
 * or a write to a free frame (BUDDY_POISON), can be told who had it. The depot's own storage, and all this allocates
 * for itself, is nobody's.
 */
#ifndef MM_PAGE_OWNER_H
#define MM_PAGE_OWNER_H

#include "kernel/base/types.h"
#include "mm/page.h"

/* Blocks in use that were allocated by one stack. */
struct page_owner_row {
	const u64 *stack;	/* return addresses, innermost first */
	unsigned depth;
	u64 blocks, frames;
	u64 blocks_before;	/* at the last page_owner_mark() */
	u64 frames_before;
};

/*
 * Start and stop. What is allocated already has no owner. -EBUSY: it is on. -ENOMEM: nothing has changed. Task context, while no
 * other CPU allocates.
 */
int page_owner_start(void) __must_check;
void page_owner_stop(void);
bool page_owner_on(void);

/* For the page allocator, while on: the block has been allocated. Any context. */
void page_owner_record(const struct page *page, unsigned order);

/*
 * What is in use now is no leak. Memory for some hundreds of stacks is taken ahead, so that what follows can count frames.
 * Task context; exact as long as nobody allocates.
 */
void page_owner_mark(void);

/*
 * Look at all frames, then tell fn of every stack that has more blocks in use than at the mark (leaks), or has any at all. The largest
 * difference (number) of frames first. Returns how many stacks there are; fn gets at most `most` of them. Task context;
 * exact as long as nobody allocates.
 */
enum page_owner_which { PAGE_OWNER_LEAKS, PAGE_OWNER_ALL };
typedef void (*page_owner_fn)(void *arg, const struct page_owner_row *row);
unsigned page_owner_report(enum page_owner_which which, unsigned most, page_owner_fn fn, void *arg);

/* The stack that allocated the block which this frame is in, or was in last: its depth, 0 if it is not known. Any context. */
unsigned page_owner_stack(const struct page *page, const u64 **stack);

/* The same report in the log, stacks with names where page_owner_name() is there for them. Returns how many stacks there are. */
unsigned page_owner_log(enum page_owner_which which, unsigned most);
/* The stack of one frame in the log, if it is known: for bad frees. Any context. */
void page_owner_log_frame(const struct page *page);

/* Writes the name of an address to buf, which is at least 32 bytes. The kernel sets it; NULL: addresses stay numbers. */
extern void (*page_owner_name)(u64 address, char *buf, size_t size);

struct page_owner_stats {
	u64 recorded;		/* blocks */
	u64 unknown;		/* of these: without a stack, as there was no room for it */
	u64 stacks;
	u64 frames;		/* that hold them */
};
void page_owner_read_stats(struct page_owner_stats *out);

#endif
