/* SPDX-License-Identifier: MIT */
/*
 * Kernel virtual areas against a flat model: a byte per page of a small range that fills up, so that first fit, alignment,
 * guards and refusal are compared place by place. And an area of a gigabyte.
 */
#include <string.h>

#include "boot/boot_info.h"
#include "kernel/base/bits.h"
#include "mm/buddy.h"
#include "mm/vm_area.h"
#include "mm/vmalloc.h"
#include "tests/host/machine.h"
#include "tests/test.h"

#define MODEL_PAGES 4096u
#define SLOTS 256u

static u8 pages[MODEL_PAGES];		/* 0 free, 1 usable, 2 guard */
static struct vm_area *slots[SLOTS];

static bool count_one(void *arg, const struct vm_area *a)
{
	(void)a;
	++*(u64 *)arg;
	return true;
}

static bool all_free(u64 from, u64 nr)
{
	if (from + nr > MODEL_PAGES)
		return false;
	for (u64 i = 0; i < nr; i++)
		if (pages[from + i])
			return false;
	return true;
}

/* First usable page of the lowest place, or 0. */
static u64 model_fit(u64 nr, u64 align)
{
	for (u64 at = align_up(1, align); at + nr < MODEL_PAGES; at += align)
		if (all_free(at - 1, nr + 2))
			return at;
	return 0;
}

static void model_set(const struct vm_area *a, u8 usable, u8 guard)
{
	u64 at = (a->start - VM_AREA_BASE) >> PAGE_SHIFT, nr = a->size >> PAGE_SHIFT;

	memset(pages + at, usable, nr);
	pages[at - 1] = guard;
	pages[at + nr] = guard;
}

/* Every page is found in the area it belongs to, as usable or as guard. */
static u64 differences(void)
{
	u64 wrong = vm_area_check();

	for (u64 i = 0; i < MODEL_PAGES; i++) {
		u64 va = VM_AREA_BASE + (i << PAGE_SHIFT);

		wrong += !!find_vm_area(va) != (pages[i] == 1);
		wrong += !!find_vm_area_guard(va + PAGE_SIZE - 1) != (pages[i] == 2);
	}
	return wrong;
}

TEST_ID(host_vm_area, random_areas_match_a_flat_model, "VA1")
{
	u64 ops = machine_full ? 200000 : 20000;
	struct rng rng = test_rng();
	u64 wrong = 0, refused = 0, before = 0;

	vm_area_for_each(count_one, &before);
	if (before)
		SKIP("other areas are in use");
	vm_area_init(range_len(VM_AREA_BASE, MODEL_PAGES << PAGE_SHIFT));
	memset(pages, 0, sizeof(pages));
	for (u64 i = 0; i < ops; i++) {
		unsigned k = (unsigned)rng_below(&rng, SLOTS);
		u64 nr = 1 + rng_below(&rng, rng_below(&rng, 8) ? 16 : 200), align = 1ull << rng_below(&rng, 8);
		u64 want;

		if (slots[k]) {
			model_set(slots[k], 0, 0);
			free_vm_area(slots[k]);
			slots[k] = NULL;
		} else {
			want = model_fit(nr, align);
			slots[k] = get_vm_area(nr << PAGE_SHIFT, align << PAGE_SHIFT, VM_AREA_SPARSE, "model");
			wrong += !slots[k] != !want;
			refused += !want;
			if (slots[k]) {
				wrong += slots[k]->start != VM_AREA_BASE + (want << PAGE_SHIFT);
				model_set(slots[k], 1, 2);
			}
		}
		if (i % 512 == 0)
			wrong += differences();
	}
	CHECK_EQ(wrong, 0);
	CHECK(refused > 0);
	for (unsigned k = 0; k < SLOTS; k++)
		if (slots[k]) {
			model_set(slots[k], 0, 0);
			free_vm_area(slots[k]);
			slots[k] = NULL;
		}
	CHECK_EQ(differences(), 0);
	vm_area_init(range(VM_AREA_BASE, VM_AREA_END));
}

TEST_ID(host_vm_area, a_range_is_used_to_its_last_page, "VA1")
{
	u64 before = 0;
	struct vm_area *a, *b;

	vm_area_for_each(count_one, &before);
	if (before)
		SKIP("other areas are in use");
	vm_area_init(range_len(VM_AREA_BASE, 16 * PAGE_SIZE));
	a = get_vm_area(14 * PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "model");
	REQUIRE(a);
	CHECK_EQ(a->start, VM_AREA_BASE + PAGE_SIZE);
	CHECK(!get_vm_area(1, PAGE_SIZE, VM_AREA_SPARSE, "model"));
	free_vm_area(a);
	CHECK(!get_vm_area(15 * PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "model"));
	a = get_vm_area(6 * PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "model");
	b = get_vm_area(6 * PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "model");
	REQUIRE(a && b);
	CHECK_EQ(b->start, a->start + 8 * PAGE_SIZE);
	CHECK(!get_vm_area(1, PAGE_SIZE, VM_AREA_SPARSE, "model"));
	free_vm_area(a);
	a = get_vm_area(6 * PAGE_SIZE, PAGE_SIZE, VM_AREA_SPARSE, "model");
	REQUIRE(a);
	CHECK_EQ(a->start, VM_AREA_BASE + PAGE_SIZE);
	free_vm_area(a);
	free_vm_area(b);
	vm_area_init(range(VM_AREA_BASE, VM_AREA_END));
}

TEST_ID(host_vm_area, vmalloc_of_a_gigabyte, "VA1")
{
	u64 free = buddy_free_frames();
	struct vm_area *a;
	void *p;

	if (free < (GIB + 64 * MIB) >> PAGE_SHIFT)
		SKIP("%llu MiB of memory", (unsigned long long)(free >> 8));
	p = vmalloc(GIB);
	REQUIRE(p);
	a = find_vm_area((u64)p);
	REQUIRE(a);
	CHECK_EQ(a->nr_pages, GIB >> PAGE_SHIFT);
	vfree(p);
}
