/* SPDX-License-Identifier: MIT */
/*
 * The log of stores and its rules: see store_log.h.
 *
 * Invariant: what is decided here comes from the stores and the memory of the tables alone, never from the
 * statistics of mm/, so that the two can be compared.
 */
#include "tests/host/store_log.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/panic.h"
#include "mm/page.h"
#include "mm/pgtable.h"
#include "tests/host/arch_host.h"
#include "tests/host/sim_tlb.h"

#define CLEARED 512u

/* A leaf or table that a slot held before it was made absent, until the slot is filled again. */
struct cleared {
	const pte_t *slot;
	pte_t old;
	u64 flushes;	/* host.flushes at that time */
};

/* Of all CPUs while they take turns; of each, by CPU + 1, while they are threads: a split is one CPU's work. */
static struct log {
	struct store_record *records;	/* STORE_LOG_SIZE */
	u64 seq;
} logs[1 + HOST_CPUS_MAX];
static u64 upper_seq;	/* stores above the lowest level, of all CPUs */
static u32 lock;	/* while CPUs are threads: a store is checked and made in one step. Unseen by ThreadSanitizer */
static struct cleared cleared[CLEARED];
static u64 splits[PT_1G + 1], collapses[PT_1G + 1];
/* pt_stats at the time the log began, and at the last comparison. */
static struct pt_stats base;
static bool have_base;

void store_log_reset(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(logs); i++)
		logs[i].seq = 0;
	upper_seq = 0;
	memset(cleared, 0, sizeof(cleared));
	memset(splits, 0, sizeof(splits));
	memset(collapses, 0, sizeof(collapses));
	memset(&base, 0, sizeof(base));
	have_base = false;
}

void store_log_begin(void)
{
	while (host.threads && __atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

void store_log_end(void)
{
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

static struct log *my_log(void)
{
	struct log *log = &logs[host.threads ? 1 + host_cpu() : 0];

	if (!log->records) {
		log->records = calloc(STORE_LOG_SIZE, sizeof(*log->records));
		assert(log->records);
	}
	return log;
}

static struct page *page_of(const pte_t *slot)
{
	u64 pa = (u64)slot - HOST_ARENA;

	assert(host_is_ram(pa) && pfn_valid(pa >> PAGE_SHIFT));
	return pfn_to_page(pa >> PAGE_SHIFT);
}

u64 store_log_va(const pte_t *slot, unsigned level)
{
	u64 va = page_of(slot)->va + ((u64)slot & (PAGE_SIZE - 1)) / sizeof(pte_t) * pt_span(level);
	unsigned top = pt_shift(arch_mm.levels) + 8;

	return (u64)((i64)(va << (63 - top)) >> (63 - top));
}

/*
 * Whether a table can be reached from a root: what is stored into one that cannot is nobody's business yet,
 * and what stood there before means nothing. Only a store above the lowest level can change the answer.
 */
static bool reachable(const struct page *table)
{
	static const struct page *last;
	static u64 last_seq;
	static bool last_answer;

	if (table == last && last_seq == upper_seq)
		return last_answer;
	last = table;
	last_seq = upper_seq;
	last_answer = false;
	for (struct pt_space *s = pt_space_next(NULL); s && !last_answer; s = pt_space_next(s)) {
		u64 at = s->root.raw;
		unsigned level = s->levels;

		while (level > table->order && at != page_to_phys(table).raw) {
			pte_t e = ((const pte_t *)(HOST_ARENA + at))[pt_index(table->va, level)];

			if (!pte_is_table(e, level))
				break;
			at = pte_table_pa(e).raw;
			level--;
		}
		last_answer = at == page_to_phys(table).raw && level == table->order;
	}
	return last_answer;
}

static pte_t *table_of(pte_t e)
{
	return (pte_t *)(HOST_ARENA + pte_table_pa(e).raw);
}

static struct cleared *find_cleared(const pte_t *slot)
{
	for (unsigned i = 0; i < CLEARED; i++)
		if (cleared[i].slot == slot)
			return &cleared[i];
	return NULL;
}

static void note_cleared(const pte_t *slot, pte_t old)
{
	struct cleared *c = find_cleared(slot);
	static unsigned next;

	if (!c)
		c = &cleared[next++ % CLEARED];
	*c = (struct cleared){ slot, old, host.flushes };
}

/* Whether the table maps exactly what the leaf maps. ad: bits that may differ. */
static bool same_mapping(pte_t leaf, const pte_t *table, unsigned level, u64 may_differ)
{
	u64 attrs = pte_attrs(leaf, level);

	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		phys_t pa = phys(pte_leaf_pa(leaf, level).raw + i * pt_span(level - 1));
		pte_t want = pte_leaf(pa, attrs, level - 1);

		if ((table[i].raw ^ want.raw) & ~may_differ)
			return false;
	}
	return true;
}

static bool table_empty(const pte_t *table)
{
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		if (!pte_none(table[i]))
			return false;
	return true;
}

static bool table_full(const pte_t *table)
{
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		if (!pte_present(table[i]))
			return false;
	return true;
}

/*
 * The 512 stores before this one, those to the slot itself aside, have written each entry of the child once,
 * and the one before them was not the child's, unless of another life of its frame, as a table of other addresses.
 * (A user's leaf may change while the child is filled: then it is filled again.)
 */
static bool filled_just_now(const pte_t *slot, const pte_t *child, unsigned level, u64 va, bool once)
{
	const struct log *log = my_log();
	u64 done[PT_ENTRIES / 64] = { 0 };
	unsigned found = 0;

	for (u64 s = log->seq; s && s + STORE_LOG_SIZE > log->seq; s--) {
		const struct store_record *r = &log->records[s % STORE_LOG_SIZE];
		u64 i = (u64)(r->slot - child);
		bool of_child = r->slot >= child && i < PT_ENTRIES;

		/* Of threads each has a log of its own: what parts two lives of one table may be in another's. */
		if (found == PT_ENTRIES)
			return !once || host.threads || !of_child || r->va != va + i * pt_span(level - 1);
		if (r->slot == slot)
			continue;
		if (!of_child || done[i / 64] >> (i % 64) & 1)
			return false;
		done[i / 64] |= 1ull << (i % 64);
		found++;
	}
	return found == PT_ENTRIES;
}

#define FAULT(kind, what)                                                                                    \
	host_fault((kind), "%s: va %#llx level %u, %#llx -> %#llx", (what), (unsigned long long)va, level,     \
		   (unsigned long long)old.raw, (unsigned long long)new.raw)

static bool is_kernel(u64 va)
{
	return va >> 63;
}

static bool bbm_on(void)
{
	return pt_bbm > 0 || (pt_bbm < 0 && arch_mm.bbm);
}

static void leaf_to_table(const pte_t *slot, pte_t old, pte_t new, unsigned level, u64 va)
{
	const pte_t *child = table_of(new);

	if (!same_mapping(old, child, level, 0))
		FAULT(HOST_SIZE_RULE, "the new table does not map what the leaf did");
	if (!filled_just_now(slot, child, level, va, is_kernel(va)))
		FAULT(HOST_SPLIT_RULE, "the child was not filled by the 512 stores before");
	if (is_kernel(va))
		splits[level]++;
}

static void table_to_leaf(pte_t old, pte_t new, unsigned level, u64 va)
{
	if (!same_mapping(new, table_of(old), level, PTE_AD))
		FAULT(HOST_SIZE_RULE, "the leaf does not map what the table did");
	if (sim_stale_in(range_len(va, pt_span(level))))
		FAULT(HOST_SIZE_RULE, "collapsed while a CPU translates otherwise");
	if (!is_kernel(va))
		FAULT(HOST_SIZE_RULE, "a user's table replaced while the CPU may set A and D in it");
	if (is_kernel(va))
		collapses[level]++;
}

static void table_to_absent(const pte_t *slot, pte_t old, pte_t new, unsigned level, u64 va)
{
	if (table_empty(table_of(old)))
		return;
	if (is_kernel(va) && !(bbm_on() && host_in_rendezvous()))
		FAULT(HOST_VIA_ABSENT, "a table with entries unhooked");
	note_cleared(slot, old);
}

/* What comes back into a slot that was cleared a moment ago. */
static void refill(const pte_t *slot, pte_t old, pte_t new, unsigned level, u64 va)
{
	struct cleared *c = find_cleared(slot);
	pte_t before;

	if (!c)
		return;
	before = c->old;
	c->slot = NULL;
	if (pte_is_leaf(before, level) && pte_is_table(new, level) && table_full(table_of(new)) &&
	    host.flushes - c->flushes == 0 && !host_in_rendezvous()) {
		FAULT(HOST_VIA_ABSENT, "a split by way of an absent entry");
		if (is_kernel(va))
			splits[level]++;
		return;
	}
	if (host_in_rendezvous() && pte_is_leaf(before, level)) {
		if (sim_holds(range_len(va, pt_span(level))))
			FAULT(HOST_STALE, "made before every CPU had forgotten what was broken");
		leaf_to_table(slot, before, new, level, va);
		return;
	}
	if (pte_is_table(before, level) && pte_is_leaf(new, level)) {
		if (sim_holds(range_len(va, pt_span(level))))
			FAULT(HOST_STALE, "leaf made before every CPU had forgotten the table's");
		if (!same_mapping(new, table_of(before), level, PTE_AD))
			FAULT(HOST_SIZE_RULE, "the leaf does not map what the table did");
		if (is_kernel(va))
			collapses[level]++;
	}
}

static void check_rules(const pte_t *slot, pte_t old, pte_t new, unsigned level, u64 va)
{
	bool was_leaf = pte_is_leaf(old, level), is_leaf = pte_is_leaf(new, level);
	bool was_table = pte_is_table(old, level), is_table = pte_is_table(new, level);

	if (is_table && (new.raw & (PTE_W | PTE_NX)) != PTE_W)
		FAULT(HOST_TABLE_ENTRY, "the entry of a table takes rights away");
	if (was_leaf && is_table)
		leaf_to_table(slot, old, new, level, va);
	else if (was_table && is_leaf)
		table_to_leaf(old, new, level, va);
	else if (was_table && is_table && pte_table_pa(old).raw != pte_table_pa(new).raw)
		FAULT(HOST_SIZE_RULE, "one table put in another's place");
	else if (was_table && !pte_present(new))
		table_to_absent(slot, old, new, level, va);
	else if (was_leaf && pte_none(new) && level > PT_4K)
		note_cleared(slot, old);
	else if (!pte_present(old) && pte_present(new) && level > PT_4K)
		refill(slot, old, new, level, va);
}

void store_log_store(const pte_t *slot, pte_t new, unsigned level)
{
	const struct page *page = page_of(slot);
	struct log *log = my_log();
	pte_t old = *slot;
	u64 va = store_log_va(slot, level);

	if (!have_base) {
		have_base = true;
		for (unsigned p = 0; p < PT_PARTS; p++)
			for (unsigned l = PT_4K; l <= PT_1G; l++) {
				base.splits[l] += kernel_space.stats[p].splits[l];
				base.collapses[l] += kernel_space.stats[p].collapses[l];
			}
	}
	if (page->class != PAGE_TABLE || page->order != level)
		FAULT(HOST_TABLE_ENTRY, "a store of the wrong level, or outside a table");
	else if (reachable(page))
		check_rules(slot, old, new, level, va);
	log->seq++;
	upper_seq += level > PT_4K;
	log->records[log->seq % STORE_LOG_SIZE] = (struct store_record){ slot, va, old, new, (u8)level, log->seq };
}

u64 store_log_seq(void)
{
	return my_log()->seq;
}

const struct store_record *store_log_at(u64 n)
{
	const struct log *log = my_log();

	assert(n >= 1 && n <= log->seq && n + STORE_LOG_SIZE > log->seq);
	return &log->records[n % STORE_LOG_SIZE];
}

u64 store_log_splits(unsigned level)
{
	return splits[level];
}

u64 store_log_collapses(unsigned level)
{
	return collapses[level];
}

void store_log_check(void)
{
	for (unsigned l = PT_2M; l <= PT_1G; l++) {
		u64 s = 0, c = 0;

		for (unsigned p = 0; p < PT_PARTS; p++) {
			s += kernel_space.stats[p].splits[l];
			c += kernel_space.stats[p].collapses[l];
		}
		s -= base.splits[l];
		c -= base.collapses[l];
		if (s != splits[l] || c != collapses[l])
			host_fault(HOST_COUNTERS,
				   "level %u: %llu splits counted, %llu stored; %llu collapses, %llu", l,
				   (unsigned long long)s, (unsigned long long)splits[l],
				   (unsigned long long)c, (unsigned long long)collapses[l]);
	}
}
