/* SPDX-License-Identifier: MIT */
/*
 * From the firmware's memory map to a kernel that owns its memory.
 *
 * Order: free ranges to bootmem → struct page for every section with RAM, mapped in the boot root by hand → classes →
 * page allocator → the kernel's root, by the ordinary code, as struct pages and an allocator exist by now → load it
 * → take back what the loader used. Nothing of the boot root is reached after the switch, so its tables come back too.
 *
 * What the kernel may use is EfiConventionalMemory, EfiLoader* and EfiBootServices* (UEFI 2.10, section 7.2), without
 * the first frame: physical address 0 stands for "none" in too many places.
 */
#include "kernel/memory.h"

#include "arch/x86_64/pte.h"
#include "arch/x86_64/percpu.h"
#include "kernel/acpi.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "mm/arch.h"
#include "mm/bootmem.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "mm/vm_area.h"

#define DIRECT_SIZE (64ull << 40)	/* address space of the direct map */

#define SECTION_BYTES BIT(SECTION_SHIFT)
#define SECTION_PAGES_BYTES ((SECTION_BYTES >> PAGE_SHIFT) * sizeof(struct page))
#define SECTION_BLOCKS_BYTES ((SECTION_BYTES >> 21) * sizeof(struct block))

_Static_assert(SECTION_PAGES_BYTES == 2 * MIB, "the struct pages of a section fill one 2M leaf");

/* struct block stands behind the struct pages of the largest direct map. */
#define PAGE_ARRAY_BASE VMEMMAP_BASE
#define BLOCK_ARRAY_BASE (VMEMMAP_BASE + (DIRECT_SIZE >> PAGE_SHIFT) * sizeof(struct page))
#define BLOCK_ARRAY_LEAVES ((DIRECT_SIZE >> 21) * sizeof(struct block) / (2 * MIB))

/* Rights of what the kernel maps for itself. */
#define KERNEL_DATA_ATTRS (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX)

static u64 kernel_cpu_gen[MAX_CPUS];
static u64 usable_bytes;
static struct range ap_start;

/* Tables that early_map() added to the boot root: given back with it. */
#define EARLY_TABLES_MAX 64u
static phys_t early_tables[EARLY_TABLES_MAX];
static unsigned nr_early_tables;

/* Blocks of the memory map, to be mapped again in the kernel's own root. */
static u64 block_leaf_mapped[(BLOCK_ARRAY_LEAVES + 63) / 64];

/* ---- The firmware's map ---- */

static const struct boot_mem *map_of(const struct boot_info *bi)
{
	return phys_to_virt(phys(bi->mem));
}

static bool type_is_loader(u32 type)
{
	return type == BOOT_MEM_LOADER_CODE || type == BOOT_MEM_LOADER_DATA;
}

static bool type_is_usable(u32 type)
{
	return type_is_loader(type) || type == BOOT_MEM_BOOT_SERVICES_CODE || type == BOOT_MEM_BOOT_SERVICES_DATA ||
	       type == BOOT_MEM_CONVENTIONAL;
}

static bool type_is_runtime(u32 type)
{
	return type == BOOT_MEM_RUNTIME_CODE || type == BOOT_MEM_RUNTIME_DATA;
}

/* The frames of an entry, without frame 0 and what lies beyond the direct map. */
static struct range frames_of(const struct boot_mem *m)
{
	return range(MAX(align_up(m->start, PAGE_SIZE), PAGE_SIZE), MIN(align_down(m->end, PAGE_SIZE), DIRECT_SIZE));
}

bool memory_usable_range(const struct boot_info *bi, unsigned *cursor, struct range *out)
{
	const struct boot_mem *map = map_of(bi);
	struct range r = { 0, 0 };

	for (; *cursor < bi->mem_count; ++*cursor) {
		struct range next = frames_of(&map[*cursor]);

		if (!type_is_usable(map[*cursor].type) || range_empty(next))
			continue;
		if (!range_empty(r) && next.start != r.end)
			break;
		r = range(range_empty(r) ? next.start : r.start, next.end);
	}
	*out = r;
	return !range_empty(r);
}

#define for_each_usable(bi, r) \
	for (unsigned r##_cursor = 0; memory_usable_range((bi), &r##_cursor, &(r));)

#define AP_START_SIZE (3 * PAGE_SIZE)

/* The highest free frames below 1 MiB. What the loader has is left alone: it is in use still. */
static void choose_ap_start(const struct boot_mem *m)
{
	struct range r = range_intersect(frames_of(m), range(0, MIB));

	if (type_is_usable(m->type) && !type_is_loader(m->type) && !range_empty(r) && range_size(r) >= AP_START_SIZE)
		ap_start = range(r.end - AP_START_SIZE, r.end);
}

static void fill_bootmem(const struct boot_info *bi)
{
	const struct boot_mem *map = map_of(bi);
	unsigned dropped = 0;

	for (u32 i = 0; i < bi->mem_count; i++) {
		struct range r = frames_of(&map[i]);

		if (type_is_usable(map[i].type) && !type_is_loader(map[i].type) && !range_empty(r) &&
		    bootmem_add(r))
			dropped++, usable_bytes -= range_size(r);
		choose_ap_start(&map[i]);
	}
	if (!range_empty(ap_start) && bootmem_reserve(ap_start))
		ap_start = range(0, 0);
	if (dropped)
		log_warn("memory map: %u ranges not used (overlapping, or too many)", dropped);
}

/* ---- The memory map: struct page and struct block ---- */

static phys_t boot_block(u64 size, const char *what)
{
	phys_t pa;

	if (bootmem_alloc(size, size, 0, &pa))
		panic("too little memory: no %llu KiB in one piece for %s", (unsigned long long)(size / KIB), what);
	memset(phys_to_virt(pa), 0, size);
	return pa;
}

static phys_t early_table(void)
{
	phys_t pa = boot_block(PAGE_SIZE, "the first tables");

	if (nr_early_tables < EARLY_TABLES_MAX)
		early_tables[nr_early_tables++] = pa;
	return pa;
}

/* Map one 2M leaf in the boot root. That root is thrown away: it has no struct pages and needs none. */
static void early_map(const struct boot_info *bi, u64 va, phys_t pa)
{
	phys_t table = phys(bi->boot_root);
	unsigned level = bi->pt_levels;

	for (; level > PT_2M; level--) {
		pte_t *slot = (pte_t *)phys_to_virt(table) + pt_index(va, level);

		if (!pte_present(*slot))
			arch_pte_store(slot, pte_table(early_table(), false), level);
		table = pte_table_pa(*slot);
	}
	arch_pte_store((pte_t *)phys_to_virt(table) + pt_index(va, PT_2M),
		       pte_leaf(pa, KERNEL_DATA_ATTRS & ~PTE_G & arch_mm.pte_mask, PT_2M), PT_2M);
}

static void add_section(const struct boot_info *bi, u64 section)
{
	u64 leaf = section * SECTION_BLOCKS_BYTES / (2 * MIB);

	if (!(block_leaf_mapped[leaf / 64] >> (leaf % 64) & 1)) {
		block_leaf_mapped[leaf / 64] |= BIT(leaf % 64);
		early_map(bi, BLOCK_ARRAY_BASE + leaf * 2 * MIB, boot_block(2 * MIB, "struct block"));
	}
	early_map(bi, PAGE_ARRAY_BASE + section * SECTION_PAGES_BYTES, boot_block(2 * MIB, "struct page"));
	page_section_add(section);
}

static void make_page_array(const struct boot_info *bi)
{
	struct range r;

	page_array = (struct page *)PAGE_ARRAY_BASE;
	block_array = (struct block *)BLOCK_ARRAY_BASE;
	for_each_usable(bi, r)
		for (u64 s = r.start >> SECTION_SHIFT; s <= (r.end - 1) >> SECTION_SHIFT; s++)
			if (!pfn_valid(s << (SECTION_SHIFT - PAGE_SHIFT)))
				add_section(bi, s);
}

static void set_class_where_valid(struct range pa, enum page_class class)
{
	for (pfn_t pfn = pa.start >> PAGE_SHIFT; pfn < pa.end >> PAGE_SHIFT; pfn++)
		if (pfn_valid(pfn))
			page_set_class(pfn, 1, class);
}

static enum page_class segment_class(const struct boot_segment *s)
{
	if (s->flags & 1)
		return PAGE_KERNEL_TEXT;
	return s->flags & 2 ? PAGE_KERNEL_DATA : PAGE_KERNEL_RODATA;
}

/* Walk a mapped leaf of the memory map: its frame in the boot root. */
static phys_t memmap_frame(const struct boot_info *bi, u64 va)
{
	struct pt_slot s = { NULL, { 0 }, (u8)bi->pt_levels };
	phys_t table = phys(bi->boot_root);

	for (;;) {
		s.value = ((pte_t *)phys_to_virt(table))[pt_index(va, s.level)];
		if (pte_is_leaf(s.value, s.level))
			return pte_leaf_pa(s.value, s.level);
		table = pte_table_pa(s.value);
		s.level--;
	}
}

typedef void (*memmap_visit_fn)(u64 va, phys_t pa);

/* Visit each 2M leaf of the memory map. */
static void each_memmap_leaf(const struct boot_info *bi, memmap_visit_fn visit)
{
	for (u64 s = 0; s < page_max_pfn >> (SECTION_SHIFT - PAGE_SHIFT); s++) {
		u64 va = PAGE_ARRAY_BASE + s * SECTION_PAGES_BYTES;

		if (pfn_valid(s << (SECTION_SHIFT - PAGE_SHIFT)))
			visit(va, memmap_frame(bi, va));
	}
	for (u64 leaf = 0; leaf < BLOCK_ARRAY_LEAVES; leaf++)
		if (block_leaf_mapped[leaf / 64] >> (leaf % 64) & 1)
			visit(BLOCK_ARRAY_BASE + leaf * 2 * MIB, memmap_frame(bi, BLOCK_ARRAY_BASE + leaf * 2 * MIB));
}

static void memmap_set_class(u64 va, phys_t pa)
{
	(void)va;
	page_set_class(phys_to_pfn(pa), 2 * MIB >> PAGE_SHIFT, PAGE_MEMMAP);
}

/* Who owns what before the allocator starts: all usable memory is the loader's or bootmem's until it is given out. */
static void set_classes(const struct boot_info *bi)
{
	const struct boot_mem *map = map_of(bi);
	struct range r;

	for_each_usable(bi, r) {
		set_class_where_valid(r, PAGE_BOOT);
		usable_bytes += range_size(r);
	}
	for (u32 i = 0; i < bi->mem_count; i++)
		if (type_is_runtime(map[i].type))
			set_class_where_valid(range(map[i].start, map[i].end), PAGE_RUNTIME);
	for (u32 i = 0; i < bi->segment_count; i++)
		set_class_where_valid(range_len(bi->segments[i].pa, bi->segments[i].size),
				      segment_class(&bi->segments[i]));
	each_memmap_leaf(bi, memmap_set_class);
}

/* ---- The kernel's own root ---- */

static void must(int rc, const char *what)
{
	if (rc)
		panic("memory: %s failed (%d)", what, rc);
}

static void map_memmap_leaf(u64 va, phys_t pa)
{
	struct tlb_batch batch;

	tlb_batch_init(&batch, &kernel_space);
	must(kernel_map_range(va, range_len(pa.raw, 2 * MIB), KERNEL_DATA_ATTRS, PT_2M, &batch), "mapping struct page");
	tlb_batch_finish(&batch);
}

static void map_segment(const struct boot_segment *s)
{
	struct range pa = range_len(s->pa, s->size);
	u64 attrs = PTE_P | PTE_A | PTE_D | PTE_G;
	struct tlb_batch batch;

	if (!(s->flags & 1))
		attrs |= PTE_NX;
	if (s->flags & 2)
		attrs |= PTE_W;
	else
		must(directmap_seal(pa), "sealing the image in the direct map");
	tlb_batch_init(&batch, &kernel_space);
	must(kernel_map_range(s->va, pa, attrs, PT_2M, &batch), "mapping the image");
	tlb_batch_finish(&batch);
}

static void make_root(const struct boot_info *bi)
{
	u64 top = page_max_pfn << PAGE_SHIFT;
	struct range r;

	must(pt_space_init(&kernel_space, "kernel", PT_SPACE_SHARED, phys(0), kernel_cpu_gen), "the root");
	kernel_space.direct = range_len(arch_mm.direct_base, DIRECT_SIZE);
	kernel_space.policy = (u8)cmdline.collapse;
	must(pt_fill_top(&kernel_space, range_len(arch_mm.direct_base, top)), "top level: direct map");
	must(pt_fill_top(&kernel_space, range(PAGE_ARRAY_BASE, (u64)pfn_to_page(page_max_pfn))), "top level: struct page");
	must(pt_fill_top(&kernel_space, range(BLOCK_ARRAY_BASE, (u64)pfn_to_block(page_max_pfn))),
	     "top level: struct block");
	must(pt_fill_top(&kernel_space, range(VM_AREA_BASE, VM_AREA_END)), "top level: areas");
	must(pt_fill_top(&kernel_space, range(KERNEL_BASE, -PAGE_SIZE)), "top level: image");

	for_each_usable(bi, r)
		must(directmap_add(r), "the direct map");
	for (u32 i = 0; i < bi->segment_count; i++)
		map_segment(&bi->segments[i]);
	each_memmap_leaf(bi, map_memmap_leaf);
}

/* ---- What the loader used ---- */

/* Bytes of the copied EFI_MEMORY_ATTRIBUTES_TABLE (UEFI 2.10, section 4.6.4): version, entries, entry size, flags. */
static u64 attributes_size(const struct boot_info *bi)
{
	const u32 *head = phys_to_virt(phys(bi->efi_memory_attributes));

	return 4 * sizeof(u32) + (u64)head[1] * head[2];
}

/* Parts of the loader's memory that stay: what boot_info points to, itself among it. */
static unsigned kept_ranges(const struct boot_info *bi, struct range *kept)
{
	unsigned n = 0;

	kept[n++] = range_len(virt_to_phys(bi).raw, bi->size);
	kept[n++] = range_len(bi->mem, bi->mem_count * sizeof(struct boot_mem));
	kept[n++] = range_len(bi->kernel_file, bi->kernel_file_size);
	if (bi->log.pa)
		kept[n++] = range_len(bi->log.pa, bi->log.size);
	if (bi->efi_memory_attributes)
		kept[n++] = range_len(bi->efi_memory_attributes, attributes_size(bi));
	for (u32 i = 0; i < bi->segment_count; i++)
		kept[n++] = range_len(bi->segments[i].pa, bi->segments[i].size);
	for (u32 i = 0; i < bi->module_count; i++)
		kept[n++] = range_len(bi->modules[i].pa, bi->modules[i].size);
	return n;
}

/* Give [r) back without the kept ranges. */
static u64 reclaim(struct range r, const struct range *kept, unsigned n)
{
	u64 frames = 0;

	for (u64 at = r.start; at < r.end;) {
		u64 end = r.end;
		bool inside = false;

		for (unsigned i = 0; i < n; i++) {
			struct range k = range(align_down(kept[i].start, PAGE_SIZE), align_up(kept[i].end, PAGE_SIZE));

			if (range_has(k, at)) {
				end = MIN(k.end, r.end);
				inside = true;
				break;
			}
			if (k.start > at)
				end = MIN(end, k.start);
		}
		if (!inside) {
			buddy_add(at >> PAGE_SHIFT, (end - at) >> PAGE_SHIFT);
			frames += (end - at) >> PAGE_SHIFT;
		}
		at = end;
	}
	return frames;
}

static u64 reclaim_loader(const struct boot_info *bi)
{
	struct range kept[5 + BOOT_SEGMENTS_MAX + BOOT_MODULES_MAX];
	unsigned n = kept_ranges(bi, kept);
	const struct boot_mem *map = map_of(bi);
	u64 frames = 0;

	for (u32 i = 0; i < bi->mem_count; i++) {
		struct range r = frames_of(&map[i]);

		if (type_is_loader(map[i].type) && !range_empty(r))
			frames += reclaim(r, kept, n);
	}
	for (unsigned i = 0; i < nr_early_tables; i++) {
		buddy_add(phys_to_pfn(early_tables[i]), 1);
		frames++;
	}
	return frames;
}

/* ---- All of it ---- */

void memory_init(const struct boot_info *bi)
{
	u64 reclaimed;

	fill_bootmem(bi);
	make_page_array(bi);
	set_classes(bi);
	bootmem_release();
	pt_bbm = cmdline.bbm;
	pt_checks = cmdline.debug;
	if (cmdline.tlb_ceiling)
		tlb_flush_ceiling = cmdline.tlb_ceiling;
	buddy_watch(BUDDY_POISON, cmdline.debug || CONFIG_DEBUG);
	make_root(bi);
	tlb_space_enter(&kernel_space);
	arch_switch_root(kernel_space.root);
	arch_tlb_flush_all();
	vm_area_init(range(VM_AREA_BASE, VM_AREA_END));
	must(temp_map_init(1), "the first CPU's temporary root");
	unmapped_init((enum unmapped_mode)cmdline.um);
	reclaimed = reclaim_loader(bi);
	pt_settle(&kernel_space);
	log_info("memory: %llu MiB usable, %llu KiB of struct page, %llu KiB taken back from the loader",
		 (unsigned long long)(usable_bytes / MIB),
		 (unsigned long long)((page_max_pfn * sizeof(struct page)) / KIB),
		 (unsigned long long)(reclaimed << PAGE_SHIFT) / KIB);
}

/* The node of the CPU with that APIC id. */
static u32 node_of_apic(u32 apic)
{
	for (u32 i = 0; i < acpi.nr_cpus; i++)
		if (acpi.cpus[i].apic_id == apic)
			return acpi.cpus[i].node;
	return 0;
}

void memory_init_nodes(void)
{
	static struct node_range ranges[ACPI_MEMORY_MAX];

	_Static_assert(NODES_MAX == ACPI_NODES_MAX, "a node of ACPI is one of the allocator");
	if (acpi.nr_nodes < 2)
		return;
	for (u32 i = 0; i < acpi.nr_memory; i++)
		ranges[i] = (struct node_range){ acpi.memory[i].pa, acpi.memory[i].node };
	buddy_set_nodes(acpi.nr_nodes, ranges, acpi.nr_memory, node_of_apic(cpu_local()->apic_id));
	for (u32 i = 0; i < acpi.nr_nodes; i++) {
		struct buddy_stats stats;

		buddy_read_node_stats(i, &stats);
		log_info("memory: node %u (domain %u): %llu MiB", i, acpi.domains[i],
			 (unsigned long long)(stats.frames << PAGE_SHIFT) / MIB);
	}
}

bool memory_ap_start(struct range *out)
{
	*out = ap_start;
	return !range_empty(ap_start);
}

void memory_ap_start_release(void)
{
	if (!range_empty(ap_start))
		buddy_add(ap_start.start >> PAGE_SHIFT, range_size(ap_start) >> PAGE_SHIFT);
	ap_start = range(0, 0);
}

u64 memory_usable(void)
{
	return usable_bytes;
}
