/* SPDX-License-Identifier: MIT */
/*
 * Threads. See thread.h.
 *
 * Whether a thread is wanted is one word, its token, changed by compare-and-exchange only:
 *	RUN	it runs or is about to
 *	PARKED	it waits: who changes that to RUN, and nobody else, puts it where it will run
 *	WANTED	an unpark came while it ran: the next park returns at once
 * So no wake-up is lost, and a thread is in one inbox or run queue at most. As a thread is pinned, what happens between
 * "parked" and the switch away from it can only make its own CPU find it in the inbox, which that CPU reads later.
 *
 * An idle CPU: says that it halts, looks into its inbox with interrupts off, halts with the instruction that turns them on.
 * Who fills the inbox looks afterwards whether it says so, and then sends an interrupt. One of the two sees the other.
 */
#include "kernel/thread.h"

#include "arch/x86_64/context.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/list.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/stack.h"
#include "mm/slab.h"
#include "mm/vmalloc.h"

#define NEVER UINT64_MAX
#define NS_PER_SECOND 1000000000ull
#define JOIN_LOOK_NS 100000000ull	/* between looks whether the CPU of a thread that is waited for still lives */

enum token { TOKEN_RUN, TOKEN_PARKED, TOKEN_WANTED };

struct thread {
	struct context context;
	struct thread *next;		/* in the inbox or the run queue */
	u32 token;			/* enum token */
	u32 state;			/* enum thread_state: for people */
	u32 cpu;
	bool timed_out;			/* the clock ended its last park */
	u64 deadline;			/* while it is among the sleepers */
	struct list sleeper;
	void (*fn)(void *arg);
	void *arg;
	void *stack;			/* NULL: not ours to free */
	struct thread *joiner;
	bool ended;			/* its stack has been left */
	bool released;			/* nobody touches this struct any more but who joins */
	char name[THREAD_NAME_MAX];
};

/* What a CPU runs. Only the CPU itself touches it, in task context, but for the inbox and `halted`. */
struct cpu_queue {
	struct thread *inbox;		/* last in, first out; pushed by anyone, taken whole by the CPU */
	u32 halted;			/* it is about to halt, or has */
	bool ready;			/* takes threads */
	struct thread *current;
	struct thread *head, *tail;	/* of the run queue */
	struct list sleepers;		/* by deadline */
	struct thread *before;		/* whose context the CPU has just left */
	struct thread idle;
	struct thread_stats stats;
} __aligned(64);

static struct thread main_thread = { .state = THREAD_RUNNING, .name = "main" };
static struct cpu_queue queues[MAX_CPUS];
static struct slab_cache thread_cache = SLAB_CACHE_INIT(struct thread);

static struct cpu_queue *my_queue(void)
{
	return &queues[arch_this_cpu()->id];
}

/* ---- Names ---- */

struct thread *thread_current(void)
{
	return my_queue()->current;
}

const struct thread *thread_of_cpu(u32 cpu)
{
	return cpu < MAX_CPUS ? load_acquire(&queues[cpu].current) : NULL;
}

const char *thread_name(const struct thread *thread)
{
	return thread->name;
}

enum thread_state thread_state(const struct thread *thread)
{
	return load_relaxed(&thread->state);
}

u32 thread_cpu(const struct thread *thread)
{
	return thread->cpu;
}

bool thread_cpu_ready(u32 cpu)
{
	return cpu < MAX_CPUS && cpumask_has(arch_cpus_online(), cpu) && load_acquire(&queues[cpu].ready);
}

void thread_read_stats(u32 cpu, struct thread_stats *out)
{
	*out = queues[cpu].stats;
}

/* ---- Run queue, inbox ---- */

static void run_queue_add(struct cpu_queue *q, struct thread *t)
{
	t->state = THREAD_READY;
	t->next = NULL;
	if (q->head)
		q->tail->next = t;
	else
		q->head = t;
	q->tail = t;
}

static struct thread *run_queue_take(struct cpu_queue *q)
{
	struct thread *t = q->head;

	if (t)
		q->head = t->next;
	return t;
}

/* Any context. The fence of the exchange orders the push before the look at `halted`. */
static void inbox_push(struct thread *t)
{
	struct cpu_queue *q = &queues[t->cpu];
	u32 cpu = t->cpu;
	struct thread *first = load_relaxed(&q->inbox);

	do {
		t->next = first;
	} while (!compare_exchange(&q->inbox, &first, t));
	fence_full();
	if (load_relaxed(&q->halted) && exchange_acquire(&q->halted, 0))
		ipi_wake(cpu);
}

/* Move what others put in to the run queue, the first one first. */
static void inbox_empty(struct cpu_queue *q)
{
	struct thread *in, *ordered = NULL;

	if (!load_relaxed(&q->inbox))
		return;
	in = exchange_acquire(&q->inbox, NULL);
	while (in) {
		struct thread *next = in->next;

		in->next = ordered;
		ordered = in;
		in = next;
	}
	while (ordered) {
		struct thread *next = ordered->next;

		q->stats.wakes++;
		run_queue_add(q, ordered);
		ordered = next;
	}
}

/* Whoever makes a parked thread one that runs is the one to put it somewhere. */
static bool take_parked(struct thread *t)
{
	u32 parked = TOKEN_PARKED;

	return compare_exchange(&t->token, &parked, TOKEN_RUN);
}

void thread_unpark(struct thread *t)
{
	u32 token = load_relaxed(&t->token);

	do {
		if (token == TOKEN_PARKED) {
			if (take_parked(t)) {
				inbox_push(t);
				return;
			}
			token = load_relaxed(&t->token);
			continue;
		}
		/* Also where it is wanted already: what the caller did before is seen by who takes the token. */
	} while (!compare_exchange(&t->token, &token, TOKEN_WANTED));
}

/* ---- Sleepers ---- */

static void sleepers_add(struct cpu_queue *q, struct thread *t, u64 deadline)
{
	struct list *at = &q->sleepers;

	t->deadline = deadline;
	while (at->prev != &q->sleepers && list_entry(at->prev, struct thread, sleeper)->deadline > deadline)
		at = at->prev;
	list_add_tail(&t->sleeper, at);
}

/* NEVER: nobody sleeps. */
static u64 first_deadline(const struct cpu_queue *q)
{
	return list_empty(&q->sleepers) ? NEVER : list_entry(q->sleepers.next, struct thread, sleeper)->deadline;
}

static void sleepers_wake(struct cpu_queue *q)
{
	u64 now;

	if (list_empty(&q->sleepers))
		return;
	now = arch_cycles();
	while (first_deadline(q) <= now) {
		struct thread *t = list_entry(q->sleepers.next, struct thread, sleeper);

		list_del(&t->sleeper);
		if (take_parked(t)) {	/* otherwise somebody else was first */
			t->timed_out = true;
			run_queue_add(q, t);
		}
	}
}

/* The interrupt has ended the halt, if there was one: that is all it is for. Sleepers are looked at by the next switch. */
void kernel_timer(void)
{
	my_queue()->stats.timer++;
}

/* ---- The switch ---- */

/* On the new stack: the thread that was left may be given up now, if it has ended. Interrupts off. */
static void finish_switch(struct cpu_queue *q)
{
	struct thread *t = q->before, *joiner;

	if (t->state != THREAD_ENDED)
		return;
	__atomic_store_n(&t->ended, true, __ATOMIC_SEQ_CST);
	joiner = __atomic_load_n(&t->joiner, __ATOMIC_SEQ_CST);
	if (joiner)
		thread_unpark(joiner);
	store_release(&t->released, true);
}

static void switch_to(struct cpu_queue *q, struct thread *next)
{
	struct thread *prev = q->current;
	u64 flags = arch_irq_save();

	if (prev == &q->idle)
		prev->state = THREAD_READY;
	q->before = prev;
	q->stats.switches++;
	store_release(&q->current, next);
	context_switch(&prev->context, &next->context);
	/* Back in prev, some time later. */
	finish_switch(q);
	arch_irq_restore(flags);
}

/* Run whoever is next: the caller too, behind all others, if it is `ready`; otherwise somebody else knows of it. */
static void schedule(struct cpu_queue *q, bool ready)
{
	struct cpu_state *cpu = arch_this_cpu();
	struct thread *next;

	assert(cpu->locks_held == 0 && cpu->nesting == CPU_TASK && arch_irqs_enabled());
	inbox_empty(q);
	sleepers_wake(q);
	if (ready)
		run_queue_add(q, q->current);
	next = run_queue_take(q);
	if (!next)
		next = &q->idle;
	if (next != q->current)
		switch_to(q, next);
	q->current->state = THREAD_RUNNING;
}

void thread_yield(void)
{
	struct cpu_queue *q = my_queue();

	assert(q->ready);
	schedule(q, q->current != &q->idle);
}

/* Whether it was an unpark that ended it, and not the clock. */
static bool park_until(u64 deadline)
{
	struct cpu_queue *q = my_queue();
	struct thread *me = q->current;
	u32 token = TOKEN_RUN;

	assert(q->ready && me != &q->idle);
	if (!compare_exchange(&me->token, &token, TOKEN_PARKED)) {
		exchange_acquire(&me->token, TOKEN_RUN);	/* it was wanted */
		return true;
	}
	me->timed_out = false;
	me->state = deadline == NEVER ? THREAD_WAITING : THREAD_SLEEPING;
	if (deadline != NEVER)
		sleepers_add(q, me, deadline);
	schedule(q, false);
	list_del(&me->sleeper);
	return !me->timed_out;
}

void thread_park(void)
{
	park_until(NEVER);
}

/* ---- Sleep ---- */

/* What is too long to be counted is for ever. */
static u64 deadline_in_ns(u64 ns)
{
	u64 frequency = timer_frequency();
	u64 cycles;

	if (__builtin_mul_overflow(ns / NS_PER_SECOND, frequency, &cycles) ||
	    __builtin_add_overflow(cycles, ns % NS_PER_SECOND * frequency / NS_PER_SECOND, &cycles) ||
	    __builtin_add_overflow(cycles, arch_cycles(), &cycles))
		return NEVER - 1;
	return cycles;
}

/* An unpark that comes meanwhile is not for the sleep: the next park has it. */
void thread_sleep_until(u64 cycles)
{
	bool wanted = false;

	thread_yield();
	while (arch_cycles() < cycles)
		wanted |= park_until(cycles);
	if (wanted)
		thread_unpark(thread_current());
}

void thread_sleep(u64 ns)
{
	thread_sleep_until(deadline_in_ns(ns));
}

/* ---- Start and end ---- */

/* The first function on a thread's stack, interrupts off. */
static __noreturn void thread_begin(void *arg)
{
	struct thread *me = arg;
	struct cpu_queue *q = my_queue();

	finish_switch(q);
	me->state = THREAD_RUNNING;
	arch_irq_restore(~0ull);
	me->fn(me->arg);
	me->state = THREAD_ENDED;
	schedule(q, false);
	panic("thread %s runs after its end", me->name);
}

/* Everything but where it runs. False: no memory. */
static bool thread_make(struct thread *t, u32 cpu, const char *name, void (*fn)(void *arg), void *arg)
{
	fmt_print(t->name, sizeof(t->name), "%s", name);
	t->stack = vmalloc_for(TASK_STACK_SIZE, t->name);
	if (!t->stack)
		return false;
	t->cpu = cpu;
	t->fn = fn;
	t->arg = arg;
	t->state = THREAD_READY;
	list_init(&t->sleeper);
	context_init(&t->context, range_len((u64)t->stack, TASK_STACK_SIZE), thread_begin, t);
	return true;
}

struct thread *thread_start(u32 cpu, const char *name, void (*fn)(void *arg), void *arg)
{
	struct thread *t;

	if (!thread_cpu_ready(cpu)) {
		log_warn("thread %s: CPU %u takes no threads", name, cpu);
		return NULL;
	}
	t = slab_alloc(&thread_cache);
	if (!t)
		return NULL;
	if (!thread_make(t, cpu, name, fn, arg)) {
		slab_free(&thread_cache, t);
		return NULL;
	}
	inbox_push(t);
	return t;
}

int thread_join(struct thread *t)
{
	struct thread *me = thread_current();

	assert(t != me && !t->joiner);
	__atomic_store_n(&t->joiner, me, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&t->ended, __ATOMIC_SEQ_CST)) {
		if (!cpumask_has(arch_cpus_online(), t->cpu))
			return -EIO;
		/* A CPU that is given up tells nobody: look again from time to time. */
		park_until(t->cpu == me->cpu ? NEVER : deadline_in_ns(JOIN_LOOK_NS));
	}
	while (!load_acquire(&t->released))
		arch_relax();
	context_destroy(&t->context);
	vfree(t->stack);
	slab_free(&thread_cache, t);
	return 0;
}

/* ---- On all CPUs ---- */

enum all_go { ALL_WAIT, ALL_GO, ALL_CANCELLED };

struct all {
	void (*fn)(void *arg);
	void *arg;
	u32 here;	/* threads that wait at the barrier */
	u32 go;		/* enum all_go */
};

static void run_one_of_all(void *arg)
{
	struct all *all = arg;

	fetch_add(&all->here, 1);
	while (load_acquire(&all->go) == ALL_WAIT) {
		arch_relax();
		thread_yield();
	}
	if (load_acquire(&all->go) == ALL_GO)
		all->fn(all->arg);
}

/* Wait until nr threads are at the barrier. */
static int all_gather(const struct all *all, const cpumask_t *cpus, u32 nr)
{
	while (load_acquire(&all->here) < nr) {
		for_each_cpu(cpu, cpus)
			if (!cpumask_has(arch_cpus_online(), cpu))
				return -EIO;
		arch_relax();
		thread_yield();
	}
	return 0;
}

int thread_run_on_all(void (*fn)(void *arg), void *arg)
{
	struct all all = { .fn = fn, .arg = arg };
	u32 me = thread_current()->cpu;
	struct thread *threads[MAX_CPUS];
	cpumask_t cpus = { { 0 } };
	u32 nr = 0;
	int rc = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS && !rc; cpu++) {
		if (cpu == me || !thread_cpu_ready(cpu))
			continue;
		threads[nr] = thread_start(cpu, "all", run_one_of_all, &all);
		if (threads[nr]) {
			cpumask_set(&cpus, cpu);
			nr++;
		} else {
			rc = -ENOMEM;
		}
	}
	if (!rc)
		rc = all_gather(&all, &cpus, nr);
	store_release(&all.go, rc ? ALL_CANCELLED : ALL_GO);
	if (!rc)
		fn(arg);
	while (nr) {
		int joined = thread_join(threads[--nr]);

		rc = rc ? rc : joined;
	}
	return rc;
}

/* ---- What a CPU does when there is nothing to do ---- */

/* Interrupts are off between the look and the halt: what comes in between ends the halt. */
static void halt(struct cpu_queue *q)
{
	u64 deadline;

	insn_cli();
	store_relaxed(&q->halted, 1);
	fence_full();
	deadline = first_deadline(q);
	if (!load_relaxed(&q->inbox) && deadline > arch_cycles() && (deadline == NEVER || timer_works())) {
		if (deadline != NEVER)
			timer_arm(deadline);
		q->stats.halts++;
		insn_sti_hlt();
	}
	store_relaxed(&q->halted, 0);
	insn_sti();
	arch_relax();
}

static __noreturn void idle_loop(void *arg)
{
	struct cpu_queue *q = arg;

	for (;;) {
		schedule(q, false);
		halt(q);
	}
}

static void queue_init(struct cpu_queue *q, struct thread *current)
{
	list_init(&q->sleepers);
	current->cpu = arch_this_cpu()->id;
	current->state = THREAD_RUNNING;
	list_init(&current->sleeper);
	context_adopt(&current->context);
	store_release(&q->current, current);
	store_release(&q->ready, true);
}

void thread_init(void)
{
	struct cpu_queue *q = my_queue();

	if (!thread_make(&q->idle, arch_this_cpu()->id, "idle", idle_loop, q))
		panic("no memory for the idle thread's stack");
	queue_init(q, &main_thread);
}

__noreturn void thread_cpu_main(void)
{
	struct cpu_queue *q = my_queue();

	fmt_print(q->idle.name, sizeof(q->idle.name), "idle");
	queue_init(q, &q->idle);
	idle_loop(q);
}
