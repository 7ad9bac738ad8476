/* SPDX-License-Identifier: MIT */
/*
 * boot/elf_load.c: which kernel images are refused, with which words, and where the bytes of a good one go.
 *
 * Files are handed over in memory of exactly their size, so that the address sanitizer sees every read behind
 * the end.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/elf_load.h"
#include "kernel/base/bits.h"
#include "tests/host/elf_sample.h"
#include "tests/test.h"

/* What elf_check() says of the first size bytes. */
static int check_cut(const u8 *file, u64 size, struct elf_image *out, char *why, size_t why_size)
{
	u8 *exact = malloc(size ? size : 1);
	int rc;

	memcpy(exact, file, size);
	why[0] = '\0';
	rc = elf_check(exact, size, out, why, why_size);
	free(exact);
	return rc;
}

TEST_ID(elf_load, accepts_a_good_image, "BT1")
{
	u8 *file = elf_sample();
	struct elf_image image;
	char why[192];

	CHECK_EQ(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)), 0);
	CHECK_EQ(image.count, 3);
	CHECK_EQ(image.entry, TEXT_VA + 0x20);
	CHECK_EQ(image.size, 2 * MIB + 2 * MIB + 4 * MIB);
	CHECK_EQ(image.segments[0].va, TEXT_VA);
	CHECK_EQ(image.segments[1].va, RODATA_VA);
	CHECK_EQ(image.segments[2].va, DATA_VA);
	CHECK_EQ(image.segments[2].flags, ELF_PF_R | ELF_PF_W);
	free(file);
}

/* One field changed: refused, and the words name the cause. */
static const struct {
	const char *name;
	u64 at;
	unsigned width;
	u64 value;
	const char *words;
} bad_fields[] = {
	{ "magic", 0, 1, 0x7e, "not an ELF file" },
	{ "elf32", EH_CLASS, 1, 1, "not ELF64" },
	{ "big_endian", EH_DATA, 1, 2, "not little-endian" },
	{ "ident_version", EH_IDENT_VERSION, 1, 2, "unknown ELF version" },
	{ "version", EH_VERSION, 4, 0, "unknown ELF version" },
	{ "machine_i386", EH_MACHINE, 2, 3, "wrong machine: number 3" },
	{ "machine_arm64", EH_MACHINE, 2, 183, "wrong machine: number 183" },
	{ "relocatable", EH_TYPE, 2, 1, "ELF type 1" },
	{ "shared_object", EH_TYPE, 2, 3, "ELF type 3" },
	{ "no_program_headers", EH_PHNUM, 2, 0, "no program headers" },
	{ "too_many_program_headers", EH_PHNUM, 2, 65, "too many program headers: 65" },
	{ "program_header_size", EH_PHENTSIZE, 2, 32, "program headers of 32 bytes" },
	{ "program_headers_outside", EH_PHOFF, 8, ELF_SAMPLE_SIZE - 3 * 56 + 1, "truncated: program headers" },
	{ "program_headers_overflow", EH_PHOFF, 8, ~0ull - 100, "truncated: program headers" },
	{ "section_headers_outside", EH_SHOFF, 8, ELF_SAMPLE_SIZE, "truncated: section headers" },
	{ "section_headers_overflow", EH_SHOFF, 8, ~0ull - 64, "truncated: section headers" },
	{ "nothing_to_load", EH_PHNUM, 2, 0, "no program headers" },
	{ "dynamic", PH(2, P_TYPE), 4, 2, "dynamic linker" },
	{ "interpreter", PH(2, P_TYPE), 4, 3, "dynamic linker" },
	{ "low_address", PH(2, P_VADDR), 8, 2 * MIB, "segment 2 at 0x200000 lies outside" },
	{ "just_below_base", PH(1, P_VADDR), 8, KERNEL_BASE - 2 * MIB, "lies outside" },
	{ "misaligned", PH(2, P_VADDR), 8, RODATA_VA + PAGE_SIZE, "not aligned to 2 MiB" },
	{ "last_block", PH(2, P_VADDR), 8, 0 - 2 * MIB, "lies outside" },
	{ "memory_overflow", PH(0, P_MEMSZ), 8, ~0ull, "lies outside" },
	{ "memory_wraps", PH(0, P_MEMSZ), 8, 0 - DATA_VA, "lies outside" },
	{ "file_larger_than_memory", PH(2, P_FILESZ), 8, 0x41, "0x41 bytes in the file, but 0x40 in memory" },
	{ "offset_outside", PH(2, P_OFFSET), 8, ELF_SAMPLE_SIZE - 0x3f, "truncated: segment 2" },
	{ "offset_overflow", PH(2, P_OFFSET), 8, ~0ull - 0x20, "truncated: segment 2" },
	{ "writable_text", PH(1, P_FLAGS), 4, 7, "segment 1 at 0xffffffff80000000 is writable and executable" },
	{ "overlap", PH(2, P_VADDR), 8, DATA_VA + 2 * MIB, "overlaps the one at 0xffffffff81000000" },
	{ "overlap_from_below", PH(1, P_MEMSZ), 8, 4 * MIB + 1, "overlaps" },
	{ "same_address", PH(2, P_VADDR), 8, TEXT_VA, "overlaps the one at 0xffffffff80000000" },
	{ "no_entry", EH_ENTRY, 8, 0, "no entry point" },
	{ "entry_in_rodata", EH_ENTRY, 8, RODATA_VA, "entry point 0xffffffff80400000 outside" },
	{ "entry_behind_text", EH_ENTRY, 8, TEXT_VA + TEXT_SIZE, "outside of every executable" },
	{ "entry_physical", EH_ENTRY, 8, 0x100000, "outside of every executable" },
};

static unsigned bad_field_rows(void)
{
	return ARRAY_SIZE(bad_fields);
}

static void bad_field_name(unsigned row, char *buf, size_t size)
{
	strncpy(buf, bad_fields[row].name, size - 1);
	buf[size - 1] = '\0';
}

TEST_ROWS(elf_refuses, bad_fields, "BT2", 0, bad_field_rows, bad_field_name)
{
	unsigned row = test_row();
	u8 *file = elf_sample();
	struct elf_image image;
	char why[192];

	elf_put(file, bad_fields[row].at, bad_fields[row].width, bad_fields[row].value);
	CHECK(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) < 0);
	if (!CHECK(strstr(why, bad_fields[row].words)))
		test_note("why=\"%s\"", why);
	free(file);
}

TEST_ID(elf_load, refuses_every_truncation, "BT2")
{
	u8 *file = elf_sample();
	struct elf_image image;
	u64 accepted = 0, unnamed = 0;
	char why[192];

	for (u64 size = 0; size < ELF_SAMPLE_SIZE; size++) {
		if (check_cut(file, size, &image, why, sizeof(why)) == 0)
			accepted++;
		else if (!strstr(why, size ? "is truncated" : "is empty"))
			unnamed++;
	}
	CHECK_EQ(accepted, 0);
	CHECK_EQ(unnamed, 0);
	free(file);
}

TEST_ID(elf_load, refuses_more_segments_than_fit, "BT2")
{
	u8 *file = elf_sample();
	struct elf_image image;
	char why[192];

	for (unsigned i = 3; i < PHDRS; i++)
		elf_put_segment(file, i, ELF_PF_R, RODATA_AT, KERNEL_BASE + (100 + 2 * i) * MIB, 1, 1);
	elf_put(file, EH_PHNUM, 2, BOOT_SEGMENTS_MAX);
	CHECK_EQ(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)), 0);
	CHECK_EQ(image.count, BOOT_SEGMENTS_MAX);
	elf_put(file, EH_PHNUM, 2, BOOT_SEGMENTS_MAX + 1);
	CHECK(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) < 0);
	CHECK(strstr(why, "too many segments"));
	free(file);
}

/* A property note (PT_GNU_PROPERTY) that asks for CPU features: one property of 4 bytes, padded to 8. */
static void put_property(u8 *file, u32 note_size, u32 data_size, u32 bits)
{
	elf_put(file, EH_PHNUM, 2, 4);
	elf_put(file, PH(3, P_TYPE), 4, 0x6474e553);
	elf_put(file, PH(3, P_OFFSET), 8, PROPERTY_AT);
	elf_put(file, PH(3, P_FILESZ), 8, 16 + note_size);
	elf_put(file, PROPERTY_AT, 4, 4);
	elf_put(file, PROPERTY_AT + 4, 4, note_size);
	elf_put(file, PROPERTY_AT + 8, 4, 5);
	memcpy(file + PROPERTY_AT + 12, "GNU", 4);
	elf_put(file, PROPERTY_AT + 16, 4, 0xc0008002);
	elf_put(file, PROPERTY_AT + 20, 4, data_size);
	elf_put(file, PROPERTY_AT + 24, 4, bits);
}

TEST_ID(elf_load, refuses_unknown_cpu_features, "BT2")
{
	u8 *file = elf_sample();
	struct elf_image image;
	char why[192];

	put_property(file, 16, 4, 1);
	CHECK_EQ(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)), 0);
	put_property(file, 16, 4, 3);
	CHECK(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) < 0);
	CHECK(strstr(why, "needs CPU features"));
	put_property(file, 16, 64, 1);
	CHECK(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) < 0);
	CHECK(strstr(why, "damaged property note"));
	elf_put(file, PH(3, P_OFFSET), 8, ELF_SAMPLE_SIZE - 8);
	CHECK(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) < 0);
	CHECK(strstr(why, "truncated: property note"));
	free(file);
}

TEST_ID(elf_load, survives_random_damage, "BT2")
{
	struct rng rng = test_rng();
	struct elf_image image;
	u64 accepted = 0, unsound = 0, silent = 0;
	char why[192];

	for (unsigned i = 0; i < 20000; i++) {
		u8 *file = elf_sample();

		for (u64 n = 1 + rng_below(&rng, 3); n > 0; n--) {
			u64 at = rng_below(&rng, 64 + 4 * 56);
			unsigned width = 1 + (unsigned)rng_below(&rng, 8);

			elf_put(file, at, width, rng_next(&rng));
		}
		if (check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) == 0) {
			accepted++;
			unsound += !elf_image_sound(&image, ELF_SAMPLE_SIZE);
		} else {
			silent += why[0] == '\0';
		}
		free(file);
	}
	CHECK_EQ(unsound, 0);
	CHECK_EQ(silent, 0);
	test_note("accepted=%lu of=20000", accepted);
}

static bool all_bytes(const u8 *at, u64 size, u8 value)
{
	for (u64 i = 0; i < size; i++)
		if (at[i] != value)
			return false;
	return true;
}

TEST_ID(elf_load, places_and_fills, "BT1 BT3")
{
	u8 *file = elf_sample();
	struct boot_segment placed[BOOT_SEGMENTS_MAX];
	struct elf_image image;
	u64 pa = 64 * MIB;
	char why[192];
	u8 *memory;

	REQUIRE(check_cut(file, ELF_SAMPLE_SIZE, &image, why, sizeof(why)) == 0);
	elf_place(&image, pa, placed);
	for (u32 i = 0; i < image.count; i++) {
		CHECK_EQ(placed[i].pa, pa);
		CHECK_EQ(placed[i].va, image.segments[i].va);
		CHECK_EQ(placed[i].used, image.segments[i].memsz);
		CHECK(is_aligned(placed[i].size, 2 * MIB) && placed[i].size >= placed[i].used);
		pa += placed[i].size;
	}
	CHECK_EQ(pa, 64 * MIB + image.size);
	memory = malloc(image.size);
	memset(memory, 0x55, image.size);
	for (u32 i = 0; i < image.count; i++)
		elf_copy(file, &image.segments[i], memory + (placed[i].pa - placed[0].pa));
	CHECK(all_bytes(memory, TEXT_SIZE, 0x90));
	CHECK(all_bytes(memory + TEXT_SIZE, 2 * MIB - TEXT_SIZE, 0xcc));
	CHECK(all_bytes(memory + 2 * MIB, 0x40, 'r'));
	CHECK(all_bytes(memory + 2 * MIB + 0x40, 2 * MIB - 0x40, 0));
	CHECK(all_bytes(memory + 4 * MIB, DATA_FILE_SIZE, 'd'));
	CHECK(all_bytes(memory + 4 * MIB + DATA_FILE_SIZE, 4 * MIB - DATA_FILE_SIZE, 0));
	free(memory);
	free(file);
}

/* Text whose zeroes the file leaves out is still zero up to memsz; only the tail is INT3. */
TEST_ID(elf_load, text_tail_begins_at_memsz, "BT3")
{
	const struct elf_segment text = {
		.va = KERNEL_BASE, .filesz = 4, .memsz = 100, .flags = ELF_PF_R | ELF_PF_X,
	};
	u8 *memory = malloc(2 * MIB);

	elf_copy("\x90\x90\x90\x90", &text, memory);
	CHECK(all_bytes(memory, 4, 0x90));
	CHECK(all_bytes(memory + 4, 96, 0));
	CHECK(all_bytes(memory + 100, 2 * MIB - 100, 0xcc));
	free(memory);
}
