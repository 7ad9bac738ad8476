/* SPDX-License-Identifier: MIT */
/*
 * The stores themselves (SPEC PT3): how many a change takes, in what order a split makes them; and that the
 * rules which the log checks at every store of every test would catch what breaks them.
 */
#include "kernel/base/fmt.h"
#include "mm/buddy.h"
#include "tests/fixture.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"
#include "tests/test.h"

#define BLOCK (2 * MIB)

static bool map_nowhere(struct fixture_area *a, u64 size)
{
	return fixture_area_get(a, size, size) &&
	       CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a->va, size), fixture_nowhere(),
				       fixture_attrs() | PTE_PAT, 0),
			0);
}

/* A whole leaf is one store, whatever its size. */
TEST_ID(store_log, whole_leaf_is_one_store, "PT2 PT3")
{
	for (unsigned level = PT_4K; level <= arch_mm.max_leaf; level++) {
		struct fixture_area a;
		u64 before;

		if (map_nowhere(&a, pt_span(level))) {
			before = store_log_seq();
			CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, a.size), 0, 0, PTE_W), 0);
			CHECK_EQ(store_log_seq() - before, 1);
			CHECK_EQ(store_log_at(before + 1)->level, level);
			CHECK_EQ(store_log_at(before + 1)->va, a.va);
		}
		fixture_area_put(&a);
	}
}

/* 512 stores into the child, in order, one into the parent, and then the one that was asked for. */
TEST_ID(store_log, split_is_512_stores_and_one, "PT3")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);

	for (unsigned level = PT_2M; level <= arch_mm.max_leaf; level++) {
		struct fixture_area a;
		unsigned wrong = 0;
		u64 before;

		if (map_nowhere(&a, pt_span(level))) {
			u64 piece = pt_span(level - 1);

			before = store_log_seq();
			CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va + 3 * piece, piece), 0, 0,
						PTE_W),
				 0);
			CHECK_EQ(store_log_seq() - before, PT_ENTRIES + 2);
			for (unsigned i = 0; i < PT_ENTRIES; i++) {
				const struct store_record *s = store_log_at(before + 1 + i);

				wrong += s->level != level - 1 || s->va != a.va + i * piece;
			}
			CHECK_EQ(wrong, 0);
			CHECK_EQ(store_log_at(before + PT_ENTRIES + 1)->level, level);
			CHECK(pte_is_leaf(store_log_at(before + PT_ENTRIES + 1)->old, level));
			CHECK(pte_is_table(store_log_at(before + PT_ENTRIES + 1)->new, level));
			CHECK_EQ(store_log_at(before + PT_ENTRIES + 2)->va, a.va + 3 * piece);
		}
		fixture_area_put(&a);
	}
	fixture_policy(policy);
}

/* A collapse is one store into the parent. */
TEST_ID(store_log, collapse_is_one_store, "PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_area a;
	u64 before;

	if (map_nowhere(&a, BLOCK)) {
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, 0, PTE_W), 0);
		before = store_log_seq();
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, PTE_W, 0), 0);
		CHECK_EQ(store_log_seq() - before, 2);
		CHECK(pte_is_table(store_log_at(before + 2)->old, PT_2M));
		CHECK(pte_is_leaf(store_log_at(before + 2)->new, PT_2M));
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/*
 * Every split and collapse that pt_stats counts was seen to follow the rules: 100 %, of the whole run so far.
 */
TEST_ID(store_log, every_split_and_collapse_was_seen, "PT3 PT6")
{
	CHECK(store_log_splits(PT_2M) > 0);
	test_note("splits_2m=%llu splits_1g=%llu collapses_2m=%llu collapses_1g=%llu stores=%llu",
		  (unsigned long long)store_log_splits(PT_2M), (unsigned long long)store_log_splits(PT_1G),
		  (unsigned long long)store_log_collapses(PT_2M),
		  (unsigned long long)store_log_collapses(PT_1G), (unsigned long long)store_log_seq());
	store_log_check();
}

/*
 * Break-before-make by the CPU's errata: only executable leaves, all, or none. The log checks that no CPU has
 * a translation left when the entry is made.
 */
TEST_ID(store_log, errata_ask_for_break_before_make, "PT3")
{
	static const struct { u8 bbm; bool of_data, of_text;
	} rows[] = {
		{ ARCH_BBM_NONE, false, false },
		{ ARCH_BBM_EXECUTABLE, false, true },
		{ ARCH_BBM_ALL, true, true },
	};
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	u8 bbm = arch_mm.bbm;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned text = 0; text < 2; text++) {
			struct fixture_area a;
			u64 before = host.rendezvous;
			u64 attrs = fixture_attrs() & ~(text ? PTE_W | PTE_NX : 0);

			if (!fixture_area_get(&a, BLOCK, BLOCK))
				break;
			CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, BLOCK), fixture_nowhere(), attrs,
						0),
				 0);
			for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
				sim_prime(cpu, range_len(a.va, BLOCK), PAGE_SIZE);
			arch_mm.bbm = rows[i].bbm;
			CHECK_EQ(fixture_split(range_len(a.va, PAGE_SIZE), PT_4K), 0);
			arch_mm.bbm = bbm;
			CHECK_EQ(host.rendezvous - before, text ? rows[i].of_text : rows[i].of_data);
			fixture_area_put(&a);
		}
	fixture_policy(policy);
}

/* ---- The rules, broken on purpose ---- */

/* A table that maps what the leaf at va does, not linked anywhere yet. */
static pte_t *make_child(u64 va, pte_t leaf, unsigned level)
{
	struct page *page = alloc_page(0);
	pte_t *child;

	if (!page)
		return NULL;
	page->class = PAGE_TABLE;
	page->order = (u8)(level - 1);
	page->va = va;
	child = page_to_virt(page);
	arch_pte_fill(child, PT_ENTRIES, pte_leaf(pte_leaf_pa(leaf, level), pte_attrs(leaf, level), level - 1),
		      pt_span(level - 1), level - 1);
	return child;
}

static pte_t entry_for(const pte_t *child)
{
	return pte_table(virt_to_phys(child), false);
}

static void break_frame(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	child[100].raw += PAGE_SIZE;
	arch_pte_store(s.pte, entry_for(child), s.level);
}

static void break_rights(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	child[511].raw &= ~PTE_W;
	arch_pte_store(s.pte, entry_for(child), s.level);
}

static void break_type(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	child[0].raw ^= PTE_PAT;
	arch_pte_store(s.pte, entry_for(child), s.level);
}

static void break_order(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	arch_pte_store(child, child[0], s.level - 1u);	/* a 513th store */
	arch_pte_store(s.pte, entry_for(child), s.level);
}

static void break_entry(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	arch_pte_store(s.pte, (pte_t){ entry_for(child).raw & ~PTE_W }, s.level);
}

static void break_by_absent(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	arch_pte_store(s.pte, (pte_t){ 0 }, s.level);
	arch_pte_store(s.pte, entry_for(child), s.level);
}

static void break_collapse(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	arch_pte_store(s.pte, entry_for(child), s.level);
	arch_pte_store(s.pte, (pte_t){ s.value.raw & ~PTE_W }, s.level);
}

static void break_unhook(struct pt_slot s, u64 va)
{
	pte_t *child = make_child(va, s.value, s.level);

	arch_pte_store(s.pte, entry_for(child), s.level);
	arch_pte_store(s.pte, (pte_t){ 0 }, s.level);
}

static void break_level(struct pt_slot s, u64 va)
{
	(void)va;
	arch_pte_store(s.pte, s.value, s.level + 1u);
}

static void break_context(struct pt_slot s, u64 va)
{
	cpumask_t none = { { 0 } }, self = { { 1 } };

	(void)s, (void)va;
	arch_tlb_shootdown(&self, NULL, &none);
}

static const struct rule {
	const char *name;
	void (*run)(struct pt_slot s, u64 va);
	enum host_fault kind;
} rules[] = {
	{ "split_changes_a_frame", break_frame, HOST_SIZE_RULE },
	{ "split_changes_rights", break_rights, HOST_SIZE_RULE },
	{ "split_changes_the_type", break_type, HOST_SIZE_RULE },
	{ "split_of_513_stores", break_order, HOST_SPLIT_RULE },
	{ "table_entry_takes_rights", break_entry, HOST_TABLE_ENTRY },
	{ "split_by_way_of_absent", break_by_absent, HOST_VIA_ABSENT },
	{ "collapse_changes_rights", break_collapse, HOST_SIZE_RULE },
	{ "full_table_unhooked", break_unhook, HOST_VIA_ABSENT },
	{ "store_of_another_level", break_level, HOST_TABLE_ENTRY },
	{ "shootdown_to_oneself", break_context, HOST_CONTEXT },
};

static unsigned count_rules(void)
{
	return ARRAY_SIZE(rules);
}

static void name_rule(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", rules[row].name);
}

/* Of a split that follows the rules, by the same hands, there and back; and of what breaks one. */
struct break_of {
	const struct rule *rule;
	u64 va;
	u64 split, collapsed, broken;	/* faults so far; the last of the rule's kind only */
};

static int break_rule(void *arg)
{
	struct break_of *b = arg;
	struct pt_slot s = fixture_leaf(b->va);

	host.speculation = false;
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		sim_flush_all(cpu);
	arch_pte_store(s.pte, entry_for(make_child(b->va, s.value, s.level)), s.level);
	b->split = host_faults();
	arch_pte_store(s.pte, s.value, s.level);
	b->collapsed = host_faults();
	b->rule->run(s, b->va);
	b->broken = host.faults[b->rule->kind];
	return 0;
}

TEST_ROWS(store_rules, are_checked, "PT3", 0, count_rules, name_rule)
{
	struct break_of *b = apart_shared(sizeof(*b));
	struct apart apart = { 0 };
	struct fixture_area a;

	REQUIRE(b);
	if (map_nowhere(&a, BLOCK)) {
		b->rule = &rules[test_row()];
		b->va = a.va;
		apart_run(&apart, break_rule, b);
		if (!CHECK(apart_came_back(&apart)))
			apart_show(&apart);
		CHECK_EQ(b->split, 0);
		CHECK_EQ(b->collapsed, 0);
		CHECK(b->broken > 0);
	}
	fixture_area_put(&a);
	apart_unshare(b, sizeof(*b));
}
