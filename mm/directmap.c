/* SPDX-License-Identifier: MIT */
/* The direct map: what is in it, taking frames out and putting them back. See directmap.h. */
#include "mm/directmap.h"

#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/alias.h"

/* What a class means to the direct map. */
#define CLASS_FOREIGN 0x1u	/* not in it: not ours, or not memory */
#define CLASS_NEEDED 0x2u	/* reached through it by the kernel at any moment: never taken out */
#define CLASS_SEALED 0x4u	/* read-only in it */
#define CLASS_WRITTEN 0x8u	/* written through it by the kernel at any moment: never made read-only */

static const u8 class_traits[PAGE_CLASSES] = {
	[PAGE_RESERVED] = CLASS_FOREIGN,
	[PAGE_DEVICE] = CLASS_FOREIGN,
	[PAGE_RUNTIME] = CLASS_FOREIGN,
	[PAGE_TABLE] = CLASS_NEEDED | CLASS_WRITTEN,
	[PAGE_MEMMAP] = CLASS_NEEDED | CLASS_WRITTEN,
	[PAGE_SLAB] = CLASS_NEEDED | CLASS_WRITTEN,
	[PAGE_BOOT] = CLASS_NEEDED | CLASS_WRITTEN,
	[PAGE_KERNEL_TEXT] = CLASS_NEEDED | CLASS_SEALED,
	[PAGE_KERNEL_RODATA] = CLASS_NEEDED | CLASS_SEALED,
	[PAGE_KERNEL_DATA] = CLASS_NEEDED,
};

/* Read-only in the direct map: frames that are executable elsewhere, and the image's constants. */
static bool frame_is_sealed(pfn_t pfn)
{
	const struct page *page = pfn_to_page(pfn);

	if (class_traits[page_class(page)] & CLASS_SEALED)
		return true;
	return pfn_to_block(pfn)->exec_frames && page_class(page) != PAGE_TABLE && page->exec_aliases;
}

bool directmap_has(pfn_t pfn)
{
	return pfn_valid(pfn) && !(class_traits[page_class(pfn_to_page(pfn))] & CLASS_FOREIGN);
}

/* The traits of all frames of the range, ORed, and whether any may be executable: one look per frame. */
static unsigned traits_of(pfn_t pfn, u64 nr, bool *executable)
{
	unsigned traits = 0;
	pfn_t end = pfn + nr;

	*executable = false;
	while (pfn < end) {
		pfn_t behind = MIN(align_up(pfn + 1, BIT(BLOCK_ORDER)), end);
		const struct page *page = pfn_to_page(pfn);
		const struct page *last = pfn_to_page(behind);

		if (!pfn_valid(pfn))
			return CLASS_FOREIGN;
		*executable |= pfn_to_block(pfn)->exec_frames != 0;
		for (; page < last; page++)
			traits |= class_traits[page_class(page)];
		pfn = behind;
	}
	return traits;
}

int directmap_allows(pfn_t pfn, u64 nr, bool writable)
{
	bool executable;
	unsigned traits = traits_of(pfn, nr, &executable);

	return traits & (writable ? CLASS_SEALED : CLASS_WRITTEN) ? -EPERM : 0;
}

u64 directmap_span(pfn_t pfn, u64 nr, bool *has)
{
	bool executable;
	u64 n = 1;

	/* Nearly always the answer for all of them. */
	if (!(traits_of(pfn, nr, &executable) & CLASS_FOREIGN)) {
		*has = true;
		return nr;
	}
	*has = directmap_has(pfn);
	while (n < nr && directmap_has(pfn + n) == *has)
		n++;
	return n;
}

static struct range direct_va(pfn_t pfn, u64 nr)
{
	return range_len(arch_mm.direct_base + (pfn << PAGE_SHIFT), nr << PAGE_SHIFT);
}

bool directmap_is_split(pfn_t pfn)
{
	u64 va = arch_mm.direct_base + (pfn << PAGE_SHIFT);
	/* No further than the tables that are never freed. */
	struct pt_slot s = pt_walk_lockless_to(kernel_space.root, kernel_space.levels, va, PT_1G);

	return s.level == PT_1G && pte_is_table(s.value, PT_1G);
}

/* ---- Boot ---- */

int directmap_add(struct range pa)
{
	struct tlb_batch batch;
	int rc = 0;

	if (range_empty(pa) || !is_aligned(pa.start | pa.end, PAGE_SIZE) || pa.end > range_size(kernel_space.direct))
		return -EINVAL;
	tlb_batch_init(&batch, &kernel_space);
	for (u64 at = pa.start, end; !rc && at < pa.end; at = end) {
		u8 type = arch_memory_type(phys(at), &end);
		u64 next;

		while (end < pa.end && arch_memory_type(phys(end), &next) == type)
			end = next;
		end = MIN(align_down(end, PAGE_SIZE), pa.end);
		if (end == at)
			end = at + PAGE_SIZE;	/* a frame of two types: nothing smaller can be mapped */
		struct pt_change c = {
			.op = PT_OP_MAP,
			.va = range(arch_mm.direct_base + at, arch_mm.direct_base + end),
			.pa = phys(at),
			.set = DIRECT_ATTRS & arch_mm.pte_mask,
		};
		rc = pt_change(&kernel_space, &c, &batch);
	}
	tlb_batch_finish(&batch);
	return rc;
}

int directmap_seal(struct range pa)
{
	struct pt_change c = {
		.op = PT_OP_PROTECT,
		.va = range(arch_mm.direct_base + pa.start, arch_mm.direct_base + pa.end),
		.clear = PTE_W,
	};
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = pt_change(&kernel_space, &c, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

/* ---- Out of the direct map and back ---- */

struct toggle {
	pfn_t pfn;
	u64 nr;
	bool valid;
	bool may_be_sealed;	/* found by check_frames(): some frame comes back read-only, perhaps */
};

static int check_frames(struct toggle *t)
{
	bool executable;
	unsigned traits = traits_of(t->pfn, t->nr, &executable);

	if (traits & CLASS_FOREIGN)
		return -ERANGE;
	if (!t->valid && traits & CLASS_NEEDED)
		return -EPERM;
	t->may_be_sealed = executable || traits & CLASS_SEALED;
	/* What comes back is writable: nobody may still execute it (alias.h). */
	return t->valid && !alias_exec_flushed() ? -EAGAIN : 0;
}

/* Frames from the i-th on that come back with the same rights. */
static u64 sealed_run(const struct toggle *t, u64 i, bool *sealed)
{
	u64 n = 1;

	*sealed = t->may_be_sealed && frame_is_sealed(t->pfn + i);
	if (!t->may_be_sealed)
		return t->nr - i;
	while (i + n < t->nr && frame_is_sealed(t->pfn + i + n) == *sealed)
		n++;
	return n;
}

/* The two changes that put frames back: those that are mapped get their rights, those that are not a leaf. */
static void default_changes(const struct toggle *t, u64 i, u64 n, bool sealed, struct pt_change c[2])
{
	u64 attrs = (sealed ? DIRECT_ATTRS & ~PTE_W : DIRECT_ATTRS) & arch_mm.pte_mask;

	c[0] = (struct pt_change){
		.op = PT_OP_PROTECT,
		.va = direct_va(t->pfn + i, n),
		.set = sealed ? 0 : PTE_W,
		.clear = sealed ? PTE_W : 0,
	};
	c[1] = (struct pt_change){
		.op = PT_OP_MAP,
		.va = c[0].va,
		.pa = phys((t->pfn + i) << PAGE_SHIFT),
		.set = attrs,
	};
}

static int default_plan(const struct toggle *t, struct pt_plan *plan)
{
	bool sealed;
	int rc = 0;

	for (u64 i = 0, n; !rc && i < t->nr; i += n) {
		struct pt_change c[2];

		n = sealed_run(t, i, &sealed);
		default_changes(t, i, n, sealed, c);
		rc = pt_plan(&kernel_space, &c[0], plan);
		/* MAP is planned as if the rights were mended already: that is done first. */
		for (u64 va = c[1].va.start; !rc && va < c[1].va.end;) {
			struct pt_slot s = pt_walk(&kernel_space, va, PT_4K);
			u64 end = MIN(pt_next(va, s.level), c[1].va.end);
			struct pt_change hole = c[1];

			hole.va = range(va, end);
			hole.pa = va_to_phys(va);
			/* A table of 4K entries that is there takes no other. */
			if (s.level == PT_4K)
				end = MIN(pt_next(va, PT_2M), c[1].va.end);
			else if (pte_none(s.value))
				rc = pt_plan(&kernel_space, &hole, plan);
			va = end;
		}
	}
	return rc;
}

static int toggle_plan(void *arg, struct pt_plan *plan)
{
	struct toggle *t = arg;
	struct pt_change c = { .op = PT_OP_UNMAP, .va = direct_va(t->pfn, t->nr) };
	int rc = check_frames(t);

	if (rc)
		return rc;
	return t->valid ? default_plan(t, plan) : pt_plan(&kernel_space, &c, plan);
}

static void toggle_apply(void *arg, struct pt_pool *pool, struct tlb_batch *batch)
{
	const struct toggle *t = arg;
	struct pt_change c[2] = { { .op = PT_OP_UNMAP, .va = direct_va(t->pfn, t->nr) } };
	bool sealed;

	if (!t->valid) {
		pt_apply(&kernel_space, &c[0], pool, batch);
		return;
	}
	for (u64 i = 0, n; i < t->nr; i += n) {
		n = sealed_run(t, i, &sealed);
		default_changes(t, i, n, sealed, c);
		pt_apply(&kernel_space, &c[0], pool, batch);
		pt_apply(&kernel_space, &c[1], pool, batch);
	}
}

int set_direct_map_batch(pfn_t pfn, u64 nr, bool valid, struct tlb_batch *batch)
{
	static const struct pt_protocol protocol = { toggle_plan, toggle_apply };
	struct toggle t = { pfn, nr, valid, false };

	if (!nr || pfn + nr < pfn)
		return -EINVAL;
	if (pfn + nr > page_max_pfn)
		return -ERANGE;
	return pt_run(&kernel_space, &protocol, &t, batch);
}

int set_direct_map_default(pfn_t pfn, u64 nr)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = set_direct_map_batch(pfn, nr, true, &batch);
	tlb_batch_finish(&batch);	/* no right was taken away: nothing depends on who knows of it */
	return rc;
}

/* A CPU died in the flush, and still reaches them: they are as they were, or nobody's for ever. */
static void undo_invalid(pfn_t pfn, u64 nr)
{
	if (!set_direct_map_default(pfn, nr))
		return;
	log_warn("frames at 0x%llx cannot go back to the direct map: quarantined", (unsigned long long)pfn << PAGE_SHIFT);
	for (u64 i = 0; i < nr; i++)
		page_flags_add(pfn_to_page(pfn + i), PAGE_QUARANTINE);
}

int set_direct_map_invalid(pfn_t pfn, u64 nr)
{
	struct tlb_batch batch;
	int rc;

	if (unlikely(tlb_lost(&kernel_space)))
		return -EIO;
	tlb_batch_init(&batch, &kernel_space);
	rc = set_direct_map_batch(pfn, nr, false, &batch);
	if (tlb_batch_finish(&batch) && !rc) {
		undo_invalid(pfn, nr);
		rc = -EIO;
	}
	return rc;
}

/* ---- Counters ---- */

void directmap_read_stats(struct directmap_stats *out)
{
	const struct pt_stats *s = &kernel_space.stats[PT_DIRECT];
	u64 n4k = load_relaxed(&s->leaves[PT_4K]), n2m = load_relaxed(&s->leaves[PT_2M]);
	u64 n1g = load_relaxed(&s->leaves[PT_1G]);

	out->direct_map_4k = n4k << pt_shift(PT_4K);
	out->direct_map_2m = n2m << pt_shift(PT_2M);
	out->direct_map_1g = n1g << pt_shift(PT_1G);
	out->direct_map_level2_splits = load_relaxed(&s->splits[PT_2M]);
	out->direct_map_level3_splits = load_relaxed(&s->splits[PT_1G]);
	out->direct_map_level2_collapses = load_relaxed(&s->collapses[PT_2M]);
	out->direct_map_level3_collapses = load_relaxed(&s->collapses[PT_1G]);
	out->leaves = n4k + n2m + n1g;
	out->fewest_leaves = pt_fewest_leaves(&kernel_space, PT_DIRECT);
	out->tables = load_relaxed(&s->tables);
}
