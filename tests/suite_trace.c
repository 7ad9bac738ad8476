/* SPDX-License-Identifier: MIT */
/*
 * kernel/base/trace.h: rings, filters, the merge by time, and that each event tells what was done. Writers that interrupt
 * each other are tests/host/test_trace.c and tests/machine/suite_trace_machine.c.
 */
#include "kernel/base/trace.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/lab/measure.h"
#include "tests/runner.h"
#include "tests/test.h"

#define SMALL 8u
#define LARGE 512u
#define CPUS 3u

union small_ring {
	struct trace_ring ring;
	u8 bytes[TRACE_RING_BYTES(SMALL)];
};

static union small_ring small[CPUS];
static union {
	struct trace_ring ring;
	u8 bytes[TRACE_RING_BYTES(LARGE)];
} large;
static struct trace_merge merge;

static struct trace_record record(u64 tsc, u32 cpu, u64 arg)
{
	return (struct trace_record){ .tsc = tsc, .cpu = cpu, .event = TRACE_FILL, .context = CPU_IRQ, .args = { arg, ~arg, arg * 3 } };
}

static void write_small(u32 i, u64 tsc, u64 arg)
{
	struct trace_record r = record(tsc, i, arg);

	trace_ring_write(&small[i].ring, &r);
}

static void small_init(void)
{
	for (u32 i = 0; i < CPUS; i++)
		trace_ring_init(&small[i].ring, sizeof(small[i]));
}

/* ---- Rings ---- */

TEST_ID(trace, a_record_comes_back_whole, "RP4")
{
	struct trace_record r;

	small_init();
	CHECK(!trace_ring_read(&small[0].ring, 0, &r));
	write_small(0, 77, 0x1234);
	REQUIRE(trace_ring_read(&small[0].ring, 0, &r));
	CHECK_EQ(r.number, 0);
	CHECK_EQ(r.tsc, 77);
	CHECK_EQ(r.cpu, 0);
	CHECK_EQ(r.event, TRACE_FILL);
	CHECK_EQ(r.context, CPU_IRQ);
	CHECK_EQ(r.args[0], 0x1234);
	CHECK_EQ(r.args[1], ~0x1234ull);
	CHECK_EQ(r.args[2], 0x369c);
	CHECK(!trace_ring_read(&small[0].ring, 1, &r));
}

TEST_ID(trace, a_ring_keeps_the_newest, "RP4")
{
	struct trace_record r;

	small_init();
	CHECK_EQ(small[0].ring.slots, SMALL);
	for (u64 i = 0; i < 5 * SMALL + 3; i++)
		write_small(0, i, i);
	CHECK_EQ(small[0].ring.next, 5 * SMALL + 3);
	CHECK_EQ(small[0].ring.lost, 0);
	for (u64 i = 0; i < 6 * SMALL; i++) {
		bool there = trace_ring_read(&small[0].ring, i, &r);

		CHECK_EQ(there, i >= 4 * SMALL + 3 && i < 5 * SMALL + 3);
		if (there)
			CHECK_EQ(r.args[0], i);
	}
}

/* What a writer looks like that was interrupted and passed by a whole round of records. */
TEST_ID(trace, a_claimed_place_is_left_alone, "RP4")
{
	struct trace_slot *slot = &small[0].ring.slot[2];
	struct trace_record r;

	small_init();
	write_small(0, 0, 0);
	write_small(0, 1, 1);
	slot->state = 1ull << 63 | 3;
	small[0].ring.next = 3;
	for (u64 i = 3; i < 3 + SMALL; i++)
		write_small(0, i, i);
	CHECK_EQ(small[0].ring.lost, 1);
	CHECK(!trace_ring_read(&small[0].ring, 2, &r));
	CHECK(!trace_ring_read(&small[0].ring, 2 + SMALL, &r));
	CHECK_EQ(slot->args[0], 0);
	for (u64 i = 3; i < 2 + SMALL; i++)
		CHECK(trace_ring_read(&small[0].ring, i, &r) && r.args[0] == i);
	/* It ends its record, which is too old to be shown; the next round takes the place again. */
	slot->state = 3;
	small[0].ring.next = 2 + 2 * SMALL;
	write_small(0, 9, 9);
	CHECK_EQ(small[0].ring.lost, 1);
	CHECK(!trace_ring_read(&small[0].ring, 2, &r));
	CHECK(trace_ring_read(&small[0].ring, 2 + 2 * SMALL, &r) && r.args[0] == 9);
}

/* ---- The merge ---- */

static struct trace_ring *kept[CPUS];

static void install_small(void)
{
	small_init();
	for (u32 i = 0; i < CPUS; i++)
		kept[i] = trace_set_ring(i, &small[i].ring);
}

static void restore_rings(void)
{
	for (u32 i = 0; i < CPUS; i++)
		trace_set_ring(i, kept[i]);
}

/* Only our rings are read: those of further CPUs are put aside. */
static bool next_of_ours(struct trace_record *r)
{
	while (trace_merge_next(&merge, r))
		if (r->cpu < CPUS)
			return true;
	return false;
}

TEST_ID(trace, all_rings_merge_by_time, "RP4")
{
	static const struct {
		u32 cpu;
		u64 tsc;
	} written[] = { { 2, 5 }, { 0, 10 }, { 0, 20 }, { 1, 15 }, { 2, 15 }, { 0, 30 }, { 1, 16 }, { 2, 31 }, { 1, 29 } };
	static const struct {
		u32 cpu;
		u64 tsc;
	} expected[] = { { 2, 5 }, { 0, 10 }, { 1, 15 }, { 2, 15 }, { 1, 16 }, { 0, 20 }, { 1, 29 }, { 0, 30 }, { 2, 31 } };
	u32 mask = trace_mask;
	struct trace_record r;

	trace_mask = 0;
	install_small();
	for (unsigned i = 0; i < ARRAY_SIZE(written); i++)
		write_small(written[i].cpu, written[i].tsc, i);
	trace_merge_init(&merge, UINT64_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
		if (!CHECK(next_of_ours(&r)))
			break;
		CHECK_EQ(r.cpu, expected[i].cpu);
		CHECK_EQ(r.tsc, expected[i].tsc);
	}
	CHECK(!next_of_ours(&r));
	restore_rings();
	trace_mask = mask;
}

TEST_ID(trace, a_merge_of_the_last_ones, "RP4")
{
	u32 mask = trace_mask;
	struct trace_record r;
	unsigned n = 0;

	trace_mask = 0;
	install_small();
	for (u64 i = 0; i < 3 * SMALL; i++)
		write_small(0, 2 * i, i);
	write_small(1, 2 * 3 * SMALL - 3, 7);
	trace_merge_init(&merge, 2);
	CHECK(next_of_ours(&r) && r.cpu == 0 && r.args[0] == 3 * SMALL - 2);
	CHECK(next_of_ours(&r) && r.cpu == 1 && r.args[0] == 7);
	CHECK(next_of_ours(&r) && r.cpu == 0 && r.args[0] == 3 * SMALL - 1);
	CHECK(!next_of_ours(&r));

	/* What is overwritten between the beginning and the reading is passed, what came later not shown. */
	trace_merge_init(&merge, UINT64_MAX);
	for (u64 i = 0; i < SMALL - 2; i++)
		write_small(0, 1000 + i, 1000 + i);
	while (next_of_ours(&r)) {
		CHECK(r.args[0] < 1000);
		n++;
	}
	CHECK_EQ(n, 2 + 1);
	restore_rings();
	trace_mask = mask;
}

/* ---- Text ---- */

TEST_ID(trace, rows_have_names, "RP4")
{
	for (unsigned i = 0; i < TRACE_EVENTS; i++) {
		CHECK(test_name_ok(trace_rows[i].name));
		for (unsigned a = 0; a < ARRAY_SIZE(trace_rows[i].args); a++)
			CHECK(test_name_ok(trace_rows[i].args[a]));
		for (unsigned j = 0; j < i; j++)
			CHECK(strcmp(trace_rows[i].name, trace_rows[j].name));
	}
}

TEST_ID(trace, records_are_key_value_words, "RP1 RP4")
{
	struct trace_record r = { 0, 123, 4, TRACE_FLUSH, CPU_NMI, { 9, 2, 0xffff800000200000 } };
	char text[160];
	char tiny[8];

	trace_format(&r, text, sizeof(text));
	CHECK(!strcmp(text, "tsc=123 cpu=4 context=nmi event=flush gen=9 pages=2 va=0xffff800000200000"));
	CHECK_EQ(trace_format(&r, tiny, sizeof(tiny)), strlen(text));
	CHECK(!strcmp(tiny, "tsc=123"));
	r = (struct trace_record){ 0, 1, 0, TRACE_EVENTS, CPU_NESTING_LEVELS, { 0 } };
	trace_format(&r, text, sizeof(text));
	CHECK(!strcmp(text, "tsc=1 cpu=0 context=unknown event=unknown"));
}

static const struct {
	const char *text;
	u32 mask;
	bool dump;
	unsigned unknown;
} filters[] = {
	{ "off", 0, false, 0 },
	{ "on", TRACE_ALL, false, 0 },
	{ "dump", TRACE_ALL, true, 0 },
	{ "split", BIT(TRACE_SPLIT), false, 0 },
	{ "split,collapse", BIT(TRACE_SPLIT) | BIT(TRACE_COLLAPSE), false, 0 },
	{ "dump,fault", BIT(TRACE_FAULT), true, 0 },
	{ "send,receive,dump", BIT(TRACE_SEND) | BIT(TRACE_RECEIVE), true, 0 },
	{ "on,off", 0, false, 0 },
	{ "dump,off,refill", BIT(TRACE_REFILL), false, 0 },
	{ "splits", 0, false, 1 },
	{ "split,bogus,flush,x", BIT(TRACE_SPLIT) | BIT(TRACE_FLUSH), false, 2 },
	{ "", 0, false, 1 },
	{ "split,", BIT(TRACE_SPLIT), false, 1 },
	{ "dump,bogus", 0, true, 1 },
};

TEST_ID(trace, filters, "IF RP4")
{
	for (unsigned i = 0; i < ARRAY_SIZE(filters); i++) {
		struct trace_filter filter = { 1, true };
		u64 warnings = log_warnings;

		CHECK_EQ(trace_parse(filters[i].text, &filter), filters[i].unknown);
		CHECK_EQ(log_warnings - warnings, filters[i].unknown);
		log_warnings = warnings;
		CHECK_EQ(filter.mask, filters[i].mask);
		CHECK_EQ(filter.dump, filters[i].dump);
	}
}

/* ---- What is recorded ---- */

static struct {
	u32 cpu, mask;
	struct trace_ring *ring;
	u64 at;				/* records looked at */
	u64 nr[TRACE_EVENTS];
	struct trace_record last[TRACE_EVENTS];
} t;

static void record_begin(u32 mask)
{
	t.cpu = arch_this_cpu()->id;
	t.mask = trace_mask;
	t.at = 0;
	trace_ring_init(&large.ring, sizeof(large));
	t.ring = trace_set_ring(t.cpu, &large.ring);
	trace_mask = mask;
}

/* Counts what this CPU recorded since record_begin(). */
static void record_end(void)
{
	struct trace_record r;

	trace_mask = t.mask;
	trace_set_ring(t.cpu, t.ring);
	memset(t.nr, 0, sizeof(t.nr));
	CHECK_EQ(large.ring.lost, 0);
	CHECK(large.ring.next <= large.ring.slots);
	for (u64 i = 0; i < large.ring.next; i++) {
		if (!CHECK(trace_ring_read(&large.ring, i, &r)) || !CHECK(r.event < TRACE_EVENTS))
			continue;
		CHECK_EQ(r.cpu, t.cpu);
		CHECK_EQ(r.context, CPU_TASK);
		CHECK(i == 0 || r.tsc >= t.at);
		t.at = r.tsc;
		t.nr[r.event]++;
		t.last[r.event] = r;
	}
}

/* A page out of the middle of a block, and back: a split, a collapse, and the flushes of both. */
static bool out_and_back(struct page **block, struct tlb_stats tlb[2])
{
	*block = alloc_pages(ORDER_2M, 0);
	if (!CHECK(*block != NULL))
		return false;
	tlb_read_stats(&tlb[0]);
	CHECK_EQ(set_direct_map_invalid(page_to_pfn(*block) + 7, 1), 0);
	CHECK_EQ(set_direct_map_default(page_to_pfn(*block) + 7, 1), 0);
	tlb_read_stats(&tlb[1]);
	free_pages(*block, ORDER_2M);
	return true;
}

TEST_ID(trace, each_change_is_recorded, "RP4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct fixture_events before, after;
	struct tlb_stats tlb[2];
	struct page *block;
	bool done;

	pt_settle(&kernel_space);
	fixture_events(&before);
	record_begin(TRACE_ALL);
	done = out_and_back(&block, tlb);
	record_end();
	fixture_events(&after);
	fixture_policy(policy);
	REQUIRE(done);
	CHECK_EQ(t.nr[TRACE_SPLIT], after.splits[PT_2M] - before.splits[PT_2M] + after.splits[PT_1G] - before.splits[PT_1G]);
	CHECK_EQ(t.nr[TRACE_COLLAPSE],
		 after.collapses[PT_2M] - before.collapses[PT_2M] + after.collapses[PT_1G] - before.collapses[PT_1G]);
	CHECK(t.nr[TRACE_SPLIT] > 0 && t.nr[TRACE_COLLAPSE] == t.nr[TRACE_SPLIT]);
	/* The last split is that of the block itself. */
	CHECK_EQ(t.last[TRACE_SPLIT].args[0], PT_2M);
	CHECK_EQ(t.last[TRACE_SPLIT].args[1], phys_to_va(phys((page_to_pfn(block) + 7) << PAGE_SHIFT)));
	CHECK(t.last[TRACE_SPLIT].args[2] && t.last[TRACE_SPLIT].args[2] % PAGE_SIZE == 0);
	CHECK_EQ(t.nr[TRACE_REFILL] + t.nr[TRACE_RETURN] + t.nr[TRACE_FILL] + t.nr[TRACE_FAULT], 0);
	CHECK_EQ(t.nr[TRACE_RECEIVE], 0);	/* by this CPU: it sends */
	CHECK(t.nr[TRACE_FLUSH] >= 2);
	CHECK(t.last[TRACE_FLUSH].args[0] > 0);
	/* The last flush is the one behind the collapse, which is for everything. */
	CHECK_EQ(t.last[TRACE_FLUSH].args[1], 0);
}

TEST_ID(trace, flushes_agree_with_the_counters, "TL2 RP4")
{
	struct tlb_stats tlb[2];
	struct page *block;
	u64 pages = 0, full = 0;
	struct trace_record r;
	bool done;

	if (measure_cpus() > 1)
		SKIP("the counters are those of all CPUs, the records those of one");
	record_begin(BIT(TRACE_FLUSH));
	done = out_and_back(&block, tlb);
	record_end();
	REQUIRE(done);
	for (u64 i = 0; i < large.ring.next; i++) {
		CHECK(trace_ring_read(&large.ring, i, &r));
		pages += r.args[1];
		full += !r.args[1];
	}
	CHECK_EQ(pages, tlb[1].pages_invalidated - tlb[0].pages_invalidated);
	CHECK_EQ(full, tlb[1].nr_tlb_local_flush_all - tlb[0].nr_tlb_local_flush_all);
}

TEST_ID(trace, filters_hold, "RP4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	struct tlb_stats tlb[2];
	struct page *block;

	pt_settle(&kernel_space);	/* so that the block is whole, and is split */
	record_begin(0);
	out_and_back(&block, tlb);
	record_end();
	CHECK_EQ(large.ring.next, 0);
	record_begin(BIT(TRACE_SPLIT));
	out_and_back(&block, tlb);
	record_end();
	CHECK(t.nr[TRACE_SPLIT] > 0);
	CHECK_EQ(large.ring.next, t.nr[TRACE_SPLIT]);
	fixture_policy(policy);
}

TEST_ID(trace, refills_and_returns_are_recorded, "UM1 RP4")
{
	struct unmapped_stats before, after;
	struct page *page;

	if (unmapped_mode() == UNMAPPED_OFF)
		SKIP("the unmapped cache is off");
	unmapped_shrink(UNMAPPED_ALL);
	unmapped_read_stats(&before);
	record_begin(BIT(TRACE_REFILL) | BIT(TRACE_RETURN));
	page = unmapped_pages_alloc(0, 0, -1, NULL);
	if (page)
		unmapped_pages_free(page, 0);
	unmapped_shrink(UNMAPPED_ALL);
	record_end();
	unmapped_read_stats(&after);
	REQUIRE(page != NULL);
	CHECK_EQ(t.nr[TRACE_REFILL], 1);
	CHECK_EQ(t.nr[TRACE_RETURN], 1);
	CHECK(t.last[TRACE_REFILL].args[1] < ARRAY_SIZE(after.refills));
	for (unsigned o = 0; o < ARRAY_SIZE(after.refills); o++) {
		CHECK_EQ(after.refills[o] - before.refills[o], t.last[TRACE_REFILL].args[1] == o);
		CHECK_EQ(after.returns[o] - before.returns[o], t.last[TRACE_RETURN].args[1] == o);
	}
	CHECK_EQ(t.last[TRACE_REFILL].args[0], t.last[TRACE_RETURN].args[0]);
	CHECK_EQ(t.last[TRACE_REFILL].args[2], (before.bytes >> PAGE_SHIFT) + BIT(t.last[TRACE_REFILL].args[1]));
	CHECK_EQ(t.last[TRACE_RETURN].args[2], before.bytes >> PAGE_SHIFT);
}

TEST_ID(trace, fills_are_recorded, "XM1 RP4")
{
	void *text = execmem_alloc(EXECMEM_TEXT, 64, 0);
	u8 code[5] = { 0x90, 0x90, 0x90, 0x90, 0xc3 };

	REQUIRE(text != NULL);
	record_begin(BIT(TRACE_FILL));
	CHECK_EQ(execmem_fill(text, code, sizeof(code)), 0);
	CHECK(execmem_fill((u8 *)text + 64, code, sizeof(code)) != 0);
	record_end();
	execmem_free(text);
	CHECK_EQ(t.nr[TRACE_FILL], 1);
	CHECK_EQ(t.last[TRACE_FILL].args[0], (u64)text);
	CHECK_EQ(t.last[TRACE_FILL].args[1], sizeof(code));
	CHECK_EQ(t.last[TRACE_FILL].args[2], 0);
}
