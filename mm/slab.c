/* SPDX-License-Identifier: MIT */
/*
 * Small objects of one size each. See slab.h.
 *
 * Two bits are kept of each object: `used`, it is a caller's, changed by atomic instructions, so that a free finds out for certain
 * whether it is one; and `ready`, it lies in its slab, changed under the cache's lock. One with neither is on a list of a CPU, or on its
 * way. The bits, not links through the objects, say what is free, so a freed object that is written to breaks nothing.
 * Up to 32 objects have their bits in struct page, more in the last bytes of the frame.
 *
 * Slabs with objects ready are on the cache's list, through struct page; the others are on none.
 *
 * Who frees and cannot have the lock pushes the object onto the cache's deferred list, through the object's own first words, and tries the
 * lock once more. Who has the lock takes what is deferred before it lets go, and looks once more afterwards. So a list that is not empty
 * has somebody at it, and nothing is left for later. A link that somebody has written over is seen, and named; what was
 * behind it stays out.
 */
#include "mm/slab.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "mm/account.h"
#include "mm/buddy.h"
#include "mm/plant.h"
#include "mm/slab_internal.h"

#define WORD_BITS 32u
#define DEFERRED_MARK 0x64656665727265ull	/* a link's second word: mark ^ link ^ its own address */

struct slab_deferred {
	struct slab_deferred *next;
	u64 check;
};

u64 slab_bad_frees;

/* ---- Geometry ---- */

static inline u32 object_bytes(const struct slab_cache *cache)
{
	return (u32)align_up(cache->size, 16);
}

static inline u32 words_of(u32 objects)
{
	return (objects + WORD_BITS - 1) / WORD_BITS;
}

/* Bytes at the frame's end: both bits of as many objects as would fit without them. */
static u32 tail_bytes(u32 bytes)
{
	u32 most = (u32)PAGE_SIZE / bytes;

	return most <= WORD_BITS ? 0 : 2 * words_of(most) * (u32)sizeof(u32);
}

/* Found when a slab is made: before the first one nobody needs it, and it is the same each time. */
static void set_geometry(struct slab_cache *cache)
{
	u32 bytes = object_bytes(cache);

	if (load_relaxed(&cache->per_slab))
		return;
	store_relaxed(&cache->reciprocal, (u32)((BIT(32) + bytes - 1) / bytes));
	store_release(&cache->per_slab, ((u32)PAGE_SIZE - tail_bytes(bytes)) / bytes);
}

/* The bits of a slab. */
struct slab_bits {
	u32 *used, *ready;
	u32 words;	/* of each */
	u32 last;	/* which bits of the last word stand for an object; all bits of the others do */
};

static inline struct slab_bits bits_of(const struct slab_cache *cache, struct page *page)
{
	u32 n = load_relaxed(&cache->per_slab);
	struct slab_bits b = { .words = words_of(n), .last = UINT32_MAX >> (-n % WORD_BITS) };

	if (n <= WORD_BITS)
		b.used = (u32 *)&page->objects;
	else
		b.used = (u32 *)((char *)page_to_virt(page) + PAGE_SIZE) - 2 * b.words;
	b.ready = b.used + b.words;
	return b;
}

static inline u32 word_mask(const struct slab_bits *b, u32 w)
{
	return w == b->words - 1 ? b->last : UINT32_MAX;
}

static inline u32 index_of(const struct slab_cache *cache, const void *object)
{
	return (u32)(((u64)object & (PAGE_SIZE - 1)) * load_relaxed(&cache->reciprocal) >> 32);
}

static inline void *object_at(const struct slab_cache *cache, const struct page *page, u32 index)
{
	return (char *)page_to_virt(page) + index * object_bytes(cache);
}

const char *slab_find(const void *pointer, struct slab_object *out)
{
	u64 pa = (u64)pointer - arch_mm.direct_ptr, offset = pa & (PAGE_SIZE - 1);
	pfn_t pfn = pa >> PAGE_SHIFT;

	if (pfn >= page_max_pfn || !pfn_valid(pfn) || page_class(pfn_to_page(pfn)) != PAGE_SLAB)
		return "which is no object's";
	out->page = pfn_to_page(pfn);
	out->cache = (struct slab_cache *)load_relaxed(&out->page->private);
	if (!out->cache)
		return "which is no object's";
	out->index = (u32)(offset * load_relaxed(&out->cache->reciprocal) >> 32);
	if (out->index >= load_relaxed(&out->cache->per_slab) || out->index * object_bytes(out->cache) != offset)
		return "which is inside an object";
	return NULL;
}

void slab_mark_used(const void *object)
{
	struct page *page = virt_to_page(object);
	const struct slab_cache *cache = (const struct slab_cache *)page->private;
	u32 index = index_of(cache, object);

	fetch_or(&bits_of(cache, page).used[index / WORD_BITS], (u32)BIT(index % WORD_BITS));
}

bool slab_mark_free(const struct slab_object *o)
{
	u32 bit = (u32)BIT(o->index % WORD_BITS);

	return fetch_and(&bits_of(o->cache, o->page).used[o->index / WORD_BITS], ~bit) & bit || PLANTED(PLANT_SLAB_DOUBLE_FREE);
}

void slab_bad_free(const struct slab_cache *cache, const void *pointer, const char *why)
{
	fetch_add(&slab_bad_frees, 1);
	log_warn("slab %s: free of %p, %s", cache->name, pointer, why);
}

/* ---- Slabs ---- */

/* A new one, on no list; all its objects are ready. Task context, or any. */
static struct page *slab_new(struct slab_cache *cache, bool nolock)
{
	struct slab_bits b;
	struct page *page;

	if (cache->account && (nolock ? account_charge_nolock(cache->account, 1) : account_charge(cache->account, 1)))
		return NULL;
	page = nolock ? alloc_pages_nolock(NODE_ANY, 0) : alloc_page(0);
	if (!page) {
		if (cache->account)
			account_uncharge(cache->account, 1);
		return NULL;
	}
	set_geometry(cache);
	page->private = (u64)cache;
	page->objects = 0;
	b = bits_of(cache, page);
	for (u32 w = 0; w < b.words; w++) {
		b.used[w] = 0;
		b.ready[w] = word_mask(&b, w);
	}
	page_put_class(page, PAGE_SLAB);
	fetch_add(&cache->slabs, 1);
	return page;
}

/* Back to the page allocator: those on a list through `next`. */
static void slabs_release(struct slab_cache *cache, u32 pfn, bool nolock)
{
	while (pfn != PFN_NONE) {
		struct page *page = pfn_to_page(pfn);

		pfn = page->next;
		page_put_class(page, PAGE_KERNEL);
		page->private = 0;
		page->objects = 0;
		fetch_add(&cache->slabs, -1ull);
		if (cache->account)
			account_uncharge(cache->account, 1);
		if (nolock)
			free_pages_nolock(page, 0);
		else
			free_page(page);
	}
}

static void list_push(struct slab_cache *cache, struct page *page)
{
	assert_held(&cache->lock);
	page->prev = PFN_NONE;
	page->next = cache->partial;
	if (cache->partial != PFN_NONE)
		pfn_to_page(cache->partial)->prev = (u32)page_to_pfn(page);
	cache->partial = (u32)page_to_pfn(page);
}

static void list_take(struct slab_cache *cache, struct page *page)
{
	assert_held(&cache->lock);
	if (page->prev == PFN_NONE)
		cache->partial = page->next;
	else
		pfn_to_page(page->prev)->next = page->next;
	if (page->next != PFN_NONE)
		pfn_to_page(page->next)->prev = page->prev;
}

static inline bool none_ready(const struct slab_bits *b)
{
	for (u32 w = 0; w < b->words; w++)
		if (b->ready[w])
			return false;
	return true;
}

static inline bool all_ready(const struct slab_bits *b)
{
	for (u32 w = 0; w < b->words; w++)
		if (b->ready[w] != word_mask(b, w))
			return false;
	return true;
}

/*
 * An object out of a slab that has one ready, to a caller (`use`) or to be on its way; the slab is nobody else's, or the lock is held.
 * Returns whether it was the last.
 */
static __always_inline bool slab_pop(struct slab_cache *cache, struct page *page, bool use, void **object)
{
	struct slab_bits b = bits_of(cache, page);
	u32 w = 0, bit;

	while (!b.ready[w])
		w++;
	bit = (u32)__builtin_ctz(b.ready[w]);
	b.ready[w] &= b.ready[w] - 1;
	if (use)
		fetch_or(&b.used[w], (u32)BIT(bit));
	fetch_add(&cache->objects, 1);
	*object = object_at(cache, page, w * WORD_BITS + bit);
	return !b.ready[w] && none_ready(&b);
}

/* One of the cache's; NULL: none is ready. Locked. */
static inline void *take_locked(struct slab_cache *cache, bool use)
{
	struct page *page;
	void *object;

	if (cache->partial == PFN_NONE)
		return NULL;
	page = pfn_to_page(cache->partial);
	if (slab_pop(cache, page, use, &object))
		list_take(cache, page);
	return object;
}

/* Back into its slab. A slab that is empty then goes onto *empty. Locked. */
static __always_inline void give_locked(struct slab_cache *cache, struct page *page, u32 index, u32 *empty)
{
	struct slab_bits b = bits_of(cache, page);
	u32 w = index / WORD_BITS;

	if (!b.ready[w] && none_ready(&b))
		list_push(cache, page);
	b.ready[w] |= (u32)BIT(index % WORD_BITS);
	fetch_add(&cache->objects, -1ull);
	if (b.ready[w] != word_mask(&b, w) || !all_ready(&b))
		return;
	list_take(cache, page);
	page->next = *empty;
	*empty = (u32)page_to_pfn(page);
}

/* ---- Deferred objects ---- */

static u64 link_check(const struct slab_deferred *d, const struct slab_deferred *next)
{
	return DEFERRED_MARK ^ (u64)d ^ (u64)next;
}

static void link_set(struct slab_deferred *d, struct slab_deferred *next)
{
	store_relaxed(&d->next, next);
	store_relaxed(&d->check, link_check(d, next));
}

/* A chain from first to last. Any context. */
static void defer(struct slab_cache *cache, struct slab_deferred *first, struct slab_deferred *last)
{
	struct slab_deferred *head = load_relaxed(&cache->deferred);

	do {
		link_set(last, head);
	} while (!compare_exchange(&cache->deferred, &head, first));
	fetch_add(&cache->deferrals, 1);
}

/* Whether this is an object of the cache's that is neither used nor ready, and whose link is as it was written. */
static bool is_deferred(const struct slab_cache *cache, const struct slab_deferred *d)
{
	struct slab_object o;
	struct slab_bits b;
	u32 w, bit;

	if (slab_find(d, &o) || o.cache != cache || load_relaxed(&d->check) != link_check(d, load_relaxed(&d->next)))
		return false;
	b = bits_of(cache, o.page);
	w = o.index / WORD_BITS;
	bit = (u32)BIT(o.index % WORD_BITS);
	return !((load_relaxed(&b.used[w]) | b.ready[w]) & bit);
}

static __noinline void take_deferred(struct slab_cache *cache, u32 *empty)
{
	struct slab_deferred *d = exchange_acquire(&cache->deferred, NULL);

	while (d) {
		struct slab_deferred *next;

		if (!is_deferred(cache, d)) {
			slab_bad_free(cache, d, "which was written to after it was freed");
			return;
		}
		next = d->next;
		give_locked(cache, virt_to_page(d), index_of(cache, d), empty);
		d = next;
	}
}

/* Let the lock go, with whatever was deferred meanwhile; give empty slabs back. */
static inline void cache_unlock(struct slab_cache *cache, u32 empty, bool nolock)
{
	for (;;) {
		if (unlikely(load_relaxed(&cache->deferred) != NULL))
			take_deferred(cache, &empty);
		spin_unlock(&cache->lock);
		fence_full();
		if (likely(!load_relaxed(&cache->deferred)) || PLANTED(PLANT_SLAB_DEFERRED_LOST) || !spin_trylock(&cache->lock))
			break;
	}
	if (unlikely(empty != PFN_NONE))
		slabs_release(cache, empty, nolock);
}

/* Look after what this caller has deferred: whoever held the lock may have let it go before. */
static void deferred_retry(struct slab_cache *cache)
{
	fence_full();
	if (!PLANTED(PLANT_SLAB_DEFERRED_LOST) && spin_trylock(&cache->lock))
		cache_unlock(cache, PFN_NONE, true);
}

/* ---- By the batch ---- */

static inline unsigned take_ready(struct slab_cache *cache, bool use, void **objects, unsigned want)
{
	unsigned got = 0;
	u32 empty = PFN_NONE;

	spin_lock(&cache->lock);
	if (unlikely(cache->partial == PFN_NONE && load_relaxed(&cache->deferred)))
		take_deferred(cache, &empty);
	while (got < want && (objects[got] = take_locked(cache, use)))
		got++;
	cache_unlock(cache, empty, false);
	return got;
}

/* The first objects of a new slab are this caller's, before anybody else sees it. */
static __noinline unsigned take_of_new(struct slab_cache *cache, bool use, void **objects, unsigned want)
{
	struct page *fresh = slab_new(cache, false);
	unsigned got = 0;

	if (!fresh)
		return 0;
	while (got < want)
		if (slab_pop(cache, fresh, use, &objects[got++]))
			return got;
	spin_lock(&cache->lock);
	list_push(cache, fresh);
	cache_unlock(cache, PFN_NONE, false);
	return got;
}

unsigned slab_take(struct slab_cache *cache, void **objects, unsigned want)
{
	unsigned got = take_ready(cache, false, objects, want);

	return likely(got) ? got : take_of_new(cache, false, objects, want);
}

/* The lock is not to be had: all objects of a new slab but one are deferred. */
static void defer_rest(struct slab_cache *cache, struct page *fresh)
{
	struct slab_deferred *first, *last;
	void *object;
	bool through = slab_pop(cache, fresh, false, &object);

	for (first = last = object; !through; first = object) {
		through = slab_pop(cache, fresh, false, &object);
		link_set(object, first);
	}
	defer(cache, first, last);
	deferred_retry(cache);
}

static inline void *take_nolock(struct slab_cache *cache, bool use)
{
	struct page *fresh;
	void *object;

	if (spin_trylock(&cache->lock)) {
		object = take_locked(cache, use);
		cache_unlock(cache, PFN_NONE, true);
		if (object)
			return object;
	}
	fresh = slab_new(cache, true);
	if (!fresh || slab_pop(cache, fresh, use, &object))
		return fresh ? object : NULL;
	if (spin_trylock(&cache->lock)) {
		list_push(cache, fresh);
		cache_unlock(cache, PFN_NONE, true);
	} else {
		defer_rest(cache, fresh);
	}
	return object;
}

void *slab_take_nolock(struct slab_cache *cache)
{
	return take_nolock(cache, false);
}

void slab_give(struct slab_cache *cache, void *const *objects, unsigned nr)
{
	u32 empty = PFN_NONE;

	spin_lock(&cache->lock);
	for (unsigned i = 0; i < nr; i++)
		give_locked(cache, virt_to_page(objects[i]), index_of(cache, objects[i]), &empty);
	cache_unlock(cache, empty, false);
}

static inline void give_nolock(struct slab_cache *cache, struct page *page, u32 index, void *object)
{
	u32 empty = PFN_NONE;

	if (spin_trylock(&cache->lock)) {
		give_locked(cache, page, index, &empty);
		cache_unlock(cache, empty, true);
		return;
	}
	defer(cache, object, object);
	deferred_retry(cache);
}

void slab_give_nolock(struct slab_cache *cache, void *object)
{
	give_nolock(cache, virt_to_page(object), index_of(cache, object), object);
}

/* ---- One object ---- */

static inline void *hand_out(const struct slab_cache *cache, void *object)
{
	return memset(object, 0, object_bytes(cache));
}

void *slab_alloc(struct slab_cache *cache)
{
	void *object;

	return take_ready(cache, true, &object, 1) || take_of_new(cache, true, &object, 1) ? hand_out(cache, object) : NULL;
}

void *slab_alloc_nolock(struct slab_cache *cache)
{
	void *object = take_nolock(cache, true);

	return object ? hand_out(cache, object) : NULL;
}

/* Whether the object is the cache's and its caller's, who is no longer. */
static inline bool take_back(struct slab_cache *cache, const void *object, struct slab_object *o)
{
	const char *why = slab_find(object, o);

	if (!why && unlikely(o->cache != cache))
		why = "which is another cache's";
	if (!why && unlikely(!slab_mark_free(o)))
		why = "which is free already";
	if (unlikely(why != NULL))
		slab_bad_free(cache, object, why);
	return !why;
}

void slab_free(struct slab_cache *cache, void *object)
{
	struct slab_object o;
	u32 empty = PFN_NONE;

	if (!object || !take_back(cache, object, &o))
		return;
	spin_lock(&cache->lock);
	give_locked(cache, o.page, o.index, &empty);
	cache_unlock(cache, empty, false);
}

void slab_free_nolock(struct slab_cache *cache, void *object)
{
	struct slab_object o;

	if (object && take_back(cache, object, &o))
		give_nolock(cache, o.page, o.index, object);
}

/* ---- Checks ---- */

static u64 bits_in(u32 word)
{
	u64 nr = 0;

	for (; word; word &= word - 1)
		nr++;
	return nr;
}

static unsigned check_slab(const struct slab_bits *b, u64 *out)
{
	unsigned faults = 0;

	for (u32 w = 0; w < b->words; w++) {
		faults += (b->used[w] & b->ready[w]) != 0 || ((b->used[w] | b->ready[w]) & ~word_mask(b, w));
		*out += bits_in(word_mask(b, w) & ~b->ready[w]);
	}
	return faults + all_ready(b);
}

unsigned slab_check(const struct slab_cache *cache)
{
	u64 slabs = 0, listed = 0, ready = 0, out = 0;
	unsigned faults = 0;

	for (pfn_t pfn = 0; pfn < page_max_pfn; pfn++) {
		struct page *page = pfn_to_page(pfn);
		struct slab_bits b;

		if (!pfn_valid(pfn)) {
			pfn |= SECTION_FRAMES - 1;
			continue;
		}
		if (page_class(page) != PAGE_SLAB || page->private != (u64)cache)
			continue;
		b = bits_of(cache, page);
		slabs++;
		ready += !none_ready(&b);
		faults += check_slab(&b, &out);
	}
	for (u32 pfn = cache->partial; pfn != PFN_NONE && listed <= slabs; pfn = pfn_to_page(pfn)->next)
		listed++;
	return faults + (slabs != cache->slabs) + (listed != ready) + (out != cache->objects) + (cache->deferred != NULL);
}
