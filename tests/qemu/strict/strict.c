/* SPDX-License-Identifier: MIT */
/*
 * Firmware with EFI_MEMORY_ATTRIBUTE_PROTOCOL, for tests: an application that adds the protocol to firmware which has none, over the
 * tables that it runs on, and then starts \tangram\loader.efi. If that comes back, it says whether all rights are as they were.
 */
#include <efi.h>

#include "arch/x86_64/pte.h"
#include "boot/console.h"
#include "boot/cpu.h"
#include "boot/rights.h"
#include "kernel/base/bits.h"

#define TABLES 512u
#define LOADER_MAX (4 * MIB)
#define REFUSED EFIERR(2)		/* EFI_INVALID_PARAMETER */
#define LOADER L"\\tangram\\loader.efi"

static u64 next_table, last_table;

EFI_STATUS efi_main(EFI_HANDLE handle, EFI_SYSTEM_TABLE *system);

static void set_efer_nxe(void)
{
	u32 low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0xc0000080u));
	__asm__ volatile("wrmsr" : : "a"(low | 1u << 11), "d"(high), "c"(0xc0000080u));
}

#define CR0_WP 0x10000ull

/* The firmware's tables are read-only to it, too. Returns CR0 for close_tables(), which forgets what the CPU remembers of them. */
static u64 open_tables(void)
{
	u64 cr0;

	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("mov %0, %%cr0" : : "r"(cr0 & ~CR0_WP) : "memory");
	return cr0;
}

static void close_tables(u64 cr0)
{
	__asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
	__asm__ volatile("mov %0, %%cr3" : : "r"(cpu_cr3()) : "memory");
}

static void split(pte_t *e, unsigned level)
{
	pte_t *table = (pte_t *)next_table;
	u64 pa = pte_leaf_pa(*e, level).raw;

	next_table += PAGE_SIZE;
	for (unsigned i = 0; i < PT_ENTRIES; i++)
		table[i] = pte_leaf(phys(pa + i * pt_span(level - 1)), pte_attrs(*e, level), level - 1);
	*e = pte_table(phys((u64)table), false);
}

/* The leaf of va, split until it lies in [va, end). NULL: nothing is there, or no table is left. */
static pte_t *leaf_inside(u64 va, u64 end, unsigned *level)
{
	pte_t *table = (pte_t *)(cpu_cr3() & PTE_ADDR);

	for (*level = cpu_cr4() & CPU_CR4_LA57 ? 5 : 4;; --*level) {
		pte_t *e = &table[pt_index(va, *level)];

		if (!pte_present(*e))
			return NULL;
		if (pte_is_leaf(*e, *level)) {
			if (is_aligned(va, pt_span(*level)) && end - va >= pt_span(*level))
				return e;
			if (*level == PT_4K || next_table == last_table)
				return NULL;
			split(e, *level);
		}
		table = (pte_t *)pte_table_pa(*e).raw;
	}
}

static u64 change(u64 base, u64 length, u64 set, u64 clear)
{
	unsigned level;

	for (u64 va = base; va < base + length; va += pt_span(level)) {
		pte_t *e = leaf_inside(va, base + length, &level);

		if (!e)
			return REFUSED;
		e->raw |= (set & RIGHTS_XP ? PTE_NX : 0) | (clear & RIGHTS_RO ? PTE_W : 0);
		e->raw &= ~((clear & RIGHTS_XP ? PTE_NX : 0) | (set & RIGHTS_RO ? PTE_W : 0));
	}
	return 0;
}

static u64 change_checked(u64 base, u64 length, u64 set, u64 clear)
{
	u64 cr0, status;

	if (!length || !is_aligned(base | length, PAGE_SIZE) || ((set | clear) & ~(RIGHTS_RO | RIGHTS_XP)))
		return REFUSED;
	cr0 = open_tables();
	status = change(base, length, set, clear);
	close_tables(cr0);
	return status;
}

static u64 __attribute__((ms_abi)) set_attributes(struct rights_protocol *self, u64 base, u64 length, u64 attributes)
{
	(void)self;
	return change_checked(base, length, attributes, 0);
}

static u64 __attribute__((ms_abi)) clear_attributes(struct rights_protocol *self, u64 base, u64 length, u64 attributes)
{
	(void)self;
	return change_checked(base, length, 0, attributes);
}

static u64 rights_of(pte_t e)
{
	return (e.raw & PTE_W ? 0 : RIGHTS_RO) | (e.raw & PTE_NX ? RIGHTS_XP : 0);
}

static u64 look(u64 base, u64 length, u64 *attributes)
{
	unsigned level;

	for (u64 va = base; va < base + length; va += pt_span(level)) {
		pte_t *e = leaf_inside(va, base + length, &level);

		if (!e || (va != base && rights_of(*e) != *attributes))
			return EFIERR(17);	/* EFI_NO_MAPPING */
		*attributes = rights_of(*e);
	}
	return 0;
}

static u64 __attribute__((ms_abi)) get_attributes(struct rights_protocol *self, u64 base, u64 length, u64 *attributes)
{
	u64 cr0, status;

	(void)self;
	if (!length || !is_aligned(base | length, PAGE_SIZE))
		return REFUSED;
	cr0 = open_tables();
	status = look(base, length, attributes);
	close_tables(cr0);
	return status;
}

static struct rights_protocol protocol = { get_attributes, set_attributes, clear_attributes };

/* The file as an image whose volume is ours. */
static EFI_STATUS load(EFI_BOOT_SERVICES *bs, EFI_HANDLE us, EFI_HANDLE *image)
{
	EFI_GUID loaded_guid = EFI_LOADED_IMAGE_PROTOCOL_GUID, fs_guid = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
	EFI_LOADED_IMAGE *loaded, *ours;
	EFI_FILE_IO_INTERFACE *fs;
	EFI_FILE_HANDLE volume, file;
	UINTN size = LOADER_MAX;
	EFI_STATUS status;
	void *buffer;

	if ((status = bs->HandleProtocol(us, &loaded_guid, (void **)&ours)) ||
	    (status = bs->HandleProtocol(ours->DeviceHandle, &fs_guid, (void **)&fs)) ||
	    (status = fs->OpenVolume(fs, &volume)) ||
	    (status = volume->Open(volume, &file, LOADER, EFI_FILE_MODE_READ, 0)) ||
	    (status = bs->AllocatePool(EfiLoaderData, size, &buffer)) ||
	    (status = file->Read(file, &size, buffer)) ||
	    (status = bs->LoadImage(FALSE, us, NULL, buffer, size, image)) ||
	    (status = bs->HandleProtocol(*image, &loaded_guid, (void **)&loaded)))
		return status;
	loaded->DeviceHandle = ours->DeviceHandle;
	return EFI_SUCCESS;
}

EFI_STATUS efi_main(EFI_HANDLE handle, EFI_SYSTEM_TABLE *system)
{
	EFI_GUID guid = { 0xf4560cf6, 0x40ec, 0x4b4a, { 0xa1, 0x92, 0xbf, 0x1d, 0x57, 0xd0, 0xb1, 0x89 } };
	struct rights_tables tables = { cpu_cr3() & PTE_ADDR, cpu_cr4() & CPU_CR4_LA57 ? 5 : 4, true };
	EFI_BOOT_SERVICES *bs = system->BootServices;
	EFI_HANDLE image, interface = NULL;
	EFI_PHYSICAL_ADDRESS memory;
	EFI_STATUS status;
	u64 before;

	console_init(system);
	set_efer_nxe();
	if ((status = bs->AllocatePages(AllocateAnyPages, EfiBootServicesData, TABLES, &memory)) ||
	    (status = bs->InstallProtocolInterface(&interface, &guid, EFI_NATIVE_INTERFACE, &protocol)) ||
	    (status = load(bs, handle, &image))) {
		console_line("strict: cannot start the loader (status 0x%lx)", status);
		return status;
	}
	next_table = memory;
	last_table = memory + TABLES * PAGE_SIZE;
	before = rights_writable_executable(&tables, range(0, 4 * GIB));
	status = bs->StartImage(image, NULL, NULL);
	console_line("strict: status 0x%lx; writable and executable were %lu bytes, are %lu", status, before,
		     rights_writable_executable(&tables, range(0, 4 * GIB)));
	return status;
}
