/* SPDX-License-Identifier: MIT */
/*
 * Monitor commands about mappings: the direct map as a picture, walks, splits and collapses by hand, and memory itself.
 *
 * Nothing here trusts an address: tables and memory are read by loads that may fault, or by walkers that hold the lock, and what
 * is to be changed is looked at first, so that a refusal can say why.
 */
#include "arch/x86_64/insn.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "kernel/monitor.h"
#include "kernel/page_walk.h"
#include "mm/arch.h"
#include "mm/directmap.h"
#include "mm/pt_audit.h"

#define ABOUT_VA "VA: hexadecimal; pa:DIGITS is a physical one, as the direct map has it."

/* ---- dm: the direct map by gigabyte ---- */

#define CELLS 32u			/* of a row */
#define CELL_BYTES (GIB / CELLS)

struct gigabyte {
	u64 start;			/* virtual */
	u64 leaves[PT_1G + 1];
	u8 smallest[CELLS];		/* level of the smallest leaf, 0: nothing is mapped */
};

static bool see_leaf(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct gigabyte *g = arg;
	u64 first = (va - g->start) / CELL_BYTES;
	u64 last = (va - g->start + pt_span(level) - 1) / CELL_BYTES;

	(void)leaf;
	(void)effective;
	g->leaves[level]++;
	for (u64 i = first; i <= last && i < CELLS; i++)
		if (!g->smallest[i] || g->smallest[i] > level)
			g->smallest[i] = (u8)level;
	return true;
}

/* nr gigabytes that look like this one: those that one leaf maps are all alike, and a run of them is one line. */
static void say_gigabytes(const struct gigabyte *g, u64 nr)
{
	static const char symbols[] = { [0] = '.', [PT_4K] = ':', [PT_2M] = '+', [PT_1G] = '#' };
	u64 first = va_to_phys(g->start).raw / GIB;
	char picture[CELLS + 1], last[24] = "";

	for (unsigned i = 0; i < CELLS; i++)
		picture[i] = symbols[g->smallest[i]];
	picture[CELLS] = 0;
	if (nr > 1)
		fmt_print(last, sizeof(last), "-%lu", first + nr - 1);
	log_info("%4lu%-5s %s 1g=%lu 2m=%lu 4k=%lu", first, last, picture, nr * g->leaves[PT_1G], nr * g->leaves[PT_2M],
		 nr * g->leaves[PT_4K]);
}

static void show_dm(void)
{
	struct directmap_stats stats;
	u64 end = align_up(page_max_pfn << PAGE_SHIFT, GIB);
	struct gigabyte whole;
	u64 nr_whole = 0;

	log_info("GiB; a character is 32 MiB: # 1G, + 2M leaves, : 4K leaves too, . nothing mapped");
	for (u64 pa = 0; pa < end; pa += GIB) {
		struct gigabyte g = { .start = phys_to_va(phys(pa)) };

		pt_for_each_leaf(&kernel_space, range_len(g.start, GIB), see_leaf, &g);
		if (g.leaves[PT_1G]) {
			if (!nr_whole++)
				whole = g;
			continue;
		}
		if (nr_whole)
			say_gigabytes(&whole, nr_whole);
		nr_whole = 0;
		if (g.leaves[PT_2M] || g.leaves[PT_4K])
			say_gigabytes(&g, 1);
	}
	if (nr_whole)
		say_gigabytes(&whole, nr_whole);
	directmap_read_stats(&stats);
	log_info("in all 1g=%lu 2m=%lu 4k=%lu leaves=%lu fewest=%lu tables=%lu", stats.direct_map_1g >> pt_shift(PT_1G),
		 stats.direct_map_2m >> pt_shift(PT_2M), stats.direct_map_4k >> pt_shift(PT_4K), stats.leaves,
		 stats.fewest_leaves, stats.tables);
}

MONITOR_COMMAND(dm) = { "dm", "", "picture of the direct map by gigabyte", .show = show_dm };

/* ---- walk ---- */

static void say_frame(phys_t pa)
{
	pfn_t pfn = pa.raw >> PAGE_SHIFT;
	const struct page *page;

	if (!pfn_valid(pfn)) {
		log_info("  frame 0x%lx: no memory of the kernel's", pfn);
		return;
	}
	page = pfn_to_page(pfn);
	log_info("  frame 0x%lx: class %s, node %u, %s", pfn, page_class_name(page_class(page)), page->node,
		 directmap_has(pfn) ? "held by the direct map" : "not in the direct map");
}

static void run_walk(unsigned nr, char **args)
{
	phys_t root = arch_current_root();
	struct pt_slot s;
	phys_t pa;
	u64 va;

	(void)nr;
	if (!monitor_address(args[0], &va))
		return;
	log_info("walk of 0x%016lx from root 0x%lx:", va, root.raw);
	s = page_walk_say(root, arch_mm.levels, va);
	if (!pte_is_leaf(s.value, s.level)) {
		log_info("  not mapped");
		return;
	}
	pa = phys(pte_leaf_pa(s.value, s.level).raw + (va & (pt_span(s.level) - 1)));
	log_info("  physical 0x%lx by a %s leaf: %s, %s, %s%s", pa.raw, page_walk_leaf_name(s.level),
		 s.value.raw & PTE_W ? "writable" : "read-only", s.value.raw & PTE_NX ? "no code" : "executable",
		 page_walk_type_name(s.value, s.level), s.value.raw & PTE_G ? ", global" : "");
	say_frame(pa);
}

MONITOR_COMMAND(walk) = { "walk", "VA", "the page-table entry at each level",
			  .more = "W writable, U user, T write-through, C cache off, A accessed, D dirty,\n"
				  "G global, NX no code.\n" ABOUT_VA,
			  .min = 1, .max = 1, .run = run_walk };

/* ---- map ---- */

#define RUNS 16u			/* looked up in one go, with the lock held */
#define MAP_LINES_MAX 128u

/* Leaves one behind the other that map what lies behind each other, with the same attributes. */
struct run {
	u64 start, end;
	u64 attrs;
	u64 pa;
	u8 level;
};

struct runs {
	struct run run[RUNS];
	unsigned nr;
};

static bool see_run(void *arg, u64 va, unsigned level, pte_t leaf, u64 effective)
{
	struct runs *runs = arg;
	struct run *last = runs->nr ? &runs->run[runs->nr - 1] : NULL;
	u64 attrs = pte_attrs(leaf, level) & ~PTE_AD;
	u64 pa = pte_leaf_pa(leaf, level).raw;

	(void)effective;
	if (last && last->end == va && last->level == level && last->attrs == attrs && last->pa + (va - last->start) == pa) {
		last->end = pt_next(va, level);
		return true;
	}
	if (runs->nr == RUNS)
		return false;
	runs->run[runs->nr++] = (struct run){ va, pt_next(va, level), attrs, pa, (u8)level };
	return true;
}

static void say_run(const struct run *r)
{
	log_info("0x%016lx-0x%016lx %5lu x %s at 0x%lx r%c%c%s %s", r->start, r->end, (r->end - r->start) >> pt_shift(r->level),
		 page_walk_leaf_name(r->level), r->pa, r->attrs & PTE_W ? 'w' : '-', r->attrs & PTE_NX ? '-' : 'x',
		 r->attrs & PTE_G ? " global" : "", page_walk_type_name(pte_leaf(phys(0), r->attrs, PT_4K), PT_4K));
}

static void run_map(unsigned nr, char **args)
{
	u64 va, length = 2 * MIB, at, end;
	unsigned lines = 0;

	if (!monitor_address(args[0], &va) || (nr > 1 && !monitor_size(args[1], UINT64_MAX / 2, &length)))
		return;
	if (va < kernel_space.half.start) {
		monitor_error("map: 0x%lx is not in the kernel half, which begins at 0x%lx", va, kernel_space.half.start);
		return;
	}
	at = align_down(va, PAGE_SIZE);
	end = length > UINT64_MAX - va ? UINT64_MAX : va + length;
	while (at < end) {
		struct runs runs = { .nr = 0 };

		pt_for_each_leaf(&kernel_space, range(at, end), see_run, &runs);
		if (!runs.nr)
			break;
		for (unsigned i = 0; i < runs.nr; i++, lines++)
			say_run(&runs.run[i]);
		at = runs.run[runs.nr - 1].end;
		if (lines >= MAP_LINES_MAX) {
			log_info("... more from 0x%016lx on", at);
			return;
		}
	}
	if (!lines)
		log_info("nothing is mapped from 0x%016lx to 0x%016lx", va, end);
}

MONITOR_COMMAND(map) = { "map", "VA [LENGTH]", "what a range is mapped to, in runs of leaves",
			 .more = ABOUT_VA "\nLENGTH is in bytes, K, M and G may stand behind it; without it 2M.",
			 .min = 1, .max = 2, .run = run_map };

/* ---- split ---- */

static bool level_of(const char *text, unsigned *level)
{
	for (*level = PT_4K; *level <= PT_2M; ++*level) {
		const char *name = page_walk_leaf_name(*level);

		if (text[0] == name[0] && (text[1] | 0x20) == (name[1] | 0x20) && !text[2])
			return true;
	}
	monitor_error("split: \"%.64s\" is no size to split to: 4k or 2m", text);
	return false;
}

/* Why the leaf at va cannot be split to that level; true: it can. */
static bool may_split(u64 va, unsigned level)
{
	struct pt_slot s = pt_walk_lockless(kernel_space.root, kernel_space.levels, va);
	pfn_t pfn = va_to_phys(va).raw >> PAGE_SHIFT;

	if (va < kernel_space.direct.start || va >= kernel_space.direct.end)
		monitor_error("split: 0x%lx is not in the direct map, 0x%lx-0x%lx", va, kernel_space.direct.start,
			      kernel_space.direct.end);
	else if (!directmap_has(pfn))
		monitor_error("split: physical 0x%lx is no memory of the direct map", pfn << PAGE_SHIFT);
	else if (!pte_is_leaf(s.value, s.level))
		monitor_error("split: physical 0x%lx has been taken out of the direct map", pfn << PAGE_SHIFT);
	else if (s.level <= level)
		monitor_error("split: 0x%lx is mapped by a %s leaf already", va, page_walk_leaf_name(s.level));
	else
		return true;
	return false;
}

static void run_split(unsigned nr, char **args)
{
	struct directmap_stats before, after;
	struct tlb_batch batch;
	unsigned level = PT_4K;
	u64 va;
	int rc;

	if (!monitor_address(args[0], &va) || (nr > 1 && !level_of(args[1], &level)) || !may_split(va, level))
		return;
	directmap_read_stats(&before);
	tlb_batch_init(&batch, &kernel_space);
	rc = pt_split_range(&kernel_space, range_len(align_down(va, PAGE_SIZE), PAGE_SIZE), level, &batch);
	directmap_read_stats(&after);
	if (rc) {
		monitor_error("split: 0x%lx: %s", va, rc == -ENOMEM ? "no memory for a table" :
			      "break-before-make is on, and the leaf holds what the split itself runs on");
		return;
	}
	log_info("split level3=%lu level2=%lu, %lu leaves more%s",
		 after.direct_map_level3_splits - before.direct_map_level3_splits,
		 after.direct_map_level2_splits - before.direct_map_level2_splits, after.leaves - before.leaves,
		 kernel_space.policy == PT_COLLAPSE_OFF ? "" : "; the next flush of the kernel's space may collapse them again");
}

static const char *split_word(unsigned arg, unsigned i)
{
	static const char *const sizes[] = { "4k", "2m" };

	return arg == 1 && i < ARRAY_SIZE(sizes) ? sizes[i] : NULL;
}

MONITOR_COMMAND(split) = { "split", "VA [4k|2m]", "split a leaf of the direct map, to 4k",
			   .more = ABOUT_VA "\nWhat is split is uniform, so collapse=eager takes it back with the next\n"
				   "flush; policy collapse=off keeps it.",
			   .min = 1, .max = 2, .run = run_split, .word = split_word };

/* ---- collapse ---- */

/* Why the leaf is not a larger one. */
static void say_why_not(struct pt_slot s)
{
	const struct page *table = virt_to_page((void *)align_down((u64)s.pte, PAGE_SIZE));
	phys_t larger = phys(align_down(pte_leaf_pa(s.value, s.level).raw, pt_span(s.level + 1u)));
	u64 end;

	arch_memory_type(larger, &end);
	if (s.level >= kernel_space.max_leaf)
		log_info("  that is the largest leaf there is here");
	else if (table->breaks)
		log_info("  its table has %u breaks: neighbours that differ in rights, type or frame, or are absent", table->breaks);
	else if (s.value.raw & PTE_KEEP)
		log_info("  it was asked for in this size");
	else if (end < larger.raw + pt_span(s.level + 1u))
		log_info("  the memory type changes within what a larger leaf would map");
	else
		log_info("  its frames are not aligned to a larger leaf, or break-before-make forbids it now");
}

static void run_collapse(unsigned nr, char **args)
{
	const u64 *collapses = kernel_space.stats[PT_DIRECT].collapses, *others = kernel_space.stats[PT_OTHER].collapses;
	u64 before_2m = collapses[PT_2M] + others[PT_2M], before_1g = collapses[PT_1G] + others[PT_1G];
	enum pt_collapse_policy policy = kernel_space.policy;
	bool all = !nr || strcmp(args[0], "all") == 0;
	struct pt_slot s;
	u64 va = 0;

	if (!all && !monitor_address(args[0], &va))
		return;
	if (!all && va < kernel_space.half.start) {
		monitor_error("collapse: 0x%lx is not in the kernel half, which begins at 0x%lx", va, kernel_space.half.start);
		return;
	}
	if (policy == PT_COLLAPSE_OFF)
		pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	pt_set_policy(&kernel_space, policy);
	log_info("collapsed level3=%lu level2=%lu", collapses[PT_1G] + others[PT_1G] - before_1g,
		 collapses[PT_2M] + others[PT_2M] - before_2m);
	if (all)
		return;
	s = pt_walk_lockless(kernel_space.root, kernel_space.levels, va);
	if (!pte_is_leaf(s.value, s.level)) {
		log_info("0x%016lx is not mapped", va);
		return;
	}
	log_info("0x%016lx is mapped by a %s leaf", va, page_walk_leaf_name(s.level));
	say_why_not(s);
}

static const char *collapse_word(unsigned arg, unsigned i)
{
	return arg == 0 && i == 0 ? "all" : NULL;
}

MONITOR_COMMAND(collapse) = { "collapse", "[VA|all]", "put together what can be, whatever the policy",
			      .more = "Every table that one leaf can replace is collapsed. With VA: also which leaf\n"
				      "maps it now, and why not a larger one.\n" ABOUT_VA,
			      .max = 1, .run = run_collapse, .word = collapse_word };

/* ---- dump ---- */

#define DUMP_MAX (4 * KIB)
#define DUMP_ROW 16u

/* One row. False: it cannot be read. */
static bool say_bytes(u64 va)
{
	char hex[3 * DUMP_ROW + 1], text[DUMP_ROW + 1];
	u8 bytes[DUMP_ROW];

	for (unsigned i = 0; i < DUMP_ROW; i += 8) {
		u64 word;

		if (!trap_read_u64(va + i, &word))
			return false;
		memcpy(bytes + i, &word, sizeof(word));
	}
	for (unsigned i = 0; i < DUMP_ROW; i++) {
		fmt_print(hex + 3 * i, 4, " %02x", bytes[i]);
		text[i] = bytes[i] >= ' ' && bytes[i] <= '~' ? (char)bytes[i] : '.';
	}
	text[DUMP_ROW] = 0;
	log_info("0x%016lx%s  %s", va, hex, text);
	return true;
}

/* Reading registers of a device can change what it does. */
static bool is_uncached(u64 va)
{
	struct pt_slot s = pt_walk_lockless(arch_current_root(), arch_mm.levels, va);

	return pte_is_leaf(s.value, s.level) && pte_attrs(s.value, s.level) & PTE_CACHE;
}

static void run_dump(unsigned nr, char **args)
{
	u64 va, length = 64, end;

	if (!monitor_address(args[0], &va) || (nr > 1 && !monitor_size(args[1], DUMP_MAX, &length)))
		return;
	end = length - 1 > UINT64_MAX - va ? UINT64_MAX : va + length - 1;	/* the last byte */
	for (va = align_down(va, DUMP_ROW);; va += DUMP_ROW) {
		if (is_uncached(va)) {
			monitor_error("dump: 0x%lx is not mapped write-back: reading a device may change it", va);
			return;
		}
		if (!say_bytes(va)) {
			monitor_error("dump: 0x%lx cannot be read: walk shows why", va);
			return;
		}
		if (end - va < DUMP_ROW)
			return;
	}
}

MONITOR_COMMAND(dump) = { "dump", "VA [LENGTH]", "memory in hexadecimal",
			  .more = ABOUT_VA "\nLENGTH is in bytes, at most 4K; without it 64. What is not mapped, or not\n"
				  "write-back, is refused.",
			  .min = 1, .max = 2, .run = run_dump };

/* ---- audit ---- */

static void show_audit(void)
{
	struct pt_audit audit;
	u64 violations = pt_audit(&audit);
	unsigned differences = pt_check(&kernel_space);

	log_info("audit violations=%lu leaves=%lu executable=%lu windows=%lu differences=%u", violations, audit.leaves,
		 audit.exec_leaves, audit.windows, differences);
	if (violations)
		log_info("  the first: kind %d in %s at 0x%lx, entry 0x%lx", (int)audit.first.kind, audit.first.space,
			 audit.first.va, audit.first.entry);
}

MONITOR_COMMAND(audit) = { "audit", "", "walk every root and compare with what is known",
			   .more = "No page may be writable and executable; counters are what a walk counts.",
			   .show = show_audit };
