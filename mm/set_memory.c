/* SPDX-License-Identifier: MIT */
/*
 * Rights by virtual address. See set_memory.h.
 *
 * One run of the protocol: the plan goes over the leaves of the range, checks each against W^X and counts the tables of
 * the change itself and of the changes to the direct-map alias that go with it; apply goes over them again.
 */
#include "mm/set_memory.h"

#include "kernel/base/errno.h"
#include "mm/alias.h"
#include "mm/directmap.h"

/* What each request does to a leaf, and whether the direct-map alias follows in W. */
static const struct rights {
	u64 set;
	u64 clear;
	bool follows;
} rights_table[] = {
	[MEMORY_RO] = { 0, PTE_W, true },
	[MEMORY_RW] = { PTE_W, 0, true },
	[MEMORY_X] = { 0, PTE_NX, false },
	[MEMORY_NX] = { PTE_NX, 0, false },
	[MEMORY_ROX] = { 0, PTE_W | PTE_NX, true },
};

struct request {
	struct pt_change own;
	bool direct;		/* the range is of the direct map itself */
	bool follows;
	/* The direct-map change that is being put together: consecutive frames, pa. */
	struct range run;
	/* Where it goes. */
	struct pt_plan *plan;
	struct pt_pool *pool;
	struct tlb_batch *batch;
};

/* One leaf, or the part of it in the range. */
struct piece {
	u64 va;
	pfn_t pfn;
	u64 nr;
	u64 attrs;	/* now */
	u64 after;	/* and after the request */
};

/* Entries of a 4K table that carry on what the slot at va begins: the address behind the last of them. */
static u64 run_end(const pte_t *slot, u64 va, u64 limit)
{
	u64 want = slot->raw & ~PTE_AD;

	do {
		va += PAGE_SIZE;
		slot++;
		want += PAGE_SIZE;
	} while (va < limit && !is_aligned((u64)slot, PAGE_SIZE) && (load_relaxed(&slot->raw) & ~PTE_AD) == want);
	return va;
}

static bool next_piece(const struct request *r, u64 *va, struct piece *out)
{
	struct pt_slot s = pt_walk(&kernel_space, *va, PT_4K);
	u64 base = align_down(*va, pt_span(s.level));
	u64 end;

	if (!pte_is_leaf(s.value, s.level))
		return false;
	end = s.level == PT_4K ? run_end(s.pte, *va, r->own.va.end) : MIN(pt_next(*va, s.level), r->own.va.end);
	out->va = *va;
	out->pfn = (pte_leaf_pa(s.value, s.level).raw + (*va - base)) >> PAGE_SHIFT;
	out->nr = (end - *va) >> PAGE_SHIFT;
	out->attrs = pte_attrs(s.value, s.level);
	out->after = (out->attrs & ~r->own.clear) | r->own.set;
	*va = end;
	return true;
}

/* Only a right that is new needs to be allowed. */
static int check_piece(const struct request *r, const struct piece *p)
{
	bool new_x = alias_executable(p->after) && !alias_executable(p->attrs);
	bool new_w = alias_writable(p->after) && !alias_writable(p->attrs);

	if ((r->direct || r->follows) && (r->own.set | r->own.clear) & PTE_W) {
		int rc = directmap_allows(p->pfn, p->nr, r->own.set & PTE_W);

		if (rc)
			return rc;
	}
	if (!new_x && !new_w && !(alias_executable(p->after) && alias_writable(p->after)))
		return 0;
	if (new_x && r->direct)
		return -EPERM;
	return alias_allows(p->pfn, p->nr, p->after, alias_writable(p->attrs) && !r->direct, r->follows);
}

/* ---- The direct-map alias ---- */

static struct pt_change direct_change(const struct request *r)
{
	return (struct pt_change){
		.op = PT_OP_PROTECT,
		.va = range(arch_mm.direct_base + r->run.start, arch_mm.direct_base + r->run.end),
		.set = r->own.set & PTE_W,
		.clear = r->own.clear & PTE_W,
	};
}

static int flush_run(struct request *r)
{
	struct pt_change c = direct_change(r);
	int rc = 0;

	if (range_empty(r->run))
		return 0;
	if (r->plan)
		rc = pt_plan(&kernel_space, &c, r->plan);
	else
		pt_apply(&kernel_space, &c, r->pool, r->batch);
	r->run = range(0, 0);
	return rc;
}

/* Frames whose direct-map alias follows; runs that continue each other become one change. */
static int follow(struct request *r, const struct piece *p)
{
	int rc = 0;

	if (!r->follows || r->direct)
		return 0;
	for (u64 i = 0, n; i < p->nr && !rc; i += n) {
		struct range pa = range_len((p->pfn + i) << PAGE_SHIFT, 0);
		bool has;

		n = directmap_span(p->pfn + i, p->nr - i, &has);
		if (!has)
			continue;
		pa.end += n << PAGE_SHIFT;
		if (!range_empty(r->run) && r->run.end == pa.start) {
			r->run.end = pa.end;
			continue;
		}
		rc = flush_run(r);
		r->run = pa;
	}
	return rc;
}

/* ---- The protocol ---- */

static int rights_plan(void *arg, struct pt_plan *plan)
{
	struct request *r = arg;
	u64 va = r->own.va.start;
	int rc = 0;

	r->plan = plan;
	r->run = range(0, 0);
	while (va < r->own.va.end) {
		struct piece p;

		/* A hole anywhere is what the caller hears of, whatever else is wrong. */
		if (!next_piece(r, &va, &p))
			return -EFAULT;
		if (rc)
			continue;
		rc = check_piece(r, &p);
		if (!rc)
			rc = follow(r, &p);
	}
	if (!rc)
		rc = flush_run(r);
	if (!rc)
		rc = pt_plan(&kernel_space, &r->own, plan);
	return rc;
}

static void rights_apply(void *arg, struct pt_pool *pool, struct tlb_batch *batch)
{
	struct request *r = arg;
	u64 va = r->own.va.start;
	struct piece p;

	r->plan = NULL;
	r->pool = pool;
	r->batch = batch;
	r->run = range(0, 0);
	while (va < r->own.va.end && next_piece(r, &va, &p)) {
		if (!r->direct)
			alias_count(p.pfn, p.nr, alias_writable(p.after) - alias_writable(p.attrs),
				    alias_executable(p.after) - alias_executable(p.attrs));
		(void)follow(r, &p);	/* cannot fail: applies what was planned */
	}
	(void)flush_run(r);
	pt_apply(&kernel_space, &r->own, pool, batch);
}

int set_memory_batch(u64 va, u64 nr, enum memory_rights rights, struct tlb_batch *batch)
{
	static const struct pt_protocol protocol = { rights_plan, rights_apply };
	struct request r = { 0 };

	if (!is_aligned(va, PAGE_SIZE) || !nr || nr >= BIT(40) || va < 1ull << 63 ||
	    (u64)rights >= ARRAY_SIZE(rights_table) || va + (nr << PAGE_SHIFT) <= va ||
	    va + (nr << PAGE_SHIFT) > -PAGE_SIZE)
		return -EINVAL;
	r.own = (struct pt_change){
		.op = PT_OP_PROTECT,
		.va = range_len(va, nr << PAGE_SHIFT),
		.set = rights_table[rights].set & arch_mm.pte_mask,
		.clear = rights_table[rights].clear,
	};
	r.direct = range_overlaps(r.own.va, kernel_space.direct);
	if (r.direct && !range_covers(kernel_space.direct, r.own.va))
		return -EFAULT;		/* what lies beside the direct map is never mapped */
	r.follows = rights_table[rights].follows;
	return pt_run(&kernel_space, &protocol, &r, batch);
}

static int set_memory(u64 va, u64 nr, enum memory_rights rights)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = set_memory_batch(va, nr, rights, &batch);
	return tlb_batch_finish(&batch) && !rc ? -EIO : rc;
}

int set_memory_ro(u64 va, u64 nr)
{
	return set_memory(va, nr, MEMORY_RO);
}

int set_memory_rw(u64 va, u64 nr)
{
	return set_memory(va, nr, MEMORY_RW);
}

int set_memory_x(u64 va, u64 nr)
{
	return set_memory(va, nr, MEMORY_X);
}

int set_memory_nx(u64 va, u64 nr)
{
	return set_memory(va, nr, MEMORY_NX);
}

int set_memory_rox(u64 va, u64 nr)
{
	return set_memory(va, nr, MEMORY_ROX);
}
