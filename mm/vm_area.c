/* SPDX-License-Identifier: MIT */
/*
 * Kernel virtual areas. See vm_area.h.
 *
 * An AVL tree by address. Each node covers its area and a guard page of its own on either side. A node knows the span of
 * its subtree and the largest gap between the areas in it, so the search for room turns away from whole subtrees;
 * what it visits besides the path down are gaps that are large enough but lie wrong for the alignment.
 *
 * The tree is changed under one lock; nodes are allocated before it is taken and freed after it is dropped.
 */
#include "mm/vm_area.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/spinlock.h"
#include "mm/page.h"
#include "mm/plant.h"
#include "mm/slab.h"

static struct slab_cache areas = SLAB_CACHE_INIT(struct vm_area);
static spinlock_t lock = SPINLOCK_INIT_CLASS(LOCK_VM_AREA);
static struct vm_area *root;
static struct range all;

static const char *const kind_names[VM_AREA_KINDS] = {
	[VM_AREA_ALLOC] = "vmalloc",
	[VM_AREA_MAP] = "vmap",
	[VM_AREA_IOREMAP] = "ioremap",
	[VM_AREA_SPARSE] = "sparse",
};

const char *vm_area_kind_name(enum vm_area_kind kind)
{
	return (unsigned)kind < VM_AREA_KINDS ? kind_names[kind] : "?";
}

/* The addresses an area keeps others out of. */
static struct range with_guards(const struct vm_area *a)
{
	return range(a->start - PAGE_SIZE, a->start + a->size + PAGE_SIZE);
}

/* ---- The tree ---- */

static int height(const struct vm_area *a)
{
	return a ? a->height : 0;
}

/* What a node should say of its subtree, if the nodes right below it are right. */
struct subtree {
	int height;
	struct range span;
	u64 max_gap;
};

static struct subtree subtree_of(const struct vm_area *a)
{
	struct range own = with_guards(a);
	struct subtree t = { 1 + MAX(height(a->left), height(a->right)), own, 0 };

	if (a->left) {
		t.span.start = a->left->span.start;
		t.max_gap = MAX(a->left->max_gap, own.start - a->left->span.end);
	}
	if (a->right) {
		t.span.end = a->right->span.end;
		t.max_gap = MAX(t.max_gap, MAX(a->right->max_gap, a->right->span.start - own.end));
	}
	return t;
}

/* Make what a node says of its subtree true again. */
static void update(struct vm_area *a)
{
	struct subtree t = subtree_of(a);

	assert_held(&lock);
	a->height = t.height;
	a->span = t.span;
	a->max_gap = t.max_gap;
}

static struct vm_area *rotate_right(struct vm_area *a)
{
	struct vm_area *up = a->left;

	a->left = up->right;
	up->right = a;
	update(a);
	update(up);
	return up;
}

static struct vm_area *rotate_left(struct vm_area *a)
{
	struct vm_area *up = a->right;

	a->right = up->left;
	up->left = a;
	update(a);
	update(up);
	return up;
}

static struct vm_area *balance(struct vm_area *a)
{
	int lean = height(a->left) - height(a->right);

	update(a);
	if (lean > 1) {
		if (height(a->left->left) < height(a->left->right))
			a->left = rotate_left(a->left);
		return rotate_right(a);
	}
	if (lean < -1) {
		if (height(a->right->right) < height(a->right->left))
			a->right = rotate_right(a->right);
		return rotate_left(a);
	}
	return a;
}

static struct vm_area *insert(struct vm_area *at, struct vm_area *a)
{
	if (!at) {
		a->left = NULL;
		a->right = NULL;
		update(a);
		return a;
	}
	if (a->start < at->start)
		at->left = insert(at->left, a);
	else
		at->right = insert(at->right, a);
	return balance(at);
}

/* Take the lowest node off a subtree: returns what is left of it. */
static struct vm_area *take_lowest(struct vm_area *at, struct vm_area **lowest)
{
	if (!at->left) {
		*lowest = at;
		return at->right;
	}
	at->left = take_lowest(at->left, lowest);
	return balance(at);
}

static struct vm_area *remove_area(struct vm_area *at, struct vm_area *a)
{
	struct vm_area *heir, *right;

	if (at != a) {
		if (a->start < at->start)
			at->left = remove_area(at->left, a);
		else
			at->right = remove_area(at->right, a);
		return balance(at);
	}
	if (!a->left || !a->right)
		return a->left ? a->left : a->right;
	right = take_lowest(a->right, &heir);
	heir->left = a->left;
	heir->right = right;
	return balance(heir);
}

/* ---- Finding room ---- */

struct request {
	u64 size;
	u64 align;
};

/* First usable address of the request in a gap; 0: it does not fit. */
static u64 fit(struct range gap, const struct request *r)
{
	u64 start = align_up(gap.start + PAGE_SIZE, r->align);

	if (start < gap.start || start + r->size < start || start + r->size + PAGE_SIZE > gap.end)
		return 0;
	return start;
}

/* The lowest place in [free), which holds the areas of this subtree and no others. */
static u64 search(const struct vm_area *at, struct range free, const struct request *r)
{
	u64 need = r->size + 2 * PAGE_SIZE;
	u64 start;

	if (!at)
		return fit(free, r);
	if (at->span.start - free.start < need && free.end - at->span.end < need && at->max_gap < need)
		return 0;
	start = search(at->left, range(free.start, with_guards(at).start), r);
	return start ? start : search(at->right, range(with_guards(at).end, free.end), r);
}

/* ---- The interface ---- */

void vm_area_init(struct range va)
{
	all = va;
	root = NULL;
}

struct vm_area *get_vm_area(u64 size, u64 align, enum vm_area_kind kind, const char *caller)
{
	struct request r = { align_up(size, PAGE_SIZE), align };
	struct vm_area *a;
	u64 start;

	if (!size || r.size < size || r.size > range_size(all) || !is_power_of_two(align) || align < PAGE_SIZE ||
	    (unsigned)kind >= VM_AREA_KINDS)
		return NULL;
	a = slab_alloc(&areas);
	if (!a)
		return NULL;
	spin_lock(&lock);
	start = search(root, all, &r);
	if (start) {
		a->start = start;
		a->size = r.size;
		a->kind = kind;
		a->caller = caller;
		a->frames = PFN_NONE;
		root = insert(root, a);
	}
	spin_unlock(&lock);
	if (!start) {
		slab_free(&areas, a);
		return NULL;
	}
	return a;
}

void free_vm_area(struct vm_area *a)
{
	spin_lock(&lock);
	root = remove_area(root, a);
	spin_unlock(&lock);
	slab_free(&areas, a);
}

/* The area whose addresses, guards among them, va lies in. Locked. */
static struct vm_area *lookup(u64 va)
{
	struct vm_area *a = root;

	if (!PLANTED(PLANT_RACE_FIND))
		assert_held(&lock);
	while (a && !range_has(with_guards(a), va))
		a = va < a->start ? a->left : a->right;
	return a;
}

static bool is_guard(const struct vm_area *a, u64 va)
{
	return !range_has(range_len(a->start, a->size), va);
}

struct vm_area *claim_vm_area(u64 va, enum vm_area_kind kind, const char **why)
{
	struct vm_area *a;

	spin_lock(&lock);
	a = lookup(va);
	*why = NULL;
	if (!a || is_guard(a, va))
		*why = "no such area";
	else if (a->kind != kind)
		*why = "an area of another kind";
	else if (a->start != va)
		*why = "not the beginning of the area";
	else if (a->claimed)
		*why = "somebody else is freeing it";
	else
		a->claimed = true;
	spin_unlock(&lock);
	return *why ? NULL : a;
}

void unclaim_vm_area(struct vm_area *a)
{
	spin_lock(&lock);
	a->claimed = false;
	spin_unlock(&lock);
}

struct vm_area *find_vm_area(u64 va)
{
	struct vm_area *a;

	if (!PLANTED(PLANT_RACE_FIND))
		spin_lock(&lock);
	a = lookup(va);
	if (a && is_guard(a, va))
		a = NULL;
	if (!PLANTED(PLANT_RACE_FIND))
		spin_unlock(&lock);
	return a;
}

struct vm_area *find_vm_area_guard(u64 va)
{
	struct vm_area *a;

	/* Whoever asks may have interrupted the holder: no answer is better than no end. */
	if (!spin_trylock(&lock))
		return NULL;
	a = lookup(va);
	if (a && !is_guard(a, va))
		a = NULL;
	spin_unlock(&lock);
	return a;
}

static bool visit_in_order(const struct vm_area *a, bool (*visit)(void *arg, const struct vm_area *area), void *arg)
{
	return !a || (visit_in_order(a->left, visit, arg) && visit(arg, a) && visit_in_order(a->right, visit, arg));
}

void vm_area_for_each(bool (*visit)(void *arg, const struct vm_area *area), void *arg)
{
	spin_lock(&lock);
	visit_in_order(root, visit, arg);
	spin_unlock(&lock);
}

static bool print_one(void *arg, const struct vm_area *a)
{
	(void)arg;
	log_info("0x%016llx-0x%016llx %9llu %s pages=%llu kind=%s", (unsigned long long)a->start,
		 (unsigned long long)(a->start + a->size), (unsigned long long)a->size, a->caller ? a->caller : "?",
		 (unsigned long long)load_relaxed(&a->nr_pages), vm_area_kind_name(a->kind));
	return true;
}

void vm_area_print(void)
{
	vm_area_for_each(print_one, NULL);
}

/* ---- Checking ---- */

static unsigned check(const struct vm_area *a, struct range room)
{
	struct subtree t;
	struct range own;
	unsigned faults;
	int lean;

	if (!a)
		return 0;
	own = with_guards(a);
	faults = check(a->left, range(room.start, own.start)) + check(a->right, range(own.end, room.end));
	lean = height(a->left) - height(a->right);
	faults += !range_covers(room, own) || range_empty(own);
	faults += lean < -1 || lean > 1;
	t = subtree_of(a);
	faults += t.height != a->height || t.max_gap != a->max_gap || t.span.start != a->span.start ||
		  t.span.end != a->span.end;
	return faults;
}

unsigned vm_area_check(void)
{
	unsigned faults;

	spin_lock(&lock);
	faults = check(root, all);
	spin_unlock(&lock);
	return faults;
}
