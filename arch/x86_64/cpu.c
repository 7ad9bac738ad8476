/* SPDX-License-Identifier: MIT */
/* CPUID, control registers, PAT (SDM 2A CPUID; 3A 2.5, 12.11.8, 12.12; AMD APM 3, appendix E). */
#include "arch/x86_64/cpu.h"

#include "arch/x86_64/insn.h"
#include "arch/x86_64/mtrr.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/arch.h"

struct cpu_info cpu_info;

enum cpuid_reg { EAX, EBX, ECX, EDX };

struct feature_row {
	const char *name;
	u32 leaf, subleaf;
	u8 reg, bit;
	bool wanted;	/* the kernel uses it: its absence is worth a word */
	u64 cr4;	/* to set when the CPU has it */
};

static const struct feature_row features[CPU_FEATURES] = {
	[CPU_APIC] = { "apic", 1, 0, EDX, 9, false, 0 },
	[CPU_MCE] = { "mce", 1, 0, EDX, 7, false, CR4_MCE },
	[CPU_MTRR] = { "mtrr", 1, 0, EDX, 12, true, 0 },
	[CPU_PAT] = { "pat", 1, 0, EDX, 16, true, 0 },
	[CPU_PGE] = { "pge", 1, 0, EDX, 13, true, CR4_PGE },
	[CPU_PCID] = { "pcid", 1, 0, ECX, 17, true, CR4_PCIDE },
	[CPU_X2APIC] = { "x2apic", 1, 0, ECX, 21, false, 0 },
	[CPU_TSC_DEADLINE] = { "tsc_deadline", 1, 0, ECX, 24, false, 0 },
	[CPU_HYPERVISOR] = { "hypervisor", 1, 0, ECX, 31, false, 0 },
	[CPU_SMEP] = { "smep", 7, 0, EBX, 7, true, CR4_SMEP },
	[CPU_SMAP] = { "smap", 7, 0, EBX, 20, true, CR4_SMAP },
	[CPU_INVPCID] = { "invpcid", 7, 0, EBX, 10, true, 0 },
	[CPU_UMIP] = { "umip", 7, 0, ECX, 2, true, CR4_UMIP },
	[CPU_PKS] = { "pks", 7, 0, ECX, 31, false, 0 },
	[CPU_LA57] = { "la57", 7, 0, ECX, 16, false, 0 },
	[CPU_SERIALIZE] = { "serialize", 7, 0, EDX, 14, false, 0 },
	[CPU_ARCH_CAPABILITIES] = { "arch_capabilities", 7, 0, EDX, 29, false, 0 },
	[CPU_NX] = { "nx", 0x80000001, 0, EDX, 20, true, 0 },
	[CPU_1G_LEAVES] = { "1g", 0x80000001, 0, EDX, 26, true, 0 },
	[CPU_INVARIANT_TSC] = { "invariant_tsc", 0x80000007, 0, EDX, 8, false, 0 },
};

static struct cpuid_regs cpuid(u32 leaf, u32 subleaf)
{
	u32 highest = insn_cpuid(leaf & 0x80000000, 0).eax;

	if (leaf > highest || (highest & 0x80000000) != (leaf & 0x80000000))
		return (struct cpuid_regs){ 0 };
	return insn_cpuid(leaf, subleaf);
}

static u32 cpuid_word(const struct feature_row *row)
{
	struct cpuid_regs r = cpuid(row->leaf, row->subleaf);
	const u32 word[] = { r.eax, r.ebx, r.ecx, r.edx };

	return word[row->reg];
}

static void read_identity(struct cpu_info *info)
{
	struct cpuid_regs r = cpuid(0, 0);

	memcpy(info->vendor, &r.ebx, 4);
	memcpy(info->vendor + 4, &r.edx, 4);
	memcpy(info->vendor + 8, &r.ecx, 4);

	r = cpuid(1, 0);
	info->stepping = r.eax & 0xf;
	info->family = r.eax >> 8 & 0xf;
	info->model = r.eax >> 4 & 0xf;
	if (info->family == 0xf || info->family == 6)
		info->model |= r.eax >> 12 & 0xf0;
	if (info->family == 0xf)
		info->family += r.eax >> 20 & 0xff;

	if (cpuid(0x80000000, 0).eax >= 0x80000004) {
		for (u32 i = 0; i < 3; i++) {
			r = cpuid(0x80000002 + i, 0);
			memcpy(info->brand + 16 * i, &r, 16);
		}
	}
}

static void read_cpuid(struct cpu_info *info)
{
	u32 widths = cpuid(0x80000008, 0).eax;

	read_identity(info);
	for (unsigned i = 0; i < CPU_FEATURES; i++)
		if (cpuid_word(&features[i]) >> features[i].bit & 1)
			info->features |= BIT(i);
	info->phys_bits = widths & 0xff ? (u8)widths : 36;
	info->virt_bits = widths >> 8 & 0xff ? (u8)(widths >> 8) : 48;
}

/*
 * Errata that forbid to change the size of a page while it may be in a TLB.
 *
 * AMD families 10h and 12h, erratum 383 (Revision Guides 41322 and 44739): a machine check when two sizes meet in a TLB.
 * Intel "machine check error avoidance on page size change", CVE-2018-12207: the same in the instruction TLB; a CPU
 * that says PSCHANGE_MC_NO is free of it, and a hypervisor has to see to it for its guests.
 */
#define ARCH_CAPABILITIES_PSCHANGE_MC_NO BIT(6)

static const struct {
	const char *vendor;
	u32 family;
	u8 first_model, last_model;
	enum arch_bbm bbm;
} size_change_errata[] = {
	{ "AuthenticAMD", 0x10, 0x00, 0xff, ARCH_BBM_ALL },
	{ "AuthenticAMD", 0x12, 0x00, 0xff, ARCH_BBM_ALL },
	{ "GenuineIntel", 6, 0x1a, 0x1a, ARCH_BBM_EXECUTABLE },	/* Nehalem */
	{ "GenuineIntel", 6, 0x1e, 0x1f, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x2e, 0x2e, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x25, 0x25, ARCH_BBM_EXECUTABLE },	/* Westmere */
	{ "GenuineIntel", 6, 0x2c, 0x2c, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x2f, 0x2f, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x2a, 0x2a, ARCH_BBM_EXECUTABLE },	/* Sandy Bridge */
	{ "GenuineIntel", 6, 0x2d, 0x2d, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x3a, 0x3a, ARCH_BBM_EXECUTABLE },	/* Ivy Bridge */
	{ "GenuineIntel", 6, 0x3e, 0x3e, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x3c, 0x3d, ARCH_BBM_EXECUTABLE },	/* Haswell, Broadwell */
	{ "GenuineIntel", 6, 0x3f, 0x3f, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x45, 0x47, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x4f, 0x4f, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x56, 0x56, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x4e, 0x4e, ARCH_BBM_EXECUTABLE },	/* Skylake */
	{ "GenuineIntel", 6, 0x55, 0x55, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x5e, 0x5e, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0x66, 0x66, ARCH_BBM_EXECUTABLE },	/* Cannon Lake */
	{ "GenuineIntel", 6, 0x8e, 0x8e, ARCH_BBM_EXECUTABLE },	/* Kaby, Coffee, Whiskey Lake */
	{ "GenuineIntel", 6, 0x9e, 0x9e, ARCH_BBM_EXECUTABLE },
	{ "GenuineIntel", 6, 0xa5, 0xa6, ARCH_BBM_EXECUTABLE },	/* Comet Lake */
};

static enum arch_bbm errata_bbm(const struct cpu_info *info)
{
	u64 capabilities = 0;

	if (cpu_has(CPU_HYPERVISOR))
		return ARCH_BBM_NONE;
	if (cpu_has(CPU_ARCH_CAPABILITIES))
		capabilities = insn_rdmsr(MSR_ARCH_CAPABILITIES);
	for (unsigned i = 0; i < ARRAY_SIZE(size_change_errata); i++) {
		if (strcmp(info->vendor, size_change_errata[i].vendor) != 0 ||
		    info->family != size_change_errata[i].family ||
		    info->model < size_change_errata[i].first_model ||
		    info->model > size_change_errata[i].last_model)
			continue;
		if (size_change_errata[i].bbm == ARCH_BBM_EXECUTABLE &&
		    (capabilities & ARCH_CAPABILITIES_PSCHANGE_MC_NO))
			return ARCH_BBM_NONE;
		return size_change_errata[i].bbm;
	}
	return ARCH_BBM_NONE;
}

/*
 * Everything the kernel relies on, and nothing the firmware left on besides: protection keys, shadow stacks and
 * the like stay off. SSE state is enabled because the firmware's runtime services may use it (UEFI 2.10, 2.3.4).
 * PCIDE may be set in 64-bit mode only while CR3[11:0] is 0 (SDM 3A 4.10.1): roots are frames, and it is.
 */
static void set_control_registers(void)
{
	u64 cr0 = insn_read_cr0() & ~(CR0_EM | CR0_TS | CR0_AM);
	u64 cr4 = insn_read_cr4() & CR4_LA57;

	if (cpu_has(CPU_NX))
		insn_wrmsr(MSR_EFER, insn_rdmsr(MSR_EFER) | EFER_NXE);
	insn_write_cr0(cr0 | CR0_MP | CR0_NE | CR0_WP);

	cr4 |= CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	for (unsigned i = 0; i < CPU_FEATURES; i++)
		if (cpu_has(i))
			cr4 |= features[i].cr4;
	insn_write_cr3(insn_read_cr3() & PTE_ADDR);
	insn_write_cr4(cr4);
	trap_clears_ac = cpu_has(CPU_SMAP);
}

/*
 * The sequence for memory types (SDM 3A 12.11.8, which 12.12.4 prescribes for the PAT too): caches off, written
 * back, TLBs flushed; the change; flushed again; caches on.
 */
static void set_pat(void)
{
	u64 cr0 = insn_read_cr0();

	if (!cpu_has(CPU_PAT) || insn_rdmsr(MSR_PAT) == CPU_PAT_VALUE)
		return;
	insn_write_cr0((cr0 | CR0_CD) & ~CR0_NW);
	insn_wbinvd();
	arch_tlb_flush_all();
	insn_wrmsr(MSR_PAT, CPU_PAT_VALUE);
	insn_wbinvd();
	arch_tlb_flush_all();
	insn_write_cr0(cr0 & ~(CR0_CD | CR0_NW));
}

static u64 leaf_bits(void)
{
	u64 bits = (PTE_ATTRS & ~PTE_PKEY) | (PTE_ADDR & (BIT(cpu_info.phys_bits) - 1)) | PTE_PS | PTE_PAT_LARGE;

	if (!cpu_has(CPU_NX))
		bits &= ~PTE_NX;
	if (!cpu_has(CPU_PGE))
		bits &= ~PTE_G;
	if (!cpu_has(CPU_PAT))
		bits &= ~(PTE_PAT | PTE_PAT_LARGE) | PTE_PS;	/* PS and the PAT bit of a 4K leaf are one bit */
	return bits;
}

void cpu_init(void)
{
	read_cpuid(&cpu_info);
	set_control_registers();
	set_pat();
	mtrr_init();
	arch_mm.pte_mask = leaf_bits();
	arch_mm.levels = insn_read_cr4() & CR4_LA57 ? 5 : 4;
	arch_mm.max_leaf = cpu_has(CPU_1G_LEAVES) ? PT_1G : PT_2M;
	arch_mm.phys_bits = cpu_info.phys_bits;
	arch_mm.bbm = errata_bbm(&cpu_info);
}

bool cpu_init_other(u32 cpu)
{
	struct cpu_info info = { 0 };
	u64 lacks;

	read_cpuid(&info);
	lacks = cpu_info.features & ~info.features;
	for (unsigned i = 0; i < CPU_FEATURES; i++)
		if (lacks & BIT(i))
			log_warn("CPU %u lacks %s, which the first CPU has", cpu, features[i].name);
	if (info.phys_bits < cpu_info.phys_bits)
		log_warn("CPU %u has %u-bit physical addresses, the first CPU %u", cpu, info.phys_bits, cpu_info.phys_bits);
	if (lacks || info.phys_bits < cpu_info.phys_bits)
		return false;
	set_control_registers();
	set_pat();
	return true;
}

void cpu_log(void)
{
	static const char *const bbm[] = { "no", "executable leaves", "all leaves" };
	char lacks[128] = "";
	size_t len = 0;

	for (unsigned i = 0; i < CPU_FEATURES; i++)
		if (features[i].wanted && !cpu_has(i) && len < sizeof(lacks))
			len += fmt_print(lacks + len, sizeof(lacks) - len, " %s", features[i].name);
	log_info("cpu: %s family 0x%x model 0x%x stepping %u%s%s%s", cpu_info.vendor, cpu_info.family, cpu_info.model,
		 cpu_info.stepping, cpu_info.brand[0] ? ", " : "", cpu_info.brand,
		 cpu_has(CPU_HYPERVISOR) ? ", under a hypervisor" : "");
	log_info("cpu: %u-bit physical, %u-bit virtual addresses, %u levels of tables, leaves up to %s",
		 cpu_info.phys_bits, cpu_info.virt_bits, arch_mm.levels, arch_mm.max_leaf == PT_1G ? "1G" : "2M");
	log_info("cpu: runs without:%s", len ? lacks : " nothing it could use");
	log_info("cpu: break-before-make asked for by errata: %s", bbm[arch_mm.bbm]);
}
