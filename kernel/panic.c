/* SPDX-License-Identifier: MIT */
/*
 * The last words (SPEC RP4): why, where, registers, the decoded fault, how its address is mapped, and who called whom.
 *
 * Nothing is trusted any more. Only the first CPU to get here speaks; it stops all others by NMI, wherever they are, and says where
 * that was, but waits for them a bounded time only. One that panics, too, leaves its reason and stops. Locks are ignored. Each
 * part of the message is run so that a fault in it ends that part only; a panic inside the panic is one line and the end.
 */
#include "kernel/panic.h"

#include "arch/x86_64/backtrace.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/exit.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/fmt.h"
#include "kernel/base/panic.h"
#include "kernel/console.h"
#include "kernel/exit.h"
#include "kernel/fbcon.h"
#include "kernel/log.h"
#include "kernel/main.h"
#include "kernel/page_walk.h"
#include "kernel/stack.h"
#include "kernel/symbols.h"
#include "kernel/thread.h"
#include "kernel/trace.h"
#include "mm/vm_area.h"

#define FRAMES_MAX 32u
#define MESSAGE_MAX 512u
#define TRACE_RECORDS 12u		/* shown of each CPU */
#define STOP_SECONDS 2u			/* that the others may take to stop: hosts of virtual CPUs are busy */

/* What is known of the panic; one for all CPUs, as only one speaks. */
static struct {
	u32 owner;			/* CPU id + 1 */
	u32 depth;
	cpumask_t online;		/* when it began */
	const struct trap_frame *frame;	/* NULL: panic() was called */
	u64 fault_va;
	u64 rip, rbp;			/* where the backtrace begins; rip 0: at rbp's return address */
	char message[MESSAGE_MAX];
} p;

/* Why another CPU wanted to panic meanwhile: on the stack that it never leaves. */
static const char *reasons[MAX_CPUS];

static void say_message(void *arg)
{
	const struct thread *thread = thread_current();

	(void)arg;
	log_info("PANIC on CPU %u during %s: %s", arch_this_cpu()->id, kernel_step(), p.message);
	if (thread)
		log_info("  in thread %s", thread_name(thread));
}

static void say_fault(void *arg)
{
	const struct trap_frame *f = p.frame;
	char text[160];

	(void)arg;
	if (!f)
		return;
	log_info("  %s (vector %lu), error code 0x%lx", trap_name(f->vector), f->vector, f->error);
	if (f->vector == TRAP_PAGE_FAULT)
		log_info("  %s, at address 0x%016lx", trap_describe_page_fault(f->error, text, sizeof(text)), p.fault_va);
	if (f->vector == TRAP_DOUBLE_FAULT && stack_is_overflow(p.fault_va))
		log_info("  stack overflow: the %s stack ran into its guard page at 0x%016lx", stack_name(p.fault_va),
			 p.fault_va);
}

/* A fault beside an area is an overrun: say of which. */
static void say_area(void *arg)
{
	const struct vm_area *area;

	(void)arg;
	if (!p.frame || p.fault_va < VM_AREA_BASE || p.fault_va >= VM_AREA_END)
		return;
	area = find_vm_area_guard(p.fault_va);
	if (area)
		log_info("  that is the guard page %s area 0x%016lx-0x%016lx (%s, %s)",
			 p.fault_va < area->start ? "below" : "above", area->start, area->start + area->size,
			 vm_area_kind_name(area->kind), area->caller);
}

static void say_registers(void *arg)
{
	const struct trap_frame *f = p.frame;

	(void)arg;
	if (f) {
		log_info("  rip %016lx  cs  %016lx  rflags %016lx", f->rip, f->cs, f->rflags);
		log_info("  rsp %016lx  ss  %016lx  rbp %016lx", f->rsp, f->ss, f->rbp);
		log_info("  rax %016lx  rbx %016lx  rcx %016lx", f->rax, f->rbx, f->rcx);
		log_info("  rdx %016lx  rsi %016lx  rdi %016lx", f->rdx, f->rsi, f->rdi);
		log_info("  r8  %016lx  r9  %016lx  r10 %016lx", f->r8, f->r9, f->r10);
		log_info("  r11 %016lx  r12 %016lx  r13 %016lx", f->r11, f->r12, f->r13);
		log_info("  r14 %016lx  r15 %016lx", f->r14, f->r15);
	}
	log_info("  cr0 %016lx  cr2 %016lx  cr3 %016lx", insn_read_cr0(), insn_read_cr2(), insn_read_cr3());
	log_info("  cr4 %016lx  cr8 %016lx  efer %016lx", insn_read_cr4(), insn_read_cr8(), insn_rdmsr(MSR_EFER));
}

static void say_walk(void *arg)
{
	(void)arg;
	if (!p.frame || (p.frame->vector != TRAP_PAGE_FAULT && p.frame->vector != TRAP_DOUBLE_FAULT))
		return;
	log_info("  how 0x%016lx is mapped:", p.fault_va);
	page_walk_say(phys(insn_read_cr3() & PTE_ADDR), insn_read_cr4() & CR4_LA57 ? 5 : 4, p.fault_va);
}

/* A return address belongs to the call before it, which may be the last instruction of its function. */
static void say_address(u64 address, bool is_return)
{
	struct symbol s;

	if (symbol_find(address - is_return, &s))
		log_info("  [<0x%016lx>] %s+0x%lx/0x%lx", address, s.name, address - s.start, s.size);
	else
		log_info("  [<0x%016lx>]", address);
}

static void say_backtrace(void *arg)
{
	u64 addresses[FRAMES_MAX];
	unsigned nr = backtrace(p.rbp, addresses, FRAMES_MAX);

	(void)arg;
	log_info("  backtrace:");
	if (p.rip)
		say_address(p.rip, false);
	for (unsigned i = 0; i < nr; i++)
		say_address(addresses[i], true);
	if (nr == FRAMES_MAX)
		log_info("  ... and more");
}

static void say_other(u32 cpu)
{
	const struct cpu_local *local = load_acquire(&cpu_locals[cpu]);
	const struct thread *thread = thread_of_cpu(cpu);
	const char *name = thread ? thread_name(thread) : "none";
	const char *reason = load_acquire(&reasons[cpu]);

	if (reason)
		log_info("  CPU %u, thread %s, panicked, too: %s", cpu, name, reason);
	else if (local && load_acquire(&local->halted)) {
		log_info("  CPU %u, thread %s, was stopped at", cpu, name);
		say_address(local->halted_rip, false);
	} else {
		log_info("  CPU %u, thread %s, did not stop", cpu, name);
	}
}

static void say_others(void *arg)
{
	(void)arg;
	for_each_cpu(cpu, &p.online)
		if (cpu != arch_this_cpu()->id)
			say_other(cpu);
}

static void say_trace(void *arg)
{
	(void)arg;
	trace_say_last(TRACE_RECORDS);
}

/* Last: the large letters take room from the text above. The line at the bottom still names the test that ran. */
static void say_verdict(void *arg)
{
	(void)arg;
	fbcon_verdict(VERDICT_FAIL, "the kernel panicked:", p.message);
}

static void say_dropped(void *arg)
{
	(void)arg;
	console_say_dropped();
}

static const struct {
	const char *name;
	void (*say)(void *arg);
} parts[] = {
	{ "message", say_message },	{ "fault", say_fault }, { "area", say_area },
	{ "registers", say_registers }, { "page walk", say_walk }, { "backtrace", say_backtrace },
	{ "other CPUs", say_others },
	{ "trace", say_trace },		{ "consoles", say_dropped },
	{ "screen", say_verdict },
};

/* Stop this CPU if another one speaks; say so and end if it is this one. Returns for the first panic only. */
static void take_the_floor(const char *why)
{
	struct cpu_local *local = cpu_local();
	u32 me = local->state.id + 1;
	u32 free = 0;

	insn_cli();
	if (compare_exchange(&p.owner, &free, me))
		return;
	if (free != me) {
		store_release(&reasons[me - 1], why);
		local->halted_rip = (u64)__builtin_return_address(0);
		store_release(&local->halted, 1);
		exit_halt();
	}
	if (++p.depth == 1) {
		log_break_lock();
		log_info("PANIC inside a panic: %s", why);
	}
	kernel_exit_panic();
}

static bool others_halted(void)
{
	for_each_cpu(cpu, &p.online)
		if (cpu != p.owner - 1 && !load_acquire(&cpu_locals[cpu]->halted))
			return false;
	return true;
}

/* Each other CPU halts, or its time is over: one that holds its NMIs back, or is no more, cannot be waited for. */
static void stop_others(void)
{
	u64 deadline = arch_cycles() + STOP_SECONDS * timer_frequency();

	p.online = *arch_cpus_online();
	ipi_stop_others();
	while (!others_halted() && arch_cycles() < deadline)
		arch_relax();
}

static __noreturn void speak(void)
{
	stop_others();
	log_break_lock();
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		struct trap_record fault;

		if (!trap_try(parts[i].say, NULL, &fault))
			log_info("  (%s cut short by a %s at 0x%016lx)", parts[i].name, trap_name(fault.vector), fault.rip);
	}
	kernel_exit_panic();
}

__noreturn void kernel_trap(const struct trap_frame *frame, u64 fault_va)
{
	take_the_floor(trap_name(frame->vector));
	p.frame = frame;
	p.fault_va = fault_va;
	p.rip = frame->rip;
	p.rbp = frame->rbp;
	fmt_print(p.message, sizeof(p.message), "%s", trap_name(frame->vector));
	speak();
}

__noreturn void panic(const char *fmt, ...)
{
	char message[MESSAGE_MAX];
	va_list args;

	va_start(args, fmt);
	fmt_vprint(message, sizeof(message), fmt, args);
	va_end(args);
	take_the_floor(message);
	p.rbp = (u64)__builtin_frame_address(0);
	fmt_print(p.message, sizeof(p.message), "%s", message);
	speak();
}

/* ---- On purpose ---- */

static void fault_on_purpose(void)
{
	*(volatile u64 *)(KERNEL_BASE - PAGE_SIZE) = 1;
}

/* Each call uses a page of stack. The loop's bound is for the compiler: it must see that this ends. */
static __noinline u64 overflow_on_purpose(u64 depth)
{
	volatile u8 page[PAGE_SIZE];

	page[0] = (u8)depth;
	if (!depth)
		return 0;
	return overflow_on_purpose(depth - 1) + page[0];
}

static void crash(void *arg)
{
	(void)arg;
	fault_on_purpose();
}

static void overflow(void *arg)
{
	(void)arg;
	log_info("not reached: %lu", overflow_on_purpose(MIB));
}

/* No CPU before all are there: they want to speak at the same time. */
static void panic_here(void *arg)
{
	u32 *missing = arg;

	fetch_add(missing, -1u);
	while (load_acquire(missing))
		arch_relax();
	panic("asked for on CPU %u", arch_this_cpu()->id);
}

static void panic_everywhere(void)
{
	u32 missing = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		missing += thread_cpu_ready(cpu);
	if (thread_run_on_all(panic_here, &missing))
		panic("threads cannot be started");
}

static __noinline void spin_with_interrupts_off(u32 *there)
{
	insn_cli();
	fetch_add(there, 1);
	for (;;)
		arch_relax();
}

static void go_deaf(void *arg)
{
	spin_with_interrupts_off(arg);
}

static void start(u32 cpu, const char *name, void (*fn)(void *arg), void *arg)
{
	if (!thread_start(cpu, name, fn, arg))
		panic("thread %s cannot be started", name);
}

/* On the last CPU, while the first waits, the second is deaf, and others have nothing to do. */
static void crash_elsewhere(void (*fn)(void *arg))
{
	u32 last = 0, deaf = 0;

	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		if (thread_cpu_ready(cpu))
			last = cpu;
	if (last > 1 && thread_cpu_ready(1)) {
		start(1, "deaf", go_deaf, &deaf);
		while (!load_acquire(&deaf))
			thread_yield();
	}
	start(last, "crasher", fn, NULL);
	for (;;)
		thread_park();
}

void panic_on_purpose(enum cmdline_panic how)
{
	switch (how) {
	case PANIC_NONE:
		return;
	case PANIC_ASSERT:
		assert(how == PANIC_NONE);
		return;
	case PANIC_FAULT:
		crash(NULL);
		return;
	case PANIC_OVERFLOW:
		overflow(NULL);
		return;
	case PANIC_NESTED:
		take_the_floor("");
		panic("asked for inside a panic");
	case PANIC_THREAD:
		crash_elsewhere(crash);
		return;
	case PANIC_THREAD_OVERFLOW:
		crash_elsewhere(overflow);
		return;
	case PANIC_ALL:
		panic_everywhere();
		return;
	}
}
