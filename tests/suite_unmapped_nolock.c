/* SPDX-License-Identifier: MIT */
/*
 * Unmapped pages by node, and from any context (SPEC UM2, PA2): what an interrupter finds when the lock of a node's lists is held, the magazine
 * is, both, or nothing lies ready. The test plays both parts; tests/machine/suite_nmi_unmapped.c does it with NMIs.
 */
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/pgtable.h"
#include "mm/unmapped_internal.h"
#include "tests/test.h"

#define PAGES_MAX 128u

static enum unmapped_mode mode_before;

/* The cache as it is usually, and empty. */
static void begin(void)
{
	mode_before = unmapped_mode();
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
}

static void end(void)
{
	struct nolock_stats s;
	u64 failed = 0;

	CHECK_EQ(unmapped_deferred_now(), 0);
	CHECK_EQ(unmapped_check(), 0);
	CHECK_EQ(unmapped_set_mode(mode_before), 0);
	unmapped_read_nolock_stats(&s);
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		failed += s.failed[why];
	CHECK_EQ(s.requests, s.served + failed);
}

/* A block lies ready, and some of its pages on this CPU's magazine. */
static void warm_up(void)
{
	struct page *page = unmapped_pages_alloc(0, 0, -1, NULL);

	if (CHECK(page != NULL))
		unmapped_pages_free(page, 0);
}

static struct um_magazine *magazine(void)
{
	return &um_magazines[arch_this_cpu()->id];
}

/* The locks of all nodes: whoever comes now finds none to be had. */
static void lock_all(void)
{
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		CHECK(spin_trylock(&um_nodes[nid].lock));
}

static void unlock_all(void)
{
	for (unsigned nid = buddy_nodes(); nid-- > 0;)
		um_unlock(&um_nodes[nid]);
}

static u64 failures(enum nolock_failure why)
{
	struct nolock_stats s;

	unmapped_read_nolock_stats(&s);
	return s.failed[why];
}

/* What lies ready, of every order; and each cause of a failure by itself. */
TEST_ID(unmapped_nolock, takes_what_lies_ready, "PA2 UM1")
{
	u64 empty, order_cause;

	begin();
	empty = failures(NOLOCK_EMPTY);
	CHECK(!unmapped_pages_alloc_nolock(0, 0, -1, NULL));	/* it never refills */
	CHECK_EQ(failures(NOLOCK_EMPTY), empty + 1);
	warm_up();
	for (unsigned order = 0; order < UNMAPPED_ORDER_MAX; order++) {
		struct page *page = unmapped_pages_alloc_nolock(order, 0, -1, NULL);

		REQUIRE(page != NULL);
		CHECK_EQ(page_to_pfn(page) & (BIT(order) - 1), 0);
		CHECK_EQ(page->class, PAGE_UNMAPPED);
		CHECK_EQ(unmapped_check(), 0);
		unmapped_pages_free_nolock(page, order);
	}
	order_cause = failures(NOLOCK_ORDER);
	CHECK(!unmapped_pages_alloc_nolock(UNMAPPED_ORDER_MAX + 1, 0, -1, NULL));
	CHECK(!unmapped_pages_alloc_nolock(0, UNMAPPED_MAY_RECLAIM, -1, NULL));
	CHECK(!unmapped_pages_alloc_nolock(0, 0, (int)buddy_nodes(), NULL));
	CHECK(!unmapped_pages_alloc_nolock(0, 0, -2, NULL));
	CHECK_EQ(failures(NOLOCK_ORDER), order_cause + 4);
	end();
}

/* The lists' lock is held: the magazine serves until it is empty, then it is the lock that is in the way. */
TEST_ID(unmapped_nolock, magazine_serves_while_the_lock_is_held, "PA2")
{
	struct page *pages[PAGES_MAX], *none;
	struct nolock_stats before, now;
	unsigned n = 0;
	u32 had;

	begin();
	warm_up();
	had = magazine()->nr;
	unmapped_read_nolock_stats(&before);
	lock_all();
	while (n < PAGES_MAX && (pages[n] = unmapped_pages_alloc_nolock(0, 0, -1, NULL)))
		n++;
	none = unmapped_pages_alloc_nolock(3, 0, -1, NULL);
	unlock_all();
	unmapped_read_nolock_stats(&now);
	CHECK(!none);
	CHECK(had > UM_MAGAZINE_LOW);
	CHECK_EQ(n, had);
	CHECK_EQ(now.from_reserve - before.from_reserve, had);
	CHECK_EQ(now.failed[NOLOCK_LOCK] - before.failed[NOLOCK_LOCK], 2);
	CHECK_EQ(unmapped_check(), 0);
	while (n)
		unmapped_pages_free(pages[--n], 0);
	end();
}

/* Tasks that take single pages leave some for interrupts, as long as there are any. */
TEST_ID(unmapped_nolock, tasks_fill_the_magazine_before_it_is_empty, "PA2")
{
	struct page *pages[PAGES_MAX];
	unsigned n = 0;

	begin();
	for (; n < PAGES_MAX; n++) {
		REQUIRE(pages[n] = unmapped_pages_alloc(0, 0, -1, NULL));
		CHECK(magazine()->nr >= UM_MAGAZINE_LOW);
	}
	while (n)
		unmapped_pages_free(pages[--n], 0);
	end();
}

/* Whom this interrupted is at work on the magazine: it stays as it is, and the lists serve. */
TEST_ID(unmapped_nolock, busy_magazine_sends_to_the_lists, "PA2")
{
	struct page *page, *none;
	u64 waiting;
	u32 had;

	begin();
	warm_up();
	had = magazine()->nr;
	CHECK(spin_trylock(&magazine()->lock));
	page = unmapped_pages_alloc_nolock(0, 0, -1, NULL);
	lock_all();
	none = unmapped_pages_alloc_nolock(0, 0, -1, NULL);
	if (page)
		unmapped_pages_free_nolock(page, 0);
	waiting = unmapped_deferred_now();
	unlock_all();
	CHECK_EQ(magazine()->nr, had);
	spin_unlock(&magazine()->lock);
	CHECK(page && !none);
	CHECK_EQ(waiting, 1);
	end();
}

/* Frees that find neither room nor lock: with the lock they come back, order and all, and nobody is asked for it. */
TEST_ID(unmapped_nolock, deferred_frees_end_with_the_lock, "PA2")
{
	static const u8 orders[] = { 0, 3, 0, 1, 5, 0, 0, 2 };
	struct page *pages[PAGES_MAX];
	struct unmapped_stats stats;
	u64 waiting, warnings;
	unsigned n = 0;

	begin();
	for (; n < PAGES_MAX; n++)
		REQUIRE(pages[n] = unmapped_pages_alloc(orders[n % ARRAY_SIZE(orders)], 0, -1, NULL));
	warnings = log_warnings;
	lock_all();
	for (unsigned i = 0; i < n; i++)
		unmapped_pages_free_nolock(pages[i], orders[i % ARRAY_SIZE(orders)]);
	waiting = unmapped_deferred_now();
	unmapped_pages_free_nolock(pages[1], orders[1]);	/* waits already: refused */
	unlock_all();
	CHECK(waiting > n / 2);
	CHECK_EQ(log_warnings, warnings + 1);
	log_warnings = warnings;
	unmapped_read_stats(&stats);
	CHECK_EQ(stats.bytes_in_use, 0);
	end();
}

/* Zeroed and scrubbed in each kind of context, by its own temporary mapping. */
TEST_ID(unmapped_nolock, contents_in_every_context, "PA2 UM4")
{
	struct cpu_state *cpu = arch_this_cpu();
	struct temp_map outer;
	struct page *other;
	pfn_t pfn;

	begin();
	other = unmapped_pages_alloc(0, 0, -1, NULL);
	REQUIRE(other != NULL);
	pfn = page_to_pfn(other);
	/* Whom the interrupts hit has a mapping of its own open, and keeps it. */
	temp_map_begin(&outer, &pfn, 1, true);
	for (unsigned level = CPU_IRQ; level < CPU_NESTING_LEVELS; level++) {
		struct page *page;
		u64 word = ~0ull;

		cpu->nesting = (u8)level;
		page = unmapped_pages_alloc_nolock(0, UNMAPPED_NOSCRUB, -1, NULL);
		if (CHECK(page != NULL)) {
			temp_write(page_to_pfn(page), 80, &word, sizeof(word));
			unmapped_pages_free_nolock(page, 0);
			CHECK(unmapped_pages_alloc_nolock(0, UNMAPPED_ZERO, -1, NULL) == page);
			temp_read(page_to_pfn(page), 80, &word, sizeof(word));
			CHECK_EQ(word, 0);
			word = ~0ull;
			temp_write(page_to_pfn(page), 80, &word, sizeof(word));
			unmapped_pages_free_nolock(page, 0);
			temp_read(page_to_pfn(page), 80, &word, sizeof(word));
			CHECK_EQ(word, 0);
		}
		cpu->nesting = CPU_TASK;
	}
	*(u64 *)temp_map_ptr(&outer, 0, true) = 5;
	temp_map_end(&outer);
	unmapped_pages_free(other, 0);
	end();
}

TEST_ID(unmapped_nolock, accounts_are_charged, "PA2 PA5")
{
	struct account a;
	struct page *page, *none;
	u64 limit;

	begin();
	warm_up();
	CHECK_EQ(account_open(&a, "unmapped_nolock", NULL, 6), 0);
	limit = failures(NOLOCK_LIMIT);
	page = unmapped_pages_alloc_nolock(2, 0, -1, &a);
	CHECK_EQ(account_charged(&a), 4);
	none = unmapped_pages_alloc_nolock(2, 0, -1, &a);
	CHECK(page && !none);
	CHECK_EQ(failures(NOLOCK_LIMIT), limit + 1);
	CHECK_EQ(account_charged(&a), 4);
	lock_all();
	CHECK(!unmapped_pages_alloc_nolock(1, 0, -1, &a));	/* charged, and taken back */
	CHECK_EQ(account_charged(&a), 4);
	CHECK_EQ(account_check(), 0);
	unmapped_pages_free_nolock(page, 2);
	CHECK_EQ(account_charged(&a), 0);			/* though it waits */
	unlock_all();
	CHECK_EQ(account_close(&a), 0);
	end();
}

/* um=off: nothing lies ready; what is freed in an interrupt goes back with the next free of a task. */
TEST_ID(unmapped_nolock, without_a_cache, "PA2")
{
	struct unmapped_stats stats;
	struct page *pages[2];

	begin();
	CHECK_EQ(unmapped_set_mode(UNMAPPED_OFF), 0);
	for (unsigned i = 0; i < 2; i++)
		REQUIRE(pages[i] = unmapped_pages_alloc(1, 0, 0, NULL));
	CHECK(!unmapped_pages_alloc_nolock(0, 0, -1, NULL));
	unmapped_pages_free_nolock(pages[0], 1);
	CHECK(!unmapped_pages_alloc_nolock(0, 0, -1, NULL));
	CHECK_EQ(unmapped_check(), 0);
	unmapped_pages_free(pages[1], 1);
	unmapped_read_stats(&stats);
	CHECK_EQ(stats.bytes, 0);
	end();
}

/* ---- Nodes ---- */

static u64 free_of_node(unsigned nid)
{
	struct buddy_stats stats;

	pt_settle(&kernel_space);	/* else a table may go at any time */
	buddy_drain();
	buddy_read_node_stats(nid, &stats);
	return stats.free;
}

/* A node gives its own pages, counts them, and has them back; who insists gets no others. */
TEST_ID(unmapped_nodes, each_gives_its_own, "UM1 UM2 UM5")
{
	static const u8 orders[] = { 0, 4, UNMAPPED_ORDER_MAX };

	begin();
	for (unsigned nid = 0; nid < buddy_nodes(); nid++) {
		u64 free = free_of_node(nid);
		bool enough = free >> ORDER_2M > 8;
		struct unmapped_node_stats before, now;
		struct page *pages[2][ARRAY_SIZE(orders)];
		u64 frames = 0;

		unmapped_read_node_stats(nid, &before);
		for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
			pages[0][i] = unmapped_pages_alloc(orders[i], 0, (int)nid, NULL);
			pages[1][i] = unmapped_pages_alloc(orders[i], UNMAPPED_THIS_NODE, (int)nid, NULL);
			CHECK(pages[0][i] != NULL);
			CHECK(pages[1][i] || !enough);
			for (unsigned k = 0; k < 2; k++)
				if (pages[k][i] && (k || enough)) {
					CHECK_EQ(pages[k][i]->node, nid);
					frames += BIT(orders[i]);
				}
		}
		unmapped_read_node_stats(nid, &now);
		if (enough) {
			CHECK_EQ(now.bytes_in_use - before.bytes_in_use, frames << PAGE_SHIFT);
			CHECK(now.refills[ORDER_2M] > before.refills[ORDER_2M]);
			CHECK_EQ(unmapped_check(), 0);
		}
		for (unsigned i = 0; i < 2 * ARRAY_SIZE(orders); i++)
			if (pages[i / ARRAY_SIZE(orders)][i % ARRAY_SIZE(orders)])
				unmapped_pages_free(pages[i / ARRAY_SIZE(orders)][i % ARRAY_SIZE(orders)],
						    orders[i % ARRAY_SIZE(orders)]);
		unmapped_shrink(UNMAPPED_ALL);
		unmapped_read_node_stats(nid, &now);
		CHECK_EQ(now.bytes, 0);
		CHECK_EQ(free_of_node(nid), free);
	}
	end();
}

/* A node's memory comes before what the others' caches hold, whole blocks too. */
TEST_ID(unmapped_nodes, its_memory_before_others_caches, "UM1 UM2")
{
	static const u8 orders[] = { 0, 4, UNMAPPED_ORDER_MAX };
	unsigned nid = buddy_this_node(), other = (nid + 1) % buddy_nodes();
	struct page *page;

	if (buddy_nodes() == 1)
		SKIP("one node");
	if (free_of_node(nid) >> ORDER_2M <= 8 || free_of_node(other) >> ORDER_2M <= 8)
		SKIP("a node with less than 8 blocks of 2 MiB");
	begin();
	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		unmapped_shrink(UNMAPPED_ALL);
		REQUIRE(page = unmapped_pages_alloc(UNMAPPED_ORDER_MAX, UNMAPPED_THIS_NODE, (int)other, NULL));
		unmapped_pages_free(page, UNMAPPED_ORDER_MAX);	/* a whole block, kept by the other */
		REQUIRE(page = unmapped_pages_alloc(orders[i], 0, (int)nid, NULL));
		CHECK_EQ(page->node, nid);
		unmapped_pages_free(page, orders[i]);
	}
	end();
}

/* A node that has nothing left: others serve, but not those who insist. */
TEST_ID(unmapped_nodes, others_serve_when_one_is_empty, "UM1 UM2")
{
	unsigned nid = buddy_this_node();
	u32 first = PFN_NONE;
	struct page *page;

	if (buddy_nodes() == 1)
		SKIP("one node");
	begin();
	for (unsigned order = ORDER_MAX + 1; order-- > 0;)
		while ((page = alloc_pages_node((int)nid, order, ALLOC_THIS_NODE))) {
			page->next = first;
			first = (u32)page_to_pfn(page);
		}
	CHECK(!unmapped_pages_alloc(0, UNMAPPED_THIS_NODE, (int)nid, NULL));
	for (unsigned i = 0; i < 3; i++) {
		page = unmapped_pages_alloc(i, 0, i ? (int)nid : -1, NULL);
		CHECK(page && page->node != nid);
		if (!page)
			continue;
		unmapped_pages_free(page, i);
		page = unmapped_pages_alloc_nolock(i, 0, (int)nid, NULL);
		CHECK(page && page->node != nid);
		CHECK(!unmapped_pages_alloc_nolock(i, UNMAPPED_THIS_NODE, (int)nid, NULL));
		if (page)
			unmapped_pages_free_nolock(page, i);
	}
	CHECK_EQ(unmapped_check(), 0);
	while (first != PFN_NONE) {
		page = pfn_to_page(first);
		first = page->next;
		free_pages(page, page->order);
	}
	end();
}
