/* SPDX-License-Identifier: MIT */
/*
 * Files through the firmware.
 *
 * Invariants: every handle that is opened is closed on every path; memory of a file that could not be read
 * whole is given back at once, and a file that could not be written whole is deleted. A file's size is what GetInfo() said; a file
 * that ends earlier is an error.
 */
#include "boot/files.h"

#include "boot/alloc.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"

/* Some firmware fails on large single transfers from and to USB. */
#define TRANSFER_STEP (1 * MIB)

#define CREATE (EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE | EFI_FILE_MODE_CREATE)

#define MODULE_MAX (64 * MIB)
#define MODULE_NAME_MAX sizeof(((struct boot_module *)0)->name)
#define MODULES_PATH L"\\tangram\\modules"

/* A FAT name has at most 255 characters. */
union info_buffer {
	EFI_FILE_INFO info;
	u8 bytes[sizeof(EFI_FILE_INFO) + 256 * sizeof(CHAR16)];
};

static EFI_BOOT_SERVICES *bs;
static EFI_FILE_HANDLE volume;

EFI_STATUS files_open_volume(EFI_BOOT_SERVICES *services, EFI_HANDLE device)
{
	static EFI_GUID guid = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
	EFI_FILE_IO_INTERFACE *fs;
	EFI_STATUS status;

	bs = services;
	status = bs->HandleProtocol(device, &guid, (void **)&fs);
	if (EFI_ERROR(status))
		return status;
	return fs->OpenVolume(fs, &volume);
}

void files_close_volume(void)
{
	if (volume)
		volume->Close(volume);
	volume = NULL;
}

static const char *status_text(EFI_STATUS status)
{
	static const struct {
		EFI_STATUS status;
		const char *text;
	} texts[] = {
		{ EFI_DEVICE_ERROR, "device error" },
		{ EFI_NO_MEDIA, "no medium" },
		{ EFI_MEDIA_CHANGED, "the medium was changed" },
		{ EFI_VOLUME_CORRUPTED, "the file system is damaged" },
		{ EFI_ACCESS_DENIED, "access denied" },
		{ EFI_WRITE_PROTECTED, "the medium is write-protected" },
		{ EFI_VOLUME_FULL, "the disk is full" },
		{ EFI_OUT_OF_RESOURCES, "the firmware is out of resources" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
		if (texts[i].status == status)
			return texts[i].text;
	return "error of the firmware";
}

#define explain(...) fmt_print(why, why_size, __VA_ARGS__)

static EFI_STATUS open(const CHAR16 *path, EFI_FILE_HANDLE *file, char *why, size_t why_size)
{
	EFI_STATUS status = volume->Open(volume, file, (CHAR16 *)path, EFI_FILE_MODE_READ, 0);

	if (status == EFI_NOT_FOUND)
		explain("is missing");
	else if (EFI_ERROR(status))
		explain("cannot be opened: %s (status 0x%lx)", status_text(status), status);
	return status;
}

static EFI_STATUS file_size(EFI_FILE_HANDLE file, u64 *size, char *why, size_t why_size)
{
	static EFI_GUID guid = EFI_FILE_INFO_ID;
	union info_buffer buffer;
	UINTN len = sizeof(buffer);
	EFI_STATUS status = file->GetInfo(file, &guid, &len, &buffer);

	if (EFI_ERROR(status)) {
		explain("cannot be read: %s (status 0x%lx)", status_text(status), status);
		return status;
	}
	if (buffer.info.Attribute & EFI_FILE_DIRECTORY) {
		explain("is a folder, not a file");
		return EFI_UNSUPPORTED;
	}
	*size = buffer.info.FileSize;
	return EFI_SUCCESS;
}

static EFI_STATUS read_into(EFI_FILE_HANDLE file, u64 pa, u64 size, char *why, size_t why_size)
{
	for (u64 done = 0; done < size;) {
		UINTN len = MIN(size - done, TRANSFER_STEP);
		EFI_STATUS status = file->Read(file, &len, (void *)(pa + done));

		if (EFI_ERROR(status)) {
			explain("cannot be read: %s at byte %lu of %lu (status 0x%lx)", status_text(status), done,
				size, status);
			return status;
		}
		if (len == 0) {
			explain("cannot be read: it ends at byte %lu, its folder says %lu", done, size);
			return EFI_END_OF_FILE;
		}
		done += len;
	}
	return EFI_SUCCESS;
}

EFI_STATUS files_read(const CHAR16 *path, u64 max, struct files_buffer *out, char *why, size_t why_size)
{
	EFI_FILE_HANDLE file;
	EFI_STATUS status;
	u64 size, pa;

	*out = (struct files_buffer){ 0 };
	status = open(path, &file, why, why_size);
	if (EFI_ERROR(status))
		return status;
	status = file_size(file, &size, why, why_size);
	if (EFI_ERROR(status))
		goto out_close;
	if (size > max) {
		explain("is too large: %lu bytes, at most %lu are read", size, max);
		status = EFI_BAD_BUFFER_SIZE;
		goto out_close;
	}
	status = alloc_any(size, &pa);
	if (EFI_ERROR(status)) {
		explain("does not fit: too little memory for its %lu bytes", size);
		goto out_close;
	}
	status = read_into(file, pa, size, why, why_size);
	if (EFI_ERROR(status))
		alloc_free(pa);
	else
		*out = (struct files_buffer){ pa, size };
out_close:
	file->Close(file);
	return status;
}

EFI_STATUS files_list(const CHAR16 *path, void (*visit)(const CHAR16 *name, void *arg), void *arg, char *why,
		      size_t why_size)
{
	union info_buffer buffer;
	EFI_FILE_HANDLE folder;
	EFI_STATUS status;
	UINTN len;

	status = open(path, &folder, why, why_size);
	if (EFI_ERROR(status))
		return status;
	for (;;) {
		len = sizeof(buffer);
		status = folder->Read(folder, &len, &buffer);
		if (EFI_ERROR(status) || len == 0)
			break;
		if (!(buffer.info.Attribute & EFI_FILE_DIRECTORY))
			visit(buffer.info.FileName, arg);
	}
	if (EFI_ERROR(status))
		explain("cannot be read: %s (status 0x%lx)", status_text(status), status);
	folder->Close(folder);
	return status;
}

bool files_exists(const CHAR16 *path)
{
	EFI_FILE_HANDLE file;
	char why[8];

	if (EFI_ERROR(open(path, &file, why, sizeof(why))))
		return false;
	file->Close(file);
	return true;
}

EFI_STATUS files_make_folder(const CHAR16 *path, char *why, size_t why_size)
{
	EFI_FILE_HANDLE folder;
	EFI_STATUS status = volume->Open(volume, &folder, (CHAR16 *)path, CREATE, EFI_FILE_DIRECTORY);

	if (EFI_ERROR(status)) {
		explain("cannot be made: %s (status 0x%lx)", status_text(status), status);
		return status;
	}
	folder->Close(folder);
	return EFI_SUCCESS;
}

/* All of it, and onto the medium. */
static EFI_STATUS write_out(EFI_FILE_HANDLE file, const char *data, u64 size)
{
	EFI_STATUS status = EFI_SUCCESS;

	for (u64 done = 0; done < size && !EFI_ERROR(status);) {
		UINTN len = MIN(size - done, TRANSFER_STEP);

		status = file->Write(file, &len, (void *)(data + done));
		if (!EFI_ERROR(status) && len == 0)
			status = EFI_DEVICE_ERROR;
		done += len;
	}
	return EFI_ERROR(status) ? status : file->Flush(file);
}

EFI_STATUS files_write_new(const CHAR16 *path, const void *data, u64 size, char *why, size_t why_size)
{
	EFI_FILE_HANDLE file;
	EFI_STATUS status;

	/* Open() with CREATE would open what is there. */
	if (files_exists(path)) {
		explain("is there already");
		return EFI_ACCESS_DENIED;
	}
	status = volume->Open(volume, &file, (CHAR16 *)path, CREATE, 0);
	if (!EFI_ERROR(status)) {
		status = write_out(file, data, size);
		if (EFI_ERROR(status))
			file->Delete(file);
		else
			status = file->Close(file);
	}
	if (EFI_ERROR(status))
		explain("cannot be written: %s (status 0x%lx)", status_text(status), status);
	return status;
}

void files_delete(const CHAR16 *path)
{
	EFI_FILE_HANDLE file;

	if (!EFI_ERROR(volume->Open(volume, &file, (CHAR16 *)path, EFI_FILE_MODE_READ | EFI_FILE_MODE_WRITE, 0)))
		file->Delete(file);
}

/* The name as boot_info has it; false: too long, or not plain ASCII. */
static bool module_name(const CHAR16 *name, char *out)
{
	size_t n = 0;

	for (; name[n]; n++) {
		if (n == MODULE_NAME_MAX - 1 || name[n] < 0x20 || name[n] > 0x7e)
			return false;
		out[n] = (char)name[n];
	}
	out[n] = '\0';
	return n > 0;
}

/* Names are kept sorted: the order in a folder is that of its history, and boots shall be alike. */
static void insert_name(struct boot_info *info, const char *name)
{
	u32 at = info->module_count++;

	while (at > 0 && strcmp(info->modules[at - 1].name, name) > 0) {
		info->modules[at] = info->modules[at - 1];
		at--;
	}
	info->modules[at] = (struct boot_module){ 0 };
	memcpy(info->modules[at].name, name, strlen(name));
}

struct module_list {
	struct boot_info *info;
	void (*complain)(const char *fmt, ...);
	unsigned too_many;
};

static void list_module(const CHAR16 *file, void *arg)
{
	struct module_list *list = arg;
	char name[MODULE_NAME_MAX];

	if (!module_name(file, name))
		list->complain("\\tangram\\modules: a file whose name is not ASCII or longer than %zu is left out",
			       MODULE_NAME_MAX - 1);
	else if (list->info->module_count == BOOT_MODULES_MAX)
		list->too_many++;
	else
		insert_name(list->info, name);
}

/* Fill one entry from its file. */
static bool read_module(struct boot_module *module, void (*complain)(const char *fmt, ...))
{
	static const CHAR16 folder[] = MODULES_PATH L"\\";
	CHAR16 path[ARRAY_SIZE(folder) + MODULE_NAME_MAX];
	struct files_buffer buffer;
	char why[128];
	size_t n = 0;

	memcpy(path, folder, sizeof(folder));
	do
		path[ARRAY_SIZE(folder) - 1 + n] = (u8)module->name[n];
	while (module->name[n++]);
	if (EFI_ERROR(files_read(path, MODULE_MAX, &buffer, why, sizeof(why)))) {
		complain("\\tangram\\modules\\%s %s: it is left out", module->name, why);
		return false;
	}
	module->pa = buffer.pa;
	module->size = buffer.size;
	return true;
}

void files_read_modules(struct boot_info *info, void (*complain)(const char *fmt, ...))
{
	struct module_list list = { .info = info, .complain = complain };
	char why[128];
	u32 kept = 0;
	EFI_STATUS status = files_list(MODULES_PATH, list_module, &list, why, sizeof(why));

	if (EFI_ERROR(status) && status != EFI_NOT_FOUND)
		complain("\\tangram\\modules %s", why);
	if (list.too_many)
		complain("\\tangram\\modules: %u files beyond the first %u are left out", list.too_many,
			 BOOT_MODULES_MAX);
	for (u32 i = 0; i < info->module_count; i++)
		if (read_module(&info->modules[i], complain))
			info->modules[kept++] = info->modules[i];
	memset(&info->modules[kept], 0, (info->module_count - kept) * sizeof(info->modules[0]));
	info->module_count = kept;
}
