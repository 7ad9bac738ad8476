/* SPDX-License-Identifier: MIT */
/* Setting up a simulated machine: see machine.h. */
#include "tests/host/machine.h"

#include <sys/mman.h>

#include "boot/boot_info.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "mm/bootmem.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/execmem.h"
#include "mm/kernel_map.h"
#include "mm/pgtable.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "mm/vm_area.h"
#include "tests/host/sim_tlb.h"
#include "tests/host/store_log.h"

/*
 * PC-like maps: nothing from 640 KiB to 1 MiB, a hole below 4 GiB, edges that no 2 MiB boundary meets. Each
 * differs in what the page-table code must cope with.
 */
const struct machine machines[] = {
	{
		.name = "1g-4level-4cpu",
		.levels = 4,
		.max_leaf = PT_1G,
		.cpus = 4,
		.ram = { { 0x1000, 0x9f000 }, { 0x100000, 0x7ffda000 }, { 4 * GIB, 7 * GIB + 300 * MIB } },
	},
	{
		.name = "2m-4level-1cpu",
		.levels = 4,
		.max_leaf = PT_2M,
		.cpus = 1,
		.ram = { { 0x1000, 0x9f000 }, { 0x100000, 0x1ff63000 } },
	},
	{
		.name = "1g-5level-8cpu",
		.levels = 5,
		.max_leaf = PT_1G,
		.cpus = 8,
		.ram = { { 0x1000, 0x87000 }, { 0x100000, 0xb0000000 }, { 4 * GIB, 12 * GIB + 0x1000 } },
		/* interleaved, one bound inside a block, one node of CPUs without memory */
		.nr_nodes = 4,
		.nodes = { { { 4 * GIB, 6 * GIB + 0x5000 }, 1 },
			   { { 7 * GIB, 9 * GIB }, 1 },
			   { { 9 * GIB, 16 * GIB }, 2 } },
	},
	{
		/* memory types that end inside a gigabyte and inside a block */
		.name = "types-4level-2cpu",
		.levels = 4,
		.max_leaf = PT_1G,
		.cpus = 2,
		.ram = { { 0x1000, 0x9f000 },
			 { 0x100000, 0x30000000 },
			 { 0x30203000, 0x38000000 },
			 { 4 * GIB, 6 * GIB } },
		.types = { { { 0x20000000, 0x20800000 }, 4 },
			   { { 5 * GIB + 0x345000, 5 * GIB + 0x745000 }, 4 } },
	},
};
const unsigned nr_machines = ARRAY_SIZE(machines);

const struct machine *machine;
struct machine_image machine_image;
bool machine_full;

static u64 cpu_gens[MAX_CPUS];

static void must(int rc, const char *what)
{
	if (rc)
		panic("setting up the machine: %s: error %d", what, rc);
}

static void add_ram(const struct machine *m)
{
	bootmem_reset();
	for (unsigned i = 0; i < MACHINE_RANGES && !range_empty(m->ram[i]); i++)
		must(bootmem_add(m->ram[i]), "bootmem_add");
}

static u64 ram_end(const struct machine *m)
{
	u64 end = 0;

	for (unsigned i = 0; i < MACHINE_RANGES; i++)
		end = MAX(end, m->ram[i].end);
	return end;
}

static bool section_has_ram(const struct machine *m, u64 section)
{
	struct range s = range_len(section << SECTION_SHIFT, 1ull << SECTION_SHIFT);

	for (unsigned i = 0; i < MACHINE_RANGES; i++)
		if (range_overlaps(m->ram[i], s) && !range_empty(m->ram[i]))
			return true;
	return false;
}

static struct range take(u64 size)
{
	phys_t pa;

	must(bootmem_alloc(size, MAX(PAGE_SIZE, MIN(size & -size, 2 * MIB)), 0, &pa), "bootmem_alloc");
	return range_len(pa.raw, size);
}

static void *reserve(u64 size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		panic("no room for %llu bytes", (unsigned long long)size);
	return p;
}

static struct range memmap[SECTIONS_MAX >> 8];	/* frames of the struct page array, by section */

/*
 * The arrays lie in memory of the process; the frames that would hold them are taken and mapped all the same,
 * so that they can be looked for.
 */
static void make_page_array(const struct machine *m)
{
	u64 sections = align_up(ram_end(m), 1ull << SECTION_SHIFT) >> SECTION_SHIFT;
	u64 frames = sections << (SECTION_SHIFT - PAGE_SHIFT);

	assert(sections <= ARRAY_SIZE(memmap));
	page_array = reserve(frames * sizeof(struct page));
	block_array = reserve((frames >> BLOCK_ORDER) * sizeof(struct block));
	page_sections_reset();
	for (u64 s = 0; s < sections; s++) {
		memmap[s] = range(0, 0);
		if (!section_has_ram(m, s))
			continue;
		page_section_add(s);
		memmap[s] = take((sizeof(struct page) << SECTION_SHIFT) >> PAGE_SHIFT);
	}
}

static void set_class(struct range pa, enum page_class class)
{
	page_set_class(pa.start >> PAGE_SHIFT, range_size(pa) >> PAGE_SHIFT, class);
}

/*
 * Frames not handed to the allocator but in the direct map: everything in the ranges of RAM is a frame we
 * own.
 */
static void own_ram(const struct machine *m)
{
	for (unsigned i = 0; i < MACHINE_RANGES && !range_empty(m->ram[i]); i++)
		set_class(m->ram[i], PAGE_BOOT);
}

static void start_cpus(const struct machine *m)
{
	static struct page_cache caches[HOST_CPUS_MAX];

	for (u32 cpu = 0; cpu < m->cpus; cpu++) {
		u64 flags;

		host_cpu_set(cpu);
		if (cpu)
			buddy_add_cpu(&caches[cpu], cpu % MAX(m->nr_nodes, 1u));
		flags = arch_irq_save();
		tlb_space_enter(&kernel_space);
		arch_switch_root(kernel_space.root);
		arch_irq_restore(flags);
	}
	host_cpu_set(0);
}

static void map_or_die(u64 va, struct range pa, u64 attrs)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	must(kernel_map_range(va, pa, attrs, PT_2M, &batch), "kernel_map_range");
	tlb_batch_finish(&batch);
}

static void map_image(void)
{
	const u64 kernel = PTE_P | PTE_A | PTE_D | PTE_G;
	u64 va = KERNEL_BASE;

	must(directmap_seal(machine_image.text), "directmap_seal");
	must(directmap_seal(machine_image.rodata), "directmap_seal");
	machine_image.va = va;
	map_or_die(va, machine_image.text, kernel);
	va += range_size(machine_image.text);
	map_or_die(va, machine_image.rodata, kernel | PTE_NX);
	va += range_size(machine_image.rodata);
	map_or_die(va, machine_image.data, kernel | PTE_NX | PTE_W);
}

static void map_memmap(void)
{
	u64 size = (sizeof(struct page) << SECTION_SHIFT) >> PAGE_SHIFT;

	for (u64 s = 0; s < ARRAY_SIZE(memmap); s++)
		if (!range_empty(memmap[s]))
			map_or_die(VMEMMAP_BASE + s * size, memmap[s], DIRECT_ATTRS);
}

/* What a machine runs on: break-before-make must leave it alone. */
static void pin_image(void)
{
	host.pinned[0] = range_len(machine_image.va, range_size(machine_image.text));
	host.pinned[1] = range_len(phys_to_va(phys(machine_image.text.start)), range_size(machine_image.text));
	host.nr_pinned = 2;
}

/* Slots of the root in the kernel half: filled once, before there is a second root. */
static void fill_top(const struct machine *m)
{
	must(pt_fill_top(&kernel_space, range_len(BOOT_DIRECT_BASE, align_up(ram_end(m), GIB))), "pt_fill_top");
	must(pt_fill_top(&kernel_space, range_len(VMEMMAP_BASE, GIB)), "pt_fill_top");
	must(pt_fill_top(&kernel_space, range(VM_AREA_BASE, VM_AREA_END)), "pt_fill_top");
	must(pt_fill_top(&kernel_space, range(KERNEL_BASE, KERNEL_BASE + GIB)), "pt_fill_top");
}

static void make_kernel_space(const struct machine *m)
{
	must(pt_space_init(&kernel_space, "kernel", PT_SPACE_SHARED, phys(0), cpu_gens), "pt_space_init");
	kernel_space.direct = range_len(arch_mm.direct_base, align_up(ram_end(m), GIB));
	fill_top(m);
	for (unsigned i = 0; i < MACHINE_RANGES && !range_empty(m->ram[i]); i++)
		must(directmap_add(m->ram[i]), "directmap_add");
}

/* Behind the image and below it, as kernel/execmem_init.c has it; a quarter of the text is its tail. */
static void start_execmem(void)
{
	u64 size = range_size(machine_image.text), tail = size / 4;
	struct range preferred = range_len(KERNEL_BASE + 16 * MIB, GIB);

	memset(phys_to_virt(phys(machine_image.text.end - tail)), EXECMEM_INT3, tail);
	must(execmem_init(preferred, range(KERNEL_BASE - GIB, KERNEL_BASE),
			  range_len(machine_image.va + size - tail, tail), 0, EXECMEM_HUGE), "execmem_init");
}

void machine_build(const struct machine *m, u64 seed)
{
	machine = m;
	arch_mm = (struct arch_mm){
		.direct_base = BOOT_DIRECT_BASE,
		.pte_mask = ~(u64)PTE_PKEY,
		.levels = m->levels,
		.max_leaf = m->max_leaf,
		.phys_bits = 40,
	};
	host_init(align_up(ram_end(m), GIB), m->cpus, seed);
	for (unsigned i = 0; i < HOST_TYPES_MAX && !range_empty(m->types[i].pa); i++)
		host.types[host.nr_types++] = m->types[i];

	add_ram(m);
	make_page_array(m);
	machine_image.text = take(4 * MIB);
	machine_image.rodata = take(2 * MIB);
	machine_image.data = take(4 * MIB);
	own_ram(m);
	buddy_reset();
	bootmem_release();
	for (u64 s = 0; s < ARRAY_SIZE(memmap); s++)
		if (!range_empty(memmap[s]))
			set_class(memmap[s], PAGE_MEMMAP);
	set_class(machine_image.text, PAGE_KERNEL_TEXT);
	set_class(machine_image.rodata, PAGE_KERNEL_RODATA);
	set_class(machine_image.data, PAGE_KERNEL_DATA);

	if (m->nr_nodes)
		buddy_set_nodes(m->nr_nodes, m->nodes, ARRAY_SIZE(m->nodes), 0);
	make_kernel_space(m);
	start_cpus(m);
	map_image();
	map_memmap();
	vm_area_init(range(VM_AREA_BASE, VM_AREA_END));
	pin_image();
	must(temp_map_init(m->cpus), "temp_map_init");
	unmapped_init(UNMAPPED_2M);
	start_execmem();
	host.speculation = true;
	pt_checks = true;
}

unsigned machine_node(pfn_t pfn)
{
	for (unsigned i = 0; i < ARRAY_SIZE(machine->nodes); i++)
		if (range_has(machine->nodes[i].pa, pfn << PAGE_SHIFT))
			return machine->nodes[i].node;
	return 0;
}

u64 machine_memory(const struct machine *m)
{
	u64 sum = 0;

	for (unsigned i = 0; i < MACHINE_RANGES; i++)
		sum += range_size(m->ram[i]);
	return sum;
}

void machine_check(void)
{
	sim_check(false);
	store_log_check();
}
