/* SPDX-License-Identifier: MIT */
/*
 * Firmware memory with a ledger.
 *
 * Invariant: the ledger holds every page range that was allocated here and not freed yet.
 * Source: UEFI 2.10, section 7.2 (AllocatePages). EfiLoaderData, also for the image, and never executable where the firmware lets
 * that be said: nothing in it runs before the boot root is loaded.
 */
#include "boot/alloc.h"

#include "boot/rights.h"
#include "kernel/base/bits.h"

/* Modules, and about ten things besides. */
#define LEDGER_MAX 128

static struct {
	u64 pa;
	u64 pages;
} ledger[LEDGER_MAX];
static unsigned ledger_count;
static EFI_BOOT_SERVICES *bs;

void alloc_init(EFI_BOOT_SERVICES *services)
{
	bs = services;
}

static EFI_STATUS allocate(EFI_ALLOCATE_TYPE how, u64 size, u64 *pa)
{
	u64 pages = MAX(align_up(size, PAGE_SIZE) / PAGE_SIZE, 1);
	EFI_PHYSICAL_ADDRESS address = *pa;
	EFI_STATUS status;

	if (ledger_count == LEDGER_MAX || size > 1ull << 52)
		return EFI_OUT_OF_RESOURCES;
	status = bs->AllocatePages(how, EfiLoaderData, pages, &address);
	if (EFI_ERROR(status))
		return status;
	ledger[ledger_count].pa = address;
	ledger[ledger_count].pages = pages;
	ledger_count++;
	rights_set(range_len(address, pages * PAGE_SIZE), RIGHTS_DATA);
	*pa = address;
	return EFI_SUCCESS;
}

EFI_STATUS alloc_any(u64 size, u64 *pa)
{
	*pa = 0;
	return allocate(AllocateAnyPages, size, pa);
}

EFI_STATUS alloc_at(u64 size, u64 pa)
{
	return allocate(AllocateAddress, size, &pa);
}

void alloc_free(u64 pa)
{
	for (unsigned i = 0; pa && i < ledger_count; i++) {
		if (ledger[i].pa != pa)
			continue;
		rights_restore(range_len(pa, ledger[i].pages * PAGE_SIZE));
		bs->FreePages(ledger[i].pa, ledger[i].pages);
		ledger[i] = ledger[--ledger_count];
		return;
	}
}

void alloc_free_all(void)
{
	while (ledger_count)
		alloc_free(ledger[ledger_count - 1].pa);
}

bool alloc_next(unsigned *cursor, struct range *out)
{
	if (*cursor >= ledger_count)
		return false;
	*out = range_len(ledger[*cursor].pa, ledger[*cursor].pages * PAGE_SIZE);
	++*cursor;
	return true;
}
