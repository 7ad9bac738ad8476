/* SPDX-License-Identifier: MIT */
/*
 * Follows frame pointers without trusting them: each is read by a load that may fault, and the chain must climb, so it
 * ends, whatever is on the stack.
 */
#include "arch/x86_64/backtrace.h"

#include "arch/x86_64/percpu.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/bits.h"
#include "mm/arch.h"

unsigned backtrace(u64 rbp, u64 *addresses, unsigned max)
{
	unsigned nr = 0;

	while (nr < max && rbp && is_aligned(rbp, 8)) {
		u64 outer, address;

		if (!trap_read_u64(rbp, &outer) || !trap_read_u64(rbp + 8, &address) || !address)
			break;
		addresses[nr++] = address;
		if (outer <= rbp)
			break;
		rbp = outer;
	}
	return nr;
}

/* Which of a CPU's stacks a frame lies in; an empty range: none. */
static struct range stack_of(const struct cpu_local *local, u64 rbp)
{
	for (unsigned i = 0; i < CPU_STACKS; i++)
		if (rbp >= local->stacks[i].start && rbp + 16 <= local->stacks[i].end)
			return local->stacks[i];
	return range(0, 0);
}

/*
 * On the CPU's own stacks only, which are mapped: a fault in an NMI would end by IRET, and let the next one onto the same stack. From
 * an interrupt stack the chain leads to the one that was interrupted, and within each it climbs.
 */
unsigned arch_backtrace(u64 frame, u64 *addresses, unsigned max)
{
	const struct cpu_local *local = cpu_local();
	unsigned nr = 0;

	for (unsigned hops = 0; hops < CPU_STACKS && nr < max; hops++) {
		struct range stack = stack_of(local, frame);

		while (nr < max && is_aligned(frame, 8) && frame >= stack.start && frame + 16 <= stack.end) {
			const u64 *words = (const u64 *)frame;

			if (!words[1])
				return nr;
			addresses[nr++] = words[1];
			if (words[0] <= frame && words[0] >= stack.start)
				return nr;
			frame = words[0];
		}
	}
	return nr;
}
