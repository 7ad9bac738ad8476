/* SPDX-License-Identifier: MIT */
/*
 * The unmapped cache used by all CPUs at once: refills, returns and shrinking by one while others take and free, pages that are freed
 * on another CPU than took them, and two frees of one page at the same time (SPEC UM1..UM4).
 */
#include "kernel/base/atomic.h"
#include "kernel/base/log.h"
#include "mm/buddy.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "tests/fixture.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define ROUNDS 3000u		/* of each CPU */
#define HELD_MAX 24u
#define SLOTS 16u

/* A page and what is in it, while it goes from hand to hand: its first frame's number is in the tag. */
struct parcel {
	struct page *page;
	unsigned order;
	unsigned flags;
	u64 tag;
};

static struct {
	u64 seed;
	u64 slots[SLOTS];		/* pages on their way to another CPU: pointer to one's parcel, or 0 */
	struct parcel parcels[MAX_CPUS][HELD_MAX];
	u64 faults;			/* anything that should not be */
	u64 allocs, fails, passed;
} m;

static void expect(bool cond)
{
	if (!cond)
		fetch_add(&m.faults, 1);
}

static bool frame_has(pfn_t pfn, u64 first, u64 last)
{
	u64 words[2];

	temp_read(pfn, 0, &words[0], sizeof(u64));
	temp_read(pfn, PAGE_SIZE - sizeof(u64), &words[1], sizeof(u64));
	return words[0] == first && words[1] == last;
}

/* Take a page and write to both ends of each of its frames. */
static void parcel_fill(struct parcel *p, struct rng *rng)
{
	p->order = rng_below(rng, 4) ? 0 : (unsigned)rng_below(rng, 7);
	p->flags = (rng_below(rng, 2) ? UNMAPPED_ZERO : 0) | (rng_below(rng, 2) ? UNMAPPED_NOSCRUB : 0);
	p->tag = rng_next(rng) | 1;
	p->page = unmapped_pages_alloc(p->order, p->flags, -1, NULL);
	if (!p->page) {
		fetch_add(&m.fails, 1);
		return;
	}
	fetch_add(&m.allocs, 1);
	for (u64 i = 0; i < BIT(p->order); i++) {
		pfn_t pfn = page_to_pfn(p->page) + i;
		u64 word = p->tag + i;

		expect(p->page[i].class == PAGE_UNMAPPED);
		if (p->flags & UNMAPPED_ZERO)
			expect(frame_has(pfn, 0, 0));
		temp_write(pfn, 0, &word, sizeof(word));
		temp_write(pfn, PAGE_SIZE - sizeof(word), &word, sizeof(word));
	}
}

/* Nobody else has written to it meanwhile. */
static void parcel_empty(struct parcel *p)
{
	for (u64 i = 0; i < BIT(p->order); i++)
		expect(frame_has(page_to_pfn(p->page) + i, p->tag + i, p->tag + i));
	unmapped_pages_free(p->page, p->order);
	p->page = NULL;
}

/* Put a parcel where another CPU finds it, and take what lies there: the contents change hands. */
static void parcel_pass(struct parcel *p, struct parcel *box, struct rng *rng)
{
	u64 *slot = &m.slots[rng_below(rng, SLOTS)];
	struct parcel *other;

	*box = *p;
	other = (struct parcel *)__atomic_exchange_n(slot, (u64)box, __ATOMIC_ACQ_REL);
	p->page = NULL;
	if (other) {
		*p = *other;
		store_release(&other->page, NULL);
		fetch_add(&m.passed, 1);
	}
}

static void use_cache(void *arg)
{
	u32 cpu = arch_this_cpu()->id;
	struct parcel *box = m.parcels[cpu];	/* of these one is in a slot at most as long as its page is not NULL */
	struct parcel held[HELD_MAX] = { 0 };
	struct rng rng = { m.seed + cpu };

	(void)arg;
	for (u32 i = 0; i < ROUNDS; i++) {
		struct parcel *p = &held[rng_below(&rng, HELD_MAX)];
		struct parcel *b = &box[rng_below(&rng, HELD_MAX)];

		if (!p->page)
			parcel_fill(p, &rng);
		else if (!rng_below(&rng, 4) && !load_acquire(&b->page))
			parcel_pass(p, b, &rng);
		else
			parcel_empty(p);
		if (!rng_below(&rng, 200))
			unmapped_shrink(rng_below(&rng, 2) ? UNMAPPED_ALL : 512);
	}
	for (u32 i = 0; i < HELD_MAX; i++)
		if (held[i].page)
			parcel_empty(&held[i]);
}

TEST_ID(unmapped_smp, all_cpus_take_and_free, "UM1 UM2 UM3 UM4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	enum unmapped_mode mode = unmapped_mode();
	struct fixture_picture before, after;
	struct unmapped_stats a, b;

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	pt_settle(&kernel_space);
	buddy_drain();
	fixture_take(&before);
	unmapped_set_watermarks(1, 2);
	unmapped_read_stats(&a);
	m.seed = test_rng().state;
	m.faults = m.allocs = m.fails = m.passed = 0;
	CHECK_EQ(thread_run_on_all(use_cache, NULL), 0);
	CHECK_EQ(unmapped_check(), 0);
	for (u32 i = 0; i < SLOTS; i++) {
		struct parcel *p = (struct parcel *)m.slots[i];

		m.slots[i] = 0;
		if (p)
			parcel_empty(p);
	}
	CHECK_EQ(m.faults, 0);
	CHECK_EQ(m.fails, 0);
	unmapped_read_stats(&b);
	CHECK_EQ(b.allocs - a.allocs, m.allocs);
	CHECK_EQ(b.frees - a.frees, m.allocs);
	CHECK_EQ(b.bad_frees, a.bad_frees);
	CHECK_EQ(b.bytes_in_use, 0);
	CHECK(b.refills[ORDER_2M] > a.refills[ORDER_2M]);
	test_note("allocs=%llu passed_on=%llu refills=%llu returns=%llu", (unsigned long long)m.allocs,
		  (unsigned long long)m.passed, (unsigned long long)(b.refills[ORDER_2M] - a.refills[ORDER_2M]),
		  (unsigned long long)(b.returns[ORDER_2M] - a.returns[ORDER_2M]));
	unmapped_shrink(UNMAPPED_ALL);
	CHECK_EQ(unmapped_check(), 0);
	buddy_drain();
	fixture_take(&after);
	CHECK_EQ(after.leaves, before.leaves);
	CHECK_EQ(after.digest, before.digest);
	CHECK_EQ(after.free, before.free);
	CHECK_EQ(unmapped_set_mode(mode), 0);
	fixture_policy(policy);
}

/* ---- Two frees of one page ---- */

#define TWICE 40u

static struct page *twice[TWICE];

static u64 arrived;

/* All meet before each page. */
static void free_them_all(void *arg)
{
	const u32 *cpus = arg;

	for (u32 i = 0; i < TWICE; i++) {
		fetch_add(&arrived, 1);
		while (load_acquire(&arrived) < (u64)*cpus * (i + 1))
			arch_relax();
		unmapped_pages_free(twice[i], UNMAPPED_ORDER_MAX);
	}
}

/*
 * Every CPU frees the same blocks at the same time: each is freed once, all other frees are counted and named. Whole blocks, as each of
 * their frames is looked at between the first look at the block and the step that makes it the caller's.
 */
TEST_ID(unmapped_smp, one_of_two_frees_gets_the_page, "UM1")
{
	enum unmapped_mode mode = unmapped_mode();
	u64 warnings = log_warnings;
	struct unmapped_stats a, b;
	u32 ids[CREW_MAX], cpus = crew_cpus(ids);

	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	unmapped_read_stats(&a);
	arrived = 0;
	for (u32 i = 0; i < TWICE; i++) {
		twice[i] = unmapped_pages_alloc(UNMAPPED_ORDER_MAX, UNMAPPED_NOSCRUB, -1, NULL);
		REQUIRE(twice[i] != NULL);
	}
	CHECK_EQ(thread_run_on_all(free_them_all, &cpus), 0);
	unmapped_read_stats(&b);
	CHECK_EQ(b.frees - a.frees, TWICE);
	CHECK_EQ(b.bad_frees - a.bad_frees, (cpus - 1) * TWICE);
	CHECK_EQ(log_warnings - warnings, (cpus - 1) * TWICE);
	CHECK_EQ(b.bytes_in_use, 0);
	CHECK_EQ(unmapped_check(), 0);
	log_warnings = warnings;
	CHECK_EQ(unmapped_set_mode(mode), 0);
}
