/* SPDX-License-Identifier: MIT */
/*
 * Two CPUs at once, systematically: one runs an operation, the other comes in between at the first point
 * where it can, in the next run at the second, and so on. Whatever the point, results and rights must be
 * those of one operation after the other, in one of the two orders; tables, counters and caches are checked
 * each time. This is where a plan made before the lock meets tables that are no longer what they were (SPEC
 * PT3: reserved before the lock, rechecked under it).
 */
#include "kernel/base/fmt.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/kernel_map.h"
#include "mm/pt_audit.h"
#include "mm/set_memory.h"
#include "tests/fixture.h"
#include "tests/host/arch_host.h"
#include "tests/host/machine.h"
#include "tests/host/sim_tlb.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)
#define LOOKED_AT 24u	/* pages of the block that the operations are about */

static struct {
	struct page *block;
	pfn_t pfn;
	struct page *pages[PT_ENTRIES];
	struct fixture_area area;	/* the block by one 2M leaf */
} s;

/* ---- The operations ---- */

static u64 direct(unsigned page)
{
	return phys_to_va(phys((s.pfn + page) << PAGE_SHIFT));
}

static int out_7(void)
{
	return set_direct_map_invalid(s.pfn + 7, 1);
}

static int back_7(void)
{
	return set_direct_map_default(s.pfn + 7, 1);
}

static int out_8(void)
{
	return set_direct_map_invalid(s.pfn + 8, 2);
}

static int back_all(void)
{
	return set_direct_map_default(s.pfn, PT_ENTRIES);
}

static int out_all(void)
{
	return set_direct_map_invalid(s.pfn, PT_ENTRIES);
}

static int alias_rw(void)
{
	return set_memory_rw(s.area.va + 6 * PAGE_SIZE, 4);
}

static int alias_rox(void)
{
	return set_memory_rox(s.area.va + 7 * PAGE_SIZE, 2);
}

static int alias_nx(void)
{
	return set_memory_nx(s.area.va + 7 * PAGE_SIZE, 2);
}

static int whole_ro(void)
{
	return set_memory_ro(s.area.va, PT_ENTRIES);
}

static int unmap_some(void)
{
	struct tlb_batch b;
	int rc;

	tlb_batch_init(&b, &kernel_space);
	rc = kernel_unmap(range_len(s.area.va + 5 * PAGE_SIZE, 3 * PAGE_SIZE), &b);
	tlb_batch_finish(&b);
	return rc;
}

/* Another frame than was there. */
static int map_some(void)
{
	struct tlb_batch b;
	int rc;

	tlb_batch_init(&b, &kernel_space);
	rc = kernel_map_pages(s.area.va + 6 * PAGE_SIZE, s.pages + 200, 1, fixture_attrs() & ~PTE_W, PT_2M, &b);
	tlb_batch_finish(&b);
	return rc;
}

static int split_alias(void)
{
	return fixture_split(range_len(s.area.va, BLOCK), PT_4K);
}

static int split_direct(void)
{
	return fixture_split(range_len(direct(0), BLOCK), PT_4K);
}

static int settle(void)
{
	pt_settle(&kernel_space);
	return 0;
}

/* Pages of each alias that an operation is about: when it returns, no CPU translates them in another way. */
struct pages {
	u16 first, nr;
};

static const struct operation {
	const char *name;
	int (*run)(void);
	struct pages alias, direct;
} operations[] = {
	{ "out_one", out_7, { 0, 0 }, { 7, 1 } },
	{ "back_one", back_7, { 0, 0 }, { 7, 1 } },
	{ "out_two", out_8, { 0, 0 }, { 8, 2 } },
	{ "back_all", back_all, { 0, 0 }, { 0, PT_ENTRIES } },
	{ "out_all", out_all, { 0, 0 }, { 0, PT_ENTRIES } },
	{ "alias_rw", alias_rw, { 6, 4 }, { 6, 4 } },
	{ "alias_rox", alias_rox, { 7, 2 }, { 7, 2 } },
	{ "alias_nx", alias_nx, { 7, 2 }, { 0, 0 } },
	{ "whole_ro", whole_ro, { 0, PT_ENTRIES }, { 0, PT_ENTRIES } },
	{ "unmap", unmap_some, { 5, 3 }, { 0, 0 } },
	{ "map", map_some, { 6, 1 }, { 0, 0 } },
	{ "split_alias", split_alias, { 0, 0 }, { 0, 0 } },
	{ "split_direct", split_direct, { 0, 0 }, { 0, 0 } },
	{ "settle", settle, { 0, PT_ENTRIES }, { 0, PT_ENTRIES } },
};

#define OPERATIONS ARRAY_SIZE(operations)

/* ---- Scenes: where the first CPU finds things ---- */

static void nothing(void)
{
}

/* One page is out already: the gigabyte and the block are split, and may come back while the other plans. */
static void one_out(void)
{
	CHECK_EQ(out_7(), 0);
}

/* The whole block is out, by one entry. */
static void block_out(void)
{
	CHECK_EQ(out_all(), 0);
}

/* An alias executable, in a table of its own. */
static void some_executable(void)
{
	CHECK_EQ(alias_rox(), 0);
}

static void (*const scenes[])(void) = { nothing, one_out, block_out, some_executable };

static bool open_scene(unsigned scene)
{
	struct tlb_batch b;
	int rc;

	s.block = alloc_pages(ORDER_2M, 0);
	if (!CHECK(s.block != NULL))
		return false;
	s.pfn = page_to_pfn(s.block);
	page_set_class(s.pfn, PT_ENTRIES, PAGE_EXECMEM);
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		s.pages[i] = s.block + i;
	if (!fixture_area_get(&s.area, BLOCK, BLOCK))
		return false;
	tlb_batch_init(&b, &kernel_space);
	rc = kernel_map_pages(s.area.va, s.pages, PT_ENTRIES, fixture_attrs() & ~PTE_W, PT_2M, &b);
	tlb_batch_finish(&b);
	scenes[scene]();
	return CHECK_EQ(rc, 0);
}

static void close_scene(void)
{
	fixture_area_put(&s.area);
	CHECK_EQ(set_direct_map_default(s.pfn, PT_ENTRIES), 0);
	page_set_class(s.pfn, PT_ENTRIES, PAGE_KERNEL);
	free_pages(s.block, ORDER_2M);
	pt_settle(&kernel_space);
}

/* ---- Outcomes ---- */

struct outcome {
	int rc[2];
	u64 rights;	/* digest: of each page that is looked at, both aliases */
};

static u64 digest_page(u64 digest, u64 va)
{
	struct pt_slot slot = fixture_leaf(va);
	u64 word = 0;

	if (pte_is_leaf(slot.value, slot.level))
		word = (pte_attrs(slot.value, slot.level) & ~PTE_KEEP) |
		       (pte_leaf_pa(slot.value, slot.level).raw + (va & (pt_span(slot.level) - 1)) -
			(s.pfn << PAGE_SHIFT));
	return (digest ^ word) * 0x100000001b3ull;
}

static u64 digest_rights(void)
{
	u64 digest = 0xcbf29ce484222325ull;

	for (unsigned i = 0; i < LOOKED_AT; i++) {
		digest = digest_page(digest, s.area.va + i * PAGE_SIZE);
		digest = digest_page(digest, direct(i));
	}
	digest = digest_page(digest, s.area.va + BLOCK - PAGE_SIZE);
	return digest_page(digest, direct(PT_ENTRIES - 1));
}

static bool same_outcome(const struct outcome *a, const struct outcome *b)
{
	return a->rc[0] == b->rc[0] && a->rc[1] == b->rc[1] && a->rights == b->rights;
}

/* One after the other; first: which of the two begins. */
static struct outcome in_order(unsigned scene, const struct operation *const op[2], unsigned first)
{
	struct outcome o = { { 0 }, 0 };

	if (open_scene(scene)) {
		o.rc[first] = op[first]->run();
		o.rc[!first] = op[!first]->run();
		o.rights = digest_rights();
	}
	close_scene();
	return o;
}

struct intruder {
	const struct operation *op;
	int rc;
	unsigned stale;		/* translations of its pages that were out of date when it returned */
};

static unsigned stale_after(const struct operation *op)
{
	unsigned stale =
		sim_stale_in(range_len(s.area.va + op->alias.first * PAGE_SIZE, op->alias.nr * PAGE_SIZE));

	return stale + sim_stale_in(range_len(direct(op->direct.first), op->direct.nr * PAGE_SIZE));
}

static void intrude(void *arg)
{
	struct intruder *i = arg;

	i->rc = i->op->run();
	if (!i->rc)
		i->stale = stale_after(i->op);
}

/* Every CPU has every page that is looked at, by both aliases. */
static void prime_all(void)
{
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++) {
		sim_prime(cpu, range_len(s.area.va, LOOKED_AT * PAGE_SIZE), PAGE_SIZE);
		sim_prime(cpu, range_len(direct(0), LOOKED_AT * PAGE_SIZE), PAGE_SIZE);
	}
}

static unsigned check_machine_now(void)
{
	unsigned faults = sim_check(true) + pt_check(&kernel_space);

	for (unsigned i = 5; i < 10; i++)
		faults += sim_probe(s.area.va + i * PAGE_SIZE) + sim_probe(direct(i));
	return faults;
}

/* The second comes in at the n-th point of the first. false: there are not that many. */
static bool at_point(unsigned scene, const struct operation *const op[2], u64 n, const struct outcome want[2])
{
	struct intruder other = { op[1], 0, 0 };
	struct outcome got = { { 0 }, 0 };
	u64 faults = host_faults();
	bool came = false;

	if (open_scene(scene)) {
		prime_all();
		host.race = intrude;
		host.race_arg = &other;
		host.race_cpu = 0;
		host.race_as = host.nr_cpus - 1;
		host.race_points = 0;
		host.race_at = n;
		got.rc[0] = op[0]->run();
		host.race = NULL;
		came = host.race_points >= n;
		got.rc[1] = other.rc;
		got.rights = digest_rights();
		if (came && !CHECK(same_outcome(&got, &want[0]) || same_outcome(&got, &want[1])))
			test_note("scene=%u first=%s second=%s point=%llu rc=%d,%d not rc=%d,%d nor rc=%d,%d",
				  scene, op[0]->name, op[1]->name, (unsigned long long)n, got.rc[0],
				  got.rc[1], want[0].rc[0], want[0].rc[1], want[1].rc[0], want[1].rc[1]);
		if (!got.rc[0])
			CHECK_EQ(stale_after(op[0]), 0);
		if (!CHECK_EQ(other.stale + check_machine_now() + host_faults() - faults, 0))
			test_note("scene=%u first=%s second=%s point=%llu", scene, op[0]->name, op[1]->name,
				  (unsigned long long)n);
	}
	close_scene();
	return came;
}

static u64 race(unsigned scene, const struct operation *first, const struct operation *second)
{
	const struct operation *const op[2] = { first, second };
	const struct outcome want[2] = { in_order(scene, op, 0), in_order(scene, op, 1) };
	u64 n = 1;

	while (n < 1000 && at_point(scene, op, n, want))
		n++;
	return n - 1;
}

static unsigned count_first(void)
{
	return OPERATIONS;
}

static void name_first(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", operations[row].name);
}

/* Each operation against each, from each scene; the sample of a quick run takes one scene in turn. */
TEST_ROWS(race, one_comes_between, "PT2 PT3 PT4 TL1", 0, count_first, name_first)
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	const struct operation *first = &operations[test_row()];
	struct rng rng = test_rng();
	u64 points = 0;

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	if (!(arch_mm.pte_mask & PTE_NX))
		SKIP("no NX");
	for (unsigned k = 0; k < OPERATIONS; k++)
		for (unsigned scene = 0; scene < ARRAY_SIZE(scenes); scene++)
			if (machine_full || rng_below(&rng, ARRAY_SIZE(scenes)) == 0)
				points += race(scene, first, &operations[k]);
	test_note("points=%llu", (unsigned long long)points);
	CHECK(points > 0);
	fixture_policy(policy);
}
