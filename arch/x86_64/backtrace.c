/* SPDX-License-Identifier: MIT */
/*
 * Follows frame pointers without trusting them: each is read by a load that may fault, and the chain must climb, so it
 * ends, whatever is on the stack.
 */
#include "arch/x86_64/backtrace.h"

#include "arch/x86_64/trap.h"
#include "kernel/base/bits.h"

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
