/* SPDX-License-Identifier: MIT */
/*
 * Pages from any context (SPEC PA2, PA3): what an interrupter finds when the node's lock is held, the reserve is being worked on, both, or
 * nothing is left. The test plays both parts; tests/machine/suite_nmi_pages.c does it with NMIs.
 */
#include "kernel/base/errno.h"
#include "kernel/base/local_trylock.h"
#include "kernel/base/log.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/buddy_internal.h"
#include "tests/test.h"

#define PAGES_MAX 128u

static u64 failures(const struct nolock_stats *s)
{
	u64 sum = 0;

	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		sum += s->failed[why];
	return sum;
}

static void check_sum(void)
{
	struct nolock_stats s;

	buddy_read_nolock_stats(&s);
	CHECK_EQ(s.requests, s.served + failures(&s));
}

/* All locks of nodes: whoever comes now finds none to be had. */
static void lock_all(void)
{
	for (unsigned i = 0; i < nr_nodes; i++)
		CHECK(spin_trylock(&nodes[i].lock));
}

static void unlock_all(void)
{
	for (unsigned i = nr_nodes; i-- > 0;)
		node_unlock(&nodes[i]);
}

/* Go through the slow path of an ordinary allocation of that order, which fills the reserve. */
static void warm_up(unsigned order)
{
	struct page *pages[PAGES_MAX];
	unsigned n = 0;

	buddy_drain();
	while (n < 2 && (pages[n] = alloc_pages(order, 0)))
		n++;
	while (n)
		free_pages(pages[--n], order);
}

TEST_ID(nolock, orders_that_are_served, "PA2")
{
	u64 free = buddy_free_frames();
	struct nolock_stats before, now;

	for (unsigned order = 0; order <= ORDER_MAX + 1; order++) {
		struct page *page;

		buddy_read_nolock_stats(&before);
		page = alloc_pages_nolock(NODE_ANY, order);
		buddy_read_nolock_stats(&now);
		if (order <= 3 || order == ORDER_2M) {
			REQUIRE(page);
			CHECK_EQ(page_to_pfn(page) & ((1ull << order) - 1), 0);
			CHECK_EQ(page->flags & PAGE_HEAD, PAGE_HEAD);
			CHECK_EQ(page->order, order);
			CHECK_EQ(buddy_free_frames(), free - (1ull << order));
			free_pages_nolock(page, order);
		} else {
			CHECK(!page);
			CHECK_EQ(now.failed[NOLOCK_ORDER], before.failed[NOLOCK_ORDER] + 1);
		}
		CHECK_EQ(buddy_free_frames(), free);
	}
	CHECK(!alloc_pages_nolock((int)nr_nodes, 0));
	CHECK(!alloc_pages_nolock(-2, 0));
	check_sum();
}

/* The lock is held: the reserve serves until it is empty, then it is the lock that is in the way. */
TEST_ID(nolock, reserve_serves_while_the_lock_is_held, "PA2 PA3")
{
	for (unsigned order = 0; order < PAGE_RESERVE_ORDERS; order++) {
		const struct page_reserve *r = &arch_this_cpu()->pages->reserve[order];
		struct nolock_stats before, now;
		struct page *pages[PAGES_MAX], *none;
		u64 free = buddy_free_frames();
		unsigned n = 0;
		u32 had;

		warm_up(order);
		had = r->nr;
		CHECK_EQ(had, reserve_want(r));
		buddy_read_nolock_stats(&before);
		lock_all();
		CHECK(buddy_lock_held_here());
		while (n < PAGES_MAX && (pages[n] = alloc_pages_nolock(NODE_ANY, order)))
			n++;
		none = alloc_pages_nolock(NODE_ANY, order);
		unlock_all();
		CHECK(!buddy_lock_held_here());
		buddy_read_nolock_stats(&now);
		CHECK(!none);
		CHECK_EQ(n, had);
		CHECK_EQ(now.from_reserve - before.from_reserve, had);
		CHECK_EQ(now.failed[NOLOCK_LOCK] - before.failed[NOLOCK_LOCK], 2);
		CHECK_EQ(buddy_free_frames(), free - ((u64)n << order));
		none = alloc_pages_nolock(NODE_ANY, order);	/* the lock is free: this fills the reserve, too */
		CHECK(none);
		CHECK_EQ(r->nr, had);
		free_pages_nolock(none, order);
		while (n)
			free_pages(pages[--n], order);
		CHECK_EQ(buddy_free_frames(), free);
	}
	check_sum();
}

/* Frees that find neither room nor lock: with the lock they come back, and nobody is asked for it. */
TEST_ID(nolock, deferred_frees_end_with_the_lock, "PA2")
{
	static const unsigned orders[] = { 0, 0, 3, 0, 1, 9, 5, 10, 0, 2 };
	struct page *pages[PAGES_MAX];
	unsigned n = 0;
	u64 free = buddy_free_frames(), waiting, warnings;
	struct buddy_stats before, now;
	struct nolock_stats stats, after;

	for (; n < PAGES_MAX; n++)
		REQUIRE(pages[n] = alloc_pages(orders[n % ARRAY_SIZE(orders)], 0));
	buddy_read_stats(&before);
	buddy_read_nolock_stats(&stats);
	warnings = log_warnings;
	lock_all();
	for (unsigned i = 0; i < n; i++)
		free_pages_nolock(pages[i], orders[i % ARRAY_SIZE(orders)]);
	waiting = buddy_deferred_now();
	free_pages_nolock(pages[n - 1], orders[(n - 1) % ARRAY_SIZE(orders)]);	/* waits already: refused */
	unlock_all();
	CHECK_EQ(buddy_deferred_now(), 0);
	buddy_read_stats(&now);
	buddy_read_nolock_stats(&after);
	CHECK(waiting > n / 2);
	CHECK_EQ(after.deferred - stats.deferred, waiting);
	CHECK_EQ(after.frees - stats.frees, n);
	CHECK_EQ(after.frees - stats.frees, waiting + (after.to_reserve - stats.to_reserve));
	CHECK_EQ(now.deferred - before.deferred, waiting);
	CHECK_EQ(now.deferred_now, 0);
	CHECK(now.deferred_most >= waiting / nr_nodes);
	CHECK_EQ(now.bad_frees, before.bad_frees + 1);
	CHECK_EQ(log_warnings, warnings + 1);
	CHECK_EQ(now.free, free);
}

/* Whom this interrupted is at work on the reserve: it stays as it is. */
TEST_ID(nolock, busy_reserve_sends_to_the_node, "PA2 PA3")
{
	struct page_reserve *r = arch_this_cpu()->pages->reserve;
	struct buddy_stats before, now;
	struct page *page, *none;
	u64 waiting;
	u32 had;

	warm_up(0);
	had = r->nr;
	buddy_read_stats(&before);
	CHECK(local_trylock(&r->lock));
	CHECK(!local_trylock(&r->lock));
	page = alloc_pages_nolock(NODE_ANY, 0);
	lock_all();
	none = alloc_pages_nolock(NODE_ANY, 0);
	if (page)
		free_pages_nolock(page, 0);
	waiting = buddy_deferred_now();
	unlock_all();
	CHECK_EQ(r->nr, had);
	CHECK(local_trylock_busy(&r->lock));
	local_unlock(&r->lock);
	CHECK(!local_trylock_busy(&r->lock));
	CHECK(page);
	CHECK(!none);
	CHECK_EQ(waiting, 1);
	buddy_read_stats(&now);
	CHECK_EQ(now.allocs, before.allocs + 1);
	CHECK_EQ(now.frees, before.frees + 1);
	CHECK_EQ(now.free, before.free);
	check_sum();
}

TEST_ID(nolock, nothing_left, "PA2")
{
	struct nolock_stats before, now;
	struct buddy_stats stats;
	u32 first = PFN_NONE;
	u64 left;

	for (unsigned order = ORDER_MAX + 1; order-- > 0;)
		for (struct page *page; (page = alloc_pages(order, 0));) {
			page->next = first;
			first = (u32)page_to_pfn(page);
		}
	buddy_read_nolock_stats(&before);
	for (unsigned order = 0; order <= 3; order++)
		CHECK(!alloc_pages_nolock(NODE_ANY, order));
	buddy_read_nolock_stats(&now);
	left = buddy_free_frames();
	while (first != PFN_NONE) {
		struct page *page = pfn_to_page(first);

		first = page->next;
		free_pages_nolock(page, page->order);
	}
	CHECK_EQ(left, 0);
	CHECK_EQ(now.failed[NOLOCK_EMPTY] - before.failed[NOLOCK_EMPTY], 4);
	buddy_read_stats(&stats);
	CHECK(stats.free > 0);
	check_sum();
}

TEST_ID(nolock, injected_failures_are_its_limit, "PA2 PA8")
{
	u64 free = buddy_free_frames();
	struct nolock_stats before, now;
	struct page *first, *second;

	buddy_read_nolock_stats(&before);
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 2 };
	first = alloc_pages_nolock(NODE_ANY, 0);
	second = alloc_pages_nolock(NODE_ANY, 0);
	alloc_inject.armed = 0;
	buddy_read_nolock_stats(&now);
	CHECK(first && !second);
	CHECK_EQ(now.failed[NOLOCK_LIMIT] - before.failed[NOLOCK_LIMIT], 1);
	CHECK_EQ(alloc_inject.failed, 1);
	free_pages_nolock(first, 0);
	CHECK_EQ(buddy_free_frames(), free);
	check_sum();
}

/* A limit refuses, or there is nothing to be had: neither leaves a trace. free_pages() brings the charge back as well. */
TEST_ID(nolock, accounts_are_charged, "PA2 PA5")
{
	struct account top, below;
	struct nolock_stats before, now;
	struct page *one, *four, *none;
	u64 free = buddy_free_frames();

	CHECK_EQ(account_open(&top, "top", NULL, 5), 0);
	CHECK_EQ(account_open(&below, "below", &top, ACCOUNT_NO_LIMIT), 0);
	buddy_read_nolock_stats(&before);
	one = alloc_pages_nolock_account(NODE_ANY, 0, &below);
	four = alloc_pages_nolock_account(NODE_ANY, 2, &top);
	REQUIRE(one && four);
	CHECK_EQ(account_charged(&below), 1);
	CHECK_EQ(account_charged(&top), 5);
	none = alloc_pages_nolock_account(NODE_ANY, 0, &below);
	CHECK(!none);
	CHECK(!alloc_pages_nolock_account(NODE_ANY, ORDER_2M, &below));
	buddy_read_nolock_stats(&now);
	CHECK_EQ(now.failed[NOLOCK_LIMIT] - before.failed[NOLOCK_LIMIT], 2);
	CHECK_EQ(now.served - before.served, 2);
	CHECK_EQ(top.refused, 2);
	CHECK_EQ(account_check(), 0);
	CHECK_EQ(buddy_free_frames(), free - 5);
	free_pages_nolock(four, 2);
	CHECK_EQ(account_charged(&top), 1);
	lock_all();
	none = alloc_pages_nolock_account(NODE_ANY, ORDER_2M, &below);	/* the limit comes first */
	CHECK(!none);
	unlock_all();
	CHECK_EQ(account_set_limit(&top, 5000), 0);
	lock_all();
	none = alloc_pages_nolock_account(NODE_ANY, ORDER_2M, &below);	/* there is no reserve of that order */
	unlock_all();
	CHECK(!none);
	buddy_read_nolock_stats(&now);
	CHECK_EQ(now.failed[NOLOCK_LIMIT] - before.failed[NOLOCK_LIMIT], 3);
	CHECK_EQ(now.failed[NOLOCK_LOCK] - before.failed[NOLOCK_LOCK], 1);
	CHECK_EQ(account_charged(&below), 1);
	free_page(one);
	CHECK_EQ(account_charged(&top), 0);
	CHECK_EQ(buddy_free_frames(), free);
	CHECK_EQ(account_close(&below), 0);
	CHECK_EQ(account_close(&top), 0);
	check_sum();
}

/* What others charged ahead is called back by who may wait, never by this. */
TEST_ID(nolock, no_stock_is_called_back, "PA2 PA5")
{
	struct account a, b;
	struct page *page;

	CHECK_EQ(account_open(&a, "a", NULL, ACCOUNT_NO_LIMIT), 0);
	CHECK_EQ(account_open(&b, "b", &a, ACCOUNT_NO_LIMIT), 0);
	CHECK_EQ(account_charge(&b, 1), 0);	/* this CPU has stock of b now */
	CHECK(a.usage > 1);
	a.limit = a.usage;
	CHECK(!alloc_pages_nolock_account(NODE_ANY, 0, &a));
	CHECK_EQ(account_charge_nolock(&a, 1), -ENOMEM);
	CHECK_EQ(a.usage, a.limit);
	page = alloc_pages_account(0, 0, &a);
	CHECK(page);
	CHECK_EQ(a.usage, 2);
	free_page(page);
	account_uncharge(&b, 1);
	CHECK_EQ(account_close(&b), 0);
	CHECK_EQ(account_close(&a), 0);
	check_sum();
}

TEST_ID(nolock, bad_frees_are_refused, "PA2 PA7")
{
	struct page *page = alloc_pages(2, 0);
	struct buddy_stats before, now;

	REQUIRE(page);
	buddy_read_stats(&before);
	free_pages_nolock(page, 1);
	free_pages_nolock(page + 1, 0);
	free_pages_nolock(NULL, 0);
	free_pages_nolock((struct page *)((u8 *)page + 4), 2);
	free_pages_nolock(page, 2);
	free_pages_nolock(page, 2);
	buddy_read_stats(&now);
	CHECK_EQ(now.bad_frees, before.bad_frees + 5);
	CHECK_EQ(now.free, before.free + 4);
}

/* ---- Nodes and bulk ---- */

TEST_ID(nodes, each_gives_its_own, "PA1")
{
	for (unsigned nid = 0; nid < buddy_nodes(); nid++) {
		struct buddy_stats stats, now;

		buddy_read_node_stats(nid, &stats);
		for (unsigned order = 0; order <= ORDER_2M; order++) {
			struct page *page = alloc_pages_node((int)nid, order, ALLOC_THIS_NODE);
			struct page *any = alloc_pages_node((int)nid, order, 0);

			if (stats.free >> ORDER_2M > 2) {
				REQUIRE(page && any);
				CHECK_EQ(page->node, nid);
				CHECK_EQ(any->node, nid);
			}
			CHECK(any);
			if (page)
				free_pages(page, order);
			if (any)
				free_pages(any, order);
		}
		buddy_read_node_stats(nid, &now);
		CHECK_EQ(now.free, stats.free);
	}
	CHECK(!alloc_pages_node((int)buddy_nodes(), 0, 0));
	CHECK(!alloc_pages_node(-2, 0, 0));
	CHECK(buddy_this_node() < buddy_nodes());
}

/* Every frame says which node it is of, on lists and off, and blocks lie in one. */
TEST_ID(nodes, frames_and_lists_agree, "PA1")
{
	u64 wrong = 0, free[NODES_MAX] = { 0 };

	buddy_drain();
	for (pfn_t pfn = 0; pfn < page_max_pfn;) {
		const struct page *page;

		if (!pfn_valid(pfn)) {
			pfn += SECTION_FRAMES;
			continue;
		}
		page = pfn_to_page(pfn);
		wrong += page->node >= buddy_nodes();
		if (!(page->flags & PAGE_BUDDY)) {
			pfn++;
			continue;
		}
		for (u64 i = 1; i < 1ull << page->order; i++)
			wrong += page[i].node != page->node;
		free[page->node] += 1ull << page->order;
		pfn += 1ull << page->order;
	}
	CHECK_EQ(wrong, 0);
	for (unsigned nid = 0; nid < buddy_nodes(); nid++) {
		struct buddy_stats stats;

		buddy_read_node_stats(nid, &stats);
		CHECK_EQ(stats.free - stats.cached, free[nid]);
		CHECK(stats.free <= stats.frames);
	}
}

TEST_ID(bulk, all_that_was_asked_for, "PA4")
{
	static struct page *pages[1500];
	static const u64 sizes[] = { 0, 1, 7, 128, 300, 1500 };
	u64 free = buddy_free_frames();

	for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
		u64 wrong = 0, got = alloc_pages_bulk(NODE_ANY, sizes[s], pages);

		CHECK_EQ(got, sizes[s]);
		CHECK_EQ(buddy_free_frames(), free - got);
		for (u64 i = 0; i < got; i++)
			wrong += pages[i]->flags != PAGE_HEAD || pages[i]->order || pages[i]->class != PAGE_KERNEL;
		CHECK_EQ(wrong, 0);
		/* No page twice: a second free of one would be refused. */
		for (u64 i = 0; i < got; i++)
			free_page(pages[i]);
		CHECK_EQ(buddy_free_frames(), free);
	}
	CHECK_EQ(alloc_pages_bulk((int)buddy_nodes(), 5, pages), 0);
}

TEST_ID(bulk, ends_at_an_injected_failure, "PA4 PA8")
{
	struct page *pages[64];
	u64 free = buddy_free_frames(), got;

	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 40 };
	got = alloc_pages_bulk(NODE_ANY, ARRAY_SIZE(pages), pages);
	alloc_inject.armed = 0;
	CHECK_EQ(got, 39);
	CHECK_EQ(alloc_inject.failed, 1);
	while (got)
		free_page(pages[--got]);
	CHECK_EQ(buddy_free_frames(), free);
}
