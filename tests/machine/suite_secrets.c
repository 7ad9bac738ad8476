/* SPDX-License-Identifier: MIT */
/*
 * Secrets on the real CPU: who can read them while they are kept, and whether anything is left of them in RAM afterwards
 * (SPEC UM4, UM6).
 */
#include "arch/x86_64/apic.h"
#include "arch/x86_64/ipi.h"
#include "arch/x86_64/timer.h"
#include "arch/x86_64/trap.h"
#include "kernel/base/atomic.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/directmap.h"
#include "mm/temp_map.h"
#include "mm/unmapped.h"
#include "mm/vmalloc.h"
#include "tests/fixture.h"
#include "tests/test.h"

#define SECRETS 48u

static void write_byte(void *arg)
{
	*(volatile u8 *)arg = 1;
}

static void check_fault(u64 va, bool write, u32 error)
{
	struct trap_record r = { 0 };
	u64 word;

	if (!write) {
		CHECK(!trap_read_u64(va, &word));
		return;
	}
	CHECK(!trap_try(write_byte, (void *)va, &r));
	CHECK_EQ(r.vector, TRAP_PAGE_FAULT);
	CHECK_EQ(r.error, error);
	CHECK_EQ(r.cr2, va);
}

/* The kernel's own address of such a page faults, the owner's mapping works, and so does the neighbour of the block. */
TEST_ID(secrets, only_the_owner_reads_them, "UM1 UM6")
{
	enum unmapped_mode mode = unmapped_mode();
	struct page *pages[4];
	u64 *owner, word;

	buddy_watch(BUDDY_POISON, false);
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = unmapped_pages_alloc(0, UNMAPPED_ZERO, -1, NULL);
		REQUIRE(pages[i] != NULL);
	}
	owner = vmap(pages, ARRAY_SIZE(pages), 0);
	if (CHECK(owner != NULL)) {
		for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
			u64 va = phys_to_va(page_to_phys(pages[i]));

			CHECK_EQ(owner[i * 512], 0);
			owner[i * 512 + 7] = 1000 + i;
			check_fault(va, false, 0);
			check_fault(va + 123, true, PF_WRITE);
			temp_read(page_to_pfn(pages[i]), 56, &word, sizeof(word));
			CHECK_EQ(word, 1000 + i);
		}
		vunmap(owner);
	}
	check_fault(phys_to_va(phys((page_to_pfn(pages[0]) | 511) << PAGE_SHIFT)), false, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		unmapped_pages_free(pages[i], 0);
	check_fault(phys_to_va(page_to_phys(pages[0])), true, PF_WRITE);
	unmapped_shrink(UNMAPPED_ALL);
	CHECK(trap_read_u64(phys_to_va(page_to_phys(pages[0])), &word));
	CHECK_EQ(word, 0);
	CHECK_EQ(unmapped_set_mode(mode), 0);
}

/* A slot allows what was asked for, and nothing once it is closed. The interrupt flag is what it was after the fault, too. */
TEST_ID(secrets, a_slot_allows_what_was_asked, "UM4")
{
	struct page *page = unmapped_pages_alloc(0, 0, -1, NULL);
	struct temp_map t;
	pfn_t pfn;

	REQUIRE(page != NULL);
	pfn = page_to_pfn(page);
	temp_map_begin(&t, &pfn, 1, false);
	check_fault(t.va, true, PF_PRESENT | PF_WRITE);
	check_fault(t.va + PAGE_SIZE, true, PF_WRITE);
	temp_map_end(&t);
	check_fault(t.va, true, PF_WRITE);
	temp_map_begin(&t, &pfn, 1, true);
	CHECK(trap_try(write_byte, (void *)t.va, NULL));
	temp_map_end(&t);
	CHECK(arch_irqs_enabled());
	unmapped_pages_free(page, 0);
}

/* ---- Interrupts that cannot be masked ---- */

#define NMI_HZ 2000u
#define NMIS 300u
#define PATIENCE_S 30u	/* for NMIs to come: only a failure takes that long */

static pfn_t nmi_pfn;
static u64 nmis, nmi_faults;

/* Work with a temporary mapping of the level's own, whatever was interrupted. */
static void map_in_nmi(const struct trap_frame *frame)
{
	u64 word, byte = nmis & 0xff;

	(void)frame;
	temp_fill(nmi_pfn, 1, (u8)byte);
	temp_read(nmi_pfn, nmis * sizeof(u64) % PAGE_SIZE, &word, sizeof(word));
	nmi_faults += word != byte * 0x0101010101010101ull || arch_this_cpu()->nesting != CPU_NMI;
	store_relaxed(&nmis, nmis + 1);
}

/* Frames without a mapping for a task and for NMIs. */
static bool get_frames(struct page *pages[3])
{
	for (unsigned i = 0; i < 3; i++) {
		pages[i] = unmapped_pages_alloc(0, UNMAPPED_ZERO, -1, NULL);
		if (!CHECK(pages[i] != NULL))
			return false;
	}
	nmi_pfn = page_to_pfn(pages[2]);
	nmis = nmi_faults = 0;
	return true;
}

/* One NMI, while a slot of the task's is open: that one stays as it is, and the root stays loaded. */
TEST_ID(secrets, an_nmi_has_a_slot_of_its_own, "UM4")
{
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();
	struct page *pages[3];
	nmi_handler_fn old;
	struct temp_map t;
	phys_t root;
	pfn_t pfn;
	u64 word;

	if (!apic_present())
		SKIP("no local APIC");
	REQUIRE(get_frames(pages));
	pfn = page_to_pfn(pages[0]);
	old = nmi_set_handler(map_in_nmi);
	temp_map_begin(&t, &pfn, 1, true);
	root = arch_current_root();
	temp_map_copy_in(&t, 0, &(u64){ 0x1111 }, sizeof(u64));
	ipi_nmi(arch_this_cpu()->id);
	while (!load_relaxed(&nmis) && arch_cycles() < end)
		arch_relax();
	CHECK_EQ(arch_current_root().raw, root.raw);
	temp_map_copy_out(&t, 0, &word, sizeof(word));
	CHECK_EQ(word, 0x1111);
	temp_map_copy_in(&t, 8, &(u64){ 0x2222 }, sizeof(u64));
	temp_map_end(&t);
	nmi_set_handler(old);
	CHECK_EQ(nmis, 1);
	CHECK_EQ(nmi_faults, 0);
	temp_read(pfn, 8, &word, sizeof(word));
	CHECK_EQ(word, 0x2222);
	for (unsigned i = 0; i < 3; i++)
		unmapped_pages_free(pages[i], 0);
}

/* Many, at any instruction of a task that does nothing but map, write, read and unmap. */
TEST_ID(secrets, nmis_between_any_two_instructions, "UM4")
{
	phys_t root = arch_current_root();
	u64 end = arch_cycles() + PATIENCE_S * timer_frequency();
	u64 wrong = 0, rounds = 0;
	struct page *pages[3];
	nmi_handler_fn old;
	pfn_t pair[2];

	if (!nmi_storm_source())
		SKIP("no IOAPIC that a HPET or PIT reaches");
	REQUIRE(get_frames(pages));
	for (unsigned i = 0; i < 2; i++)
		pair[i] = page_to_pfn(pages[i]);
	old = nmi_set_handler(map_in_nmi);
	if (CHECK_EQ(nmi_storm_start(NMI_HZ, arch_this_cpu()->id), 0)) {
		for (; load_relaxed(&nmis) < NMIS && arch_cycles() < end; rounds++) {
			struct temp_map t;
			u64 back;

			temp_map_begin(&t, pair, 2, true);
			temp_map_copy_in(&t, PAGE_SIZE - 4, &rounds, sizeof(rounds));
			temp_map_end(&t);
			wrong += arch_current_root().raw != root.raw || !arch_irqs_enabled();
			temp_read(pair[0], PAGE_SIZE - 4, &back, 4);
			temp_read(pair[1], 0, (u8 *)&back + 4, 4);
			wrong += back != rounds;
		}
		nmi_storm_stop();
	}
	nmi_set_handler(old);
	CHECK(nmis >= NMIS);
	CHECK_EQ(nmi_faults, 0);
	CHECK_EQ(wrong, 0);
	test_note("nmis=%llu rounds=%llu", (unsigned long long)nmis, (unsigned long long)rounds);
	for (unsigned i = 0; i < 3; i++)
		unmapped_pages_free(pages[i], 0);
}

/* ---- Nothing is left of them ---- */

#define LINE 64u	/* bytes of a secret, and what it is aligned to */

/*
 * A secret is a line of quadwords whose upper half nobody else has, and its number below. The upper half is kept inverted, so
 * that a search of all RAM does not find the needle it looks for.
 */
static u32 inverted;
static u64 found[2];	/* scrubbed, not scrubbed */

/* Look at each line of a frame. Even numbers are of secrets that are to be scrubbed. */
static void search_frame(const u32 *words, u32 needle)
{
	const u32 *end = words + PAGE_SIZE / sizeof(u32);

	for (; words < end; words += LINE / sizeof(u32))
		if (unlikely(words[1] == needle) && words[0] < 2 * SECRETS)
			found[words[0] & 1]++;
}

/* Every frame of RAM: by the direct map where it has it, by a temporary mapping where not. Returns how many. */
static u64 search_all(void)
{
	u64 frames = 0;

	found[0] = found[1] = 0;
	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++) {
		struct temp_map t;
		struct pt_slot s;

		if (!directmap_has(pfn))
			continue;
		frames++;
		s = pt_walk_lockless(kernel_space.root, kernel_space.levels, phys_to_va(phys(pfn << PAGE_SHIFT)));
		if (pte_present(s.value)) {
			search_frame(phys_to_virt(phys(pfn << PAGE_SHIFT)), ~inverted);
			continue;
		}
		temp_map_begin(&t, &pfn, 1, false);
		search_frame(temp_map_ptr(&t, 0, false), ~inverted);
		temp_map_end(&t);
	}
	return frames;
}

/* Write a secret at a random line of a page, by the owner's mapping, without a copy anywhere else. */
static void plant(struct page *page, u32 number, struct rng *rng)
{
	volatile u32 *words = vmap(&page, 1, 0);
	u64 at = rng_below(rng, PAGE_SIZE / LINE) * LINE / sizeof(u32);

	if (!CHECK(words != NULL))
		return;
	for (unsigned i = 0; i < LINE / sizeof(u32); i += 2) {
		words[at + i] = number;
		words[at + i + 1] = ~inverted;
	}
	vunmap((void *)(u64)words);
}

/* Whether a frame is zero to the last word, wherever it is by now. */
static bool wiped(const struct page *page)
{
	static u64 words[PAGE_SIZE / sizeof(u64)];
	u64 any = 0;

	temp_read(page_to_pfn(page), 0, words, sizeof(words));
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		any |= words[i];
	return !any;
}

/*
 * Secrets in single pages and larger blocks, freed; then one block goes back to the page allocator, and others stay in the
 * cache. A search of all RAM finds none that was to be scrubbed, and all of the control, which were not.
 */
TEST_ID(secrets, none_is_found_in_ram, "UM4")
{
	static struct page *pages[2 * SECRETS];
	enum unmapped_mode mode = unmapped_mode();
	struct rng rng = test_rng();
	struct unmapped_stats um;
	u64 frames;

	buddy_watch(BUDDY_POISON, false);	/* it would be over the control's secrets */
	CHECK_EQ(unmapped_set_mode(UNMAPPED_2M), 0);
	inverted = (u32)rng_next(&rng);
	for (unsigned i = 0; i < 2 * SECRETS; i++) {
		unsigned order = i / 2 % 6;

		pages[i] = unmapped_pages_alloc(order, i & 1 ? UNMAPPED_NOSCRUB : 0, -1, NULL);
		REQUIRE(pages[i] != NULL);
		plant(pages[i] + rng_below(&rng, BIT(order)), i, &rng);
	}
	frames = search_all();
	CHECK(frames > buddy_free_frames());
	CHECK_EQ(found[0], SECRETS);
	CHECK_EQ(found[1], SECRETS);
	for (unsigned i = 0; i < 2 * SECRETS; i++)
		unmapped_pages_free(pages[i], i / 2 % 6);
	CHECK_EQ(unmapped_shrink(512), 512);
	unmapped_read_stats(&um);
	CHECK(um.bytes > 0);
	search_all();
	test_note("frames=%llu planted=%u found=%llu control_planted=%u control_found=%llu", (unsigned long long)frames,
		  SECRETS, (unsigned long long)found[0], SECRETS, (unsigned long long)found[1]);
	CHECK_EQ(found[0], 0);
	CHECK_EQ(found[1], SECRETS);
	for (unsigned i = 0; i < 2 * SECRETS; i += 2)
		for (u64 k = 0; k < BIT(i / 2 % 6); k++)
			CHECK(wiped(pages[i] + k));
	unmapped_shrink(UNMAPPED_ALL);
	/* They are free; nobody else allocates. */
	for (unsigned i = 1; i < 2 * SECRETS; i += 2)
		memset(page_to_virt(pages[i]), 0, PAGE_SIZE << (i / 2 % 6));
	CHECK_EQ(unmapped_set_mode(mode), 0);
}
