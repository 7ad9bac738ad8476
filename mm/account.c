/* SPDX-License-Identifier: MIT */
/*
 * Accounts. See account.h.
 *
 * A charge goes from the account upwards, one compare-exchange a level; the level that refuses makes the ones below take theirs
 * back. So a limit is never exceeded, and for the moment in between a charge of somebody else may find an account fuller than
 * it stays.
 *
 * A stock is of one CPU, and touched under its local_trylock by that CPU alone; who comes while it is occupied (an interrupt,
 * an NMI) charges the tree directly. One other may touch it: who calls stocks back. It says so in `calling`, makes every CPU
 * pass a serialising interrupt, and waits for those that are inside; from then on whoever enters sees `calling`, and leaves
 * the stock alone. (The store that marks a stock and the load of `calling` behind it may change places as the other CPU sees it,
 * but not across an interrupt.) Others only look, whether there is any: so each word is stored whole.
 */
#include "mm/account.h"

#include "kernel/base/arch_cpu.h"
#include "kernel/base/errno.h"
#include "kernel/base/local_trylock.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/spinlock.h"
#include "mm/plant.h"

struct account_stock {
	local_trylock_t lock;
	u32 frames;
	struct account *account;	/* whose; NULL only with no frames */
	const struct account *top;	/* the topmost one above it: to be compared, not looked into */
} __aligned(64);

static struct account_stock stocks[MAX_CPUS];
static u32 calling;			/* 1: somebody calls stocks back */
u64 account_bad_uncharges;

static spinlock_t open_lock = SPINLOCK_INIT_CLASS(LOCK_ACCOUNT);
static struct account *last_opened;	/* the list of those that are open; for account_check() alone */

/* ---- The tree ---- */

static bool charge_one(struct account *a, u64 frames)
{
	u64 usage = load_relaxed(&a->usage);

	do {
		u64 limit = load_relaxed(&a->limit);

		if (usage > limit || frames > limit - usage)
			return false;
	} while (!compare_exchange(&a->usage, &usage, usage + frames));
	return true;
}

/* From `a` up to, not including, `end`. */
static void tree_uncharge(struct account *a, const struct account *end, u64 frames)
{
	for (; a != end; a = a->parent)
		fetch_add(&a->usage, -frames);
}

/* NULL: charged. Else the account that refused, and nothing has changed. */
static struct account *tree_charge(struct account *account, u64 frames)
{
	for (struct account *a = account; a; a = a->parent) {
		if (charge_one(a, frames))
			continue;
		if (!PLANTED(PLANT_ACCOUNT_KEEPS_REFUSED))
			tree_uncharge(account, a, frames);
		return a;
	}
	return NULL;
}

static bool is_below(const struct account *a, const struct account *above)
{
	while (a && a != above)
		a = a->parent;
	return a != NULL;
}

/* Whether every limit leaves room for these frames. */
static bool has_room(const struct account *a, u64 frames)
{
	for (; a; a = a->parent) {
		u64 usage = load_relaxed(&a->usage), limit = load_relaxed(&a->limit);

		if (usage > limit || frames > limit - usage)
			return false;
	}
	return true;
}

/* ---- Stock ---- */

/* This CPU's, entered; NULL: not to be had now. */
static inline struct account_stock *stock_enter(void)
{
	struct account_stock *s = &stocks[arch_this_cpu()->id];

	if (unlikely(!local_trylock(&s->lock)))
		return NULL;
	if (unlikely(load_relaxed(&calling))) {
		local_unlock(&s->lock);
		return NULL;
	}
	return s;
}

static inline bool stock_take(struct account *account, u64 frames)
{
	struct account_stock *s = stock_enter();
	bool ok;

	if (unlikely(!s))
		return false;
	ok = s->account == account && s->frames >= frames;
	if (likely(ok))
		store_relaxed(&s->frames, s->frames - (u32)frames);
	local_unlock(&s->lock);
	return ok;
}

/*
 * Frames that the tree has as charged become this CPU's stock, as many as there is room for. Another account's goes back to it. What does not
 * stay is uncharged once the stock is left.
 */
static void stock_give(struct account *account, u64 frames)
{
	struct account_stock *s = stock_enter();
	struct account *other = NULL;
	u64 back = 0, keep;

	if (unlikely(!s)) {
		tree_uncharge(account, NULL, frames);
		return;
	}
	if (s->account != account) {
		other = s->account;
		back = s->frames;
		store_relaxed(&s->account, account);
		store_relaxed(&s->top, account->top);
		store_relaxed(&s->frames, 0);
	}
	keep = MIN(frames, 2 * ACCOUNT_STOCK - s->frames);
	store_relaxed(&s->frames, s->frames + (u32)keep);
	local_unlock(&s->lock);
	if (back)
		tree_uncharge(other, NULL, back);
	if (frames > keep)
		tree_uncharge(account, NULL, frames - keep);
}

static u64 stock_of(u32 cpu, const struct account *above)
{
	const struct account_stock *s = &stocks[cpu];
	u32 frames = load_relaxed(&s->frames);

	return frames && is_below(load_relaxed(&s->account), above) ? frames : 0;
}

static u64 stock_below(const struct account *above)
{
	u64 sum = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		sum += stock_of(cpu, above);
	return sum;
}

/* Whether a CPU has stock of an account of that tree. */
static bool stock_in_tree(const struct account *top)
{
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (load_relaxed(&stocks[cpu].frames) && load_relaxed(&stocks[cpu].top) == top)
			return true;
	return false;
}

/* Give all stock back to its accounts. */
static void stocks_call_back(void)
{
	cpumask_t others = *arch_cpus_online(), dead = { { 0 } };
	u32 free = 0;

	while (!compare_exchange(&calling, &free, 1)) {
		free = 0;
		arch_relax();
	}
	cpumask_clear(&others, arch_this_cpu()->id);
	if (!cpumask_empty(&others))
		arch_core_serialise_all(&others, &dead);
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct account_stock *s = &stocks[cpu];

		/* One that was given up stands still, wherever it is. */
		while (local_trylock_busy(&s->lock) && cpumask_has(arch_cpus_online(), cpu))
			arch_relax();
	}
	fence_full();
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		struct account_stock *s = &stocks[cpu];

		if (s->frames)
			tree_uncharge(s->account, NULL, s->frames);
		store_relaxed(&s->frames, 0);
		store_relaxed(&s->account, NULL);
	}
	store_release(&calling, 0);
}

static bool may_wait(void)
{
	const struct cpu_state *cpu = arch_this_cpu();

	return cpu->nesting == CPU_TASK && !cpu->locks_held && arch_irqs_enabled();
}

void account_drain(void)
{
	assert(may_wait());
	stocks_call_back();
}

/* ---- Charges ---- */

static u64 cpus_online(void)
{
	u64 nr = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		nr += cpumask_has(arch_cpus_online(), cpu);
	return nr;
}

static __noinline int charge_slow(struct account *account, u64 frames, bool waits)
{
	struct account *full;

	if (frames <= ACCOUNT_STOCK && has_room(account, frames + ACCOUNT_STOCK * (cpus_online() + 1)) &&
	    !tree_charge(account, frames + ACCOUNT_STOCK)) {
		stock_give(account, ACCOUNT_STOCK);
		return 0;
	}
	full = tree_charge(account, frames);
	if (full && waits && may_wait() && stock_in_tree(account->top)) {
		stocks_call_back();
		full = tree_charge(account, frames);
	}
	if (!full)
		return 0;
	fetch_add(&full->refused, 1);
	return -ENOMEM;
}

int account_charge(struct account *account, u64 frames)
{
	if (likely(stock_take(account, frames)))
		return 0;
	return charge_slow(account, frames, true);
}

int account_charge_nolock(struct account *account, u64 frames)
{
	if (likely(stock_take(account, frames)))
		return 0;
	return charge_slow(account, frames, false);
}

static __noinline void bad_uncharge(const struct account *account, u64 frames)
{
	fetch_add(&account_bad_uncharges, 1);
	log_warn("account %s: %llu frames uncharged, of %llu charged", account->name, (unsigned long long)frames,
		 (unsigned long long)load_relaxed(&account->usage));
}

void account_uncharge(struct account *account, u64 frames)
{
	if (unlikely(frames > load_relaxed(&account->usage))) {
		bad_uncharge(account, frames);
		return;
	}
	if (frames <= ACCOUNT_STOCK && has_room(account, ACCOUNT_STOCK * cpus_online()))
		stock_give(account, frames);
	else
		tree_uncharge(account, NULL, frames);
}

u64 account_charged(const struct account *account)
{
	u64 stock = stock_below(account), usage = load_relaxed(&account->usage);

	return usage > stock ? usage - stock : 0;
}

/* ---- Accounts ---- */

static void list_add(struct account *account)
{
	spin_lock(&open_lock);
	account->next = last_opened;
	last_opened = account;
	spin_unlock(&open_lock);
}

/* What was opened last is closed first, as a rule. */
static void list_remove(const struct account *account)
{
	struct account **link = &last_opened;

	spin_lock(&open_lock);
	while (*link && *link != account)
		link = &(*link)->next;
	if (*link)
		*link = account->next;
	spin_unlock(&open_lock);
}

struct account *account_next(const struct account *account)
{
	return account ? account->next : last_opened;
}

bool account_forget_since(struct account *last)
{
	if (last_opened == last)
		return false;
	last_opened = last;
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		store_relaxed(&stocks[cpu].frames, 0);
		store_relaxed(&stocks[cpu].account, NULL);
	}
	return true;
}

int account_open(struct account *account, const char *name, struct account *parent, u64 limit)
{
	if (parent && parent->depth == ACCOUNT_DEPTH_MAX)
		return -E2BIG;
	*account = (struct account){
		.name = name, .parent = parent, .limit = limit, .depth = parent ? parent->depth + 1 : 1,
		.top = parent ? parent->top : account,
	};
	if (parent)
		fetch_add(&parent->children, 1);
	list_add(account);
	return 0;
}

int account_close(struct account *account)
{
	assert(may_wait());
	stocks_call_back();
	if (load_relaxed(&account->usage) || load_relaxed(&account->children))
		return -EBUSY;
	if (account->parent)
		fetch_add(&account->parent->children, -1u);
	account->parent = NULL;
	list_remove(account);
	return 0;
}

int account_set_limit(struct account *account, u64 limit)
{
	u64 before = load_relaxed(&account->limit);

	assert(may_wait());
	/* First the limit, then the look: what is charged meanwhile is within it. */
	store_relaxed(&account->limit, limit);
	fence_full();
	if (load_relaxed(&account->usage) <= limit)
		return 0;
	stocks_call_back();
	if (load_relaxed(&account->usage) <= limit)
		return 0;
	store_relaxed(&account->limit, before);
	return -EBUSY;
}

/* ---- Pages ---- */

struct page *alloc_pages_account_at(unsigned order, unsigned flags, struct account *account, struct alloc_site *site)
{
	struct page *page;

	if (!account)
		return alloc_pages_at(order, flags, site);
	if (order > ORDER_MAX || account_charge(account, 1ull << order))
		return NULL;
	page = alloc_pages_at(order, flags, site);
	if (!page) {
		if (!PLANTED(PLANT_ACCOUNT_LEAKS))
			account_uncharge(account, 1ull << order);
		return NULL;
	}
	account_set_page(page, account);
	return page;
}

void account_uncharge_page(struct page *page, unsigned order)
{
	struct account *account = (struct account *)page->account;

	page->account = 0;
	store_relaxed(&page->flags, (u8)(page->flags & ~PAGE_CHARGED));
	account_uncharge(account, 1ull << order);
}
