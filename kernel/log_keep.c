/* SPDX-License-Identifier: MIT */
/*
 * The memory is written through the direct map, cached like all of it (a second mapping of another type would be an alias that the
 * SDM forbids: volume 3, 12.12.4), and each write is pushed out of the caches: a reset does not.
 */
#include "kernel/log_keep.h"

#include "arch/x86_64/insn.h"
#include "kernel/base/log.h"
#include "kernel/base/log_ring.h"
#include "kernel/console.h"
#include "mm/arch.h"

#define CPUID1_EDX_CLFSH 19

static struct log_ring ring;
static u64 line_size;	/* of CLFLUSH; 0: there is none */

/* SDM 2A, CLFLUSH: ordered by MFENCE only on older CPUs. */
static void persist(const void *start, u64 size)
{
	if (!line_size)
		return;
	insn_mfence();
	for (u64 at = (u64)start & ~(line_size - 1); at < (u64)start + size; at += line_size)
		insn_clflush((const void *)at);
	insn_mfence();
}

static size_t keep(struct console *console, const char *text, size_t len)
{
	(void)console;
	log_ring_append(&ring, text, len);
	return len;
}

void log_keep_init(const struct boot_info *bi)
{
	static struct console console = { .name = "kept log", .write = keep };
	struct cpuid_regs r = insn_cpuid(1, 0);

	if (!bi->log.pa)
		return;
	line_size = r.edx >> CPUID1_EDX_CLFSH & 1 ? (r.ebx >> 8 & 0xff) * 8 : 0;
	if (!log_ring_open(&ring, phys_to_virt(phys(bi->log.pa)), persist)) {
		log_warn("log: the memory at 0x%lx is no empty ring: this log is not kept", bi->log.pa);
		return;
	}
	console_register(&console);
}
