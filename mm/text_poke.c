/* SPDX-License-Identifier: MIT */
/*
 * The poke window. See text_poke.h.
 *
 * The lock is taken before interrupts go off and given up after they are back, so interrupts stay off for
 * one window's work: a copy of a page at most. The reading back goes by the address itself, not by the
 * window: it proves that the frames were the right ones.
 */
#include "mm/text_poke.h"

#include "kernel/base/atomic.h"
#include "kernel/base/errno.h"
#include "kernel/base/spinlock.h"
#include "kernel/base/string.h"
#include "mm/pgtable.h"
#include "mm/plant.h"
#include "mm/temp_map.h"

void (*text_poke_midway)(u64 va, u64 len);

static spinlock_t lock = SPINLOCK_INIT_CLASS(LOCK_TEXT_POKE);	/* one window at a time; guards stats but syncs and rounds */
static struct text_poke_stats stats;
static u64 retired;		/* pieces of text overwritten, ever */
static u64 serialised;		/* so many of them every CPU has forgotten */

typedef u64 __attribute__((may_alias, aligned(1))) word_t;

/* By words, eight at a time: this is done for every chunk that is freed. */
static bool is_filled(const u8 *p, u8 byte, u64 n)
{
	u64 want = byte * 0x0101010101010101ull;

	for (; n >= 64; n -= 64, p += 64) {
		const word_t *w = (const word_t *)p;

		if (w[0] != want || w[1] != want || w[2] != want || w[3] != want || w[4] != want || w[5] != want ||
		    w[6] != want || w[7] != want)
			return false;
	}
	for (; n; n--, p++)
		if (*p != byte)
			return false;
	return true;
}

/* Bytes of one page. src: NULL is `byte` everywhere. */
static void write_part(const struct temp_map *t, u64 offset, const u8 *src, u8 byte, u64 len)
{
	u8 *to = temp_map_ptr(t, offset, true);

	if (src)
		memcpy(to, src, len);
	else
		memset(to, byte, len);
}

static bool reads_back(u64 va, const u8 *src, u8 byte, u64 len)
{
	const u8 *seen = arch_va_ptr(va, false);

	return src ? !memcmp(seen, src, len) : is_filled(seen, byte, len);
}

/* One window: at most a page's worth, which may lie in two. Locked. */
static bool poke_window(u64 va, pfn_t pfn, const u8 *src, u8 byte, u64 len)
{
	const pfn_t pfns[TEMP_MAP_PAGES] = { pfn, pfn + 1 };
	u64 offset = va & (PAGE_SIZE - 1), first = MIN(len, PAGE_SIZE - offset), rest = len - first;
	const u8 *behind = src ? src + first : NULL;
	struct temp_map t;

	temp_map_begin(&t, pfns, rest ? 2 : 1, true);
	write_part(&t, offset, src, byte, first);
	if (rest)
		write_part(&t, PAGE_SIZE, behind, byte, rest);
	if (unlikely(text_poke_midway))
		text_poke_midway(va, len);
	temp_map_end(&t);
	stats.windows++;
	stats.bytes += len;
	return reads_back(va, src, byte, first) && (!rest || reads_back(va + first, behind, byte, rest));
}

static int poke(u64 va, pfn_t pfn, const u8 *src, u8 byte, u64 len)
{
	int rc = 0;

	spin_lock(&lock);
	for (u64 at = 0, n; at < len && !rc; at += n) {
		pfn_t first = pfn + (((va & (PAGE_SIZE - 1)) + at) >> PAGE_SHIFT);

		n = MIN(len - at, PAGE_SIZE);
		if (!poke_window(va + at, first, src ? src + at : NULL, byte, n))
			rc = -EIO;
	}
	spin_unlock(&lock);
	return rc;
}

int text_poke(u64 va, pfn_t pfn, const void *src, u64 len)
{
	return poke(va, pfn, src, 0, len);
}

int text_poke_set(u64 va, pfn_t pfn, u8 byte, u64 len)
{
	return poke(va, pfn, NULL, byte, len);
}

void text_poke_sync(void)
{
	arch_core_serialise();
	fetch_add(&stats.syncs, 1);
}

void text_poke_retire(void)
{
	fetch_add(&retired, 1);
}

/*
 * Read first, then ask: what is retired meanwhile is the next one's. A CPU that does not answer has been given up by then, and the
 * run fails.
 */
void text_poke_reuse(void)
{
	u64 done = load_acquire(&serialised), now = load_acquire(&retired);
	cpumask_t dead = { { 0 } };

	if (done >= now)
		return;
	/* A CPU that runs alone has done so when it overwrote. */
	if (load_relaxed(&kernel_space.nr_cpus) > 1 && !PLANTED(PLANT_NO_SERIALISE)) {
		arch_core_serialise();
		arch_core_serialise_all(&kernel_space.cpus, &dead);
	}
	fetch_add(&stats.rounds, 1);
	while (done < now && !compare_exchange(&serialised, &done, now))
		;
}

void text_poke_read_stats(struct text_poke_stats *out)
{
	spin_lock(&lock);
	*out = stats;
	spin_unlock(&lock);
}
