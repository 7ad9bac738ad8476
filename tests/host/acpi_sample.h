/* SPDX-License-Identifier: MIT */
/*
 * A small machine described by good ACPI tables, byte by byte, for those who test or fuzz kernel/acpi.c by damaging
 * it; and what must be true of everything that is read.
 *
 * Its physical memory is made of pieces, one for each table: what is not in one of them is refused. A mapped piece is a copy of
 * exactly the bytes that were asked for, so that the address sanitizer sees every read beside it.
 */
#ifndef TESTS_HOST_ACPI_SAMPLE_H
#define TESTS_HOST_ACPI_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "kernel/acpi.h"
#include "kernel/base/bits.h"

/* The pieces; those from S_FADT on are in the XSDT and in the RSDT, in this order. */
enum sample_piece {
	S_RSDP,
	S_XSDT,
	S_RSDT,
	S_FADT,
	S_MADT,
	S_SRAT,
	S_MCFG,
	S_HPET,
	S_SPCR,
	S_DBG2,
	S_OTHER,	/* an SSDT: not read, but checked */
	S_PIECES,
};

#define S_TABLES (S_PIECES - S_FADT)
#define S_PIECES_MAX 160u	/* room for more tables than may be listed */
#define S_PIECE_MAX MIB	/* bytes; they lie this far apart */
#define S_TEXT_MAX 8192u

struct sample_memory {
	u64 pa;
	u32 size;
	u8 *data;	/* malloc()ed */
};

struct sample {
	struct acpi_source source;
	struct sample_memory pieces[S_PIECES_MAX];
	u32 nr_pieces;
	/* What the reader did. */
	u32 mapped;	/* not unmapped yet */
	u32 mapped_most;
	u32 maps;
	u32 fail_at;	/* the map with this number, from 1, fails; 0: none */
	u32 lines;	/* complaints */
	u32 bad_lines;	/* not printable, or without end */
	char text[S_TEXT_MAX];	/* the complaints, '\n' behind each, as far as they fit */
};

#define S_RSDP_PA sample_pa(S_RSDP)

static inline u64 sample_pa(u32 piece)
{
	return (1 + piece) * S_PIECE_MAX + 0x10;
}

/* ---- The machine ---- */

static inline const void *sample_map(struct acpi_source *source, u64 pa, u64 size)
{
	struct sample *s = container_of(source, struct sample, source);

	if (++s->maps == s->fail_at)
		return NULL;
	for (u32 i = 0; i < s->nr_pieces; i++) {
		const struct sample_memory *m = &s->pieces[i];
		void *copy;

		if (pa < m->pa || pa - m->pa > m->size || size > m->size - (pa - m->pa))
			continue;
		copy = malloc(size);
		memcpy(copy, m->data + (pa - m->pa), size);
		s->mapped++;
		s->mapped_most = MAX(s->mapped_most, s->mapped);
		return copy;
	}
	return NULL;
}

static inline void sample_unmap(struct acpi_source *source, const void *p)
{
	container_of(source, struct sample, source)->mapped--;
	free((void *)p);
}

static inline void sample_complain(struct acpi_source *source, const char *line)
{
	struct sample *s = container_of(source, struct sample, source);
	size_t n = strlen(line), used = strlen(s->text);

	s->lines++;
	s->bad_lines += n == 0 || n > 250;
	for (size_t i = 0; i < n; i++)
		s->bad_lines += line[i] < 0x20 || line[i] > 0x7e;
	if (used + n + 2 <= sizeof(s->text)) {
		memcpy(s->text + used, line, n);
		memcpy(s->text + used + n, "\n", 2);
	}
}

/* ---- Bytes of a table ---- */

static inline void sample_put(struct sample *s, u32 piece, u32 at, u32 width, u64 value)
{
	memcpy(s->pieces[piece].data + at, &value, width);
}

static inline u8 sample_sum(const u8 *data, u32 size)
{
	u8 sum = 0;

	for (u32 i = 0; i < size; i++)
		sum = (u8)(sum + data[i]);
	return sum;
}

/* Make the checksum right again; that of the RSDP is two. Nothing for a piece too small to have one. */
static inline void sample_mend(struct sample *s, u32 piece)
{
	struct sample_memory *m = &s->pieces[piece];
	u32 length;

	if (piece == S_RSDP) {
		m->data[8] = (u8)(m->data[8] - sample_sum(m->data, 20));
		m->data[32] = (u8)(m->data[32] - sample_sum(m->data, 36));
		return;
	}
	if (m->size < 36)
		return;
	memcpy(&length, m->data + 4, 4);
	m->data[9] = (u8)(m->data[9] - sample_sum(m->data, MIN(length, m->size)));
}

/* Give a piece another size, zeroes behind what it had, and say so in its header. */
static inline void sample_resize(struct sample *s, u32 piece, u32 size)
{
	struct sample_memory *m = &s->pieces[piece];
	u8 *data = calloc(1, size ? size : 1);

	memcpy(data, m->data, MIN(size, m->size));
	free(m->data);
	m->data = data;
	m->size = size;
	if (size >= 8)
		memcpy(data + 4, &size, 4);
}

/* A table of zeroes behind its header. */
static inline u32 sample_add(struct sample *s, const char *signature, u8 revision, u32 size)
{
	u32 piece = s->nr_pieces++;
	struct sample_memory *m = &s->pieces[piece];

	*m = (struct sample_memory){ sample_pa(piece), size, calloc(1, size) };
	memcpy(m->data, signature, 4);
	sample_put(s, piece, 4, 4, size);
	sample_put(s, piece, 8, 1, revision);
	memcpy(m->data + 10, "TNGRM SAMPLE  ", 14);
	return piece;
}

/* More bytes at the end of a table: where they begin. */
static inline u32 sample_append(struct sample *s, u32 piece, const void *bytes, u32 size)
{
	u64 at = s->pieces[piece].size;

	if (at + size > S_PIECE_MAX)
		abort();
	sample_resize(s, piece, (u32)(at + size));
	memcpy(s->pieces[piece].data + at, bytes, size);
	return (u32)at;
}

static inline void sample_put_register(struct sample *s, u32 piece, u32 at, u8 space, u8 bits, u8 access, u64 address)
{
	sample_put(s, piece, at, 4, (u32)(space | bits << 8 | (u32)access << 24));
	sample_put(s, piece, at + 4, 8, address);
}

/* ---- The tables ---- */

/* Entries of MADT and SRAT as they stand in a table. */
struct __packed sample_lapic {
	u8 type, length, uid, apic_id;
	u32 flags;
};

struct __packed sample_x2apic {
	u8 type, length;
	u16 reserved;
	u32 apic_id, flags, uid;
};

struct __packed sample_ioapic {
	u8 type, length, id, reserved;
	u32 pa, gsi_base;
};

struct __packed sample_override {
	u8 type, length, bus, source;
	u32 gsi;
	u16 flags;
};

struct __packed sample_memory_affinity {
	u8 type, length;
	u32 domain;
	u16 reserved;
	u64 base, size;
	u32 reserved2, flags;
	u64 reserved3;
};

#define SAMPLE_LAPIC(uid, id, flags) ((struct sample_lapic){ 0, 8, (uid), (id), (flags) })
#define SAMPLE_X2APIC(uid, id, flags) ((struct sample_x2apic){ 9, 16, 0, (id), (flags), (uid) })
#define SAMPLE_IOAPIC(id, pa, gsi) ((struct sample_ioapic){ 1, 12, (id), 0, (pa), (gsi) })
#define SAMPLE_OVERRIDE(source, gsi, flags) ((struct sample_override){ 2, 10, 0, (source), (gsi), (flags) })
#define SAMPLE_RAM(domain, base, size, flags) \
	((struct sample_memory_affinity){ 1, 40, (domain), 0, (base), (size), 0, (flags), 0 })

#define sample_entry(s, piece, entry) sample_append((s), (piece), &(entry), sizeof(entry))

/* Offsets of the entries that tests change. */
#define MADT_AT_LAPIC 44u	/* four, 8 bytes each: APIC ids 0, 1, 2 and 3, which is disabled */
#define MADT_AT_X2APIC 76u	/* APIC id 0x100 */
#define MADT_AT_IOAPIC 92u	/* two, 12 bytes each */
#define MADT_AT_OVERRIDE 116u	/* two, 10 bytes each: IRQ 0 and 9 */
#define MADT_AT_NMI 136u
#define MADT_AT_LAPIC_NMI 144u
#define MADT_AT_X2APIC_NMI 150u
#define MADT_AT_LAPIC_ADDRESS 162u
#define MADT_AT_UNKNOWN 174u	/* 5 bytes, type 0x7f */
#define MADT_SAMPLE_SIZE 179u
#define SRAT_AT_APIC 48u	/* three, 16 bytes each */
#define SRAT_AT_X2APIC 96u
#define SRAT_AT_MEMORY 120u	/* four, 40 bytes each; the last is disabled */
#define SRAT_SAMPLE_SIZE 280u
#define MCFG_AT_ENTRY 44u	/* two, 16 bytes each */
#define DBG2_AT_DEVICE 44u	/* two, 40 bytes each; the first is a USB port */
#define DBG2_DEVICE 40u

#define SAMPLE_FAR_DOMAIN 0x01020304u
#define SAMPLE_LAPIC_PA 0x1fee00000ull
#define SAMPLE_PM_TIMER 0x608u

static inline void sample_make_fadt(struct sample *s)
{
	u32 p = sample_add(s, "FACP", 6, 276);

	sample_put(s, p, 76, 4, 0x408);		/* PM_TMR_BLK: not what the X_ field says */
	sample_put(s, p, 91, 1, 4);		/* PM_TMR_LEN */
	sample_put(s, p, 112, 4, 1u << 8);	/* flags: TMR_VAL_EXT */
	sample_put_register(s, p, 208, ACPI_SPACE_IO, 32, 3, SAMPLE_PM_TIMER);
}

static inline void sample_make_madt(struct sample *s)
{
	static const u8 nmi[] = { 3, 8, 0x0f, 0, 23, 0, 0, 0 };	/* low, level */
	static const u8 lapic_nmi[] = { 4, 6, 0xff, 5, 0, 1 };		/* all CPUs, high, edge, LINT1 */
	static const u8 x2apic_nmi[] = { 10, 12, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0 };	/* uid 4, LINT0 */
	static const u8 address[] = { 5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0 };
	static const u8 unknown[] = { 0x7f, 5, 1, 2, 3 };
	u32 p = sample_add(s, "APIC", 5, 44);

	sample_put(s, p, 36, 4, 0xfee00000);
	sample_put(s, p, 40, 4, 1);	/* PCAT_COMPAT */
	for (u8 i = 0; i < 4; i++)
		sample_entry(s, p, SAMPLE_LAPIC((u8)(10 + i), i, i != 3));
	sample_entry(s, p, SAMPLE_X2APIC(4, 0x100, 1));
	sample_entry(s, p, SAMPLE_IOAPIC(8, 0xfec00000, 0));
	sample_entry(s, p, SAMPLE_IOAPIC(9, 0xfec01000, 24));
	sample_entry(s, p, SAMPLE_OVERRIDE(0, 2, 0));
	sample_entry(s, p, SAMPLE_OVERRIDE(9, 9, 0x0f));
	sample_append(s, p, nmi, sizeof(nmi));
	sample_append(s, p, lapic_nmi, sizeof(lapic_nmi));
	sample_append(s, p, x2apic_nmi, sizeof(x2apic_nmi));
	sample_append(s, p, address, sizeof(address));
	sample_append(s, p, unknown, sizeof(unknown));
}

static inline void sample_make_srat(struct sample *s)
{
	static const u8 apic[3][16] = {
		{ 0, 16, 0, 0, 1 },
		{ 0, 16, 0, 1, 1 },
		{ 0, 16, 0x04, 2, 1, 0, 0, 0, 0, 0x03, 0x02, 0x01 },
	};
	static const u8 x2apic[24] = { 2, 24, 0, 0, 4, 3, 2, 1, 0, 1, 0, 0, 1 };
	u32 p = sample_add(s, "SRAT", 3, 48);

	sample_put(s, p, 36, 4, 1);
	sample_append(s, p, apic, sizeof(apic));
	sample_append(s, p, x2apic, sizeof(x2apic));
	sample_entry(s, p, SAMPLE_RAM(0, 0, 0xa0000, 1));
	sample_entry(s, p, SAMPLE_RAM(0, MIB, GIB - MIB, 1));
	sample_entry(s, p, SAMPLE_RAM(SAMPLE_FAR_DOMAIN, 4 * GIB, GIB, 1 | 2 | 4));
	sample_entry(s, p, SAMPLE_RAM(7, 8 * GIB, GIB, 0));
}

static inline void sample_make_mcfg(struct sample *s)
{
	u32 p = sample_add(s, "MCFG", 1, MCFG_AT_ENTRY + 32);

	sample_put(s, p, MCFG_AT_ENTRY, 8, 0xe0000000);
	sample_put(s, p, MCFG_AT_ENTRY + 8, 4, 0x7f000000);	/* segment 0, buses 0 to 0x7f */
	sample_put(s, p, MCFG_AT_ENTRY + 16, 8, 64 * GIB);
	sample_put(s, p, MCFG_AT_ENTRY + 24, 4, 0xff100002);	/* segment 2, buses 0x10 to 0xff */
}

static inline void sample_make_hpet(struct sample *s)
{
	u32 p = sample_add(s, "HPET", 1, 56);

	sample_put(s, p, 36, 4, 0x8086a201);	/* 64 bits, three comparators */
	sample_put_register(s, p, 40, ACPI_SPACE_MEMORY, 64, 0, 0xfed00000);
	sample_put(s, p, 53, 2, 128);
}

static inline void sample_make_serial(struct sample *s)
{
	u32 p = sample_add(s, "SPCR", 4, 88), d;

	sample_put(s, p, 36, 1, 0x12);
	sample_put_register(s, p, 40, ACPI_SPACE_MEMORY, 32, 3, 0xfe000000);
	sample_put(s, p, 58, 1, 7);	/* 115200 */
	sample_put(s, p, 76, 4, 1843200);
	p = sample_add(s, "DBG2", 0, DBG2_AT_DEVICE + 2 * DBG2_DEVICE);
	sample_put(s, p, 36, 4, DBG2_AT_DEVICE);
	sample_put(s, p, 40, 4, 2);
	for (u32 i = 0; i < 2; i++) {
		d = DBG2_AT_DEVICE + i * DBG2_DEVICE;
		sample_put(s, p, d + 1, 2, DBG2_DEVICE);
		sample_put(s, p, d + 3, 1, 1);		/* addresses */
		sample_put(s, p, d + 12, 2, i ? 0x8000 : 0x8002);
		sample_put(s, p, d + 14, 2, i);		/* the serial port: 16450-compatible */
		sample_put(s, p, d + 18, 2, 22);	/* offset of the addresses */
		sample_put_register(s, p, d + 22, i ? ACPI_SPACE_IO : ACPI_SPACE_MEMORY, 8, 1, i ? 0x2f8 : 0xfd000000);
	}
}

/* Point RSDP and lists at the pieces, with `tables` of them in the lists, and mend all checksums. */
static inline void sample_link(struct sample *s)
{
	u32 tables = s->nr_pieces - S_FADT;

	sample_resize(s, S_XSDT, 36 + 8 * tables);
	sample_resize(s, S_RSDT, 36 + 4 * tables);
	for (u32 i = 0; i < tables; i++) {
		sample_put(s, S_XSDT, 36 + 8 * i, 8, s->pieces[S_FADT + i].pa);
		sample_put(s, S_RSDT, 36 + 4 * i, 4, s->pieces[S_FADT + i].pa);
	}
	for (u32 i = 0; i < s->nr_pieces; i++)
		sample_mend(s, i);
}

static inline void sample_make_rsdp(struct sample *s)
{
	u32 p = sample_add(s, "RSD ", 0, 36);

	memset(s->pieces[p].data, 0, 36);
	memcpy(s->pieces[p].data, "RSD PTR ", 8);
	memcpy(s->pieces[p].data + 9, "TNGRM ", 6);
	sample_put(s, p, 15, 1, 2);
	sample_put(s, p, 16, 4, sample_pa(S_RSDT));
	sample_put(s, p, 20, 4, 36);
	sample_put(s, p, 24, 8, sample_pa(S_XSDT));
}

static inline void sample_make(struct sample *s)
{
	memset(s, 0, sizeof(*s));
	s->source = (struct acpi_source){ sample_map, sample_unmap, sample_complain };
	sample_make_rsdp(s);
	sample_add(s, "XSDT", 1, 36);
	sample_add(s, "RSDT", 1, 36);
	sample_make_fadt(s);
	sample_make_madt(s);
	sample_make_srat(s);
	sample_make_mcfg(s);
	sample_make_hpet(s);
	sample_make_serial(s);
	memset(s->pieces[sample_add(s, "SSDT", 2, 100)].data + 36, 0x5a, 64);
	sample_link(s);
}

static inline void sample_free(struct sample *s)
{
	for (u32 i = 0; i < s->nr_pieces; i++)
		free(s->pieces[i].data);
	s->nr_pieces = 0;
}

/* Read from the first piece on, with counters that begin at 0. */
static inline int sample_read(struct sample *s, struct acpi *out)
{
	s->maps = s->mapped = s->mapped_most = s->lines = s->bad_lines = 0;
	s->text[0] = 0;
	memset(out, 0xa5, sizeof(*out));	/* nothing may be left of what was there before */
	return acpi_read(out, s->pieces[S_RSDP].pa, &s->source);
}

/* ---- What must be true of all that is read: NULL, or the promise of acpi.h that is broken ---- */

static inline const char *sample_unsound_cpus(const struct acpi *a)
{
	if (a->nr_cpus > MAX_CPUS || a->nr_usable > a->nr_cpus || (a->cpus_left_out && a->nr_usable != MAX_CPUS))
		return "number of CPUs";
	for (u32 i = 0; i < a->nr_cpus; i++) {
		if (a->cpus[i].apic_id == 0xffffffff || a->cpus[i].node >= a->nr_nodes)
			return "CPU";
		if (a->cpus[i].usable != (i < a->nr_usable))
			return "usable CPUs come first";
		for (u32 k = 0; k < i; k++)
			if (a->cpus[i].apic_id == a->cpus[k].apic_id)
				return "CPUs have different ids";
	}
	return NULL;
}

static inline const char *sample_unsound_interrupts(const struct acpi *a)
{
	if (a->nr_ioapics > ACPI_IOAPICS_MAX || a->nr_nmis > ACPI_NMIS_MAX || a->nr_local_nmis > ACPI_NMIS_MAX)
		return "number of IOAPICs or NMIs";
	if (a->lapic_pa % PAGE_SIZE)
		return "address of the local APICs";
	for (u32 i = 0; i < a->nr_ioapics; i++) {
		if (!a->ioapics[i].pa)
			return "address of an IOAPIC";
		for (u32 k = 0; k < i; k++)
			if (a->ioapics[i].pa == a->ioapics[k].pa || a->ioapics[i].gsi_base == a->ioapics[k].gsi_base)
				return "IOAPICs differ";
	}
	for (u32 i = 0; i < a->nr_local_nmis; i++)
		if (a->local_nmis[i].lint > 1)
			return "LINT";
	for (u32 i = 0; i < ACPI_ISA_IRQS; i++)
		if (!(a->overridden >> i & 1) && (a->isa[i].gsi != i || a->isa[i].active_low || a->isa[i].level))
			return "an interrupt that is not overridden";
	if (!a->has_madt && (a->nr_cpus || a->nr_ioapics || a->lapic_pa || a->overridden || a->nr_nmis || !a->has_8259))
		return "no MADT";
	return NULL;
}

static inline const char *sample_unsound_memory(const struct acpi *a)
{
	if (!a->nr_nodes || a->nr_nodes > ACPI_NODES_MAX || a->nr_memory > ACPI_MEMORY_MAX)
		return "number of nodes or memory ranges";
	for (u32 i = 0; i < a->nr_nodes; i++)
		for (u32 k = 0; k < i; k++)
			if (a->domains[i] == a->domains[k])
				return "nodes have different domains";
	for (u32 i = 0; i < a->nr_memory; i++) {
		if (range_empty(a->memory[i].pa) || a->memory[i].node >= a->nr_nodes)
			return "memory range";
		for (u32 k = 0; k < i; k++)
			if (range_overlaps(a->memory[i].pa, a->memory[k].pa))
				return "memory ranges overlap";
	}
	return NULL;
}

static inline const char *sample_unsound_segments(const struct acpi *a)
{
	if (a->nr_segments > ACPI_SEGMENTS_MAX)
		return "number of segments";
	for (u32 i = 0; i < a->nr_segments; i++) {
		const struct acpi_segment *s = &a->segments[i];

		if (!s->pa || s->pa % MIB || s->first_bus > s->last_bus)
			return "segment";
		for (u32 k = 0; k < i; k++)
			if (a->segments[k].segment == s->segment && a->segments[k].first_bus <= s->last_bus &&
			    s->first_bus <= a->segments[k].last_bus)
				return "buses overlap";
	}
	return NULL;
}

static inline bool sample_serial_sound(const struct acpi_serial *s)
{
	return !s->base.address ||
	       (s->base.space <= ACPI_SPACE_IO && (s->interface <= 1 || s->interface == 0x12) &&
		(s->base.space != ACPI_SPACE_IO || s->base.address <= 0xfff8));
}

static inline const char *sample_unsound_devices(const struct acpi *a)
{
	if (!a->pm_timer.address != !a->pm_timer_bits || a->pm_timer.space > ACPI_SPACE_IO ||
	    (a->pm_timer_bits && a->pm_timer_bits != 24 && a->pm_timer_bits != 32) ||
	    (a->pm_timer.space == ACPI_SPACE_IO && a->pm_timer.address > 0xfffc))
		return "PM timer";
	if (a->hpet_pa % 0x400 || (a->hpet_pa && (!a->hpet_comparators || a->hpet_comparators > 32)) ||
	    (!a->hpet_pa && (a->hpet_comparators || a->hpet_min_tick || a->hpet_64bit)))
		return "HPET";
	if (!sample_serial_sound(&a->spcr) || !sample_serial_sound(&a->dbg2))
		return "serial port";
	return NULL;
}

static inline const char *sample_unsound_tables(const struct acpi *a)
{
	if (a->nr_tables > ACPI_TABLES_MAX || (a->nr_tables && !a->present))
		return "number of tables";
	for (u32 i = 0; i < a->nr_tables; i++) {
		const struct acpi_table *t = &a->tables[i];

		if (strlen(t->signature) != 4 || !t->pa || t->length < 36 || t->length > ACPI_TABLE_SIZE_MAX)
			return "table";
		for (u32 k = 0; k < i; k++)
			if (range_overlaps(range_len(t->pa, t->length), range_len(a->tables[k].pa, a->tables[k].length)))
				return "tables overlap";
	}
	return NULL;
}

/* Of what was read from s just now; s too was used as acpi.h says. */
static inline const char *sample_unsound(const struct sample *s, const struct acpi *a)
{
	const char *(*const checks[])(const struct acpi *) = {
		sample_unsound_cpus,	 sample_unsound_interrupts, sample_unsound_memory,
		sample_unsound_segments, sample_unsound_devices,    sample_unsound_tables,
	};

	if (s->mapped || s->mapped_most > 2)
		return "mapped and not unmapped";
	if (s->bad_lines || s->lines != MIN(a->complaints, ACPI_COMPLAINTS_MAX))
		return "complaints";
	for (u32 i = 0; i < ARRAY_SIZE(checks); i++) {
		const char *broken = checks[i](a);

		if (broken)
			return broken;
	}
	return NULL;
}

#endif
