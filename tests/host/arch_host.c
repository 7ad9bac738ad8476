/* SPDX-License-Identifier: MIT */
/*
 * The port on virtual CPUs: see arch_host.h.
 *
 * Invariants: a flush function affects the acting CPU only. While CPUs take turns exactly one of them acts, and
 * everything random is drawn from host.rng, so a seed fixes the whole run. While they are threads, a CPU's state is its
 * thread's but for `inbox`, `call` and `pending`, and what the simulation remembers has locks of its own, in
 * files that ThreadSanitizer does not see: they must not order what it watches.
 *
 * A shootdown between threads: each CPU has one call out at a time, which names what is asked and who still has to
 * answer; an inbox of each CPU has a bit for every CPU that asks. An interrupt is sent only to an empty inbox.
 */
#include "tests/host/arch_host.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernel/base/atomic.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "mm/tlb_batch.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"
#include "tests/test.h"

#define RELAX_MAX 1000000u	/* nobody else runs: a loop this long never ends */
#define THREAD_RELAX_MAX (1ull << 26)	/* the same where others run: some minutes */
#define FAULTS_PRINTED 20u
#define INBOX_STOP BIT(63)		/* come to the rendezvous */

struct virtual_cpu {
	struct cpu_state state;
	u64 root;
	bool irqs;
	/* While CPUs are threads. */
	u64 inbox;		/* who asks: a bit per CPU, or INBOX_STOP */
	struct tlb_flush *call;	/* what this CPU asks of others; NULL: to serialise */
	u64 pending;		/* who have not answered yet */
	u64 relaxed;
	struct rng rng;
} __aligned(64);

struct host host;
struct arch_mm arch_mm;

static struct virtual_cpu cpus[HOST_CPUS_MAX];
static u64 relaxed;
static bool in_rendezvous;
static __thread struct virtual_cpu *mine;	/* of a thread that is a CPU */

/* All but the leader stand still while `leader` is set. */
static struct {
	u32 leader;	/* CPU + 1 */
	u32 stopped;
	u32 flushed;
	u64 rounds;	/* rendezvous that are over */
	u64 flushes;	/* asked for */
} rendezvous;
static u32 barrier_came;
static u64 barrier_rounds;
static u32 threads_left;

static void map_arena(void)
{
	static bool mapped;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;

	if (mapped)
		return;
	if (mmap((void *)HOST_ARENA, HOST_RAM_MAX, PROT_READ | PROT_WRITE, flags, -1, 0) !=
	    (void *)HOST_ARENA)
		panic("no room for the arena at %#llx", (unsigned long long)HOST_ARENA);
	mapped = true;
}

void host_init(u64 ram_end, u32 nr_cpus, u64 seed)
{
	assert(ram_end <= HOST_RAM_MAX && nr_cpus >= 1 && nr_cpus <= HOST_CPUS_MAX);
	map_arena();
	madvise((void *)HOST_ARENA, HOST_RAM_MAX, MADV_DONTNEED);
	memset(&host, 0, sizeof(host));
	memset(cpus, 0, sizeof(cpus));
	memset(&rendezvous, 0, sizeof(rendezvous));
	arch_mm.direct_ptr = HOST_ARENA;
	host.ram_end = ram_end;
	host.nr_cpus = nr_cpus;
	host.rng.state = seed;
	for (u32 i = 0; i < nr_cpus; i++) {
		cpus[i].state.id = i;
		cpus[i].state.pages = &page_cache_none;
		cpus[i].irqs = true;
		cpumask_set(&host.online, i);
	}
	sim_reset(nr_cpus);
	store_log_reset();
}

u32 host_cpu_set(u32 cpu)
{
	u32 before = host.cpu;

	assert(cpu < host.nr_cpus && !host.threads);
	host.cpu = cpu;
	return before;
}

static inline struct virtual_cpu *acting(void)
{
	return mine ? mine : &cpus[host.cpu];
}

u32 host_cpu(void)
{
	return (u32)(acting() - cpus);
}

struct rng *host_rng(void)
{
	return mine ? &mine->rng : &host.rng;
}

u64 host_root(u32 cpu)
{
	return load_relaxed(&cpus[cpu].root);
}

void host_irqs_set(bool on)
{
	acting()->irqs = on;
}

/* ---- CPUs as threads ---- */

/* Ask the simulated machine what is wrong rather than wait for ever. */
static void spin_once(struct virtual_cpu *me)
{
	if (++me->relaxed == THREAD_RELAX_MAX)
		panic("CPU %u waits without end: inbox %#llx, pending %#llx, interrupts %s, %u locks, leader %u",
		      host_cpu(), (unsigned long long)me->inbox, (unsigned long long)me->pending, me->irqs ? "on" : "off",
		      me->state.locks_held, rendezvous.leader);
	/* On a host with fewer processors, leave them to the one that is waited for. */
	if (me->relaxed % 16)
		sched_yield();
	else
		usleep(20);
}

/* Stand still, but forget translations when asked. */
static void stand_still(struct virtual_cpu *me)
{
	u64 round = load_acquire(&rendezvous.rounds);
	u64 flushed = load_acquire(&rendezvous.flushes);

	fetch_add(&rendezvous.stopped, 1);
	while (load_acquire(&rendezvous.rounds) == round) {
		if (load_acquire(&rendezvous.flushes) != flushed) {
			flushed = load_acquire(&rendezvous.flushes);
			fetch_add(&host.flushes, 1);
			sim_flush_all(host_cpu());
			fetch_add(&rendezvous.flushed, 1);
		}
		spin_once(me);
	}
	fetch_add(&rendezvous.stopped, -1u);
}

static void interrupt(struct virtual_cpu *me)
{
	u64 from = __atomic_exchange_n(&me->inbox, 0, __ATOMIC_ACQ_REL);
	u8 nesting = me->state.nesting;
	u32 self = host_cpu();

	me->irqs = false;
	me->state.nesting = MAX(nesting, CPU_IRQ);
	if (from & INBOX_STOP)
		stand_still(me);
	for (u64 bits = from & ~INBOX_STOP; bits; bits &= bits - 1) {
		struct virtual_cpu *asks = &cpus[__builtin_ctzll(bits)];

		if (asks->call) {
			host.shootdowns[self]++;
			tlb_flush_run(asks->call);
		} else {
			arch_core_serialise();
		}
		fetch_and(&asks->pending, ~BIT(self));
	}
	me->state.nesting = nesting;
	me->irqs = true;
}

static inline void interrupt_point(void)
{
	struct virtual_cpu *me = mine;

	if (me && me->irqs && load_relaxed(&me->inbox) && cpumask_has(&host.online, (u32)(me - cpus)))
		interrupt(me);
}

/* Returns whether the inbox was empty: then it takes an interrupt. */
static bool post(u32 cpu, u64 bit)
{
	return !fetch_or(&cpus[cpu].inbox, bit);
}

u32 host_waiting_for(u32 cpu)
{
	return (u32)__builtin_popcountll(load_acquire(&cpus[cpu].inbox) & ~INBOX_STOP);
}

struct thread_start {
	void (*fn)(void *arg);
	void *arg;
	u32 cpu;
};

static void *thread_main(void *arg)
{
	const struct thread_start *start = arg;
	struct virtual_cpu *me = &cpus[start->cpu];

	mine = me;
	host_barrier();
	start->fn(start->arg);
	if (me->state.locks_held || !me->irqs)
		host_fault(HOST_CONTEXT, "CPU %u is done with interrupts %s and %u spinlocks held", start->cpu,
			   me->irqs ? "on" : "off", me->state.locks_held);
	fetch_add(&threads_left, -1u);
	while (load_acquire(&threads_left))
		arch_relax();
	mine = NULL;
	return NULL;
}

void host_threads_run(void (*fn)(void *arg), void *arg, u64 seed)
{
	struct thread_start starts[HOST_CPUS_MAX];
	pthread_t threads[HOST_CPUS_MAX];

	assert(!host.threads && !host.race && !host.meanwhile);
	threads_left = host.nr_cpus;
	barrier_came = 0;
	host.threads = true;
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++) {
		cpus[cpu].rng.state = seed + cpu * 0x9e3779b97f4a7c15ull;
		cpus[cpu].relaxed = 0;
		starts[cpu] = (struct thread_start){ fn, arg, cpu };
		if (pthread_create(&threads[cpu], NULL, thread_main, &starts[cpu]))
			panic("no thread for CPU %u", cpu);
	}
	for (u32 cpu = 0; cpu < host.nr_cpus; cpu++)
		pthread_join(threads[cpu], NULL);
	host.threads = false;
}

static u32 cpus_online(void)
{
	u32 n = 0;

	for_each_cpu(cpu, &host.online)
		n += cpu < host.nr_cpus;
	return n;
}

void host_barrier(void)
{
	u64 round = load_acquire(&barrier_rounds);

	if (fetch_add(&barrier_came, 1) + 1 == cpus_online()) {
		store_relaxed(&barrier_came, 0);
		store_release(&barrier_rounds, round + 1);
		return;
	}
	while (load_acquire(&barrier_rounds) == round)
		arch_relax();
}

#if HOST_TSAN
static u64 tsan_reports;

/* The sanitizer's own hook: called once for each report. */
void __tsan_on_report(void *report);
void __tsan_on_report(void *report)
{
	(void)report;
	fetch_add(&tsan_reports, 1);
}

u64 host_tsan_reports(void)
{
	return load_relaxed(&tsan_reports);
}
#else
u64 host_tsan_reports(void)
{
	return 0;
}
#endif

/* kernel/base/arch_cpu.h */

/* Let the other CPU of a race in, if this is the point for it. */
static void race_point(void)
{
	const struct virtual_cpu *me = &cpus[host.cpu];

	if (host.in_race || host.cpu != host.race_cpu || me->state.locks_held || !me->irqs)
		return;
	if (++host.race_points != host.race_at)
		return;
	host.in_race = true;
	host_cpu_set(host.race_as);
	host.race(host.race_arg);
	host_cpu_set(host.race_cpu);
	host.in_race = false;
}

struct cpu_state *arch_this_cpu(void)
{
	if (mine)
		return &mine->state;
	if (unlikely(host.race != NULL))
		race_point();
	return &cpus[host.cpu].state;
}

const cpumask_t *arch_cpus_online(void)
{
	return &host.online;
}

u64 arch_irq_save(void)
{
	u64 before = acting()->irqs;

	acting()->irqs = false;
	return before;
}

void arch_irq_restore(u64 flags)
{
	acting()->irqs = flags;
	interrupt_point();
}

bool arch_irqs_enabled(void)
{
	return acting()->irqs;
}

void arch_relax(void)
{
	if (mine) {
		interrupt_point();
		spin_once(mine);
		return;
	}
	if (++relaxed == RELAX_MAX)
		panic("CPU %u spins for something that no other CPU will do", host.cpu);
}

u64 arch_cycles(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* mm/arch.h: stores */

static void store_one(pte_t *slot, pte_t value, unsigned level)
{
	store_log_begin();
	store_log_store(slot, value, level);
	__atomic_store_n(&slot->raw, value.raw, __ATOMIC_RELEASE);
	store_log_end();
}

void arch_pte_store(pte_t *slot, pte_t value, unsigned level)
{
	u64 va = store_log_va(slot, level);

	host_tick(va);
	store_one(slot, value, level);
	sim_note_change(range_len(va, pt_span(level)));
	host_tick(va);
}

void arch_pte_fill(pte_t *slot, unsigned nr, pte_t first, u64 step, unsigned level)
{
	u64 va = store_log_va(slot, level);

	assert(nr >= 1 && nr <= PT_ENTRIES && ((u64)slot & (PAGE_SIZE - 1)) / sizeof(pte_t) + nr <= PT_ENTRIES);
	host_tick(va);
	for (unsigned i = 0; i < nr; i++) {
		store_one(slot + i, (pte_t){ first.raw + i * step }, level);
		if (i == nr / 2)
			host_tick(va + i * pt_span(level));
	}
	sim_note_change(range_len(va, nr * pt_span(level)));
	host_tick(va);
}

bool arch_pte_replace(pte_t *slot, pte_t old, pte_t value, unsigned level)
{
	u64 va = store_log_va(slot, level);

	u64 expected = old.raw;
	bool done;

	host_tick(va);
	store_log_begin();
	done = load_relaxed(&slot->raw) == old.raw;
	if (done) {
		store_log_store(slot, value, level);
		/* The CPUs set A and D past the log: then it has a store that did not happen, and the next one mends it. */
		done = compare_exchange(&slot->raw, &expected, value.raw);
	}
	store_log_end();
	if (!done)
		return false;
	sim_note_change(range_len(va, pt_span(level)));
	host_tick(va);
	return true;
}

u8 arch_memory_type(phys_t pa, u64 *end)
{
	u64 stop = 1ull << arch_mm.phys_bits;

	for (u32 i = 0; i < host.nr_types; i++) {
		struct range r = host.types[i].pa;

		if (range_has(r, pa.raw)) {
			*end = r.end;
			return host.types[i].type;
		}
		if (r.start > pa.raw)
			stop = MIN(stop, r.start);
	}
	*end = stop;
	return 6;	/* write-back */
}

/* mm/arch.h: invalidation */

void arch_tlb_flush_page(u64 va)
{
	host_tick(va);
	sim_check_reuse(host_cpu());
	fetch_add(&host.flushes, 1);
	sim_flush_page(host_cpu(), va);
}

void arch_tlb_flush_all(void)
{
	host_tick(0);
	sim_check_reuse(host_cpu());
	fetch_add(&host.flushes, 1);
	sim_flush_all(host_cpu());
	if (!mine || rng_below(&mine->rng, 4))
		return;
	/* Behind the flush this CPU may remember again, and others go on. */
	for (unsigned i = 0; i < 4 && host.speculation; i++)
		sim_speculate(0);
	sched_yield();
}

static void run_on(u32 cpu, struct tlb_flush *flush)
{
	u32 before = host_cpu_set(cpu);
	bool irqs = cpus[cpu].irqs;
	u8 nesting = cpus[cpu].state.nesting;

	cpus[cpu].irqs = false;	/* it is in an interrupt */
	cpus[cpu].state.nesting = MAX(nesting, CPU_IRQ);
	host.shootdowns[cpu]++;
	host.ipis[cpu]++;
	tlb_flush_run(flush);
	cpus[cpu].state.nesting = nesting;
	cpus[cpu].irqs = irqs;
	host_cpu_set(before);
}

/* Ask all, then wait for all. A CPU that is deaf is known to be: nothing here depends on time. */
static void ask_threads(const cpumask_t *targets, struct tlb_flush *flush, cpumask_t *dead)
{
	struct virtual_cpu *me = mine;
	u64 ask = 0;

	for_each_cpu(cpu, targets) {
		if (cpu == host_cpu())
			continue;
		if (cpumask_has(&host.deaf, cpu)) {
			cpumask_clear(&host.online, cpu);
			cpumask_set(dead, cpu);
			continue;
		}
		ask |= BIT(cpu);
	}
	assert(!me->pending);
	me->call = flush;
	store_release(&me->pending, ask);
	for (u64 bits = ask; bits; bits &= bits - 1) {
		u32 cpu = (u32)__builtin_ctzll(bits);

		fetch_add(&host.ipis[cpu], post(cpu, BIT(host_cpu())));
	}
	while (load_acquire(&me->pending))
		arch_relax();
}

void arch_tlb_shootdown(const cpumask_t *targets, struct tlb_flush *flush, cpumask_t *dead)
{
	const struct virtual_cpu *me = acting();

	if (!me->irqs || me->state.locks_held)
		host_fault(HOST_CONTEXT, "shootdown with interrupts %s and %u spinlocks held", me->irqs ? "on" : "off",
			   me->state.locks_held);
	if (mine) {
		ask_threads(targets, flush, dead);
		return;
	}
	for_each_cpu(cpu, targets) {
		if (cpu >= host.nr_cpus || cpu == host.cpu || !cpumask_has(&host.online, cpu)) {
			host_fault(HOST_CONTEXT, "shootdown sent to CPU %u by CPU %u", cpu, host.cpu);
			continue;
		}
		host_tick(0);
		if (cpumask_has(&host.deaf, cpu)) {
			cpumask_clear(&host.online, cpu);
			cpumask_set(dead, cpu);
			continue;
		}
		run_on(cpu, flush);
	}
}

/*
 * One leader at a time. Another one that wants to be takes interrupts while it waits, and so stands still for the first;
 * it may hold a page-table lock meanwhile, which the first does not want.
 */
static void rendezvous_threads(void (*fn)(void *arg), void *arg)
{
	struct virtual_cpu *me = mine;
	bool irqs = me->irqs;
	u32 free = 0, others = 0;

	while (!compare_exchange(&rendezvous.leader, &free, host_cpu() + 1)) {
		free = 0;
		me->irqs = true;
		arch_relax();
	}
	me->irqs = false;
	for_each_cpu(cpu, &host.online)
		if (cpu != host_cpu()) {
			post(cpu, INBOX_STOP);
			others++;
		}
	while (load_acquire(&rendezvous.stopped) != others)
		spin_once(me);
	host.rendezvous++;
	fn(arg);
	fetch_add(&rendezvous.rounds, 1);
	while (load_acquire(&rendezvous.stopped))
		spin_once(me);
	store_release(&rendezvous.leader, 0);
	arch_irq_restore(irqs);
}

void arch_rendezvous(void (*fn)(void *arg), void *arg)
{
	u64 irqs;

	if (mine) {
		rendezvous_threads(fn, arg);
		return;
	}
	irqs = arch_irq_save();
	assert(!in_rendezvous);
	host.rendezvous++;
	in_rendezvous = true;
	fn(arg);
	in_rendezvous = false;
	arch_irq_restore(irqs);
}

void arch_rendezvous_flush(void)
{
	u32 others;

	if (mine) {
		others = load_acquire(&rendezvous.stopped);
		store_relaxed(&rendezvous.flushed, 0);
		fetch_add(&rendezvous.flushes, 1);
		fetch_add(&host.flushes, 1);
		sim_flush_all(host_cpu());
		while (load_acquire(&rendezvous.flushed) != others)
			spin_once(mine);
		return;
	}
	assert(in_rendezvous);
	for_each_cpu(cpu, &host.online) {
		sim_check_reuse(cpu);
		host.flushes++;
		sim_flush_all(cpu);
	}
}

bool host_in_rendezvous(void)
{
	return mine ? load_relaxed(&rendezvous.leader) == host_cpu() + 1 : in_rendezvous;
}

bool arch_range_pinned(struct range va)
{
	for (u32 i = 0; i < host.nr_pinned; i++)
		if (range_overlaps(host.pinned[i], va))
			return true;
	return false;
}

void arch_switch_root(phys_t root)
{
	struct virtual_cpu *me = acting();
	u64 old = me->root;

	sim_check_reuse(host_cpu());
	store_relaxed(&me->root, root.raw);
	sim_load_root(host_cpu(), old);
}

phys_t arch_current_root(void)
{
	return phys(acting()->root);
}

void *arch_va_ptr(u64 va, bool write)
{
	static __thread u8 nowhere[2 * PAGE_SIZE];	/* what a refused access may hit instead */
	struct sim_result r;

	host_tick(va);
	r = sim_access(host_cpu(), va, write ? SIM_WRITE : SIM_READ);
	if (r.fault == SIM_OK && host_is_ram(r.pa))
		return (void *)(HOST_ARENA + r.pa);
	host_fault(HOST_ACCESS, "CPU %u %s %#llx: %s", host_cpu(), write ? "writes" : "reads",
		   (unsigned long long)va, r.fault == SIM_RIGHTS ? "not allowed" : "nothing is mapped");
	return nowhere + (va & (PAGE_SIZE - 1));
}

void arch_zero_page(void *page)
{
	memset(page, 0, PAGE_SIZE);
}

/* Compiled with frame pointers; what the C library's own frames hold below main() may be anything. */
__attribute__((no_sanitize("address", "undefined"))) unsigned arch_backtrace(u64 frame, u64 *addresses, unsigned max)
{
	unsigned nr = 0;

	while (nr < max && frame && frame % 8 == 0) {
		const u64 *words = (const u64 *)frame;

		if (!words[1])
			break;
		addresses[nr++] = words[1];
		if (words[0] <= frame || words[0] - frame > MIB)
			break;
		frame = words[0];
	}
	return nr;
}

void arch_core_serialise(void)
{
	fetch_add(&host.serialisations[host_cpu()], 1);
}

void arch_core_serialise_all(const cpumask_t *targets, cpumask_t *dead)
{
	u32 me = host_cpu();

	if (mine) {
		ask_threads(targets, NULL, dead);
		return;
	}
	for_each_cpu(cpu, targets) {
		if (cpu == me)
			continue;
		if (cpumask_has(&host.deaf, cpu)) {
			cpumask_clear(&host.online, cpu);
			cpumask_set(dead, cpu);
			continue;
		}
		host_cpu_set(cpu);
		arch_core_serialise();
		host_cpu_set(me);
	}
}

/* The simulation's own points in time, and its findings. */

void host_tick(u64 va)
{
	if (mine) {
		interrupt_point();
		if (host.speculation)
			sim_speculate(va);
		return;
	}
	if (host.in_meanwhile)
		return;
	if (host.speculation)
		sim_speculate(va);
	if (!host.meanwhile)
		return;
	host.in_meanwhile = true;
	host.meanwhile(host.meanwhile_arg);
	host.in_meanwhile = false;
}

static const char *const fault_names[HOST_FAULTS] = {
	[HOST_STALE] = "stale translation",
	[HOST_EARLY_REUSE] = "freed while reachable",
	[HOST_SIZE_RULE] = "page size changed with something else",
	[HOST_SPLIT_RULE] = "split not published by one store after 512",
	[HOST_VIA_ABSENT] = "changed by way of an absent entry",
	[HOST_TABLE_ENTRY] = "wrong table entry",
	[HOST_CONTEXT] = "wrong context",
	[HOST_ACCESS] = "access that the tables refuse",
	[HOST_COUNTERS] = "counters differ from the stores",
};

const char *host_fault_name(enum host_fault kind)
{
	return kind < HOST_FAULTS ? fault_names[kind] : "?";
}

void host_fault(enum host_fault kind, const char *fmt, ...)
{
	char text[256];
	va_list args;

	fetch_add(&host.faults[kind], 1);
	if (host.quiet || host_faults() > FAULTS_PRINTED)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	log_info("simulation: %s: %s (store %llu)", host_fault_name(kind), text,
		 (unsigned long long)store_log_seq());
	if (host.testing)
		test_check(false, host_fault_name(kind), __FILE__, __LINE__);
}

u64 host_faults(void)
{
	u64 sum = 0;

	for (unsigned i = 0; i < HOST_FAULTS; i++)
		sum += load_relaxed(&host.faults[i]);
	return sum;
}

u64 host_faults_clear(void)
{
	u64 sum = host_faults();

	memset(host.faults, 0, sizeof(host.faults));
	return sum;
}
