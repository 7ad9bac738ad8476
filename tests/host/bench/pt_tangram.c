/* SPDX-License-Identifier: MIT */
/*
 * The page-table core (mm/pgtable.h) behind the harness's interface pt_if.h, below W^X: the harness maps writable and
 * executable leaves, which set_memory.h would refuse.
 *
 * The harness reads tables at the addresses that entries hold, so physical addresses are this program's own: the
 * frames of the tables are mapped at FRAMES_AT and the direct map begins at 0. Each operation is one pt_change() and
 * its tlb_batch_finish(). The environment variable COLLAPSE chooses the policy: off (default), eager, deferred.
 */
#define _GNU_SOURCE
#include "tests/host/bench/pt_if.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/buddy.h"
#include "mm/pgtable.h"
#include "tests/host/bench/arch_bench.h"

#define FRAMES_AT 0x10000000ull
#define FRAMES_BYTES (64 * MIB)

const char *const pt_name = "tangram";

static struct pt_space space;
static u64 cpu_gen[MAX_CPUS];
static enum pt_collapse_policy policy;
static struct range mapped = { 0, 1ull << 46 };

static void fail(const char *what)
{
	fprintf(stderr, "pt_tangram: %s\n", what);
	exit(2);
}

static void start(void)
{
	const char *name = getenv("COLLAPSE");
	void *at = (void *)FRAMES_AT;

	if (!name || !strcmp(name, "off"))
		policy = PT_COLLAPSE_OFF;
	else if (!strcmp(name, "eager"))
		policy = PT_COLLAPSE_EAGER;
	else if (!strcmp(name, "deferred"))
		policy = PT_COLLAPSE_DEFERRED;
	else
		fail("COLLAPSE is off, eager or deferred");
	if (mmap(at, FRAMES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
		fail("no memory at the address of the tables");
	arch_bench_memory((FRAMES_AT + FRAMES_BYTES) >> PAGE_SHIFT, 0);
	buddy_add(FRAMES_AT >> PAGE_SHIFT, FRAMES_BYTES >> PAGE_SHIFT);
}

void pt_new(void)
{
	if (space.root.raw)
		pt_space_destroy(&space);
	else
		start();
	if (pt_space_init(&space, "bench", 0, phys(0), cpu_gen))
		fail("no frame for a root");
	pt_set_policy(&space, policy);
	tlb_space_enter(&space);
}

static int run(const struct pt_change *change)
{
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &space);
	rc = pt_change(&space, change, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

int pt_map(uint64_t va, uint64_t pa, uint64_t len, unsigned fl)
{
	struct pt_change change = {
		.op = PT_OP_MAP,
		.va = range_len(va, len),
		.pa = phys(pa),
		.set = PTE_P | PTE_A | PTE_D | (fl & PT_W ? PTE_W : 0) | (fl & PT_X ? 0 : PTE_NX),
	};

	return run(&change);
}

int pt_unmap(uint64_t va, uint64_t len)
{
	struct pt_change change = { .op = PT_OP_UNMAP, .va = range_len(va, len) };

	return run(&change);
}

/* Only W, as the harness's own check does: what was executable stays so. */
int pt_protect(uint64_t va, uint64_t len, unsigned fl)
{
	struct pt_change change = {
		.op = PT_OP_PROTECT,
		.va = range_len(va, len),
		.set = fl & PT_W ? PTE_W : 0,
		.clear = fl & PT_W ? 0 : PTE_W,
	};

	return run(&change);
}

struct listing {
	struct pt_range *out;
	u64 cap;
	u64 n;
	struct pt_range last;
};

static void list_last(struct listing *l)
{
	if (!l->last.len)
		return;
	if (l->n < l->cap)
		l->out[l->n] = l->last;
	l->n++;
}

static bool list_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct listing *l = arg;
	u64 pa = pte_leaf_pa(leaf, level).raw;
	unsigned fl = (effective & PTE_W ? PT_W : 0) | (effective & PTE_NX ? 0 : PT_X);

	if (l->last.len && l->last.va + l->last.len == va && l->last.pa + l->last.len == pa && l->last.fl == fl) {
		l->last.len += pt_span(level);
		return true;
	}
	list_last(l);
	l->last = (struct pt_range){ va, pa, pt_span(level), fl };
	return true;
}

uint64_t pt_ranges(struct pt_range *out, uint64_t cap)
{
	struct listing l = { .out = out, .cap = cap };

	pt_for_each_leaf(&space, mapped, list_leaf, &l);
	list_last(&l);
	return l.n;
}

uint64_t pt_root(void)
{
	return space.root.raw;
}

uint64_t pt_pages_used(void)
{
	return space.stats[PT_OTHER].tables;
}
