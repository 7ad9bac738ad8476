/* SPDX-License-Identifier: MIT */
/* Each member of struct acpi counts in the number of the table it comes from, member by member: structures have padding. */
#include "tests/acpi_digest.h"

#include "kernel/base/string.h"

static u64 mix(u64 h, u64 x)
{
	return (h ^ x) * 0x9e3779b97f4a7c15ull + (h >> 29);
}

static u64 mix_register(u64 h, const struct acpi_register *r)
{
	return mix(mix(h, r->address), (u64)r->space << 24 | r->bit_width << 16 | r->bit_offset << 8 | r->access_size);
}

static u64 mix_serial(const struct acpi_serial *p)
{
	return mix(mix(mix(mix_register(1, &p->base), p->baud), p->clock), p->interface);
}

static u64 digest_fadt(const struct acpi *x)
{
	return mix(mix(mix_register(1, &x->pm_timer), x->pm_timer_bits), x->has_fadt << 1 | x->hardware_reduced);
}

static u64 digest_madt(const struct acpi *x)
{
	u64 h = mix(mix(x->lapic_pa, x->has_madt << 1 | x->has_8259), x->overridden);

	h = mix(mix(mix(h, x->nr_cpus), x->nr_usable), x->cpus_left_out);
	for (u32 i = 0; i < x->nr_cpus; i++)
		h = mix(mix(mix(h, x->cpus[i].apic_id), x->cpus[i].uid), x->cpus[i].usable);
	for (u32 i = 0; i < x->nr_ioapics; i++)
		h = mix(mix(mix(h, x->ioapics[i].pa), x->ioapics[i].gsi_base), x->ioapics[i].id);
	for (u32 i = 0; i < ACPI_ISA_IRQS; i++)
		h = mix(mix(h, x->isa[i].gsi), x->isa[i].active_low << 1 | x->isa[i].level);
	for (u32 i = 0; i < x->nr_nmis; i++)
		h = mix(mix(h, x->nmis[i].gsi), x->nmis[i].active_low << 1 | x->nmis[i].level);
	for (u32 i = 0; i < x->nr_local_nmis; i++)
		h = mix(mix(h, x->local_nmis[i].uid), x->local_nmis[i].lint << 2 | x->local_nmis[i].active_low << 1 |
							      x->local_nmis[i].level);
	return h;
}

static u64 digest_srat(const struct acpi *x)
{
	u64 h = x->nr_nodes;

	for (u32 i = 0; i < x->nr_nodes; i++)
		h = mix(h, x->domains[i]);
	for (u32 i = 0; i < x->nr_cpus; i++)
		h = mix(h, x->cpus[i].node);
	for (u32 i = 0; i < x->nr_memory; i++)
		h = mix(mix(mix(h, x->memory[i].pa.start), x->memory[i].pa.end),
			x->memory[i].node << 2 | x->memory[i].hotplug << 1 | x->memory[i].nonvolatile);
	return h;
}

static u64 digest_mcfg(const struct acpi *x)
{
	u64 h = x->nr_segments;

	for (u32 i = 0; i < x->nr_segments; i++)
		h = mix(mix(h, x->segments[i].pa), x->segments[i].segment << 16 | x->segments[i].first_bus << 8 |
							   x->segments[i].last_bus);
	return h;
}

static u64 digest_hpet(const struct acpi *x)
{
	return mix(mix(x->hpet_pa, x->hpet_min_tick), x->hpet_comparators << 1 | x->hpet_64bit);
}

static u64 digest_spcr(const struct acpi *x)
{
	return mix_serial(&x->spcr);
}

static u64 digest_dbg2(const struct acpi *x)
{
	return mix_serial(&x->dbg2);
}

static const struct {
	const char *signature;
	u64 (*digest)(const struct acpi *x);
} rows[] = {
	{ "FACP", digest_fadt }, { "APIC", digest_madt }, { "SRAT", digest_srat }, { "MCFG", digest_mcfg },
	{ "HPET", digest_hpet }, { "SPCR", digest_spcr }, { "DBG2", digest_dbg2 },
};

u64 acpi_digest(const struct acpi *x, const char *signature)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (!strcmp(rows[i].signature, signature))
			return rows[i].digest(x);
	return 0;
}

bool acpi_others_same(const struct acpi *x, const struct acpi *y, const char *but)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		bool excepted = !strcmp(rows[i].signature, but) || (!strcmp(rows[i].signature, "SRAT") && !strcmp(but, "APIC"));

		if (!excepted && rows[i].digest(x) != rows[i].digest(y))
			return false;
	}
	return true;
}
