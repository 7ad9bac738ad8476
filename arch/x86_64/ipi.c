/* SPDX-License-Identifier: MIT */
/*
 * Slots, inboxes, and who does not answer: see ipi.h.
 *
 * Who has a call: the slot's `pending` bit of a CPU is cleared by exactly one of two: the CPU when it begins, or the sender
 * when it gives the CPU up. So a CPU that comes late never runs a function whose argument is gone. One that was given up in
 * the middle of the function is stopped by an NMI, which reaches it before its next instruction, whatever held it up.
 *
 * Order: the slot is filled before the bit in the inbox is set (release), the inbox is emptied before the slot is read
 * (acquire). An interrupt is sent after the bit is set; whoever finds other bits set relies on the interrupt of who set the first.
 */
#include "arch/x86_64/ipi.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/rendezvous.h"
#include "arch/x86_64/timer.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"

#define LOOKS_PER_CLOCK 256u	/* looks at an answer between two at the clock */
#define STOP_MS 200u		/* that a CPU may take to halt in an NMI: more than a busy host lets it wait, as a rule */

u32 ipi_timeout_ms = 10000;

static cpumask_t dead_cpus;
static u32 stopper;	/* CPU id + 1 that has stopped all others for good */

const cpumask_t *ipi_dead(void)
{
	return &dead_cpus;
}

static u64 deadline_ms(u64 ms)
{
	return arch_cycles() + timer_frequency() / 1000 * ms;
}

u64 ipi_patience(void)
{
	return deadline_ms(load_relaxed(&ipi_timeout_ms));
}

static __noreturn void halt_for_good(struct cpu_local *local, u64 rip)
{
	local->halted_rip = rip;
	store_release(&local->halted, 1);
	for (;;) {
		insn_cli();
		insn_hlt();
	}
}

/* ---- On the CPU that is asked ---- */

static void answer(struct cpu_local *local, u32 sender)
{
	struct ipi_slot *slot = &cpu_locals[sender]->slot;
	u64 bit = 1ull << (local->state.id % 64);

	/* Before the bit goes: who finds it gone, and no answer yet, finds this. */
	store_relaxed(&local->serving, sender + 1);
	if (!(fetch_and(&slot->pending.word[local->state.id / 64], ~bit) & bit))
		halt_for_good(local, (u64)__builtin_return_address(0));
	slot->fn(slot->arg);
	store_release(&local->serving, 0);
	local->ipi_stats.served++;
	fetch_add(&slot->left, -1u);
}

static void empty_inbox(struct cpu_local *local)
{
	for (u32 w = 0; w < MAX_CPUS / 64; w++) {
		u64 *word = &local->inbox.senders.word[w];

		for (u64 senders = load_relaxed(word) ? exchange_acquire(word, 0) : 0; senders; senders &= senders - 1)
			answer(local, w * 64 + (u32)__builtin_ctzll(senders));
	}
	if (load_relaxed(&local->inbox.stop) && exchange_acquire(&local->inbox.stop, 0)) {
		local->ipi_stats.stopped++;
		rendezvous_stand_still();
	}
}

void ipi_serve(void)
{
	struct cpu_local *local = cpu_local();
	u8 nesting = local->state.nesting;

	if (load_relaxed(&local->given_up))
		halt_for_good(local, (u64)__builtin_return_address(0));
	if (local->planted)
		return;
	local->state.nesting = MAX(nesting, CPU_IRQ);
	empty_inbox(local);
	local->state.nesting = nesting;
}

void ipi_interrupt(void)
{
	cpu_local()->ipi_stats.received++;
	ipi_serve();
}

/* ---- Asking ---- */

static void send_vector(u32 cpu)
{
	cpu_local()->ipi_stats.sent++;
	apic_send_vector(cpu_locals[cpu]->apic_id, VECTOR_CALL);
}

static void post_call(u32 cpu, u32 me)
{
	if (fetch_or(&cpu_locals[cpu]->inbox.senders.word[me / 64], 1ull << (me % 64)))
		cpu_local()->ipi_stats.merged++;
	else
		send_vector(cpu);
}

void ipi_post_stop(u32 cpu)
{
	if (exchange_acquire(&cpu_locals[cpu]->inbox.stop, 1))
		cpu_local()->ipi_stats.merged++;
	else
		send_vector(cpu);
}

static bool done(const struct ipi_slot *slot)
{
	return load_acquire(&slot->left) == 0;
}

static bool wait_done(const struct ipi_slot *slot)
{
	u64 deadline = ipi_patience();

	while (arch_cycles() < deadline)
		for (unsigned i = 0; i < LOOKS_PER_CLOCK; i++) {
			if (done(slot))
				return true;
			arch_relax();
		}
	return done(slot);
}

/* Those asked that have not begun, or not come to the end, are given up. */
static void give_up_late(struct ipi_slot *slot, const cpumask_t *asked, u32 me, cpumask_t *dead)
{
	for_each_cpu(cpu, asked) {
		u64 bit = 1ull << (cpu % 64);
		const char *what;

		if (fetch_and(&slot->pending.word[cpu / 64], ~bit) & bit)
			what = "answer a call";
		else if (load_relaxed(&cpu_locals[cpu]->serving) == me + 1)
			what = "come to the end of a call";
		else
			continue;
		ipi_give_up(cpu, what);
		if (dead)
			cpumask_set(dead, cpu);
	}
}

static void call_here(void (*fn)(void *arg), void *arg)
{
	struct cpu_state *cpu = arch_this_cpu();
	u64 flags = arch_irq_save();

	cpu->nesting = CPU_IRQ;
	fn(arg);
	cpu->nesting = CPU_TASK;
	arch_irq_restore(flags);
}

/* Who of the set is to be asked, into *asked. Returns their number; the slot is filled but for the function. */
static u32 choose(struct ipi_slot *slot, const cpumask_t *cpus, u32 me, cpumask_t *asked, cpumask_t *dead)
{
	u32 nr = 0;

	for_each_cpu(cpu, cpus) {
		if (cpu == me)
			continue;
		if (cpumask_has(arch_cpus_online(), cpu)) {
			asked->word[cpu / 64] |= 1ull << (cpu % 64);
			nr++;
		} else if (dead) {
			cpumask_set(dead, cpu);
		}
	}
	for (u32 w = 0; w < MAX_CPUS / 64; w++)
		store_relaxed(&slot->pending.word[w], asked->word[w]);
	store_relaxed(&slot->left, nr);
	return nr;
}

void ipi_call(const cpumask_t *cpus, void (*fn)(void *arg), void *arg, cpumask_t *dead)
{
	struct cpu_local *local = cpu_local();
	struct ipi_slot *slot = &local->slot;
	cpumask_t asked = { { 0 } };
	u32 me = local->state.id;
	u32 nr;

	assert(local->state.nesting == CPU_TASK && !local->state.locks_held && arch_irqs_enabled());
	assert(!slot->busy);
	slot->busy = true;
	slot->fn = fn;
	slot->arg = arg;
	nr = choose(slot, cpus, me, &asked, dead);
	for_each_cpu(cpu, &asked)
		post_call(cpu, me);
	if (cpumask_has(cpus, me))
		call_here(fn, arg);
	local->ipi_stats.calls += nr != 0;
	local->ipi_stats.asked += nr;
	if (!wait_done(slot))
		give_up_late(slot, &asked, me, dead);
	slot->busy = false;
}

void ipi_call_others(void (*fn)(void *arg), void *arg, cpumask_t *dead)
{
	cpumask_t others = *arch_cpus_online();

	cpumask_clear(&others, arch_this_cpu()->id);
	ipi_call(&others, fn, arg, dead);
}

void ipi_wake(u32 cpu)
{
	struct cpu_local *local = cpu < MAX_CPUS ? load_acquire(&cpu_locals[cpu]) : NULL;

	if (!local || !apic_present() || !cpumask_has(arch_cpus_online(), cpu))
		return;
	__atomic_fetch_add(&cpu_local()->ipi_stats.wakes, 1, __ATOMIC_RELAXED);
	apic_send_vector(local->apic_id, VECTOR_CALL);
}

/* ---- NMIs ---- */

void ipi_nmi(u32 cpu)
{
	struct cpu_local *local = cpu < MAX_CPUS ? load_acquire(&cpu_locals[cpu]) : NULL;

	if (!local || !apic_present())
		return;
	__atomic_fetch_add(&cpu_local()->ipi_stats.nmis_sent, 1, __ATOMIC_RELAXED);
	if (!exchange_acquire(&local->inbox.nmi, 1))
		apic_send_nmi(local->apic_id);
}

bool ipi_nmi_taken(const struct trap_frame *frame)
{
	struct cpu_local *local = cpu_local();
	u32 by = load_acquire(&stopper);
	bool sent = exchange_acquire(&local->inbox.nmi, 0);

	if (local->planted == IPI_DEAD + 1)
		for (;;)
			insn_pause();
	if (load_relaxed(&local->given_up) || (by && by != local->state.id + 1))
		halt_for_good(local, frame->rip);
	local->ipi_stats.nmis_received += sent;
	return sent;
}

/* ---- Giving up, and stopping for good ---- */

static bool wait_halted(const struct cpu_local *local, u64 deadline)
{
	while (!load_acquire(&local->halted)) {
		if (arch_cycles() >= deadline)
			return false;
		arch_relax();
	}
	return true;
}

void ipi_give_up(u32 cpu, const char *what)
{
	struct cpu_local *local = cpu_locals[cpu];
	bool halted;

	percpu_set_offline(cpu);
	cpumask_set(&dead_cpus, cpu);
	store_release(&local->given_up, 1);
	/* Not merged with one on its way: that one might have been taken just before it could see this. */
	apic_send_nmi(local->apic_id);
	halted = wait_halted(local, deadline_ms(STOP_MS));
	/* What it holds it keeps: others would spin for ever, this CPU in its very next line of the log. */
	if (load_relaxed(&local->state.locks_held))
		panic("CPU %u did not %s of CPU %u within %u ms, and holds %u locks", cpu, what, arch_this_cpu()->id,
		      load_relaxed(&ipi_timeout_ms), load_relaxed(&local->state.locks_held));
	if (halted)
		log_warn("CPU %u did not %s of CPU %u within %u ms: given up, and stopped at 0x%016lx", cpu, what,
			 arch_this_cpu()->id, load_relaxed(&ipi_timeout_ms), local->halted_rip);
	else
		log_warn("CPU %u did not %s of CPU %u within %u ms: given up; it takes no NMI either", cpu, what,
			 arch_this_cpu()->id, load_relaxed(&ipi_timeout_ms));
}

bool ipi_stop_others(void)
{
	u32 me = arch_this_cpu()->id;
	u64 deadline = deadline_ms(STOP_MS);
	bool all = true;
	u32 none = 0;

	if (!compare_exchange(&stopper, &none, me + 1) && none != me + 1)
		halt_for_good(cpu_local(), (u64)__builtin_return_address(0));
	for_each_cpu(cpu, arch_cpus_online())
		if (cpu != me && apic_present())
			apic_send_nmi(cpu_locals[cpu]->apic_id);
	for_each_cpu(cpu, arch_cpus_online())
		if (cpu != me)
			all &= wait_halted(cpu_locals[cpu], deadline);
	return all;
}

/* ---- Tests, figures ---- */

void ipi_plant(u32 cpu, enum ipi_plant how)
{
	store_release(&cpu_locals[cpu]->planted, (u8)(how + 1));
	if (how == IPI_DEAD)
		ipi_nmi(cpu);
}

void ipi_read_stats(u32 cpu, struct ipi_stats *out)
{
	const u64 *from = (const u64 *)&cpu_locals[cpu]->ipi_stats;

	for (unsigned i = 0; i < sizeof(*out) / sizeof(u64); i++)
		((u64 *)out)[i] = load_relaxed(from + i);
}
