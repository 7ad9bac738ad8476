/* SPDX-License-Identifier: MIT */
/*
 * Reads ACPI's tables.
 *
 * Two invariants keep any bytes harmless. Fields are read through field(), which gives 0 for what lies beyond the end, so
 * no offset in a table can lead out of it; that also is the right value for members that an older table does not have.
 * And nothing is followed further than RSDP → list → table: a list that is named in a list is refused, so there is no loop.
 *
 * The shape of a table is checked in full before the first value is taken from it: it counts whole or not at all.
 */
#include "kernel/acpi.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/string.h"
#include "mm/plant.h"

struct acpi acpi = { .has_8259 = true, .nr_nodes = 1 };

#define RSDP_SIZE_1 20u		/* of ACPI 1.0 */
#define RSDP_SIZE_2 36u		/* from ACPI 2.0 on */
#define RSDP_SIZE_MAX 256u
#define HEADER_SIZE 36u
#define REGISTER_SIZE 12u	/* of a generic address */

#define COMPLAINT_MAX 192u

/* Bytes of a table, or of a part of it. */
struct view {
	const u8 *p;
	u32 size;
};

struct reader {
	struct acpi *out;
	struct acpi_source *source;
	const struct acpi_table *table;	/* the one that is being read */
};

typedef unsigned long long ull;

/* ---- Bytes ---- */

/* A little-endian number of 1..8 bytes; 0 where the view does not reach. */
static u64 field(struct view v, u32 at, u32 bytes)
{
	u64 value = 0;

	if (at > v.size || bytes > v.size - at)
		return 0;
	for (u32 i = bytes; i-- > 0;)
		value = value << 8 | v.p[at + i];
	return value;
}

static u8 field8(struct view v, u32 at)
{
	return (u8)field(v, at, 1);
}

static u16 field16(struct view v, u32 at)
{
	return (u16)field(v, at, 2);
}

static u32 field32(struct view v, u32 at)
{
	return (u32)field(v, at, 4);
}

static struct acpi_register field_register(struct view v, u32 at)
{
	return (struct acpi_register){
		.space = field8(v, at),
		.bit_width = field8(v, at + 1),
		.bit_offset = field8(v, at + 2),
		.access_size = field8(v, at + 3),
		.address = field(v, at + 4, 8),
	};
}

/* Sum of all bytes: 0 in a good table (5.2.6). */
static u8 checksum(struct view v)
{
	u8 sum = 0;

	for (u32 i = 0; i < v.size; i++)
		sum = (u8)(sum + v.p[i]);
	return sum;
}

/* Four characters, made printable. */
static void signature_text(struct view v, char text[5])
{
	for (u32 i = 0; i < 4; i++) {
		u8 c = field8(v, i);

		text[i] = c > 0x20 && c < 0x7f ? (char)c : '?';
	}
	text[4] = 0;
}

/* ---- Complaints ---- */

static void __printf(2, 3) complain(struct reader *r, const char *fmt, ...)
{
	char line[COMPLAINT_MAX];
	va_list args;

	if (r->out->complaints++ >= ACPI_COMPLAINTS_MAX)
		return;
	va_start(args, fmt);
	fmt_vprint(line, sizeof(line), fmt, args);
	va_end(args);
	r->source->complain(r->source, line);
}

/* Of the table that is being read: "NAME at 0x…", what is wrong, what follows from it. */
#define complain_table(r, fmt, ...)                                                                 \
	complain((r), "%s at 0x%llx: " fmt, (r)->table->signature, (ull)(r)->table->pa, ##__VA_ARGS__)

/* ---- Physical memory ---- */

static bool map(struct reader *r, u64 pa, u32 size, struct view *v)
{
	if (pa + size < pa)
		return false;
	*v = (struct view){ r->source->map(r->source, pa, size), size };
	return v->p != NULL;
}

static void unmap(struct reader *r, struct view v)
{
	r->source->unmap(r->source, v.p);
}

/*
 * The table at pa: header, length and checksum. What is said of a bad one begins with `where`: nothing in it is worth
 * quoting but the signature. 0: it is good, and *t describes it.
 */
static int check_table(struct reader *r, u64 pa, const char *where, struct acpi_table *t)
{
	struct view v;
	u8 sum;

	if (!pa) {
		complain(r, "%s: the address is 0: skipped", where);
		return -EINVAL;
	}
	if (!map(r, pa, HEADER_SIZE, &v)) {
		complain(r, "%s: there is no memory to read at 0x%llx: skipped", where, (ull)pa);
		return -EFAULT;
	}
	signature_text(v, t->signature);
	t->length = field32(v, 4);
	t->revision = field8(v, 8);
	t->pa = pa;
	unmap(r, v);
	if (t->length < HEADER_SIZE || t->length > ACPI_TABLE_SIZE_MAX) {
		complain(r, "%s at 0x%llx (%s): length %u is not between %u and %u: skipped", t->signature, (ull)pa, where,
			 t->length, HEADER_SIZE, ACPI_TABLE_SIZE_MAX);
		return -EINVAL;
	}
	if (!map(r, pa, t->length, &v)) {
		complain(r, "%s at 0x%llx (%s): not all of its %u bytes are memory to read: skipped", t->signature, (ull)pa,
			 where, t->length);
		return -EFAULT;
	}
	sum = checksum(v);
	unmap(r, v);
	if (sum && !PLANTED(PLANT_ACPI_CHECKSUM)) {
		complain(r, "%s at 0x%llx (%s): checksum of its %u bytes is 0x%02x instead of 0: skipped", t->signature, (ull)pa,
			 where, t->length, sum);
		return -EINVAL;
	}
	return 0;
}

/* ---- RSDP and the list of tables ---- */

struct roots {
	u64 rsdt;
	u64 xsdt;
};

/* The part that ACPI 2.0 added. */
static u64 read_xsdt_address(struct reader *r, u64 rsdp)
{
	struct view v;
	u64 xsdt = 0;
	u32 length;

	if (!map(r, rsdp, RSDP_SIZE_2, &v)) {
		complain(r, "RSDP at 0x%llx: not all of its 36 bytes are memory to read: taken as one of ACPI 1.0", (ull)rsdp);
		return 0;
	}
	length = field32(v, 20);
	unmap(r, v);
	if (length < RSDP_SIZE_2 || length > RSDP_SIZE_MAX || !map(r, rsdp, length, &v)) {
		complain(r, "RSDP at 0x%llx: length %u is impossible: taken as one of ACPI 1.0", (ull)rsdp, length);
		return 0;
	}
	if (checksum(v))
		complain(r, "RSDP at 0x%llx: extended checksum is 0x%02x instead of 0: taken as one of ACPI 1.0", (ull)rsdp,
			 checksum(v));
	else
		xsdt = field(v, 24, 8);
	unmap(r, v);
	return xsdt;
}

static bool read_rsdp(struct reader *r, u64 rsdp, struct roots *roots)
{
	struct view v;
	bool good = false;

	if (!rsdp) {
		complain(r, "RSDP: the firmware has none");
		return false;
	}
	if (!map(r, rsdp, RSDP_SIZE_1, &v)) {
		complain(r, "RSDP at 0x%llx: there is no memory to read", (ull)rsdp);
		return false;
	}
	if (memcmp(v.p, "RSD PTR ", 8))
		complain(r, "RSDP at 0x%llx: the signature is not \"RSD PTR \"", (ull)rsdp);
	else if (checksum(v))
		complain(r, "RSDP at 0x%llx: checksum is 0x%02x instead of 0", (ull)rsdp, checksum(v));
	else
		good = true;
	r->out->revision = good ? field8(v, 15) : 0;
	*roots = (struct roots){ .rsdt = field32(v, 16) };
	unmap(r, v);
	if (good && r->out->revision >= 2)
		roots->xsdt = read_xsdt_address(r, rsdp);
	return good;
}

static void add_table(struct reader *r, u64 pa, const char *where)
{
	struct acpi *out = r->out;
	struct acpi_table t;

	if (out->nr_tables == ACPI_TABLES_MAX) {
		complain(r, "%s: more than %u tables: skipped", where, ACPI_TABLES_MAX);
		return;
	}
	if (check_table(r, pa, where, &t))
		return;
	if (!strcmp(t.signature, "XSDT") || !strcmp(t.signature, "RSDT")) {
		complain(r, "%s at 0x%llx (%s): a list of tables inside a list of tables: skipped", t.signature, (ull)pa, where);
		return;
	}
	for (u32 i = 0; i < out->nr_tables; i++) {
		const struct acpi_table *other = &out->tables[i];

		if (range_overlaps(range_len(other->pa, other->length), range_len(pa, t.length))) {
			complain(r, "%s at 0x%llx (%s): overlaps %s at 0x%llx: skipped", t.signature, (ull)pa, where,
				 other->signature, (ull)other->pa);
			return;
		}
	}
	out->tables[out->nr_tables++] = t;
}

/* All that the XSDT (entries of 8 bytes) or the RSDT (of 4) lists. */
static bool read_list(struct reader *r, u64 pa, const char *name, u32 entry_size)
{
	struct acpi_table list;
	char where[32];
	struct view v;
	u32 nr;

	fmt_print(where, sizeof(where), "%s named in the RSDP", name);
	if (check_table(r, pa, where, &list))
		return false;
	if (strcmp(list.signature, name)) {
		complain(r, "%s at 0x%llx: it is no %s: skipped", list.signature, (ull)pa, name);
		return false;
	}
	if ((list.length - HEADER_SIZE) % entry_size)
		complain(r, "%s at 0x%llx: %u bytes behind the last whole entry", name, (ull)pa,
			 (list.length - HEADER_SIZE) % entry_size);
	nr = (list.length - HEADER_SIZE) / entry_size;
	if (!map(r, pa, list.length, &v)) {
		complain(r, "%s at 0x%llx: it cannot be read any more: skipped", name, (ull)pa);
		return false;
	}
	for (u32 i = 0; i < nr; i++) {
		fmt_print(where, sizeof(where), "entry %u of the %s", i, name);
		add_table(r, field(v, HEADER_SIZE + i * entry_size, entry_size), where);
	}
	unmap(r, v);
	return true;
}

/* ---- Entries of one table: type, length, and what belongs to the type ---- */

struct entry_type {
	u8 type;
	u8 size;	/* bytes it has at least */
	void (*read)(struct reader *r, struct view entry, u32 at);
};

static const struct entry_type *type_of(u8 type, const struct entry_type *types, u32 nr)
{
	for (u32 i = 0; i < nr; i++)
		if (types[i].type == type)
			return &types[i];
	return NULL;
}

/* The entry at offset at: false if there is none whole. */
static bool entry_at(struct view table, u32 at, struct view *entry)
{
	u8 length = field8(table, at + 1);

	if (at >= table.size || length < 2 || length > table.size - at)
		return false;
	*entry = (struct view){ table.p + at, length };
	return true;
}

/* Whether entries of at least their types' sizes follow each other up to the very end. */
static bool check_entries(struct reader *r, struct view table, u32 first, const struct entry_type *types, u32 nr)
{
	struct view entry;
	u32 at = first;

	for (; entry_at(table, at, &entry); at += entry.size) {
		const struct entry_type *type = type_of(entry.p[0], types, nr);

		if (type && entry.size < type->size) {
			complain_table(r, "entry at offset 0x%x, type %u, has %u bytes instead of %u: table skipped", at,
				       entry.p[0], entry.size, type->size);
			return false;
		}
	}
	if (at == table.size || PLANTED(PLANT_ACPI_SHAPE))
		return true;
	if (table.size - at < 2)
		complain_table(r, "a single byte at offset 0x%x instead of an entry: table skipped", at);
	else
		complain_table(r, "entry at offset 0x%x, type %u, has length %u, with %u bytes left: table skipped", at,
			       table.p[at], table.p[at + 1], table.size - at);
	return false;
}

static void read_entries(struct reader *r, struct view table, u32 first, const struct entry_type *types, u32 nr)
{
	struct view entry;

	for (u32 at = first; entry_at(table, at, &entry); at += entry.size) {
		const struct entry_type *type = type_of(entry.p[0], types, nr);

		if (type)
			type->read(r, entry, at);
	}
}

/* ---- MADT, 5.2.12 ---- */

#define MADT_FIRST 44u
#define MADT_PCAT_COMPAT 0x1u
#define MADT_CPU_ENABLED 0x1u
#define LAPIC_NO_ID 0xffu	/* xAPIC: broadcast, so nobody's */
#define X2APIC_NO_ID 0xffffffffu
#define UID_ALL_8 0xffu

static bool page_address(u64 pa)
{
	return pa && is_aligned(pa, PAGE_SIZE);
}

static void add_cpu(struct reader *r, u32 at, struct acpi_cpu cpu)
{
	struct acpi *out = r->out;

	if (cpu.usable && out->nr_cpus == MAX_CPUS) {
		out->cpus_left_out++;
		return;
	}
	for (u32 i = 0; i < out->nr_cpus; i++) {
		if (out->cpus[i].apic_id != cpu.apic_id)
			continue;
		/* Firmware fills up with unusable entries, often all alike: not worth a word. */
		if (cpu.usable)
			complain_table(r, "entry at offset 0x%x: APIC id %u is there already: entry left out", at, cpu.apic_id);
		return;
	}
	if (out->nr_cpus == MAX_CPUS)
		return;
	out->cpus[out->nr_cpus++] = cpu;
	out->nr_usable += cpu.usable;
}

static void read_cpu(struct reader *r, u32 at, bool usable, struct acpi_cpu cpu, bool has_id)
{
	if (cpu.usable != usable)
		return;
	if (has_id)
		add_cpu(r, at, cpu);
	else if (usable)
		complain_table(r, "entry at offset 0x%x: a CPU with the APIC id of all CPUs: entry left out", at);
}

static void read_lapic_if(struct reader *r, struct view e, u32 at, bool usable)
{
	u8 id = field8(e, 3);

	read_cpu(r, at, usable, (struct acpi_cpu){ id, field8(e, 2), 0, field32(e, 4) & MADT_CPU_ENABLED },
		 id != LAPIC_NO_ID);
}

static void read_x2apic_if(struct reader *r, struct view e, u32 at, bool usable)
{
	u32 id = field32(e, 4);

	read_cpu(r, at, usable, (struct acpi_cpu){ id, field32(e, 12), 0, field32(e, 8) & MADT_CPU_ENABLED },
		 id != X2APIC_NO_ID);
}

static void read_lapic_usable(struct reader *r, struct view e, u32 at)
{
	read_lapic_if(r, e, at, true);
}

static void read_lapic_other(struct reader *r, struct view e, u32 at)
{
	read_lapic_if(r, e, at, false);
}

static void read_x2apic_usable(struct reader *r, struct view e, u32 at)
{
	read_x2apic_if(r, e, at, true);
}

static void read_x2apic_other(struct reader *r, struct view e, u32 at)
{
	read_x2apic_if(r, e, at, false);
}

static void read_ioapic(struct reader *r, struct view e, u32 at)
{
	struct acpi_ioapic io = { .id = field8(e, 2), .pa = field32(e, 4), .gsi_base = field32(e, 8) };
	struct acpi *out = r->out;

	if (!io.pa) {
		complain_table(r, "entry at offset 0x%x: an IOAPIC at address 0: entry left out", at);
		return;
	}
	for (u32 i = 0; i < out->nr_ioapics; i++)
		if (out->ioapics[i].pa == io.pa || out->ioapics[i].gsi_base == io.gsi_base) {
			complain_table(r, "entry at offset 0x%x: a second IOAPIC at 0x%llx or with first interrupt %u: entry left out",
				       at, (ull)io.pa, io.gsi_base);
			return;
		}
	if (out->nr_ioapics == ACPI_IOAPICS_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u IOAPICs: entry left out", at, ACPI_IOAPICS_MAX);
		return;
	}
	out->ioapics[out->nr_ioapics++] = io;
}

/* Flags of an interrupt, table 5.26. Polarity and trigger: 0 as the bus has it, 1 high/edge, 2 reserved, 3 low/level. */
static bool irq_flags(struct reader *r, u32 at, u16 flags, bool *active_low, bool *level)
{
	if ((flags & 3) == 2 || (flags >> 2 & 3) == 2) {
		complain_table(r, "entry at offset 0x%x: interrupt flags 0x%x are reserved: entry left out", at, flags);
		return false;
	}
	*active_low = (flags & 3) == 3;
	*level = (flags >> 2 & 3) == 3;
	return true;
}

static void read_override(struct reader *r, struct view e, u32 at)
{
	struct acpi_irq irq = { .gsi = field32(e, 4) };
	u8 bus = field8(e, 2), source = field8(e, 3);
	u16 bit;

	if (bus != 0 || source >= ACPI_ISA_IRQS) {
		complain_table(r, "entry at offset 0x%x: interrupt %u of bus %u is none of ISA: entry left out", at, source, bus);
		return;
	}
	bit = (u16)(1u << source);
	if (r->out->overridden & bit) {
		complain_table(r, "entry at offset 0x%x: ISA interrupt %u is overridden already: entry left out", at, source);
		return;
	}
	if (!irq_flags(r, at, field16(e, 8), &irq.active_low, &irq.level))
		return;
	r->out->overridden |= bit;
	r->out->isa[source] = irq;
}

static void read_nmi_source(struct reader *r, struct view e, u32 at)
{
	struct acpi_irq irq = { .gsi = field32(e, 4) };

	if (!irq_flags(r, at, field16(e, 2), &irq.active_low, &irq.level))
		return;
	if (r->out->nr_nmis == ACPI_NMIS_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u NMI sources: entry left out", at, ACPI_NMIS_MAX);
		return;
	}
	r->out->nmis[r->out->nr_nmis++] = irq;
}

static void add_local_nmi(struct reader *r, u32 at, u32 uid, u16 flags, u8 lint)
{
	struct acpi_local_nmi nmi = { .uid = uid, .lint = lint };

	if (lint > 1) {
		complain_table(r, "entry at offset 0x%x: NMI at LINT%u, of 0 and 1: entry left out", at, lint);
		return;
	}
	if (!irq_flags(r, at, flags, &nmi.active_low, &nmi.level))
		return;
	if (r->out->nr_local_nmis == ACPI_NMIS_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u local NMIs: entry left out", at, ACPI_NMIS_MAX);
		return;
	}
	r->out->local_nmis[r->out->nr_local_nmis++] = nmi;
}

static void read_lapic_nmi(struct reader *r, struct view e, u32 at)
{
	u8 uid = field8(e, 2);

	add_local_nmi(r, at, uid == UID_ALL_8 ? ACPI_ALL_CPUS : uid, field16(e, 3), field8(e, 5));
}

static void read_x2apic_nmi(struct reader *r, struct view e, u32 at)
{
	add_local_nmi(r, at, field32(e, 4), field16(e, 2), field8(e, 8));
}

static void read_lapic_address(struct reader *r, struct view e, u32 at)
{
	u64 pa = field(e, 4, 8);

	if (page_address(pa))
		r->out->lapic_pa = pa;
	else
		complain_table(r, "entry at offset 0x%x: local APICs at 0x%llx, not a page: entry left out", at, (ull)pa);
}

static const struct entry_type madt_types[] = {
	{ 0, 8, read_lapic_usable },	/* 5.2.12.2 */
	{ 1, 12, read_ioapic },		/* 5.2.12.3 */
	{ 2, 10, read_override },	/* 5.2.12.5 */
	{ 3, 8, read_nmi_source },	/* 5.2.12.6 */
	{ 4, 6, read_lapic_nmi },	/* 5.2.12.7 */
	{ 5, 12, read_lapic_address },	/* 5.2.12.8 */
	{ 9, 16, read_x2apic_usable },	/* 5.2.12.12 */
	{ 10, 12, read_x2apic_nmi },	/* 5.2.12.13 */
};

/* CPUs that are not usable, once all that are have their place. */
static const struct entry_type madt_other_cpus[] = {
	{ 0, 8, read_lapic_other },
	{ 9, 16, read_x2apic_other },
};

static bool read_madt(struct reader *r, struct view v)
{
	struct acpi *out = r->out;

	if (!check_entries(r, v, MADT_FIRST, madt_types, ARRAY_SIZE(madt_types)))
		return false;
	out->has_madt = true;
	out->has_8259 = field32(v, 40) & MADT_PCAT_COMPAT;
	out->lapic_pa = field32(v, 36);
	if (!page_address(out->lapic_pa)) {
		complain_table(r, "local APICs at 0x%llx, not a page: address left out", (ull)out->lapic_pa);
		out->lapic_pa = 0;
	}
	read_entries(r, v, MADT_FIRST, madt_types, ARRAY_SIZE(madt_types));
	read_entries(r, v, MADT_FIRST, madt_other_cpus, ARRAY_SIZE(madt_other_cpus));
	if (out->cpus_left_out)
		complain_table(r, "%u CPUs more than the %u there is room for: left out", out->cpus_left_out, MAX_CPUS);
	if (!out->nr_usable)
		complain_table(r, "it names no usable CPU");
	return true;
}

/* ---- SRAT, 5.2.16 ---- */

#define SRAT_FIRST 48u
#define SRAT_ENABLED 0x1u
#define SRAT_HOTPLUG 0x2u
#define SRAT_NONVOLATILE 0x4u
#define NO_NODE 0xffffffffu	/* of a CPU while the SRAT is being read, and of a domain too many */

static u32 node_of(struct reader *r, u32 at, u32 domain)
{
	struct acpi *out = r->out;

	for (u32 i = 0; i < out->nr_nodes; i++)
		if (out->domains[i] == domain)
			return i;
	if (out->nr_nodes == ACPI_NODES_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u proximity domains: entry left out", at, ACPI_NODES_MAX);
		return NO_NODE;
	}
	out->domains[out->nr_nodes] = domain;
	return out->nr_nodes++;
}

/* CPUs that the MADT does not have are the firmware's spare ones. */
static void set_cpu_node(struct reader *r, u32 at, u32 apic_id, u32 domain)
{
	struct acpi *out = r->out;
	u32 node;

	for (u32 i = 0; i < out->nr_cpus; i++) {
		struct acpi_cpu *cpu = &out->cpus[i];

		if (cpu->apic_id != apic_id)
			continue;
		node = node_of(r, at, domain);
		if (cpu->node != NO_NODE && cpu->node != node)
			complain_table(r, "entry at offset 0x%x: APIC id %u is in another domain, too: entry left out", at, apic_id);
		else
			cpu->node = node;
		return;
	}
}

/* The upper bytes of a domain were reserved before revision 2. */
static void read_apic_affinity(struct reader *r, struct view e, u32 at)
{
	u32 upper = r->table->revision >= 2 ? (u32)field(e, 9, 3) << 8 : 0;

	if (field32(e, 4) & SRAT_ENABLED)
		set_cpu_node(r, at, field8(e, 3), field8(e, 2) | upper);
}

static void read_x2apic_affinity(struct reader *r, struct view e, u32 at)
{
	if (field32(e, 12) & SRAT_ENABLED)
		set_cpu_node(r, at, field32(e, 8), field32(e, 4));
}

static void read_memory_affinity(struct reader *r, struct view e, u32 at)
{
	u32 domain = r->table->revision >= 2 ? field32(e, 2) : field8(e, 2), flags = field32(e, 28);
	struct range pa = range_len(field(e, 8, 8), field(e, 16, 8));
	struct acpi *out = r->out;
	u32 node;

	if (!(flags & SRAT_ENABLED) || pa.start == pa.end)
		return;
	if (pa.end < pa.start) {
		complain_table(r, "entry at offset 0x%x: memory from 0x%llx wraps: entry left out", at, (ull)pa.start);
		return;
	}
	for (u32 i = 0; i < out->nr_memory; i++)
		if (range_overlaps(out->memory[i].pa, pa)) {
			complain_table(r, "entry at offset 0x%x: memory 0x%llx..0x%llx is there already: entry left out", at,
				       (ull)pa.start, (ull)pa.end);
			return;
		}
	if (out->nr_memory == ACPI_MEMORY_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u memory ranges: entry left out", at, ACPI_MEMORY_MAX);
		return;
	}
	node = node_of(r, at, domain);
	if (node != NO_NODE)
		out->memory[out->nr_memory++] =
			(struct acpi_memory){ pa, node, flags & SRAT_HOTPLUG, flags & SRAT_NONVOLATILE };
}

static const struct entry_type srat_types[] = {
	{ 0, 16, read_apic_affinity },		/* 5.2.16.1 */
	{ 1, 40, read_memory_affinity },	/* 5.2.16.2 */
	{ 2, 24, read_x2apic_affinity },	/* 5.2.16.3 */
};

static bool read_srat(struct reader *r, struct view v)
{
	struct acpi *out = r->out;

	if (!check_entries(r, v, SRAT_FIRST, srat_types, ARRAY_SIZE(srat_types)))
		return false;
	out->nr_nodes = 0;
	for (u32 i = 0; i < out->nr_cpus; i++)
		out->cpus[i].node = NO_NODE;
	read_entries(r, v, SRAT_FIRST, srat_types, ARRAY_SIZE(srat_types));
	for (u32 i = 0; i < out->nr_cpus; i++)
		if (out->cpus[i].node == NO_NODE)
			out->cpus[i].node = 0;
	if (!out->nr_nodes) {
		out->nr_nodes = 1;
		out->domains[0] = 0;
	}
	return true;
}

/* ---- MCFG ---- */

#define MCFG_FIRST 44u
#define MCFG_ENTRY 16u

static void add_segment(struct reader *r, u32 at, struct acpi_segment s)
{
	struct acpi *out = r->out;

	if (!s.pa || !is_aligned(s.pa, MIB) || s.pa + 256 * MIB < s.pa || s.first_bus > s.last_bus) {
		complain_table(r, "entry at offset 0x%x: buses %u to %u at 0x%llx cannot be: entry left out", at, s.first_bus,
			       s.last_bus, (ull)s.pa);
		return;
	}
	for (u32 i = 0; i < out->nr_segments; i++) {
		const struct acpi_segment *o = &out->segments[i];

		if (o->segment == s.segment && o->first_bus <= s.last_bus && s.first_bus <= o->last_bus) {
			complain_table(r, "entry at offset 0x%x: buses %u to %u of segment %u are there already: entry left out", at,
				       s.first_bus, s.last_bus, s.segment);
			return;
		}
	}
	if (out->nr_segments == ACPI_SEGMENTS_MAX) {
		complain_table(r, "entry at offset 0x%x: more than %u segments: entry left out", at, ACPI_SEGMENTS_MAX);
		return;
	}
	out->segments[out->nr_segments++] = s;
}

static bool read_mcfg(struct reader *r, struct view v)
{
	if ((v.size - MCFG_FIRST) % MCFG_ENTRY) {
		complain_table(r, "%u bytes of entries are no multiple of %u: table skipped", v.size - MCFG_FIRST, MCFG_ENTRY);
		return false;
	}
	for (u32 at = MCFG_FIRST; at < v.size; at += MCFG_ENTRY)
		add_segment(r, at, (struct acpi_segment){ field(v, at, 8), field16(v, at + 8), field8(v, at + 10),
							  field8(v, at + 11) });
	return true;
}

/* ---- FADT, 5.2.9 ---- */

#define FADT_PM_TMR_BLK 76u
#define FADT_PM_TMR_LEN 91u
#define FADT_FLAGS 112u
#define FADT_X_PM_TMR_BLK 208u
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_HW_REDUCED BIT(20)
#define IO_PORTS 0x10000u

/* Whether `bytes` of registers can be there at all. */
static bool register_good(const struct acpi_register *reg, u64 bytes)
{
	if (reg->space == ACPI_SPACE_IO)
		return reg->address <= IO_PORTS - bytes;
	return reg->space == ACPI_SPACE_MEMORY && reg->address + bytes > reg->address;
}

/* The X_ field counts unless it is empty; a wrong one is named, and the old field tried. */
static struct acpi_register read_pm_timer(struct reader *r, struct view v)
{
	struct acpi_register x = field_register(v, FADT_X_PM_TMR_BLK);
	struct acpi_register old = { field32(v, FADT_PM_TMR_BLK), ACPI_SPACE_IO, 32, 0, 3 };
	u8 length = field8(v, FADT_PM_TMR_LEN);

	if (x.address) {
		if (register_good(&x, 4) && x.bit_width >= 24 && x.bit_width <= 32 && !x.bit_offset)
			return x;
		complain_table(r, "X_PM_TMR_BLK, %u bits at 0x%llx of space %u, cannot be: left out", x.bit_width, (ull)x.address,
			       x.space);
	}
	if (!old.address || (register_good(&old, 4) && length == 4))
		return old;
	complain_table(r, "PM_TMR_BLK, %u bytes at port 0x%llx, cannot be: left out", length, (ull)old.address);
	return (struct acpi_register){ 0 };
}

static bool read_fadt(struct reader *r, struct view v)
{
	u32 flags = field32(v, FADT_FLAGS);
	struct acpi *out = r->out;

	out->has_fadt = true;
	out->hardware_reduced = flags & FADT_HW_REDUCED;
	if (out->hardware_reduced)
		return true;
	out->pm_timer = read_pm_timer(r, v);
	if (out->pm_timer.address)
		out->pm_timer_bits = flags & FADT_TMR_VAL_EXT ? 32 : 24;
	else
		out->pm_timer = (struct acpi_register){ 0 };
	return true;
}

/* ---- HPET ---- */

#define HPET_SIZE 0x400u

static bool read_hpet(struct reader *r, struct view v)
{
	struct acpi_register base = field_register(v, 40);
	struct acpi *out = r->out;
	u32 id = field32(v, 36);

	if (base.space != ACPI_SPACE_MEMORY || !base.address || !is_aligned(base.address, HPET_SIZE) ||
	    !register_good(&base, HPET_SIZE)) {
		complain_table(r, "registers at 0x%llx of space %u cannot be: table skipped", (ull)base.address, base.space);
		return false;
	}
	out->hpet_pa = base.address;
	out->hpet_comparators = (u8)((id >> 8 & 0x1f) + 1);
	out->hpet_64bit = id >> 13 & 1;
	out->hpet_min_tick = field16(v, 53);
	return true;
}

/* ---- SPCR and DBG2 ---- */

#define SERIAL_PORT 0x8000u	/* port type of DBG2 */
#define SERIAL_PORTS 8u		/* registers of a 16550 */
#define DBG2_DEVICE_SIZE 22u

static bool is_16550(u16 interface)
{
	return interface == 0x00 || interface == 0x01 || interface == 0x12;
}

/* False: it is no port that can be used, and has been named. */
static bool check_serial(struct reader *r, const struct acpi_serial *s)
{
	if (!is_16550(s->interface)) {
		complain_table(r, "a serial port of type 0x%x, no 16550: not used", s->interface);
		return false;
	}
	if (register_good(&s->base, SERIAL_PORTS))
		return true;
	complain_table(r, "a serial port at 0x%llx of space %u cannot be: not used", (ull)s->base.address, s->base.space);
	return false;
}

static bool read_spcr(struct reader *r, struct view v)
{
	static const u32 bauds[] = { [3] = 9600, [4] = 19200, [6] = 57600, [7] = 115200 };
	struct acpi_serial s = { .interface = field8(v, 36), .base = field_register(v, 40) };
	u8 code = field8(v, 58);

	/* Address 0: the firmware's console is not redirected. */
	if (!s.base.address || !check_serial(r, &s))
		return true;
	if (code < ARRAY_SIZE(bauds))
		s.baud = bauds[code];
	if (code && !s.baud)
		complain_table(r, "baud rate %u is reserved: left as it is set", code);
	if (r->table->revision >= 3)
		s.clock = field32(v, 76);
	if (r->table->revision >= 4 && field32(v, 80))
		s.baud = field32(v, 80);
	r->out->spcr = s;
	return true;
}

/* The device at offset at: false if there is none whole. */
static bool dbg2_device(struct view table, u32 at, struct view *device)
{
	u16 length = field16(table, at + 1);

	if (at >= table.size || length < DBG2_DEVICE_SIZE || length > table.size - at)
		return false;
	*device = (struct view){ table.p + at, length };
	return true;
}

static bool check_dbg2(struct reader *r, struct view v, u32 first, u32 nr)
{
	struct view device;
	u32 at = first;

	if (first < HEADER_SIZE + 8 || first > v.size) {
		complain_table(r, "devices at offset 0x%x of %u bytes: table skipped", first, v.size);
		return false;
	}
	for (u32 i = 0; i < nr; i++, at += device.size) {
		u16 registers;

		if (!dbg2_device(v, at, &device)) {
			complain_table(r, "device %u at offset 0x%x has length %u, with %u bytes left: table skipped", i, at,
				       field16(v, at + 1), v.size - at);
			return false;
		}
		registers = field16(device, 18);
		if (field8(device, 3) && (registers > device.size || device.size - registers < REGISTER_SIZE)) {
			complain_table(r, "device %u at offset 0x%x: address at offset 0x%x of %u bytes: table skipped", i, at,
				       registers, device.size);
			return false;
		}
	}
	return true;
}

static bool read_dbg2(struct reader *r, struct view v)
{
	u32 first = field32(v, 36), nr = field32(v, 40);
	struct view device;

	if (!check_dbg2(r, v, first, nr))
		return false;
	for (u32 i = 0, at = first; i < nr && dbg2_device(v, at, &device); i++, at += device.size) {
		struct acpi_serial s = { .base = field_register(device, field16(device, 18)),
					 .interface = field16(device, 14) };

		if (field16(device, 12) != SERIAL_PORT || !field8(device, 3) || !s.base.address || !check_serial(r, &s))
			continue;
		r->out->dbg2 = s;
		break;
	}
	return true;
}

/* ---- All of it ---- */

/* What is read, in this order: the SRAT is about the MADT's CPUs. */
static const struct {
	const char *signature;
	u32 size;	/* bytes it has at least */
	bool (*read)(struct reader *r, struct view table);
} parts[] = {
	{ "FACP", 116, read_fadt },
	{ "APIC", MADT_FIRST, read_madt },
	{ "SRAT", SRAT_FIRST, read_srat },
	{ "MCFG", MCFG_FIRST, read_mcfg },
	{ "HPET", 56, read_hpet },
	{ "SPCR", 80, read_spcr },
	{ "DBG2", 44, read_dbg2 },
};

static bool read_table(struct reader *r, u32 size, bool (*read)(struct reader *r, struct view table))
{
	struct view v;
	bool good;

	if (r->table->length < size) {
		complain_table(r, "%u bytes, fewer than %u: table skipped", r->table->length, size);
		return false;
	}
	if (!map(r, r->table->pa, r->table->length, &v)) {
		complain_table(r, "it cannot be read any more: table skipped");
		return false;
	}
	good = read(r, v);
	unmap(r, v);
	return good;
}

/* The first good table of each kind counts. */
static void read_part(struct reader *r, unsigned part)
{
	const struct acpi_table *used = NULL;

	for (u32 i = 0; i < r->out->nr_tables; i++) {
		const struct acpi_table *t = &r->out->tables[i];

		if (strcmp(t->signature, parts[part].signature))
			continue;
		r->table = t;
		if (used)
			complain_table(r, "a second one, besides that at 0x%llx: table skipped", (ull)used->pa);
		else if (read_table(r, parts[part].size, parts[part].read))
			used = t;
	}
}

int acpi_read(struct acpi *out, u64 rsdp, struct acpi_source *source)
{
	struct reader r = { out, source, NULL };
	struct roots roots;

	memset(out, 0, sizeof(*out));
	out->has_8259 = true;
	out->nr_nodes = 1;
	for (u32 i = 0; i < ACPI_ISA_IRQS; i++)
		out->isa[i].gsi = i;
	if (!read_rsdp(&r, rsdp, &roots))
		return -ENODEV;
	if (roots.xsdt)
		out->present = read_list(&r, roots.xsdt, "XSDT", 8);
	if (!out->present && roots.rsdt)
		out->present = read_list(&r, roots.rsdt, "RSDT", 4);
	if (!out->present) {
		complain(&r, "RSDP at 0x%llx: no list of tables that is good", (ull)rsdp);
		return -ENODEV;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		read_part(&r, i);
	return 0;
}
