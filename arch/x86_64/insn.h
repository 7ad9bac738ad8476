/* SPDX-License-Identifier: MIT */
/*
 * Instructions that C cannot say, one each. No policy, no state.
 *
 * Those that change how memory is seen (CR0, CR3, CR4, INVLPG, INVPCID) are compiler barriers: no access
 * moves across them.
 */
#ifndef ARCH_X86_64_INSN_H
#define ARCH_X86_64_INSN_H

#include "kernel/base/types.h"

#define MSR_APIC_BASE 0x1bu
#define MSR_MTRR_CAP 0xfeu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_MTRR_PHYS_BASE(i) (0x200u + 2 * (i))
#define MSR_MTRR_PHYS_MASK(i) (0x201u + 2 * (i))
#define MSR_MTRR_FIX_64K 0x250u
#define MSR_MTRR_FIX_16K(i) (0x258u + (i))
#define MSR_MTRR_FIX_4K(i) (0x268u + (i))
#define MSR_PAT 0x277u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_X2APIC(reg) (0x800u + (reg) / 16)
#define MSR_EFER 0xc0000080u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_TOP_MEM2 0xc001001du

#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)

#define CR4_PAE (1ull << 5)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP (1ull << 11)
#define CR4_LA57 (1ull << 12)
#define CR4_PCIDE (1ull << 17)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)

#define RFLAGS_IF (1ull << 9)
#define RFLAGS_AC (1ull << 18)

struct cpuid_regs {
	u32 eax, ebx, ecx, edx;
};

static __always_inline struct cpuid_regs insn_cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid_regs r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(subleaf)
			 : "memory");
	return r;
}

static __always_inline u64 insn_rdmsr(u32 msr)
{
	u32 low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return (u64)high << 32 | low;
}

static __always_inline void insn_wrmsr(u32 msr, u64 value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

#define INSN_CONTROL_REGISTER(n)                                          \
	static __always_inline u64 insn_read_cr##n(void)                  \
	{                                                                 \
		u64 value;                                                \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory"); \
		return value;                                             \
	}                                                                 \
	static __always_inline void insn_write_cr##n(u64 value)           \
	{                                                                 \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");     \
	}

INSN_CONTROL_REGISTER(0)
INSN_CONTROL_REGISTER(2)
INSN_CONTROL_REGISTER(3)
INSN_CONTROL_REGISTER(4)
INSN_CONTROL_REGISTER(8)
#undef INSN_CONTROL_REGISTER

static __always_inline void insn_invlpg(u64 va)
{
	__asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/* Store nr quadwords of value from p on; counts as nr instructions under -icount. */
static __always_inline void insn_stosq(void *p, u64 value, u64 nr)
{
	__asm__ volatile("rep stosq" : "+D"(p), "+c"(nr) : "a"(value) : "memory");
}

#define INVPCID_ALL_GLOBAL 2u	/* SDM 2A, INVPCID: every PCID, global translations too */

static __always_inline void insn_invpcid(u64 type, u64 pcid, u64 va)
{
	struct {
		u64 pcid, va;
	} descriptor = { pcid, va };

	__asm__ volatile("invpcid %1, %0" : : "r"(type), "m"(descriptor) : "memory");
}

struct descriptor_pointer {
	u16 limit;
	u64 base;
} __packed;

static __always_inline void insn_lgdt(const struct descriptor_pointer *p)
{
	__asm__ volatile("lgdt %0" : : "m"(*p) : "memory");
}

static __always_inline void insn_lidt(const struct descriptor_pointer *p)
{
	__asm__ volatile("lidt %0" : : "m"(*p) : "memory");
}

static __always_inline void insn_sidt(struct descriptor_pointer *p)
{
	__asm__ volatile("sidt %0" : "=m"(*p));
}

static __always_inline void insn_sgdt(struct descriptor_pointer *p)
{
	__asm__ volatile("sgdt %0" : "=m"(*p));
}

static __always_inline void insn_ltr(u16 selector)
{
	__asm__ volatile("ltr %0" : : "r"(selector) : "memory");
}

static __always_inline u16 insn_str(void)
{
	u16 selector;

	__asm__ volatile("str %0" : "=r"(selector));
	return selector;
}

static __always_inline u64 insn_read_flags(void)
{
	u64 flags;

	__asm__ volatile("pushfq; popq %0" : "=r"(flags) : : "memory");
	return flags;
}

static __always_inline void insn_cli(void)
{
	__asm__ volatile("cli" : : : "memory");
}

static __always_inline void insn_sti(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static __always_inline void insn_hlt(void)
{
	__asm__ volatile("hlt" : : : "memory");
}

/* Interrupts on and halt, with none in between: STI holds them off for one instruction (SDM 2B, STI). */
static __always_inline void insn_sti_hlt(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

static __always_inline void insn_pause(void)
{
	__asm__ volatile("pause");
}

/* Earlier instructions have completed before the counter is read (SDM 2B, RDTSC). */
static __always_inline u64 insn_rdtsc_ordered(void)
{
	u32 low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static __always_inline void insn_mfence(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

static __always_inline void insn_lfence(void)
{
	__asm__ volatile("lfence" : : : "memory");
}

static __always_inline void insn_wbinvd(void)
{
	__asm__ volatile("wbinvd" : : : "memory");
}

static __always_inline void insn_clflush(const volatile void *address)
{
	__asm__ volatile("clflush %0" : "+m"(*(volatile char *)address));
}

static __always_inline void insn_stac(void)
{
	__asm__ volatile("stac" : : : "memory", "cc");
}

static __always_inline void insn_clac(void)
{
	__asm__ volatile("clac" : : : "memory", "cc");
}

/* SERIALIZE, by its bytes: the assembler of gcc 12's binutils may be older than the instruction. */
static __always_inline void insn_serialize(void)
{
	__asm__ volatile(".byte 0x0f, 0x01, 0xe8" : : : "memory");
}

static __always_inline u8 insn_inb(u16 port)
{
	u8 value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static __always_inline void insn_outb(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static __always_inline void insn_outw(u16 port, u16 value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static __always_inline void insn_outl(u16 port, u32 value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static __always_inline u16 insn_inw(u16 port)
{
	u16 value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static __always_inline u32 insn_inl(u16 port)
{
	u32 value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

#endif
