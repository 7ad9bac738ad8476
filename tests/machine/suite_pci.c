/* SPDX-License-Identifier: MIT */
/* Configuration space (kernel/pci.h): by memory and by ports it is the same one. */
#include "kernel/pci.h"

#include "kernel/acpi.h"
#include "tests/test.h"

#define FUNCTIONS_MAX 64u

struct found {
	struct pci_function f;
	u32 id, class;
	struct pci_bar bars[PCI_BARS];
};

/* The functions of segment 0, up to FUNCTIONS_MAX. */
static u32 find_all(struct found *out)
{
	struct pci_function f;
	u32 cursor = 0, nr = 0;

	while (nr < FUNCTIONS_MAX && pci_next(&cursor, &f)) {
		if (f.segment)
			continue;
		out[nr] = (struct found){ .f = f, .id = pci_read(f, PCI_ID), .class = pci_read(f, PCI_CLASS) };
		for (unsigned n = 0; n < PCI_BARS; n++)
			if (!pci_bar(f, n, &out[nr].bars[n]))
				out[nr].bars[n] = (struct pci_bar){ 0 };
		nr++;
	}
	return nr;
}

static void check_same(const struct found *a, const struct found *b)
{
	CHECK_EQ(a->f.bus, b->f.bus);
	CHECK_EQ(a->f.device, b->f.device);
	CHECK_EQ(a->f.number, b->f.number);
	CHECK_EQ(a->id, b->id);
	CHECK_EQ(a->class, b->class);
	for (unsigned n = 0; n < PCI_BARS; n++) {
		CHECK_EQ(a->bars[n].io, b->bars[n].io);
		CHECK_EQ(a->bars[n].address, b->bars[n].address);
	}
}

TEST_ID(pci, memory_and_ports_agree, "BT6")
{
	static struct found by_memory[FUNCTIONS_MAX], by_ports[FUNCTIONS_MAX];
	u32 nr;

	if (!acpi.nr_segments)
		SKIP("no MCFG");
	nr = find_all(by_memory);
	pci_release();
	pci_ports_only = true;
	CHECK_EQ(find_all(by_ports), nr);
	pci_ports_only = false;
	CHECK(nr > 0);
	for (u32 i = 0; i < nr; i++)
		check_same(&by_memory[i], &by_ports[i]);
}

/* In order, each once. */
TEST_ID(pci, functions_in_order, "BT6")
{
	static struct found all[FUNCTIONS_MAX];
	u32 nr = find_all(all), last = 0;

	pci_release();
	for (u32 i = 0; i < nr; i++) {
		u32 place = (u32)all[i].f.bus << 8 | (u32)all[i].f.device << 3 | all[i].f.number;

		CHECK(i == 0 || place > last);
		CHECK((u16)all[i].id != 0xffff);
		last = place;
	}
}

TEST_ID(pci, nothing_where_nothing_is, "BT6")
{
	const struct pci_function nowhere = { .segment = 0xfffe, .bus = 0xff, .device = 31, .number = 7 };
	struct pci_bar bar;

	CHECK_EQ(pci_read(nowhere, PCI_ID), 0xffffffff);
	pci_write(nowhere, PCI_COMMAND, 0);
	CHECK(!pci_bar(nowhere, 0, &bar));
	pci_ports_only = true;
	CHECK_EQ(pci_read(nowhere, PCI_ID), 0xffffffff);
	pci_ports_only = false;
	pci_release();
}
