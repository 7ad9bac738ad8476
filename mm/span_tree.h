/* SPDX-License-Identifier: MIT */
/*
 * Spans of addresses, free and used, in one ordered structure: what execmem hands out memory and
 * addresses by (SPEC XM1).
 *
 * Every span, free or not, is a node of a treap by address (Seidel, Aragon: Randomized search trees,
 * Algorithmica 1996) and of a list in the same order. A node knows the largest free span of its subtree
 * (above a limit: that there is one). So the lowest free span that is large enough, and the span that an
 * address lies in, are each one descent; the neighbours that a freed span merges with are one step away.
 * What is taken from the front of a free span costs one node beside it and no search for its place.
 *
 * Invariants, checked by span_check(): no two spans overlap; two neighbours that touch are never both
 * free; heap order of the priorities; `largest` is true. Nodes are never inside the memory they describe:
 * it may not be writable.
 *
 * A tree has no lock of its own. Nodes come from a pool that is filled before the lock is taken, so
 * nothing fails under it.
 */
#ifndef MM_SPAN_TREE_H
#define MM_SPAN_TREE_H

#include "kernel/base/range.h"
#include "kernel/base/rng.h"
#include "kernel/base/types.h"

enum span_state {
	SPAN_FREE,
	SPAN_USED,
	SPAN_BUSY,	/* on its way from used to free: nobody's, and not to be given out yet */
};

struct span {
	u64 start, end;
	u64 largest;			/* bytes of the largest free span in the subtree, up to the tree's limit */
	struct span *up, *left, *right;	/* the tree */
	struct span *prev, *next;	/* in order of address; a pool: next */
	u32 priority;			/* not above that of `up` */
	u8 state;			/* enum span_state */
	/* The owner's. */
	u8 tag, flags;
	u64 asked;
	void *owner;
};

struct span_tree {
	struct span *root;
	struct span *first;
	u64 spans;
	u64 limit;
	struct rng rng;		/* of priorities */
};

static inline u64 span_size(const struct span *s)
{
	return s->end - s->start;
}

/* Nodes set aside. */
struct span_pool {
	struct span *head;	/* by next */
	u32 nr;
};

/* Have at least nr nodes in the pool: 0, or -ENOMEM (what was got stays). No lock held. */
int span_pool_reserve(struct span_pool *pool, u32 nr) __must_check;
/* Give back what is left. No lock held. */
void span_pool_release(struct span_pool *pool);
/* One node more, or one less. The pool must have one (asserted). */
void span_pool_put(struct span_pool *pool, struct span *s);
struct span *span_pool_get(struct span_pool *pool);

/*
 * limit: free spans of that size and above are alike to the tree, and looked at one by one when so much
 * is asked for. It spares the path to the root an update whenever something is cut off a large span.
 * UINT64_MAX: none are.
 */
void span_tree_init(struct span_tree *tree, u64 limit);

/* The span that addr lies in, or NULL. */
struct span *span_find(const struct span_tree *tree, u64 addr);

/*
 * The lowest place for size bytes in a free span, aligned to align (a power of two): *start says where in
 * it. NULL: none. Logarithmic if spans start as aligned as that; otherwise, as long as a free span is
 * large enough whatever its alignment.
 */
struct span *span_first_fit(const struct span_tree *tree, u64 size, u64 align, u64 *start);

/* The same, of what lies within a range. Spans below it are looked at too. */
struct span *span_first_fit_in(const struct span_tree *tree, struct range within, u64 size, u64 align, u64 *start);

/* Nodes that span_take() may need for an alignment of more than the spans' own, and for that. */
#define SPAN_TAKE_NODES 2u

/*
 * Take [start, start + size) out of a free span: the used span, without its owner's fields. Takes up to
 * two nodes.
 */
struct span *span_take(struct span_tree *tree, struct span *free, u64 start, u64 size, struct span_pool *pool);

/* Make a span free, and one with free neighbours that touch it: what became of it. Nodes go to the pool. */
struct span *span_give(struct span_tree *tree, struct span *s, struct span_pool *pool);

/* Add a free range, of which no byte is in the tree: the free span that it is now (part of). Takes a node. */
struct span *span_add(struct span_tree *tree, struct range r, struct span_pool *pool);

/* Take part of a free span out of the tree. Takes up to one node, or gives one. */
void span_remove(struct span_tree *tree, struct span *free, struct range r, struct span_pool *pool);

/*
 * Part a span that is not free at an address inside it: the new span, the upper part, has its state.
 * Takes a node.
 */
struct span *span_split(struct span_tree *tree, struct span *s, u64 at, struct span_pool *pool);

/* Number of broken invariants. */
unsigned span_check(const struct span_tree *tree);

#endif
