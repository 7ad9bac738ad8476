/* SPDX-License-Identifier: MIT */
/*
 * The firmware is called in physical mode: SetVirtualAddressMap() is never called, so its code expects memory one to one
 * (UEFI 2.10, 2.3.4 and 8.1). That is the low half of a private root whose kernel half is the shared one, so stack, IDT and
 * code of the kernel stay where they are while the firmware runs, interrupts off.
 *
 * Rights come from EFI_MEMORY_ATTRIBUTES_TABLE (UEFI 2.10, 4.6.4), which splits the descriptors of runtime memory into
 * parts that are read-only or not executable.
 */
#include "kernel/efi_runtime.h"

#include "arch/x86_64/trap.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "mm/pgtable.h"
#include "mm/pt_audit.h"

#define EFI_MEMORY_WB 0x8ull
#define EFI_MEMORY_XP 0x4000ull
#define EFI_MEMORY_RO 0x20000ull
#define EFI_MEMORY_RUNTIME (1ull << 63)

struct efi_memory_descriptor {
	u32 type;
	u32 pad;
	u64 physical_start;
	u64 virtual_start;
	u64 pages;
	u64 attribute;
};

struct efi_memory_attributes {
	u32 version;
	u32 entries;
	u32 descriptor_size;
	u32 flags;
	u8 descriptors[];
};

/* UEFI 2.10, 4.5: the table of services. Those that are not called are only counted. */
struct efi_runtime_services {
	u8 header[24];
	void *services_before[10];
	void(__attribute__((ms_abi)) * reset_system)(u32 type, u64 status, u64 data_size, void *data);
};

_Static_assert(offsetof(struct efi_runtime_services, reset_system) == 104, "UEFI 2.10, 4.5");

#define REGIONS_MAX 128u

struct region {
	struct range pa;
	u64 attrs;	/* of its leaves */
};

static struct {
	struct pt_space space;
	u64 cpu_gen[MAX_CPUS];
	struct region regions[REGIONS_MAX];
	u32 nr_regions;
	u64 services;	/* address of the table, one to one; 0: not usable */
} efi;

static bool is_runtime(const struct boot_mem *m)
{
	return m->type == BOOT_MEM_RUNTIME_CODE || m->type == BOOT_MEM_RUNTIME_DATA || (m->attributes & EFI_MEMORY_RUNTIME);
}

/* Rights without a table: code may be anything, all else is data. */
static u64 default_attrs(const struct boot_mem *m)
{
	u64 attrs = PTE_P | PTE_W | PTE_A | PTE_D;

	if (m->type != BOOT_MEM_RUNTIME_CODE)
		attrs |= PTE_NX;
	if (!(m->attributes & EFI_MEMORY_WB))
		attrs |= PTE_PCD | PTE_PWT;
	return attrs;
}

static u64 table_attrs(u64 attrs, u64 attribute)
{
	attrs &= ~PTE_NX;
	if (attribute & EFI_MEMORY_XP)
		attrs |= PTE_NX;
	if (attribute & EFI_MEMORY_RO)
		attrs &= ~PTE_W;
	return attrs;
}

/* What the table says of pa, *end lowered to where that ends. False: nothing. */
static bool find_attribute(const struct efi_memory_attributes *table, u64 pa, u64 *end, u64 *attribute)
{
	for (u32 i = 0; table && i < table->entries; i++) {
		const struct efi_memory_descriptor *d =
			(const void *)(table->descriptors + (u64)i * table->descriptor_size);
		struct range r = range_len(d->physical_start, d->pages * PAGE_SIZE);

		if (range_has(r, pa)) {
			*end = MIN(*end, r.end);
			*attribute = d->attribute;
			return true;
		}
		if (r.start > pa)
			*end = MIN(*end, r.start);
	}
	return false;
}

/* Neighbours with equal rights become one region, so that one leaf may cover both. */
static int add_region(struct range pa, u64 attrs)
{
	struct region *last = efi.nr_regions ? &efi.regions[efi.nr_regions - 1] : NULL;

	if (last && last->pa.end == pa.start && last->attrs == attrs) {
		last->pa.end = pa.end;
		return 0;
	}
	if (efi.nr_regions == REGIONS_MAX)
		return -ENOSPC;
	efi.regions[efi.nr_regions++] = (struct region){ pa, attrs };
	return 0;
}

static int add_runtime(const struct boot_mem *m, const struct efi_memory_attributes *table)
{
	for (u64 pa = m->start; pa < m->end;) {
		u64 end = m->end, attribute = 0;
		u64 attrs = default_attrs(m);
		int rc;

		if (find_attribute(table, pa, &end, &attribute))
			attrs = table_attrs(attrs, attribute);
		rc = add_region(range(pa, end), attrs & arch_mm.pte_mask);
		if (rc)
			return rc;
		pa = end;
	}
	return 0;
}

static bool writable_executable(const struct region *r)
{
	return (r->attrs & PTE_W) && !(r->attrs & PTE_NX);
}

static int map_region(const struct region *r)
{
	struct pt_change change = { .op = PT_OP_MAP, .va = r->pa, .pa = phys(r->pa.start), .set = r->attrs };
	struct tlb_batch batch;
	int rc;

	tlb_batch_init(&batch, &efi.space);
	rc = pt_change(&efi.space, &change, &batch);
	tlb_batch_finish(&batch);
	if (!rc && writable_executable(r))
		rc = pt_audit_window_add(&efi.space, r->pa);
	return rc;
}

/* Its frames are the firmware's: nothing but this root may make them executable. */
static void set_class(const struct region *r)
{
	for (u64 pa = r->pa.start; pa < r->pa.end; pa += PAGE_SIZE)
		if (pfn_valid(pa >> PAGE_SHIFT))
			page_set_class(pa >> PAGE_SHIFT, 1, PAGE_RUNTIME);
}

static const struct efi_memory_attributes *attributes_table(const struct boot_info *bi)
{
	const struct efi_memory_attributes *table = phys_to_virt(phys(bi->efi_memory_attributes));

	if (!bi->efi_memory_attributes)
		return NULL;
	if (table->descriptor_size < sizeof(struct efi_memory_descriptor) || table->descriptor_size % 8 ||
	    table->entries > 4 * REGIONS_MAX) {
		log_warn("efi: memory-attributes table with %u entries of %u bytes, ignored", table->entries,
			 table->descriptor_size);
		return NULL;
	}
	return table;
}

int efi_runtime_init(const struct boot_info *bi)
{
	const struct efi_memory_attributes *table = attributes_table(bi);
	const struct boot_mem *mem = phys_to_virt(phys(bi->mem));
	u32 windows = 0;
	int rc;

	if (!bi->efi_runtime)
		return -ENOENT;
	for (u32 i = 0; i < bi->mem_count; i++) {
		rc = is_runtime(&mem[i]) ? add_runtime(&mem[i], table) : 0;
		if (rc)
			return rc;
	}
	rc = pt_space_init(&efi.space, "efi", 0, phys(0), efi.cpu_gen);
	for (u32 i = 0; !rc && i < efi.nr_regions; i++) {
		set_class(&efi.regions[i]);
		rc = map_region(&efi.regions[i]);
		windows += writable_executable(&efi.regions[i]);
	}
	if (rc)
		return rc;
	efi.services = bi->efi_runtime;
	log_info("efi: runtime services in %u regions, %s memory-attributes table, %u of them writable and executable",
		 efi.nr_regions, table ? "by its" : "no", windows);
	return 0;
}

static void call_reset(void *arg)
{
	const struct efi_runtime_services *services = (const void *)efi.services;

	services->reset_system(*(u32 *)arg, 0, 0, NULL);
}

void efi_runtime_reset(enum efi_reset type)
{
	struct trap_record fault;
	u32 arg = type;
	bool returned;
	u64 flags;

	if (!efi.services) {
		log_warn("efi: no runtime services to reset by");
		return;
	}
	flags = arch_irq_save();
	tlb_space_enter(&efi.space);
	arch_switch_root(efi.space.root);
	returned = trap_try(call_reset, &arg, &fault);
	arch_switch_root(kernel_space.root);
	tlb_space_leave(&efi.space);
	arch_irq_restore(flags);
	if (!returned)
		log_warn("efi: ResetSystem faulted: %s, error 0x%x, address 0x%lx, at 0x%lx", trap_name(fault.vector),
			 fault.error, fault.cr2, fault.rip);
}
