/* SPDX-License-Identifier: MIT */
/* The few instructions that the loader needs and C does not have. Intel SDM volume 2. */
#ifndef BOOT_CPU_H
#define BOOT_CPU_H

#include "kernel/base/types.h"

#define CPU_CR4_LA57 0x1000u	/* linear addresses of 57 bits: 5 levels of tables */

static inline u8 cpu_in8(u16 port)
{
	u8 value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void cpu_out8(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u64 cpu_tsc(void)
{
	u32 low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

static inline u64 cpu_cr4(void)
{
	u64 value;

	__asm__ volatile("mov %%cr4, %0" : "=r"(value));
	return value;
}

/* From every cache into memory: a reset drops what caches hold. CLFLUSH is ordered by MFENCE only (SDM 2A). */
static inline void cpu_write_back(const void *start, u64 size)
{
	u32 a = 1, b, c = 0, d;
	u64 line;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	line = (b >> 8 & 0xff) * 8;
	if (!(d >> 19 & 1) || !line)	/* no CLFLUSH: no x86-64 CPU is known to lack it */
		return;
	__asm__ volatile("mfence" : : : "memory");
	for (u64 at = (u64)start & ~(line - 1); at < (u64)start + size; at += line)
		__asm__ volatile("clflush %0" : "+m"(*(volatile char *)at));
	__asm__ volatile("mfence" : : : "memory");
}

static inline u64 cpu_cr3(void)
{
	u64 value;

	__asm__ volatile("mov %%cr3, %0" : "=r"(value));
	return value;
}

/* CPUID leaf 0x80000001, EDX bit 20: entries of page tables may say NX. */
static inline bool cpu_has_nx(void)
{
	u32 a = 0x80000000u, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (a < 0x80000001u)
		return false;
	a = 0x80000001u;
	c = 0;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return d >> 20 & 1;
}

/* Whether entries may say NX now: EFER.NXE. */
static inline bool cpu_nx_on(void)
{
	u32 low, high;

	if (!cpu_has_nx())
		return false;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0000080u));
	return low >> 11 & 1;
}

#endif
