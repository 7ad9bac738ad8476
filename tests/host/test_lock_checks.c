/* SPDX-License-Identifier: MIT */
/*
 * What debug builds say of who waits for a lock in a way that cannot end well (spinlock.h): each case in a process of its own, which the
 * panic ends, and by its words. The cases without any are the controls: they come back.
 */
#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/spinlock.h"
#include "tests/host/apart.h"
#include "tests/host/arch_host.h"
#include "tests/test.h"

static spinlock_t plain = SPINLOCK_INIT;
static spinlock_t unmapped = SPINLOCK_INIT_CLASS(LOCK_UNMAPPED);
static spinlock_t node = SPINLOCK_INIT_CLASS(LOCK_NODE);

/* Another CPU has the lock. */
static void held_by_another(spinlock_t *lock)
{
	u32 me = host_cpu_set(1);

	spin_lock(lock);
	host_cpu_set(me);
}

static void wait_with_interrupts_off(void)
{
	held_by_another(&unmapped);
	arch_irq_save();
	spin_lock(&unmapped);
}

static void take_a_free_one_with_interrupts_off(void)
{
	u64 flags = arch_irq_save();

	spin_lock(&unmapped);
	spin_unlock(&unmapped);
	arch_irq_restore(flags);
}

static void try_with_interrupts_off(void)
{
	held_by_another(&unmapped);
	arch_irq_save();
	spin_trylock(&unmapped);
}

/* Nobody waits for a CPU that is not up: while it is started it may wait for others. What ends this wait is the simulation. */
static void wait_before_it_is_up(void)
{
	held_by_another(&unmapped);
	arch_irq_save();
	cpumask_clear(&host.online, host_cpu());
	spin_lock(&unmapped);
}

static void wait_in_an_interrupt(void)
{
	arch_this_cpu()->nesting = CPU_IRQ;
	spin_lock(&node);
}

static void take_an_outer_one(void)
{
	spin_lock(&node);
	spin_lock(&unmapped);
}

static void take_an_inner_one(void)
{
	spin_lock(&unmapped);
	spin_lock(&node);
	spin_unlock(&node);
	spin_unlock(&unmapped);
}

static void take_it_twice(void)
{
	spin_lock(&plain);
	spin_lock(&plain);
}

static const struct {
	const char *name;
	void (*fn)(void);
	const char *says;	/* NULL: nothing */
} cases[] = {
	{ "wait_with_interrupts_off", wait_with_interrupts_off,
	  "a lock (unmapped) that somebody holds is waited for with interrupts off" },
	{ "take_a_free_one_with_interrupts_off", take_a_free_one_with_interrupts_off, NULL },
	{ "try_with_interrupts_off", try_with_interrupts_off, NULL },
	{ "wait_before_it_is_up", wait_before_it_is_up, "spins for something that no other CPU will do" },
	{ "wait_in_an_interrupt", wait_in_an_interrupt, "a lock (node) is waited for in an interrupt" },
	{ "take_an_outer_one", take_an_outer_one, "lock order: unmapped is taken while node is held" },
	{ "take_an_inner_one", take_an_inner_one, NULL },
	{ "take_it_twice", take_it_twice, "assertion failed: free != cpu->id + 1" },
};

static unsigned count_cases(void)
{
	return ARRAY_SIZE(cases);
}

static void name_case(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", cases[row].name);
}

static int run_case(void *arg)
{
	cases[*(unsigned *)arg].fn();
	return 0;
}

TEST_ROWS(lock_checks, cases, "TL1", 0, count_cases, name_case)
{
	unsigned row = test_row();
	const char *says = cases[row].says;
	struct apart apart = { .aloud = true };

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	REQUIRE(apart_run(&apart, run_case, &row));
	CHECK_EQ(apart_came_back(&apart), !says);
	CHECK(!says || strstr(apart.said, says));
}
