/* SPDX-License-Identifier: MIT */
/*
 * The oracle for stale translations, on real TLBs (TL5): each CPU uses a translation, one CPU changes it and flushes, each CPU uses
 * it again and must see the change. The control makes the same change without a flush and must see an old translation at least
 * once per case: where it does not, the test proves nothing.
 *
 * The CPUs use the translation in an interrupt (ipi_call): no CPU spins for another, which would take hosts of virtual CPUs for
 * ever. Rounds are counted, not timed: 10,000 for each case under soak=on, a sample otherwise.
 */
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "tests/fixture.h"
#include "tests/machine/crew.h"
#include "tests/machine/trial.h"
#include "tests/test.h"

#define ROUNDS_SAMPLED 48u	/* of all CPUs together */
#define ROUNDS_SOAK 10000u	/* of each */

/* Where in the page what is: a word that tells the frames apart, one that is written to, and an instruction. */
#define AT_NAME 0u
#define AT_DATA 64u
#define AT_CODE 128u
#define NAME(frame) (0x1e55a9e500000000ull + (frame))
#define OPCODE_RET 0xc3u

enum change { TO_RO, TO_NX, TO_ABSENT, TO_OTHER_FRAME, CHANGES };

static const char *const change_names[CHANGES] = { "ro", "nx", "absent", "other_frame" };
static const char *const level_names[] = { "", "4k", "2m", "1g" };

static unsigned count_rows(void)
{
	return PT_1G * CHANGES;
}

static void name_row(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s_%s", level_names[1 + row / CHANGES], change_names[row % CHANGES]);
}

/* ---- A leaf of either size, and two frames for it ---- */

struct scene {
	unsigned level;
	enum change change;
	struct fixture_area area;
	u64 va;			/* of the page that is used, in the leaf */
	u64 pa[2];		/* of the leaf, before and after */
	struct page *blocks[2];	/* what was allocated for it */
	unsigned orders[2];
};

static u64 offset_in_leaf(const struct scene *s)
{
	return s->va - s->area.va;
}

static u8 *page_of(const struct scene *s, unsigned frame)
{
	return phys_to_virt(phys(s->pa[frame] + offset_in_leaf(s)));
}

/* A leaf may map it: memory of one type. */
static bool one_type(u64 pa, u64 size)
{
	u64 end;

	arch_memory_type(phys(pa), &end);
	return end >= pa + size;
}

/* The second gigabyte: one of a single memory type, of which a block at least is ours. The largest blocks are tried first. */
static bool get_part_of_gigabyte(struct scene *s)
{
	for (unsigned order = ORDER_1G - 1; order >= ORDER_2M; order--) {
		struct page *block = alloc_pages(order, 0);
		u64 pa;

		if (!block)
			continue;
		pa = align_down(page_to_phys(block).raw, GIB);
		if (one_type(pa, GIB)) {
			s->blocks[1] = block;
			s->orders[1] = order;
			s->pa[1] = pa;
			return true;
		}
		free_pages(block, order);
	}
	return false;
}

/* Of one gigabyte all is ours, of the other only a part: what is at the same place in the first one is used. */
static bool get_gigabytes(struct scene *s)
{
	s->orders[0] = ORDER_1G;
	s->blocks[0] = alloc_pages(ORDER_1G, 0);
	if (!s->blocks[0])
		return false;
	s->pa[0] = page_to_phys(s->blocks[0]).raw;
	return one_type(s->pa[0], GIB) && (s->change != TO_OTHER_FRAME || get_part_of_gigabyte(s));
}

static bool get_blocks(struct scene *s)
{
	unsigned order = s->level == PT_4K ? 0 : ORDER_2M;

	for (unsigned i = 0; i < 2; i++) {
		s->orders[i] = order;
		s->blocks[i] = alloc_pages(order, 0);
		if (!s->blocks[i])
			return false;
		s->pa[i] = page_to_phys(s->blocks[i]).raw;
	}
	return true;
}

/*
 * The page of the leaf that is used: not the first one, whose address INVLPG names. But for code it is: QEMU 7.2 looks a jump's
 * target up by its address in a cache of which INVLPG forgets one page of 4K only, whatever the size of the leaf, so code in
 * other pages would go on running there.
 */
static u64 offset_used(const struct scene *s)
{
	u64 part = s->level == PT_1G && s->blocks[1] ? page_to_phys(s->blocks[1]).raw - s->pa[1] : 0;

	return s->level == PT_4K || s->change == TO_NX ? 0 : part + 77 * PAGE_SIZE;
}

/* The mapping was made without a count of aliases, so it is taken away without one. */
static void put_scene(struct scene *s)
{
	CHECK_EQ(fixture_change(PT_OP_UNMAP, range_len(s->area.va, pt_span(s->level)), 0, 0, 0), 0);
	fixture_area_put(&s->area);
	for (unsigned i = 0; i < 2; i++)
		if (s->blocks[i])
			free_pages(s->blocks[i], s->orders[i]);
}

/* False: not on this machine, which test_skip() has been told, or a failure that is noted. */
static bool get_scene(struct scene *s, unsigned row)
{
	*s = (struct scene){ .level = 1 + row / CHANGES, .change = (enum change)(row % CHANGES) };
	if (s->level > arch_mm.max_leaf) {
		test_skip("no leaves of 1G");
		return false;
	}
	if (s->change == TO_NX && !(arch_mm.pte_mask & PTE_NX)) {
		test_skip("no NX");
		return false;
	}
	if (!fixture_area_get(&s->area, pt_span(s->level), pt_span(s->level)))
		return false;
	if (!(s->level == PT_1G ? get_gigabytes(s) : get_blocks(s))) {
		put_scene(s);
		test_skip("no free memory of that size in one piece");
		return false;
	}
	s->va = s->area.va + offset_used(s);
	for (unsigned i = 0; i < (s->change == TO_OTHER_FRAME ? 2 : 1); i++) {
		*(volatile u64 *)(page_of(s, i) + AT_NAME) = NAME(i);
		*(volatile u8 *)(page_of(s, i) + AT_CODE) = OPCODE_RET;
	}
	return true;
}

/* ---- The change, and how it is taken back ---- */

static u64 first_attrs(const struct scene *s)
{
	return s->change == TO_NX ? fixture_attrs() & ~(PTE_NX | PTE_W) : fixture_attrs();
}

static struct range leaf_of(const struct scene *s)
{
	return range_len(s->area.va, pt_span(s->level));
}

static int map_frame(const struct scene *s, unsigned frame)
{
	return fixture_change(PT_OP_MAP, leaf_of(s), s->pa[frame], first_attrs(s), 0);
}

/* Absent and present again in one batch: one flush for both. */
static int map_other(const struct scene *s, unsigned frame)
{
	struct pt_change unmap = { .op = PT_OP_UNMAP, .va = leaf_of(s) };
	struct pt_change map = { .op = PT_OP_MAP, .va = leaf_of(s), .pa = phys(s->pa[frame]), .set = first_attrs(s) };
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &kernel_space);
	rc = pt_change(&kernel_space, &unmap, &batch);
	if (!rc)
		rc = pt_change(&kernel_space, &map, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

static int make_change(const struct scene *s)
{
	switch (s->change) {
	case TO_RO:
		return fixture_change(PT_OP_PROTECT, leaf_of(s), 0, 0, PTE_W);
	case TO_NX:
		return fixture_change(PT_OP_PROTECT, leaf_of(s), 0, PTE_NX, 0);
	case TO_ABSENT:
		return fixture_change(PT_OP_UNMAP, leaf_of(s), 0, 0, 0);
	default:
		return map_other(s, 1);
	}
}

static int take_back(const struct scene *s)
{
	switch (s->change) {
	case TO_RO:
		return fixture_change(PT_OP_PROTECT, leaf_of(s), 0, PTE_W, 0);
	case TO_NX:
		return fixture_change(PT_OP_PROTECT, leaf_of(s), 0, 0, PTE_NX);
	case TO_ABSENT:
		return map_frame(s, 0);
	default:
		return map_other(s, 0);
	}
}

/* The entry that make_change() would leave behind. */
static pte_t changed_entry(const struct scene *s, pte_t before)
{
	switch (s->change) {
	case TO_RO:
		return (pte_t){ before.raw & ~PTE_W };
	case TO_NX:
		return (pte_t){ before.raw | PTE_NX };
	case TO_ABSENT:
		return (pte_t){ 0 };
	default:
		return pte_leaf(phys(s->pa[1]), first_attrs(s), s->level);
	}
}

/* ---- What each CPU sees ---- */

enum sight { SEES_OLD, SEES_NEW, SEES_NONSENSE };

struct look {
	const struct scene *scene;
	u8 sights[MAX_CPUS];	/* enum sight */
};

static enum sight by_result(u32 result, u32 fault)
{
	return result == TRIAL_OK ? SEES_OLD : result == fault ? SEES_NEW : SEES_NONSENSE;
}

static enum sight by_name(const struct scene *s)
{
	u64 name;

	if (!trap_read_u64(s->va + AT_NAME, &name))
		return SEES_NONSENSE;
	return name == NAME(0) ? SEES_OLD : name == NAME(1) ? SEES_NEW : SEES_NONSENSE;
}

/* Use the translation on this CPU. Any context. */
static enum sight use(const struct scene *s)
{
	switch (s->change) {
	case TO_RO:
		return by_result(trial_write(s->va + AT_DATA), PF_PRESENT | PF_WRITE);
	case TO_NX:
		return by_result(trial_call(s->va + AT_CODE), PF_PRESENT | PF_FETCH);
	case TO_ABSENT:
		return by_result(trial_read(s->va + AT_NAME), 0);
	default:
		return by_name(s);
	}
}

static void look_here(void *arg)
{
	struct look *look = arg;

	look->sights[arch_this_cpu()->id] = (u8)use(look->scene);
}

/* How many CPUs see what; all online ones look. */
static void look_everywhere(struct look *look, u32 counts[3])
{
	const cpumask_t *online = arch_cpus_online();

	memset(look->sights, SEES_NONSENSE, sizeof(look->sights));
	ipi_call(online, look_here, look, NULL);
	counts[SEES_OLD] = counts[SEES_NEW] = counts[SEES_NONSENSE] = 0;
	for_each_cpu(cpu, online)
		counts[look->sights[cpu]]++;
}

static u32 nr_online(void)
{
	u32 nr = 0;

	for_each_cpu(cpu, arch_cpus_online())
		nr += cpu < MAX_CPUS;
	return nr;
}

/* ---- The oracle ---- */

struct rounds {
	const struct scene *scene;
	u32 rounds;
	u64 looks;		/* at changed entries, by all CPUs */
	u64 stale, nonsense;
	u64 unprimed;
};

/* Rounds of which this CPU makes the change. */
static void play_rounds(void *arg)
{
	struct rounds *r = arg;
	struct look look = { .scene = r->scene };
	u32 nr = nr_online();

	for (u32 i = 0; i < r->rounds; i++) {
		u32 counts[3];

		look_everywhere(&look, counts);
		r->unprimed += nr - counts[SEES_OLD];
		CHECK_EQ(make_change(r->scene), 0);
		look_everywhere(&look, counts);
		r->stale += counts[SEES_OLD];
		r->nonsense += counts[SEES_NONSENSE];
		r->looks += nr;
		CHECK_EQ(take_back(r->scene), 0);
	}
}

TEST_ROWS(tlb, no_stale, "TL1 TL5", 0, count_rows, name_row)
{
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	u32 total = cmdline.soak ? ROUNDS_SOAK * nr : ROUNDS_SAMPLED;
	struct rounds sum = { 0 };
	struct scene s;

	if (!get_scene(&s, test_row()))
		return;
	CHECK_EQ(map_frame(&s, 0), 0);
	CHECK_EQ(fixture_leaf(s.va).level, s.level);
	for (unsigned i = 0; i < nr; i++) {
		struct rounds r = { .scene = &s, .rounds = total / nr + (i < total % nr) };
		struct thread *t = crew_start(ids[i], "tlb", play_rounds, &r);

		CHECK_EQ(thread_join(t), 0);
		sum.rounds += r.rounds;
		sum.looks += r.looks;
		sum.stale += r.stale;
		sum.nonsense += r.nonsense;
		sum.unprimed += r.unprimed;
	}
	CHECK_EQ(sum.rounds, total);
	CHECK_EQ(sum.unprimed, 0);
	CHECK_EQ(sum.stale, 0);
	CHECK_EQ(sum.nonsense, 0);
	test_note("cpus=%u rounds=%u looks=%llu", nr_online(), sum.rounds, (unsigned long long)sum.looks);
	put_scene(&s);
}

/* ---- The control ---- */

static void flush_here(void *arg)
{
	(void)arg;
	arch_tlb_flush_all();
}

static void flush_everyone(void)
{
	ipi_call(arch_cpus_online(), flush_here, NULL, NULL);
}

/* One change that only the entry knows of, and back. Returns how many CPUs still saw what had been. */
static u32 change_without_flush(const struct scene *s, u32 *unprimed)
{
	struct pt_slot slot = fixture_leaf(s->va);
	struct look look = { .scene = s };
	u32 counts[3], stale;

	look_everywhere(&look, counts);
	*unprimed += nr_online() - counts[SEES_OLD];
	arch_pte_store(slot.pte, changed_entry(s, slot.value), s->level);
	look_everywhere(&look, counts);
	stale = counts[SEES_OLD];
	/* An entry that was changed, then everything forgotten: now everybody sees it. */
	flush_everyone();
	look_everywhere(&look, counts);
	CHECK_EQ(counts[SEES_NEW], nr_online());
	arch_pte_store(slot.pte, slot.value, s->level);
	flush_everyone();
	return stale;
}

TEST_ROWS(tlb_control, stale_without_flush, "TL5", 0, count_rows, name_row)
{
	u32 rounds = 0, stale = 0, unprimed = 0;
	struct scene s;

	if (!get_scene(&s, test_row()))
		return;
	CHECK_EQ(map_frame(&s, 0), 0);
	for (; rounds < ROUNDS_SAMPLED && (rounds < 4 || !stale); rounds++)
		stale += change_without_flush(&s, &unprimed);
	CHECK_EQ(unprimed, 0);
	if (!stale && !trial_translated_by_qemu())
		test_note("no stale translation seen: on this machine the oracle of this case proves nothing");
	else
		CHECK(stale > 0);
	test_note("cpus=%u rounds=%u stale=%u", nr_online(), rounds, stale);
	put_scene(&s);
}
