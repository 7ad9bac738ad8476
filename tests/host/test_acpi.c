/* SPDX-License-Identifier: MIT */
/*
 * kernel/acpi.c on good tables, and on every way to damage them: what is damaged is named and skipped, all else is
 * found as before, and nothing beside the tables is read (tests/host/acpi_sample.h).
 */
#include "kernel/acpi.h"

#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "tests/acpi_digest.h"
#include "tests/host/acpi_sample.h"
#include "tests/host/machine.h"
#include "tests/test.h"

#define TIB_SAMPLE (1ull << 40)

static struct sample s;
static struct acpi a, reference;

static const char *const names[S_PIECES] = { "RSDP", "XSDT", "RSDT", "FACP", "APIC", "SRAT",
					     "MCFG", "HPET", "SPCR", "DBG2", "SSDT" };

/* ---- Reading ---- */

static int read_sample(void)
{
	const char *broken;
	int rc = sample_read(&s, &a);

	broken = sample_unsound(&s, &a);
	if (!CHECK(!broken))
		test_note("broken promise: %s", broken);
	return rc;
}

static bool said(const char *what)
{
	return strstr(s.text, what) != NULL;
}

static void check_said(const char *what)
{
	if (!CHECK(said(what)))
		test_note("not said: '%s', but: '%.200s'", what, s.text);
}

/* The good machine without one of its tables: *out. */
static void read_without(u32 piece, struct acpi *out)
{
	static struct sample whole;

	sample_make(&whole);
	for (u32 i = piece; i < S_PIECES - 1; i++) {
		u64 pa = whole.pieces[i + 1].pa;

		sample_put(&whole, S_XSDT, 36 + 8 * (i - S_FADT), 8, pa);
	}
	sample_resize(&whole, S_XSDT, 36 + 8 * (S_TABLES - 1));
	sample_mend(&whole, S_XSDT);
	CHECK_EQ(sample_read(&whole, out), 0);
	CHECK_EQ(out->complaints, 0);
	CHECK_EQ(out->nr_tables, S_TABLES - 1);
	sample_free(&whole);
}

static void read_reference(void)
{
	sample_make(&s);
	CHECK_EQ(sample_read(&s, &reference), 0);
	CHECK_EQ(reference.complaints, 0);
	CHECK_EQ(reference.nr_tables, S_TABLES);
}

/* ---- Good tables ---- */

static void check_cpus(void)
{
	static const struct acpi_cpu want[] = {
		{ 0, 10, 0, true }, { 1, 11, 0, true }, { 2, 12, 1, true }, { 0x100, 4, 1, true }, { 3, 13, 0, false },
	};

	CHECK(a.has_madt);
	CHECK_EQ(a.nr_usable, 4);
	REQUIRE(a.nr_cpus == ARRAY_SIZE(want));
	for (u32 i = 0; i < a.nr_cpus; i++) {
		CHECK_EQ(a.cpus[i].apic_id, want[i].apic_id);
		CHECK_EQ(a.cpus[i].uid, want[i].uid);
		CHECK_EQ(a.cpus[i].node, want[i].node);
		CHECK_EQ(a.cpus[i].usable, want[i].usable);
	}
}

static void check_interrupts(void)
{
	CHECK_EQ(a.lapic_pa, SAMPLE_LAPIC_PA);
	CHECK(a.has_8259);
	REQUIRE(a.nr_ioapics == 2 && a.nr_nmis == 1 && a.nr_local_nmis == 2);
	CHECK_EQ(a.ioapics[0].pa, 0xfec00000);
	CHECK_EQ(a.ioapics[0].gsi_base, 0);
	CHECK_EQ(a.ioapics[0].id, 8);
	CHECK_EQ(a.ioapics[1].pa, 0xfec01000);
	CHECK_EQ(a.ioapics[1].gsi_base, 24);
	CHECK_EQ(a.overridden, BIT(0) | BIT(9));
	CHECK_EQ(a.isa[0].gsi, 2);
	CHECK(!a.isa[0].active_low && !a.isa[0].level);
	CHECK_EQ(a.isa[9].gsi, 9);
	CHECK(a.isa[9].active_low && a.isa[9].level);
	CHECK_EQ(a.nmis[0].gsi, 23);
	CHECK(a.nmis[0].active_low && a.nmis[0].level);
	CHECK_EQ(a.local_nmis[0].uid, ACPI_ALL_CPUS);
	CHECK_EQ(a.local_nmis[0].lint, 1);
	CHECK_EQ(a.local_nmis[1].uid, 4);
	CHECK_EQ(a.local_nmis[1].lint, 0);
}

static void check_memory(void)
{
	REQUIRE(a.nr_nodes == 2 && a.nr_memory == 3);
	CHECK_EQ(a.domains[0], 0);
	CHECK_EQ(a.domains[1], SAMPLE_FAR_DOMAIN);
	CHECK_EQ(a.memory[0].pa.start, 0);
	CHECK_EQ(a.memory[0].pa.end, 0xa0000);
	CHECK_EQ(a.memory[1].pa.end, GIB);
	CHECK(!a.memory[1].hotplug && !a.memory[1].nonvolatile);
	CHECK_EQ(a.memory[2].pa.start, 4 * GIB);
	CHECK_EQ(a.memory[2].pa.end, 5 * GIB);
	CHECK_EQ(a.memory[2].node, 1);
	CHECK(a.memory[2].hotplug && a.memory[2].nonvolatile);
}

static void check_devices(void)
{
	REQUIRE(a.nr_segments == 2);
	CHECK_EQ(a.segments[0].pa, 0xe0000000);
	CHECK_EQ(a.segments[0].last_bus, 0x7f);
	CHECK_EQ(a.segments[1].pa, 64 * GIB);
	CHECK_EQ(a.segments[1].segment, 2);
	CHECK_EQ(a.segments[1].first_bus, 0x10);
	CHECK_EQ(a.segments[1].last_bus, 0xff);
	CHECK(a.has_fadt && !a.hardware_reduced);
	CHECK_EQ(a.pm_timer.address, SAMPLE_PM_TIMER);
	CHECK_EQ(a.pm_timer.space, ACPI_SPACE_IO);
	CHECK_EQ(a.pm_timer_bits, 32);
	CHECK_EQ(a.hpet_pa, 0xfed00000);
	CHECK_EQ(a.hpet_comparators, 3);
	CHECK_EQ(a.hpet_min_tick, 128);
	CHECK(a.hpet_64bit);
	CHECK_EQ(a.spcr.base.address, 0xfe000000);
	CHECK_EQ(a.spcr.base.space, ACPI_SPACE_MEMORY);
	CHECK_EQ(a.spcr.base.bit_width, 32);
	CHECK_EQ(a.spcr.base.access_size, 3);
	CHECK_EQ(a.spcr.baud, 115200);
	CHECK_EQ(a.spcr.clock, 1843200);
	CHECK_EQ(a.spcr.interface, 0x12);
	CHECK_EQ(a.dbg2.base.address, 0x2f8);
	CHECK_EQ(a.dbg2.base.space, ACPI_SPACE_IO);
	CHECK_EQ(a.dbg2.interface, 1);
}

static void check_all(void)
{
	CHECK(a.present);
	CHECK_EQ(a.nr_tables, S_TABLES);
	check_cpus();
	check_interrupts();
	check_memory();
	check_devices();
}

TEST_ID(acpi, reads_good_tables, "BT4")
{
	sample_make(&s);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	CHECK_EQ(a.revision, 2);
	check_all();
	for (u32 i = 0; i < a.nr_tables; i++) {
		CHECK(strcmp(a.tables[i].signature, names[S_FADT + i]) == 0);
		CHECK_EQ(a.tables[i].pa, sample_pa(S_FADT + i));
		CHECK_EQ(a.tables[i].length, s.pieces[S_FADT + i].size);
	}
	sample_free(&s);
}

/* ACPI 1.0: 20 bytes, and nothing behind them may be touched. */
TEST_ID(acpi, reads_the_rsdp_of_1_0, "BT4")
{
	sample_make(&s);
	sample_put(&s, S_RSDP, 15, 1, 0);
	sample_mend(&s, S_RSDP);
	s.pieces[S_RSDP].size = 20;
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	CHECK_EQ(a.revision, 0);
	check_all();
	sample_free(&s);
}

TEST_ID(acpi, none_at_all, "BT4")
{
	sample_make(&s);
	s.pieces[S_RSDP].pa = 0;
	CHECK_EQ(read_sample(), (u64)-ENODEV);
	check_said("RSDP: the firmware has none");
	CHECK(!a.present && a.has_8259);
	CHECK_EQ(a.nr_nodes, 1);
	sample_free(&s);
}

/* ---- Every byte ---- */

/* What must come of a piece whose checksum, length or memory is wrong. want: read without it. */
static void check_skipped(u32 piece, const struct acpi *want, u32 at)
{
	bool first_half = piece == S_RSDP && at < 20, unused = piece == S_RSDT;
	int rc = read_sample();

	if (!CHECK_EQ(rc, first_half ? (u64)-ENODEV : 0) || !CHECK(acpi_others_same(&a, want, "")) ||
	    !CHECK(unused ? a.complaints == 0 : a.complaints > 0))
		test_note("piece %s, byte %u: %.200s", names[piece], at, s.text);
}

static unsigned piece_rows(void)
{
	return S_PIECES;
}

static void piece_name(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", (const char *[]){ "rsdp", "xsdt", "rsdt", "fadt", "madt", "srat", "mcfg", "hpet", "spcr",
						      "dbg2", "other" }[row]);
}

/* The values that a byte is tried with: each bit flipped, all flipped; all 255 in the long version. */
static u8 next_flip(u8 flip)
{
	if (machine_full)
		return (u8)(flip + 1);
	return flip == 0xff ? 0 : flip == 0x80 ? 0xff : flip ? (u8)(flip << 1) : 1;
}

/* The machine as it must be read when this piece is skipped. Without a list or an RSDP's second half the RSDT serves. */
static void make_want(u32 piece, u32 at)
{
	read_reference();
	if (piece >= S_FADT) {
		read_without(piece, &reference);
	} else if (piece == S_RSDP && at < 20) {
		struct sample none;

		sample_free(&s);
		sample_make(&none);
		none.pieces[S_RSDP].pa = 0;
		sample_read(&none, &reference);
		sample_free(&none);
		sample_make(&s);
	}
}

TEST_ROWS(acpi_flip, rows, "BT4", 0, piece_rows, piece_name)
{
	u32 piece = test_row(), size;
	unsigned flips = 0;

	make_want(piece, 0);
	size = s.pieces[piece].size;
	for (u32 at = 0; at < size; at++) {
		if (piece == S_RSDP && at == 20) {
			sample_free(&s);
			make_want(piece, at);
		}
		for (u8 flip = next_flip(0); flip; flip = next_flip(flip), flips++) {
			s.pieces[piece].data[at] ^= flip;
			check_skipped(piece, &reference, at);
			s.pieces[piece].data[at] ^= flip;
		}
	}
	test_note("flips=%u", flips);
	sample_free(&s);
}

/*
 * With the checksum mended: the table counts now, and may say anything; but nothing beside it changes, nothing breaks, and
 * each promise holds.
 */
TEST_ROWS(acpi_mended, rows, "BT4", 0, piece_rows, piece_name)
{
	u32 piece = test_row(), size;
	unsigned flips = 0, good = 0;

	read_reference();
	size = s.pieces[piece].size;
	for (u32 at = 0; at < size; at++) {
		u8 was[36];

		memcpy(was, s.pieces[piece].data, 36);
		for (u8 flip = next_flip(0); flip; flip = next_flip(flip), flips++) {
			s.pieces[piece].data[at] ^= flip;
			sample_mend(&s, piece);
			good += read_sample() == 0;
			if (piece >= S_FADT && !CHECK(a.present && acpi_others_same(&a, &reference, names[piece])))
				test_note("piece %s, byte %u, flip 0x%x: %.200s", names[piece], at, flip, s.text);
			s.pieces[piece].data[at] ^= flip;
			memcpy(s.pieces[piece].data, was, 36);
		}
	}
	test_note("flips=%u, read=%u", flips, good);
	CHECK(good > 0);
	sample_free(&s);
}

/* Memory ends before the table does, at every length. */
TEST_ROWS(acpi_cut, rows, "BT4", 0, piece_rows, piece_name)
{
	u32 piece = test_row(), size;

	make_want(piece, 0);
	size = s.pieces[piece].size;
	for (u32 n = 0; n < size; n++) {
		if (piece == S_RSDP && n == 20) {
			sample_free(&s);
			make_want(piece, n);
		}
		s.pieces[piece].size = n;
		check_skipped(piece, &reference, n);
		if (piece >= S_FADT)
			check_said(n < 36 ? "no memory to read" : "not all of its");
	}
	s.pieces[piece].size = size;
	sample_free(&s);
}

/* The table says that it is shorter, and its checksum agrees. */
TEST_ROWS(acpi_shorter, rows, "BT4", 0, piece_rows, piece_name)
{
	u32 piece = test_row(), size, complaints = 0;
	static const u32 least[S_PIECES] = { 0, 36, 36, 116, 44, 48, 44, 56, 80, 44, 36 };

	if (piece == S_RSDP)
		SKIP("its length is no length of a table: acpi.lengths_of_the_rsdp");
	read_reference();
	size = s.pieces[piece].size;
	for (u32 n = 0; n < size; n++) {
		sample_resize(&s, piece, n);
		sample_mend(&s, piece);
		CHECK_EQ(read_sample(), 0);
		complaints += a.complaints;
		if (piece >= S_FADT)
			CHECK(acpi_others_same(&a, &reference, names[piece]));
		if (n < least[piece] && piece != S_RSDT)
			CHECK(a.complaints > 0 && said("skipped"));
		sample_free(&s);
		sample_make(&s);
	}
	CHECK(piece == S_RSDT ? complaints == 0 : complaints > 0);
	sample_free(&s);
}

TEST_ROWS(acpi_length, rows, "BT4", 0, piece_rows, piece_name)
{
	static const u32 lengths[] = { 0, 1, 8, 35, ACPI_TABLE_SIZE_MAX, ACPI_TABLE_SIZE_MAX + 1, 0x7fffffff, 0x80000000,
				       0xffffffdb, 0xfffffffe, 0xffffffff };
	u32 piece = test_row();

	if (piece == S_RSDP)
		SKIP("its length is no length of a table: acpi.lengths_of_the_rsdp");
	make_want(piece, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		sample_put(&s, piece, 4, 4, lengths[i]);
		sample_mend(&s, piece);
		check_skipped(piece, &reference, i);
		if (piece != S_RSDT)
			check_said(lengths[i] == ACPI_TABLE_SIZE_MAX ? "not all of its" : "length");
	}
	sample_free(&s);
}

TEST_ID(acpi, lengths_of_the_rsdp, "BT4")
{
	static const u32 lengths[] = { 0, 1, 20, 35, 37, 256, 257, 0x80000000, 0xffffffff };

	sample_make(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		sample_put(&s, S_RSDP, 20, 4, lengths[i]);
		sample_mend(&s, S_RSDP);
		CHECK_EQ(read_sample(), 0);
		CHECK_EQ(a.complaints, 1);
		check_said("taken as one of ACPI 1.0");
		check_all();
	}
	sample_free(&s);
}

/* Tables at the end of the address space: no sum may wrap. */
TEST_ROWS(acpi_top, rows, "BT4", 0, piece_rows, piece_name)
{
	u32 piece = test_row();

	make_want(piece, 0);
	for (u64 back = 1; back <= 64; back++) {
		if (piece == S_RSDP)
			s.pieces[S_RSDP].pa = -back;
		else if (piece == S_XSDT)
			sample_put(&s, S_RSDP, 24, 8, -back);
		else if (piece == S_RSDT)
			sample_put(&s, S_RSDP, 16, 4, -back);
		else
			sample_put(&s, S_XSDT, 36 + 8 * (piece - S_FADT), 8, -back);
		sample_mend(&s, S_RSDP);
		sample_mend(&s, S_XSDT);
		if (piece == S_RSDP)
			s.pieces[S_RSDP].size = (u32)MIN(back, 36ull);
		if (piece == S_RSDP && back > 20)
			CHECK_EQ(read_sample(), 0);	/* all of it, or the part that ACPI 1.0 had */
		else
			check_skipped(piece, &reference, 0);
	}
	sample_free(&s);
}

/* ---- Entries ---- */

/* Offsets of entries, and of the bytes that are their length. */
static const struct {
	u32 piece, at, length_at;
} entry_rows[] = {
	{ S_MADT, MADT_AT_LAPIC, 1 },	{ S_MADT, MADT_AT_LAPIC + 24, 1 }, { S_MADT, MADT_AT_X2APIC, 1 },
	{ S_MADT, MADT_AT_IOAPIC, 1 },	{ S_MADT, MADT_AT_OVERRIDE, 1 },   { S_MADT, MADT_AT_NMI, 1 },
	{ S_MADT, MADT_AT_LAPIC_NMI, 1 }, { S_MADT, MADT_AT_X2APIC_NMI, 1 }, { S_MADT, MADT_AT_LAPIC_ADDRESS, 1 },
	{ S_MADT, MADT_AT_UNKNOWN, 1 }, { S_SRAT, SRAT_AT_APIC, 1 },	   { S_SRAT, SRAT_AT_X2APIC, 1 },
	{ S_SRAT, SRAT_AT_MEMORY, 1 },	{ S_SRAT, SRAT_AT_MEMORY + 120, 1 }, { S_DBG2, DBG2_AT_DEVICE, 1 },
	{ S_DBG2, DBG2_AT_DEVICE + DBG2_DEVICE, 1 },
};

TEST_ID(acpi, entries_of_every_length, "BT4")
{
	for (unsigned i = 0; i < ARRAY_SIZE(entry_rows); i++) {
		u32 piece = entry_rows[i].piece, at = entry_rows[i].at;
		char where[32];

		make_want(piece, 0);
		fmt_print(where, sizeof(where), "at offset 0x%x", at);
		for (u32 length = 0; length < 256; length++) {
			sample_put(&s, piece, at + 1, 1, length);
			sample_mend(&s, piece);
			CHECK_EQ(read_sample(), 0);
			CHECK(acpi_others_same(&a, &reference, names[piece]));
			if (length < 2 || at + length > s.pieces[piece].size) {
				CHECK_EQ(acpi_digest(&a, names[piece]), acpi_digest(&reference, names[piece]));
				CHECK_EQ(a.complaints, 1);
				check_said(names[piece]);
				check_said(where);
				check_said("skipped");
			}
		}
		sample_free(&s);
	}
}

/* Values that cannot be. The rest of the table counts. */
static const struct value_row {
	const char *name;
	u32 piece, at, width;
	u64 value;
	const char *says;
} value_rows[] = {
	{ "ioapic_at_0", S_MADT, MADT_AT_IOAPIC + 4, 4, 0, "offset 0x5c: an IOAPIC at address 0" },
	{ "ioapic_same_address", S_MADT, MADT_AT_IOAPIC + 16, 4, 0xfec00000, "offset 0x68: a second IOAPIC at 0xfec00000" },
	{ "ioapic_same_input", S_MADT, MADT_AT_IOAPIC + 20, 4, 0, "offset 0x68: a second IOAPIC" },
	{ "override_of_16", S_MADT, MADT_AT_OVERRIDE + 3, 1, 16, "interrupt 16 of bus 0 is none of ISA" },
	{ "override_of_bus_1", S_MADT, MADT_AT_OVERRIDE + 2, 1, 1, "interrupt 0 of bus 1 is none of ISA" },
	{ "override_twice", S_MADT, MADT_AT_OVERRIDE + 13, 1, 0, "offset 0x7e: ISA interrupt 0 is overridden already" },
	{ "override_polarity", S_MADT, MADT_AT_OVERRIDE + 8, 2, 2, "flags 0x2 are reserved" },
	{ "override_trigger", S_MADT, MADT_AT_OVERRIDE + 8, 2, 8, "flags 0x8 are reserved" },
	{ "nmi_flags", S_MADT, MADT_AT_NMI + 2, 2, 0xa, "flags 0xa are reserved" },
	{ "local_nmi_flags", S_MADT, MADT_AT_LAPIC_NMI + 3, 2, 2, "flags 0x2 are reserved" },
	{ "local_nmi_lint", S_MADT, MADT_AT_LAPIC_NMI + 5, 1, 2, "NMI at LINT2" },
	{ "x2apic_nmi_lint", S_MADT, MADT_AT_X2APIC_NMI + 8, 1, 255, "NMI at LINT255" },
	{ "lapic_override_0", S_MADT, MADT_AT_LAPIC_ADDRESS + 4, 8, 0, "local APICs at 0x0, not a page" },
	{ "lapic_override_ragged", S_MADT, MADT_AT_LAPIC_ADDRESS + 4, 8, 0xfee00010, "0xfee00010, not a page" },
	{ "lapic_ragged", S_MADT, 36, 4, 0xfee00001, "local APICs at 0xfee00001, not a page" },
	{ "cpu_broadcast", S_MADT, MADT_AT_LAPIC + 3, 1, 0xff, "offset 0x2c: a CPU with the APIC id of all" },
	{ "cpu_broadcast_x2apic", S_MADT, MADT_AT_X2APIC + 4, 4, 0xffffffff, "offset 0x4c: a CPU with the APIC id of all" },
	{ "cpu_twice", S_MADT, MADT_AT_LAPIC + 11, 1, 0, "offset 0x34: APIC id 0 is there already" },
	{ "cpu_twice_x2apic", S_MADT, MADT_AT_X2APIC + 4, 4, 2, "offset 0x4c: APIC id 2 is there already" },
	{ "memory_wraps", S_SRAT, SRAT_AT_MEMORY + 8, 8, -1ull, "offset 0x78: memory from 0xffffffffffffffff wraps" },
	{ "memory_twice", S_SRAT, SRAT_AT_MEMORY + 48, 8, 0x9f000, "memory 0x9f000..0x3ff9f000 is there already" },
	{ "cpu_in_two_domains", S_SRAT, SRAT_AT_APIC + 19, 1, 2, "offset 0x50: APIC id 2 is in another domain" },
	{ "segment_at_0", S_MCFG, MCFG_AT_ENTRY, 8, 0, "offset 0x2c: buses 0 to 127 at 0x0 cannot be" },
	{ "segment_ragged", S_MCFG, MCFG_AT_ENTRY, 8, 0xe0001000, "at 0xe0001000 cannot be" },
	{ "segment_wraps", S_MCFG, MCFG_AT_ENTRY, 8, -(u64)MIB, "cannot be" },
	{ "buses_reversed", S_MCFG, MCFG_AT_ENTRY + 26, 2, 0x0110, "offset 0x3c: buses 16 to 1 at" },
	{ "buses_twice", S_MCFG, MCFG_AT_ENTRY + 24, 2, 0, "buses 16 to 255 of segment 0 are there already" },
	{ "pm_timer_space", S_FADT, 208, 1, 2, "X_PM_TMR_BLK, 32 bits at 0x608 of space 2, cannot be" },
	{ "pm_timer_narrow", S_FADT, 209, 1, 16, "X_PM_TMR_BLK, 16 bits" },
	{ "pm_timer_far", S_FADT, 212, 8, 0xfffd, "X_PM_TMR_BLK, 32 bits at 0xfffd" },
	{ "hpet_port", S_HPET, 40, 1, 1, "registers at 0xfed00000 of space 1 cannot be" },
	{ "hpet_ragged", S_HPET, 44, 8, 0xfed00004, "registers at 0xfed00004" },
	{ "hpet_at_0", S_HPET, 44, 8, 0, "registers at 0x0" },
	{ "hpet_wraps", S_HPET, 44, 8, -1024ull, "registers at 0xfffffffffffffc00" },
	{ "spcr_space", S_SPCR, 40, 1, 3, "a serial port at 0xfe000000 of space 3 cannot be" },
	{ "spcr_no_16550", S_SPCR, 36, 1, 3, "a serial port of type 0x3, no 16550" },
	{ "spcr_baud", S_SPCR, 58, 1, 5, "baud rate 5 is reserved" },
	{ "spcr_baud_far", S_SPCR, 58, 1, 200, "baud rate 200 is reserved" },
	{ "dbg2_port", S_DBG2, DBG2_AT_DEVICE + DBG2_DEVICE + 26, 8, 0xfff9, "a serial port at 0xfff9 of space 1 cannot be" },
	{ "dbg2_no_16550", S_DBG2, DBG2_AT_DEVICE + DBG2_DEVICE + 14, 2, 3, "type 0x3, no 16550" },
	{ "dbg2_first_far", S_DBG2, 36, 4, 0xfffffff0, "devices at offset 0xfffffff0 of 124 bytes" },
	{ "dbg2_first_in_header", S_DBG2, 36, 4, 4, "devices at offset 0x4 of 124 bytes" },
	{ "dbg2_too_many", S_DBG2, 40, 4, -1u, "device 2 at offset 0x7c has length 0" },
	{ "dbg2_address_far", S_DBG2, DBG2_AT_DEVICE + DBG2_DEVICE + 18, 2, 29, "address at offset 0x1d of 40 bytes" },
	{ "list_of_lists", S_XSDT, 36, 8, 0x300010, "RSDT at 0x300010 (entry 0 of the XSDT): a list of tables inside" },
	{ "list_in_itself", S_XSDT, 36, 8, 0x200010, "XSDT at 0x200010 (entry 0 of the XSDT): a list of tables inside" },
	{ "list_of_rsdp", S_XSDT, 36, 8, 0x100010, "RSD? at 0x100010 (entry 0 of the XSDT): length 542266448" },
	{ "list_of_0", S_XSDT, 44, 8, 0, "entry 1 of the XSDT: the address is 0" },
	{ "list_of_nowhere", S_XSDT, 44, 8, 0x123456789000, "entry 1 of the XSDT: there is no memory to read at 0x123456789000" },
	{ "list_names_one_twice", S_XSDT, 44, 8, 0x400010, "FACP at 0x400010 (entry 1 of the XSDT): overlaps FACP at 0x400010" },
	{ "xsdt_is_rsdt", S_RSDP, 24, 8, 0x300010, "RSDT at 0x300010: it is no XSDT" },
	{ "xsdt_is_rsdp", S_RSDP, 24, 8, 0x100010, "RSD? at 0x100010 (XSDT named in the RSDP): length" },
	{ "xsdt_is_madt", S_RSDP, 24, 8, 0x500010, "APIC at 0x500010: it is no XSDT" },
	{ "xsdt_nowhere", S_RSDP, 24, 8, 0x123456789000, "XSDT named in the RSDP: there is no memory to read" },
};

static unsigned value_count(void)
{
	return ARRAY_SIZE(value_rows);
}

static void value_name(unsigned row, char *buf, size_t size)
{
	fmt_print(buf, size, "%s", value_rows[row].name);
}

TEST_ROWS(acpi_value, rows, "BT4", 0, value_count, value_name)
{
	const struct value_row *row = &value_rows[test_row()];

	read_reference();
	sample_put(&s, row->piece, row->at, row->width, row->value);
	sample_mend(&s, row->piece);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 1);
	check_said(row->says);
	if (row->piece >= S_FADT) {
		CHECK(acpi_others_same(&a, &reference, names[row->piece]));
		CHECK_EQ(a.nr_tables, S_TABLES);
		CHECK(acpi_digest(&a, names[row->piece]) != acpi_digest(&reference, names[row->piece]) || row->piece == S_SRAT ||
		      row->piece == S_SPCR || row->at == 36);
	}
	if (row->piece == S_RSDP)
		check_all();
	sample_free(&s);
}

/* The RSDT's turn, when it is the only list: it may not lead anywhere else either. */
TEST_ID(acpi, rsdt_leads_nowhere_else, "BT4")
{
	static const u32 pieces[] = { S_RSDP, S_XSDT, S_RSDT };

	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
		sample_make(&s);
		sample_put(&s, S_RSDP, 24, 8, 0);
		sample_mend(&s, S_RSDP);
		sample_put(&s, S_RSDT, 36, 4, sample_pa(pieces[i]));
		sample_mend(&s, S_RSDT);
		CHECK_EQ(read_sample(), 0);
		CHECK_EQ(a.complaints, 1);
		check_said("entry 0 of the RSDT");
		CHECK_EQ(a.nr_tables, S_TABLES - 1);
		sample_put(&s, S_RSDP, 16, 4, sample_pa(pieces[i]));
		sample_mend(&s, S_RSDP);
		CHECK_EQ(read_sample(), pieces[i] == S_RSDT ? 0 : (u64)-ENODEV);
		sample_free(&s);
	}
}

/* ---- Tables in each other's way ---- */

TEST_ID(acpi, overlapping_tables, "BT4")
{
	u32 other;
	u64 inner;

	sample_make(&s);
	/* A good MADT inside a good SSDT, and the list names both. */
	other = sample_append(&s, S_OTHER, s.pieces[S_MADT].data, MADT_SAMPLE_SIZE);
	inner = sample_pa(S_OTHER) + other;
	sample_mend(&s, S_OTHER);
	sample_put(&s, S_XSDT, 36 + 8 * (S_MADT - S_FADT), 8, sample_pa(S_OTHER));
	sample_put(&s, S_XSDT, 36 + 8 * (S_OTHER - S_FADT), 8, inner);
	sample_mend(&s, S_XSDT);
	CHECK_EQ(read_sample(), 0);
	check_said("APIC at 0xb00074 (entry 7 of the XSDT): overlaps SSDT at 0xb00010: skipped");
	CHECK_EQ(a.complaints, 1);
	CHECK(!a.has_madt);
	CHECK_EQ(a.nr_tables, S_TABLES - 1);
	sample_free(&s);
}

TEST_ID(acpi, the_first_good_table_of_a_kind_counts, "BT4")
{
	u32 second;

	sample_make(&s);
	second = sample_add(&s, "APIC", 5, 44);
	sample_entry(&s, second, SAMPLE_LAPIC(0, 77, 1));
	sample_link(&s);
	CHECK_EQ(read_sample(), 0);
	check_said("APIC at 0xc00010: a second one, besides that at 0x500010: table skipped");
	CHECK_EQ(a.complaints, 1);
	CHECK_EQ(a.nr_usable, 4);

	/* With the first one broken the second serves. */
	sample_put(&s, S_MADT, MADT_AT_LAPIC + 1, 1, 0);
	sample_mend(&s, S_MADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 2);	/* its entry; and that it has no page for the local APICs */
	CHECK_EQ(a.nr_cpus, 1);
	CHECK_EQ(a.cpus[0].apic_id, 77);
	sample_free(&s);
}

/* ---- Too many ---- */

TEST_ID(acpi, more_cpus_than_can_be, "BT4")
{
	sample_make(&s);
	/* Spare entries first, more than there is room for: they must not take the place of usable ones. */
	for (u32 i = 0; i < 300; i++)
		sample_entry(&s, S_MADT, SAMPLE_X2APIC(0, 0x10000 + i, 0));
	for (u32 i = 0; i < MAX_CPUS - 4; i++)
		sample_entry(&s, S_MADT, SAMPLE_X2APIC(0, 0x1000 + i, 1));
	sample_mend(&s, S_MADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_usable, MAX_CPUS);
	CHECK_EQ(a.cpus_left_out, 0);
	CHECK_EQ(a.complaints, 0);
	for (u32 i = 0; i < 44; i++)
		sample_entry(&s, S_MADT, SAMPLE_X2APIC(0, 0x2000 + i, 1));
	sample_mend(&s, S_MADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_usable, MAX_CPUS);
	CHECK_EQ(a.cpus_left_out, 44);
	CHECK_EQ(a.complaints, 1);
	check_said("APIC at 0x500010: 44 CPUs more than the 256 there is room for: left out");
	CHECK_EQ(a.cpus[MAX_CPUS - 1].apic_id, 0x1000 + MAX_CPUS - 5);
	sample_free(&s);
}

TEST_ID(acpi, no_usable_cpu, "BT4")
{
	sample_make(&s);
	sample_resize(&s, S_MADT, MADT_AT_LAPIC);
	sample_entry(&s, S_MADT, SAMPLE_LAPIC(0, 0, 0));
	sample_mend(&s, S_MADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_cpus, 1);
	CHECK_EQ(a.nr_usable, 0);
	CHECK_EQ(a.complaints, 1);
	check_said("it names no usable CPU");
	sample_free(&s);
}

/* One more of each than there is room for: named, the first ones stay. */
TEST_ID(acpi, more_entries_than_can_be, "BT4")
{
	static const u8 nmi[] = { 3, 8, 0, 0, 1, 0, 0, 0 }, local_nmi[] = { 4, 6, 1, 0, 0, 1 };

	sample_make(&s);
	for (u32 i = 2; i <= ACPI_IOAPICS_MAX; i++)
		sample_entry(&s, S_MADT, SAMPLE_IOAPIC(0, 0x1000 * i, 100 * i));
	for (u32 i = 1; i <= ACPI_NMIS_MAX; i++)
		sample_append(&s, S_MADT, nmi, sizeof(nmi));
	for (u32 i = 2; i <= ACPI_NMIS_MAX; i++)
		sample_append(&s, S_MADT, local_nmi, sizeof(local_nmi));
	sample_mend(&s, S_MADT);
	for (u32 i = 3; i <= ACPI_MEMORY_MAX; i++)
		sample_entry(&s, S_SRAT, SAMPLE_RAM(0, i * TIB_SAMPLE, GIB, 1));
	sample_mend(&s, S_SRAT);
	sample_resize(&s, S_MCFG, MCFG_AT_ENTRY + 16 * (ACPI_SEGMENTS_MAX + 1));
	for (u32 i = 2; i <= ACPI_SEGMENTS_MAX; i++) {
		sample_put(&s, S_MCFG, MCFG_AT_ENTRY + 16 * i, 8, i * GIB);
		sample_put(&s, S_MCFG, MCFG_AT_ENTRY + 16 * i + 8, 2, 100 + i);
	}
	sample_mend(&s, S_MCFG);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_ioapics, ACPI_IOAPICS_MAX);
	CHECK_EQ(a.nr_nmis, ACPI_NMIS_MAX);
	CHECK_EQ(a.nr_local_nmis, ACPI_NMIS_MAX);
	CHECK_EQ(a.nr_memory, ACPI_MEMORY_MAX);
	CHECK_EQ(a.nr_segments, ACPI_SEGMENTS_MAX);
	CHECK_EQ(a.complaints, 5);
	check_said("more than 64 IOAPICs");
	check_said("more than 64 NMI sources");
	check_said("more than 64 local NMIs");
	check_said("more than 256 memory ranges");
	check_said("more than 32 segments");
	CHECK_EQ(a.ioapics[0].id, 8);
	CHECK_EQ(a.nr_usable, 4);
	sample_free(&s);
}

TEST_ID(acpi, more_nodes_than_can_be, "BT4")
{
	sample_make(&s);
	for (u32 i = 2; i < ACPI_NODES_MAX + 1; i++)
		sample_entry(&s, S_SRAT, SAMPLE_RAM(1000 + i, i * TIB_SAMPLE, GIB, 1));
	sample_mend(&s, S_SRAT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_nodes, ACPI_NODES_MAX);
	CHECK_EQ(a.complaints, 1);
	check_said("more than 64 proximity domains");
	CHECK_EQ(a.nr_memory, 3 + ACPI_NODES_MAX - 2);
	sample_free(&s);
}

TEST_ID(acpi, more_tables_than_can_be, "BT4")
{
	sample_make(&s);
	while (s.nr_pieces < S_FADT + ACPI_TABLES_MAX + 3)
		sample_add(&s, "OEM0", 1, 40);
	sample_link(&s);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.nr_tables, ACPI_TABLES_MAX);
	CHECK_EQ(a.complaints, 3);
	check_said("entry 130 of the XSDT: more than 128 tables: skipped");
	a.nr_tables = S_TABLES;
	check_all();
	sample_free(&s);
}

/* A thousand bad entries: the log gets some, the count has them all. */
TEST_ID(acpi, complaints_are_bounded, "BT4")
{
	sample_make(&s);
	for (u32 i = 0; i < 1000; i++)
		sample_entry(&s, S_MADT, SAMPLE_IOAPIC(0, 0, i));
	sample_mend(&s, S_MADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 1000);
	CHECK_EQ(s.lines, ACPI_COMPLAINTS_MAX);
	check_all();
	sample_free(&s);
}

/* ---- Versions ---- */

TEST_ID(acpi, fadt_versions, "BT4")
{
	/* ACPI 1.0 has no X_ fields, and bit 8 of its flags alone says how wide the timer is. */
	sample_make(&s);
	sample_resize(&s, S_FADT, 116);
	sample_put(&s, S_FADT, 112, 4, 0);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	CHECK_EQ(a.pm_timer.address, 0x408);
	CHECK_EQ(a.pm_timer_bits, 24);
	/* No timer. */
	sample_put(&s, S_FADT, 76, 4, 0);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	CHECK_EQ(a.pm_timer.address, 0);
	CHECK_EQ(a.pm_timer_bits, 0);
	/* One of two bytes. */
	sample_put(&s, S_FADT, 76, 4, 0x408);
	sample_put(&s, S_FADT, 91, 1, 2);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	check_said("PM_TMR_BLK, 2 bytes at port 0x408, cannot be");
	CHECK_EQ(a.pm_timer_bits, 0);
	sample_free(&s);
	/* A wrong X_ field gives way to the old one. */
	sample_make(&s);
	sample_put(&s, S_FADT, 208, 1, 10);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.pm_timer.address, 0x408);
	/* Memory-mapped. */
	sample_put_register(&s, S_FADT, 208, ACPI_SPACE_MEMORY, 32, 3, 0xfed80808);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.pm_timer.address, 0xfed80808);
	CHECK_EQ(a.pm_timer.space, ACPI_SPACE_MEMORY);
	/* Hardware-reduced: whatever the fields say, it is not there. */
	sample_put(&s, S_FADT, 112, 4, 1u << 20);
	sample_mend(&s, S_FADT);
	CHECK_EQ(read_sample(), 0);
	CHECK(a.hardware_reduced);
	CHECK_EQ(a.pm_timer_bits, 0);
	sample_free(&s);
}

/* Before revision 2 a domain is one byte, and what stands behind it is not to be read. */
TEST_ID(acpi, srat_of_revision_1, "BT4")
{
	sample_make(&s);
	sample_put(&s, S_SRAT, 8, 1, 1);
	sample_mend(&s, S_SRAT);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.cpus[2].node, 1);
	CHECK_EQ(a.domains[1], SAMPLE_FAR_DOMAIN & 0xff);
	CHECK_EQ(a.memory[2].node, 1);
	sample_free(&s);
}

TEST_ID(acpi, serial_versions, "BT4")
{
	sample_make(&s);
	sample_put(&s, S_SPCR, 80, 4, 1500000);		/* precise baud rate: before the code */
	sample_mend(&s, S_SPCR);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.spcr.baud, 1500000);
	sample_put(&s, S_SPCR, 8, 1, 2);
	sample_mend(&s, S_SPCR);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.spcr.baud, 115200);
	CHECK_EQ(a.spcr.clock, 0);
	/* Address 0: no redirection, and no reason to complain. */
	sample_put(&s, S_SPCR, 44, 8, 0);
	sample_put(&s, S_SPCR, 36, 1, 99);
	sample_mend(&s, S_SPCR);
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	CHECK_EQ(a.spcr.base.address, 0);
	sample_free(&s);
}

/* ---- Memory that cannot be mapped ---- */

TEST_ID(acpi, nth_map_fails, "BT4")
{
	u32 maps, n;

	read_reference();
	maps = s.maps;
	CHECK(maps > 2 * S_TABLES);
	for (n = 1; n <= maps; n++) {
		int rc;

		s.fail_at = n;
		rc = read_sample();
		CHECK(a.complaints > 0);
		CHECK(rc == 0 || n <= 1);
		CHECK(rc == 0 || rc == -ENODEV);
	}
	s.fail_at = maps + 1;
	CHECK_EQ(read_sample(), 0);
	CHECK_EQ(a.complaints, 0);
	check_all();
	sample_free(&s);
}

/* ---- At random ---- */

TEST_ID(acpi, survives_random_damage, "BT4")
{
	unsigned rounds = machine_full ? 200000 : 5000, read = 0, complete = 0;
	struct rng rng = test_rng();

	for (unsigned i = 0; i < rounds; i++) {
		u32 changes = 1 + (u32)rng_below(&rng, 6);

		sample_make(&s);
		while (changes--) {
			u32 piece = (u32)rng_below(&rng, S_PIECES), width = 1u << rng_below(&rng, 4);
			u32 at = (u32)rng_below(&rng, s.pieces[piece].size - width + 1);

			sample_put(&s, piece, at, width, rng_below(&rng, 2) ? rng_next(&rng) : rng_below(&rng, 64));
			if (rng_below(&rng, 8))
				sample_mend(&s, piece);
		}
		read += read_sample() == 0;
		complete += a.complaints == 0;
		sample_free(&s);
	}
	test_note("rounds=%u, read=%u, without complaint=%u", rounds, read, complete);
	CHECK(read > 0 && complete > 0 && complete < rounds);
}
