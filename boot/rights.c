/* SPDX-License-Identifier: MIT */
/*
 * Rights of memory, by the firmware's protocol.
 *
 * Invariant: the ledger holds every range whose rights differ from those that the firmware gave it, with what they were.
 * Sources: UEFI 2.10 (EFI_MEMORY_ATTRIBUTE_PROTOCOL); Microsoft PE format (headers); Intel SDM volume 3A, section 4.6.1.
 */
#include "boot/rights.h"

#include "arch/x86_64/pte.h"
#include "kernel/base/bits.h"
#include "kernel/base/string.h"

#define LEDGER_MAX 256u
#define RIGHTS_MASK (RIGHTS_XP | RIGHTS_RO)

/* Offsets in a PE image, PE32+. */
#define MZ_MAGIC 0x5a4du
#define MZ_PE 0x3c
#define PE_MAGIC 0x4550u
#define PE_SECTIONS 6
#define PE_OPTIONAL_SIZE 20
#define PE_OPTIONAL 24
#define SECTION_SIZE 40u
#define SECTION_BYTES 8
#define SECTION_ADDRESS 12
#define SECTION_FLAGS 36
#define SECTION_EXECUTE 0x20000000u
#define SECTION_WRITE 0x80000000u

static struct {
	struct range pa;
	u64 was;
	u64 is;
} ledger[LEDGER_MAX];
static u32 ledger_count;
static struct rights_protocol *protocol;

void rights_init(struct rights_protocol *p)
{
	protocol = p;
	ledger_count = 0;
}

u32 rights_changed(void)
{
	return ledger_count;
}

/* Bits that forbid come first, so that no moment allows more than `was` or `will` do. */
static bool change(struct range pa, u64 was, u64 will)
{
	u64 add = will & ~was, remove = was & ~will;

	if (add && protocol->set(protocol, pa.start, range_size(pa), add))
		return false;
	if (remove && protocol->clear(protocol, pa.start, range_size(pa), remove)) {
		if (add)
			protocol->clear(protocol, pa.start, range_size(pa), add);
		return false;
	}
	return true;
}

/* Where rights differ inside, the firmware has no answer for the whole: then for each half. */
void rights_set(struct range pa, u64 rights)
{
	u64 was, half;

	pa = range(align_down(pa.start, PAGE_SIZE), align_up(pa.end, PAGE_SIZE));
	if (!protocol || range_empty(pa))
		return;
	if (!protocol->get(protocol, pa.start, range_size(pa), &was)) {
		was &= RIGHTS_MASK;
		if (was == rights || ledger_count == LEDGER_MAX || !change(pa, was, rights))
			return;
		ledger[ledger_count].pa = pa;
		ledger[ledger_count].was = was;
		ledger[ledger_count].is = rights;
		ledger_count++;
		return;
	}
	if (range_size(pa) == PAGE_SIZE)
		return;
	half = align_up(range_size(pa) / 2, PAGE_SIZE);
	rights_set(range_len(pa.start, half), rights);
	rights_set(range(pa.start + half, pa.end), rights);
}

void rights_restore(struct range pa)
{
	for (u32 i = ledger_count; i-- > 0;) {
		if (!range_overlaps(pa, ledger[i].pa))
			continue;
		change(ledger[i].pa, ledger[i].is, ledger[i].was);
		ledger[i] = ledger[--ledger_count];
	}
}

/* ---- The image ---- */

static u32 field(struct range image, u64 offset, unsigned size)
{
	u32 value = 0;

	if (offset <= range_size(image) && range_size(image) - offset >= size)
		memcpy(&value, (const void *)(image.start + offset), size);
	return value;
}

bool rights_set_image(struct range image)
{
	u64 pe = field(image, MZ_PE, 4);
	u64 section = pe + PE_OPTIONAL + field(image, pe + PE_OPTIONAL_SIZE, 2);
	u32 nr = field(image, pe + PE_SECTIONS, 2);
	u64 headers = range_size(image);

	if (field(image, 0, 2) != MZ_MAGIC || field(image, pe, 4) != PE_MAGIC)
		return false;
	for (u32 i = 0; i < nr; i++, section += SECTION_SIZE) {
		u64 at = field(image, section + SECTION_ADDRESS, 4);
		u32 flags = field(image, section + SECTION_FLAGS, 4);
		struct range pa = range_len(image.start + at, field(image, section + SECTION_BYTES, 4));

		u64 rights = (flags & SECTION_WRITE ? 0 : RIGHTS_RO) | (flags & SECTION_EXECUTE ? 0 : RIGHTS_XP);

		if (!at || !is_aligned(at, PAGE_SIZE) || !range_covers(image, pa))
			continue;
		headers = MIN(headers, at);
		if (rights)
			rights_set(pa, rights);
	}
	if (headers < range_size(image))
		rights_set(range_len(image.start, headers), RIGHTS_CONSTANTS);
	return true;
}

/* ---- What the tables say ---- */

/* What the leaf of va allows, over all levels; *span: what it maps. 0: nothing is mapped. */
static u64 leaf_rights(const struct rights_tables *tables, u64 va, u64 *span)
{
	u64 table = tables->root, allowed = PTE_W, forbidden = 0;

	for (unsigned level = tables->levels;; level--) {
		pte_t e = ((const pte_t *)table)[pt_index(va, level)];

		*span = pt_span(level);
		if (!pte_present(e))
			return PTE_NX;
		allowed &= e.raw;
		forbidden |= tables->nx ? e.raw & PTE_NX : 0;
		if (!pte_is_table(e, level))
			return allowed | forbidden;
		table = pte_table_pa(e).raw;
	}
}

u64 rights_writable_executable(const struct rights_tables *tables, struct range pa)
{
	u64 bytes = 0, span;

	if (range_empty(pa))
		return 0;
	for (u64 va = align_down(pa.start, PAGE_SIZE); va < pa.end; va = align_down(va, span) + span) {
		u64 rights = leaf_rights(tables, va, &span);

		if ((rights & (PTE_W | PTE_NX)) == PTE_W)
			bytes += MIN(align_up(pa.end, PAGE_SIZE), align_down(va, span) + span) - va;
	}
	return bytes;
}
