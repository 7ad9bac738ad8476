/* SPDX-License-Identifier: MIT */
/*
 * What debug builds say of who waits for a lock in a way that cannot end well (spinlock.h): each case in a process of its own, which the
 * panic ends, and by its words. The cases without any are the controls: they come back.
 */
#define _GNU_SOURCE	/* memfd_create() */
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/base/fmt.h"
#include "kernel/base/spinlock.h"
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

/* Run it with its words in `said`. Returns whether it came back. */
static bool run_apart(void (*fn)(void), char *said, size_t size)
{
	int words = memfd_create("words", 0), status = -1;
	pid_t pid = fork();
	ssize_t n;

	if (!pid) {
		dup2(words, STDOUT_FILENO);
		dup2(words, STDERR_FILENO);
		fn();
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	n = pread(words, said, size - 1, 0);
	said[MAX(n, 0)] = 0;
	close(words);
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

TEST_ROWS(lock_checks, cases, "TL1", 0, count_cases, name_case)
{
	const char *says = cases[test_row()].says;
	char said[4096];

	if (host.nr_cpus < 2)
		SKIP("one CPU");
	CHECK_EQ(run_apart(cases[test_row()].fn, said, sizeof(said)), !says);
	CHECK(!says || strstr(said, says));
}
