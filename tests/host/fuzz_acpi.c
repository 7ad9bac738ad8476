/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer on kernel/acpi.c. Whatever is read must keep the promises of acpi.h; the address sanitizer watches every
 * read beside what was mapped.
 *
 * The first byte says what the rest is:
 *	0	changes of the good machine (tests/host/acpi_sample.h), each behind a byte that says whether its checksum is mended
 *	1	the body of one table, behind a byte that says which; all others are good
 *	2	tables, each a byte of signature, two of size, and its body
 *	3	memory with lists and tables anywhere in it, overlapping or not: an RSDP and what its pointers reach
 * A checksum that nobody mends stops everything random at the door, so most inputs get theirs.
 */
/* The fuzzer is to find ways through kernel/acpi.c, not through this file and the checks of results: those are not counted. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)
#include "tests/host/acpi_sample.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static struct sample s;
static struct acpi result;

static void need(bool condition)
{
	if (!condition)
		abort();
}

/* One change: which piece, offset in it, width, value. */
struct __packed change {
	u8 mend;
	u8 piece;
	u16 at;
	u8 width;
	u64 value;
};

static void change_sample(const u8 *data, size_t size)
{
	struct change c;

	for (; size >= sizeof(c); data += sizeof(c), size -= sizeof(c)) {
		u32 piece, width;

		memcpy(&c, data, sizeof(c));
		piece = c.piece % S_PIECES;
		width = 1 + c.width % 8;
		sample_put(&s, piece, c.at % (s.pieces[piece].size - width + 1), width, c.value);
		if (c.mend & 7)
			sample_mend(&s, piece);
	}
}

static void put_body(u32 piece, const u8 *body, size_t size)
{
	sample_resize(&s, piece, (u32)(36 + size));
	memcpy(s.pieces[piece].data + 36, body, size);
	sample_mend(&s, piece);
}

static void change_body(const u8 *data, size_t size)
{
	if (size)
		put_body(S_FADT + data[0] % S_TABLES, data + 1, size - 1);
}

static void make_tables(const u8 *data, size_t size)
{
	static const char signatures[][5] = { "FACP", "APIC", "SRAT", "MCFG", "HPET", "SPCR", "DBG2", "SSDT", "XSDT", "RSDT" };

	while (size >= 3 && s.nr_pieces < S_PIECES_MAX) {
		size_t body = MIN((size_t)(data[1] | data[2] << 8), size - 3);
		u32 piece = sample_add(&s, signatures[data[0] % ARRAY_SIZE(signatures)], data[0] >> 4, 36);

		put_body(piece, data + 3, body);
		data += 3 + body;
		size -= 3 + body;
	}
	sample_link(&s);
}

/* Make good what the 8 or 4 bytes at this offset point to, if that is a table inside. */
static void mend_at(struct sample_memory *m, u64 at, u64 bytes)
{
	u64 pa = 0, offset;
	u32 length;

	if (at + bytes > m->size)
		return;
	memcpy(&pa, m->data + at, bytes);
	offset = pa - m->pa;
	if (offset >= m->size || m->size - offset < 36)
		return;
	memcpy(&length, m->data + offset + 4, 4);
	if (length >= 36 && length <= m->size - offset)
		m->data[offset + 9] = (u8)(m->data[offset + 9] - sample_sum(m->data + offset, length));
}

/*
 * One piece of memory from 1 MiB on. Pointers of 4 bytes as the input has them seldom lead there: the lists' are
 * taken modulo the size.
 */
static void make_memory(const u8 *data, size_t size)
{
	struct sample_memory *m = &s.pieces[S_RSDP];
	u64 roots[] = { 16, 24 };

	for (u32 i = 1; i < S_PIECES; i++)
		s.pieces[i].size = 0;
	if (size < 40)
		return;
	sample_resize(&s, S_RSDP, (u32)size);
	memcpy(m->data, data, size);
	memcpy(m->data, "RSD PTR ", 8);
	for (u32 i = 0; i < 2; i++) {
		u64 bytes = 4 + 4 * i, pa = 0;

		memcpy(&pa, m->data + roots[i], bytes);
		pa = m->pa + pa % size;
		memcpy(m->data + roots[i], &pa, bytes);
		for (u64 at = pa - m->pa + 36; at + bytes <= size; at += bytes) {
			u64 entry = 0;

			memcpy(&entry, m->data + at, bytes);
			if (entry >> (8 * bytes - 1)) {
				entry = m->pa + entry % size;
				memcpy(m->data + at, &entry, bytes);
			}
			mend_at(m, at, bytes);
		}
		mend_at(m, roots[i], bytes);
	}
	sample_mend(&s, S_RSDP);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const kinds[])(const u8 *data, size_t size) = { change_sample, change_body, make_tables, make_memory };

	if (size == 0 || size > S_PIECE_MAX / 2)
		return 0;
	sample_make(&s);
	kinds[data[0] % ARRAY_SIZE(kinds)](data + 1, size - 1);
	sample_read(&s, &result);
	need(!sample_unsound(&s, &result));
	sample_free(&s);
	return 0;
}

#pragma clang attribute pop
