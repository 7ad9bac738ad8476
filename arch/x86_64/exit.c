/* SPDX-License-Identifier: MIT */
/* Ends the run by hardware: debug-exit device, halt, reset. */
#include "arch/x86_64/exit.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"

#define DEBUG_EXIT_PORT 0xf4
#define KBC_STATUS 0x64
#define KBC_COMMAND 0x64
#define KBC_INPUT_FULL 0x02
#define KBC_PULSE_RESET 0xfe
#define KBC_WAIT_READS 100000u

void exit_debug(u8 value)
{
	if (cpu_has(CPU_HYPERVISOR) && insn_inb(DEBUG_EXIT_PORT) == 0)
		insn_outb(DEBUG_EXIT_PORT, value);
}

__noreturn void exit_halt(void)
{
	for (;;) {
		insn_cli();
		insn_hlt();
	}
}

__noreturn void exit_reset(void)
{
	struct descriptor_pointer none = { 0, 0 };

	insn_cli();
	for (u32 i = 0; i < KBC_WAIT_READS && (insn_inb(KBC_STATUS) & KBC_INPUT_FULL); i++)
		insn_pause();
	insn_outb(KBC_COMMAND, KBC_PULSE_RESET);
	for (u32 i = 0; i < KBC_WAIT_READS; i++)
		insn_pause();
	insn_lidt(&none);
	__asm__ volatile("int3");
	exit_halt();
}
