/* SPDX-License-Identifier: MIT */
/* Small objects (mm/slab.h). Each test has caches of its own and leaves no slab behind. */
#include "mm/slab.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "tests/test.h"

#define OBJECTS 1500u

static void *objects[OBJECTS];

static struct slab_cache cache_of(u32 size)
{
	return (struct slab_cache){ .name = "test", .size = size, .partial = UINT32_MAX };
}

static void free_all(struct slab_cache *cache)
{
	for (unsigned i = 0; i < OBJECTS; i++) {
		slab_free(cache, objects[i]);
		objects[i] = NULL;
	}
	CHECK_EQ(cache->objects, 0);
	CHECK_EQ(cache->slabs, 0);
}

/* A free that must be refused. */
static void check_refused(struct slab_cache *cache, void *object)
{
	u64 warnings = log_warnings, in_use = cache->objects, slabs = cache->slabs;

	slab_free(cache, object);
	CHECK_EQ(log_warnings, warnings + 1);
	CHECK_EQ(cache->objects, in_use);
	CHECK_EQ(cache->slabs, slabs);
}

TEST(slab, objects_of_every_size_are_apart)
{
	static const u32 sizes[] = { 16, 17, 24, 48, 64, 100, 136, 256, 500, 1000, 2000, 2048 };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct slab_cache cache = cache_of(sizes[i]);
		u64 wrong = 0;

		for (unsigned k = 0; k < 600; k++) {
			u8 *p = slab_alloc(&cache);

			REQUIRE(p);
			objects[k] = p;
			wrong += !is_aligned((u64)p, 16);
			for (u32 b = 0; b < sizes[i]; b++)
				wrong += p[b] != 0;
			memset(p, (int)k | 1, sizes[i]);
		}
		for (unsigned k = 0; k < 600; k++)
			for (u32 b = 0; b < sizes[i]; b++)
				wrong += ((u8 *)objects[k])[b] != (u8)(k | 1);
		CHECK_EQ(wrong, 0);
		CHECK_EQ(cache.objects, 600);
		CHECK(cache.slabs * PAGE_SIZE >= 600 * sizes[i]);
		free_all(&cache);
	}
}

/* Objects come zeroed even where one has been used before. */
TEST(slab, used_objects_come_back_zeroed)
{
	struct slab_cache cache = cache_of(128);
	u64 *keep = slab_alloc(&cache), *p;

	REQUIRE(keep);
	for (unsigned i = 0; i < 100; i++) {
		p = slab_alloc(&cache);
		REQUIRE(p);
		CHECK_EQ(p[0] | p[15], 0);
		memset(p, 0xff, 128);
		slab_free(&cache, p);
	}
	slab_free(&cache, keep);
	CHECK_EQ(cache.slabs, 0);
}

TEST(slab, empty_slabs_go_back_at_once)
{
	struct slab_cache cache = cache_of(512);
	u64 free = buddy_free_frames();
	void *p = slab_alloc(&cache);

	REQUIRE(p);
	CHECK_EQ(virt_to_page(p)->class, PAGE_SLAB);
	CHECK_EQ(buddy_free_frames(), free - 1);
	slab_free(&cache, p);
	CHECK_EQ(buddy_free_frames(), free);
	CHECK_EQ(virt_to_page(p)->class, PAGE_FREE);
}

TEST(slab, bad_frees_are_refused)
{
	struct slab_cache cache = cache_of(100), other = cache_of(100);
	u8 *p = slab_alloc(&cache), *q = slab_alloc(&cache), *o = slab_alloc(&other);
	u8 *frame_start;
	struct page *page = alloc_page(0);
	u64 local;

	REQUIRE(p && q && o && page);
	frame_start = (u8 *)align_down((u64)p, PAGE_SIZE);
	slab_free(&cache, NULL);
	check_refused(&cache, p + 1);
	check_refused(&cache, p + 16);
	check_refused(&cache, frame_start + 1);
	check_refused(&cache, frame_start + PAGE_SIZE - 1);
	check_refused(&other, p);
	check_refused(&cache, o);
	check_refused(&cache, &local);
	check_refused(&cache, page_to_virt(page));
	slab_free(&cache, p);
	check_refused(&cache, p);		/* its slab is still there */
	slab_free(&cache, q);
	check_refused(&cache, q);		/* its slab is gone */
	slab_free(&other, o);
	free_page(page);
	CHECK_EQ(cache.slabs + other.slabs, 0);
}

TEST(slab, random_operations)
{
	struct slab_cache cache = cache_of(136);
	struct rng rng = test_rng();
	u64 wrong = 0, in_use = 0;

	for (unsigned i = 0; i < 30000; i++) {
		unsigned k = (unsigned)rng_below(&rng, OBJECTS);
		u64 *p = objects[k];

		if (p) {
			wrong += p[0] != k || p[16] != ~(u64)k;
			slab_free(&cache, p);
			objects[k] = NULL;
			in_use--;
		} else {
			p = slab_alloc(&cache);
			REQUIRE(p);
			wrong += p[0] | p[16];
			p[0] = k;
			p[16] = ~(u64)k;
			objects[k] = p;
			in_use++;
		}
		wrong += cache.objects != in_use;
	}
	CHECK_EQ(wrong, 0);
	free_all(&cache);
}

TEST_ID(slab, no_frame_no_object, "PA8")
{
	struct slab_cache cache = cache_of(64);
	void *p;

	alloc_inject = (struct alloc_inject){ .armed = 1, .countdown = 1 };
	CHECK(!slab_alloc(&cache));
	CHECK_EQ(cache.objects, 0);
	CHECK_EQ(cache.slabs, 0);
	p = slab_alloc(&cache);
	alloc_inject.armed = 0;
	CHECK(p != NULL);
	CHECK_EQ(alloc_inject.calls, 2);
	slab_free(&cache, p);
	CHECK_EQ(cache.slabs, 0);
}
