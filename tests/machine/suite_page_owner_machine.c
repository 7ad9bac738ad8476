/* SPDX-License-Identifier: MIT */
/*
 * Page owner on the machine (SPEC PA6): stacks have the names of functions, and NMIs that allocate in the middle of a recording are
 * recorded themselves.
 */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "kernel/base/string.h"
#include "kernel/symbols.h"
#include "mm/buddy.h"
#include "mm/page_owner.h"
#include "tests/test.h"

#define NMIS 300u
#define ROUNDS_MAX 2000000u

static __noinline struct page *page_owner_test_leaks_here(void)
{
	struct page *page = alloc_page(0);

	fence_full();
	return page;
}

static bool found_by_name;
static unsigned rows;

static void look(void *arg, const struct page_owner_row *row)
{
	(void)arg;
	rows++;
	for (unsigned i = 0; i < row->depth; i++) {
		struct symbol symbol;

		if (symbol_find(row->stack[i], &symbol) && !strcmp(symbol.name, "page_owner_test_leaks_here"))
			found_by_name = true;
	}
}

TEST_ID(page_owner_machine, a_leak_has_the_name_of_its_function, "PA6")
{
	bool was_on = page_owner_on();
	struct page *page;
	char name[96];

	if (!was_on)
		REQUIRE(!page_owner_start());
	page_owner_mark();
	page = page_owner_test_leaks_here();
	REQUIRE(page != NULL);
	rows = 0;
	found_by_name = false;
	CHECK_EQ(page_owner_report(PAGE_OWNER_LEAKS, 10, look, NULL), 1);
	CHECK_EQ(rows, 1);
	CHECK(found_by_name);
	/* The same in the log, by the kernel's own names. */
	REQUIRE(page_owner_name != NULL);
	page_owner_name((u64)page_owner_test_leaks_here + 4, name, sizeof(name));
	CHECK(!strncmp(name, "page_owner_test_leaks_here+", 27));
	page_owner_log(PAGE_OWNER_LEAKS, 1);
	free_page(page);
	CHECK_EQ(page_owner_report(PAGE_OWNER_LEAKS, 10, look, NULL), 0);
	if (!was_on)
		page_owner_stop();
}

/* ---- NMIs ---- */

static u64 nmis, served, unknown;

static void on_nmi(const struct trap_frame *frame)
{
	struct page *page = alloc_pages_nolock(NODE_ANY, 0);
	const u64 *stack;

	(void)frame;
	if (page) {
		fetch_add(&served, 1);
		if (!page_owner_stack(page, &stack))
			fetch_add(&unknown, 1);
		free_pages_nolock(page, 0);
	}
	fetch_add(&nmis, 1);
}

/* Different stacks, so that the depot has to take them in. */
static __noinline struct page *recurse(unsigned depth, unsigned way)
{
	struct page *page;

	if (!depth)
		return alloc_page(0);
	page = way & 1 ? recurse(depth - 1, way >> 1) : recurse(depth - 1, way >> 1);
	fence_full();
	return page;
}

TEST_ID(page_owner_machine, nmis_are_recorded_in_the_middle, "PA2 PA6")
{
	bool was_on = page_owner_on();
	struct page_owner_stats stats;
	u64 wanted = 0, rounds = 0;
	nmi_handler_fn old;

	if (!apic_present())
		SKIP("no local APIC to send NMIs");
	if (!was_on)
		REQUIRE(!page_owner_start());
	page_owner_mark();
	nmis = served = unknown = 0;
	old = nmi_set_handler(on_nmi);
	for (; rounds < ROUNDS_MAX && load_relaxed(&nmis) < NMIS; rounds++) {
		struct page *page;

		if (load_relaxed(&nmis) == wanted) {
			ipi_nmi(arch_this_cpu()->id);
			wanted++;
		}
		page = recurse(rounds % 10, (unsigned)(rounds / 10));
		if (page)
			free_page(page);
	}
	nmi_set_handler(old);
	page_owner_read_stats(&stats);
	test_note("nmis=%llu served=%llu recorded=%llu stacks=%llu", (unsigned long long)nmis, (unsigned long long)served,
		  (unsigned long long)stats.recorded, (unsigned long long)stats.stacks);
	CHECK_EQ(load_relaxed(&nmis), NMIS);
	CHECK(served > NMIS / 2);
	CHECK_EQ(unknown, 0);
	CHECK_EQ(page_owner_report(PAGE_OWNER_LEAKS, 10, look, NULL), 0);
	if (!was_on)
		page_owner_stop();
}
