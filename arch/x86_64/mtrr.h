/* SPDX-License-Identifier: MIT */
/*
 * Memory types of physical memory, as the MTRRs of this CPU say (SDM 3A 12.11). Read, never written: the
 * firmware set them, and knows why.
 */
#ifndef ARCH_X86_64_MTRR_H
#define ARCH_X86_64_MTRR_H

#include "kernel/base/types.h"

/* SDM 3A table 12-8. */
enum mtrr_type {
	MTRR_UC = 0,
	MTRR_WC = 1,
	MTRR_WT = 4,
	MTRR_WP = 5,
	MTRR_WB = 6,
};

#define MTRR_FIXED 88u		/* ranges below 1 MiB: 8 of 64K, 16 of 16K, 64 of 4K */
#define MTRR_VARIABLE_MAX 32u

struct mtrr_state {
	bool present;		/* the CPU has MTRRs; without them all memory is write-back */
	bool enabled;		/* if not: all memory is uncached */
	bool fixed_enabled;
	u8 default_type;
	u8 phys_bits;
	u8 nr_variable;
	u8 fixed[MTRR_FIXED];	/* types, in order of address */
	struct {
		u64 base;	/* with the type in bits 7:0 */
		u64 mask;	/* bit 11: in use */
	} variable[MTRR_VARIABLE_MAX];
	u64 force_wb_end;	/* AMD: [4 GiB, end) is write-back whatever the default type says; 0: not so */
};

/* Read the registers of this CPU; what arch_memory_type() answers from. cpu_info is filled in. */
void mtrr_init(void);

/* Read the registers of this CPU. */
void mtrr_read(struct mtrr_state *state);

/*
 * Compare two states. Returns the number of differences; the first few are in text, in words.
 */
unsigned mtrr_compare(const struct mtrr_state *first, const struct mtrr_state *other, char *text, size_t size);

/* The same for this CPU, which has number cpu, against the first: said in the log. */
void mtrr_check(u32 cpu);

/* What the registers in *state say of the byte at pa, and of how many behind it (arch_memory_type). */
u8 mtrr_type(const struct mtrr_state *state, u64 pa, u64 *end);

/* The state that mtrr_init() read. */
const struct mtrr_state *mtrr_state(void);

#endif
