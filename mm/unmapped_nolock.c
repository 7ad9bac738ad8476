/* SPDX-License-Identifier: MIT */
/*
 * Unmapped pages for any context (SPEC PA2): an NMI that hit the cache itself, its lock held, is served too, from what lies ready.
 *
 * First comes the magazine of this CPU, then the lists of the node, each if its lock is to be had at once, then the lists of the other nodes. A
 * refill flushes, and is left to tasks; so is the return of what is free beyond the mark. A free that finds the lock held is deferred:
 * see deferred.h for why nothing stays so.
 */
#include "mm/unmapped_internal.h"

struct um_nolock um_nolock;

static struct um_magazine *my_magazine(void)
{
	return &um_magazines[arch_this_cpu()->id];
}

/* Without waiting. *locked: there may be some, but the lock was not to be had. */
static struct page *take_from_magazine(bool *locked)
{
	struct um_magazine *m = my_magazine();
	struct page *page = NULL;

	if (!spin_trylock(&m->lock)) {
		*locked = true;
		return NULL;
	}
	if (m->nr)
		page = um_magazine_pop(m);
	spin_unlock(&m->lock);
	if (page)
		fetch_add(&um_nolock.stats.from_reserve, 1);
	return page;
}

static struct page *take_from(unsigned nid, unsigned order, bool *locked)
{
	struct um_node *n = &um_nodes[nid];
	struct page *page = NULL;

	if (!order && nid == arch_this_cpu()->pages->node)
		page = take_from_magazine(locked);
	if (page)
		return page;
	if (!spin_trylock(&n->lock)) {
		*locked = true;
		return NULL;
	}
	page = um_take(n, order, UM_TAKEN);
	um_unlock(n);
	return page;
}

static struct page *refuse(enum nolock_failure why)
{
	fetch_add(&um_nolock.stats.failed[why], 1);
	return NULL;
}

struct page *unmapped_pages_alloc_nolock(unsigned order, unsigned flags, int nid, struct account *account)
{
	const unsigned known = UNMAPPED_ZERO | UNMAPPED_NOSCRUB | UNMAPPED_THIS_NODE;
	unsigned first = nid == NODE_ANY ? arch_this_cpu()->pages->node : (unsigned)nid;
	unsigned nodes = flags & UNMAPPED_THIS_NODE ? 1 : buddy_nodes();
	struct page *page = NULL;
	bool locked = false;

	fetch_add(&um_nolock.stats.requests, 1);
	if (order > UNMAPPED_ORDER_MAX || flags & ~known || first >= buddy_nodes())
		return refuse(NOLOCK_ORDER);
	if (account && account_charge_nolock(account, BIT(order)))
		return refuse(NOLOCK_LIMIT);
	/* Without a cache nothing lies ready. */
	for (unsigned i = 0; um_cache.mode != UNMAPPED_OFF && !page && i < nodes; i++)
		page = take_from(um_nth_node(first, i), order, &locked);
	if (!page) {
		if (account)
			account_uncharge(account, BIT(order));
		return refuse(locked ? NOLOCK_LOCK : NOLOCK_EMPTY);
	}
	fetch_add(&um_nolock.stats.served, 1);
	fetch_add(&um_nolock.frames, BIT(order));
	um_hand_out(my_magazine(), page, order, flags, account);
	return page;
}

static bool give_to_magazine(struct page *page)
{
	struct um_magazine *m = my_magazine();
	bool room;

	if (!spin_trylock(&m->lock))
		return false;
	room = m->nr < UM_MAGAZINE;
	if (room)
		um_magazine_push(m, page);
	spin_unlock(&m->lock);
	if (room)
		fetch_add(&um_nolock.stats.to_reserve, 1);
	return room;
}

void unmapped_pages_free_nolock(struct page *page, unsigned order)
{
	u64 was = um_free_begin(page, order);
	struct um_node *n = &um_nodes[um_nid_of_word(was)];

	if (!was) {
		um_bad_free(page, order);
		return;
	}
	fetch_add(&um_nolock.stats.frees, 1);
	fetch_add(&um_nolock.frames, -BIT(order));
	um_take_back(my_magazine(), page, order, was);
	if (!order && um_cache.mode != UNMAPPED_OFF && um_nid_of_word(was) == arch_this_cpu()->pages->node &&
	    give_to_magazine(page))
		return;
	if (spin_trylock(&n->lock)) {
		um_give(n, page, order);
		um_unlock(n);
	} else {
		fetch_add(&um_nolock.stats.deferred, 1);
		um_defer(n, page);
	}
}

void unmapped_read_nolock_stats(struct nolock_stats *out)
{
	const struct nolock_stats *s = &um_nolock.stats;

	*out = (struct nolock_stats){
		.requests = load_relaxed(&s->requests),
		.served = load_relaxed(&s->served),
		.from_reserve = load_relaxed(&s->from_reserve),
		.frees = load_relaxed(&s->frees),
		.to_reserve = load_relaxed(&s->to_reserve),
		.deferred = load_relaxed(&s->deferred),
	};
	for (unsigned why = 0; why < NOLOCK_FAILURES; why++)
		out->failed[why] = load_relaxed(&s->failed[why]);
}

u64 unmapped_deferred_now(void)
{
	u64 sum = 0;

	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		sum += deferred_now(&um_nodes[nid].deferred);
	return sum;
}
