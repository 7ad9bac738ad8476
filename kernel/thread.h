/* SPDX-License-Identifier: MIT */
/*
 * Kernel threads: what tests and background work run on (SPEC BT5).
 *
 * A thread belongs to one CPU from start to end and is never preempted: it gives the CPU up in thread_yield(), thread_sleep(),
 * thread_park() and what is made of them (kernel/wait_queue.h, thread_join()), and nowhere else. So what is per CPU needs no
 * care, and these functions want no spinlock held and interrupts on (asserted). Interrupts happen in between as ever.
 *
 * Each CPU has a run queue, first in, first out, that only it touches, and an inbox without a lock, where anyone may
 * put a thread of that CPU from any context. A CPU with nothing to run halts until an interrupt; the one that puts a thread into its
 * inbox sends one.
 *
 * What started the machine is a thread, too ("main"), and so is what a CPU does when it has nothing to do ("idle").
 */
#ifndef KERNEL_THREAD_H
#define KERNEL_THREAD_H

#include "kernel/base/arch_cpu.h"
#include "kernel/base/types.h"

struct thread;

#define THREAD_NAME_MAX 32u

enum thread_state {
	THREAD_READY,		/* in a run queue or an inbox */
	THREAD_RUNNING,
	THREAD_WAITING,		/* parked */
	THREAD_SLEEPING,	/* parked, and to be woken by the clock if nobody does before */
	THREAD_ENDED,		/* to be joined */
};

/*
 * Run fn(arg) in a new thread of that CPU, on a stack of its own with guard pages. The name (cut at THREAD_NAME_MAX - 1) is for
 * panics. Each thread that was started must be joined. NULL: no memory; or the CPU is not online or takes no threads,
 * which is named in the log. Task context, interrupts on, no spinlock held.
 */
struct thread *thread_start(u32 cpu, const char *name, void (*fn)(void *arg), void *arg) __must_check;

/*
 * Wait until fn has returned, and give everything back. Once per thread, by one thread. -EIO: its CPU was given up; what the
 * thread had is lost.
 */
int thread_join(struct thread *thread);

/* Let the other threads of this CPU run that can. */
void thread_yield(void);

/* Sleep for at least that long, or until arch_cycles() has reached `cycles`. */
void thread_sleep(u64 ns);
void thread_sleep_until(u64 cycles);

/*
 * Give the CPU up until thread_unpark(). An unpark that came first makes the next park return at once; several count as one.
 * So what is waited for is looked at again after each return. Wait queues are made of this.
 */
void thread_park(void);

/* Any context, NMI included. The thread has not been joined. */
void thread_unpark(struct thread *thread);

/*
 * Run fn(arg) on every online CPU at once, in a thread each (on this CPU in the caller): none begins before all are there. Returns
 * when all have returned. 0; -ENOMEM, and fn has run nowhere; -EIO: a CPU was given up meanwhile.
 */
int thread_run_on_all(void (*fn)(void *arg), void *arg) __must_check;

/* The caller. Any context: in an interrupt it is who was interrupted. */
struct thread *thread_current(void);

/* What a CPU runs, and what is known of it: for panics. NULL: that CPU has none. Any context; CPUs that go on may change it. */
const struct thread *thread_of_cpu(u32 cpu);
const char *thread_name(const struct thread *thread);
enum thread_state thread_state(const struct thread *thread);
u32 thread_cpu(const struct thread *thread);

/*
 * Make what runs now on the boot CPU the thread "main", and give that CPU an idle thread. Once, on the task stack, interrupts
 * on. No memory is a panic.
 */
void thread_init(void);

/*
 * What another CPU does once it is up, on its task stack, interrupts on: run threads. Returns never. It takes threads from when
 * thread_cpu_ready() says so.
 */
__noreturn void thread_cpu_main(void);
bool thread_cpu_ready(u32 cpu);

/* Each CPU counts for itself. */
struct thread_stats {
	u64 switches;
	u64 wakes;		/* threads that came by the inbox */
	u64 halts;		/* times it had nothing to do */
	u64 timer;		/* kernel_timer() calls */
};
void thread_read_stats(u32 cpu, struct thread_stats *out);

#endif
