/* SPDX-License-Identifier: MIT */
/*
 * A kernel that does nothing but check what the loader promised in boot/boot_info.h, line by line.
 *
 * It knows nothing of the loader's code, only of that header and of pte.h. What it finds goes to COM1 as
 * "handover: key=value" lines, each broken promise as "handover: FAULT ...", and at the end
 * "handover: END faults=N". Then it leaves QEMU through the debug-exit device. Read by tests/qemu/boot_*.py.
 */
#include <stdarg.h>

#include "arch/x86_64/pte.h"
#include "boot/boot_info.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log_ring.h"
#include "kernel/base/range.h"
#include "kernel/base/string.h"

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
#define BLOCK (2 * MIB)
#define DIRECT_END VMEMMAP_BASE
#define FLAG_IF BIT(9)
#define FLAG_DF BIT(10)
#define CR0_WP BIT(16)
#define CR4_PGE BIT(7)
#define CR4_LA57 BIT(12)
#define MSR_EFER 0xc0000080
#define EFER_NXE BIT(11)
#define PF_X 1u
#define PF_W 2u
#define INT3 0xcc

void handover_main(const struct boot_info *info, u64 rflags) __noreturn;

/* Larger than a block, so that the data segment has two; and never written, so that it must be found zero. */
static u8 zeroes[3 * MIB];
static volatile u64 data_word = 0x1122334455667788;

static const struct boot_info *info;
static unsigned faults;
static bool has_nx;
static struct log_ring log;

/* Nothing is read back after a reset here. */
static void persist(const void *start, u64 size)
{
	(void)start;
	(void)size;
}

static void out8(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in8(u16 port)
{
	u8 value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void put(const char *text)
{
	for (; *text; text++) {
		for (unsigned i = 0; i < 100000 && !(in8(COM1 + 5) & 0x20); i++)
			;
		out8(COM1, (u8)*text);
	}
}

static void __printf(1, 2) say(const char *fmt, ...)
{
	char line[256];
	va_list args;

	va_start(args, fmt);
	fmt_vprint(line, sizeof(line), fmt, args);
	va_end(args);
	put("handover: ");
	put(line);
	put("\n");
}

/* Only the first are spelled out: a table that is wrong throughout would say so a million times. */
#define check(cond, ...)                               \
	do {                                           \
		if (!(cond) && ++faults <= 20)         \
			say("FAULT " __VA_ARGS__);     \
	} while (0)

static u64 read_msr(u32 msr)
{
	u32 low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

static u64 read_cr0(void)
{
	u64 v;

	__asm__ volatile("mov %%cr0, %0" : "=r"(v));
	return v;
}

static u64 read_cr3(void)
{
	u64 v;

	__asm__ volatile("mov %%cr3, %0" : "=r"(v));
	return v;
}

static u64 read_cr4(void)
{
	u64 v;

	__asm__ volatile("mov %%cr4, %0" : "=r"(v));
	return v;
}

static bool cpu_nx(void)
{
	u32 a = 0x80000001, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return d >> 20 & 1;
}

static void *direct(u64 pa)
{
	return (void *)(BOOT_DIRECT_BASE + pa);
}

static const struct boot_mem *mem(u32 i)
{
	return (const struct boot_mem *)direct(info->mem) + i;
}

/* The list of boot_info.h: any usable, ACPI or runtime type. */
static bool is_ram(u32 type)
{
	static const bool ram[16] = {
		[BOOT_MEM_LOADER_CODE] = true, [BOOT_MEM_LOADER_DATA] = true,
		[BOOT_MEM_BOOT_SERVICES_CODE] = true, [BOOT_MEM_BOOT_SERVICES_DATA] = true,
		[BOOT_MEM_RUNTIME_CODE] = true, [BOOT_MEM_RUNTIME_DATA] = true,
		[BOOT_MEM_CONVENTIONAL] = true, [BOOT_MEM_ACPI_RECLAIM] = true, [BOOT_MEM_ACPI_NVS] = true,
	};

	return type < 16 && ram[type];
}

static bool is_usable(u32 type)
{
	return is_ram(type) && type != BOOT_MEM_RUNTIME_CODE && type != BOOT_MEM_RUNTIME_DATA &&
	       type != BOOT_MEM_ACPI_RECLAIM && type != BOOT_MEM_ACPI_NVS;
}

/* Whether [pa, pa + size) lies in memory of an EFI loader type. */
static bool in_loader_memory(u64 pa, u64 size)
{
	for (u32 i = 0; i < info->mem_count; i++)
		if ((mem(i)->type == BOOT_MEM_LOADER_DATA || mem(i)->type == BOOT_MEM_LOADER_CODE) &&
		    range_covers(range(mem(i)->start, mem(i)->end), range_len(pa, size)))
			return true;
	return false;
}

static bool touches_ram(u64 pa, u64 size)
{
	for (u32 i = 0; i < info->mem_count; i++)
		if (is_ram(mem(i)->type) && range_overlaps(range(mem(i)->start, mem(i)->end), range_len(pa, size)))
			return true;
	return false;
}

static void check_cpu(u64 rflags)
{
	check(!(rflags & FLAG_IF), "interrupts are on");
	check(!(rflags & FLAG_DF), "the direction flag is set");
	check(read_cr0() & CR0_WP, "CR0.WP is clear");
	check(!(read_cr4() & CR4_PGE), "CR4.PGE is set");
	check(!has_nx || (read_msr(MSR_EFER) & EFER_NXE), "the CPU has NX and EFER.NXE is clear");
	check((read_cr3() & PTE_ADDR) == info->boot_root, "CR3 is not boot_root");
	check(info->pt_levels == (read_cr4() & CR4_LA57 ? 5u : 4u), "pt_levels=%u", info->pt_levels);
	say("nx=%u levels=%u", has_nx, info->pt_levels);
}

/* An empty ring, which the kernel may write at once. */
static void check_log(void)
{
	say("log_mib=%lu", (u64)(info->log.size / MIB));
	if (!info->log.pa)
		return;
	check(info->log.size == LOG_RING_SIZE && is_aligned(info->log.pa, LOG_RING_ALIGN), "the log's memory is misplaced");
	check(in_loader_memory(info->log.pa, info->log.size), "the log is not loader memory");
	check(log_ring_valid(direct(info->log.pa)), "the log's memory is no ring");
	check(log_ring_open(&log, direct(info->log.pa), persist), "the log's ring is not empty");
}

static void check_map(void)
{
	u64 usable = 0;

	check(info->mem_count > 0, "the memory map is empty");
	for (u32 i = 0; i < info->mem_count; i++) {
		const struct boot_mem *m = mem(i);

		check(m->start < m->end, "map entry %u is empty", i);
		check(is_aligned(m->start | m->end, PAGE_SIZE), "map entry %u is not aligned", i);
		check(m->type < 16, "map entry %u has type %u", i, m->type);
		if (is_usable(m->type))
			usable += m->end - m->start;
		if (i == 0)
			continue;
		check(mem(i - 1)->end <= m->start, "map entries %u and %u are not in order", i - 1, i);
		check(mem(i - 1)->end != m->start || mem(i - 1)->type != m->type ||
		      mem(i - 1)->attributes != m->attributes, "map entries %u and %u are not merged", i - 1, i);
	}
	check(in_loader_memory(info->mem, info->mem_count * sizeof(struct boot_mem)), "the map is not loader memory");
	check(in_loader_memory((u64)info - BOOT_DIRECT_BASE, sizeof(*info)), "boot_info is not loader memory");
	say("map entries=%u usable_mib=%lu", info->mem_count, (u64)(usable / MIB));
}

/* One word of every page of RAM. */
static void read_ram(void)
{
	volatile u64 *top = direct(info->mem);
	u64 pages = 0, sum = 0;

	for (u32 i = 0; i < info->mem_count; i++) {
		if (!is_ram(mem(i)->type))
			continue;
		for (u64 pa = mem(i)->start; pa < mem(i)->end; pa += PAGE_SIZE, pages++)
			sum += *(volatile u64 *)direct(pa);
	}
	/* And writable: the map's own page, with what it holds already. */
	*top = *top;
	say("read pages=%lu sum_is_%s", pages, sum ? "something" : "zero");
}

static const struct boot_segment *segment_at(u64 va)
{
	for (u32 i = 0; i < info->segment_count; i++)
		if (va >= info->segments[i].va && va - info->segments[i].va < info->segments[i].size)
			return &info->segments[i];
	return NULL;
}

static unsigned one_to_one;
static u64 direct_leaves, image_leaves;

static void check_direct_leaf(u64 va, u64 pa, pte_t leaf)
{
	check(va - BOOT_DIRECT_BASE == pa, "direct map: 0x%lx maps 0x%lx", va, pa);
	check(leaf.raw & PTE_W, "direct map: 0x%lx is read-only", va);
	check(!has_nx || (leaf.raw & PTE_NX), "direct map: 0x%lx is executable", va);
	check(touches_ram(pa, BLOCK), "direct map: 0x%lx is no RAM", va);
	direct_leaves++;
}

static void check_image_leaf(u64 va, u64 pa, pte_t leaf)
{
	const struct boot_segment *s = segment_at(va);

	image_leaves++;
	check(s, "0x%lx is mapped and belongs to no segment", va);
	if (!s)
		return;
	check(pa - s->pa == va - s->va, "image: 0x%lx maps 0x%lx", va, pa);
	check(!!(leaf.raw & PTE_W) == !!(s->flags & PF_W), "image: 0x%lx has the wrong W", va);
	check(!has_nx || !(leaf.raw & PTE_NX) == !!(s->flags & PF_X), "image: 0x%lx has the wrong NX", va);
}

static void check_leaf(u64 va, pte_t leaf, unsigned level)
{
	u64 pa = pte_leaf_pa(leaf, level).raw;

	check(level == PT_2M, "0x%lx is a leaf of level %u", va, level);
	check(!(leaf.raw & PTE_U), "0x%lx is open to user mode", va);
	check(!(leaf.raw & PTE_G), "0x%lx is global", va);
	check(!(pte_attrs(leaf, level) & PTE_CACHE), "0x%lx is not write-back", va);
	check(!has_nx || (leaf.raw & PTE_NX) || !(leaf.raw & PTE_W), "0x%lx is writable and executable", va);
	if (va >= KERNEL_BASE)
		check_image_leaf(va, pa, leaf);
	else if (va >= BOOT_DIRECT_BASE && va < DIRECT_END)
		check_direct_leaf(va, pa, leaf);
	else if (va < BIT(47)) {
		check(va == pa, "low half: 0x%lx maps 0x%lx", va, pa);
		one_to_one++;
	} else
		check(false, "0x%lx is mapped", va);
}

/* Every entry of every table. va has its upper bits from the root on. */
static void walk(u64 table, unsigned level, u64 va)
{
	const pte_t *entries = direct(table);

	check(in_loader_memory(table, PAGE_SIZE), "the table at 0x%lx is not loader memory", table);
	for (unsigned i = 0; i < PT_ENTRIES; i++) {
		u64 at = va | (u64)i << pt_shift(level);

		if (level == info->pt_levels && i >= PT_ENTRIES / 2)
			at |= ~0ull << (pt_shift(level) + 8);
		if (!pte_present(entries[i]))
			check(pte_none(entries[i]), "entry for 0x%lx is neither present nor zero", at);
		else if (pte_is_leaf(entries[i], level))
			check_leaf(at, entries[i], level);
		else
			walk(pte_table_pa(entries[i]).raw, level - 1, at);
	}
}

/* Blocks that hold RAM, counted without the tables: the map ascends. */
static u64 ram_blocks(void)
{
	u64 blocks = 0, next = 0;

	for (u32 i = 0; i < info->mem_count; i++) {
		u64 start = MAX(align_down(mem(i)->start, BLOCK), next);
		u64 end = align_up(mem(i)->end, BLOCK);

		if (!is_ram(mem(i)->type) || start >= end)
			continue;
		blocks += (end - start) / BLOCK;
		next = end;
	}
	return blocks;
}

static void check_root(void)
{
	u64 image_blocks = 0;

	for (u32 i = 0; i < info->segment_count; i++)
		image_blocks += info->segments[i].size / BLOCK;
	walk(info->boot_root, info->pt_levels, 0);
	check(direct_leaves == ram_blocks(), "direct map: %lu leaves for %lu blocks", direct_leaves, ram_blocks());
	check(image_leaves == image_blocks, "image: %lu leaves for %lu blocks", image_leaves, image_blocks);
	check(one_to_one >= 1 && one_to_one <= 2, "%u leaves one to one", one_to_one);
	say("root direct=%lu image=%lu one_to_one=%u", direct_leaves, image_leaves, one_to_one);
}

static bool all_bytes(u64 pa, u64 size, u8 value)
{
	const u8 *at = direct(pa);

	for (u64 i = 0; i < size; i++)
		if (at[i] != value)
			return false;
	return true;
}

/* Gigabytes that would be one leaf of a direct map of usable memory. */
static bool gigabyte_whole(u64 start)
{
	u64 usable = 0;

	for (u32 i = 0; i < info->mem_count; i++) {
		struct range part = range_intersect(range_len(start, GIB), range(mem(i)->start, mem(i)->end));

		if (is_usable(mem(i)->type) && !range_empty(part))
			usable += range_size(part);
	}
	return usable == GIB;
}

static void check_segments(void)
{
	static const u32 flags[] = { PF_X | 4, 4, PF_W | 4 };
	bool whole = false;

	check(info->segment_count == ARRAY_SIZE(flags), "%u segments", info->segment_count);
	for (u32 i = 0; i < info->segment_count; i++) {
		const struct boot_segment *s = &info->segments[i];
		bool text = s->flags & PF_X;

		say("segment va=0x%lx pa=0x%lx size=0x%lx used=0x%lx flags=%u", s->va, s->pa, s->size, s->used,
		    s->flags);
		check(is_aligned(s->va | s->pa | s->size, BLOCK), "segment %u is not aligned", i);
		check(s->used && s->used <= s->size && s->size - s->used < BLOCK, "segment %u: used of size", i);
		check(i < ARRAY_SIZE(flags) && s->flags == flags[i], "segment %u has flags %u", i, s->flags);
		check(in_loader_memory(s->pa, s->size), "segment %u is not loader memory", i);
		check(all_bytes(s->pa + s->used, s->size - s->used, text ? INT3 : 0), "segment %u: its tail", i);
		whole |= gigabyte_whole(align_down(s->pa, GIB));
	}
	say("image_gigabyte=%s", whole ? "whole" : "ragged");
	check(all_bytes(info->segments[2].pa + ((u64)zeroes - info->segments[2].va), sizeof(zeroes), 0),
	      ".bss is not zero");
	check(data_word == 0x1122334455667788, ".data is not what was linked");
}

static void check_findings(void)
{
	u32 entropy = 0;

	check(info->rsdp && memcmp(direct(info->rsdp), "RSD PTR ", 8) == 0, "no RSDP at 0x%lx", info->rsdp);
	check(((u8 *)direct(info->rsdp))[15] >= 2, "the RSDP is not of ACPI 2.0");
	check(memcmp(direct(info->efi_system_table), "IBI SYST", 8) == 0, "no EFI system table");
	check(memcmp(direct(info->efi_runtime), "RUNTSERV", 8) == 0, "no EFI runtime services");
	check(in_loader_memory(info->kernel_file, info->kernel_file_size), "kernel.elf is not loader memory");
	check(memcmp(direct(info->kernel_file), "\x7f" "ELF", 4) == 0, "kernel_file is no ELF file");
	if (info->efi_memory_attributes) {
		const u32 *table = direct(info->efi_memory_attributes);

		check(in_loader_memory(info->efi_memory_attributes, 16 + (u64)table[1] * table[2]),
		      "the memory-attributes table is not loader memory");
		say("memory_attributes version=%u entries=%u", table[0], table[1]);
	}
	for (unsigned i = 0; i < sizeof(info->entropy); i++)
		entropy += info->entropy[i];
	check(entropy, "the entropy is all zero");
	say("entropy_bytes=%u", info->entropy_bytes);
	say("framebuffer pa=0x%lx width=%u height=%u stride=%u format=%u", info->framebuffer.pa,
	    info->framebuffer.width, info->framebuffer.height, info->framebuffer.stride, info->framebuffer.format);
}

static void show_modules(void)
{
	for (u32 i = 0; i < info->module_count; i++) {
		const struct boot_module *m = &info->modules[i];
		const u8 *bytes = direct(m->pa);
		u32 sum = 0;

		check(in_loader_memory(m->pa, MAX(m->size, 1ull)), "module %u is not loader memory", i);
		for (u64 k = 0; k < m->size; k++)
			sum = sum * 31 + bytes[k];
		say("module %s size=%lu sum=%u", m->name, m->size, sum);
	}
}

/* Long texts in pieces: say() has a short buffer. */
static void show_text(const char *key, const char *text)
{
	put("handover: ");
	put(key);
	put("=");
	put(text);
	put("\n");
}

static void show_notes(void)
{
	char line[BOOT_NOTES_MAX];
	u32 n = 0;

	for (const char *p = info->notes; *p; p++) {
		if (*p != '\n')
			line[n++] = *p;
		if (*p == '\n' || !p[1]) {
			line[n] = '\0';
			show_text("note", line);
			n = 0;
		}
	}
}

void handover_main(const struct boot_info *handed, u64 rflags)
{
	info = handed;
	has_nx = cpu_nx();
	say("BEGIN");
	check((u64)info >= BOOT_DIRECT_BASE && (u64)info < DIRECT_END, "RDI is 0x%lx", (u64)info);
	check(info->magic == BOOT_INFO_MAGIC && info->version == BOOT_INFO_VERSION && info->size == sizeof(*info),
	      "magic, version or size");
	check_cpu(rflags);
	check_map();
	check_log();
	check_root();
	read_ram();
	check_segments();
	check_findings();
	show_modules();
	check(strnlen(info->cmdline, sizeof(info->cmdline)) == info->cmdline_length, "cmdline_length=%u",
	      info->cmdline_length);
	say("cmdline_length=%u", info->cmdline_length);
	show_text("cmdline", info->cmdline);
	show_notes();
	say("END faults=%u", faults);
	out8(DEBUG_EXIT, faults ? 1 : 0x10);
	for (;;)
		__asm__ volatile("hlt");
}
