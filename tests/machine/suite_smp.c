/* SPDX-License-Identifier: MIT */
/* All CPUs: their state, their alarms, calls and NMIs between them (SPEC BT5, TL1). */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/gdt.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/mtrr.h"
#include "arch/x86_64/nmi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"
#include "kernel/acpi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "kernel/smp.h"
#include "kernel/thread.h"
#include "mm/buddy.h"
#include "mm/set_memory.h"
#include "mm/temp_map.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/machine/crew.h"
#include "tests/test.h"

#define STORM_HZ 1000u
#define PATIENCE_S 30u	/* for what must happen: only a failure takes that long */

/* ---- Waiting for what must happen ---- */

static bool reaches(const u64 *word, u64 value)
{
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();

	while (load_relaxed(word) < value && arch_cycles() < end)
		arch_relax();
	return load_relaxed(word) >= value;
}

static u32 nr_online(void)
{
	u32 n = 0;

	for_each_cpu(cpu, arch_cpus_online())
		n += cpu < MAX_CPUS;
	return n;
}

#define NEEDS_CPUS(n)                                                  \
	if (nr_online() < (n))                                         \
	SKIP("%u of the CPUs it takes are up, %u are", (n), nr_online())

/* As many rounds as a virtual machine manages within seconds, and all of them in the long run. */
static u32 rounds(u32 all, u32 some)
{
	return cmdline.soak ? all : some;
}

/* ---- What each CPU is ---- */

/* As seen from the CPU itself, in an interrupt. */
struct view {
	struct cpu_local *gs;
	u64 gs_base;
	struct descriptor_pointer gdt, idt;
	u16 tr;
	u64 rsp;
	u64 cr0, cr3, cr4, efer, pat;
	u32 apic;
	u32 lints[2];		/* entries of the local vector table */
	struct mtrr_state mtrr;
};
static struct view views[MAX_CPUS];

static void look(void *arg)
{
	struct cpu_local *local = cpu_local();
	struct view *v = &views[local->state.id];

	(void)arg;
	v->gs = local;
	v->gs_base = insn_rdmsr(MSR_GS_BASE);
	insn_sgdt(&v->gdt);
	insn_sidt(&v->idt);
	v->tr = insn_str();
	v->rsp = (u64)__builtin_frame_address(0);
	v->cr0 = insn_read_cr0();
	v->cr3 = insn_read_cr3();
	v->cr4 = insn_read_cr4();
	v->efer = insn_rdmsr(MSR_EFER);
	v->pat = cpu_has(CPU_PAT) ? insn_rdmsr(MSR_PAT) : 0;
	v->apic = apic_id();
	if (apic_present()) {
		v->lints[0] = apic_read(APIC_LVT_LINT0);
		v->lints[1] = apic_read(APIC_LVT_LINT1);
	}
	mtrr_read(&v->mtrr);
}

static void look_everywhere(void)
{
	memset(views, 0, sizeof(views));
	ipi_call(arch_cpus_online(), look, NULL, NULL);
}

TEST_ID(smp, all_that_are_listed_are_up, "BT5")
{
	u32 want = MAX(acpi.nr_usable, 1);

	if (cmdline.cpus)
		want = MIN(want, cmdline.cpus);
	CHECK_EQ(nr_online() + smp_left_out(), apic_present() ? want : 1);
	CHECK_EQ(smp_left_out(), cmdline.plant == PLANT_SILENT_CPU && want > 1);
	CHECK(cpumask_empty(ipi_dead()));
	CHECK_EQ(cpu_locals_end, nr_online());
	for_each_cpu(cpu, arch_cpus_online()) {
		CHECK(cpumask_has(&kernel_space.cpus, cpu));
		CHECK(temp_map_space(cpu) != NULL);
		CHECK(cpu_locals[cpu]->state.pages != &page_cache_none);
		CHECK_EQ(cpu_locals[cpu]->state.id, cpu);
	}
	test_note("cpus=%u", nr_online());
}

TEST_ID(smp, each_has_its_own_tables_and_stacks, "BT5")
{
	look_everywhere();
	for_each_cpu(cpu, arch_cpus_online()) {
		const struct cpu_local *local = cpu_locals[cpu];
		const struct view *v = &views[cpu];
		const struct gdt *gdt = (const struct gdt *)v->gdt.base;

		CHECK(v->gs == local && v->gs_base == (u64)local && local->self == local);
		CHECK_EQ(v->gdt.base, (u64)&local->gdt);
		CHECK_EQ(v->idt.base, idt_range().start);
		CHECK_EQ(v->tr, GDT_TSS);
		CHECK(gdt->entry[GDT_TSS / 8] >> 41 & 1);	/* busy: loaded by this CPU */
		CHECK_EQ(v->apic, local->apic_id);
		CHECK_EQ(v->cr3, kernel_space.root.raw);
		for (unsigned i = 0; i < CPU_STACKS; i++) {
			struct range s = local->stacks[i];

			CHECK(!range_empty(s));
			CHECK(i == CPU_STACK_TASK || local->tss.ist[i - 1] == s.end);
			CHECK(pte_none(fixture_leaf(s.start - 1).value) && pte_none(fixture_leaf(s.end).value));
			CHECK(arch_range_pinned(range(s.end - 8, s.end)));
		}
		CHECK(arch_range_pinned(range_len((u64)local, 8)));
		for_each_cpu(other, arch_cpus_online()) {
			const struct cpu_local *o = cpu_locals[other];

			for (unsigned i = 0; other < cpu && i < CPU_STACKS * CPU_STACKS; i++)
				CHECK(!range_overlaps(local->stacks[i / CPU_STACKS], o->stacks[i % CPU_STACKS]));
			CHECK(other == cpu || o->apic_id != local->apic_id);
		}
	}
}

static const struct acpi_cpu *acpi_cpu_of(const struct cpu_local *local)
{
	for (u32 i = 0; i < acpi.nr_cpus; i++)
		if (acpi.cpus[i].apic_id == local->apic_id)
			return &acpi.cpus[i];
	return NULL;
}

/* What a pin's entry must be. False: ACPI does not say. */
static bool wanted_lint(const struct acpi_cpu *cpu, u8 lint, u32 *entry)
{
	bool named = false;

	for (u32 i = 0; i < acpi.nr_local_nmis; i++) {
		const struct acpi_local_nmi *nmi = &acpi.local_nmis[i];

		if (nmi->lint != lint || (nmi->uid != ACPI_ALL_CPUS && nmi->uid != cpu->uid))
			continue;
		*entry = 4u << 8 | (nmi->active_low ? 1u << 13 : 0);	/* SDM 3A figure 11-8 */
		named = true;
	}
	return named;
}

/* Pins that carry NMIs are wired as the MADT has it, on each CPU; LINT0 is masked else. */
TEST_ID(smp, pins_of_local_nmis_are_wired, "BT4 BT5")
{
	u32 entry, named = 0;

	if (!apic_present() || !acpi.has_madt)
		SKIP("no local APIC, or no MADT");
	look_everywhere();
	for_each_cpu(cpu, arch_cpus_online()) {
		const struct acpi_cpu *a = acpi_cpu_of(cpu_locals[cpu]);

		REQUIRE(a != NULL);
		for (u8 lint = 0; lint < 2; lint++) {
			u32 seen = views[cpu].lints[lint] & ~(1u << 12 | 1u << 14);	/* pending and remote IRR: read-only */

			if (wanted_lint(a, lint, &entry)) {
				CHECK_EQ(seen, entry);
				named++;
			} else if (!lint) {
				CHECK(seen & APIC_LVT_MASKED);
			}
		}
	}
	CHECK(named > 0 || !acpi.nr_local_nmis);
	test_note("entries=%u pins=%u", acpi.nr_local_nmis, named);
}

TEST_ID(smp, all_have_the_same_control_registers, "BT5")
{
	unsigned differences = 0;

	look_everywhere();
	for_each_cpu(cpu, arch_cpus_online()) {
		const struct view *v = &views[cpu], *first = &views[0];
		char text[256];

		CHECK_EQ(v->cr0, first->cr0);
		CHECK_EQ(v->cr4, first->cr4);
		CHECK_EQ(v->efer, first->efer);
		CHECK_EQ(v->pat, first->pat);
		differences += mtrr_compare(mtrr_state(), &v->mtrr, text, sizeof(text)) != 0;
	}
	CHECK(!cpu_has(CPU_PAT) || views[0].pat == CPU_PAT_VALUE);
	CHECK(cpu_has(CPU_HYPERVISOR) || !differences);
	test_note("cpus_with_other_mtrrs=%u", differences);
}

TEST_ID(smp, differences_of_mtrrs_are_named, "BT5")
{
	static struct mtrr_state other;
	char text[256];

	other = *mtrr_state();
	CHECK_EQ(mtrr_compare(mtrr_state(), &other, text, sizeof(text)), 0);
	CHECK(!text[0]);
	other.variable[3].mask ^= PAGE_SIZE;
	CHECK_EQ(mtrr_compare(mtrr_state(), &other, text, sizeof(text)), 1);
	CHECK(strncmp(text, "mask 3 0x", 9) == 0);
	other.default_type ^= 1;
	for (unsigned i = 0; i < MTRR_FIXED; i++)
		other.fixed[i] ^= 1;
	CHECK_EQ(mtrr_compare(mtrr_state(), &other, text, sizeof(text)), 2 + MTRR_FIXED);
	CHECK(strncmp(text, "default type 0x", 15) == 0);
	CHECK(strlen(text) > 10 && strcmp(text + strlen(text) - 12, " and 86 more") == 0);
}

/* ---- Calls ---- */

struct tally {
	u64 calls[MAX_CPUS];	/* by the CPU they ran on */
	u64 wrong;		/* not in an interrupt, or with interrupts on */
};
static struct tally tally;

static void count_call(void *arg)
{
	struct tally *t = arg;
	struct cpu_state *cpu = arch_this_cpu();

	fetch_add(&t->calls[cpu->id], 1);
	if (cpu->nesting != CPU_IRQ || arch_irqs_enabled())
		fetch_add(&t->wrong, 1);
}

static void read_all_stats(struct ipi_stats *sum)
{
	*sum = (struct ipi_stats){ 0 };
	for_each_cpu(cpu, arch_cpus_online()) {
		struct ipi_stats one;

		ipi_read_stats(cpu, &one);
		for (unsigned i = 0; i < sizeof(one) / sizeof(u64); i++)
			((u64 *)sum)[i] += ((u64 *)&one)[i];
	}
}

TEST_ID(smp, a_call_runs_once_on_each_cpu_asked, "BT5")
{
	u32 me = arch_this_cpu()->id, nr = nr_online();
	cpumask_t dead = { { 0 } };

	tally = (struct tally){ 0 };
	for_each_cpu(cpu, arch_cpus_online()) {
		cpumask_t one = { { 0 } };

		cpumask_set(&one, cpu);
		ipi_call(&one, count_call, &tally, &dead);
		for_each_cpu(other, arch_cpus_online())
			CHECK_EQ(tally.calls[other], other <= cpu);
	}
	ipi_call(arch_cpus_online(), count_call, &tally, &dead);
	ipi_call_others(count_call, &tally, &dead);
	for_each_cpu(cpu, arch_cpus_online())
		CHECK_EQ(tally.calls[cpu], cpu == me ? 2 : 3);
	CHECK_EQ(tally.wrong, 0);
	CHECK(cpumask_empty(&dead));
	if (nr < MAX_CPUS) {
		cpumask_t nobody = { { 0 } };

		cpumask_set(&nobody, MAX_CPUS - 1);
		ipi_call(&nobody, count_call, &tally, &dead);
		CHECK(cpumask_has(&dead, MAX_CPUS - 1));
		CHECK_EQ(tally.calls[MAX_CPUS - 1], 0);
	}
}

/* What a CPU has sent itself while fn ran: starting and ending threads takes shootdowns of its own. */
static struct ipi_stats own[MAX_CPUS];

static void count_own(void (*fn)(void *arg), void *arg)
{
	u32 me = arch_this_cpu()->id;
	struct ipi_stats before, after;

	ipi_read_stats(me, &before);
	fn(arg);
	ipi_read_stats(me, &after);
	for (unsigned i = 0; i < sizeof(after) / sizeof(u64); i++)
		((u64 *)&own[me])[i] = ((u64 *)&after)[i] - ((u64 *)&before)[i];
}

static struct ipi_stats sum_of_own(void)
{
	struct ipi_stats sum = { 0 };

	for_each_cpu(cpu, arch_cpus_online())
		for (unsigned i = 0; i < sizeof(sum) / sizeof(u64); i++)
			((u64 *)&sum)[i] += ((u64 *)&own[cpu])[i];
	return sum;
}

static void call_others_often(void *arg)
{
	u32 n = *(const u32 *)arg;

	for (u32 i = 0; i < n; i++)
		ipi_call_others(count_call, &tally, NULL);
}

static void call_others_counted(void *arg)
{
	count_own(call_others_often, arg);
}

TEST_ID(smp, calls_from_every_cpu_to_every_cpu_at_once, "BT5")
{
	u32 nr = nr_online(), n = rounds(10000, 600) / nr;
	struct ipi_stats sum;

	NEEDS_CPUS(2u);
	tally = (struct tally){ 0 };
	CHECK_EQ(thread_run_on_all(call_others_counted, &n), 0);
	sum = sum_of_own();
	for_each_cpu(cpu, arch_cpus_online())
		CHECK_EQ(tally.calls[cpu], (u64)n * (nr - 1));
	CHECK_EQ(tally.wrong, 0);
	CHECK_EQ(sum.calls, (u64)n * nr);
	CHECK_EQ(sum.asked, (u64)n * nr * (nr - 1));
	CHECK_EQ(sum.sent + sum.merged, (u64)n * nr * (nr - 1));
	CHECK(cpumask_empty(ipi_dead()));
	test_note("rounds=%u calls=%llu interrupts=%llu merged=%llu", n, (unsigned long long)sum.asked,
		  (unsigned long long)sum.sent, (unsigned long long)sum.merged);
}

/* All but one ask that one, while it has interrupts off: they send one interrupt among them. */
static struct {
	u32 target;
	u32 ready, go;
} merge;

static void ask_once(void *arg)
{
	cpumask_t one = { { 0 } };

	cpumask_set(&one, merge.target);
	ipi_call(&one, count_call, arg, NULL);
}

static void wait_for_askers(u32 wanted)
{
	struct cpu_local *local = cpu_local();
	u64 flags, end;
	u32 n;

	while (load_acquire(&merge.ready) < wanted)
		arch_relax();
	flags = arch_irq_save();
	end = arch_cycles() + PATIENCE_S / 4 * timer_frequency();
	store_release(&merge.go, 1);
	do {
		n = 0;
		for_each_cpu(cpu, &local->inbox.senders)
			n += cpu < MAX_CPUS;
		arch_relax();
	} while (n < wanted && arch_cycles() < end);
	arch_irq_restore(flags);
	CHECK_EQ(n, wanted);
}

static void ask_or_wait(void *arg)
{
	if (arch_this_cpu()->id == merge.target) {
		wait_for_askers(nr_online() - 1);
		return;
	}
	fetch_add(&merge.ready, 1);
	while (!load_acquire(&merge.go))
		arch_relax();
	count_own(ask_once, arg);
}

/* One interrupt for each word of an inbox that somebody is in: 64 CPUs share one. */
static u32 nr_words_of_askers(u32 nr, u32 target)
{
	u32 n = 0;

	for (u32 w = 0; w < MAX_CPUS / 64; w++) {
		u32 first = w * 64, end = MIN(first + 64, nr);

		n += end > first && !(end - first == 1 && first == target);
	}
	return n;
}

TEST_ID(smp, calls_to_one_cpu_are_merged, "BT5")
{
	u32 nr = nr_online();

	NEEDS_CPUS(3u);
	for_each_cpu(cpu, arch_cpus_online()) {
		struct ipi_stats sum;

		memset(own, 0, sizeof(own));
		merge.target = cpu;
		merge.ready = merge.go = 0;
		tally = (struct tally){ 0 };
		CHECK_EQ(thread_run_on_all(ask_or_wait, &tally), 0);
		sum = sum_of_own();
		CHECK_EQ(tally.calls[cpu], nr - 1);
		CHECK_EQ(sum.sent, nr_words_of_askers(nr, cpu));
		CHECK_EQ(sum.merged, nr - 1 - nr_words_of_askers(nr, cpu));
	}
}

TEST_ID(smp, serialising_all_cpus, "EX1 BT5")
{
	struct ipi_stats before, after;
	cpumask_t dead = { { 0 } };

	read_all_stats(&before);
	arch_core_serialise_all(arch_cpus_online(), &dead);
	read_all_stats(&after);
	CHECK_EQ(after.served - before.served, nr_online() - 1);
	CHECK(cpumask_empty(&dead));
}

/* ---- Rendezvous ---- */

static u64 beats[MAX_CPUS];	/* each CPU counts while it runs */
static u32 beat_stop;
static u64 moved, inside, overlaps, led;

static void beat(void *arg)
{
	u32 me = arch_this_cpu()->id;

	(void)arg;
	while (!load_acquire(&beat_stop))
		store_relaxed(&beats[me], load_relaxed(&beats[me]) + 1);
}

static u64 all_beats(void)
{
	u64 sum = 0;

	for_each_cpu(cpu, arch_cpus_online())
		sum += load_relaxed(&beats[cpu]);
	return sum;
}

/* In a rendezvous: nobody else moves, and nobody else leads. */
static void look_for_motion(void *arg)
{
	u64 before = all_beats();

	(void)arg;
	if (fetch_add(&inside, 1))
		fetch_add(&overlaps, 1);
	arch_rendezvous_flush();
	for (unsigned i = 0; i < 200; i++)
		arch_relax();
	if (all_beats() != before)
		fetch_add(&moved, 1);
	fetch_add(&led, 1);
	fetch_add(&inside, -1ull);
}

TEST_ID(smp, in_a_rendezvous_nobody_else_moves, "PT3")
{
	struct thread *threads[CREW_MAX];
	u32 ids[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	u32 n = rounds(1000, 50);
	u64 start;

	NEEDS_CPUS(2u);
	moved = inside = overlaps = led = 0;
	beat_stop = 0;
	for (unsigned i = 1; i < nr; i++)
		threads[i - 1] = crew_start(ids[i], "beat", beat, NULL);
	for (unsigned i = 1; i < nr; i++)
		CHECK(reaches(&beats[ids[i]], load_relaxed(&beats[ids[i]]) + 1));
	start = all_beats();
	for (u32 i = 0; i < n; i++)
		arch_rendezvous(look_for_motion, NULL);
	for (unsigned i = 1; i < nr; i++)
		CHECK(reaches(&beats[ids[i]], load_relaxed(&beats[ids[i]]) + 1));
	CHECK(all_beats() > start);
	store_release(&beat_stop, 1);
	crew_join(threads, nr - 1);
	CHECK_EQ(moved, 0);
	CHECK_EQ(led, n);
}

/* With a lock held that the others want, as page tables are changed (mm/pgtable.c). */
static spinlock_t wanted_lock;

static void lead_and_ask(void *arg)
{
	u32 n = *(const u32 *)arg;

	for (u32 i = 0; i < n; i++) {
		if (i & 1) {
			spin_lock(&wanted_lock);
			arch_rendezvous(look_for_motion, NULL);
			spin_unlock(&wanted_lock);
		} else {
			arch_rendezvous(look_for_motion, NULL);
		}
		ipi_call_others(count_call, &tally, NULL);
	}
}

static void lead_and_ask_counted(void *arg)
{
	count_own(lead_and_ask, arg);
}

TEST_ID(smp, rendezvous_and_calls_by_every_cpu_at_once, "PT3")
{
	u32 nr = nr_online(), n = rounds(2000, 80) / nr;
	struct ipi_stats before, after, sum;

	NEEDS_CPUS(2u);
	tally = (struct tally){ 0 };
	moved = inside = overlaps = led = 0;
	read_all_stats(&before);
	CHECK_EQ(thread_run_on_all(lead_and_ask_counted, &n), 0);
	read_all_stats(&after);
	CHECK_EQ(overlaps, 0);
	CHECK_EQ(led, (u64)n * nr);
	sum = sum_of_own();
	CHECK_EQ(sum.rendezvous, (u64)n * nr);
	CHECK_EQ(sum.asked, (u64)n * nr * (nr - 1));
	CHECK_EQ(after.stopped - before.stopped, (u64)n * nr * (nr - 1));
	CHECK_EQ(after.served - before.served, after.asked - before.asked);
	for_each_cpu(cpu, arch_cpus_online())
		CHECK_EQ(tally.calls[cpu], (u64)n * (nr - 1));
	CHECK(cpumask_empty(ipi_dead()));
	test_note("rounds=%u", n);
}

/* ---- Shootdowns ---- */

#define CHANGES 5u

static u64 remote_flushes(void)
{
	struct tlb_stats s;

	tlb_read_stats(&s);
	return s.nr_tlb_remote_flush;
}

static u64 received_flushes(void)
{
	struct tlb_stats s;

	tlb_read_stats(&s);
	return s.nr_tlb_remote_flush_received;
}

/* However many changes: one IPI for each other CPU. */
TEST_ID(smp, a_batch_is_one_ipi_per_other_cpu, "TL1 TL2")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_OFF);
	u32 others = nr_online() - 1;
	struct ipi_stats before, after;
	struct fixture_area a;
	struct tlb_batch batch;
	u64 sent, received;

	if (fixture_area_get(&a, 2 * CHANGES * PAGE_SIZE, PAGE_SIZE)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere() + PAGE_SIZE, fixture_attrs(), 0),
			 0);
		sent = remote_flushes();
		received = received_flushes();
		read_all_stats(&before);
		tlb_batch_init(&batch, &kernel_space);
		for (unsigned i = 0; i < CHANGES; i++) {
			struct pt_change c = {
				.op = PT_OP_PROTECT,
				.va = range_len(a.va + 2 * i * PAGE_SIZE, PAGE_SIZE),
				.clear = PTE_W,
			};

			CHECK_EQ(pt_change(&kernel_space, &c, &batch), 0);
		}
		CHECK_EQ(remote_flushes(), sent);
		tlb_batch_finish(&batch);
		read_all_stats(&after);
		CHECK_EQ(remote_flushes() - sent, others);
		CHECK_EQ(received_flushes() - received, others);
		CHECK_EQ(after.asked - before.asked, others);
		CHECK_EQ(after.sent - before.sent, others);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
	test_note("changes=%u others=%u", CHANGES, others);
}

/* The change, and then what the collapse has unhooked. */
TEST_ID(smp, a_collapse_is_one_more_ipi, "TL1 TL2 PT4")
{
	enum pt_collapse_policy policy = fixture_policy(PT_COLLAPSE_EAGER);
	u32 others = nr_online() - 1;
	struct fixture_events before, after;
	struct fixture_area a;
	u64 sent;

	if (fixture_area_get(&a, 2 * MIB, 2 * MIB)) {
		CHECK_EQ(fixture_change(PT_OP_MAP, range_len(a.va, a.size), fixture_nowhere(), fixture_attrs(), 0), 0);
		CHECK_EQ(fixture_leaf(a.va).level, PT_2M);
		sent = remote_flushes();
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, 0, PTE_W), 0);
		CHECK_EQ(remote_flushes() - sent, others);
		fixture_events(&before);
		sent = remote_flushes();
		CHECK_EQ(fixture_change(PT_OP_PROTECT, range_len(a.va, PAGE_SIZE), 0, PTE_W, 0), 0);
		fixture_events(&after);
		CHECK_EQ(after.collapses[PT_2M] - before.collapses[PT_2M], 1);
		CHECK_EQ(remote_flushes() - sent, 2 * others);
	}
	fixture_area_put(&a);
	fixture_policy(policy);
}

/* A space that only this CPU has used asks nobody. */
TEST_ID(smp, cpus_that_never_used_a_space_are_left_alone, "TL1 TL2")
{
	static struct pt_space space;
	static u64 gens[MAX_CPUS];
	struct pt_change c = { .op = PT_OP_MAP, .va = range_len(1 * GIB, 4 * PAGE_SIZE) };
	struct ipi_stats before, after;
	struct tlb_batch batch;
	u64 flags, sent;

	REQUIRE(pt_space_init(&space, "smp test", PT_SPACE_USER, phys(0), gens) == 0);
	flags = arch_irq_save();
	tlb_space_enter(&space);
	arch_switch_root(space.root);
	arch_irq_restore(flags);
	sent = remote_flushes();
	read_all_stats(&before);
	c.pa = phys(fixture_nowhere());
	c.set = (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_NX) & arch_mm.pte_mask;
	for (unsigned i = 0; i < 2; i++) {
		tlb_batch_init(&batch, &space);
		CHECK_EQ(pt_change(&space, &c, &batch), 0);
		tlb_batch_finish(&batch);
		c.op = PT_OP_UNMAP;
	}
	read_all_stats(&after);
	CHECK_EQ(remote_flushes(), sent);
	CHECK_EQ(after.asked, before.asked);
	CHECK(tlb_flushed(&space, space.gen));
	flags = arch_irq_save();
	arch_switch_root(kernel_space.root);
	tlb_space_leave(&space);
	arch_irq_restore(flags);
	pt_space_destroy(&space);
}

/* ---- Everything at once ---- */

static u64 shots;

/* What fell into one CPU while it was in its loop. Written by that CPU. */
struct fallen {
	u64 alarms, nmis;
};
static struct fallen fallen[MAX_CPUS];

static struct fallen fallen_so_far(void)
{
	struct ipi_stats stats;

	ipi_read_stats(arch_this_cpu()->id, &stats);
	return (struct fallen){ load_relaxed(&cpu_local()->timer_interrupts), stats.nmis_received };
}

static u32 next_online(u32 cpu)
{
	do
		cpu = (cpu + 1) % cpu_locals_end;
	while (!cpumask_has(arch_cpus_online(), cpu));
	return cpu;
}

/*
 * Alarms and NMIs fall into whatever the CPU does: shootdowns by a change of rights and back, and those of all others. Only what
 * falls into the loop is counted. It goes on, for up to MORE_SHOTS times as long, until this CPU has had one of each.
 */
#define MORE_SHOTS 4u

static void shoot(void *arg)
{
	u32 n = *(const u32 *)arg, me = arch_this_cpu()->id;
	struct fallen before = fallen_so_far(), *mine = &fallen[me];
	struct rng rng = { test_seed ^ me };
	u64 va = (u64)vmalloc(4 * PAGE_SIZE);
	u64 took = timer_frequency() / 10000;

	REQUIRE(va);
	for (u32 i = 0; i < n || (i < MORE_SHOTS * n && (!mine->nmis || (!mine->alarms && timer_works()))); i++) {
		u32 victim = i ? (u32)rng_below(&rng, cpu_locals_end) : next_online(me);
		u64 start = arch_cycles();
		struct fallen now;
		int rc;

		/* Within the time that the last one took: however fast the machine is, it is likely to go off. */
		if (timer_works())
			timer_arm(start + rng_below(&rng, MIN(took, timer_frequency() / 10000)));
		if (cpumask_has(arch_cpus_online(), victim))
			ipi_nmi(victim);
		rc = i & 1 ? set_memory_rw(va, 1 + i % 4) : set_memory_ro(va, 1 + i % 4);
		/* Its leaf of the direct map may hold tables, which cannot be absent even for a moment (PT3). */
		CHECK(!rc || (rc == -EBUSY && pt_bbm > 0));
		fetch_add(&shots, 1);
		took = arch_cycles() - start + 1;
		now = fallen_so_far();
		*mine = (struct fallen){ now.alarms - before.alarms, now.nmis - before.nmis };
	}
	timer_disarm();
	CHECK_EQ(set_memory_rw(va, 4), 0);
	vfree((void *)va);
}

/* So many shots for each alarm, or NMI, at most. Several that come while a CPU takes none are one. */
#define SHOTS_PER_FALLEN 8u

TEST_ID(smp, shootdowns_by_all_under_alarms_and_nmis, "TL1 BT5")
{
	u32 nr = nr_online(), n = rounds(10000, (pt_bbm > 0 ? 200 : 1600) / nr);
	u64 storm[2] = { nmi_storm_count(0), 0 };
	struct ipi_stats before, after;
	struct fallen all = { 0 };

	NEEDS_CPUS(2u);
	shots = 0;
	memset(fallen, 0, sizeof(fallen));
	read_all_stats(&before);
	if (nmi_storm_source())
		CHECK_EQ(nmi_storm_start(STORM_HZ, 0), 0);
	CHECK_EQ(thread_run_on_all(shoot, &n), 0);
	nmi_storm_stop();
	timer_spin_us(1000);
	read_all_stats(&after);
	storm[1] = nmi_storm_count(0);
	CHECK(shots >= (u64)n * nr);
	CHECK(cpumask_empty(ipi_dead()));
	CHECK_EQ(nr_online(), nr);
	CHECK_EQ(after.asked - before.asked, after.served - before.served);
	for_each_cpu(cpu, arch_cpus_online()) {
		CHECK(fallen[cpu].nmis > 0);
		CHECK(fallen[cpu].alarms > 0 || !timer_works());
		CHECK_EQ(cpu_locals[cpu]->nmis, 0);
		all.alarms += fallen[cpu].alarms;
		all.nmis += fallen[cpu].nmis;
	}
	CHECK(all.nmis >= shots / SHOTS_PER_FALLEN);
	CHECK(all.alarms >= shots / SHOTS_PER_FALLEN || !timer_works());
	test_note("shots=%llu calls=%llu alarms=%llu nmis=%llu storm=%llu", (unsigned long long)shots,
		  (unsigned long long)(after.served - before.served), (unsigned long long)all.alarms,
		  (unsigned long long)all.nmis, (unsigned long long)(storm[1] - storm[0]));
}

/*
 * Break-before-make: a leaf of the direct map is split and put back while all others read what it maps. An absent entry that
 * one of them could see would be a page fault nobody expects.
 */
static const u64 *watched;
static u64 looks[MAX_CPUS];

static void watch(void *arg)
{
	u32 me = arch_this_cpu()->id;

	(void)arg;
	while (!load_acquire(&beat_stop)) {
		CHECK(load_relaxed(watched) == 0x5a5a5a5a5a5a5a5aull);
		store_relaxed(&looks[me], load_relaxed(&looks[me]) + 1);
	}
}

TEST_ID(smp, break_before_make_is_seen_by_nobody, "PT3")
{
	u32 n = rounds(1000, 20), ids[CREW_MAX];
	struct thread *threads[CREW_MAX];
	unsigned nr = crew_cpus(ids);
	struct ipi_stats before, after;
	int bbm = pt_bbm;
	u64 *block;
	u64 split = 0;

	NEEDS_CPUS(2u);
	block = vmalloc(2 * MIB);
	REQUIRE(block);
	memset(block, 0x5a, 2 * MIB);
	watched = block + MIB / sizeof(*block);
	beat_stop = 0;
	memset(looks, 0, sizeof(looks));
	for (unsigned i = 1; i < nr; i++)
		threads[i - 1] = crew_start(ids[i], "watch", watch, NULL);
	for (unsigned i = 1; i < nr; i++)
		CHECK(reaches(&looks[ids[i]], 1));
	pt_bbm = 1;
	read_all_stats(&before);
	for (u32 i = 0; i < n; i++) {
		CHECK_EQ(set_memory_ro((u64)block, 1), 0);
		split += fixture_leaf((u64)watched).level == PT_4K;
		CHECK_EQ(set_memory_rw((u64)block, 1), 0);
	}
	read_all_stats(&after);
	pt_bbm = bbm;
	store_release(&beat_stop, 1);
	crew_join(threads, nr - 1);
	CHECK_EQ(split, n);
	CHECK(after.rendezvous - before.rendezvous >= n);
	vfree(block);
	test_note("rounds=%u rendezvous=%llu", n, (unsigned long long)(after.rendezvous - before.rendezvous));
}

/* ---- Alarms ---- */

TEST_ID(smp, alarm_goes_off_when_it_is_time, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 before = local->timer_interrupts, at, flags;

	if (!timer_works())
		SKIP("no local APIC timer");
	flags = arch_irq_save();	/* it may be time before the deadline has been looked at */
	at = arch_cycles() + timer_frequency() / 200;
	timer_arm(at);
	CHECK_EQ(local->timer_deadline, at);
	CHECK_EQ(local->timer_interrupts, before);
	arch_irq_restore(flags);
	REQUIRE(reaches(&local->timer_interrupts, before + 1));
	while (load_relaxed(&local->timer_deadline))
		;
	CHECK(arch_cycles() >= at);
}

/* More than the counter holds in one go. */
TEST_ID(smp, alarm_far_away_is_started_again, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 at;

	if (!timer_works())
		SKIP("no local APIC timer");
	at = arch_cycles() + timer_frequency() * 3600;
	timer_arm(at);
	CHECK_EQ(local->timer_deadline, at);
	timer_interrupt();
	CHECK_EQ(local->timer_deadline, at);	/* too early: it is armed still */
	timer_disarm();
	CHECK_EQ(local->timer_deadline, 0);
	timer_interrupt();			/* a late one is ignored */
	CHECK_EQ(local->timer_deadline, 0);
}

TEST_ID(smp, alarm_in_the_past_goes_off_at_once, "BT5")
{
	struct cpu_local *local = cpu_local();
	u64 before = local->timer_interrupts;

	if (!timer_works())
		SKIP("no local APIC timer");
	timer_arm(1);
	CHECK(reaches(&local->timer_interrupts, before + 1));
	timer_arm(0);
	CHECK(reaches(&local->timer_interrupts, before + 2));
}

/* ---- NMIs ---- */

static u64 handled;
static bool handled_in_nmi;

static void note_nmi(const struct trap_frame *frame)
{
	(void)frame;
	handled_in_nmi = arch_this_cpu()->nesting == CPU_NMI && !arch_irqs_enabled();
	fetch_add(&handled, 1);
}

TEST_ID(smp, nmi_sent_to_itself_with_interrupts_off, "BT5")
{
	u32 me = arch_this_cpu()->id;
	struct ipi_stats before, after;
	nmi_handler_fn old;
	u64 flags;

	if (!apic_present())
		SKIP("no local APIC");
	handled = 0;
	handled_in_nmi = false;
	ipi_read_stats(me, &before);
	old = nmi_set_handler(note_nmi);
	flags = arch_irq_save();
	ipi_nmi(me);
	CHECK(reaches(&handled, 1));
	arch_irq_restore(flags);
	CHECK(nmi_set_handler(old) == note_nmi);
	ipi_read_stats(me, &after);
	CHECK(handled_in_nmi);
	CHECK_EQ(handled, 1);
	CHECK_EQ(after.nmis_received - before.nmis_received, 1);
	CHECK_EQ(cpu_local()->nmis, 0);
}

/* Interrupts off until the NMI has come. */
static u32 deaf_ready;

static void wait_for_nmi(void *arg)
{
	struct cpu_local *local = cpu_local();
	u64 before = local->ipi_stats.nmis_received;
	u64 flags = arch_irq_save();

	store_release(&deaf_ready, 1);
	*(bool *)arg = reaches(&local->ipi_stats.nmis_received, before + 1);
	arch_irq_restore(flags);
}

TEST_ID(smp, nmi_reaches_each_cpu_with_interrupts_off, "BT5")
{
	u32 me = arch_this_cpu()->id;

	NEEDS_CPUS(2u);
	for_each_cpu(cpu, arch_cpus_online()) {
		bool came = false;
		struct thread *t;

		if (cpu == me)
			continue;
		deaf_ready = 0;
		t = crew_start(cpu, "deaf", wait_for_nmi, &came);
		while (!load_acquire(&deaf_ready))
			arch_relax();
		ipi_nmi(cpu);
		crew_join(&t, 1);
		CHECK(came);
		CHECK_EQ(cpu_locals[cpu]->nmis, 0);
	}
}

#define STORM_NMIS 200u

static void wait_for_storm(u32 cpu, u64 nr)
{
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();
	u64 start = nmi_storm_count(cpu);

	while (nmi_storm_count(cpu) - start < nr && arch_cycles() < end)
		arch_relax();
	CHECK(nmi_storm_count(cpu) - start >= nr);
}

TEST_ID(smp, nmi_storm_by_a_timer_of_the_machine, "BT5")
{
	nmi_handler_fn old;
	u64 before, after;

	if (!nmi_storm_source())
		SKIP("no IOAPIC that a HPET or PIT reaches");
	CHECK_EQ(nmi_storm_start(0, 0), -EINVAL);
	CHECK_EQ(nmi_storm_start(STORM_HZ, MAX_CPUS), -EINVAL);
	for_each_cpu(cpu, arch_cpus_online()) {
		handled = 0;
		old = nmi_set_handler(note_nmi);
		before = nmi_storm_count(cpu);
		REQUIRE(nmi_storm_start(STORM_HZ, cpu) == 0);
		CHECK_EQ(nmi_storm_start(STORM_HZ, cpu), -EBUSY);
		wait_for_storm(cpu, STORM_NMIS);
		nmi_storm_stop();
		after = nmi_storm_count(cpu);
		nmi_set_handler(old);
		CHECK_EQ(handled, after - before);
		timer_spin_us(3 * 1000000 / STORM_HZ);
		CHECK_EQ(nmi_storm_count(cpu), after);
		CHECK_EQ(cpu_locals[cpu]->nmis, 0);
	}
	test_note("source=%s hz=%u", nmi_storm_source(), STORM_HZ);
}
