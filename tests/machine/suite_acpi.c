/* SPDX-License-Identifier: MIT */
/*
 * ACPI on the machine (BT4): what was found is what CPU and devices say themselves; and copies of the machine's own tables, each
 * damaged in turn, are read by way of the same mappings: the damaged one is named and skipped, the others are found.
 */
#include "kernel/acpi_init.h"

#include "arch/x86_64/apic.h"
#include "arch/x86_64/cpu.h"
#include "arch/x86_64/insn.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/arch.h"
#include "mm/buddy.h"
#include "mm/vmalloc.h"
#include "tests/acpi_digest.h"
#include "tests/test.h"

#define FW_CFG_SELECT 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_SIGNATURE 0x00
#define FW_CFG_CPUS 0x05

#define Q35_HOST_BRIDGE 0x29c08086u	/* device and vendor of 00:00.0 */
#define Q35_PCIEXBAR 0x60u

/* ---- What the machine says itself ---- */

TEST_ID(acpi, tables_are_found, "BT4")
{
	if (!acpi.present)
		SKIP("no ACPI tables");
	CHECK(acpi.nr_tables > 0);
	for (u32 i = 0; i < acpi.nr_tables; i++)
		test_note("table=%s pa=0x%llx length=%u", acpi.tables[i].signature, (unsigned long long)acpi.tables[i].pa,
			  acpi.tables[i].length);
	test_note("complaints=%u", acpi.complaints);
}

TEST_ID(acpi, this_cpu_is_listed, "BT4")
{
	u32 id = apic_id(), times = 0;

	if (!acpi.has_madt || id == APIC_ID_NONE)
		SKIP("no MADT, or no local APIC");
	for (u32 i = 0; i < acpi.nr_usable; i++)
		times += acpi.cpus[i].apic_id == id && acpi.cpus[i].usable;
	CHECK_EQ(times, 1);
	if (apic_pa())
		CHECK_EQ(acpi.lapic_pa, apic_pa());
	if (!apic_is_x2apic())
		CHECK_EQ(insn_cpuid(1, 0).ebx >> 24, id);
}

/* QEMU's fw_cfg device: what key holds, little-endian. False: there is no such device. */
static bool fw_cfg(u16 key, unsigned bytes, u64 *value)
{
	char signature[4];

	insn_outw(FW_CFG_SELECT, FW_CFG_SIGNATURE);
	for (unsigned i = 0; i < 4; i++)
		signature[i] = (char)insn_inb(FW_CFG_DATA);
	if (memcmp(signature, "QEMU", 4))
		return false;
	insn_outw(FW_CFG_SELECT, key);
	*value = 0;
	for (unsigned i = 0; i < bytes; i++)
		*value |= (u64)insn_inb(FW_CFG_DATA) << (8 * i);
	return true;
}

TEST_ID(acpi, all_cpus_of_qemu, "BT4")
{
	u64 cpus;

	if (!acpi.has_madt || !cpu_has(CPU_HYPERVISOR) || !fw_cfg(FW_CFG_CPUS, 2, &cpus))
		SKIP("no MADT, or not on QEMU");
	CHECK_EQ(acpi.nr_usable + acpi.cpus_left_out, cpus);
}

/* Configuration space of the host bridge; NULL: there is no MCFG. */
static volatile u32 *map_host_bridge(void)
{
	if (!acpi.nr_segments || acpi.segments[0].first_bus)
		return NULL;
	return ioremap(acpi.segments[0].pa, PAGE_SIZE, IOREMAP_UC | IOREMAP_RO);
}

/* Where QEMU's q35 has its devices (and real chipsets of its time). */
static void check_q35(u64 pciexbar)
{
	CHECK_EQ(pciexbar & ~(64 * MIB - 1), acpi.segments[0].pa);
	REQUIRE(acpi.nr_ioapics == 1);
	CHECK_EQ(acpi.ioapics[0].pa, 0xfec00000);
	CHECK_EQ(acpi.ioapics[0].gsi_base, 0);
	CHECK_EQ(acpi.isa[0].gsi, 2);
	CHECK_EQ(acpi.isa[1].gsi, 1);
	CHECK(acpi.isa[9].level);
	CHECK_EQ(acpi.pm_timer.space, ACPI_SPACE_IO);
	CHECK(acpi.pm_timer_bits == 24 || acpi.pm_timer_bits == 32);
	if (acpi.hpet_pa)
		CHECK_EQ(acpi.hpet_pa, 0xfed00000);
}

TEST_ID(acpi, devices_of_q35, "BT4")
{
	volatile u32 *bridge = map_host_bridge();
	u64 pciexbar = 0;
	u32 id = 0;

	if (bridge) {
		id = bridge[0];
		pciexbar = bridge[Q35_PCIEXBAR / 4] | (u64)bridge[Q35_PCIEXBAR / 4 + 1] << 32;
		iounmap((void *)(u64)bridge);
	}
	if (id != Q35_HOST_BRIDGE || !cpu_has(CPU_HYPERVISOR))
		SKIP("not on QEMU's q35: host bridge 0x%x", id);
	check_q35(pciexbar);
}

/* Its first register tells the same as the table (IA-PC HPET 1.0a, 2.3.4). */
TEST_ID(acpi, hpet_is_there, "BT4")
{
	volatile u32 *hpet;
	u32 id, period;

	if (!acpi.hpet_pa)
		SKIP("no HPET");
	hpet = ioremap(acpi.hpet_pa, PAGE_SIZE, IOREMAP_UC | IOREMAP_RO);
	REQUIRE(hpet);
	id = hpet[0];
	period = hpet[1];
	iounmap((void *)(u64)hpet);
	CHECK_EQ((id >> 8 & 0x1f) + 1, acpi.hpet_comparators);
	CHECK_EQ(id >> 13 & 1, acpi.hpet_64bit);
	CHECK(period > 0 && period <= 100000000);	/* femtoseconds */
}

/* A port that nobody answers at reads as all ones, for ever. */
TEST_ID(acpi, pm_timer_counts, "BT4")
{
	u32 first, reads = 0;

	if (!acpi.pm_timer_bits || acpi.pm_timer.space != ACPI_SPACE_IO)
		SKIP("no PM timer at a port");
	first = insn_inl((u16)acpi.pm_timer.address);
	while (reads < 10000000 && insn_inl((u16)acpi.pm_timer.address) == first)
		reads++;
	CHECK(reads < 10000000);
	if (acpi.pm_timer_bits == 24)
		CHECK_EQ(first >> 24, 0);
}

/* ---- Copies ---- */

#define COPIES_MAX 48u
#define COPY_ORDER 7u			/* room for all copies */
#define COPY_ROOM (PAGE_SIZE << COPY_ORDER)
#define COPY_SIZE_MAX (32 * KIB)	/* large ones are code, which nobody reads */
#define RSDP_AT 0u
#define XSDT_AT 64u
#define TABLES_AT 512u	/* behind the XSDT */
#define HEADER 36u
#define TEXT_MAX 4096u

struct copy {
	const char *signature;
	u32 at;		/* offset in the room */
	u32 length;
};

static struct {
	struct acpi_source source;
	struct page *room;
	u8 *data;	/* the room in the direct map */
	u64 pa;
	u32 used;
	u32 nr;
	struct copy copies[COPIES_MAX];
	char text[TEXT_MAX];	/* complaints */
	u32 text_used;
} m;

_Static_assert(XSDT_AT + HEADER + 8 * COPIES_MAX <= TABLES_AT, "the list has room for all copies");

static struct acpi undamaged, damaged;

static void note_complaint(struct acpi_source *source, const char *line)
{
	(void)source;
	m.text_used += (u32)fmt_print(m.text + m.text_used, TEXT_MAX - m.text_used, "%s\n", line);
	m.text_used = MIN(m.text_used, TEXT_MAX - 1);
}

static bool said(const char *what)
{
	size_t n = strlen(what);

	for (const char *p = m.text; *p; p++)
		if (!strncmp(p, what, n))
			return true;
	return false;
}

static void put(u32 at, u32 bytes, u64 value)
{
	memcpy(m.data + at, &value, bytes);
}

static void mend(u32 at, u32 length, u32 checksum)
{
	u8 sum = 0;

	for (u32 i = 0; i < length; i++)
		sum = (u8)(sum + m.data[at + i]);
	m.data[at + checksum] = (u8)(m.data[at + checksum] - sum);
}

static void mend_xsdt(void)
{
	mend(XSDT_AT, HEADER + 8 * m.nr, 9);
}

static void copy_table(const struct acpi_table *t)
{
	const void *p;

	if (t->length > COPY_SIZE_MAX || m.nr == COPIES_MAX || m.used + t->length > COPY_ROOM)
		return;
	p = acpi_init_map(&m.source, t->pa, t->length);
	if (!CHECK(p))
		return;
	memcpy(m.data + m.used, p, t->length);
	acpi_init_unmap(&m.source, p);
	put(XSDT_AT + HEADER + 8 * m.nr, 8, m.pa + m.used);
	m.copies[m.nr++] = (struct copy){ t->signature, m.used, t->length };
	m.used = (u32)align_up(m.used + t->length, 16);
}

/* A room with an RSDP, an XSDT and all tables of the machine that are not too large. */
static bool make_copies(void)
{
	memset(&m, 0, sizeof(m));
	m.source = (struct acpi_source){ acpi_init_map, acpi_init_unmap, note_complaint };
	m.room = alloc_pages(COPY_ORDER, 0);
	if (!m.room)
		return false;
	m.data = phys_to_virt(page_to_phys(m.room));
	m.pa = page_to_phys(m.room).raw;
	memset(m.data, 0, COPY_ROOM);
	m.used = TABLES_AT;
	for (u32 i = 0; i < acpi.nr_tables; i++)
		copy_table(&acpi.tables[i]);
	memcpy(m.data + XSDT_AT, "XSDT", 4);
	put(XSDT_AT + 4, 4, HEADER + 8 * m.nr);
	mend_xsdt();
	memcpy(m.data + RSDP_AT, "RSD PTR ", 8);
	put(RSDP_AT + 15, 1, 2);
	put(RSDP_AT + 20, 4, HEADER);
	put(RSDP_AT + 24, 8, m.pa + XSDT_AT);
	mend(RSDP_AT, 20, 8);
	mend(RSDP_AT, HEADER, 32);
	return true;
}

static int read_copies(struct acpi *out)
{
	m.text_used = 0;
	m.text[0] = 0;
	return acpi_read(out, m.pa + RSDP_AT, &m.source);
}

/* Read with one table damaged. name: how its complaint begins. */
static void check_damaged(const struct copy *c, const char *name, const char *why)
{
	u64 warnings = log_warnings;

	CHECK_EQ(read_copies(&damaged), 0);
	CHECK_EQ(damaged.nr_tables, undamaged.nr_tables - 1);
	/* Of good tables nobody complains; firmware that has others may have told of this one before. */
	CHECK(undamaged.complaints ? damaged.complaints >= 1 : damaged.complaints == 1);
	CHECK_EQ(log_warnings, warnings);	/* ioremap() was asked for nothing that it refuses */
	if (!CHECK(said(name) && said(why)) || !CHECK(acpi_others_same(&damaged, &undamaged, c->signature)))
		test_note("%s, %s: %s", c->signature, why, m.text);
}

static void damage_checksum(const struct copy *c, const char *name)
{
	m.data[c->at + c->length - 1] ^= 0x10;
	check_damaged(c, name, "checksum of its");
	m.data[c->at + c->length - 1] ^= 0x10;
}

static void damage_length(const struct copy *c, const char *name)
{
	static const u32 lengths[] = { 0, 1, HEADER - 1, ACPI_TABLE_SIZE_MAX + 1, 0xffffffff };

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		put(c->at + 4, 4, lengths[i]);
		check_damaged(c, name, "is not between");
	}
	put(c->at + 4, 4, c->length);
}

/* Nowhere, registers, beyond what the CPU can address, round and round, and what another entry names already. */
static void damage_pointer(const struct copy *c, u32 nr, const char *name)
{
	const struct {
		u64 pa;
		const char *why;
	} rows[] = {
		{ 0, "the address is 0" },
		{ acpi.lapic_pa ? acpi.lapic_pa : 0xfee00000, "there is no memory to read" },
		{ BIT(arch_mm.phys_bits), "there is no memory to read" },
		{ UINT64_MAX - 8, "there is no memory to read" },
		{ m.pa + XSDT_AT, "a list of tables inside a list of tables" },
		{ m.pa + RSDP_AT, "is not between" },
		{ m.pa + m.copies[0].at, "overlaps" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows) - !nr; i++) {
		put(XSDT_AT + HEADER + 8 * nr, 8, rows[i].pa);
		mend_xsdt();
		check_damaged(c, name, rows[i].why);
	}
	put(XSDT_AT + HEADER + 8 * nr, 8, m.pa + c->at);
	mend_xsdt();
}

TEST_ID(acpi, damaged_copies_are_named_and_skipped, "BT4")
{
	if (!acpi.present)
		SKIP("no ACPI tables");
	REQUIRE(make_copies());
	CHECK(m.nr >= 2);
	CHECK_EQ(read_copies(&undamaged), 0);
	CHECK_EQ(undamaged.nr_tables, m.nr);
	CHECK(undamaged.complaints <= acpi.complaints);
	CHECK(acpi_others_same(&undamaged, &acpi, ""));
	for (u32 i = 0; i < m.nr; i++) {
		const struct copy *c = &m.copies[i];
		char entry[32], table[48];

		fmt_print(entry, sizeof(entry), "entry %u of the XSDT", i);
		fmt_print(table, sizeof(table), "%s at 0x%llx", c->signature, (unsigned long long)(m.pa + c->at));
		damage_checksum(c, table);
		damage_length(c, table);
		damage_pointer(c, i, entry);
	}
	CHECK_EQ(read_copies(&damaged), 0);
	CHECK_EQ(damaged.complaints, undamaged.complaints);	/* all of it is mended again */
	free_pages(m.room, COPY_ORDER);
}

/* Neither list: nothing is there, and nothing is taken from what the tables say. */
TEST_ID(acpi, damaged_roots, "BT4")
{
	static const struct {
		u32 at;
		const char *says;
	} rows[] = {
		{ RSDP_AT, "the signature is not" },
		{ RSDP_AT + 9, "checksum is" },
		{ RSDP_AT + 33, "extended checksum is" },
		{ XSDT_AT + HEADER, "checksum of its" },
	};

	if (!acpi.present)
		SKIP("no ACPI tables");
	REQUIRE(make_copies());
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		m.data[rows[i].at] ^= 0x10;
		CHECK(read_copies(&damaged) != 0);
		CHECK(said(rows[i].says));
		CHECK(!damaged.present && !damaged.nr_cpus && !damaged.hpet_pa && damaged.nr_nodes == 1);
		m.data[rows[i].at] ^= 0x10;
	}
	CHECK_EQ(read_copies(&damaged), 0);
	free_pages(m.room, COPY_ORDER);
}

/* What is no memory is not mapped, and nobody has to say so: the reader does. */
TEST_ID(acpi, maps_memory_only, "BT4 VA1")
{
	struct acpi_source source = { acpi_init_map, acpi_init_unmap, note_complaint };
	u64 warnings = log_warnings, top = BIT(arch_mm.phys_bits);
	const void *p;

	if (!acpi.present)
		SKIP("no ACPI tables");
	CHECK(!acpi_init_map(&source, apic_pa() ? apic_pa() : 0xfee00000, 4));
	CHECK(!acpi_init_map(&source, top - PAGE_SIZE, PAGE_SIZE));
	CHECK(!acpi_init_map(&source, top, PAGE_SIZE));
	CHECK(!acpi_init_map(&source, UINT64_MAX - PAGE_SIZE, PAGE_SIZE));
	/* It begins in memory, and does not end there. */
	CHECK(!acpi_init_map(&source, acpi.tables[0].pa, top - acpi.tables[0].pa));
	CHECK_EQ(log_warnings, warnings);
	p = acpi_init_map(&source, acpi.tables[0].pa, acpi.tables[0].length);
	REQUIRE(p);
	CHECK(!memcmp(p, acpi.tables[0].signature, 4));
	acpi_init_unmap(&source, p);
}
