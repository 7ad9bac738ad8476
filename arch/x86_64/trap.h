/* SPDX-License-Identifier: MIT */
/*
 * Exceptions and interrupts: decoded, caught when a caller expects them, fatal otherwise.
 *
 * trap_try() is how a test (or the panic code, reading memory that may not be there) says "this may fault":
 *
 *	if (!trap_try(write_it, p, &record))
 *		... record.vector, record.error, record.cr2, record.rip
 *
 * Sources: SDM 3A chapter 6 (6.15 for each vector; 4.7 for the error code of page faults).
 */
#ifndef ARCH_X86_64_TRAP_H
#define ARCH_X86_64_TRAP_H

#include "kernel/base/types.h"

#define TRAP_VECTORS 256u
#define TRAP_EXCEPTIONS 32u	/* vectors below are the CPU's own */

enum trap_vector {
	TRAP_DIVIDE = 0,
	TRAP_DEBUG = 1,
	TRAP_NMI = 2,
	TRAP_BREAKPOINT = 3,
	TRAP_OVERFLOW = 4,
	TRAP_BOUND = 5,
	TRAP_INVALID_OPCODE = 6,
	TRAP_NO_FPU = 7,
	TRAP_DOUBLE_FAULT = 8,
	TRAP_INVALID_TSS = 10,
	TRAP_SEGMENT = 11,
	TRAP_STACK = 12,
	TRAP_GENERAL_PROTECTION = 13,
	TRAP_PAGE_FAULT = 14,
	TRAP_FPU = 16,
	TRAP_ALIGNMENT = 17,
	TRAP_MACHINE_CHECK = 18,
	TRAP_SIMD = 19,
	TRAP_VIRTUALIZATION = 20,
	TRAP_CONTROL_PROTECTION = 21,
};

/* Error code of a page fault (SDM 3A figure 4-12). */
#define PF_PRESENT 0x1u		/* a rights violation; otherwise nothing was mapped */
#define PF_WRITE 0x2u
#define PF_USER 0x4u		/* from ring 3 */
#define PF_RESERVED 0x8u	/* a reserved bit was set in an entry */
#define PF_FETCH 0x10u		/* instruction fetch */
#define PF_PKEY 0x20u		/* protection key */
#define PF_SHADOW_STACK 0x40u
#define PF_HLAT 0x80u
#define PF_SGX 0x8000u
#define PF_RMP 0x80000000u	/* AMD APM 2, 8.4.2 */

/* What trap.asm leaves on the stack. */
struct trap_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8;
	u64 rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector;
	u64 error;	/* 0 where the CPU pushes none */
	u64 rip, cs, rflags, rsp, ss;
};

/* A fault that was expected. */
struct trap_record {
	u32 vector;
	u32 error;
	u64 cr2;	/* page faults and double faults only, else 0 */
	u64 rip;
};

/*
 * Run fn(arg). True: it returned. False: an exception ended it, and *out (if not NULL) says which; what fn had
 * done by then stays done, and it must hold no lock when it faults. NMI and machine check are never caught. Calls
 * may be nested: the innermost one catches. Any context; a trap inside an interrupt is caught only by a
 * trap_try() of that interrupt.
 */
bool trap_try(void (*fn)(void *arg), void *arg, struct trap_record *out);

/* Read memory that may not be there. False: it is not, and *out is unchanged. Any context. */
bool trap_read_u64(u64 va, u64 *out);

/* Read or write a model-specific register that may not be there (#GP). */
bool trap_rdmsr(u32 msr, u64 *out);

/* "page fault", "vector 200". */
const char *trap_name(u64 vector);

/* "write to a present page, rights violation" and the like; returns buf. */
const char *trap_describe_page_fault(u64 error, char *buf, size_t size);

/* Entry points by vector (trap.asm). */
/* Whether trap entry has to clear RFLAGS.AC: the CPU has SMAP, and with it CLAC. Set once by cpu_init(). */
extern bool trap_clears_ac;

extern const u64 trap_stubs[TRAP_VECTORS];

#endif
