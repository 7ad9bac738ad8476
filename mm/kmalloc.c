/* SPDX-License-Identifier: MIT */
/*
 * Memory of any size. See kmalloc.h.
 *
 * A list of a CPU is left before a cache's lock is taken, and batches go through an array on the stack: who is interrupted with the
 * lock held leaves the list to the interrupter. Objects on it are neither used nor ready (slab.c).
 */
#include "mm/kmalloc.h"

#include "kernel/base/bits.h"
#include "kernel/base/local_trylock.h"
#include "kernel/base/string.h"
#include "mm/buddy.h"
#include "mm/slab_internal.h"

#define LIST_ROOM 14u
#define LIST_LOW 4u		/* a task that leaves fewer fills up */
#define LIST_BATCH 7u

#define LARGE_MARK 0x6b6d616c6c6f63ull	/* struct page's private: an allocation of whole pages */

struct kmalloc_list {
	local_trylock_t lock;
	u32 nr;
	void *objects[LIST_ROOM];
};

#define CACHE(bytes) { .name = "kmalloc-" #bytes, .size = bytes, .partial = UINT32_MAX, \
		       .lock = SPINLOCK_INIT_CLASS(LOCK_SLAB) }
static struct slab_cache caches[KMALLOC_CLASSES] = {
	CACHE(16), CACHE(32), CACHE(48), CACHE(64), CACHE(96), CACHE(128), CACHE(192), CACHE(256), CACHE(512), CACHE(1024),
	CACHE(2048),
};

/* The class by (size - 1) / 16, up to 256 bytes; each power of two above has its own. */
static const u8 small_class[16] = { 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7 };
#define CLASS_256 7u

static struct kmalloc_list lists[MAX_CPUS][KMALLOC_CLASSES];
static u64 refills, spills, nolock_fails, large_bad;

static inline unsigned class_of(size_t size)
{
	return size <= 256 ? small_class[(size - 1) / 16] : CLASS_256 + log2_ceil(size) - 8;
}

static inline struct kmalloc_list *my_list(unsigned class)
{
	return &lists[arch_this_cpu()->id][class];
}

/* From this CPU's list; NULL: it is empty, or occupied. *left: how many stay. */
static inline void *list_pop(struct kmalloc_list *list, u32 *left)
{
	void *object = NULL;

	*left = 0;
	if (unlikely(!local_trylock(&list->lock)))
		return NULL;
	if (likely(list->nr)) {
		*left = list->nr - 1;
		object = list->objects[*left];
		store_relaxed(&list->nr, *left);
	}
	local_unlock(&list->lock);
	return object;
}

/* Onto this CPU's list. False: there is no room, or it is occupied. */
static inline bool list_push(struct kmalloc_list *list, void *object)
{
	bool room;

	if (unlikely(!local_trylock(&list->lock)))
		return false;
	room = list->nr < LIST_ROOM;
	if (likely(room)) {
		list->objects[list->nr] = object;
		store_relaxed(&list->nr, list->nr + 1);
	}
	local_unlock(&list->lock);
	return room;
}

/* A batch from the slabs. need: the first is the caller's. What the list has no room for by then goes back. */
static __noinline void *refill(unsigned class, bool need)
{
	struct kmalloc_list *list = my_list(class);
	void *batch[LIST_BATCH];
	unsigned got = slab_take(&caches[class], batch, LIST_BATCH), i = need;

	if (!got)
		return NULL;
	fetch_add(&refills, 1);
	while (i < got && list_push(list, batch[i]))
		i++;
	if (i < got)
		slab_give(&caches[class], batch + i, got - i);
	return need ? batch[0] : NULL;
}

/* The list is full: a batch of its oldest goes back to the slabs, and this object with it. */
static __noinline void spill(unsigned class, void *object)
{
	struct kmalloc_list *list = my_list(class);
	void *batch[LIST_BATCH + 1] = { object };
	unsigned nr = 1;

	if (local_trylock(&list->lock)) {
		u32 take = MIN(list->nr, LIST_BATCH);

		memcpy(batch + 1, list->objects, take * sizeof(void *));
		memmove(list->objects, list->objects + take, (list->nr - take) * sizeof(void *));
		store_relaxed(&list->nr, list->nr - take);
		nr += take;
		local_unlock(&list->lock);
	}
	fetch_add(&spills, 1);
	slab_give(&caches[class], batch, nr);
}

/* ---- Whole pages ---- */

static unsigned large_order(size_t size)
{
	return log2_ceil(align_up(size, PAGE_SIZE) >> PAGE_SHIFT);
}

static void *large_made(struct page *page)
{
	if (!page)
		return NULL;
	store_relaxed(&page->private, LARGE_MARK);
	return page_to_virt(page);
}

/* The page of an allocation of whole pages, which this pointer is the beginning of; NULL: it is none. */
static struct page *large_page(const void *p)
{
	u64 pa = (u64)p - arch_mm.direct_ptr;
	struct page *page = pfn_to_page(pa >> PAGE_SHIFT);

	if (pa & (PAGE_SIZE - 1) || pa >> PAGE_SHIFT >= page_max_pfn || !pfn_valid(pa >> PAGE_SHIFT))
		return NULL;
	return page_class(page) == PAGE_KERNEL && page->flags & PAGE_HEAD && load_relaxed(&page->private) == LARGE_MARK ?
	       page : NULL;
}

static __noinline void large_free(const void *p, bool nolock)
{
	struct page *page = large_page(p);
	u64 mark = LARGE_MARK;
	unsigned order;

	if (!page || !compare_exchange(&page->private, &mark, 0)) {
		fetch_add(&large_bad, 1);
		slab_bad_free(&(struct slab_cache){ .name = "kmalloc" }, p, "which is not in use");
		return;
	}
	order = page->order;
	if (nolock)
		free_pages_nolock(page, order);
	else
		free_pages(page, order);
}

/* ---- Allocation ---- */

static void *hand_out(void *object, unsigned class, unsigned flags)
{
	slab_mark_used(object);
	if (flags & ALLOC_ZERO)
		memset(object, 0, caches[class].size);
	return object;
}

void *kmalloc(size_t size, unsigned flags)
{
	unsigned class;
	void *object;
	u32 left;

	if (unlikely(size - 1 >= KMALLOC_SLAB_MAX)) {	/* 0 too */
		if (!size || size > PAGE_SIZE << ORDER_MAX)
			return NULL;
		return large_made(alloc_pages(large_order(size), flags & (ALLOC_ZERO | ALLOC_MAY_RECLAIM)));
	}
	class = class_of(size);
	object = list_pop(my_list(class), &left);
	if (unlikely(left < LIST_LOW)) {
		void *taken = refill(class, !object);

		object = object ? object : taken;
		if (!object)
			return NULL;
	}
	return hand_out(object, class, flags);
}

void *kmalloc_nolock(size_t size, unsigned flags)
{
	void *object = NULL;
	unsigned class;
	u32 left;

	if (!size || size > KMALLOC_NOLOCK_MAX)
		goto fail;
	if (size > KMALLOC_SLAB_MAX) {
		struct page *page = alloc_pages_nolock(NODE_ANY, large_order(size));

		if (!page)
			goto fail;
		if (flags & ALLOC_ZERO)
			memset(page_to_virt(page), 0, PAGE_SIZE << large_order(size));
		return large_made(page);
	}
	class = class_of(size);
	object = list_pop(my_list(class), &left);
	if (!object)
		object = slab_take_nolock(&caches[class]);
	if (object)
		return hand_out(object, class, flags);
fail:
	fetch_add(&nolock_fails, 1);
	return NULL;
}

/* ---- Free ---- */

static bool is_ours(const struct slab_cache *cache)
{
	return cache >= caches && cache < caches + KMALLOC_CLASSES;
}

/* The class of an object that was in use and is no longer; -1: it was refused, or is of whole pages and freed. */
static inline int take_back(const void *p, bool nolock)
{
	struct slab_object o;
	const char *why = slab_find(p, &o);

	if (unlikely(why != NULL)) {
		large_free(p, nolock);
		return -1;
	}
	if (unlikely(!is_ours(o.cache)))
		why = "which was not allocated by kmalloc";
	else if (unlikely(!slab_mark_free(&o)))
		why = "which is free already";
	if (unlikely(why != NULL)) {
		slab_bad_free(o.cache, p, why);
		fetch_add(&large_bad, 1);
		return -1;
	}
	return (int)(o.cache - caches);
}

void kfree(void *p)
{
	int class = p ? take_back(p, false) : -1;

	if (likely(class >= 0) && unlikely(!list_push(my_list((unsigned)class), p)))
		spill((unsigned)class, p);
}

void kfree_nolock(void *p)
{
	int class = p ? take_back(p, true) : -1;

	if (class >= 0 && !list_push(my_list((unsigned)class), p))
		slab_give_nolock(&caches[class], p);
}

size_t kmalloc_usable(const void *p)
{
	const struct page *page = large_page(p);
	struct slab_object o;

	if (page)
		return PAGE_SIZE << page->order;
	return !slab_find(p, &o) && is_ours(o.cache) ? o.cache->size : 0;
}

/* ---- Figures ---- */

void kmalloc_drain(void)
{
	for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
		for (unsigned class = 0; class < KMALLOC_CLASSES; class++) {
			struct kmalloc_list *list = &lists[cpu][class];
			u32 nr = list->nr;

			if (!nr)
				continue;
			store_relaxed(&list->nr, 0);
			slab_give(&caches[class], list->objects, nr);
		}
}

void kmalloc_read_stats(struct kmalloc_stats *out)
{
	*out = (struct kmalloc_stats){
		.refills = load_relaxed(&refills), .spills = load_relaxed(&spills),
		.nolock_fails = load_relaxed(&nolock_fails), .bad_frees = load_relaxed(&large_bad),
	};
	for (unsigned class = 0; class < KMALLOC_CLASSES; class++) {
		out->slabs += load_relaxed(&caches[class].slabs);
		out->objects += load_relaxed(&caches[class].objects);
		out->deferrals += load_relaxed(&caches[class].deferrals);
		for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
			out->cached += load_relaxed(&lists[cpu][class].nr);
	}
}

static unsigned check_list(const struct kmalloc_list *list, unsigned class)
{
	unsigned faults = list->nr > LIST_ROOM;

	for (u32 i = 0; i < MIN(list->nr, LIST_ROOM); i++) {
		struct slab_object o;

		faults += slab_find(list->objects[i], &o) || o.cache != &caches[class];
	}
	return faults;
}

unsigned kmalloc_check(void)
{
	unsigned faults = 0;

	for (unsigned class = 0; class < KMALLOC_CLASSES; class++) {
		if (caches[class].slabs)
			faults += slab_check(&caches[class]);
		for (u32 cpu = 0; cpu < MAX_CPUS; cpu++)
			faults += check_list(&lists[cpu][class], class);
	}
	return faults;
}

u32 kmalloc_lock_holder(void)
{
	for (unsigned class = 0; class < KMALLOC_CLASSES; class++) {
		u32 holder = load_relaxed(&caches[class].lock.holder);

		if (holder)
			return holder - 1;
	}
	return MAX_CPUS;
}

bool kmalloc_lock_held_here(void)
{
	for (unsigned class = 0; class < KMALLOC_CLASSES; class++)
		if (spin_held(&caches[class].lock))
			return true;
	return false;
}
