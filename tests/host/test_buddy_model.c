/* SPDX-License-Identifier: MIT */
/*
 * The page allocator against a flat model, on several CPUs: for each frame the model knows which allocation holds it, if
 * any. Random allocations of every kind, frees, bad frees, drains, failures, and calls as from an interrupt that finds the lock held; the
 * model says after each what may have changed.
 */
#include <stdlib.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/buddy_internal.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/test.h"

#define SLOTS 2000u
#define OTHERS UINT32_MAX	/* as an owner: of a block that was handed out before the test; its first frame only */

struct model {
	u32 *owner;		/* by frame: slot + 1 of the allocation that holds it, 0: free, or OTHERS */
	struct page *page[SLOTS];
	u8 order[SLOTS];
	u64 free;
	u64 wrong;
};

static void set_owner(struct model *m, unsigned slot, u32 value)
{
	pfn_t pfn = page_to_pfn(m->page[slot]);

	for (u64 i = 0; i < 1ull << m->order[slot]; i++) {
		m->wrong += !!m->owner[pfn + i] == !!value;
		m->owner[pfn + i] = value;
	}
	m->free += value ? -(1ull << m->order[slot]) : 1ull << m->order[slot];
}

/* A request of any kind; *nid: the node that it must be of, or NODE_ANY. */
static struct page *request(struct rng *rng, unsigned order, int *nid)
{
	u64 kind = rng_below(rng, 100);
	struct page *page;

	*nid = NODE_ANY;
	if (kind < 60)
		return alloc_pages(order, 0);
	if (kind < 70) {
		*nid = (int)rng_below(rng, buddy_nodes());
		return alloc_pages_node(*nid, order, ALLOC_THIS_NODE);
	}
	if (kind < 85)
		return alloc_pages(order, ALLOC_UNMAPS);
	if (kind < 95)
		return alloc_pages_nolock(NODE_ANY, order);
	/* Somebody holds this CPU's node. */
	if (!spin_trylock(&nodes[buddy_this_node()].lock))
		return NULL;
	page = alloc_pages_nolock(NODE_ANY, order);
	node_unlock(&nodes[buddy_this_node()]);
	return page;
}

static void do_alloc(struct model *m, struct rng *rng, unsigned slot, unsigned order, bool fails)
{
	struct page *page;
	int nid;

	if (fails)
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	page = request(rng, order, &nid);
	alloc_inject.armed = 0;
	m->page[slot] = page;
	m->order[slot] = (u8)order;
	if (!page)
		return;
	m->wrong += fails;
	m->wrong += !is_aligned(page_to_pfn(page), 1ull << order);
	m->wrong += page->word != (PAGE_STATE_ALLOCATED(order) | (u64)page->node << 24 |
				   (u64)(page->flags & PAGE_STEERED) << 16);
	m->wrong += nid != NODE_ANY && page->node != nid;
	for (u64 i = 0; i < 1ull << order; i++)
		m->wrong += page[i].node != machine_node(page_to_pfn(page) + i);
	set_owner(m, slot, slot + 1);
}

/* The usual way, or that of an interrupt, who may find the lock held. */
static void do_free(struct model *m, struct rng *rng, unsigned slot)
{
	struct node *n = &nodes[m->page[slot]->node];
	u64 kind = rng_below(rng, 100);

	set_owner(m, slot, 0);
	if (kind < 70) {
		free_pages(m->page[slot], m->order[slot]);
	} else if (kind < 90 || !spin_trylock(&n->lock)) {
		free_pages_nolock(m->page[slot], m->order[slot]);
	} else {
		free_pages_nolock(m->page[slot], m->order[slot]);
		node_unlock(n);
	}
	m->wrong += buddy_deferred_now();
	m->page[slot] = NULL;
}

/* Who frees somebody's block, in its order, is believed. Not so of page tables: they are nobody's to free. */
static void find_others(struct model *m)
{
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++) {
		if (!pfn_valid(pfn))
			pfn |= SECTION_FRAMES - 1;
		else if (pfn_to_page(pfn)->flags & PAGE_HEAD && pfn_to_page(pfn)->class != PAGE_TABLE)
			m->owner[pfn] = OTHERS;
	}
}

static bool is_allocation(const struct model *m, pfn_t pfn, unsigned order)
{
	u32 owner = m->owner[pfn];

	if (owner == OTHERS)
		return pfn_to_page(pfn)->order == order;
	return owner && page_to_pfn(m->page[owner - 1]) == pfn && m->order[owner - 1] == order;
}

/* A free of anything but the first frame of an allocation in its own order. */
static void do_bad_free(struct model *m, struct rng *rng)
{
	pfn_t pfn = rng_below(rng, page_max_pfn);
	unsigned order = (unsigned)rng_below(rng, ORDER_MAX + 1);
	u64 warnings = log_warnings;

	if (!pfn_valid(pfn) || is_allocation(m, pfn, order))
		return;
	free_pages(pfn_to_page(pfn), order);
	m->wrong += log_warnings != warnings + 1;
}

static unsigned random_order(struct rng *rng)
{
	u64 r = rng_below(rng, 100);

	if (r < 60)
		return 0;
	return (unsigned)rng_below(rng, r < 98 ? 10 : 14);
}

/* Every frame of the allocator's is free or an allocation's, as the model says; blocks cover the free ones. */
static void check_frames(struct model *m)
{
	struct buddy_stats stats;
	u64 in_blocks = 0;

	buddy_drain();
	buddy_read_stats(&stats);
	m->wrong += stats.free != m->free;
	m->wrong += stats.cached != 0;
	for (pfn_t pfn = 0; pfn < page_max_pfn;) {
		const struct page *page;

		if (!pfn_valid(pfn)) {
			pfn += SECTION_FRAMES;
			continue;
		}
		page = pfn_to_page(pfn);
		if (!(page->flags & PAGE_BUDDY)) {
			pfn++;
			continue;
		}
		for (u64 i = 0; i < 1ull << page->order; i++) {
			m->wrong += m->owner[pfn + i] != 0;
			m->wrong += i && page[i].flags;
		}
		in_blocks += 1ull << page->order;
		/* A block whose buddy is free too should have been one with it. */
		if (page->order < ORDER_MAX && pfn_valid(pfn ^ 1ull << page->order)) {
			const struct page *buddy = pfn_to_page(pfn ^ 1ull << page->order);

			m->wrong += buddy->flags & PAGE_BUDDY && buddy->order == page->order && buddy->node == page->node;
		}
		pfn += 1ull << page->order;
	}
	m->wrong += in_blocks != m->free;
}

TEST_ID(host_buddy, random_operations_match_a_flat_model, "PA1 PA7 PA8")
{
	u64 ops = machine_full ? 10000000 : 100000;
	struct model *m = calloc(1, sizeof(*m));
	struct rng rng = test_rng();
	u32 cpu = host.cpu;

	REQUIRE(m);
	m->owner = calloc(page_max_pfn, sizeof(*m->owner));
	REQUIRE(m->owner);
	buddy_drain();
	find_others(m);
	m->free = buddy_free_frames();
	for (u64 i = 0; i < ops; i++) {
		unsigned slot = (unsigned)rng_below(&rng, SLOTS);

		if (rng_below(&rng, 64) == 0)
			host_cpu_set((u32)rng_below(&rng, host.nr_cpus));
		if (m->page[slot])
			do_free(m, &rng, slot);
		else
			do_alloc(m, &rng, slot, random_order(&rng), rng_below(&rng, 50) == 0);
		if (rng_below(&rng, 2000) == 0)
			do_bad_free(m, &rng);
		if (rng_below(&rng, 500) == 0)
			m->wrong += buddy_free_frames() != m->free;
		if (rng_below(&rng, ops / 8) == 0)
			check_frames(m);
	}
	check_frames(m);
	CHECK_EQ(m->wrong, 0);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		if (m->page[slot])
			do_free(m, &rng, slot);
	check_frames(m);
	CHECK_EQ(m->wrong, 0);
	host_cpu_set(cpu);
	free(m->owner);
	free(m);
}

/* What one CPU freed is another one's to allocate, but for what the first one's stacks hold, which is limited. */
TEST_ID(host_buddy, stacks_hold_little_of_the_memory, "PA1")
{
	u64 free = buddy_free_frames(), cached;
	struct buddy_stats stats;
	u32 cpu = host.cpu;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	for (u32 c = 0; c < host.nr_cpus; c++) {
		struct page *pages[200];

		host_cpu_set(c);
		for (unsigned order = 0; order < PAGE_STACKED_ORDERS; order++) {
			unsigned n = order < 5 ? ARRAY_SIZE(pages) : 40;

			for (unsigned i = 0; i < n; i++)
				REQUIRE((pages[i] = alloc_pages(order, 0)));
			for (unsigned i = 0; i < n; i++)
				free_pages(pages[i], order);
		}
	}
	host_cpu_set(cpu);
	buddy_read_stats(&stats);
	cached = stats.cached;
	CHECK(cached > 0);
	CHECK(cached <= PAGE_STACKED_ORDERS * stats.frames / 64);
	CHECK_EQ(stats.free, free);
	buddy_drain();
	CHECK_EQ(buddy_free_frames(), free);
}

/* A CPU without stacks takes the way to the node each time, and nothing else is different. */
TEST_ID(host_buddy, a_cpu_without_stacks_allocates_too, "PA1")
{
	struct page_cache *own = arch_this_cpu()->pages;
	struct buddy_stats before, now;

	arch_this_cpu()->pages = &page_cache_none;
	buddy_read_stats(&before);
	for (unsigned order = 0; order <= ORDER_2M + 2; order++) {
		struct page *page = alloc_pages(order, ALLOC_ZERO);

		CHECK(page != NULL);
		free_pages(page, order);
	}
	buddy_read_stats(&now);
	arch_this_cpu()->pages = own;
	CHECK_EQ(now.allocs, before.allocs + ORDER_2M + 3);
	CHECK_EQ(now.frees, before.frees + ORDER_2M + 3);
	CHECK_EQ(now.free, before.free);
	CHECK_EQ(now.cached, before.cached);
}
