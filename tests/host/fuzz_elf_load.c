/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer on boot/elf_load.c: any bytes as a kernel image. What is accepted must keep the promises of
 * elf_load.h, and its bytes must be loadable; the address sanitizer watches every read.
 *
 * An input is either a file, or (first byte odd) changes of a good file: nothing random would get far else. One
 * first byte in 16 has the image loaded, too: to fill megabytes takes longer than all checks.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/elf_load.h"
#include "tests/host/elf_sample.h"

#define LOAD_MAX (16 * MIB)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void need(bool condition)
{
	if (!condition)
		abort();
}

/* One change of the good file: offset in its headers, width, value. */
struct __packed change {
	u16 at;
	u8 width;
	u64 value;
};

static u8 *changed_sample(const u8 *data, size_t size)
{
	u8 *file = elf_sample();
	struct change c;

	for (; size >= sizeof(c); data += sizeof(c), size -= sizeof(c)) {
		memcpy(&c, data, sizeof(c));
		elf_put(file, c.at % (64 + PHDRS * 56), 1 + c.width % 8, c.value);
	}
	return file;
}

static void load(const u8 *file, const struct elf_image *image)
{
	struct boot_segment placed[BOOT_SEGMENTS_MAX];
	u8 *memory;

	elf_place(image, ELF_SEGMENT_ALIGN, placed);
	if (image->size > LOAD_MAX)
		return;
	memory = malloc(image->size);
	for (u32 i = 0; i < image->count; i++)
		elf_copy(file, &image->segments[i], memory + (placed[i].pa - ELF_SEGMENT_ALIGN));
	free(memory);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct elf_image image;
	char why[192] = "";
	u64 file_size;
	u8 *file;

	if (size == 0)
		return 0;
	if (data[0] & 1) {
		file = changed_sample(data + 1, size - 1);
		file_size = ELF_SAMPLE_SIZE;
	} else {
		file_size = size - 1;
		file = malloc(size);
		memcpy(file, data + 1, file_size);
	}
	if (elf_check(file, file_size, &image, why, sizeof(why)) == 0) {
		need(elf_image_sound(&image, file_size));
		if ((data[0] & 0x1e) == 0)
			load(file, &image);
	} else {
		need(why[0] != '\0' && memchr(why, '\0', sizeof(why)));
	}
	free(file);
	return 0;
}
