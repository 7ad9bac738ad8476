/* SPDX-License-Identifier: MIT */
/*
 * Spans of addresses in a treap with the largest free span by subtree. See span_tree.h.
 *
 * A node that changes carries its news upwards until an ancestor already knows: mostly a step or two.
 * Rotations keep `largest` true of both nodes, and of nobody else it changes.
 */
#include "mm/span_tree.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/panic.h"
#include "mm/slab.h"

static struct slab_cache spans = SLAB_CACHE_INIT(struct span);

/* ---- Nodes ---- */

int span_pool_reserve(struct span_pool *pool, u32 nr)
{
	while (pool->nr < nr) {
		struct span *s = slab_alloc(&spans);

		if (!s)
			return -ENOMEM;
		span_pool_put(pool, s);
	}
	return 0;
}

void span_pool_release(struct span_pool *pool)
{
	while (pool->nr)
		slab_free(&spans, span_pool_get(pool));
}

void span_pool_put(struct span_pool *pool, struct span *s)
{
	s->next = pool->head;
	pool->head = s;
	pool->nr++;
}

struct span *span_pool_get(struct span_pool *pool)
{
	struct span *s = pool->head;

	assert(s != NULL);
	pool->head = s->next;
	pool->nr--;
	return s;
}

/* ---- The tree ---- */

static u64 free_size(const struct span_tree *tree, const struct span *s)
{
	return s->state == SPAN_FREE ? MIN(span_size(s), tree->limit) : 0;
}

static u64 largest_of(const struct span_tree *tree, const struct span *s)
{
	u64 n = free_size(tree, s);

	if (s->left)
		n = MAX(n, s->left->largest);
	if (s->right)
		n = MAX(n, s->right->largest);
	return n;
}

/* A node's state or size, or what hangs below it, has changed. */
static void carry_up(const struct span_tree *tree, struct span *s)
{
	for (; s; s = s->up) {
		u64 n = largest_of(tree, s);

		if (n == s->largest)
			return;
		s->largest = n;
	}
}

/* Put `with` where a child of `up` was: NULL is the root. */
static void replace_child(struct span_tree *tree, struct span *up, struct span *old, struct span *with)
{
	if (!up)
		tree->root = with;
	else if (up->left == old)
		up->left = with;
	else
		up->right = with;
	if (with)
		with->up = up;
}

/* s takes the place of its parent. */
static void rotate_up(struct span_tree *tree, struct span *s)
{
	struct span *p = s->up;
	struct span *inner;

	replace_child(tree, p->up, p, s);
	if (p->left == s) {
		inner = s->right;
		p->left = inner;
		s->right = p;
	} else {
		inner = s->left;
		p->right = inner;
		s->left = p;
	}
	p->up = s;
	if (inner)
		inner->up = p;
	s->largest = p->largest;
	p->largest = largest_of(tree, p);
}

/* Make [start, end) a node behind prev (NULL: before all). */
static struct span *attach(struct span_tree *tree, struct span *prev, struct range r, enum span_state state,
			   struct span_pool *pool)
{
	struct span *s = span_pool_get(pool);
	struct span *next = prev ? prev->next : tree->first;

	*s = (struct span){ .start = r.start, .end = r.end, .state = (u8)state, .prev = prev, .next = next };
	s->priority = (u32)rng_next(&tree->rng);
	if (prev)
		prev->next = s;
	else
		tree->first = s;
	if (next)
		next->prev = s;
	/* Of two neighbours in order, one is below the other, and has no child on that side. */
	if (prev && !prev->right) {
		prev->right = s;
		s->up = prev;
	} else if (next) {
		next->left = s;
		s->up = next;
	} else {
		tree->root = s;
	}
	tree->spans++;
	carry_up(tree, s);
	while (s->up && s->priority > s->up->priority)
		rotate_up(tree, s);
	return s;
}

static void detach(struct span_tree *tree, struct span *s, struct span_pool *pool)
{
	while (s->left && s->right)
		rotate_up(tree, s->left->priority > s->right->priority ? s->left : s->right);
	replace_child(tree, s->up, s, s->left ? s->left : s->right);
	carry_up(tree, s->up);
	if (s->prev)
		s->prev->next = s->next;
	else
		tree->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	tree->spans--;
	span_pool_put(pool, s);
}

static void resize(const struct span_tree *tree, struct span *s, u64 start, u64 end)
{
	s->start = start;
	s->end = end;
	carry_up(tree, s);
}

void span_tree_init(struct span_tree *tree, u64 limit)
{
	*tree = (struct span_tree){ .limit = limit, .rng = { 1 } };
}

/* ---- Looking ---- */

struct span *span_find(const struct span_tree *tree, u64 addr)
{
	struct span *s = tree->root;

	while (s) {
		if (addr < s->start)
			s = s->left;
		else if (addr >= s->end)
			s = s->right;
		else
			return s;
	}
	return NULL;
}

/* The lowest free span of a subtree with at least so many bytes: the subtree has one. */
static struct span *lowest(const struct span_tree *tree, struct span *s, u64 size)
{
	for (;;) {
		if (s->left && s->left->largest >= size)
			s = s->left;
		else if (free_size(tree, s) >= size)
			return s;
		else
			s = s->right;
	}
}

/* The next one above s, or NULL. */
static struct span *next_fit(const struct span_tree *tree, struct span *s, u64 size)
{
	if (s->right && s->right->largest >= size)
		return lowest(tree, s->right, size);
	for (; s->up; s = s->up) {
		struct span *p = s->up;

		if (p->left != s)
			continue;
		if (free_size(tree, p) >= size)
			return p;
		if (p->right && p->right->largest >= size)
			return lowest(tree, p->right, size);
	}
	return NULL;
}

static inline struct span *fit_in(const struct span_tree *tree, u64 low, u64 high, u64 size, u64 align, u64 *start)
{
	u64 least = MIN(size, tree->limit);
	struct span *s = tree->root && tree->root->largest >= least ? lowest(tree, tree->root, least) : NULL;

	for (; s && s->start < high; s = next_fit(tree, s, least)) {
		u64 end = MIN(s->end, high);

		*start = align_up(MAX(s->start, low), align);
		if (*start >= s->start && *start <= end && end - *start >= size)
			return s;
	}
	return NULL;
}

struct span *span_first_fit(const struct span_tree *tree, u64 size, u64 align, u64 *start)
{
	return fit_in(tree, 0, UINT64_MAX, size, align, start);
}

struct span *span_first_fit_in(const struct span_tree *tree, struct range within, u64 size, u64 align, u64 *start)
{
	return fit_in(tree, within.start, within.end, size, align, start);
}

/* ---- Changing ---- */

/*
 * Of what is left free, the upper part keeps the node. So does the upper one of two that merge. Memory is
 * taken from below: the last free span of a range has the same node for as long as there is one.
 */
struct span *span_take(struct span_tree *tree, struct span *s, u64 start, u64 size, struct span_pool *pool)
{
	struct range r = range_len(start, size), front = range(s->start, start);

	if (range_empty(front) && r.end == s->end) {
		s->state = SPAN_USED;
		carry_up(tree, s);
		return s;
	}
	if (r.end == s->end) {
		resize(tree, s, front.start, front.end);
		return attach(tree, s, r, SPAN_USED, pool);
	}
	resize(tree, s, r.end, s->end);
	if (!range_empty(front))
		attach(tree, s->prev, front, SPAN_FREE, pool);
	return attach(tree, s->prev, r, SPAN_USED, pool);
}

static bool touches(const struct span *low, const struct span *high)
{
	return low && high && low->state == SPAN_FREE && high->state == SPAN_FREE && low->end == high->start;
}

struct span *span_give(struct span_tree *tree, struct span *s, struct span_pool *pool)
{
	s->state = SPAN_FREE;
	carry_up(tree, s);
	if (touches(s->prev, s)) {
		u64 start = s->prev->start;

		detach(tree, s->prev, pool);
		resize(tree, s, start, s->end);
	}
	if (touches(s, s->next)) {
		struct span *high = s->next;
		u64 start = s->start;

		detach(tree, s, pool);
		resize(tree, high, start, high->end);
		return high;
	}
	return s;
}

struct span *span_add(struct span_tree *tree, struct range r, struct span_pool *pool)
{
	struct span *below = NULL;

	for (struct span *s = tree->root; s;) {
		if (s->start < r.start) {
			below = s;
			s = s->right;
		} else {
			s = s->left;
		}
	}
	return span_give(tree, attach(tree, below, r, SPAN_BUSY, pool), pool);
}

void span_remove(struct span_tree *tree, struct span *s, struct range r, struct span_pool *pool)
{
	struct range front = range(s->start, r.start);

	if (range_empty(front) && r.end == s->end) {
		detach(tree, s, pool);
	} else if (r.end == s->end) {
		resize(tree, s, front.start, front.end);
	} else {
		resize(tree, s, r.end, s->end);
		if (!range_empty(front))
			attach(tree, s->prev, front, SPAN_FREE, pool);
	}
}

struct span *span_split(struct span_tree *tree, struct span *s, u64 at, struct span_pool *pool)
{
	u64 end = s->end;

	resize(tree, s, s->start, at);
	return attach(tree, s, range(at, end), s->state, pool);
}

/* ---- Checking ---- */

static unsigned check_node(const struct span_tree *tree, const struct span *s, u64 *nr)
{
	unsigned faults = 0;

	*nr += 1;
	faults += s->start >= s->end || s->largest != largest_of(tree, s);
	faults += s->up && s->priority > s->up->priority;
	faults += (s->left && s->left->up != s) || (s->right && s->right->up != s);
	faults += s->prev && (s->prev->next != s || s->prev->end > s->start);
	faults += touches(s->prev, s);
	return faults;
}

/* In order by the tree, beside the list: both must name the same nodes. */
unsigned span_check(const struct span_tree *tree)
{
	const struct span *s = tree->root, *listed = tree->first;
	unsigned faults = 0;
	u64 nr = 0;

	while (s && s->left)
		s = s->left;
	while (s) {
		faults += check_node(tree, s, &nr) + (s != listed);
		listed = listed ? listed->next : NULL;
		if (s->right) {
			for (s = s->right; s->left; s = s->left)
				;
			continue;
		}
		while (s->up && s->up->right == s)
			s = s->up;
		s = s->up;
	}
	return faults + (listed != NULL) + (nr != tree->spans);
}
