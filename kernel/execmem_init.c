/* SPDX-License-Identifier: MIT */
/*
 * Where executable memory lies, and what it starts with.
 *
 * Preferred is what lies behind the image, up to the end of the address space: all of it is within 2 GiB
 * of any byte of the image, and reachable by sign-extended 32-bit addresses, as -mcmodel=kernel code uses
 * them. The fallback is the gigabyte below the image, which calls and RIP-relative addresses reach.
 *
 * The loader has filled the last block of the text with INT3 behind the text's end: that is the text tail.
 */
#include "kernel/execmem_init.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/execmem.h"

/* linker.ld */
extern const char _text_start[], _text_end[], _image_end[];

#define LEAF_2M (2 * MIB)

static struct range text_tail(void)
{
	u64 end = align_up((u64)_text_end, LEAF_2M);

	return range(MIN(align_up((u64)_text_end, EXECMEM_CHUNK), end), end);
}

/* Not 0, which would pin the base. */
static u64 random_number(const struct boot_info *bi)
{
	u64 random;

	memcpy(&random, bi->entropy, sizeof(random));
	return random | 1ull << 63;
}

void execmem_boot(const struct boot_info *bi)
{
	struct range preferred = range(align_up((u64)_image_end, LEAF_2M), -LEAF_2M);
	struct range fallback = range(KERNEL_BASE - GIB, KERNEL_BASE);
	struct range tail = text_tail();
	int rc = execmem_init(preferred, fallback, tail, cmdline.kaslr ? random_number(bi) : 0, cmdline.execmem);

	if (rc)
		panic("executable memory: not at 0x%lx-0x%lx (error %d)", preferred.start, preferred.end, -rc);
	preferred = execmem_params(cmdline.execmem, EXECMEM_TEXT)->ranges[0];
	log_info("executable memory: policy %s, from 0x%llx on%s, %llu KiB of text tail",
		 execmem_policy_name(cmdline.execmem), (unsigned long long)preferred.start,
		 cmdline.kaslr ? " (random)" : "", (unsigned long long)(range_size(tail) / KIB));
}
