/* SPDX-License-Identifier: MIT */
/*
 * Pages for any context (SPEC PA2): an NMI that hit the allocator itself, its lock held, is served as well as anybody.
 *
 * First comes what this CPU keeps for that (its reserve, a local_trylock), then the node, if its lock is to be had at once, then
 * the other nodes. Who gets the lock fills the reserve, too. A free that finds neither room nor lock is deferred: see buddy.h for why
 * nothing stays deferred.
 */
#include "kernel/base/log.h"
#include "mm/account.h"
#include "mm/buddy_internal.h"
#include "mm/plant.h"

static struct nolock_stats stats;

static bool order_is_served(unsigned order)
{
	return order <= 3 || order == ORDER_2M;
}

/* The reserve of this CPU for that order, entered; NULL: there is none, or whom this interrupted is inside. */
static struct page_reserve *reserve_enter(unsigned order)
{
	struct page_reserve *r;

	if (order >= PAGE_RESERVE_ORDERS)
		return NULL;
	r = &this_cache()->reserve[order];
	if (!r->room)
		return NULL;
	return PLANTED(PLANT_NMI_IN_RESERVE) || local_trylock(&r->lock) ? r : NULL;
}

/*
 * From a node, without waiting; its reserve, which is entered or NULL, is filled up at the same time. *locked: there may be something,
 * but the lock was not to be had.
 */
static struct page *try_node(struct node *n, unsigned order, struct page_reserve *r, bool *locked)
{
	struct page *page;
	unsigned got;

	if (!spin_trylock(&n->lock)) {
		*locked = true;
		return NULL;
	}
	page = node_alloc_locked(n, order, 0);
	if (page && r && r->nr < reserve_want(r)) {
		got = node_take(n, KIND_PLAIN, order, r->slots + r->nr, reserve_want(r) - r->nr);
		n->allocs += got;
		store_relaxed(&r->nr, r->nr + got);
	}
	node_unlock(n);
	return page;
}

/* Where this CPU is served its reserve comes first. */
static struct page *take_from(unsigned nid, unsigned order, bool *locked)
{
	struct page_reserve *r = nid == this_cache()->node ? reserve_enter(order) : NULL;
	struct page *page = NULL;

	if (r && r->nr) {
		page = r->slots[r->nr - 1];
		store_relaxed(&r->nr, r->nr - 1);
		page_state_change(page);
		fetch_add(&stats.from_reserve, 1);
	} else {
		page = try_node(&nodes[nid], order, r, locked);
	}
	if (r)
		local_unlock(&r->lock);
	return page;
}

static struct page *refuse(enum nolock_failure why)
{
	fetch_add(&stats.failed[why], 1);
	return NULL;
}

static struct page *take_from_any(unsigned first, unsigned order, bool *locked)
{
	struct page *page = take_from(first, order, locked);

	for (unsigned i = 0; !page && i < nr_nodes; i++)
		if (i != first)
			page = take_from(i, order, locked);
	return page;
}

struct page *alloc_pages_nolock_at(int nid, unsigned order, struct account *account, struct alloc_site *site)
{
	unsigned first = nid == NODE_ANY ? this_cache()->node : (unsigned)nid;
	bool locked = false;
	struct page *page;

	fetch_add(&stats.requests, 1);
	if (!order_is_served(order) || first >= nr_nodes)
		return refuse(NOLOCK_ORDER);
	if (unlikely(load_relaxed(&alloc_inject.armed)) && alloc_injected(site, order))
		return refuse(NOLOCK_LIMIT);
	if (account && account_charge_nolock(account, 1ull << order))
		return refuse(NOLOCK_LIMIT);
	page = take_from_any(first, order, &locked);
	if (!page) {
		if (account && !PLANTED(PLANT_ACCOUNT_LEAKS))
			account_uncharge(account, 1ull << order);
		return refuse(locked ? NOLOCK_LOCK : NOLOCK_EMPTY);
	}
	fetch_add(&stats.served, 1);
	if (account)
		account_set_page(page, account);
	if (unlikely(alloc_watch))
		alloc_watched(page, order);
	return page;
}

static bool give_to_reserve(struct page *page, unsigned order)
{
	struct page_reserve *r = NULL;
	bool room;

	if (page->node == this_cache()->node && !(page->flags & PAGE_STEERED))
		r = reserve_enter(order);
	if (!r)
		return false;
	room = r->nr < r->room;
	if (room) {
		store_relaxed(&page->state, state_cached(page, order));
		r->slots[r->nr] = page;
		store_relaxed(&r->nr, r->nr + 1);
		fetch_add(&stats.to_reserve, 1);
	}
	local_unlock(&r->lock);
	return room;
}

void free_pages_nolock(struct page *page, unsigned order)
{
	u64 pfn = page_index_of(page);
	const char *why = free_prepare(page, pfn, order);
	struct node *n;

	if (why) {
		bad_free(pfn, order, why);
		return;
	}
	if (unlikely(alloc_watch & BUDDY_POISON))
		page_poison(page, order);
	fetch_add(&stats.frees, 1);
	if (give_to_reserve(page, order))
		return;
	n = &nodes[page->node];
	if (!spin_trylock(&n->lock)) {
		fetch_add(&stats.deferred, 1);
		node_defer(n, page, order);
		return;
	}
	store_relaxed(&page->state, state_cached(page, order));
	node_give(n, (u32)pfn, order, page->flags & PAGE_STEERED ? KIND_STEERED : KIND_PLAIN);
	n->frees++;
	node_unlock(n);
}

void buddy_read_nolock_stats(struct nolock_stats *out)
{
	*out = (struct nolock_stats){
		.requests = load_relaxed(&stats.requests),
		.served = load_relaxed(&stats.served),
		.from_reserve = load_relaxed(&stats.from_reserve),
		.frees = load_relaxed(&stats.frees),
		.to_reserve = load_relaxed(&stats.to_reserve),
		.deferred = load_relaxed(&stats.deferred),
	};
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		out->failed[why] = load_relaxed(&stats.failed[why]);
}
