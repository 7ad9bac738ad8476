/* SPDX-License-Identifier: MIT */
/* The direct map: what is in it, taking frames out and putting them back. See directmap.h. */
#include "mm/directmap.h"

#include "kernel/base/errno.h"
#include "mm/alias.h"

/* Frames of these classes are not in the direct map: not ours, or not memory. */
static bool class_is_foreign(enum page_class class)
{
	return class == PAGE_RESERVED || class == PAGE_DEVICE || class == PAGE_RUNTIME;
}

/* Frames of these classes are reached through the direct map by the kernel at any moment. */
static bool class_is_needed(enum page_class class)
{
	return class == PAGE_TABLE || class == PAGE_MEMMAP || class == PAGE_SLAB || class == PAGE_KERNEL_TEXT ||
	       class == PAGE_KERNEL_RODATA || class == PAGE_KERNEL_DATA || class == PAGE_BOOT;
}

/* Read-only in the direct map: frames that are executable elsewhere, and the image's constants. */
static bool frame_is_sealed(pfn_t pfn)
{
	const struct page *page = pfn_to_page(pfn);

	if (page->class == PAGE_KERNEL_TEXT || page->class == PAGE_KERNEL_RODATA)
		return true;
	return pfn_to_block(pfn)->exec_frames && page->class != PAGE_TABLE && page->exec_aliases;
}

bool directmap_has(pfn_t pfn)
{
	return pfn_valid(pfn) && !class_is_foreign(load_relaxed(&pfn_to_page(pfn)->class));
}

static struct range direct_va(pfn_t pfn, u64 nr)
{
	return range_len(arch_mm.direct_base + (pfn << PAGE_SHIFT), nr << PAGE_SHIFT);
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
};

static int check_frames(const struct toggle *t)
{
	for (u64 i = 0; i < t->nr; i++) {
		enum page_class class;

		if (!directmap_has(t->pfn + i))
			return -ERANGE;
		class = pfn_to_page(t->pfn + i)->class;
		if (!t->valid && class_is_needed(class))
			return -EPERM;
	}
	return 0;
}

/* Frames from the i-th on that come back with the same rights. */
static u64 sealed_run(const struct toggle *t, u64 i, bool *sealed)
{
	u64 n = 1;

	*sealed = frame_is_sealed(t->pfn + i);
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
	const struct toggle *t = arg;
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
	struct toggle t = { pfn, nr, valid };

	if (!nr || pfn + nr < pfn)
		return -EINVAL;
	if (pfn + nr > page_max_pfn)
		return -ERANGE;
	return pt_run(&kernel_space, &protocol, &t, batch);
}

static int set_direct_map(pfn_t pfn, u64 nr, bool valid)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = set_direct_map_batch(pfn, nr, valid, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

int set_direct_map_invalid(pfn_t pfn, u64 nr)
{
	return set_direct_map(pfn, nr, false);
}

int set_direct_map_default(pfn_t pfn, u64 nr)
{
	return set_direct_map(pfn, nr, true);
}

/* ---- Counters ---- */

void directmap_read_stats(struct directmap_stats *out)
{
	const struct pt_stats *s = &kernel_space.stats[PT_DIRECT];

	out->direct_map_4k = s->leaves[PT_4K] << pt_shift(PT_4K);
	out->direct_map_2m = s->leaves[PT_2M] << pt_shift(PT_2M);
	out->direct_map_1g = s->leaves[PT_1G] << pt_shift(PT_1G);
	out->direct_map_level2_splits = s->splits[PT_2M];
	out->direct_map_level3_splits = s->splits[PT_1G];
	out->direct_map_level2_collapses = s->collapses[PT_2M];
	out->direct_map_level3_collapses = s->collapses[PT_1G];
	out->leaves = s->leaves[PT_4K] + s->leaves[PT_2M] + s->leaves[PT_1G];
	out->fewest_leaves = pt_fewest_leaves(&kernel_space, PT_DIRECT);
	out->tables = s->tables;
}
