/* SPDX-License-Identifier: MIT */
/* The PIT: see pit.h. */
#include "arch/x86_64/pit.h"

#include "arch/x86_64/insn.h"
#include "mm/arch.h"

#define CHANNEL_0 0x40
#define COMMAND 0x43
#define LATCH_0 0x00
#define BOTH_BYTES 0x30		/* low byte first */
#define MODE_ONCE (0 << 1)
#define MODE_RATE (2 << 1)

void pit_start(u32 ticks)
{
	insn_outb(COMMAND, BOTH_BYTES | MODE_RATE);
	insn_outb(CHANNEL_0, (u8)ticks);	/* 65536 is written as 0 */
	insn_outb(CHANNEL_0, (u8)(ticks >> 8));
}

/* In mode 0 nothing is counted until a number has been written. */
void pit_stop(void)
{
	insn_outb(COMMAND, BOTH_BYTES | MODE_ONCE);
}

u32 pit_read(void)
{
	u64 flags = arch_irq_save();
	u32 value;

	insn_outb(COMMAND, LATCH_0);
	value = insn_inb(CHANNEL_0);
	value |= (u32)insn_inb(CHANNEL_0) << 8;
	arch_irq_restore(flags);
	return -value & 0xffff;
}
