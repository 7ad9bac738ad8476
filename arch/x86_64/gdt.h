/* SPDX-License-Identifier: MIT */
/*
 * The global descriptor table and the task state segment of one CPU. In 64-bit mode both are little more than
 * a formality: a code segment, a data segment, and the place where the CPU looks up stacks for traps.
 */
#ifndef ARCH_X86_64_GDT_H
#define ARCH_X86_64_GDT_H

#include "kernel/base/types.h"

#define GDT_KERNEL_CODE 0x08
#define GDT_KERNEL_DATA 0x10
#define GDT_TSS 0x18	/* two slots */

struct gdt {
	u64 entry[5];
};

/* SDM 3A figure 7-11 (64-bit TSS). */
struct tss {
	u32 reserved0;
	u64 rsp[3];	/* stacks for rings 0..2 */
	u64 reserved1;
	u64 ist[7];	/* interrupt stacks 1..7 */
	u64 reserved2;
	u16 reserved3;
	u16 io_map;	/* offset of the I/O permission map: beyond the limit means none */
} __packed;

/* Fill both; the stacks in the TSS are the caller's business. */
void gdt_init(struct gdt *gdt, struct tss *tss);

/* Load the table, every segment register and the task register on this CPU. GS_BASE is 0 afterwards. */
void gdt_load(const struct gdt *gdt);

#endif
