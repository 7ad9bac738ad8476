/* SPDX-License-Identifier: MIT */
/*
 * Findings of the firmware, by configuration table and protocol.
 *
 * Sources: UEFI 2.10 sections 4.6 (configuration tables, memory attributes), 12.9 (GOP), 37.5 (RNG).
 */
#include "boot/tables.h"

#include "boot/alloc.h"
#include "boot/cpu.h"
#include "kernel/base/bits.h"
#include "kernel/base/rng.h"
#include "kernel/base/string.h"

/* EFI_MEMORY_ATTRIBUTES_TABLE: this header, then descriptors like those of the memory map. */
struct attributes_table {
	u32 version;
	u32 entries;
	u32 entry_size;
	u32 flags;
};

/* Far more than the few dozen runtime ranges of any firmware. */
#define ATTRIBUTES_MAX (1 * MIB)

static void *config_table(EFI_SYSTEM_TABLE *st, const EFI_GUID *guid)
{
	for (UINTN i = 0; i < st->NumberOfTableEntries; i++)
		if (memcmp(&st->ConfigurationTable[i].VendorGuid, guid, sizeof(*guid)) == 0)
			return st->ConfigurationTable[i].VendorTable;
	return NULL;
}

static void find_rsdp(EFI_SYSTEM_TABLE *st, struct boot_info *info)
{
	static const EFI_GUID by_preference[] = { ACPI_20_TABLE_GUID, ACPI_TABLE_GUID };

	for (unsigned i = 0; i < ARRAY_SIZE(by_preference) && !info->rsdp; i++)
		info->rsdp = (u64)config_table(st, &by_preference[i]);
}

/* The original may lie in memory of a boot-services type, which the kernel takes over. */
static void copy_attributes(EFI_SYSTEM_TABLE *st, struct boot_info *info, void (*complain)(const char *fmt, ...))
{
	static const EFI_GUID guid = {
		0xdcfa911d, 0x26eb, 0x469f, { 0xa2, 0x20, 0x38, 0xb7, 0xdc, 0x46, 0x12, 0x20 }
	};
	const struct attributes_table *table = config_table(st, &guid);
	u64 size, pa;

	if (!table)
		return;
	size = sizeof(*table) + (u64)table->entries * table->entry_size;
	if (size > ATTRIBUTES_MAX) {
		complain("the memory-attributes table is not used: its header says %lu bytes", size);
		return;
	}
	if (EFI_ERROR(alloc_any(size, &pa))) {
		complain("the memory-attributes table is not used: too little memory for %lu bytes", size);
		return;
	}
	memcpy((void *)pa, table, size);
	info->efi_memory_attributes = pa;
}

/* A framebuffer of 32-bit pixels, 8 bits each; others would need code that no known machine runs. */
static bool usable_mode(const EFI_GRAPHICS_OUTPUT_PROTOCOL *gop, u32 *format)
{
	const EFI_GRAPHICS_OUTPUT_MODE_INFORMATION *mode;
	u64 bytes;

	if (!gop->Mode || !gop->Mode->Info || !gop->Mode->FrameBufferBase)
		return false;
	mode = gop->Mode->Info;
	if (mode->PixelFormat == PixelRedGreenBlueReserved8BitPerColor)
		*format = 0;
	else if (mode->PixelFormat == PixelBlueGreenRedReserved8BitPerColor)
		*format = 1;
	else
		return false;
	bytes = (u64)mode->PixelsPerScanLine * mode->VerticalResolution * 4;
	return mode->PixelsPerScanLine >= mode->HorizontalResolution && bytes &&
	       bytes <= gop->Mode->FrameBufferSize;
}

/* The screen that the firmware's console is on, else any. */
static void find_framebuffer(EFI_SYSTEM_TABLE *st, struct boot_info *info)
{
	static EFI_GUID guid = EFI_GRAPHICS_OUTPUT_PROTOCOL_GUID;
	EFI_GRAPHICS_OUTPUT_PROTOCOL *gop = NULL;
	u32 format;

	if (!st->ConsoleOutHandle ||
	    EFI_ERROR(st->BootServices->HandleProtocol(st->ConsoleOutHandle, &guid, (void **)&gop)) ||
	    !usable_mode(gop, &format)) {
		if (EFI_ERROR(st->BootServices->LocateProtocol(&guid, NULL, (void **)&gop)) ||
		    !usable_mode(gop, &format))
			return;
	}
	info->framebuffer = (struct boot_framebuffer){
		.pa = gop->Mode->FrameBufferBase,
		.size = gop->Mode->FrameBufferSize,
		.width = gop->Mode->Info->HorizontalResolution,
		.height = gop->Mode->Info->VerticalResolution,
		.stride = gop->Mode->Info->PixelsPerScanLine,
		.format = format,
	};
}

static void collect_entropy(EFI_SYSTEM_TABLE *st, struct boot_info *info)
{
	static EFI_GUID guid = EFI_RNG_PROTOCOL_GUID;
	EFI_RNG_PROTOCOL *source;
	struct rng mix;

	if (!EFI_ERROR(st->BootServices->LocateProtocol(&guid, NULL, (void **)&source)) &&
	    !EFI_ERROR(source->GetRNG(source, NULL, sizeof(info->entropy), info->entropy))) {
		info->entropy_bytes = sizeof(info->entropy);
		return;
	}
	mix.state = cpu_tsc();
	for (unsigned i = 0; i < sizeof(info->entropy); i += sizeof(u64)) {
		u64 word = rng_next(&mix);

		memcpy(info->entropy + i, &word, sizeof(word));
		mix.state ^= cpu_tsc();
	}
}

void tables_collect(EFI_SYSTEM_TABLE *system, struct boot_info *info, void (*complain)(const char *fmt, ...))
{
	info->efi_system_table = (u64)system;
	info->efi_runtime = (u64)system->RuntimeServices;
	find_rsdp(system, info);
	copy_attributes(system, info, complain);
	find_framebuffer(system, info);
	collect_entropy(system, info);
}
