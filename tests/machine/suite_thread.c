/* SPDX-License-Identifier: MIT */
/*
 * Kernel threads and wait queues (BT5): switches, wake-ups that must not be lost, sleep, and that nothing is left behind. On as
 * many CPUs as there are; what takes several is said to be skipped on one.
 */
#include "kernel/thread.h"

#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "kernel/wait_queue.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

/* ---- Start and join ---- */

struct seen {
	u32 cpu;
	u64 stack_address;
	struct range stack;
	const struct thread *thread;
	enum thread_state state;
	char name[THREAD_NAME_MAX];
};

static void look_around(void *arg)
{
	struct seen *s = arg;

	s->cpu = arch_this_cpu()->id;
	s->stack_address = (u64)__builtin_frame_address(0);
	s->stack = cpu_local()->stacks[CPU_STACK_TASK];
	s->thread = thread_current();
	s->state = thread_state(s->thread);
	fmt_print(s->name, sizeof(s->name), "%s", thread_name(s->thread));
	CHECK(arch_irqs_enabled());
	CHECK(cpu_local()->tss.rsp[0] == s->stack.end);
}

TEST_ID(thread, runs_where_it_is_told, "BT5")
{
	struct range mine = cpu_local()->stacks[CPU_STACK_TASK];
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	for (unsigned i = 0; i < nr; i++) {
		struct seen s = { .cpu = UINT32_MAX };
		struct thread *t = crew_start(ids[i], "a name that is longer than there is room for", look_around, &s);

		CHECK_EQ(thread_cpu(t), ids[i]);
		CHECK_EQ(thread_join(t), 0);
		CHECK_EQ(s.cpu, ids[i]);
		CHECK(s.thread == t);
		CHECK_EQ(s.state, THREAD_RUNNING);
		CHECK_EQ(strlen(s.name), THREAD_NAME_MAX - 1);
		CHECK(range_has(s.stack, s.stack_address));
		CHECK(!range_overlaps(s.stack, mine));
	}
	CHECK(cpu_local()->stacks[CPU_STACK_TASK].start == mine.start);
	CHECK(strcmp(thread_name(thread_current()), "main") == 0);
}

static void park_once(void *arg)
{
	struct range *stack = arg;

	*stack = cpu_local()->stacks[CPU_STACK_TASK];
	thread_park();
}

/* Nobody runs on it at the moment, but may at any. */
TEST_ID(thread, stacks_of_those_who_wait_are_pinned, "PT3 BT5")
{
	struct range stack = { 0, 0 };
	struct thread *t = crew_start(arch_this_cpu()->id, "waits", park_once, &stack);

	thread_yield();
	CHECK_EQ(thread_state(t), THREAD_WAITING);
	CHECK(range_size(stack) > 0);
	CHECK(!range_overlaps(stack, cpu_local()->stacks[CPU_STACK_TASK]));
	CHECK(arch_range_pinned(range(stack.end - 1, stack.end)));
	CHECK(arch_range_pinned(range_len(stack.start, 1)));
	thread_unpark(t);
	CHECK_EQ(thread_join(t), 0);
	CHECK(!arch_range_pinned(stack));
}

static void count(void *arg)
{
	fetch_add((u32 *)arg, 1);
}

TEST_ID(thread, join_of_one_that_has_ended, "BT5")
{
	u32 done = 0;
	struct thread *t = crew_start(arch_this_cpu()->id, "quick", count, &done);

	while (!load_acquire(&done))
		thread_yield();
	CHECK_EQ(thread_state(t), THREAD_ENDED);
	CHECK_EQ(thread_join(t), 0);
}

TEST_ID(thread, thousands_leave_nothing_behind, "BT5")
{
	u32 rounds = cmdline.soak ? 2000 : 100;
	struct thread *threads[10];
	u32 ids[CREW_MAX], done = 0;
	unsigned nr = crew_cpus(ids);

	for (u32 i = 0; i < rounds; i++) {
		for (unsigned j = 0; j < ARRAY_SIZE(threads); j++) {
			threads[j] = crew_start(ids[(i + j) % nr], "one of many", count, &done);
		}
		crew_join(threads, ARRAY_SIZE(threads));
	}
	CHECK_EQ(done, rounds * ARRAY_SIZE(threads));
}

TEST_ID(thread, cpus_that_are_not_there_are_refused, "BT5")
{
	u32 done = 0;

	CHECK(!thread_start(MAX_CPUS - 1, "nowhere", count, &done));
	CHECK(!thread_start(MAX_CPUS, "nowhere", count, &done));
	CHECK(!thread_start(UINT32_MAX, "nowhere", count, &done));
	CHECK_EQ(done, 0);
	CHECK(!thread_of_cpu(MAX_CPUS - 1));
	CHECK(!thread_of_cpu(UINT32_MAX));
}

/* ---- Memory that is refused ---- */

/* Start with the n-th allocation failing; whether there was an n-th one. */
static bool start_fails(u32 cpu, u64 n, u32 *done)
{
	struct thread *t;
	bool failed;

	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
	t = thread_start(cpu, "refused", count, done);
	alloc_inject.armed = 0;
	failed = alloc_inject.failed;
	CHECK(!t == failed);
	if (t)
		CHECK_EQ(thread_join(t), 0);
	return failed;
}

TEST_ID(thread, nth_allocation_fails, "BT5 PA8")
{
	u32 ids[CREW_MAX], done = 0;
	unsigned nr = crew_cpus(ids);
	u64 n = 1;

	while (n < 1000 && start_fails(ids[n % nr], n, &done))
		n++;
	CHECK(n > 2);		/* the object, the area, the stack's frames */
	CHECK(n < 1000);
	CHECK_EQ(done, 1);
}

TEST_ID(thread, nth_allocation_fails_on_all, "BT5 PA8")
{
	u32 ids[CREW_MAX], nr = crew_cpus(ids), done = 0;
	u64 n = 0;
	int rc;

	if (nr == 1)
		SKIP("one CPU: a run on all of them starts no thread");
	do {
		u32 before = done;

		/* In large steps: the first thread fails, then the last but one, then none. */
		n += 7;
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = n };
		rc = thread_run_on_all(count, &done);
		alloc_inject.armed = 0;
		CHECK(rc == 0 || rc == -ENOMEM);
		CHECK_EQ(rc == -ENOMEM, alloc_inject.failed != 0);
		CHECK_EQ(done - before, rc ? 0 : nr);
	} while (rc && n < 10000);
	CHECK_EQ(rc, 0);
	CHECK_EQ(done, nr);
}

/* ---- Switches ---- */

struct turns {
	u32 log[64];
	u32 nr;
};

struct turn_taker {
	struct turns *turns;
	u32 id;
	u32 rounds;
};

static void take_turns(void *arg)
{
	struct turn_taker *me = arg;

	for (u32 i = 0; i < me->rounds; i++) {
		me->turns->log[me->turns->nr++] = me->id;
		thread_yield();
	}
}

/* First in, first out: three threads that yield come in the order they were started in, again and again. */
TEST_ID(thread, yield_takes_turns, "BT5")
{
	struct turns turns = { .nr = 0 };
	struct turn_taker takers[3];
	struct thread *threads[3];

	for (u32 i = 0; i < 3; i++) {
		takers[i] = (struct turn_taker){ &turns, i, 20 };
		threads[i] = crew_start(arch_this_cpu()->id, "turns", take_turns, &takers[i]);
	}
	crew_join(threads, 3);
	CHECK_EQ(turns.nr, 60);
	for (u32 i = 0; i < 60; i++)
		CHECK_EQ(turns.log[i], i % 3);
}

#define BAD_ADDRESS 0xdead000000ull	/* canonical, in the lower half, where the kernel has nothing */

static void yield_and_fault(void *arg)
{
	u64 *va = arg;

	thread_yield();
	*(volatile u64 *)*va = 1;
}

static void expect_faults(void *arg)
{
	u64 va = BAD_ADDRESS + 8 * *(u32 *)arg;

	for (unsigned i = 0; i < 10; i++) {
		struct trap_record record = { 0 };

		CHECK(!trap_try(yield_and_fault, &va, &record));
		CHECK_EQ(record.vector, TRAP_PAGE_FAULT);
		CHECK_EQ(record.cr2, va);
		CHECK_EQ(thread_current() != NULL, 1);
	}
}

/* An expected fault belongs to the thread that expects it, however many others expect theirs meanwhile. */
TEST_ID(thread, expected_faults_follow_the_thread, "RB1 BT5")
{
	struct thread *threads[3];
	u32 ids[3] = { 0, 1, 2 };

	for (u32 i = 0; i < 3; i++) {
		threads[i] = crew_start(arch_this_cpu()->id, "faults", expect_faults, &ids[i]);
	}
	crew_join(threads, 3);
	CHECK(cpu_local()->catch == NULL);
}

/* ---- Park and unpark ---- */

static void park_three_times(void *arg)
{
	u32 *step = arg;

	for (u32 i = 1; i <= 3; i++) {
		store_release(step, i);
		thread_park();
	}
	store_release(step, 4);
}

/* An unpark that comes first is kept; two that come first are one. */
TEST_ID(thread, wake_before_wait, "BT5")
{
	u32 step = 0;
	struct thread *t = crew_start(arch_this_cpu()->id, "parks", park_three_times, &step);

	thread_unpark(t);
	thread_unpark(t);
	thread_yield();
	CHECK_EQ(step, 2);		/* the first park returned at once, the second one waits */
	CHECK_EQ(thread_state(t), THREAD_WAITING);
	thread_yield();
	CHECK_EQ(step, 2);
	thread_unpark(t);
	thread_unpark(t);
	thread_yield();
	CHECK_EQ(step, 4);		/* it was parked: the first one freed it, the second one was for the third park */
	CHECK_EQ(thread_join(t), 0);
}

struct far {
	u32 ready, parks;
	u32 quit;
};

static void park_until_told(void *arg)
{
	struct far *f = arg;

	while (!load_acquire(&f->quit)) {
		fetch_add(&f->ready, 1);
		thread_park();
		fetch_add(&f->parks, 1);
	}
}

static void unpark_in_interrupt(void *arg)
{
	thread_unpark(arg);
}

/* From an interrupt, of its own CPU too: the thread is found by its CPU as soon as that comes by. */
TEST_ID(thread, unpark_from_interrupts, "BT5")
{
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	for (unsigned i = 0; i < nr; i++) {
		struct far f = { 0 };
		struct thread *t = crew_start(ids[i], "far", park_until_told, &f);

		for (u32 round = 0; round < 20; round++) {
			cpumask_t mask = { { 0 } };

			while (load_acquire(&f.ready) == round)
				thread_yield();
			cpumask_set(&mask, ids[(i + round) % nr]);
			ipi_call(&mask, unpark_in_interrupt, t, NULL);
			while (load_acquire(&f.parks) == round)
				thread_yield();
		}
		store_release(&f.quit, 1);
		thread_unpark(t);
		CHECK_EQ(thread_join(t), 0);
		CHECK(f.parks >= 20);
	}
}

/* ---- Wait queues ---- */

struct table {
	struct wait_queue queue;
	u32 turn;
	u32 rounds;
	u32 hits[2];
};

struct player {
	struct table *table;
	u32 id;
};

static void play(void *arg)
{
	struct player *me = arg;
	struct table *t = me->table;

	for (u32 i = 0; i < t->rounds; i++) {
		wait_event(&t->queue, load_acquire(&t->turn) == me->id);
		t->hits[me->id]++;
		store_release(&t->turn, !me->id);
		wake_all(&t->queue);
	}
}

static void ping_pong(u32 cpu_a, u32 cpu_b, u32 rounds)
{
	struct table table = { .rounds = rounds };
	struct player players[2] = { { &table, 0 }, { &table, 1 } };
	struct thread *threads[2];

	wait_queue_init(&table.queue);
	threads[0] = crew_start(cpu_a, "ping", play, &players[0]);
	threads[1] = crew_start(cpu_b, "pong", play, &players[1]);
	crew_join(threads, 2);
	CHECK_EQ(table.hits[0], rounds);
	CHECK_EQ(table.hits[1], rounds);
	CHECK(list_empty(&table.queue.waiters));
}

TEST_ID(thread, ping_pong_between_all_pairs, "BT5")
{
	u32 rounds = cmdline.soak ? 2000 : 50;
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	for (unsigned a = 0; a < nr; a++)
		for (unsigned b = a; b < nr; b++)
			ping_pong(ids[a], ids[b], rounds);
	test_note("cpus=%u rounds=%u", nr, rounds);
}

struct pool {
	struct wait_queue queue;
	u32 tokens;
	u32 taken;
	u32 each;
};

static bool take_token(struct pool *p)
{
	u32 tokens = load_relaxed(&p->tokens);

	while (tokens && !compare_exchange(&p->tokens, &tokens, tokens - 1))
		;
	return tokens;
}

static void take_tokens(void *arg)
{
	struct pool *p = arg;

	for (u32 i = 0; i < p->each; i++) {
		wait_event(&p->queue, take_token(p));
		fetch_add(&p->taken, 1);
	}
}

/* One token, one wake-up: if one were lost, the last taker would wait for ever. */
TEST_ID(thread, as_many_wake_as_are_woken, "BT5")
{
	struct pool pool = { .each = cmdline.soak ? 2000 : 100 };
	struct thread *threads[2 * CREW_MAX];
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	wait_queue_init(&pool.queue);
	for (unsigned i = 0; i < 2 * nr; i++) {
		threads[i] = crew_start(ids[i % nr], "taker", take_tokens, &pool);
	}
	for (u32 i = 0; i < 2 * nr * pool.each; i++) {
		fetch_add(&pool.tokens, 1);
		wake_one(&pool.queue);
		if (i % 7 == 0)
			thread_yield();
	}
	crew_join(threads, 2 * nr);
	CHECK_EQ(pool.taken, 2 * nr * pool.each);
	CHECK_EQ(pool.tokens, 0);
}

/*
 * A taker that is still on the queue when it has its token. Meanwhile another one has come, found none and parked; a second token is
 * posted, and the wake-up for it meets who is first in line.
 */
static bool take_and_post(struct pool *p, const struct thread *other)
{
	if (!take_token(p))
		return false;
	while (thread_state(other) != THREAD_WAITING)
		thread_yield();
	CHECK_EQ(p->tokens, 0);
	fetch_add(&p->tokens, 1);
	CHECK_EQ(wake_one(&p->queue), 1);
	CHECK_EQ(thread_state(other), THREAD_WAITING);
	return true;
}

TEST_ID(thread, who_needs_no_wake_up_passes_it_on, "BT5")
{
	struct pool pool = { .tokens = 1, .each = 1 };
	struct thread *other;

	wait_queue_init(&pool.queue);
	other = crew_start(arch_this_cpu()->id, "second", take_tokens, &pool);
	wait_event(&pool.queue, take_and_post(&pool, other));
	for (u32 i = 0; i < 10; i++)
		thread_yield();
	CHECK_EQ(pool.taken, 1);
	CHECK_EQ(pool.tokens, 0);
	CHECK(list_empty(&pool.queue.waiters));
	wake_all(&pool.queue);		/* so that the join ends in any case */
	CHECK_EQ(thread_join(other), 0);
}

struct line {
	struct wait_queue queue;
	u32 gate;
	struct turns turns;
};

struct liner {
	struct line *line;
	u32 id;
};

static void stand_in_line(void *arg)
{
	struct liner *me = arg;
	struct line *l = me->line;

	wait_event(&l->queue, load_acquire(&l->gate) > me->id);
	l->turns.log[l->turns.nr++] = me->id;
}

TEST_ID(thread, wake_one_is_first_come_first_served, "BT5")
{
	struct line line = { .gate = 0 };
	struct liner liners[4];
	struct thread *threads[4];

	wait_queue_init(&line.queue);
	CHECK_EQ(wake_one(&line.queue), 0);
	CHECK_EQ(wake_all(&line.queue), 0);
	for (u32 i = 0; i < 4; i++) {
		liners[i] = (struct liner){ &line, i };
		threads[i] = crew_start(arch_this_cpu()->id, "in line", stand_in_line, &liners[i]);
		thread_yield();
	}
	for (u32 i = 0; i < 2; i++) {
		store_release(&line.gate, i + 1);
		CHECK_EQ(wake_one(&line.queue), 1);
		thread_yield();
		CHECK_EQ(line.turns.nr, i + 1);
	}
	/* Too early for the fourth: it waits again. */
	store_release(&line.gate, 3);
	CHECK_EQ(wake_all(&line.queue), 2);
	thread_yield();
	CHECK_EQ(line.turns.nr, 3);
	CHECK_EQ(thread_state(threads[3]), THREAD_WAITING);
	store_release(&line.gate, 4);
	CHECK_EQ(wake_all(&line.queue), 1);
	crew_join(threads, 4);
	for (u32 i = 0; i < 4; i++)
		CHECK_EQ(line.turns.log[i], i);
}

/* ---- Sleep ---- */

struct sleeper {
	struct turns *turns;
	u64 until;
	u32 id;
	u64 woke;
};

static void sleep_once(void *arg)
{
	struct sleeper *me = arg;

	thread_sleep_until(me->until);
	me->woke = arch_cycles();
	me->turns->log[me->turns->nr++] = me->id;
}

/* By deadline, whatever order they came in and however late the CPU looks. */
static void sleep_in_order(u32 cpu)
{
	static const u32 order[] = { 3, 0, 4, 1, 2, 5 };
	struct turns turns = { .nr = 0 };
	struct sleeper sleepers[ARRAY_SIZE(order)];
	struct thread *threads[ARRAY_SIZE(order)];
	u64 start = arch_cycles() + timer_frequency() / 20, step = timer_frequency() / 500;

	for (u32 i = 0; i < ARRAY_SIZE(order); i++) {
		sleepers[i] = (struct sleeper){ &turns, start + order[i] * step, order[i], 0 };
		threads[i] = crew_start(cpu, "sleeper", sleep_once, &sleepers[i]);
	}
	crew_join(threads, ARRAY_SIZE(order));
	for (u32 i = 0; i < ARRAY_SIZE(order); i++) {
		CHECK(sleepers[i].woke >= sleepers[i].until);
		CHECK_EQ(turns.log[i], i);
	}
}

TEST_ID(thread, sleepers_wake_by_deadline, "BT5")
{
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	for (unsigned i = 0; i < nr; i++)
		sleep_in_order(ids[i]);
}

static void sleep_then_park(void *arg)
{
	u32 *step = arg;

	store_release(step, 1);
	thread_sleep(2000000);
	store_release(step, 2);
	thread_park();
	store_release(step, 3);
}

/* An unpark does not cut a sleep short, nor is it lost on it. */
TEST_ID(thread, unpark_of_a_sleeper_is_kept, "BT5")
{
	u32 step = 0;
	struct thread *t = crew_start(arch_this_cpu()->id, "sleeps", sleep_then_park, &step);

	while (load_acquire(&step) != 1)
		thread_yield();
	thread_unpark(t);
	CHECK_EQ(thread_join(t), 0);
	CHECK_EQ(step, 3);
}

/* A CPU with nothing to do but sleepers halts, and its alarm ends that. */
TEST_ID(thread, an_idle_cpu_halts, "BT5")
{
	struct thread_stats before, after;
	u32 me = arch_this_cpu()->id;

	if (!timer_works())
		SKIP("no local APIC timer: a CPU with sleepers looks at the clock instead");
	thread_read_stats(me, &before);
	for (unsigned i = 0; i < 5; i++)
		thread_sleep(3000000);
	thread_read_stats(me, &after);
	CHECK(after.halts > before.halts);
	CHECK(after.timer > before.timer);
	CHECK(after.switches > before.switches);
}

/* ---- On all CPUs ---- */

struct meeting {
	u32 here;
	u32 nr;
	u8 was[MAX_CPUS];
};

/* Returns only when all are in it: it would hang if they came one after another. */
static void meet(void *arg)
{
	struct meeting *m = arg;

	m->was[arch_this_cpu()->id]++;
	fetch_add(&m->here, 1);
	while (load_acquire(&m->here) < m->nr)
		arch_relax();
}

TEST_ID(thread, on_all_cpus_at_once, "BT5")
{
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);

	for (unsigned round = 0; round < 10; round++) {
		struct meeting m = { .nr = nr };

		CHECK_EQ(thread_run_on_all(meet, &m), 0);
		for (unsigned i = 0; i < nr; i++)
			CHECK_EQ(m.was[ids[i]], 1);
	}
}

/* ---- A CPU that is given up ---- */

static void nothing(void *arg)
{
	(void)arg;
}

/* Its thread never ends, and who waits for it is told. What the thread had is lost: the run fails, as it should. */
TEST_ID(lost_thread, join_says_so, "TL1 BT5")
{
	u32 ids[CREW_MAX], timeout = ipi_timeout_ms, last;
	unsigned nr = crew_cpus(ids);
	cpumask_t dead = { { 0 } };
	struct thread *t;
	u32 done = 0;

	if (cmdline.plant != PLANT_DEAF_CPU)
		SKIP("plant=deaf-cpu asks for it");
	if (nr == 1)
		SKIP("one CPU: none to lose");
	last = ids[nr - 1];
	t = crew_start(last, "lost", park_three_times, &done);
	while (!load_acquire(&done))
		thread_yield();
	ipi_plant(last, IPI_DEAF);
	ipi_timeout_ms = 2000;
	ipi_call_others(nothing, NULL, &dead);
	ipi_timeout_ms = timeout;
	CHECK(cpumask_has(&dead, last));
	CHECK(!thread_cpu_ready(last));
	test_note("lost=%u joined=%d", last, -thread_join(t));
	CHECK(!thread_start(last, "late", count, &done));
	CHECK_EQ(thread_run_on_all(count, &done), 0);
	CHECK_EQ(done, 1 + nr - 1);	/* all that are left */
}
