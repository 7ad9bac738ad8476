/* SPDX-License-Identifier: MIT */
/*
 * The CPUs of the machine. What ACPI says is handed to arch as arguments from here.
 *
 * Others are started one at a time. The page they start in, below 1 MiB, is mapped at its physical address in a root of
 * its own, which all of them leave for the kernel's; then both are given back, unless a CPU that did not answer may still
 * come that way.
 */
#include "kernel/smp.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/hpet.h"
#include "arch/x86_64/interrupts.h"
#include "arch/x86_64/ioapic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/nmi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/smp.h"
#include "arch/x86_64/timer.h"
#include "kernel/acpi.h"
#include "kernel/base/atomic.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/cmdline.h"
#include "kernel/memory.h"
#include "kernel/stack.h"
#include "kernel/thread.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/temp_map.h"
#include "mm/tlb_batch.h"
#include "mm/vmalloc.h"

#define XAPIC_ID_MAX 254u
#define SILENT_ID 253u	/* plant=silent-cpu: nobody has this one */

/* ---- The boot CPU ---- */

static volatile void *map_registers(u64 pa, u64 size, const char *what)
{
	void *p = pa ? ioremap(pa, size, IOREMAP_UC) : NULL;

	if (pa && !p)
		log_warn("%s at 0x%llx: cannot be mapped, not used", what, (unsigned long long)pa);
	return p;
}

static bool ids_need_x2apic(void)
{
	for (u32 i = 0; i < acpi.nr_usable; i++)
		if (acpi.cpus[i].apic_id > XAPIC_ID_MAX)
			return true;
	return false;
}

/* On this CPU: pins of its APIC that carry NMIs, by its ACPI processor UID. */
static void wire_nmis(u32 uid)
{
	for (u32 i = 0; i < acpi.nr_local_nmis; i++) {
		const struct acpi_local_nmi *nmi = &acpi.local_nmis[i];

		if (nmi->uid == uid || nmi->uid == ACPI_ALL_CPUS)
			apic_wire_nmi(nmi->lint, nmi->active_low);
	}
}

static void init_apic(void)
{
	u64 pa = apic_pa();
	volatile void *registers = map_registers(pa, APIC_SIZE, "local APIC");

	if (pa && !registers)
		panic("the local APIC at 0x%llx cannot be mapped", (unsigned long long)pa);
	if (pa && acpi.lapic_pa && acpi.lapic_pa != pa)
		log_warn("local APIC at 0x%llx, not at 0x%llx as ACPI has it", (unsigned long long)pa,
			 (unsigned long long)acpi.lapic_pa);
	apic_init(registers, ids_need_x2apic());
	cpu_local()->apic_id = apic_id();
	if (!apic_present())
		log_warn("no local APIC: one CPU, no timer, no NMIs to be sent");
	for (u32 i = 0; apic_present() && i < acpi.nr_cpus; i++)
		if (acpi.cpus[i].apic_id == cpu_local()->apic_id)
			wire_nmis(acpi.cpus[i].uid);
}

static void init_ioapics(void)
{
	for (u32 i = 0; i < acpi.nr_ioapics; i++) {
		const struct acpi_ioapic *io = &acpi.ioapics[i];
		volatile void *registers = map_registers(io->pa, IOAPIC_SIZE, "IOAPIC");

		if (registers && !ioapic_add(registers, io->gsi_base)) {
			log_warn("IOAPIC at 0x%llx: does not answer, or one too many", (unsigned long long)io->pa);
			iounmap((void *)registers);
		}
	}
	nmi_init((struct nmi_isa_line){ acpi.isa[0].gsi, acpi.isa[0].active_low });
}

static void init_clocks(void)
{
	struct timer_sources sources = {
		.hpet = map_registers(acpi.hpet_pa, HPET_SIZE, "HPET"),
		.pm_port = acpi.pm_timer.space == ACPI_SPACE_IO ? (u16)acpi.pm_timer.address : 0,
		.pm_bits = acpi.pm_timer_bits,
	};
	const char *storms;

	timer_init(&sources);
	storms = nmi_storm_source();
	log_info("interrupts: %s, id %u; NMIs by timer: %s", !apic_present() ? "no APIC" : apic_is_x2apic() ? "x2APIC" : "xAPIC",
		 cpu_local()->apic_id, storms ? storms : "none");
}

void smp_init_boot_cpu(void)
{
	interrupts_silence();
	init_apic();
	init_ioapics();
	init_clocks();
	arch_irq_restore(~0ull);
	assert(arch_irqs_enabled());
	tlb_started = true;
}

/* ---- The other CPUs ---- */

/* What a CPU is given: pages of its own, with guards. */
struct cpu {
	struct cpu_local local;
	struct page_cache pages;
	struct range stacks[CPU_STACKS];
	u64 tsc;		/* when it came in */
	u32 node;
	u32 uid;		/* ACPI's */
	u32 state;		/* enum cpu_progress */
};

/*
 * Whether a CPU that comes late takes part is decided by who changes CPU_ABSENT first: the CPU (CPU_COMING), just before others may
 * see it, or the one that waits for it (CPU_LEFT_OUT).
 */
enum cpu_progress { CPU_ABSENT, CPU_COMING, CPU_UP, CPU_UNFIT, CPU_LEFT_OUT };

/* The start pages, one behind the other. */
enum { START_CODE, START_DATA, START_ROOT, START_PAGES };

static struct pt_space start_space;
static u64 start_cpu_gen[MAX_CPUS];
static u32 left_out;
static bool somebody_may_come;	/* one that did not answer may still do so: the start pages stay as they are */

u32 smp_left_out(void)
{
	return left_out;
}

static int map_start_page(u64 pa, u64 attrs)
{
	struct pt_change change = {
		.op = PT_OP_MAP,
		.va = range_len(pa, PAGE_SIZE),
		.pa = phys(pa),
		.set = (PTE_P | PTE_A | attrs) & arch_mm.pte_mask,
	};
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &start_space);
	rc = pt_change(&start_space, &change, &batch);
	tlb_batch_finish(&batch);
	return rc;
}

/* W^X holds here, too: the code is written before it can be executed, and read-only in the direct map from then on. */
static int make_start_space(u64 pa)
{
	u64 page[START_PAGES] = { pa, pa + PAGE_SIZE, pa + 2 * PAGE_SIZE };
	int rc = pt_space_init(&start_space, "CPU start", 0, phys(page[START_ROOT]), start_cpu_gen);

	if (rc)
		return rc;
	smp_fill_start_pages(phys_to_virt(phys(page[START_CODE])), phys_to_virt(phys(page[START_DATA])), pa,
			     page[START_ROOT]);
	page_set_class(page[START_CODE] >> PAGE_SHIFT, 1, PAGE_AP_START);
	rc = directmap_seal(range_len(page[START_CODE], PAGE_SIZE));
	if (!rc)
		rc = map_start_page(page[START_CODE], 0);
	if (!rc)
		rc = map_start_page(page[START_DATA], PTE_W | PTE_D | PTE_NX);
	return rc;
}

/* Nobody has the start root loaded any more, and nobody will. */
static void drop_start_space(u64 pa)
{
	pfn_t code = pa >> PAGE_SHIFT;
	int rc;

	if (start_space.root.raw)
		pt_space_destroy(&start_space);
	page_set_class(code, START_PAGES, PAGE_BOOT);
	rc = set_direct_map_default(code, 1);
	if (rc)
		log_warn("CPUs: the start page at 0x%llx is lost (error %d)", (unsigned long long)pa, -rc);
	else
		memory_ap_start_release();
}

/* The first thing in C that another CPU runs. It is seen by shootdowns before it looks at the generation (tlb_space_enter). */
static void other_cpu_main(void *arg)
{
	struct cpu *c = arg;
	u32 absent = CPU_ABSENT;

	c->tsc = arch_cycles();
	if (!smp_init_cpu(&c->local)) {
		compare_exchange(&c->state, &absent, CPU_UNFIT);
		smp_park();
	}
	if (!compare_exchange(&c->state, &absent, CPU_COMING))
		smp_park();
	wire_nmis(c->uid);
	percpu_set_online(c->local.state.id);
	tlb_space_enter(&kernel_space);
	arch_switch_root(kernel_space.root);
	buddy_add_cpu(&c->pages, c->node);
	store_release(&c->state, CPU_UP);
	arch_irq_restore(~0ull);
	thread_cpu_main();
}

static void free_cpu(struct cpu *c, u32 id)
{
	temp_map_remove_cpu(id);
	stack_free(c->stacks);
	vfree(c);
}

static struct cpu *make_cpu(u32 id, const struct acpi_cpu *which)
{
	struct cpu *c = vmalloc(sizeof(*c));
	int rc;

	if (!c)
		return NULL;
	if (!stack_alloc(c->stacks)) {
		vfree(c);
		return NULL;
	}
	rc = temp_map_add_cpu(id);
	if (rc) {
		stack_free(c->stacks);
		vfree(c);
		return NULL;
	}
	c->local.data = range_len((u64)c, align_up(sizeof(*c), PAGE_SIZE));
	c->local.apic_id = which->apic_id;
	c->node = which->node;
	c->uid = which->uid;
	percpu_prepare(&c->local, id, c->stacks);
	return c;
}

static bool wait_for(struct cpu *c)
{
	u64 end = ipi_patience();

	while (load_acquire(&c->state) != CPU_UNFIT && !thread_cpu_ready(c->local.state.id) && arch_cycles() < end)
		arch_relax();
	return load_acquire(&c->state) == CPU_UP && thread_cpu_ready(c->local.state.id);
}

/* Times that pass from CPU to CPU are compared with the clock of each: it must be one clock. */
static void check_tsc(const struct cpu *c, u64 before)
{
	u64 now = arch_cycles();

	if (c->tsc < before || c->tsc > now)
		log_warn("CPU %u: its TSC is %lld cycles off that of the first", c->local.state.id,
			 (long long)(c->tsc < before ? c->tsc - before : c->tsc - now));
}

/* It has been waited for in vain. What others may have seen of it is given up as any CPU that stops answering. */
static void leave_out(struct cpu *c, u32 apic)
{
	u32 state = CPU_ABSENT;

	if (compare_exchange(&c->state, &state, CPU_LEFT_OUT))
		log_warn("CPU with APIC id %u came in, and did not get through: left out", apic);
	else if (state == CPU_UNFIT)
		log_warn("CPU with APIC id %u: not fit to be used, left out", apic);
	else
		ipi_give_up(c->local.state.id, "get through the start");
}

/* Start that CPU under that number. False: it is not there, and the number is free if *id is unchanged. */
static bool start_cpu(const struct acpi_cpu *which, u32 *id)
{
	struct cpu *c = make_cpu(*id, which);
	u32 apic = which->apic_id;
	u64 before = arch_cycles();
	u32 target = apic;

	if (!c) {
		log_warn("CPU with APIC id %u: no memory to start it", apic);
		return false;
	}
	if (cmdline.plant == PLANT_SILENT_CPU && !left_out)
		target = SILENT_ID;
	if (smp_start(target, c->stacks[CPU_STACK_TASK].end, other_cpu_main, c)) {
		log_warn("CPU with APIC id %u does not answer: left out", apic);
		somebody_may_come = true;
		percpu_forget(&c->local);
		free_cpu(c, *id);
		return false;
	}
	++*id;		/* it is in: from here on the number is taken, whatever comes */
	if (!wait_for(c)) {
		leave_out(c, apic);
		somebody_may_come = true;
		return false;
	}
	check_tsc(c, before);
	return true;
}

static void start_all(u32 wanted)
{
	u32 me = cpu_local()->apic_id;
	u32 id = 1, up = 1;

	for (u32 i = 0; i < acpi.nr_usable && up + left_out < wanted; i++) {
		if (acpi.cpus[i].apic_id == me)
			continue;
		if (start_cpu(&acpi.cpus[i], &id))
			up++;
		else
			left_out++;
	}
	log_info("CPUs: %u up of %u usable%s%s", up, acpi.nr_usable, wanted < acpi.nr_usable ? ", limited by cpus=" : "",
		 left_out ? ", some left out" : "");
}

void smp_start_others(void)
{
	u32 wanted = cmdline.cpus ? (u32)MIN(cmdline.cpus, acpi.nr_usable) : acpi.nr_usable;
	struct range start;
	int rc;

	if (acpi.cpus_left_out)
		log_warn("CPUs: %u more than the %u that are supported", acpi.cpus_left_out, MAX_CPUS);
	if (!memory_ap_start(&start)) {
		if (wanted > 1)
			log_warn("CPUs: no 12 KiB of free memory below 1 MiB to start others in: one CPU");
		return;
	}
	if (wanted <= 1 || !apic_present()) {
		memory_ap_start_release();
		return;
	}
	rc = make_start_space(start.start);
	if (rc)
		log_warn("CPUs: no others are started (error %d)", -rc);
	else
		start_all(wanted);
	if (somebody_may_come)
		log_info("CPUs: the start page at 0x%llx is kept for who comes late", (unsigned long long)start.start);
	else
		drop_start_space(start.start);
}
