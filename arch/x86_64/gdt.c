/* SPDX-License-Identifier: MIT */
/* Fills and loads GDT and TSS (SDM 3A 3.4.5, 3.5.2, 7.7). */
#include "arch/x86_64/gdt.h"

#include "arch/x86_64/insn.h"

/* Access byte and flags of a descriptor, at their places in it. */
#define DESC_ACCESSED (1ull << 40)
#define DESC_WRITABLE (1ull << 41)	/* data */
#define DESC_READABLE (1ull << 41)	/* code */
#define DESC_CODE (1ull << 43)
#define DESC_SEGMENT (1ull << 44)
#define DESC_PRESENT (1ull << 47)
#define DESC_LONG (1ull << 53)
#define DESC_TSS_AVAILABLE (9ull << 40)

void gdt_init(struct gdt *gdt, struct tss *tss)
{
	u64 base = (u64)tss;
	u64 limit = sizeof(*tss) - 1;

	gdt->entry[0] = 0;
	gdt->entry[GDT_KERNEL_CODE / 8] = DESC_ACCESSED | DESC_READABLE | DESC_CODE | DESC_SEGMENT | DESC_PRESENT |
					  DESC_LONG;
	gdt->entry[GDT_KERNEL_DATA / 8] = DESC_ACCESSED | DESC_WRITABLE | DESC_SEGMENT | DESC_PRESENT;
	gdt->entry[GDT_TSS / 8] = limit | (base & 0xffffff) << 16 | DESC_TSS_AVAILABLE | DESC_PRESENT |
				  (base >> 24 & 0xff) << 56;
	gdt->entry[GDT_TSS / 8 + 1] = base >> 32;
	tss->io_map = sizeof(*tss);
}

void gdt_load(const struct gdt *gdt)
{
	struct descriptor_pointer p = { sizeof(*gdt) - 1, (u64)gdt };

	insn_lgdt(&p);
	/* CS changes by a far return only. FS and GS are null: their bases are set by MSR. */
	__asm__ volatile("pushq %[code]\n\t"
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "lretq\n"
			 "1:\n\t"
			 "movl %[data], %%ss\n\t"
			 "movl %[data], %%ds\n\t"
			 "movl %[data], %%es\n\t"
			 "movl %[null], %%fs\n\t"
			 "movl %[null], %%gs"
			 :
			 : [code] "i"(GDT_KERNEL_CODE), [data] "r"(GDT_KERNEL_DATA), [null] "r"(0)
			 : "rax", "memory");
	insn_ltr(GDT_TSS);
}
