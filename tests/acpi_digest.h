/* SPDX-License-Identifier: MIT */
/*
 * What one ACPI table has contributed to a struct acpi, as a number: two readings agree on a table if their numbers do. For tests
 * that damage one table and must find all others as before.
 */
#ifndef TESTS_ACPI_DIGEST_H
#define TESTS_ACPI_DIGEST_H

#include "kernel/acpi.h"

/* By the table's signature; 0 for a table that nothing is read from. */
u64 acpi_digest(const struct acpi *x, const char *signature);

/*
 * Whether all tables but this one ("": none is excepted) say the same in x and in y. The SRAT gives nodes to the MADT's CPUs, so
 * it is excepted with the MADT.
 */
bool acpi_others_same(const struct acpi *x, const struct acpi *y, const char *but);

#endif
