/* SPDX-License-Identifier: MIT */
/*
 * Accounts: who may have how many frames, and has how many (SPEC PA5).
 *
 * Accounts form a tree. A charge of n frames counts at the account and at each one above it, and is refused if one of them would
 * exceed its limit: then nothing has changed. What a CPU charges often it charges ahead: ACCOUNT_STOCK frames of one account
 * at a time are its stock, from which charges cost no atomic instruction (kernel/base/local_trylock.h). Stock counts as usage
 * where limits are compared, but is no charge: account_charged() leaves it out. A CPU takes stock only where every limit
 * leaves room for that of all CPUs besides.
 *
 * Frames are the unit. They are charged for whole allocations: by alloc_pages_account(), whose pages bring their charge back when they are
 * freed, by the unmapped cache (mm/unmapped.h), and by slab caches with an account (mm/slab.h), for their slabs. Objects are
 * not charged one by one.
 */
#ifndef MM_ACCOUNT_H
#define MM_ACCOUNT_H

#include "kernel/base/types.h"
#include "mm/buddy.h"
#include "mm/page.h"

#define ACCOUNT_STOCK 32u		/* frames that a CPU charges ahead */
#define ACCOUNT_DEPTH_MAX 16u		/* accounts from the topmost to the lowest */
#define ACCOUNT_NO_LIMIT UINT64_MAX

/* The owner's memory; the fields are the functions'. */
struct account {
	const char *name;
	struct account *parent;
	const struct account *top;	/* the topmost one above it, or itself */
	u64 limit;		/* frames */
	u64 usage;		/* frames: charged here and below, stock included */
	u64 refused;		/* charges that this limit refused */
	u32 children;
	u32 depth;		/* 1: topmost */
	struct account *next;	/* opened before it, and still open */
	u64 found;		/* scratch of account_check() */
};

/*
 * A new account below `parent` (NULL: topmost). The memory and the name stay until account_close().
 *   -E2BIG  ACCOUNT_DEPTH_MAX
 * Task context.
 */
int account_open(struct account *account, const char *name, struct account *parent, u64 limit) __must_check;

/*
 * The account is no more; its memory may be used for something else.
 *   -EBUSY  something is charged to it, or it has children; nothing changed
 * Task context, no spinlock held, interrupts on (asserted); nobody charges it meanwhile.
 */
int account_close(struct account *account) __must_check;

/*
 * Charge frames. -ENOMEM: a limit refuses them (its account counts that), and nothing has changed. Before it refuses, what CPUs have in stock
 * is called back, where the caller may wait for other CPUs: a task, interrupts on, no spinlock held. Elsewhere a
 * charge may be refused while stock of others would have done: by less than ACCOUNT_STOCK a CPU. Any context.
 */
int account_charge(struct account *account, u64 frames) __must_check;

/* The same, and no stock is called back wherever it is called: it never waits. */
int account_charge_nolock(struct account *account, u64 frames) __must_check;

/*
 * Take back a charge, in one or several parts. More than the account's usage is counted (account_bad_uncharges), named in the
 * log, and changes nothing. Any context.
 */
void account_uncharge(struct account *account, u64 frames);
extern u64 account_bad_uncharges;

/*
 * Another limit. -EBUSY: more than that is charged, and the limit is what it was. Task context, no spinlock held,
 * interrupts on (asserted).
 */
int account_set_limit(struct account *account, u64 limit) __must_check;

/* Frames that are charged to it and below it, stock left out. Exact as long as nobody charges. No account is closed meanwhile. Any context. */
u64 account_charged(const struct account *account);

/*
 * All that are open, the last opened first: NULL begins and ends. Quiescent points (no account is opened or closed meanwhile).
 */
struct account *account_next(const struct account *account);

/*
 * Forget those that were opened after `last`, which was the last one then (account_next(NULL); NULL: all), without looking at their memory,
 * which may be something else by now, and drop all stock. Whether there were any. For the test runner, behind a test that did not
 * close its own. Quiescent points.
 */
bool account_forget_since(struct account *last);

/*
 * What each open account is charged compared with the frames in use of it and of those below it, found by looking at all frames; and no
 * frame is charged to an account that is not open. Each difference is named in the log; returns how many. Whoever charges by
 * hand and has no frames for it (account_charge()) is a difference. Quiescent points (no CPU charges, allocates or frees
 * meanwhile). Task context.
 */
unsigned account_check(void);

/*
 * Call back the stock of every CPU. Needed by nobody but those who want `usage` without it. Task context, no spinlock held,
 * interrupts on (asserted).
 */
void account_drain(void);

/* Charge, then allocate: alloc_pages() and NULL for both reasons. free_pages() takes the charge back. NULL account: nobody is charged.
 * Such frames must not become page tables: struct page has no room for both. */
#define alloc_pages_account(order, flags, account)                                                      \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_account_at((order), (flags), (account), &alloc_site_);                      \
	})
struct page *alloc_pages_account_at(unsigned order, unsigned flags, struct account *account, struct alloc_site *site);

/* alloc_pages_nolock() on the same terms: any context, never waits. What a limit refuses is counted as NOLOCK_LIMIT. */
#define alloc_pages_nolock_account(nid, order, account)                                                 \
	({                                                                                              \
		static struct alloc_site alloc_site_ = { __FILE__, __LINE__, 0, 0 };                    \
		static struct alloc_site *const alloc_site_p_ __used __section("alloc_sites") = &alloc_site_; \
		alloc_pages_nolock_at((nid), (order), (account), &alloc_site_);                         \
	})

/* For the page allocator: an allocation has been charged, and brings its charge back when it is freed. */
static inline void account_set_page(struct page *page, struct account *account)
{
	page->account = (u64)account;
	page_flags_add(page, PAGE_CHARGED);
}

/* For the page allocator: the charge of an allocation whose first frame has PAGE_CHARGED, as it is freed. */
void account_uncharge_page(struct page *page, unsigned order);

#endif
