/* SPDX-License-Identifier: MIT */
/* IOAPICs: see ioapic.h. Registers are reached by an index and a window, under a lock. */
#include "arch/x86_64/ioapic.h"

#include "kernel/base/bits.h"
#include "kernel/base/spinlock.h"

#define INDEX 0x00u
#define WINDOW 0x10u

#define VERSION 1u
#define ENTRY(line) (0x10u + 2 * (line))	/* low half; the high one, with the CPU's id, is behind it */

#define ENTRY_NMI (4u << 8)
#define ENTRY_ACTIVE_LOW (1u << 13)
#define ENTRY_MASKED (1u << 16)

static struct {
	volatile u8 *registers;
	u32 base, nr;
} ioapics[IOAPICS_MAX];
static u32 nr_ioapics;
static spinlock_t lock = SPINLOCK_INIT;

static u32 get(u32 i, u32 reg)
{
	*(volatile u32 *)(ioapics[i].registers + INDEX) = reg;
	return *(volatile u32 *)(ioapics[i].registers + WINDOW);
}

static void set(u32 i, u32 reg, u32 value)
{
	*(volatile u32 *)(ioapics[i].registers + INDEX) = reg;
	*(volatile u32 *)(ioapics[i].registers + WINDOW) = value;
}

bool ioapic_add(volatile void *registers, u32 base)
{
	u32 i = nr_ioapics, version;

	if (i == IOAPICS_MAX || !registers)
		return false;
	ioapics[i].registers = registers;
	version = get(i, VERSION);
	if (version == 0 || version == UINT32_MAX)
		return false;
	ioapics[i].base = base;
	ioapics[i].nr = (version >> 16 & 0xff) + 1;
	nr_ioapics++;
	for (u32 n = 0; n < ioapics[i].nr; n++)
		set(i, ENTRY(n), ENTRY_MASKED);
	return true;
}

u64 ioapic_lines(void)
{
	u64 lines = 0;

	for (u32 i = 0; i < nr_ioapics; i++)
		for (u32 n = 0; n < ioapics[i].nr && ioapics[i].base + n < 64; n++)
			lines |= BIT(ioapics[i].base + n);
	return lines;
}

/* Which IOAPIC serves a line; nr_ioapics: none. */
static u32 find(u32 line)
{
	u32 i = 0;

	while (i < nr_ioapics && (line < ioapics[i].base || line - ioapics[i].base >= ioapics[i].nr))
		i++;
	return i;
}

/* The id first, while the entry is masked. In NMI mode the vector does not count, and the trigger is always an edge. */
bool ioapic_set_nmi(u32 line, u32 apic_id, bool active_low)
{
	u32 i = find(line);
	u32 n;

	if (i == nr_ioapics || apic_id > 254)
		return false;
	n = line - ioapics[i].base;
	spin_lock(&lock);
	set(i, ENTRY(n), ENTRY_MASKED);
	set(i, ENTRY(n) + 1, apic_id << 24);
	set(i, ENTRY(n), ENTRY_NMI | (active_low ? ENTRY_ACTIVE_LOW : 0));
	spin_unlock(&lock);
	return true;
}

void ioapic_mask(u32 line)
{
	u32 i = find(line);

	if (i == nr_ioapics)
		return;
	spin_lock(&lock);
	set(i, ENTRY(line - ioapics[i].base), ENTRY_MASKED);
	spin_unlock(&lock);
}
