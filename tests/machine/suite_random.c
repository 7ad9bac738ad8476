/* SPDX-License-Identifier: MIT */
/*
 * Random changes of rights on the real machine against a flat model (SPEC PT2, PT5): a window of frames, seen through the
 * direct map and through one alias. The model knows four bits per frame and the rules as SPEC has them; it knows nothing of
 * tables, leaves or splits. After each operation the frames at the edges of its range, and one beyond on each side, are
 * compared by walk, and some of them by real accesses; from time to time every frame is.
 */
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/pgtable.h"
#include "mm/vmalloc.h"
#include "tests/machine/trial.h"
#include "tests/test.h"

#define WINDOW_ORDER 14u			/* 64 MiB */
#define WINDOW_PAGES (1u << WINDOW_ORDER)
#define OPERATIONS 10000u
#define OPERATIONS_SOAK 100000u
#define FULL_EVERY 128u				/* operations between two comparisons of everything */

/* The model of a frame. */
#define M_DIRECT 0x1u		/* present in the direct map */
#define M_DIRECT_W 0x2u		/* … and writable there (kept 0 while absent) */
#define M_ALIAS_W 0x4u
#define M_ALIAS_X 0x8u

/* What the pages hold: words that are written in front, behind them RET instructions. */
#define RET 0xc3
#define CALLABLE 64u

static u8 model[WINDOW_PAGES];

static struct {
	struct page *pages;
	pfn_t pfn;
	u64 direct;		/* address of page 0 in the direct map */
	u64 alias;		/* and in the alias */
	bool nx;
} window;

/* ---- operations ---- */

enum op {
	OP_INVALID,
	OP_DEFAULT,
	OP_DIRECT_RO,
	OP_DIRECT_RW,
	OP_DIRECT_X,
	OP_DIRECT_NX,
	OP_DIRECT_ROX,
	OP_ALIAS_RO,
	OP_ALIAS_RW,
	OP_ALIAS_X,
	OP_ALIAS_NX,
	OP_ALIAS_ROX,
	OPS,
};

static const enum memory_rights rights_of[OPS] = {
	[OP_DIRECT_RO] = MEMORY_RO, [OP_DIRECT_RW] = MEMORY_RW, [OP_DIRECT_X] = MEMORY_X,
	[OP_DIRECT_NX] = MEMORY_NX, [OP_DIRECT_ROX] = MEMORY_ROX, [OP_ALIAS_RO] = MEMORY_RO,
	[OP_ALIAS_RW] = MEMORY_RW, [OP_ALIAS_X] = MEMORY_X, [OP_ALIAS_NX] = MEMORY_NX,
	[OP_ALIAS_ROX] = MEMORY_ROX,
};

static int do_op(enum op op, u32 first, u32 nr, struct tlb_batch *batch)
{
	if (op <= OP_DEFAULT)
		return set_direct_map_batch(window.pfn + first, nr, op == OP_DEFAULT, batch);
	return set_memory_batch((op < OP_ALIAS_RO ? window.direct : window.alias) + first * PAGE_SIZE, nr,
				rights_of[op], batch);
}

/* What one frame has to say to a request: 0, or the error. Without NX nothing counts as executable, or all does. */
static int model_allows(enum op op, u8 m)
{
	if (!window.nx && (op == OP_DIRECT_X || op == OP_DIRECT_ROX || op == OP_ALIAS_X))
		return op == OP_ALIAS_X || m & M_DIRECT ? 0 : -EFAULT;
	switch (op) {
	case OP_DIRECT_RO:
	case OP_DIRECT_NX:
		return m & M_DIRECT ? 0 : -EFAULT;
	case OP_DIRECT_RW:
		if (!(m & M_DIRECT))
			return -EFAULT;
		return m & M_ALIAS_X ? -EPERM : 0;
	case OP_DIRECT_X:
	case OP_DIRECT_ROX:
		return m & M_DIRECT ? -EPERM : -EFAULT;
	case OP_ALIAS_RW:
		return m & M_ALIAS_X ? -EPERM : 0;
	case OP_ALIAS_X:
		return m & (M_ALIAS_W | M_DIRECT_W) ? -EPERM : 0;
	default:
		return 0;
	}
}

/* The direct map follows ro, rw and rox of the alias where the frame is present. */
static u8 follow(u8 m, bool writable)
{
	if (!(m & M_DIRECT))
		return m;
	return (u8)(writable ? m | M_DIRECT_W : m & ~M_DIRECT_W);
}

static u8 model_apply(enum op op, u8 m)
{
	u8 x = window.nx ? M_ALIAS_X : 0;

	switch (op) {
	case OP_INVALID:
		return (u8)(m & ~(M_DIRECT | M_DIRECT_W));
	case OP_DEFAULT:
		return follow(m | M_DIRECT, !(m & M_ALIAS_X));
	case OP_DIRECT_RO:
	case OP_DIRECT_ROX:
		return (u8)(m & ~M_DIRECT_W);
	case OP_DIRECT_RW:
		return (u8)(m | M_DIRECT_W);
	case OP_ALIAS_RO:
		return follow((u8)(m & ~M_ALIAS_W), false);
	case OP_ALIAS_RW:
		return follow((u8)(m | M_ALIAS_W), true);
	case OP_ALIAS_X:
		return (u8)(m | x);
	case OP_ALIAS_NX:
		return (u8)(m & ~M_ALIAS_X);
	case OP_ALIAS_ROX:
		return follow((u8)((m & ~M_ALIAS_W) | x), false);
	default:
		return m;
	}
}

/* Whether the answer is the right one; if it is 0, the model follows. A hole in the range is said first. */
static bool model_agrees(enum op op, u32 first, u32 nr, int rc)
{
	int want = 0;

	for (u32 i = first; i < first + nr && want != -EFAULT; i++) {
		int answer = model_allows(op, model[i]);

		if (answer)
			want = answer;
	}
	if (!CHECK_EQ(rc, want)) {
		test_note("op=%d first=%u nr=%u", op, first, nr);
		return false;
	}
	for (u32 i = first; !rc && i < first + nr; i++)
		model[i] = model_apply(op, model[i]);
	return true;
}

/* ---- comparison ---- */

static u8 walk_frame(u32 i)
{
	struct pt_slot d = pt_walk(&kernel_space, window.direct + i * PAGE_SIZE, PT_4K);
	struct pt_slot a = pt_walk(&kernel_space, window.alias + i * PAGE_SIZE, PT_4K);
	u64 in_leaf = (i * PAGE_SIZE + window.direct) & (pt_span(d.level) - 1);
	u8 m = 0;

	if (pte_present(d.value)) {
		m |= M_DIRECT;
		if (pte_leaf_pa(d.value, d.level).raw + in_leaf != (window.pfn + i) << PAGE_SHIFT)
			return 0xff;
		if (d.value.raw & PTE_W)
			m |= M_DIRECT_W;
		if (window.nx && !(d.value.raw & PTE_NX))
			return 0xfe;
	}
	if (!pte_present(a.value))
		return 0xfd;
	if (a.value.raw & PTE_W)
		m |= M_ALIAS_W;
	if (window.nx && !(a.value.raw & PTE_NX))
		m |= M_ALIAS_X;
	return m;
}

static bool compare_walk(u32 i)
{
	if (i >= WINDOW_PAGES)		/* one before the first, or one behind the last: not ours */
		return true;
	if (CHECK_EQ(walk_frame(i), model[i]))
		return true;
	test_note("frame=%u", i);
	return false;
}

/* The page-fault error that an access to a frame must have. */
static u32 expected(bool present, bool allowed, u32 kind)
{
	if (allowed && present)
		return TRIAL_OK;
	return (present ? PF_PRESENT : 0) | kind;
}

/*
 * An address in the page that has not been called lately. TCG (seen in QEMU 7.2) finds translated code by its address
 * without looking at the TLB again, and of a 2M leaf that is invalidated it drops the code of one page only.
 */
static u64 callable(u64 page)
{
	static u32 calls;

	return page + CALLABLE + calls++ % (PAGE_SIZE - CALLABLE);
}

/* What the CPU really does. */
static bool compare_access(u32 i)
{
	u64 direct = window.direct + i * PAGE_SIZE, alias = window.alias + i * PAGE_SIZE;
	u8 m = i < WINDOW_PAGES ? model[i] : 0;
	bool ok;

	if (i >= WINDOW_PAGES)
		return true;
	ok = CHECK_EQ(trial_read(direct + 8), expected(m & M_DIRECT, true, 0)) &&
	     CHECK_EQ(trial_write(direct + 16), expected(m & M_DIRECT, m & M_DIRECT_W, PF_WRITE)) &&
	     CHECK_EQ(trial_read(alias + 8), TRIAL_OK) &&
	     CHECK_EQ(trial_write(alias + 16), expected(true, m & M_ALIAS_W, PF_WRITE));
	if (ok && window.nx)
		ok = CHECK_EQ(trial_call(callable(alias)), expected(true, m & M_ALIAS_X, PF_FETCH)) &&
		     CHECK_EQ(trial_call(callable(direct)), expected(m & M_DIRECT, false, PF_FETCH));
	if (!ok)
		test_note("frame=%u model=%#x", i, m);
	return ok;
}

static bool compare_all(void)
{
	bool ok = CHECK_EQ(pt_check(&kernel_space), 0);

	for (u32 i = 0; ok && i < WINDOW_PAGES; i++)
		ok = compare_walk(i);
	return ok;
}

static bool compare_edges(struct rng *rng, u32 first, u32 nr)
{
	const u32 edges[] = { first - 1, first, first + nr - 1, first + nr };
	bool ok = true;

	for (unsigned i = 0; ok && i < ARRAY_SIZE(edges); i++)
		ok = compare_walk(edges[i]);
	return ok && compare_access(edges[rng_below(rng, ARRAY_SIZE(edges))]);
}

/* ---- the window ---- */

static bool window_open(void)
{
	struct page **list = vmalloc(WINDOW_PAGES * sizeof(*list));
	void *alias = NULL;

	window.nx = arch_mm.pte_mask & PTE_NX;
	window.pages = list ? alloc_pages(WINDOW_ORDER, 0) : NULL;
	if (window.pages) {
		window.pfn = page_to_pfn(window.pages);
		window.direct = (u64)page_to_virt(window.pages);
		page_set_class(window.pfn, WINDOW_PAGES, PAGE_EXECMEM);
		for (u32 i = 0; i < WINDOW_PAGES; i++) {
			list[i] = window.pages + i;
			memset((void *)(window.direct + i * PAGE_SIZE), RET, PAGE_SIZE);
		}
		alias = vmap(list, WINDOW_PAGES, 0);
		if (!alias)
			free_pages(window.pages, WINDOW_ORDER);
	}
	vfree(list);
	window.alias = (u64)alias;
	memset(model, M_DIRECT | M_DIRECT_W | M_ALIAS_W, sizeof(model));
	return alias;
}

static void window_close(void)
{
	CHECK_EQ(set_memory_nx(window.alias, WINDOW_PAGES), 0);
	CHECK_EQ(set_direct_map_default(window.pfn, WINDOW_PAGES), 0);
	vunmap((void *)window.alias);
	free_pages(window.pages, WINDOW_ORDER);
}

/* Lengths that matter: single pages, some, more than a table has, whole blocks. */
static void choose_range(struct rng *rng, u32 *first, u32 *nr)
{
	static const u32 longest[] = { 1, 1, 1, 8, 64, 700, 3000 };
	u32 max = longest[rng_below(rng, ARRAY_SIZE(longest))];

	*nr = 1 + (u32)rng_below(rng, max);
	if (rng_below(rng, 8) == 0)
		*nr = PT_ENTRIES * (1 + (u32)rng_below(rng, 3));
	*first = (u32)rng_below(rng, WINDOW_PAGES - *nr + 1);
	if (rng_below(rng, 4) == 0)
		*first = MIN((u32)align_down(*first, PT_ENTRIES), WINDOW_PAGES - *nr);
}

static void choose_policy(struct rng *rng)
{
	static const enum pt_collapse_policy policies[] = { PT_COLLAPSE_EAGER, PT_COLLAPSE_DEFERRED, PT_COLLAPSE_OFF };

	pt_set_policy(&kernel_space, policies[rng_below(rng, ARRAY_SIZE(policies))]);
}

/* One batch of up to four operations. Returns how many, 0 after a mismatch. */
static u32 run_batch(struct rng *rng, u64 answers[2])
{
	u32 ops = 1 + (u32)rng_below(rng, 4), first[4], nr[4];
	struct tlb_batch batch;
	bool ok = true;
	u32 done = 0;

	tlb_batch_init(&batch, &kernel_space);
	for (; ok && done < ops; done++) {
		/* The simple requests that make the others possible come more often. */
		enum op op = (enum op)rng_below(rng, OPS + 4);
		int rc;

		if (op >= OPS)
			op = (enum op[]){ OP_DEFAULT, OP_ALIAS_NX, OP_DIRECT_RW, OP_ALIAS_RW }[op - OPS];
		choose_range(rng, &first[done], &nr[done]);
		rc = do_op(op, first[done], nr[done], &batch);
		answers[rc != 0]++;
		ok = model_agrees(op, first[done], nr[done], rc);
	}
	tlb_batch_finish(&batch);
	for (u32 i = 0; ok && i < done; i++)
		ok = compare_edges(rng, first[i], nr[i]);
	return ok ? done : 0;
}

TEST_ID(random, changes_agree_with_a_flat_model, "PT2 PT4 PT5 PT6")
{
	enum pt_collapse_policy policy = kernel_space.policy;
	struct rng rng = test_rng();
	u32 total = cmdline.soak ? OPERATIONS_SOAK : OPERATIONS, n = 0, full = 0;
	u64 answers[2] = { 0, 0 };

	if (!window_open())
		SKIP("no %llu MiB in one piece", (unsigned long long)((WINDOW_PAGES * PAGE_SIZE) / MIB));
	while (n < total) {
		u32 done = run_batch(&rng, answers);

		if (!done)
			break;
		n += done;
		if (n - full < FULL_EVERY)
			continue;
		full = n;
		if (!compare_all())
			break;
		choose_policy(&rng);
	}
	CHECK(n >= total);
	CHECK(compare_all());
	test_note("operations=%u carried_out=%llu refused=%llu", n, (unsigned long long)answers[0],
		  (unsigned long long)answers[1]);
	CHECK(answers[0] > total / 2 && answers[1] > (window.nx ? total / 20 : 0));
	window_close();
	pt_set_policy(&kernel_space, PT_COLLAPSE_EAGER);
	pt_settle(&kernel_space);
	pt_set_policy(&kernel_space, policy);
}

/* Every pair of neighbouring frames across a 4K, 2M and window edge: a change of one never shows in the other. */
TEST_ID(random, edges_of_a_change_are_exact, "PT2 PT3")
{
	static const struct {
		u32 first, nr;
	} rows[] = {
		{ 1, 1 }, { 511, 1 }, { 512, 1 }, { 511, 2 }, { 512, 512 }, { 511, 514 }, { 513, 510 }, { 512, 511 },
		{ 513, 511 }, { 1024, 1024 }, { 1023, 1025 }, { 1, WINDOW_PAGES - 2 }, { 0, WINDOW_PAGES },
		{ WINDOW_PAGES - 1, 1 },
	};
	static const enum op there[] = { OP_DIRECT_RO, OP_INVALID, OP_ALIAS_RO, OP_ALIAS_ROX };
	static const enum op back[] = { OP_DIRECT_RW, OP_DEFAULT, OP_ALIAS_RW, OP_ALIAS_NX };
	struct tlb_batch batch;
	bool ok = true;

	if (!window_open())
		SKIP("no %llu MiB in one piece", (unsigned long long)((WINDOW_PAGES * PAGE_SIZE) / MIB));
	tlb_batch_init(&batch, &kernel_space);
	for (unsigned r = 0; ok && r < ARRAY_SIZE(rows); r++)
		for (unsigned k = 0; ok && k < 2 * ARRAY_SIZE(there); k++) {
			enum op op = k % 2 ? back[k / 2] : there[k / 2];
			u32 first = rows[r].first, end = first + rows[r].nr;
			int rc = do_op(op, first, rows[r].nr, &batch);

			tlb_batch_finish(&batch);
			ok = model_agrees(op, first, rows[r].nr, rc);
			for (u32 i = first - 1; ok && i != first + 1; i++)
				ok = compare_walk(i) && compare_access(i);
			for (u32 i = end - 1; ok && i != end + 1; i++)
				ok = compare_walk(i) && compare_access(i);
			if (!ok)
				test_note("first=%u nr=%u op=%d", first, rows[r].nr, (int)op);
		}
	CHECK(ok && compare_all());
	window_close();
}
