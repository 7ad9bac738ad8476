/* SPDX-License-Identifier: MIT */
/* The interrupt descriptor table: all 256 vectors lead to trap.asm. One table for all CPUs. */
#ifndef ARCH_X86_64_IDT_H
#define ARCH_X86_64_IDT_H

#include "kernel/base/range.h"

/* Fill the table. Once. */
void idt_init(void);
/* Load it on this CPU. */
void idt_load(void);
/* Where it lies. */
struct range idt_range(void);

#endif
