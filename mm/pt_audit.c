/* SPDX-License-Identifier: MIT */
/*
 * The audit of W^X, frame by frame. See pt_audit.h.
 *
 * Three passes over every root: the first looks at each leaf by itself and marks the frames that are executable (a flag in
 * struct page, a count in struct block); the second looks for writable leaves of the kernel over marked frames; the
 * third takes the marks away. Blocks without a mark cost one compare, so a 1G leaf costs 512 of them.
 *
 * The kernel's tables are locked all the while. So nothing becomes executable, and nothing ceases to be, between the passes; a
 * frame that is executable has an owner who does nothing to its struct page before he has unmapped it, and so the mark in there is
 * the audit's alone. Other CPUs wait for the lock with interrupts on.
 */
#include "mm/pt_audit.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/alias.h"

#define PAGE_AUDIT_EXEC 0x80	/* page flags: executable somewhere, says the running audit */
#define WINDOWS_MAX (MAX_CPUS + 32u)	/* one for each CPU's temporary root, and some */

static struct window {
	struct pt_space *space;	/* NULL: unused */
	struct range va;
} windows[WINDOWS_MAX];
static u32 windows_end;		/* behind the last one that was ever used */
static spinlock_t windows_lock = SPINLOCK_INIT_CLASS(LOCK_AUDIT);	/* also: one audit at a time */

struct audit {
	struct pt_audit *out;
	struct pt_space *space;
	u64 writable_aliases;	/* outside the direct map, shared roots */
	u64 exec_aliases;
	bool mark;		/* third pass: false */
};

int pt_audit_window_add(struct pt_space *space, struct range va)
{
	int rc = -ENOSPC;

	if (range_empty(va) || !space)
		return -EINVAL;
	spin_lock(&windows_lock);
	for (unsigned i = 0; i < WINDOWS_MAX; i++)
		if (!windows[i].space) {
			windows[i] = (struct window){ space, va };
			windows_end = MAX(windows_end, i + 1);
			rc = 0;
			break;
		}
	spin_unlock(&windows_lock);
	return rc;
}

void pt_audit_window_remove(struct pt_space *space, struct range va)
{
	spin_lock(&windows_lock);
	for (unsigned i = 0; i < WINDOWS_MAX; i++)
		if (windows[i].space == space && windows[i].va.start == va.start && windows[i].va.end == va.end) {
			windows[i].space = NULL;
			break;
		}
	spin_unlock(&windows_lock);
}

static bool in_window(const struct pt_space *space, struct range leaf)
{
	for (unsigned i = 0; i < windows_end; i++)
		if (windows[i].space == space && range_covers(windows[i].va, leaf))
			return true;
	return false;
}

static void violation(struct audit *a, enum pt_violation kind, u64 va, pte_t leaf)
{
	struct pt_audit *out = a->out;
	bool first = true;

	for (unsigned k = 0; k < PT_AUDIT_KINDS; k++)
		first &= !out->found[k];
	out->found[kind]++;
	if (!first)
		return;
	out->first.kind = kind;
	out->first.space = a->space ? a->space->name : "counts";
	out->first.va = va;
	out->first.entry = leaf.raw;
}

/* Rights as the walk joined them, in the form alias.h asks about. */
static bool executable(u64 effective)
{
	return alias_executable(effective);
}

/* User leaves are out of the kernel's reach to execute (SMEP), and their frames are written by the kernel. */
static bool class_allows(u64 effective, enum page_class class, const struct pt_space *space)
{
	if (effective & PTE_U)
		return class == PAGE_USER || class == PAGE_EXECMEM;
	if (class == PAGE_RUNTIME)
		return !(space->flags & PT_SPACE_SHARED);
	return alias_class_executable(class);
}

static void mark_frames(struct audit *a, pfn_t pfn, u64 nr)
{
	for (u64 i = 0; i < nr; i++) {
		struct page *page = pfn_to_page(pfn + i);
		struct block *block = pfn_to_block(pfn + i);

		if (!pfn_valid(pfn + i) || !(load_relaxed(&page->flags) & PAGE_AUDIT_EXEC) != a->mark)
			continue;
		if (a->mark)
			page_flags_add(page, PAGE_AUDIT_EXEC);
		else
			page_flags_remove(page, PAGE_AUDIT_EXEC);
		block->audit_exec = (u16)(block->audit_exec + (a->mark ? 1 : -1));
	}
}

static bool look_at_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct audit *a = arg;
	pfn_t pfn = phys_to_pfn(pte_leaf_pa(leaf, level));
	u64 nr = pt_span(level) >> PAGE_SHIFT;
	bool shared = a->space->flags & PT_SPACE_SHARED;

	a->out->leaves++;
	if (in_window(a->space, range_len(va, pt_span(level)))) {
		a->out->windows++;
		return true;
	}
	if (shared && !range_has(a->space->direct, va)) {
		for (u64 i = 0; i < nr; i++)
			if (pfn_valid(pfn + i)) {
				a->writable_aliases += !!(effective & PTE_W);
				a->exec_aliases += executable(effective);
			}
	}
	if (!executable(effective))
		return true;
	a->out->exec_leaves++;
	if (effective & PTE_W && !(effective & PTE_U))
		violation(a, PT_AUDIT_WX, va, leaf);
	for (u64 i = 0; i < nr; i++)
		if (!pfn_valid(pfn + i) || !class_allows(effective, page_class(pfn_to_page(pfn + i)), a->space)) {
			violation(a, PT_AUDIT_CLASS, va, leaf);
			break;
		}
	if (!(effective & PTE_U))
		mark_frames(a, pfn, nr);
	return true;
}

static bool look_for_writable(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct audit *a = arg;
	pfn_t pfn = phys_to_pfn(pte_leaf_pa(leaf, level));
	pfn_t end = pfn + (pt_span(level) >> PAGE_SHIFT);

	/* A user's leaves are not the kernel's to write by. What is writable and executable has been found already. */
	if (!(effective & PTE_W) || effective & PTE_U || executable(effective) || in_window(a->space, range_len(va, pt_span(level))))
		return true;
	while (pfn < end) {
		if (!pfn_valid(pfn) || !pfn_to_block(pfn)->audit_exec) {
			pfn = align_up(pfn + 1, BIT(BLOCK_ORDER));
			continue;
		}
		if (load_relaxed(&pfn_to_page(pfn)->flags) & PAGE_AUDIT_EXEC) {
			violation(a, PT_AUDIT_CROSS, va, leaf);
			return true;
		}
		pfn++;
	}
	return true;
}

static bool unmark_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct audit *a = arg;

	if (executable(effective) && !(effective & PTE_U) && !in_window(a->space, range_len(va, pt_span(level))))
		mark_frames(a, phys_to_pfn(pte_leaf_pa(leaf, level)), pt_span(level) >> PAGE_SHIFT);
	return true;
}

static void each_space(struct audit *a, pt_visit_fn visit)
{
	for (struct pt_space *s = pt_space_next(NULL); s; s = pt_space_next(s)) {
		a->space = s;
		if (s == &kernel_space)
			pt_for_each_leaf_locked(s, range(0, UINT64_MAX), visit, a);
		else
			pt_for_each_leaf(s, range(0, UINT64_MAX), visit, a);
	}
}

static void audit_locked(struct audit *a)
{
	assert_held(&kernel_space.lock);
	each_space(a, look_at_leaf);
	if (a->out->exec_leaves)
		each_space(a, look_for_writable);
	a->mark = false;
	each_space(a, unmark_leaf);
	a->space = NULL;
	if (a->writable_aliases != alias_total_writable || a->exec_aliases != alias_total_executable)
		violation(a, PT_AUDIT_COUNT, a->writable_aliases - alias_total_writable,
			  (pte_t){ a->exec_aliases - alias_total_executable });
}

u64 pt_audit(struct pt_audit *out)
{
	struct audit a = { .out = out, .mark = true };
	u64 total = 0;

	*out = (struct pt_audit){ 0 };
	if (!(arch_mm.pte_mask & PTE_NX))
		return 0;		/* everything is executable: there is nothing to prove */
	spin_lock(&windows_lock);
	pt_spaces_hold();
	spin_lock(&kernel_space.lock);
	audit_locked(&a);
	spin_unlock(&kernel_space.lock);
	pt_spaces_release();
	spin_unlock(&windows_lock);
	for (unsigned k = 0; k < PT_AUDIT_KINDS; k++)
		total += out->found[k];
	if (total)
		log_warn("audit: %llu violations, first: kind %u in %s at 0x%llx, entry 0x%llx", (unsigned long long)total,
			 out->first.kind, out->first.space, (unsigned long long)out->first.va,
			 (unsigned long long)out->first.entry);
	return total;
}
