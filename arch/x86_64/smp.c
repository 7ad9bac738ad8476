/* SPDX-License-Identifier: MIT */
/* Starts CPUs one by one: see smp.h. */
#include "arch/x86_64/smp.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/idt.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/mtrr.h"
#include "arch/x86_64/timer.h"
#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "mm/arch.h"

/* SDM 3A 8.4.4.1: 10 ms behind INIT, 200 us behind the first STARTUP. Then as long as a busy host may take. */
#define INIT_US 10000u
#define STARTUP_US 200u
#define ENTER_US 5000000u
#define LOOK_US 10u

#define SELECTOR_CODE_32 0x08
#define SELECTOR_CODE_64 0x10

/* Flat, present, of ring 0, accessed already (SDM 3A 3.4.5). */
#define DESCRIPTOR_CODE_32 0x00cf9b000000ffffull
#define DESCRIPTOR_CODE_64 0x00af9b000000ffffull
#define DESCRIPTOR_DATA 0x00cf93000000ffffull

#define LEAF_TOPOLOGY 0xbu

/* ap_start.asm */
extern const u8 ap_start_code[];
extern const u64 ap_start_protected, ap_start_long, ap_start_size;

struct far_pointer {
	u32 offset;
	u16 selector;
	u16 unused;
};

struct ap_start_data {
	u16 gdt_limit;
	u32 gdt_base;
	u16 unused;
	struct far_pointer far_32, far_64;
	u64 gdt[4];
	u32 cr0, cr3, cr4, efer;
	u32 id;			/* of the CPU that may come in */
	u32 id_leaf;		/* of CPUID, that says it */
	u32 ticket;		/* 1: it may; whoever takes it has it */
	u32 unused2;
	u64 stack, entry, arg;
} __packed __aligned(8);

#define AT(member, offset) _Static_assert(offsetof(struct ap_start_data, member) == (offset), "ap_start.asm")
AT(gdt_base, 2);
AT(far_32, 8);
AT(far_64, 16);
AT(gdt, 24);
AT(cr0, 56);
AT(cr3, 60);
AT(cr4, 64);
AT(efer, 68);
AT(id, 72);
AT(id_leaf, 76);
AT(ticket, 80);
AT(stack, 88);
AT(entry, 96);
AT(arg, 104);

static struct ap_start_data *start_data;
static u32 *ticket;	/* that of *start_data, which is packed, but aligned here */
static u8 start_page;

/* The leaf that knows all 32 bits of an APIC id, where there is one (SDM 2A, CPUID 0BH: EBX is not 0). */
static u32 id_leaf(void)
{
	return insn_cpuid(0, 0).eax >= LEAF_TOPOLOGY && insn_cpuid(LEAF_TOPOLOGY, 0).ebx ? LEAF_TOPOLOGY : 1;
}

void smp_fill_start_pages(void *code, void *data, u64 pa, u64 root)
{
	struct ap_start_data *d = data;
	u32 base = (u32)(pa + PAGE_SIZE);

	assert(pa < MIB && root < 4 * GIB && ap_start_size <= PAGE_SIZE);
	memcpy(code, ap_start_code, ap_start_size);
	memset(d, 0, sizeof(*d));
	d->gdt[SELECTOR_CODE_32 / 8] = DESCRIPTOR_CODE_32;
	d->gdt[SELECTOR_CODE_64 / 8] = DESCRIPTOR_CODE_64;
	d->gdt[3] = DESCRIPTOR_DATA;
	d->gdt_limit = sizeof(d->gdt) - 1;
	d->gdt_base = base + (u32)offsetof(struct ap_start_data, gdt);
	d->far_32 = (struct far_pointer){ (u32)(pa + ap_start_protected), SELECTOR_CODE_32, 0 };
	d->far_64 = (struct far_pointer){ (u32)(pa + ap_start_long), SELECTOR_CODE_64, 0 };
	d->cr0 = (u32)insn_read_cr0();
	d->cr3 = (u32)root;
	d->cr4 = (u32)(insn_read_cr4() & (CR4_PAE | CR4_LA57));
	d->efer = (u32)(insn_rdmsr(MSR_EFER) & ~EFER_LMA);
	d->id_leaf = id_leaf();
	start_data = d;
	ticket = (u32 *)((u8 *)data + offsetof(struct ap_start_data, ticket));
	start_page = (u8)(pa >> PAGE_SHIFT);
}

static bool taken(u64 us)
{
	for (u64 waited = 0; waited < us; waited += LOOK_US) {
		if (!load_acquire(ticket))
			return true;
		timer_spin_us(LOOK_US);
	}
	return !load_acquire(ticket);
}

int smp_start(u32 id, u64 stack_top, void (*entry)(void *arg), void *arg)
{
	struct ap_start_data *d = start_data;
	u32 free = 1;

	d->stack = stack_top;
	d->entry = (u64)entry;
	d->arg = (u64)arg;
	d->id = id;
	store_release(ticket, 1);
	apic_send_init(id);
	timer_spin_us(INIT_US);
	apic_send_startup(id, start_page);
	if (taken(STARTUP_US))
		return 0;
	apic_send_startup(id, start_page);	/* one that runs already does not hear it */
	if (taken(ENTER_US))
		return 0;
	/* One of the two gets it. */
	return compare_exchange(ticket, &free, 0) ? -ETIMEDOUT : 0;
}

bool smp_init_cpu(struct cpu_local *local)
{
	u32 cpu = local->state.id;

	percpu_load(local);
	idt_load();
	if (!cpu_init_other(cpu))
		return false;
	mtrr_check(cpu);
	if (!apic_init_cpu() || apic_id() != local->apic_id) {
		log_warn("CPU %u: its local APIC (id %u) does not follow into %s mode", cpu, local->apic_id,
			 apic_is_x2apic() ? "x2APIC" : "xAPIC");
		return false;
	}
	timer_init_cpu();
	return true;
}

__noreturn void smp_park(void)
{
	for (;;) {
		insn_cli();
		insn_hlt();
	}
}
