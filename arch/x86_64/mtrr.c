/* SPDX-License-Identifier: MIT */
/* Reads and decodes MTRRs. mtrr_type() is a pure function of the registers, so that tests can feed it any. */
#include "arch/x86_64/mtrr.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/arch.h"

#define DEF_TYPE_ENABLED BIT(11)
#define DEF_TYPE_FIXED BIT(10)
#define CAP_FIXED BIT(8)
#define MASK_VALID BIT(11)
#define SYSCFG_TOM2_ENABLED BIT(21)
#define SYSCFG_TOM2_FORCE_WB BIT(22)

static struct mtrr_state boot_state;

const struct mtrr_state *mtrr_state(void)
{
	return &boot_state;
}

/* The MSRs of the fixed ranges, in order of address; each holds eight types, lowest address first. */
static void read_fixed(struct mtrr_state *state)
{
	u32 msrs[MTRR_FIXED / 8] = { MSR_MTRR_FIX_64K, MSR_MTRR_FIX_16K(0), MSR_MTRR_FIX_16K(1) };

	for (u32 i = 0; i < 8; i++)
		msrs[3 + i] = MSR_MTRR_FIX_4K(i);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		u64 types = insn_rdmsr(msrs[i]);

		memcpy(state->fixed + 8 * i, &types, 8);
	}
}

/* AMD APM 2, 7.9.4: what lies between 4 GiB and TOM2 is RAM, and may be write-back without any MTRR. */
static u64 read_force_wb(void)
{
	u64 config, top;

	if (strcmp(cpu_info.vendor, "AuthenticAMD") != 0 || cpu_info.family < 0xf || cpu_has(CPU_HYPERVISOR))
		return 0;
	if (!trap_rdmsr(MSR_AMD_SYSCFG, &config) || !trap_rdmsr(MSR_AMD_TOP_MEM2, &top))
		return 0;
	if ((config & (SYSCFG_TOM2_ENABLED | SYSCFG_TOM2_FORCE_WB)) != (SYSCFG_TOM2_ENABLED | SYSCFG_TOM2_FORCE_WB))
		return 0;
	return top & PTE_ADDR;
}

void mtrr_read(struct mtrr_state *state)
{
	u64 cap, def;

	memset(state, 0, sizeof(*state));
	state->phys_bits = cpu_info.phys_bits;
	state->present = cpu_has(CPU_MTRR);
	if (!state->present)
		return;
	cap = insn_rdmsr(MSR_MTRR_CAP);
	def = insn_rdmsr(MSR_MTRR_DEF_TYPE);
	state->enabled = def & DEF_TYPE_ENABLED;
	state->default_type = (u8)def;
	state->fixed_enabled = (cap & CAP_FIXED) && (def & DEF_TYPE_FIXED);
	if (state->fixed_enabled)
		read_fixed(state);
	state->nr_variable = (u8)MIN(cap & 0xff, MTRR_VARIABLE_MAX);
	for (u32 i = 0; i < state->nr_variable; i++) {
		state->variable[i].base = insn_rdmsr(MSR_MTRR_PHYS_BASE(i));
		state->variable[i].mask = insn_rdmsr(MSR_MTRR_PHYS_MASK(i));
	}
	state->force_wb_end = read_force_wb();
}

void mtrr_init(void)
{
	mtrr_read(&boot_state);
}

/* ---- The same on every CPU? (SDM 3A 12.11.8: they must agree) ---- */

#define DIFFERENCES_SAID 4u

struct comparison {
	char *text;
	size_t size, len;
	unsigned nr;
};

static void differ(struct comparison *c, const char *what, int index, u64 first, u64 other)
{
	char number[16] = "";

	if (first == other || c->nr++ >= DIFFERENCES_SAID || c->len >= c->size)
		return;
	if (index >= 0)
		fmt_print(number, sizeof(number), " %d", index);
	c->len += fmt_print(c->text + c->len, c->size - c->len, "%s%s%s 0x%llx (not 0x%llx)", c->len ? ", " : "", what,
			    number, (unsigned long long)other, (unsigned long long)first);
}

unsigned mtrr_compare(const struct mtrr_state *first, const struct mtrr_state *other, char *text, size_t size)
{
	struct comparison c = { text, size, 0, 0 };

	*text = 0;
	differ(&c, "present", -1, first->present, other->present);
	differ(&c, "enabled", -1, first->enabled, other->enabled);
	differ(&c, "default type", -1, first->default_type, other->default_type);
	differ(&c, "fixed ranges enabled", -1, first->fixed_enabled, other->fixed_enabled);
	differ(&c, "variable ranges", -1, first->nr_variable, other->nr_variable);
	differ(&c, "write-back up to", -1, first->force_wb_end, other->force_wb_end);
	for (int i = 0; i < (int)MTRR_FIXED; i++)
		differ(&c, "type of fixed range", i, first->fixed[i], other->fixed[i]);
	for (int i = 0; i < (int)MTRR_VARIABLE_MAX; i++) {
		differ(&c, "base", i, first->variable[i].base, other->variable[i].base);
		differ(&c, "mask", i, first->variable[i].mask, other->variable[i].mask);
	}
	if (c.nr > DIFFERENCES_SAID && c.len < size)
		fmt_print(text + c.len, size - c.len, " and %u more", c.nr - DIFFERENCES_SAID);
	return c.nr;
}

/* An emulator may reset them by INIT, and does not care: there the difference is worth a line, no warning. */
void mtrr_check(u32 cpu)
{
	struct mtrr_state mine;
	char text[256];

	mtrr_read(&mine);
	if (!mtrr_compare(&boot_state, &mine, text, sizeof(text)))
		return;
	if (cpu_has(CPU_HYPERVISOR))
		log_info("CPU %u: MTRRs, under a hypervisor: %s", cpu, text);
	else
		log_warn("CPU %u: MTRRs are not those of the first CPU: %s", cpu, text);
}

/* Below 1 MiB: 8 ranges of 64K, 16 of 16K from 512 KiB on, 64 of 4K from 768 KiB on. */
static u8 fixed_type(const struct mtrr_state *state, u64 pa, u64 *end)
{
	u64 index, size;

	if (pa < 512 * KIB) {
		size = 64 * KIB;
		index = pa / size;
	} else if (pa < 768 * KIB) {
		size = 16 * KIB;
		index = 8 + (pa - 512 * KIB) / size;
	} else {
		size = 4 * KIB;
		index = 24 + (pa - 768 * KIB) / size;
	}
	*end = align_down(pa, size) + size;
	return state->fixed[index];
}

/*
 * Whether variable range i holds pa, and in *end, if that is lower, where this may change. A mask of one run of
 * ones is one range; any other mask repeats, and may change at every multiple of its lowest bit.
 */
static bool variable_has(const struct mtrr_state *state, unsigned i, u64 pa, u64 *end)
{
	u64 bits = BIT(state->phys_bits) - PAGE_SIZE;
	u64 mask = state->variable[i].mask & bits;
	u64 base = state->variable[i].base & mask;
	u64 size, change;

	if (!(state->variable[i].mask & MASK_VALID))
		return false;
	if (!mask)
		return true;	/* all of physical memory */
	size = mask & -mask;
	if (mask == (bits & ~(size - 1)))
		change = pa < base ? base : base + size;
	else
		change = align_down(pa, size) + size;
	if (change > pa && change < *end)
		*end = change;
	return (pa & mask) == base;
}

/*
 * Where several ranges overlap (SDM 3A 12.11.4.1): equal types are that type, UC wins over all, WT over WB. Anything
 * else is undefined there; uncached is the safe reading.
 */
static u8 combine(u8 a, u8 b)
{
	if (a == b)
		return a;
	if ((a == MTRR_WT && b == MTRR_WB) || (a == MTRR_WB && b == MTRR_WT))
		return MTRR_WT;
	return MTRR_UC;
}

u8 mtrr_type(const struct mtrr_state *state, u64 pa, u64 *end)
{
	bool hit = false;
	u8 type = 0;

	*end = BIT(state->phys_bits);
	if (!state->present)
		return MTRR_WB;
	if (!state->enabled)
		return MTRR_UC;
	if (state->fixed_enabled && pa < MIB)
		return fixed_type(state, pa, end);
	for (unsigned i = 0; i < state->nr_variable; i++) {
		if (!variable_has(state, i, pa, end))
			continue;
		type = hit ? combine(type, (u8)state->variable[i].base) : (u8)state->variable[i].base;
		hit = true;
	}
	if (pa < 4 * GIB && state->force_wb_end > 4 * GIB)
		*end = MIN(*end, 4 * GIB);
	if (pa >= 4 * GIB && pa < state->force_wb_end) {
		*end = MIN(*end, state->force_wb_end);
		if (!hit)
			return MTRR_WB;
	}
	return hit ? type : state->default_type;
}

u8 arch_memory_type(phys_t pa, u64 *end)
{
	return mtrr_type(&boot_state, pa.raw, end);
}
