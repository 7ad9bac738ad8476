/* SPDX-License-Identifier: MIT */
/* Memory of any size (mm/kmalloc.h), and what slabs do for any context (mm/slab.h). */
#include "mm/kmalloc.h"

#include "kernel/base/bits.h"
#include "kernel/base/errno.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/slab.h"
#include "tests/test.h"

#define HELD 600u

static struct {
	u8 *p;
	size_t size;
	u8 fill;
} held[HELD];

static u64 count_wrong(const u8 *p, size_t size, u8 want)
{
	u64 wrong = 0;

	for (size_t i = 0; i < size; i++)
		wrong += p[i] != want;
	return wrong;
}

TEST_ID(kmalloc, sizes_are_aligned_zeroed_and_apart, "PA4")
{
	static const size_t sizes[] = { 1, 16, 17, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256, 257, 512, 1000, 1024, 2048,
					2049, 4096, 5000, 32768, 100000 };
	u64 wrong = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t size = sizes[i];
		u8 *a = kmalloc(size, ALLOC_ZERO), *b = kmalloc(size, ALLOC_ZERO);
		u8 *c = size <= KMALLOC_NOLOCK_MAX ? kmalloc_nolock(size, ALLOC_ZERO) : NULL;

		REQUIRE(a && b && (c || size > KMALLOC_NOLOCK_MAX));
		wrong += !is_aligned((u64)a, is_power_of_two(size) && size > 16 ? MIN(size, PAGE_SIZE) : 16);
		wrong += kmalloc_usable(a) < size || (size > 16 && size <= PAGE_SIZE && kmalloc_usable(a) >= 2 * size);
		wrong += count_wrong(a, size, 0) + count_wrong(b, size, 0);
		memset(a, 1, kmalloc_usable(a));
		memset(b, 2, kmalloc_usable(b));
		if (c) {
			wrong += count_wrong(c, size, 0);
			memset(c, 3, kmalloc_usable(c));
			wrong += count_wrong(c, kmalloc_usable(c), 3);
		}
		wrong += count_wrong(a, kmalloc_usable(a), 1) + count_wrong(b, kmalloc_usable(b), 2);
		kfree(a);
		kfree_nolock(b);
		kfree(c);
	}
	CHECK_EQ(wrong, 0);
	CHECK(!kmalloc(0, 0));
	CHECK(!kmalloc(SIZE_MAX, 0));
	CHECK(!kmalloc_nolock(0, 0));
	CHECK(!kmalloc_nolock(KMALLOC_NOLOCK_MAX + 1, 0));
	kfree(NULL);
	kfree_nolock(NULL);
}

static u64 random_step(struct rng *rng)
{
	unsigned k = (unsigned)rng_below(rng, HELD);
	bool nolock = rng_below(rng, 2);
	u64 wrong = 0;

	if (held[k].p) {
		wrong = count_wrong(held[k].p, held[k].size, held[k].fill);
		if (nolock)
			kfree_nolock(held[k].p);
		else
			kfree(held[k].p);
		held[k].p = NULL;
		return wrong;
	}
	held[k].size = 1 + rng_below(rng, BIT(4 + rng_below(rng, 9)));
	held[k].fill = (u8)rng_next(rng);
	held[k].p = nolock ? kmalloc_nolock(held[k].size, 0) : kmalloc(held[k].size, 0);
	if (!held[k].p)
		return 1;
	memset(held[k].p, held[k].fill, held[k].size);
	return 0;
}

TEST_ID(kmalloc, random_operations_against_a_shadow, "PA4")
{
	struct rng rng = test_rng();
	struct kmalloc_stats before, after;
	u64 wrong = 0, in_use = 0, large = 0;

	kmalloc_drain();
	kmalloc_read_stats(&before);
	for (unsigned i = 0; i < 60000; i++)
		wrong += random_step(&rng);
	CHECK_EQ(wrong, 0);
	CHECK_EQ(kmalloc_check(), 0);
	for (unsigned k = 0; k < HELD; k++) {
		in_use += held[k].p != NULL;
		large += held[k].p && held[k].size > KMALLOC_SLAB_MAX;
	}
	kmalloc_read_stats(&after);
	CHECK(in_use > HELD / 4);
	CHECK_EQ(after.objects - after.cached, before.objects + in_use - large);
	CHECK(after.refills > before.refills && after.spills > before.spills);
	for (unsigned k = 0; k < HELD; k++) {
		kfree(held[k].p);
		held[k].p = NULL;
	}
	kmalloc_drain();
	kmalloc_read_stats(&after);
	CHECK_EQ(after.objects, before.objects);
	CHECK_EQ(after.slabs, before.slabs);
	CHECK_EQ(after.bad_frees, before.bad_frees);
}

/* A free that must be refused, by both. */
static void check_refused(void *p)
{
	u64 warnings = log_warnings;
	struct kmalloc_stats a, b;

	kmalloc_read_stats(&a);
	kfree(p);
	kfree_nolock(p);
	kmalloc_read_stats(&b);
	CHECK_EQ(log_warnings, warnings + 2);
	CHECK_EQ(b.bad_frees, a.bad_frees + 2);
	CHECK_EQ(b.objects - b.cached, a.objects - a.cached);
	log_warnings = warnings;
}

TEST_ID(kmalloc, bad_frees_are_refused, "PA4 PA7")
{
	static const size_t sizes[] = { 16, 100, 2048, 3000, 20000 };
	struct slab_cache cache = { .name = "test", .size = 64, .partial = UINT32_MAX };
	u64 *object = slab_alloc(&cache), local = 0, warnings = log_warnings;
	struct page *page = alloc_page(0);

	REQUIRE(object && page);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		u8 *p = kmalloc(sizes[i], 0);

		REQUIRE(p != NULL);
		check_refused(p + 1);
		check_refused(p + 8);
		check_refused(p + sizes[i] - 1);
		kfree(p);
		check_refused(p);
		CHECK_EQ(kmalloc_check(), 0);	/* looks at all memory there is: not behind each of them */
	}
	check_refused(object);			/* of a cache of its own */
	check_refused(&local);
	check_refused(page_to_virt(page));	/* a page, but not by kmalloc */
	check_refused((void *)8);
	check_refused((void *)(u64)-16);
	CHECK_EQ(kmalloc_check(), 0);
	object[0] = 7;
	slab_free(&cache, object);
	CHECK_EQ(cache.slabs, 0);
	object = kmalloc(64, 0);
	slab_free(&cache, object);		/* and the other way round */
	CHECK_EQ(log_warnings, warnings + 1);
	CHECK(kmalloc_usable(object) == 64);
	kfree(object);
	log_warnings = warnings;
	free_page(page);
}

/* What is written to an object after it was freed changes nothing but that object. */
TEST_ID(kmalloc, writes_after_free_break_nothing, "PA4")
{
	u64 *p[40], wrong = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
		p[i] = kmalloc(64, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		REQUIRE(p[i]);
		kfree(p[i]);
		memset(p[i], 0xff, 64);
	}
	kmalloc_drain();
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		p[i] = kmalloc(64, ALLOC_ZERO);
		wrong += !p[i] || p[i][0] | p[i][7];
		for (unsigned k = 0; k < i; k++)
			wrong += p[k] == p[i];
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(kmalloc_check(), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
		kfree(p[i]);
}

/* ---- With the cache's lock held by whom was interrupted ---- */

TEST_ID(kmalloc, a_held_lock_stops_nobody, "PA2 PA4")
{
	static const u32 sizes[] = { 16, 48, 64, 256, 2048 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct slab_cache cache = { .name = "test", .size = sizes[i], .partial = UINT32_MAX };
		void *a = slab_alloc(&cache), *b, *c;

		REQUIRE(a != NULL);
		spin_lock(&cache.lock);
		b = slab_alloc_nolock(&cache);		/* of a slab of its own */
		slab_free_nolock(&cache, a);
		spin_unlock(&cache.lock);
		REQUIRE(b && b != a);
		CHECK_EQ(cache.slabs, 2);
		CHECK(cache.deferred != NULL);
		CHECK(cache.deferrals >= 2);
		/* Whoever has the lock next takes all that in. */
		c = slab_alloc(&cache);
		REQUIRE(c != NULL);
		CHECK(cache.deferred == NULL);
		CHECK_EQ(slab_check(&cache), 0);
		CHECK_EQ(cache.objects, 2);
		slab_free_nolock(&cache, b);
		slab_free(&cache, c);
		CHECK_EQ(cache.objects, 0);
		CHECK_EQ(cache.slabs, 0);
	}
}

/* A deferred object freed again, and one that is written to while it waits. */
TEST_ID(kmalloc, deferred_objects_are_free, "PA4 PA7")
{
	struct slab_cache cache = { .name = "test", .size = 64, .partial = UINT32_MAX };
	u64 warnings = log_warnings, bad = slab_bad_frees;
	u64 *a = slab_alloc(&cache), *b = slab_alloc(&cache), link;

	REQUIRE(a && b);
	spin_lock(&cache.lock);
	slab_free_nolock(&cache, a);
	slab_free_nolock(&cache, a);
	spin_unlock(&cache.lock);
	CHECK_EQ(slab_bad_frees, bad + 1);
	slab_free(&cache, b);
	CHECK_EQ(cache.slabs, 0);
	a = slab_alloc(&cache);
	REQUIRE(a != NULL);
	spin_lock(&cache.lock);
	slab_free_nolock(&cache, a);
	spin_unlock(&cache.lock);
	link = a[0];
	a[0] = 0x1234;
	b = slab_alloc(&cache);			/* takes in what was deferred, as far as it can be trusted */
	REQUIRE(b && b != a);
	slab_free(&cache, b);
	CHECK_EQ(slab_bad_frees, bad + 2);
	CHECK_EQ(log_warnings, warnings + 2);
	CHECK_EQ(slab_check(&cache), 0);
	CHECK_EQ(cache.objects, 1);		/* that one stays out, and its slab with it */
	CHECK_EQ(cache.slabs, 1);
	/* Put the list back as it was: then it is taken. */
	a[0] = link;
	cache.deferred = (struct slab_deferred *)a;
	b = slab_alloc(&cache);
	slab_free(&cache, b);
	CHECK_EQ(cache.objects, 0);
	CHECK_EQ(cache.slabs, 0);
	log_warnings = warnings;
	slab_bad_frees = bad;
}

/* ---- Accounts ---- */

TEST_ID(kmalloc, slabs_are_charged_to_the_caches_account, "PA4 PA5")
{
	struct slab_cache cache = { .name = "test", .size = 1024, .partial = UINT32_MAX };
	struct account a;
	void *p[9];

	CHECK_EQ(account_open(&a, "test", NULL, 2), 0);
	cache.account = &a;
	for (unsigned i = 0; i < 8; i++) {
		p[i] = i % 2 ? slab_alloc(&cache) : slab_alloc_nolock(&cache);
		REQUIRE(p[i]);
		CHECK_EQ(account_charged(&a), cache.slabs);
	}
	CHECK_EQ(cache.slabs, 2);
	CHECK(!slab_alloc(&cache));
	CHECK(!slab_alloc_nolock(&cache));
	CHECK_EQ(account_charged(&a), 2);
	CHECK_EQ(a.refused, 2);
	CHECK_EQ(account_check(), 0);
	for (unsigned i = 0; i < 8; i++)
		slab_free_nolock(&cache, p[i]);
	CHECK_EQ(account_charged(&a), 0);
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK(!slab_alloc(&cache));
	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK(!slab_alloc_nolock(&cache));
	alloc_inject.armed = 0;
	CHECK_EQ(account_charged(&a), 0);
	CHECK_EQ(account_close(&a), 0);
}

/* Every allocation fails once: nothing is left behind, and nothing is out of order. */
TEST_ID(kmalloc, failures_leave_no_trace, "PA4 PA8")
{
	static const size_t sizes[] = { 16, 64, 2048, 4096, 20000 };
	struct kmalloc_stats a, b;

	kmalloc_drain();
	kmalloc_read_stats(&a);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		size_t size = sizes[i / 2];
		void *p;

		kmalloc_drain();
		alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
		p = i % 2 ? kmalloc_nolock(size, 0) : kmalloc(size, 0);
		alloc_inject.armed = 0;
		CHECK(!p);
		CHECK_EQ(alloc_inject.failed, 1);
		p = kmalloc(size, 0);
		CHECK(p != NULL);
		kfree(p);
	}
	kmalloc_drain();
	kmalloc_read_stats(&b);
	CHECK_EQ(b.objects, a.objects);
	CHECK_EQ(b.slabs, a.slabs);
	CHECK_EQ(kmalloc_check(), 0);
}
