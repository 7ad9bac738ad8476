/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache compared with itself and with every page table (SPEC UM5, issue: never a frame in the cache that any
 * mapping reaches), and its table for people.
 *
 * Three looks, each by another way: pieces frame by frame, as struct block and struct page have them; the lists and
 * magazines; the leaves of every root.
 */
#include "mm/unmapped_internal.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy_internal.h"
#include "mm/directmap.h"
#include "mm/pgtable.h"

#define REPORTS 8u	/* faults that are named; all are counted */

/* Of a node, or of all. */
struct sums {
	u64 frames;			/* of pieces */
	u64 stacked;
	u64 free[ORDER_MAX + 1];	/* free blocks by order */
};

struct check {
	unsigned faults;
	u64 in_use;
	struct sums *node;		/* whose piece is looked at */
	struct pt_space *space;
};

static struct sums node_sums[NODES_MAX];

static void fault(struct check *c, const char *what, u64 pfn, u64 got)
{
	if (c->faults++ < REPORTS)
		log_warn("unmapped cache: %s: frame or order %#llx (%#llx)", what, (unsigned long long)pfn,
			 (unsigned long long)got);
}

/* ---- Pieces ---- */

static void check_frame(struct check *c, pfn_t pfn, unsigned origin, bool first, bool taken)
{
	const struct page *page = pfn_to_page(pfn);

	c->node->frames++;
	if (!um_ours(page) || um_origin(page) != origin || &node_sums[um_nid(page)] != c->node)
		fault(c, "a frame of a piece has another's mark", pfn, page->private);
	if (!first && um_state(page) != UM_INSIDE)
		fault(c, "a region begins inside another one", pfn, page->private);
	if (!taken && page->class != PAGE_UNMAPPED)
		fault(c, "owner class of a free frame", pfn, page->class);
	if (!taken && page->word >> 32)
		fault(c, "a free frame has aliases", pfn, page->word);
	if (taken && page->private & UM_CLEAN)
		fault(c, "a frame in use passes for zero", pfn, page->private);
}

/* No address of frames in the direct map leads to a leaf. */
static void check_absent(struct check *c, pfn_t pfn, u64 nr)
{
	struct range va = range_len(phys_to_va(phys(pfn << PAGE_SHIFT)), nr << PAGE_SHIFT);

	for (u64 at = va.start; at < va.end;) {
		struct pt_slot s = pt_walk_lockless(kernel_space.root, kernel_space.levels, at);

		if (pte_present(s.value))
			fault(c, "a frame is in the direct map", va_to_phys(at).raw >> PAGE_SHIFT, s.value.raw);
		at = pt_next(at, s.level);
	}
}

/* One region of a piece. Returns its order. */
static unsigned check_region(struct check *c, pfn_t pfn, unsigned origin)
{
	const struct page *page = pfn_to_page(pfn);
	enum um_state state = um_state(page);
	unsigned order = um_order(page);

	if (order > origin || !is_aligned(pfn, BIT(order)) ||
	    (state != UM_FREE && state != UM_STACKED && state != UM_TAKEN) || (state == UM_STACKED && order)) {
		fault(c, "state of a region", pfn, page->private);
		order = 0;
	}
	if (state == UM_FREE && order < origin) {
		const struct page *buddy = pfn_to_page(pfn ^ BIT(order));

		if (um_state(buddy) == UM_FREE && um_order(buddy) == order)
			fault(c, "two buddies are free and not one", pfn, order);
	}
	for (u64 i = 0; i < BIT(order); i++)
		check_frame(c, pfn + i, origin, i == 0, state == UM_TAKEN);
	c->node->free[order] += state == UM_FREE;
	c->node->stacked += state == UM_STACKED;
	c->in_use += state == UM_TAKEN ? BIT(order) : 0;
	return order;
}

static void check_piece(struct check *c, pfn_t pfn, unsigned origin)
{
	const struct page *page = pfn_to_page(pfn);

	if (um_nid(page) != page->node)
		fault(c, "a piece counts as another node's", pfn, page->node);
	c->node = &node_sums[um_nid(page)];
	check_absent(c, pfn, BIT(origin));
	for (pfn_t at = pfn; at < pfn + BIT(origin);)
		at += BIT(check_region(c, at, origin));
}

/* The frames of one 2 MiB block: pieces that begin here, and nobody else who says to be of the cache. */
static void check_block(struct check *c, pfn_t block)
{
	pfn_t end = block + BIT(BLOCK_ORDER);
	u64 seen = 0;

	for (pfn_t pfn = block; pfn < end;) {
		const struct page *page = pfn_to_page(pfn);
		unsigned origin = um_origin(page);

		if (!um_ours(page)) {
			if (page->class == PAGE_UNMAPPED)
				fault(c, "a frame of the class is not in the cache", pfn, page->private);
			pfn++;
			continue;
		}
		if (is_aligned(pfn, BIT(origin)))
			check_piece(c, pfn, origin);
		else if (origin <= BLOCK_ORDER)
			fault(c, "a piece without its beginning", pfn, page->private);
		seen += MIN(BIT(origin), end - pfn);
		pfn += BIT(origin);
	}
	if (seen != pfn_to_block(block)->unmapped)
		fault(c, "frames of a block that are in the cache", block, pfn_to_block(block)->unmapped);
}

static void check_pieces(struct check *c)
{
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn += BIT(BLOCK_ORDER))
		if (pfn_valid(pfn) && pfn_to_block(pfn)->unmapped)
			check_block(c, pfn);
}

/* ---- Lists and magazines ---- */

static void check_list(struct check *c, unsigned nid, enum um_kind kind, unsigned order)
{
	const struct um_node *n = &um_nodes[nid];
	u32 prev = PFN_NONE;
	u64 nr = 0;

	for (u32 pfn = n->head[kind][order]; pfn != PFN_NONE; pfn = pfn_to_page(pfn)->next) {
		const struct page *page = pfn_to_page(pfn);

		if (nr++ > n->nr[kind][order]) {
			fault(c, "a list is longer than it should be", order, nr);
			return;
		}
		if (!um_ours(page) || um_state(page) != UM_FREE || um_order(page) != order || page->prev != prev ||
		    um_nid(page) != nid || (order == um_origin(page)) != (kind == UM_WHOLE))
			fault(c, "a frame on the wrong list", pfn, page->private);
		prev = pfn;
	}
	if (nr != n->nr[kind][order] || !nr != !(n->filled[kind] >> order & 1))
		fault(c, "length of a list", order, nr);
}

static void check_node(struct check *c, unsigned nid)
{
	const struct um_node *n = &um_nodes[nid];
	const struct sums *s = &node_sums[nid];

	for (unsigned o = 0; o <= ORDER_MAX; o++) {
		for (unsigned kind = 0; kind < UM_KINDS; kind++)
			check_list(c, nid, (enum um_kind)kind, o);
		if (s->free[o] != n->nr[UM_PART][o] + n->nr[UM_WHOLE][o])
			fault(c, "free blocks of an order", o, s->free[o]);
	}
	if (s->frames != n->frames)
		fault(c, "frames of all pieces", s->frames, n->frames);
	if (deferred_any(&n->deferred) || deferred_now(&n->deferred))
		fault(c, "a free was deferred and stayed so", n->deferred.first, deferred_now(&n->deferred));
}

/* All pages of a magazine are of the CPU's own node. */
static u64 check_magazine(struct check *c, u32 cpu)
{
	const struct um_magazine *m = &um_magazines[cpu];

	for (u32 i = 0; i < m->nr; i++) {
		const struct page *page = pfn_to_page(m->pfn[i]);

		if (!um_ours(page) || um_state(page) != UM_STACKED || !page_caches[cpu] ||
		    um_nid(page) != page_caches[cpu]->node)
			fault(c, "a frame on a magazine", m->pfn[i], page->private);
		else
			node_sums[um_nid(page)].stacked--;
	}
	return um_frames_in_use(m);
}

static void check_lists(struct check *c)
{
	u64 in_use = um_nolock.frames;

	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		check_node(c, nid);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		in_use += check_magazine(c, cpu);
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		if (node_sums[nid].stacked)
			fault(c, "pages on magazines", nid, node_sums[nid].stacked);
	if (in_use != c->in_use)
		fault(c, "frames in use", c->in_use, in_use);
}

/* ---- Leaves ---- */

/* Whether a frame is handed out: the first frame of the region around it tells. */
static bool is_taken(pfn_t pfn)
{
	const struct page *head = pfn_to_page(pfn);

	for (unsigned o = 1; um_state(head) == UM_INSIDE && o <= um_origin(head); o++)
		head = pfn_to_page(pfn & ~(BIT(o) - 1));
	return um_state(head) == UM_TAKEN;
}

static bool look_at_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct check *c = arg;
	pfn_t pfn = phys_to_pfn(pte_leaf_pa(leaf, level));
	pfn_t end = pfn + (pt_span(level) >> PAGE_SHIFT);
	bool direct = c->space == &kernel_space && range_has(kernel_space.direct, va);

	(void)effective;
	while (pfn < end) {
		if (!pfn_valid(pfn) || !pfn_to_block(pfn)->unmapped) {
			pfn = align_up(pfn + 1, BIT(BLOCK_ORDER));
			continue;
		}
		if (um_ours(pfn_to_page(pfn)) && (direct || !is_taken(pfn)))
			fault(c, direct ? "the direct map reaches a frame" : "a mapping reaches a free frame", pfn, va);
		pfn++;
	}
	return true;
}

unsigned unmapped_check(void)
{
	struct check c = { 0 };

	memset(node_sums, 0, sizeof(node_sums));
	check_pieces(&c);
	check_lists(&c);
	for (struct pt_space *s = pt_space_next(NULL); s; s = pt_space_next(s)) {
		c.space = s;
		pt_for_each_leaf(s, range(0, UINT64_MAX), look_at_leaf, &c);
	}
	return c.faults;
}

/* ---- The table ---- */

static void print_row(const char *what, const u64 *by_order)
{
	char line[320];
	size_t len = fmt_print(line, sizeof(line), "%-28s", what);

	for (unsigned o = 0; o <= ORDER_MAX && len < sizeof(line); o++)
		len += fmt_print(line + len, sizeof(line) - len, " %6llu", (unsigned long long)by_order[o]);
	log_info("%s", line);
}

static void print_node_row(unsigned nid, const char *what, const u64 *by_order)
{
	char name[40];

	fmt_print(name, sizeof(name), "node %u, unmapped, %s", nid, what);
	print_row(name, by_order);
}

static void print_node(unsigned nid)
{
	struct unmapped_node_stats s;

	unmapped_read_node_stats(nid, &s);
	print_node_row(nid, "free", s.free_blocks);
	print_node_row(nid, "refills", s.refills);
	print_node_row(nid, "returns", s.returns);
	log_info("node %u, unmapped: %llu KiB, %llu KiB in use, %llu frees deferred, %llu at most at once", nid,
		 (unsigned long long)(s.bytes / KIB), (unsigned long long)(s.bytes_in_use / KIB),
		 (unsigned long long)s.deferred, (unsigned long long)s.deferred_most);
}

static void print_nolock(void)
{
	struct nolock_stats s;

	unmapped_read_nolock_stats(&s);
	log_info("unmapped, any context: %llu requests, %llu served (%llu by magazines), failed by lock %llu, empty %llu, "
		 "order %llu, limit %llu; %llu frees, %llu deferred",
		 (unsigned long long)s.requests, (unsigned long long)s.served, (unsigned long long)s.from_reserve,
		 (unsigned long long)s.failed[NOLOCK_LOCK], (unsigned long long)s.failed[NOLOCK_EMPTY],
		 (unsigned long long)s.failed[NOLOCK_ORDER], (unsigned long long)s.failed[NOLOCK_LIMIT],
		 (unsigned long long)s.frees, (unsigned long long)s.deferred);
}

void unmapped_print(void)
{
	static const char *const modes[] = { [UNMAPPED_OFF] = "off", [UNMAPPED_2M] = "2m", [UNMAPPED_1G] = "1g" };
	struct unmapped_stats s;
	u64 orders[ORDER_MAX + 1];

	for (unsigned o = 0; o <= ORDER_MAX; o++)
		orders[o] = o;
	print_row("pages by order", orders);
	for (unsigned nid = 0; nid < buddy_nodes(); nid++)
		print_node(nid);
	unmapped_read_stats(&s);
	log_info("unmapped: mode %s, %llu KiB, %llu KiB in use, %llu allocs (%llu hits, %llu failed), %llu frees (%llu bad)",
		 modes[um_cache.mode], (unsigned long long)(s.bytes / KIB), (unsigned long long)(s.bytes_in_use / KIB),
		 (unsigned long long)s.allocs, (unsigned long long)s.hits, (unsigned long long)s.fails,
		 (unsigned long long)s.frees, (unsigned long long)s.bad_frees);
	log_info("unmapped: %llu flush batches, %llu pages zeroed, %llu scrubbed, %llu reclaims brought %llu frames, "
		 "%llu at most",
		 (unsigned long long)s.flush_batches, (unsigned long long)s.zeroed, (unsigned long long)s.scrubbed,
		 (unsigned long long)s.reclaim_runs, (unsigned long long)s.reclaim_frames,
		 (unsigned long long)s.reclaim_most);
	print_nolock();
}
