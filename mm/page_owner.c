/* SPDX-License-Identifier: MIT */
/*
 * Page owner. See page_owner.h.
 *
 * Which blocks are in use is not kept but looked up: a frame with PAGE_HEAD heads an allocation, and its number says by whom. So a
 * free costs nothing, and no count can go wrong. A report counts into the notes of each stack.
 *
 * Recording allocates, when the depot needs storage, and is recorded then: `inside` tells, by CPU and by what the CPU is doing, that a
 * recording is under way. An NMI in the middle of one has its own.
 */
#include "mm/page_owner.h"

#include "kernel/base/arch_cpu.h"
#include "kernel/base/atomic.h"
#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/depot.h"

#define SECTION_ORDER_FRAMES (SECTION_SHIFT - PAGE_SHIFT)
#define NUMBERS_ORDER (SECTION_ORDER_FRAMES + 2 - PAGE_SHIFT)	/* 4 bytes for each frame of a section */
#define DEPTH 14u
#define POOLS_AHEAD 4u

enum note { NOTE_BLOCKS, NOTE_FRAMES, NOTE_BLOCKS_BEFORE, NOTE_FRAMES_BEFORE };
_Static_assert(NOTE_FRAMES_BEFORE < DEPOT_NOTES, "one note each");

static struct depot depot;
static u32 **sections;		/* by section: numbers of its frames' stacks, or NULL */
static u64 nr_sections;
static bool on;
static u8 inside[MAX_CPUS][CPU_NESTING_LEVELS];
static u64 recorded, unknown;
void (*page_owner_name)(u64 address, char *buf, size_t size);

static u32 *number_of(const struct page *page)
{
	pfn_t pfn = page_to_pfn(page);
	u64 section = pfn >> SECTION_ORDER_FRAMES;

	if (section >= nr_sections || !sections[section])
		return NULL;
	return &sections[section][pfn & (SECTION_FRAMES - 1)];
}

/* Every frame of a block says whose it was, whatever heads it once it is free. */
static void set_number(const struct page *page, unsigned order, u32 value)
{
	for (u64 i = 0; i < 1ull << order; i++) {
		u32 *number = number_of(page + i);

		if (number)
			store_relaxed(number, value);
	}
}

/* ---- Recording ---- */

/* Begin what is not to be recorded itself; NULL: it has begun, and this is in the middle of it. */
static u8 *enter(void)
{
	const struct cpu_state *cpu = arch_this_cpu();
	u8 *busy = &inside[cpu->id][cpu->nesting];

	if (*busy)
		return NULL;
	store_relaxed(busy, 1);
	fence_signal();
	return busy;
}

static void leave(u8 *busy)
{
	fence_signal();
	store_relaxed(busy, 0);
}

void page_owner_record(const struct page *page, unsigned order)
{
	u8 *busy = enter();
	u64 stack[DEPTH];
	u32 value;

	if (!busy) {
		set_number(page, order, 0);
		return;
	}
	value = depot_put(&depot, stack, arch_backtrace((u64)__builtin_frame_address(0), stack, DEPTH));
	leave(busy);
	set_number(page, order, value);
	fetch_add(&recorded, 1);
	if (!value)
		fetch_add(&unknown, 1);
}

unsigned page_owner_stack(const struct page *page, const u64 **stack)
{
	const u32 *number = on ? number_of(page) : NULL;

	return number ? depot_get(&depot, load_relaxed(number), stack) : 0;
}

/* ---- Start and stop ---- */

static unsigned table_order(u64 nr)
{
	return log2_ceil(align_up(nr * sizeof(u32 *), PAGE_SIZE) >> PAGE_SHIFT);
}

static void free_numbers(void)
{
	for (u64 s = 0; s < nr_sections; s++)
		if (sections[s])
			free_pages(virt_to_page(sections[s]), NUMBERS_ORDER);
	free_pages(virt_to_page(sections), table_order(nr_sections));
	sections = NULL;
	nr_sections = 0;
}

static int take_numbers(void)
{
	u64 nr = align_up(page_max_pfn, SECTION_FRAMES) >> SECTION_ORDER_FRAMES;
	struct page *page = alloc_pages(table_order(nr), ALLOC_ZERO);

	if (!page)
		return -ENOMEM;
	sections = page_to_virt(page);
	nr_sections = nr;
	for (u64 s = 0; s < nr; s++) {
		if (!pfn_valid(s << SECTION_ORDER_FRAMES))
			continue;
		page = alloc_pages(NUMBERS_ORDER, ALLOC_ZERO);
		if (!page) {
			free_numbers();
			return -ENOMEM;
		}
		sections[s] = page_to_virt(page);
	}
	return 0;
}

int page_owner_start(void)
{
	int rc;

	if (on)
		return -EBUSY;
	rc = take_numbers();
	if (rc)
		return rc;
	recorded = unknown = 0;
	on = true;
	buddy_watch(BUDDY_OWNER, true);
	return 0;
}

void page_owner_stop(void)
{
	if (!on)
		return;
	buddy_watch(BUDDY_OWNER, false);
	on = false;
	free_numbers();
	depot_reset(&depot);
}

bool page_owner_on(void)
{
	return on;
}

void page_owner_read_stats(struct page_owner_stats *out)
{
	*out = (struct page_owner_stats){
		.recorded = load_relaxed(&recorded), .unknown = load_relaxed(&unknown), .stacks = load_relaxed(&depot.stacks),
		.frames = load_relaxed(&depot.frames),
	};
}

/* ---- Reports ---- */

static void count_section(u64 section)
{
	struct page *page = pfn_to_page(section << SECTION_ORDER_FRAMES);
	const u32 *numbers = sections[section];

	for (u64 i = 0; i < SECTION_FRAMES; i++) {
		u64 *notes;

		if (!(page[i].flags & PAGE_HEAD) || !numbers[i])
			continue;
		notes = depot_notes(&depot, numbers[i]);
		notes[NOTE_BLOCKS]++;
		notes[NOTE_FRAMES] += 1ull << page[i].order;
	}
}

static void count_all(void)
{
	for (u32 n = depot_next(&depot, 0); n; n = depot_next(&depot, n)) {
		depot_notes(&depot, n)[NOTE_BLOCKS] = 0;
		depot_notes(&depot, n)[NOTE_FRAMES] = 0;
	}
	for (u64 s = 0; s < nr_sections; s++)
		if (sections[s])
			count_section(s);
}

void page_owner_mark(void)
{
	u8 *busy = on ? enter() : NULL;

	if (!busy)
		return;
	depot_reserve(&depot, POOLS_AHEAD);
	leave(busy);
	count_all();
	for (u32 n = depot_next(&depot, 0); n; n = depot_next(&depot, n)) {
		u64 *notes = depot_notes(&depot, n);

		notes[NOTE_BLOCKS_BEFORE] = notes[NOTE_BLOCKS];
		notes[NOTE_FRAMES_BEFORE] = notes[NOTE_FRAMES];
	}
}

/* By what rows are sorted; 0: not of the report. */
static u64 weight(u32 n, enum page_owner_which which)
{
	const u64 *notes = depot_notes(&depot, n);

	if (which == PAGE_OWNER_ALL)
		return notes[NOTE_FRAMES];
	if (notes[NOTE_BLOCKS] <= notes[NOTE_BLOCKS_BEFORE])
		return 0;
	return MAX(notes[NOTE_FRAMES], notes[NOTE_FRAMES_BEFORE] + 1) - notes[NOTE_FRAMES_BEFORE];
}

/* The next one in order: the heaviest behind (weight, number) of the last; 0: none. */
static u32 next_heaviest(enum page_owner_which which, u64 last_weight, u32 last)
{
	u64 best_weight = 0;
	u32 best = 0;

	for (u32 n = depot_next(&depot, 0); n; n = depot_next(&depot, n)) {
		u64 w = weight(n, which);
		bool behind = w < last_weight || (w == last_weight && n > last);

		if (w && behind && (w > best_weight || !best)) {
			best = n;
			best_weight = w;
		}
	}
	return best;
}

static struct page_owner_row row_of(u32 n)
{
	const u64 *notes = depot_notes(&depot, n);
	struct page_owner_row row = {
		.blocks = notes[NOTE_BLOCKS], .frames = notes[NOTE_FRAMES],
		.blocks_before = notes[NOTE_BLOCKS_BEFORE], .frames_before = notes[NOTE_FRAMES_BEFORE],
	};

	row.depth = depot_get(&depot, n, &row.stack);
	return row;
}

unsigned page_owner_report(enum page_owner_which which, unsigned most, page_owner_fn fn, void *arg)
{
	u64 last_weight = UINT64_MAX;
	unsigned found = 0;
	u32 last = 0;

	if (!on)
		return 0;
	count_all();
	for (u32 n = depot_next(&depot, 0); n; n = depot_next(&depot, n))
		found += weight(n, which) != 0;
	for (unsigned i = 0; i < MIN(found, most); i++) {
		struct page_owner_row row;

		last = next_heaviest(which, last_weight, last);
		last_weight = weight(last, which);
		row = row_of(last);
		fn(arg, &row);
	}
	return found;
}

static void log_stack(const u64 *stack, unsigned depth)
{
	char name[96];

	for (unsigned i = 0; i < depth; i++) {
		name[0] = 0;
		if (page_owner_name)
			page_owner_name(stack[i], name, sizeof(name));
		log_info("    %#llx %s", (unsigned long long)stack[i], name);
	}
}

static void log_row(void *arg, const struct page_owner_row *row)
{
	(void)arg;
	log_info("page owner: %llu blocks, %llu frames (at the mark %llu, %llu) from",
		 (unsigned long long)row->blocks, (unsigned long long)row->frames,
		 (unsigned long long)row->blocks_before, (unsigned long long)row->frames_before);
	log_stack(row->stack, row->depth);
}

unsigned page_owner_log(enum page_owner_which which, unsigned most)
{
	return page_owner_report(which, most, log_row, NULL);
}

void page_owner_log_frame(const struct page *page)
{
	const u64 *stack;
	unsigned depth = page_owner_stack(page, &stack);

	if (!depth)
		return;
	log_info("page owner: frame %#llx was last allocated by", (unsigned long long)page_to_pfn(page));
	log_stack(stack, depth);
}
