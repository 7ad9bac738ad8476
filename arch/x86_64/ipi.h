/* SPDX-License-Identifier: MIT */
/*
 * One CPU asks others: to run a function, to wake up, to take an NMI, to stand still (SPEC BT5, TL1).
 *
 * A CPU waits for one call at a time, in task context with interrupts on, so it has one outgoing slot: {fn, arg, who has
 * to answer}. Each CPU has an inbox: the set of CPUs whose slots wait for it. The sender fills its slot, puts itself into
 * each inbox, and sends an interrupt where that part of the inbox was empty; where it was not, an interrupt is on its way
 * already and will find both (merged). Who waits has interrupts on and serves its own inbox meanwhile, so calls from every CPU
 * to every CPU at once cannot block each other.
 *
 * A CPU that does not answer within ipi_timeout_ms is given up: taken out of arch_cpus_online(), stopped by an NMI where it
 * still takes those, named in the log with the place where it was. Should it ever answer, it finds that it was given up,
 * and halts for good.
 *
 * Sources: SDM 3A chapters 8.4 and 11.6.
 */
#ifndef ARCH_X86_64_IPI_H
#define ARCH_X86_64_IPI_H

#include "arch/x86_64/nmi.h"
#include "kernel/base/arch_cpu.h"
#include "kernel/base/types.h"

/*
 * Run fn(arg) on every CPU of `cpus` and return when all have. There it runs in an interrupt: interrupts off, no spinning for a
 * lock that a task holds. If this CPU is in the set, fn runs here, too, interrupts off. Every CPU of the set is
 * online, or is added to *dead (which may be NULL) as those are that do not answer.
 * Task context, interrupts on, no spinlock held (asserted).
 */
void ipi_call(const cpumask_t *cpus, void (*fn)(void *arg), void *arg, cpumask_t *dead);

/* The same for every online CPU but this one. */
void ipi_call_others(void (*fn)(void *arg), void *arg, cpumask_t *dead);

/* End a HLT of that CPU: it takes an interrupt that asks for nothing. No wait. Any context. */
void ipi_wake(u32 cpu);

/*
 * Send an NMI. No wait; one that is sent while another is on its way is merged with it. The CPU counts it
 * (ipi_stats.nmis_received) and calls the NMI handler (nmi.h). Any context.
 */
void ipi_nmi(u32 cpu);

/*
 * Halt every other online CPU for good, by NMI, without waiting longer than a moment for them. For panics: any context. The
 * second caller halts itself if it is another CPU. False: some did not stop.
 */
bool ipi_stop_others(void);

/* How long an answer may take. Hosts of virtual machines are busy: 10 s by default. Tests set less. */
extern u32 ipi_timeout_ms;

/* CPUs that were given up since boot. */
const cpumask_t *ipi_dead(void);

/*
 * Planted failures (tests): IPI_DEAF, the CPU leaves its inbox unanswered; IPI_DEAD, it also takes no NMI, as it sits in
 * one for ever. Not to be undone.
 */
enum ipi_plant { IPI_DEAF, IPI_DEAD };
void ipi_plant(u32 cpu, enum ipi_plant how);

/* Each CPU counts for itself. */
struct ipi_stats {
	u64 calls;		/* ipi_call() with somebody else to ask */
	u64 asked;		/* CPUs asked by them */
	u64 sent;		/* interrupts sent for calls and rendezvous */
	u64 merged;		/* asked, or to be stopped, without an interrupt of their own */
	u64 received;		/* interrupts taken, those of ipi_wake() among them */
	u64 served;		/* calls answered */
	u64 stopped;		/* rendezvous of others taken part in */
	u64 rendezvous;		/* led */
	u64 wakes;		/* sent */
	u64 nmis_sent;
	u64 nmis_received;	/* those sent by ipi_nmi() */
};
void ipi_read_stats(u32 cpu, struct ipi_stats *out);

/* ---- For arch's own ---- */

/* The interrupt: look into the inbox. */
void ipi_interrupt(void);
/* The same without one, interrupts off: for who waits for something without taking interrupts. */
void ipi_serve(void);
/* Ask a CPU to take part in a rendezvous. */
void ipi_post_stop(u32 cpu);
/* It did not do `what` in time. */
void ipi_give_up(u32 cpu, const char *what);
/* arch_cycles() at which patience ends. */
u64 ipi_patience(void);
/* In an NMI: what of it was for us; halts if this CPU has to. Returns whether it was sent by ipi_nmi(). */
bool ipi_nmi_taken(const struct trap_frame *frame);

#endif
