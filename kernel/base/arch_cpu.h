/* SPDX-License-Identifier: MIT */
/*
 * The first half of the port: the CPU as kernel/base and mm see it. The other half is mm/arch.h.
 *
 * arch/x86_64 implements it on the machine, tests/host on virtual CPUs. Bound at link time.
 */
#ifndef KERNEL_BASE_ARCH_CPU_H
#define KERNEL_BASE_ARCH_CPU_H

#include "kernel/base/types.h"

#ifndef CONFIG_DEBUG
#define CONFIG_DEBUG 0
#endif

#define MAX_CPUS 256

/*
 * Locks, by the order in which they are taken: outer ones first (spinlock.h). One that has no class is not checked: such a
 * lock is held for a few stores, and nothing else is taken inside it.
 */
enum lock_class {
	LOCK_NO_CLASS,
	LOCK_ASPACE,
	LOCK_VM_AREA,
	LOCK_EXECMEM,
	LOCK_TEXT_POKE,
	LOCK_UNMAPPED_CPU,	/* a CPU's magazine of the unmapped cache */
	LOCK_UNMAPPED,
	LOCK_ACCOUNT,
	LOCK_AUDIT,
	LOCK_PT_SPACES,		/* the list of spaces */
	LOCK_PT_KERNEL,		/* tables of the kernel half */
	LOCK_PT_SPACE,		/* tables of a private root */
	LOCK_SLAB,
	LOCK_NODE,		/* the page allocator */
	LOCK_CLASSES,
};

#define LOCK_CLASS_NAMES                                                                                          \
	"(no class)", "aspace", "vm_area", "execmem", "text_poke", "unmapped (CPU)", "unmapped", "account",       \
	"audit", "page tables (list)", "page tables (kernel)", "page tables (private)", "slab", "node"

/* What a CPU is doing: each of these can interrupt those before it. */
enum cpu_nesting {
	CPU_TASK,
	CPU_IRQ,
	CPU_NMI,
	CPU_MACHINE_CHECK,
	CPU_NESTING_LEVELS,
};

/* The free pages that a CPU keeps at hand (mm/buddy.h); this one is of CPUs that keep none. */
struct page_cache;
extern struct page_cache page_cache_none;

/*
 * What the portable code keeps per CPU. The machine embeds it in its own per-CPU data, and sets id and pages.
 * After that only the CPU itself writes it.
 */
struct cpu_state {
	struct page_cache *pages;	/* &page_cache_none until buddy_add_cpu() */
	u32 id;			/* dense, from 0 (the boot CPU) */
	u32 locks_held;		/* spinlocks this CPU holds now; a shootdown may only be waited for at 0 */
	u8 nesting;		/* enum cpu_nesting, kept by trap entry; an exception stays on the level it happens on */
#if CONFIG_DEBUG
	u8 held[LOCK_CLASSES];	/* of locks_held, by class */
#endif
};

/* A set of CPUs, by id. */
typedef struct {
	u64 word[MAX_CPUS / 64];
} cpumask_t;

static inline void cpumask_set(cpumask_t *m, u32 cpu)
{
	__atomic_fetch_or(&m->word[cpu / 64], 1ull << (cpu % 64), __ATOMIC_SEQ_CST);
}

static inline void cpumask_clear(cpumask_t *m, u32 cpu)
{
	__atomic_fetch_and(&m->word[cpu / 64], ~(1ull << (cpu % 64)), __ATOMIC_SEQ_CST);
}

static inline bool cpumask_has(const cpumask_t *m, u32 cpu)
{
	return __atomic_load_n(&m->word[cpu / 64], __ATOMIC_SEQ_CST) >> (cpu % 64) & 1;
}

static inline bool cpumask_empty(const cpumask_t *m)
{
	for (unsigned i = 0; i < MAX_CPUS / 64; i++)
		if (__atomic_load_n(&m->word[i], __ATOMIC_SEQ_CST))
			return false;
	return true;
}

/* for_each_cpu(cpu, &mask): cpu is a u32; the mask is read a word at a time. */
#define for_each_cpu(cpu, mask)                                                                  \
	for (u32 cpu##_w = 0; cpu##_w < MAX_CPUS / 64; cpu##_w++)                                 \
		for (u64 cpu##_b = __atomic_load_n(&(mask)->word[cpu##_w], __ATOMIC_SEQ_CST);     \
		     cpu##_b; cpu##_b &= cpu##_b - 1)                                             \
			for (u32 cpu = cpu##_w * 64 + (u32)__builtin_ctzll(cpu##_b), cpu##_o = 1; \
			     cpu##_o; cpu##_o = 0)

/* This CPU's state. Any context. The answer is stable as long as the caller is not moved. */
struct cpu_state *arch_this_cpu(void);

/* CPUs that are up. Any context. */
const cpumask_t *arch_cpus_online(void);

/* Maskable interrupts: save returns what restore takes. Any context. */
u64 arch_irq_save(void);
void arch_irq_restore(u64 flags);
bool arch_irqs_enabled(void);

/* Inside a spin loop: lets the other hardware thread, or the other virtual CPU, go on. */
void arch_relax(void);

/* A counter that never goes back: TSC cycles, or instructions under -icount; hosted: ns. Any context. */
u64 arch_cycles(void);

/*
 * The way back up: an exception that nobody expected. arch calls it with the registers at that time
 * (arch/x86_64/trap.h) and, for faults that have one, the address; kernel/panic.c implements it.
 */
struct trap_frame;
__noreturn void kernel_trap(const struct trap_frame *frame, u64 fault_va);

/* The alarm of this CPU (arch/x86_64/timer.h) has gone off. IRQ context; it may arm the next one. kernel/thread.c has it. */
void kernel_timer(void);

#endif
