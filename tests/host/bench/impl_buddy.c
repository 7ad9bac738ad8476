/* SPDX-License-Identifier: MIT */
/* Own code: the textbook binary buddy (Knuth 2.5 / Linux 2.6 shape).
 * Per-order doubly linked LIFO free lists through a struct page array; the buddy of a block is
 * paired by (free flag, order) in its struct page. Orders 0..10.
 *   -DLOCKED  one global test-and-test-and-set spin lock round alloc/free (nothing else changes)
 *   -DPCP     LOCKED plus a per-core stack of order-0 frames (refill 64, high mark 256)  */
#include "pf_if.h"
#include <stdlib.h>
#include <string.h>
#include <stdatomic.h>
#include <sched.h>
#define MAXO 10
#define NIL UINT32_MAX
#ifdef PCP
#define LOCKED 1
const char *const pf_name = "buddy-pcp"; const int pf_mt = 1;
#elif defined(LOCKED)
const char *const pf_name = "buddy-lock"; const int pf_mt = 1;
#else
const char *const pf_name = "buddy"; const int pf_mt = 0;
#endif
struct page { uint32_t next, prev; uint8_t free, order; uint16_t pad; };
static struct page *pg; static uint64_t nfr; static uint32_t head[MAXO + 1];
static uint64_t nblk[MAXO + 1];
#ifdef LOCKED
static _Alignas(64) atomic_int lk;
static inline void lock(void) {
  int spins = 0;
  while (atomic_exchange_explicit(&lk, 1, memory_order_acquire))
    while (atomic_load_explicit(&lk, memory_order_relaxed)) { __builtin_ia32_pause(); if (++spins > 4000) { sched_yield(); spins = 0; } }
}
static inline void unlock(void) { atomic_store_explicit(&lk, 0, memory_order_release); }
#else
static inline void lock(void) {} static inline void unlock(void) {}
#endif
static inline void push(uint64_t p, unsigned o) {
  pg[p].free = 1; pg[p].order = (uint8_t)o; pg[p].prev = NIL; pg[p].next = head[o];
  if (head[o] != NIL) pg[head[o]].prev = (uint32_t)p;
  head[o] = (uint32_t)p; nblk[o]++;
}
static inline void unlink_(uint64_t p, unsigned o) {
  uint32_t n = pg[p].next, v = pg[p].prev;
  if (v == NIL) head[o] = n; else pg[v].next = n;
  if (n != NIL) pg[n].prev = v;
  pg[p].free = 0; nblk[o]--;
}
static inline uint64_t b_alloc(unsigned order) {
  unsigned o = order;
  while (o <= MAXO && head[o] == NIL) o++;
  if (o > MAXO) return PF_FAIL;
  uint64_t p = head[o]; unlink_(p, o);
  while (o > order) { o--; push(p + (1ull << o), o); }
  pg[p].order = (uint8_t)order;
  return p;
}
static inline void b_free(uint64_t p, unsigned o) {
  while (o < MAXO) {
    uint64_t b = p ^ (1ull << o);
    if (b >= nfr || !pg[b].free || pg[b].order != o) break;
    unlink_(b, o); p &= b; o++;
  }
  push(p, o);
}
#ifdef PCP
#define BATCH 64
#define HIGH 256
static struct { _Alignas(64) unsigned n; uint32_t s[HIGH + BATCH]; } pcp[8];
static unsigned npcp;
#endif
void pf_init(uint64_t frames, unsigned cores) {
  if (!pg) pg = malloc(frames * sizeof *pg);
  nfr = frames; memset(pg, 0, frames * sizeof *pg);
  for (unsigned o = 0; o <= MAXO; o++) head[o] = NIL, nblk[o] = 0;
  for (uint64_t p = frames; p;) { p -= 1ull << MAXO; push(p, MAXO); }  /* frames % 1024 == 0 */
#ifdef PCP
  npcp = cores; memset(pcp, 0, sizeof pcp);
#else
  (void)cores;
#endif
}
uint64_t pf_alloc(unsigned core, unsigned order) {
#ifdef PCP
  if (!order) {
    if (!pcp[core].n) {
      lock();
      while (pcp[core].n < BATCH) { uint64_t p = b_alloc(0); if (p == PF_FAIL) break; pcp[core].s[pcp[core].n++] = (uint32_t)p; }
      unlock();
      if (!pcp[core].n) return PF_FAIL;
    }
    return pcp[core].s[--pcp[core].n];
  }
#endif
  (void)core; lock(); uint64_t p = b_alloc(order); unlock(); return p;
}
void pf_free(unsigned core, uint64_t pfn, unsigned order) {
#ifdef PCP
  if (!order) {
    pcp[core].s[pcp[core].n++] = (uint32_t)pfn;
    if (pcp[core].n > HIGH) {                 /* give the oldest BATCH back */
      lock(); for (unsigned i = 0; i < BATCH; i++) b_free(pcp[core].s[i], 0); unlock();
      pcp[core].n -= BATCH; memmove(pcp[core].s, pcp[core].s + BATCH, pcp[core].n * 4);
    }
    return;
  }
#endif
  (void)core; lock(); b_free(pfn, order); unlock();
}
void pf_drain(void) {
#ifdef PCP
  for (unsigned c = 0; c < npcp; c++) while (pcp[c].n) b_free(pcp[c].s[--pcp[c].n], 0);
#endif
}
uint64_t pf_free_frames(void) { uint64_t n = 0; for (unsigned o = 0; o <= MAXO; o++) n += nblk[o] << o; return n; }
uint64_t pf_free_order9(void) { return nblk[9] + 2 * nblk[10]; }
uint64_t pf_meta_bytes(void) {
  uint64_t m = nfr * sizeof *pg + sizeof head + sizeof nblk;
#ifdef PCP
  m += npcp * sizeof pcp[0];
#endif
  return m;
}
