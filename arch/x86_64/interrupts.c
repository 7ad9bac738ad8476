/* SPDX-License-Identifier: MIT */
/* Silences the 8259s (Intel 8259A data sheet) and hands out interrupts. */
#include "arch/x86_64/interrupts.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/insn.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/percpu.h"
#include "arch/x86_64/timer.h"

#define PIC_MASTER 0x20
#define PIC_SLAVE 0xa0
#define PIC_VECTORS 0xe0	/* 16 of them: a spurious IRQ 7 or 15 must not look like an exception */
#define PIC_INIT 0x11		/* ICW1: ICW4 follows, edge, cascade */
#define PIC_8086 0x01		/* ICW4 */

void interrupts_silence(void)
{
	static const struct {
		u16 port;
		u8 value;
	} writes[] = {
		{ PIC_MASTER, PIC_INIT },
		{ PIC_SLAVE, PIC_INIT },
		{ PIC_MASTER + 1, PIC_VECTORS },
		{ PIC_SLAVE + 1, PIC_VECTORS + 8 },
		{ PIC_MASTER + 1, 1 << 2 },	/* the slave hangs on IRQ 2 */
		{ PIC_SLAVE + 1, 2 },
		{ PIC_MASTER + 1, PIC_8086 },
		{ PIC_SLAVE + 1, PIC_8086 },
		{ PIC_MASTER + 1, 0xff },
		{ PIC_SLAVE + 1, 0xff },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
		insn_outb(writes[i].port, writes[i].value);
}

static const struct {
	u8 vector;
	void (*handle)(void);
} ours[] = {
	{ VECTOR_CALL, ipi_interrupt },
	{ VECTOR_TIMER, timer_interrupt },
};

/*
 * Ours come from the APIC only. Of the others only one in service is acknowledged: a spurious one is not, nor one by INT, and
 * an EOI too many would end another. It is before the handler runs: interrupts are off until the return, so nothing
 * comes in between.
 */
void interrupts_handle(u8 vector)
{
	for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
		if (ours[i].vector == vector) {
			apic_eoi();
			ours[i].handle();
			return;
		}
	if (apic_in_service(vector))
		apic_eoi();
	cpu_local()->stray_interrupts++;
}
