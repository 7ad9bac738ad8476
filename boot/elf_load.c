/* SPDX-License-Identifier: MIT */
/*
 * The kernel image: checks of an ELF64 file and the copy of its segments.
 *
 * Invariants: no byte outside [file, file + size) is read; every sum is checked before it is used; after
 * elf_check() said 0, elf_copy() needs no checks of its own.
 */
#include "boot/elf_load.h"

#include <elf.h>

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"

#define X86_ISA_1_BASELINE 1u	/* of GNU_PROPERTY_X86_ISA_1_NEEDED: what every 64-bit CPU has */

#define INT3 0xcc

/* Far above what any kernel has, and small enough that checking each against each other costs nothing. */
#define PHNUM_MAX 64u

/* The file and where complaints go: what every check needs. */
struct elf_check {
	const u8 *file;
	u64 size;
	char *why;
	size_t why_size;
};

#define refuse(c, ...) (fmt_print((c)->why, (c)->why_size, __VA_ARGS__), -ENOEXEC)

/* Whether [offset, offset + len) lies in the file. */
static bool in_file(const struct elf_check *c, u64 offset, u64 len)
{
	return offset <= c->size && len <= c->size - offset;
}

/* Copied, since nothing says that the file's offsets are aligned. */
static void read_at(const struct elf_check *c, u64 offset, void *out, size_t len)
{
	memcpy(out, c->file + offset, len);
}

static int check_ident(struct elf_check *c, Elf64_Ehdr *h)
{
	if (c->size == 0)
		return refuse(c, "is empty");
	if (memcmp(c->file, ELFMAG, MIN(c->size, (u64)SELFMAG)) != 0)
		return refuse(c, "is not an ELF file");
	if (c->size < sizeof(*h))
		return refuse(c, "is truncated: %lu bytes, the ELF header alone has %zu", c->size,
			      sizeof(*h));
	read_at(c, 0, h, sizeof(*h));
	if (h->e_ident[EI_CLASS] != ELFCLASS64)
		return refuse(c, "is not ELF64: class %u, not %u", h->e_ident[EI_CLASS], ELFCLASS64);
	if (h->e_ident[EI_DATA] != ELFDATA2LSB)
		return refuse(c, "is not little-endian: data encoding %u, not %u", h->e_ident[EI_DATA], ELFDATA2LSB);
	if (h->e_ident[EI_VERSION] != EV_CURRENT || h->e_version != EV_CURRENT)
		return refuse(c, "has an unknown ELF version: %u and %u, not %u", h->e_ident[EI_VERSION],
			      h->e_version, EV_CURRENT);
	if (h->e_machine != EM_X86_64)
		return refuse(c, "is for the wrong machine: number %u, not %u (x86-64)", h->e_machine, EM_X86_64);
	if (h->e_type != ET_EXEC)
		return refuse(c, "is not an executable with fixed addresses: ELF type %u, not %u (ET_EXEC)",
			      h->e_type, ET_EXEC);
	return 0;
}

static int check_tables(struct elf_check *c, const Elf64_Ehdr *h)
{
	u64 len;

	if (h->e_phnum == 0)
		return refuse(c, "has no program headers");
	if (h->e_phentsize != sizeof(Elf64_Phdr))
		return refuse(c, "has program headers of %u bytes, not %zu", h->e_phentsize,
			      sizeof(Elf64_Phdr));
	if (h->e_phnum > PHNUM_MAX)
		return refuse(c, "has too many program headers: %u, at most %u are allowed", h->e_phnum, PHNUM_MAX);
	len = (u64)h->e_phnum * h->e_phentsize;
	if (!in_file(c, h->e_phoff, len))
		return refuse(c, "is truncated: program headers at 0x%lx, %lu bytes, in a file of %lu",
			      h->e_phoff, len, c->size);
	/* Sections are for the kernel's symbols only; but linkers put them last, so this shows a cut tail. */
	len = (u64)h->e_shnum * h->e_shentsize;
	if (h->e_shoff && !in_file(c, h->e_shoff, len))
		return refuse(c, "is truncated: section headers at 0x%lx, %lu bytes, in a file of %lu",
			      h->e_shoff, len, c->size);
	return 0;
}

/*
 * A linker that was told so notes which CPU features the program cannot do without. The loader vouches for none
 * beyond those that every 64-bit CPU has.
 */
static int check_isa_property(struct elf_check *c, const u8 *desc, u64 len)
{
	while (len >= 8) {
		u32 type, data_len, bits = 0;
		u64 step;

		memcpy(&type, desc, 4);
		memcpy(&data_len, desc + 4, 4);
		if (data_len > len - 8)
			return refuse(c, "has a damaged property note");
		if (type == GNU_PROPERTY_X86_ISA_1_NEEDED && data_len >= 4) {
			memcpy(&bits, desc + 8, 4);
			if (bits & ~X86_ISA_1_BASELINE)
				return refuse(c, "needs CPU features beyond x86-64 baseline: property 0x%x", bits);
		}
		step = 8 + align_up(data_len, 8);
		if (step >= len)
			break;
		desc += step;
		len -= step;
	}
	return 0;
}

static int check_property_note(struct elf_check *c, const Elf64_Phdr *p)
{
	u32 name_len, desc_len, type;
	const u8 *note;

	if (!in_file(c, p->p_offset, p->p_filesz) || p->p_filesz < 16)
		return refuse(c, "is truncated: property note at 0x%lx, %lu bytes, in a file of %lu",
			      p->p_offset, p->p_filesz, c->size);
	note = c->file + p->p_offset;
	memcpy(&name_len, note, 4);
	memcpy(&desc_len, note + 4, 4);
	memcpy(&type, note + 8, 4);
	if (name_len != 4 || type != NT_GNU_PROPERTY_TYPE_0)
		return 0;
	if (desc_len > p->p_filesz - 16)
		return refuse(c, "has a damaged property note");
	return check_isa_property(c, note + 16, desc_len);
}

static int check_segment(struct elf_check *c, unsigned nr, const Elf64_Phdr *p)
{
	u64 va = p->p_vaddr;
	u64 room;

	if (p->p_vaddr < KERNEL_BASE)
		return refuse(c, "segment %u at 0x%lx lies outside the image's range: below 0x%lx", nr, va,
			      (u64)KERNEL_BASE);
	if (!is_aligned(p->p_vaddr, ELF_SEGMENT_ALIGN))
		return refuse(c, "segment %u at 0x%lx is not aligned to 2 MiB", nr, va);
	/* Up to the last block of the address space, which stays free: its end would not be a number. */
	room = 0 - p->p_vaddr - ELF_SEGMENT_ALIGN;
	if (p->p_memsz > room)
		return refuse(c, "segment %u at 0x%lx lies outside the image's range: 0x%lx bytes, 0x%lx have room",
			      nr, va, p->p_memsz, room);
	if (p->p_filesz > p->p_memsz)
		return refuse(c, "segment %u at 0x%lx has 0x%lx bytes in the file, but 0x%lx in memory", nr, va,
			      p->p_filesz, p->p_memsz);
	if (!in_file(c, p->p_offset, p->p_filesz))
		return refuse(c, "is truncated: segment %u at offset 0x%lx, 0x%lx bytes, in a file of 0x%lx", nr,
			      p->p_offset, p->p_filesz, c->size);
	if ((p->p_flags & ELF_PF_W) && (p->p_flags & ELF_PF_X))
		return refuse(c, "segment %u at 0x%lx is writable and executable", nr, va);
	return 0;
}

/* Insert by address; whatever shares a 2 MiB block overlaps. */
static int add_segment(struct elf_check *c, struct elf_image *out, unsigned nr, const Elf64_Phdr *p)
{
	u64 end = p->p_vaddr + align_up(p->p_memsz, ELF_SEGMENT_ALIGN);
	u32 at = out->count;

	for (u32 i = 0; i < out->count; i++) {
		const struct elf_segment *s = &out->segments[i];

		if (p->p_vaddr < s->va + align_up(s->memsz, ELF_SEGMENT_ALIGN) && s->va < end)
			return refuse(c, "segment %u at 0x%lx overlaps the one at 0x%lx (in blocks of 2 MiB)", nr,
				      p->p_vaddr, s->va);
	}
	if (out->count == BOOT_SEGMENTS_MAX)
		return refuse(c, "has too many segments: at most %u can be loaded", BOOT_SEGMENTS_MAX);
	while (at > 0 && out->segments[at - 1].va > p->p_vaddr) {
		out->segments[at] = out->segments[at - 1];
		at--;
	}
	out->segments[at] = (struct elf_segment){
		.va = p->p_vaddr,
		.offset = p->p_offset,
		.filesz = p->p_filesz,
		.memsz = p->p_memsz,
		.flags = p->p_flags & (ELF_PF_R | ELF_PF_W | ELF_PF_X),
	};
	out->count++;
	out->size += end - p->p_vaddr;
	return 0;
}

static int check_program_header(struct elf_check *c, struct elf_image *out, unsigned nr,
				const Elf64_Phdr *p)
{
	int rc;

	switch (p->p_type) {
	case PT_LOAD:
		if (p->p_memsz == 0 && p->p_filesz == 0)
			return 0;
		rc = check_segment(c, nr, p);
		return rc ? rc : add_segment(c, out, nr, p);
	case PT_DYNAMIC:
	case PT_INTERP:
		return refuse(c, "needs a dynamic linker (program header %u)", nr);
	case PT_GNU_PROPERTY:
		return check_property_note(c, p);
	default:
		return 0;
	}
}

/* The kernel starts inside bytes that are in the file and executable; zeroes behind them are no code. */
static int check_entry(struct elf_check *c, const struct elf_image *out)
{
	if (out->entry == 0)
		return refuse(c, "has no entry point");
	for (u32 i = 0; i < out->count; i++) {
		const struct elf_segment *s = &out->segments[i];

		if ((s->flags & ELF_PF_X) && out->entry >= s->va && out->entry - s->va < s->filesz)
			return 0;
	}
	return refuse(c, "has its entry point 0x%lx outside of every executable segment",
		      out->entry);
}

int elf_check(const void *file, u64 size, struct elf_image *out, char *why, size_t why_size)
{
	struct elf_check c = { file, size, why, why_size };
	Elf64_Ehdr h;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = check_ident(&c, &h);
	if (rc)
		return rc;
	rc = check_tables(&c, &h);
	if (rc)
		return rc;
	for (unsigned i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;

		read_at(&c, h.e_phoff + (u64)i * sizeof(p), &p, sizeof(p));
		rc = check_program_header(&c, out, i, &p);
		if (rc)
			return rc;
	}
	if (out->count == 0)
		return refuse(&c, "has no segment to load");
	out->entry = h.e_entry;
	return check_entry(&c, out);
}

void elf_place(const struct elf_image *image, u64 pa, struct boot_segment *out)
{
	for (u32 i = 0; i < image->count; i++) {
		const struct elf_segment *s = &image->segments[i];

		out[i] = (struct boot_segment){
			.va = s->va,
			.pa = pa,
			.size = align_up(s->memsz, ELF_SEGMENT_ALIGN),
			.used = s->memsz,
			.flags = s->flags,
		};
		pa += out[i].size;
	}
}

void elf_copy(const void *file, const struct elf_segment *segment, void *memory)
{
	u64 size = align_up(segment->memsz, ELF_SEGMENT_ALIGN);
	u8 *to = memory;

	memcpy(to, (const u8 *)file + segment->offset, segment->filesz);
	memset(to + segment->filesz, 0, segment->memsz - segment->filesz);
	memset(to + segment->memsz, segment->flags & ELF_PF_X ? INT3 : 0, size - segment->memsz);
}
