/* SPDX-License-Identifier: MIT */
/*
 * Random operations against the model (model.h), on any of the virtual CPUs, several to a batch, under
 * changing policies, with break-before-make on and off, splits by the test hook in between.
 *
 * After each batch: the pages at the edges of every range and one beyond, compared by walk and through the
 * caches of every CPU; every cached translation that overlaps a change; the counters against a fresh walk.
 * From time to time the whole map, the audit, all caches, and splits and collapses against the log of stores.
 *
 * A failure names seed, machine, batch and operations: `host-test --machine M --seed N --suite model` runs it
 * again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/pt_audit.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/model.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"
#include "tests/test.h"

#define OPERATIONS 2500u
#define OPERATIONS_FULL 100000u
#define SEEDS 1u
#define SEEDS_FULL 5u		/* on each of four machines: 20 */
#define BATCH_MAX 4u
#define AUDIT_EVERY 64u		/* batches */
#define WHOLE_EVERY 256u
#define SINGLES 96u
#define REGIONS_MAX (SINGLES + 8u)
#define AREA_PAGES 4096u
#define VMAPS 4u

struct region {
	struct page *page;
	unsigned order;
};

/* One alias made by vmap(): counted in the model, its address is the area code's business. */
struct alias {
	void *va;
	pfn_t pfn;
	u64 nr;
	bool w;
};

struct op {
	const char *name;
	u64 a, nr;		/* address or frame number, pages */
	unsigned arg;
	int got, want;
};

static struct {
	struct model m;
	struct rng rng;
	struct region regions[REGIONS_MAX];
	unsigned nr_regions;
	struct fixture_area area;
	struct alias vmaps[VMAPS];
	struct page **pages;	/* arguments of one map, as many as the area has */
	u64 *pfns;
	struct op ops[BATCH_MAX];
	unsigned nr_ops;
	u64 done;		/* operations */
	u64 succeeded, refused;	/* as predicted */
	u64 busy;		/* refused under break-before-make, and done without */
	u64 failures;
} r;

static u64 below(u64 n)
{
	return rng_below(&r.rng, n);
}

/* ---- Setting up ---- */

static void add_region(unsigned order, struct page *page, bool exec)
{
	pfn_t pfn = page_to_pfn(page);

	page_set_class(pfn, BIT(order), exec ? PAGE_EXECMEM : PAGE_KERNEL);
	r.regions[r.nr_regions++] = (struct region){ page, order };
	model_add(&r.m, pfn, BIT(order), exec);
}

static void take_blocks(void)
{
	static const u8 orders[] = { ORDER_1G, ORDER_2M, ORDER_2M, ORDER_2M + 1, ORDER_2M + 3 };

	for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
		struct page *page = alloc_pages(orders[i], 0);

		if (page)
			add_region(orders[i], page, i % 2 == 0);
	}
}

/* Single frames with strangers between them: as on a machine that has run for a while. */
static void take_singles(void)
{
	struct page *all[16 * SINGLES];
	unsigned n = 0;

	while (n < ARRAY_SIZE(all) && (all[n] = alloc_page(0)))
		n++;
	for (unsigned i = 0; i < n; i++) {
		if (i % 16 == below(16) && r.nr_regions < REGIONS_MAX)
			add_region(0, all[i], below(2));
		else
			free_page(all[i]);
	}
}

static bool set_up(u64 seed)
{
	u64 area = machine->max_leaf >= PT_1G ? GIB + AREA_PAGES * PAGE_SIZE : AREA_PAGES * PAGE_SIZE;

	memset(&r, 0, sizeof(r));
	r.rng.state = seed;
	if (!fixture_area_get(&r.area, area, machine->max_leaf >= PT_1G ? GIB : 2 * MIB))
		return false;
	model_init(&r.m, BIT(ORDER_1G) + 64 * PT_ENTRIES, page_max_pfn, r.area.va, area >> PAGE_SHIFT);
	r.pages = calloc(AREA_PAGES, sizeof(*r.pages));
	r.pfns = calloc(BIT(ORDER_1G), sizeof(*r.pfns));
	take_blocks();
	take_singles();
	return CHECK(r.pages && r.pfns && r.nr_regions > 4);
}

static void drop_vmap(struct alias *v)
{
	if (!v->va)
		return;
	vunmap(v->va);
	for (u64 i = 0; i < v->nr; i++)
		model_frame(&r.m, v->pfn + i)->w -= v->w;
	v->va = NULL;
}

static void tear_down(void)
{
	host_cpu_set(0);
	pt_bbm = -1;
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	for (unsigned i = 0; i < VMAPS; i++)
		drop_vmap(&r.vmaps[i]);
	fixture_area_put(&r.area);
	for (unsigned i = 0; i < r.nr_regions; i++) {
		struct region *g = &r.regions[i];

		CHECK_EQ(set_direct_map_default(page_to_pfn(g->page), BIT(g->order)), 0);
		page_set_class(page_to_pfn(g->page), BIT(g->order), PAGE_KERNEL);
		free_pages(g->page, g->order);
	}
	pt_settle(&kernel_space);
	free(r.pages);
	free(r.pfns);
	model_free(&r.m);
}

/* ---- Comparing ---- */

static u64 want_attrs(const struct model_view *v)
{
	u64 attrs = PTE_P | PTE_A | PTE_D | PTE_G | (v->w ? PTE_W : 0) | (v->x ? 0 : PTE_NX);

	return attrs & arch_mm.pte_mask;
}

static void failed(const char *what, u64 va)
{
	if (r.failures++ > 3)
		return;
	test_note("seed=%llu operation=%llu cpu=%u policy=%u bbm=%d: %s at %#llx",
		  (unsigned long long)test_seed, (unsigned long long)r.done, host.cpu, kernel_space.policy,
		  pt_bbm, what, (unsigned long long)va);
	for (unsigned i = 0; i < r.nr_ops; i++)
		test_note("  %s(%#llx, %llu, %u) got %d, want %d", r.ops[i].name,
			  (unsigned long long)r.ops[i].a, (unsigned long long)r.ops[i].nr, r.ops[i].arg,
			  r.ops[i].got, r.ops[i].want);
}

static bool leaf_is(struct pt_slot s, u64 va, const struct model_view *v)
{
	if (!v->present)
		return pte_none(s.value);
	return pte_is_leaf(s.value, s.level) && (pte_attrs(s.value, s.level) & ~PTE_KEEP) == want_attrs(v) &&
	       pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1)) == v->pfn << PAGE_SHIFT;
}

static void compare_page(u64 va)
{
	struct model_view v;

	if (model_at(&r.m, va, &v) && !leaf_is(fixture_leaf(va), va, &v))
		failed("a page differs from the model", va);
}

/* The page at va, and the alias of its frame in the direct map. */
static void compare_both(u64 va)
{
	struct model_view v;

	compare_page(va);
	if (model_at(&r.m, va, &v) && v.present)
		compare_page(phys_to_va(phys(v.pfn << PAGE_SHIFT)));
}

static void compare_edges(u64 va, u64 nr)
{
	u64 last = va + ((nr - 1) << PAGE_SHIFT);
	const u64 edges[] = { va - PAGE_SIZE, va, va + PAGE_SIZE, last - PAGE_SIZE, last, last + PAGE_SIZE };
	u64 any = va + (below(nr) << PAGE_SHIFT);

	for (unsigned i = 0; i < ARRAY_SIZE(edges); i++)
		compare_both(edges[i]);
	compare_both(any);
	if (sim_probe(edges[below(ARRAY_SIZE(edges))]) + sim_probe(any))
		failed("a CPU sees something else", any);
}

struct whole {
	u64 present;	/* known frames in the direct map, and pages of the area */
	u64 wrong;
	u64 first;
};

static bool compare_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct whole *w = arg;
	struct pt_slot s = { NULL, leaf, (u8)level };

	(void)effective;
	for (u64 at = va; at < va + pt_span(level); at += PAGE_SIZE) {
		struct model_view v;
		bool ok = true;

		if (model_at(&r.m, at, &v)) {
			ok = leaf_is(s, at, &v);
			w->present++;
		} else if (range_has(kernel_space.direct, at)) {
			enum page_class class = pfn_to_page(va_to_phys(at).raw >> PAGE_SHIFT)->class;

			v.w = class != PAGE_KERNEL_TEXT && class != PAGE_KERNEL_RODATA;
			v.x = false;
			ok = (pte_attrs(leaf, level) & ~PTE_KEEP) == want_attrs(&v) &&
			     pte_leaf_pa(leaf, level).raw + (at - va) == va_to_phys(at).raw;
		}
		if (!ok && !w->wrong++)
			w->first = at;
	}
	return true;
}

static void compare_whole(void)
{
	struct whole w = { 0 };
	u64 want = 0;

	pt_for_each_leaf(&kernel_space, kernel_space.direct, compare_leaf, &w);
	pt_for_each_leaf(&kernel_space, range_len(r.area.va, r.area.size), compare_leaf, &w);
	for (u32 i = 0; i < r.m.nr_frames; i++)
		want += r.m.frames[i].direct;
	for (u64 i = 0; i < r.m.nr_pages; i++)
		want += r.m.pages[i].frame != 0;
	if (w.wrong)
		failed("the whole map differs from the model", w.first);
	if (w.present != want)
		failed("pages are missing, or too many", w.present - want);
}

/* ---- Choosing ---- */

/* A run inside [0, n): often at the edges of blocks, often short, now and then all of it. */
static void choose_run(u64 n, u64 *first, u64 *nr)
{
	static const u16 lengths[] = { 1, 1, 1, 1, 2, 3, 7, 31, 32, 33, 64, 200, 511, 512, 513, 1024 };

	*first = below(n);
	if (!below(2))
		*first = align_down(*first, PT_ENTRIES) + below(3) + PT_ENTRIES - 1;
	if (!below(3))
		*first = align_down(*first, PT_ENTRIES);
	*first = MIN(*first, n - 1);
	*nr = lengths[below(ARRAY_SIZE(lengths))];
	if (!below(200)) {
		*first = 0;
		*nr = n;
	}
	*nr = MIN(*nr, n - *first);
}

static void choose_frames(pfn_t *pfn, u64 *nr)
{
	/* Blocks as often as singles, though there are fewer. */
	const struct region *g = &r.regions[below(3) ? below(MIN(r.nr_regions, 5)) : below(r.nr_regions)];
	u64 first;

	choose_run(BIT(g->order), &first, nr);
	*pfn = page_to_pfn(g->page) + first;
}

static void choose_region(pfn_t *pfn, u64 *nr)
{
	const struct region *g = &r.regions[below(MIN(r.nr_regions, 5))];

	*pfn = page_to_pfn(g->page);
	*nr = BIT(g->order);
}

/* Pages of the area; most of the time of its first part, where something is mapped. */
static void choose_pages(u64 *va, u64 *nr)
{
	u64 first;

	choose_run(below(50) ? AREA_PAGES : r.m.nr_pages, &first, nr);
	*va = r.area.va + (first << PAGE_SHIFT);
}

/* ---- Operations ---- */

static struct op *begin(const char *name, u64 a, u64 nr, unsigned arg)
{
	struct op *op = &r.ops[r.nr_ops++];

	*op = (struct op){ name, a, nr, arg, 0, 0 };
	return op;
}

/*
 * The model knows frames, not tables. Under break-before-make a leaf cannot be split that its own table is reached through, and where
 * tables lie is the page allocator's affair: such a change is refused, has changed nothing, and is done without.
 */
#define ATTEMPT(op, change)                                      \
	do {                                                     \
		(op)->got = (change);                            \
		if ((op)->got == -EBUSY && !(op)->want && pt_bbm > 0) { \
			pt_bbm = -1;                             \
			(op)->got = (change);                    \
			pt_bbm = 1;                              \
			r.busy++;                                \
		}                                                \
	} while (0)

static void op_direct(struct tlb_batch *b, bool valid)
{
	pfn_t pfn;
	u64 nr;
	struct op *op;

	choose_frames(&pfn, &nr);
	/* All of a region comes back often enough for leaves to become whole again. */
	if (valid && !below(4))
		choose_region(&pfn, &nr);
	op = begin(valid ? "default" : "invalid", pfn, nr, 0);
	op->want = model_set_direct(&r.m, pfn, nr, valid);
	ATTEMPT(op, set_direct_map_batch(pfn, nr, valid, b));
}

static void op_invalid(struct tlb_batch *b)
{
	op_direct(b, false);
}

static void op_default(struct tlb_batch *b)
{
	op_direct(b, true);
}

static void set_rights(struct tlb_batch *b, u64 va, u64 nr)
{
	enum memory_rights rights = (enum memory_rights)below(5);
	struct op *op = begin("set_memory", va, nr, rights);

	op->want = model_set_memory(&r.m, va, nr, rights);
	ATTEMPT(op, set_memory_batch(va, nr, rights, b));
}

static void op_rights_direct(struct tlb_batch *b)
{
	pfn_t pfn;
	u64 nr;

	choose_frames(&pfn, &nr);
	set_rights(b, phys_to_va(phys(pfn << PAGE_SHIFT)), nr);
}

/* A run that begins where something is mapped, if one is found soon. */
static void op_rights_area(struct tlb_batch *b)
{
	struct model_view v = { 0 };
	u64 va, nr, n = 0;

	for (unsigned tries = 0; tries < 20 && !v.present; tries++) {
		choose_pages(&va, &nr);
		model_at(&r.m, va, &v);
	}
	while (n < nr && model_at(&r.m, va + (n << PAGE_SHIFT), &v) && v.present)
		n++;
	set_rights(b, va, n && below(20) ? n : nr);
}

/* Arguments out of range: one of each kind. */
static void op_bad(struct tlb_batch *b)
{
	static const struct {
		u64 add, nr;
	} rows[] = { { 1, 1 }, { 0x800, 3 }, { 0, 0 }, { 0, 1ull << 45 }, { 0, 1ull << 52 } };
	unsigned i = (unsigned)below(ARRAY_SIZE(rows));
	pfn_t pfn;
	u64 nr;

	choose_frames(&pfn, &nr);
	set_rights(b, phys_to_va(phys(pfn << PAGE_SHIFT)) + rows[i].add, rows[i].nr);
}

static u64 area_attrs(bool w, bool x)
{
	const struct model_view v = { true, w, x, 0 };

	return want_attrs(&v);
}

static void op_map(struct tlb_batch *b)
{
	static const u8 sizes[] = { PT_4K, PT_2M, PT_1G };
	unsigned rights = (unsigned)below(8);
	bool w = rights < 4 || rights == 7, x = rights >= 6;
	unsigned max_leaf = sizes[below(3)];
	bool scattered = !below(4);
	struct op *op;
	pfn_t pfn;
	u64 va, nr, room;

	choose_pages(&va, &room);
	choose_frames(&pfn, &nr);
	if (!below(3)) {	/* alike in alignment: a large leaf may fit */
		va = r.area.va + ((pfn & (PT_ENTRIES - 1)) << PAGE_SHIFT) + below(6) * (2 * MIB);
	}
	nr = MIN(nr, (r.area.va + r.area.size - va) >> PAGE_SHIFT);
	nr = MIN(nr, AREA_PAGES);
	for (u64 i = 0; i < nr; i++) {
		r.pfns[i] = scattered ? r.m.frames[below(r.m.nr_frames)].pfn : pfn + i;
		r.pages[i] = pfn_to_page(r.pfns[i]);
	}
	op = begin(scattered ? "map_scattered" : "map", va, nr, rights);
	op->want = model_map(&r.m, va, r.pfns, nr, w, x);
	ATTEMPT(op, kernel_map_pages(va, r.pages, nr, area_attrs(w, x), max_leaf, b));
}

/* A whole gigabyte, by one leaf. */
static void op_map_gigabyte(struct tlb_batch *b)
{
	const struct region *g = &r.regions[0];
	u64 n = BIT(ORDER_1G);
	struct op *op;

	if (g->order != ORDER_1G || r.m.nr_pages < n)
		return;
	for (u64 i = 0; i < n; i++)
		r.pfns[i] = page_to_pfn(g->page) + i;
	op = begin("map_gigabyte", r.area.va, n, 0);
	op->want = model_map(&r.m, r.area.va, r.pfns, n, true, false);
	ATTEMPT(op, kernel_map_range(r.area.va, range_len(r.pfns[0] << PAGE_SHIFT, GIB), area_attrs(true, false), PT_1G, b));
}

static void op_unmap(struct tlb_batch *b)
{
	struct op *op;
	u64 va, nr;

	choose_pages(&va, &nr);
	if (!below(5)) {
		va = r.area.va;
		nr = r.m.nr_pages;
	}
	op = begin("unmap", va, nr, 0);
	op->want = model_unmap(&r.m, va, nr);
	ATTEMPT(op, kernel_unmap(range_len(va, nr << PAGE_SHIFT), b));
}

static void op_split(struct tlb_batch *b)
{
	unsigned level = PT_4K + (unsigned)below(2);
	struct op *op;
	pfn_t pfn;
	u64 va, nr;

	if (below(2)) {
		choose_frames(&pfn, &nr);
		va = phys_to_va(phys(pfn << PAGE_SHIFT));
	} else {
		choose_pages(&va, &nr);
	}
	nr = MIN(nr, 2 * PT_ENTRIES);
	op = begin("split", va, nr, level);
	ATTEMPT(op, pt_split_range(&kernel_space, range_len(va, nr << PAGE_SHIFT), level, b));
}

static const struct {
	unsigned weight;
	void (*run)(struct tlb_batch *b);
} op_table[] = {
	{ 30, op_invalid },
	{ 28, op_default },
	{ 8, op_rights_direct },
	{ 22, op_rights_area },
	{ 12, op_map },
	{ 8, op_unmap },
	{ 3, op_split },
	{ 1, op_map_gigabyte },
	{ 2, op_bad },
};

static void run_op(struct tlb_batch *b)
{
	unsigned sum = 0, pick;

	for (unsigned i = 0; i < ARRAY_SIZE(op_table); i++)
		sum += op_table[i].weight;
	pick = (unsigned)below(sum);
	for (unsigned i = 0; i < ARRAY_SIZE(op_table); i++) {
		if (pick < op_table[i].weight) {
			op_table[i].run(b);
			break;
		}
		pick -= op_table[i].weight;
	}
	r.done++;
}

/* Between batches: another policy, a settle, break-before-make on or off, an alias by vmap(). */
static void between(void)
{
	struct alias *v = &r.vmaps[below(VMAPS)];

	switch (below(40)) {
	case 0:
		pt_set_policy(&kernel_space, (enum pt_collapse_policy)below(3));
		break;
	case 1:
		pt_settle(&kernel_space);
		break;
	case 2:
		pt_bbm = below(3) ? -1 : 1;
		break;
	case 3:
	case 4:
		drop_vmap(v);
		choose_frames(&v->pfn, &v->nr);
		v->nr = MIN(v->nr, AREA_PAGES);
		v->w = below(2);
		for (u64 i = 0; i < v->nr; i++) {
			struct model_frame *f = model_frame(&r.m, v->pfn + i);

			if (v->w && f->x)
				return;		/* refused: covered by map */
			r.pages[i] = pfn_to_page(f->pfn);
		}
		v->va = vmap(r.pages, v->nr, v->w ? 0 : VMAP_RO);
		if (!v->va)
			failed("vmap", v->pfn);
		for (u64 i = 0; v->va && i < v->nr; i++)
			model_frame(&r.m, v->pfn + i)->w += v->w;
		break;
	default:
		break;
	}
}

/* Everything that is compared after each batch. */
static void check_batch(u64 batch)
{
	struct pt_audit audit;

	for (unsigned i = 0; i < r.nr_ops; i++) {
		const struct op *op = &r.ops[i];

		if (op->got != op->want)
			failed("another result than the model's", op->a);
		r.succeeded += !op->got;
		r.refused += op->got != 0;
		if (op->nr && op->nr <= BIT(ORDER_1G) && !(op->a & (op->a >> 63 ? PAGE_SIZE - 1 : 0)))
			compare_edges(op->a >> 63 ? op->a : phys_to_va(phys(op->a << PAGE_SHIFT)), op->nr);
	}
	if (sim_check(true))
		failed("a stale translation", 0);
	if (pt_check(&kernel_space))
		failed("counters or breaks differ from a walk", 0);
	if (batch % AUDIT_EVERY == 0 && pt_audit(&audit))
		failed("the audit found something", audit.first.va);
	if (batch % WHOLE_EVERY == 0) {
		compare_whole();
		machine_check();
	}
	if (host_faults())
		failed("the simulation found a fault", 0);
}

static void run_batch(u64 batch)
{
	unsigned n = below(5) < 3 ? 1 : 1 + (unsigned)below(BATCH_MAX);
	struct tlb_batch b;

	r.nr_ops = 0;
	host_cpu_set((u32)below(host.nr_cpus));
	between();
	tlb_batch_init(&b, &kernel_space);
	for (unsigned i = 0; i < n; i++)
		run_op(&b);
	tlb_batch_finish(&b);
	check_batch(batch);
}

static unsigned count_seeds(void)
{
	return machine_full ? SEEDS_FULL : SEEDS;
}

static void name_seed(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "operations.%u", row);
}

TEST_ROWS(model, agrees, "PT2 PT3 PT4 PT5 PT6 TL1 TL5", 0, count_seeds, name_seed)
{
	struct rng rng = test_rng();
	u64 total = machine_full ? OPERATIONS_FULL : OPERATIONS;
	struct fixture_events before, after;

	fixture_events(&before);
	test_note("seed=%llu operations=%llu", (unsigned long long)test_seed, (unsigned long long)total);
	if (set_up(rng_next(&rng))) {
		for (u64 batch = 0; r.done < total && !r.failures; batch++)
			run_batch(batch);
		compare_whole();
		fixture_events(&after);
		CHECK_EQ(r.failures, 0);
		test_note("succeeded=%llu refused=%llu splits_2m=%llu splits_1g=%llu collapses_2m=%llu "
			  "collapses_1g=%llu busy=%llu",
			  (unsigned long long)r.succeeded, (unsigned long long)r.refused,
			  (unsigned long long)(after.splits[PT_2M] - before.splits[PT_2M]),
			  (unsigned long long)(after.splits[PT_1G] - before.splits[PT_1G]),
			  (unsigned long long)(after.collapses[PT_2M] - before.collapses[PT_2M]),
			  (unsigned long long)(after.collapses[PT_1G] - before.collapses[PT_1G]), (unsigned long long)r.busy);
		/* A sequence that is refused, or splits nothing, would prove little. */
		CHECK(r.succeeded > total / 2 && r.refused > total / 100 && r.busy < total / 5);
		CHECK(after.splits[PT_2M] - before.splits[PT_2M] > total / 50);
		CHECK(after.collapses[PT_2M] - before.collapses[PT_2M] > total / 100);
	}
	tear_down();
}
