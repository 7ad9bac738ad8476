/* SPDX-License-Identifier: MIT */
/*
 * The loader: from the firmware to the kernel, in the order of the table of steps at the end.
 *
 * Invariants: until ExitBootServices() succeeds every failure is one line that names the file and the cause,
 * all memory goes back, and the firmware gets a status to go on from (SPEC BT2). After it there is
 * nothing left that could fail: tables and boot_info were complete before.
 */
#include <efi.h>
#include <stdarg.h>

#include "boot/alloc.h"
#include "boot/boot_info.h"
#include "boot/cmdline.h"
#include "boot/console.h"
#include "boot/cpu.h"
#include "boot/elf_load.h"
#include "boot/files.h"
#include "boot/logs.h"
#include "boot/memmap.h"
#include "boot/paging.h"
#include "boot/rights.h"
#include "boot/tables.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"

#include <efishell.h>

#define KERNEL_PATH "\\tangram\\kernel.elf"
#define CMDLINE_PATH "\\tangram\\cmdline.txt"
#define WIDE_(text) L##text
#define WIDE(text) WIDE_(text)

#define KERNEL_FILE_MAX (512 * MIB)

/* Firmware may change its map between two calls, by a timer of a driver; it does not do so for ever. */
#define EXIT_ATTEMPTS 32
#define PLACE_ATTEMPTS 256

/* Descriptors and tables that may come to be needed while memory for them is allocated. */
#define SLACK 32

/* The memory map: as the firmware gives it, and in normal form. One allocation holds it all. */
struct map {
	u64 memory;
	u64 raw_max;		/* bytes */
	u64 raw_size;
	UINTN step;		/* bytes of a descriptor */
	UINTN key;
	void *raw;
	u64 *scratch;
	struct boot_mem *mem;
	u32 count;
	u64 lost;		/* bytes of RAM above MEMMAP_LIMIT */
};

static EFI_HANDLE image;
static EFI_SYSTEM_TABLE *st;
static EFI_LOADED_IMAGE *loaded;
static struct boot_info *info;
static struct elf_image kernel;
static struct map map;
static bool has_rights_protocol;

void jump_to_kernel(u64 root, u64 entry, u64 info_va, bool nx) __noreturn __attribute__((visibility("hidden")));
extern const u8 jump_start[] __attribute__((visibility("hidden")));
extern const u8 jump_end[] __attribute__((visibility("hidden")));
EFI_STATUS efi_main(EFI_HANDLE handle, EFI_SYSTEM_TABLE *system);

#define fail(status, ...) (console_line(__VA_ARGS__), (status))

/* For the kernel's log, and for whoever watches the boot. A note that finds no room is on the console only. */
static void __printf(1, 2) note(const char *fmt, ...)
{
	size_t used = strlen(info->notes);
	char text[256];
	size_t len;
	va_list args;

	va_start(args, fmt);
	fmt_vprint(text, sizeof(text), fmt, args);
	va_end(args);
	console_line("%s", text);
	len = strlen(text);
	if (used + (used > 0) + len + 1 > sizeof(info->notes))
		return;
	if (used)
		info->notes[used++] = '\n';
	memcpy(info->notes + used, text, len + 1);
}

static struct range image_range(void)
{
	return range_len((u64)loaded->ImageBase, loaded->ImageSize);
}

/* From here on nothing that the loader has, or will get, is writable and executable, if the firmware lets that be said. */
static void take_rights(void)
{
	static EFI_GUID guid = { 0xf4560cf6, 0x40ec, 0x4b4a, { 0xa1, 0x92, 0xbf, 0x1d, 0x57, 0xd0, 0xb1, 0x89 } };
	struct rights_protocol *protocol;
	unsigned cursor = 0;
	struct range r;

	if (EFI_ERROR(st->BootServices->LocateProtocol(&guid, NULL, (void **)&protocol)))
		protocol = NULL;
	rights_init(protocol);
	rights_set_image(image_range());
	while (alloc_next(&cursor, &r))
		rights_set(r, RIGHTS_DATA);
	has_rights_protocol = protocol != NULL;
}

/* What is left of it under the tables that the loader runs on. */
static struct boot_rights count_rights(void)
{
	struct rights_tables tables = { cpu_cr3() & PTE_ADDR, info->pt_levels, cpu_nx_on() };
	struct boot_rights found = { .protocol = has_rights_protocol, .changed = rights_changed() };
	struct range r = image_range();
	unsigned cursor = 0;

	do {
		found.bytes += range_size(r);
		found.writable_executable += rights_writable_executable(&tables, r);
	} while (alloc_next(&cursor, &r));
	return found;
}

static EFI_STATUS begin(void)
{
	static EFI_GUID guid = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	EFI_STATUS status;
	u64 pa;

	logs_hold();	/* first: anything else might be given that very memory */
	status = st->BootServices->HandleProtocol(image, &guid, (void **)&loaded);
	if (EFI_ERROR(status))
		return fail(status, "the firmware does not say what it started (status 0x%lx)", status);
	take_rights();
	status = files_open_volume(st->BootServices, loaded->DeviceHandle);
	if (EFI_ERROR(status))
		return fail(status, KERNEL_PATH " cannot be read: no file system where the loader came from "
			    "(status 0x%lx)", status);
	status = alloc_any(sizeof(*info), &pa);
	if (EFI_ERROR(status))
		return fail(status, KERNEL_PATH " cannot be loaded: too little memory for boot_info");
	info = (struct boot_info *)pa;
	memset(info, 0, sizeof(*info));
	info->magic = BOOT_INFO_MAGIC;
	info->version = BOOT_INFO_VERSION;
	info->size = sizeof(*info);
	info->pt_levels = cpu_cr4() & CPU_CR4_LA57 ? 5 : 4;
	return EFI_SUCCESS;
}

static EFI_STATUS load_kernel(void)
{
	struct files_buffer file;
	EFI_STATUS status;
	char why[192];

	status = files_read(WIDE(KERNEL_PATH), KERNEL_FILE_MAX, &file, why, sizeof(why));
	if (EFI_ERROR(status))
		return fail(status, KERNEL_PATH " %s", why);
	if (elf_check((void *)file.pa, file.size, &kernel, why, sizeof(why)))
		return fail(EFI_LOAD_ERROR, KERNEL_PATH " %s", why);
	info->kernel_file = file.pa;
	info->kernel_file_size = file.size;
	return EFI_SUCCESS;
}

/* The words that a shell gave behind the loader's name. False: not started by a shell, or without words. */
static bool cmdline_from_shell(void)
{
	static EFI_GUID guid = EFI_SHELL_PARAMETERS_PROTOCOL_GUID;
	EFI_SHELL_PARAMETERS_PROTOCOL *shell;
	static char words[BOOT_CMDLINE_MAX];
	const char *why = NULL;
	u64 len = 0;

	if (EFI_ERROR(st->BootServices->HandleProtocol(image, &guid, (void **)&shell)))
		return false;
	for (UINTN i = 1; i < shell->Argc && !why; i++) {
		u64 chars = 0;
		int n;

		while (shell->Argv[i][chars])
			chars++;
		if (len)
			words[len++] = ' ';
		n = cmdline_from_utf16(shell->Argv[i], chars * sizeof(CHAR16), words + len, sizeof(words) - len,
				       &why);
		len += n > 0 ? (u64)n : 0;
		if (len + 1 >= sizeof(words) && i + 1 < shell->Argc)
			why = "it is too long";
	}
	if (why)
		note("the command line of the shell is ignored: %s", why);
	if (why || len == 0)
		return false;
	memcpy(info->cmdline, words, len);
	info->cmdline_length = (u32)len;
	return true;
}

/* The load options of a boot entry. Firmware puts data of its own there, too: that is named and ignored. */
static bool cmdline_from_options(void)
{
	const char *why;
	int len;

	if (!loaded->LoadOptions || loaded->LoadOptionsSize == 0)
		return false;
	len = cmdline_from_utf16(loaded->LoadOptions, loaded->LoadOptionsSize, info->cmdline,
				 sizeof(info->cmdline), &why);
	if (len < 0)
		note("the load options (%u bytes) are ignored: %s", loaded->LoadOptionsSize, why);
	info->cmdline_length = len > 0 ? (u32)len : 0;
	return len > 0;
}

static void cmdline_from_file(void)
{
	struct files_buffer file;
	const char *cause;
	char why[192];
	int len;

	if (EFI_ERROR(files_read(WIDE(CMDLINE_PATH), CMDLINE_FILE_MAX, &file, why, sizeof(why)))) {
		note(CMDLINE_PATH " %s: the command line is empty", why);
		return;
	}
	len = cmdline_from_utf8((void *)file.pa, file.size, info->cmdline, sizeof(info->cmdline), &cause);
	if (len < 0)
		note(CMDLINE_PATH " is ignored: %s; the command line is empty", cause);
	info->cmdline_length = len > 0 ? (u32)len : 0;
	alloc_free(file.pa);
}

static EFI_STATUS load_cmdline(void)
{
	if (!cmdline_from_shell() && !cmdline_from_options())
		cmdline_from_file();
	return EFI_SUCCESS;
}

static EFI_STATUS load_modules(void)
{
	files_read_modules(info, note);
	return EFI_SUCCESS;
}

static EFI_STATUS collect_tables(void)
{
	tables_collect(st, info, note);
	return EFI_SUCCESS;
}

static EFI_STATUS keep_logs(void)
{
	logs_keep(info, note);
	return EFI_SUCCESS;
}

static EFI_STATUS map_allocate(u64 raw_size)
{
	u64 descriptors = raw_size / map.step + SLACK;
	u64 entries = memmap_entries_max(descriptors);
	EFI_STATUS status;

	alloc_free(map.memory);
	map.memory = 0;
	map.raw_max = align_up(descriptors * map.step, 8);
	status = alloc_any(map.raw_max + entries * (sizeof(*map.scratch) + sizeof(*map.mem)), &map.memory);
	if (EFI_ERROR(status))
		return status;
	map.raw = (void *)map.memory;
	map.scratch = (u64 *)(map.memory + map.raw_max);
	map.mem = (struct boot_mem *)(map.scratch + entries);
	return EFI_SUCCESS;
}

/* Fresh, with its key. Only services that are allowed after a failed ExitBootServices() are called. */
static EFI_STATUS map_read(void)
{
	EFI_BOOT_SERVICES *bs = st->BootServices;
	EFI_STATUS status;
	UINT32 version;

	for (unsigned i = 0; i < EXIT_ATTEMPTS; i++) {
		UINTN size = map.memory ? map.raw_max : 0;

		status = bs->GetMemoryMap(&size, map.raw, &map.key, &map.step, &version);
		if (!EFI_ERROR(status)) {
			map.raw_size = size;
			map.count = memmap_normalise(map.raw, size, map.step, map.mem, map.scratch, &map.lost);
			return EFI_SUCCESS;
		}
		if (status != EFI_BUFFER_TOO_SMALL)
			return fail(status, "the firmware gives no memory map (status 0x%lx)", status);
		if (map.step < sizeof(struct memmap_descriptor))
			return fail(EFI_UNSUPPORTED, "the firmware's memory map has descriptors of %lu bytes",
				    (u64)map.step);
		status = map_allocate(size);
		if (EFI_ERROR(status))
			return fail(status, "too little memory for a memory map of %lu bytes", (u64)size);
	}
	return fail(EFI_BUFFER_TOO_SMALL, "the firmware's memory map grows without end");
}

/* Where the image goes: allocated, and not in a whole gigabyte if that can be helped. */
static EFI_STATUS allocate_image(u64 *pa, bool *ragged)
{
	u64 from = 0;
	EFI_STATUS status;

	for (unsigned i = 0; i < PLACE_ATTEMPTS; i++) {
		status = map_read();
		if (EFI_ERROR(status))
			return status;
		*pa = memmap_place(map.mem, map.count, kernel.size, from, ragged);
		if (!*pa)
			break;
		status = alloc_at(kernel.size, *pa);
		if (!EFI_ERROR(status))
			return EFI_SUCCESS;
		/* The map said free and the firmware says no: believe it and look further on. */
		from = *pa + ELF_SEGMENT_ALIGN;
	}
	return fail(EFI_OUT_OF_RESOURCES, KERNEL_PATH " needs %lu MiB in one piece: too little memory, the largest free "
		    "piece has %lu MiB", (u64)(kernel.size / MIB), (u64)(memmap_largest(map.mem, map.count) / MIB));
}

static EFI_STATUS place_image(void)
{
	EFI_STATUS status;
	bool ragged;
	u64 pa;

	status = allocate_image(&pa, &ragged);
	if (EFI_ERROR(status))
		return status;
	if (!ragged)
		note("the kernel image lies at 0x%lx in a gigabyte that is usable as a whole: it costs a 1G leaf", pa);
	if (map.lost)
		note("%lu MiB of RAM above %lu TiB are not used", (u64)(map.lost / MIB), (u64)(MEMMAP_LIMIT >> 40));
	info->segment_count = kernel.count;
	elf_place(&kernel, pa, info->segments);
	for (u32 i = 0; i < kernel.count; i++)
		elf_copy((void *)info->kernel_file, &kernel.segments[i], (void *)info->segments[i].pa);
	return EFI_SUCCESS;
}

/* Tables from a map that is current, in a pool that is large enough. EFI_NOT_READY: the map has changed. */
static EFI_STATUS build_root(struct boot_paging *paging, struct range *pool)
{
	u64 needed = paging_tables_needed(map.mem, map.count, paging->levels) * PAGE_SIZE;
	struct range jump = range((u64)jump_start, (u64)jump_end);
	EFI_STATUS status;
	int rc;

	if (range_size(*pool) < needed) {
		alloc_free(pool->start);
		*pool = range(0, 0);
		needed += SLACK * PAGE_SIZE;
		status = alloc_any(needed, &pool->start);
		if (EFI_ERROR(status))
			return fail(status, "too little memory for %lu KiB of page tables", (u64)(needed / KIB));
		pool->end = pool->start + needed;
		return EFI_NOT_READY;
	}
	rc = paging_build(paging, *pool, map.mem, map.count, info->segments, info->segment_count, jump);
	if (rc)
		return fail(EFI_LOAD_ERROR, "the first page tables cannot be built (error %d)", rc);
	return EFI_SUCCESS;
}

/*
 * Everything that depends on the map is made from the very map whose key ExitBootServices() takes: if that
 * succeeds, all of it is true. EFI_INVALID_PARAMETER says that the map has changed since.
 */
static EFI_STATUS enter_kernel(void)
{
	struct boot_paging paging = { .levels = info->pt_levels, .nx = cpu_has_nx() };
	struct range pool = range(0, 0);
	EFI_STATUS status;

	files_close_volume();
	for (unsigned i = 0; i < EXIT_ATTEMPTS; i++) {
		status = map_read();
		if (EFI_ERROR(status))
			return status;
		status = build_root(&paging, &pool);
		if (status == EFI_NOT_READY)
			continue;
		if (EFI_ERROR(status))
			return status;
		info->mem = (u64)map.mem;
		info->mem_count = map.count;
		info->boot_root = paging.root;
		info->rights = count_rights();
		status = st->BootServices->ExitBootServices(image, map.key);
		if (!EFI_ERROR(status))
			jump_to_kernel(paging.root, kernel.entry, BOOT_DIRECT_BASE + (u64)info, paging.nx);
		console_leave_firmware();
		if (status != EFI_INVALID_PARAMETER)
			break;
	}
	return fail(status, "the firmware does not end its boot services (status 0x%lx)", status);
}

static EFI_STATUS (*const steps[])(void) = {
	begin,
	load_kernel,
	load_cmdline,
	load_modules,
	collect_tables,
	keep_logs,
	place_image,
	enter_kernel,
};

EFI_STATUS efi_main(EFI_HANDLE handle, EFI_SYSTEM_TABLE *system)
{
	EFI_STATUS status = EFI_SUCCESS;

	image = handle;
	st = system;
	console_init(system);
	alloc_init(system->BootServices);
	for (unsigned i = 0; i < ARRAY_SIZE(steps) && !EFI_ERROR(status); i++)
		status = steps[i]();
	files_close_volume();
	alloc_free_all();
	if (loaded)
		rights_restore(image_range());
	return status;
}
