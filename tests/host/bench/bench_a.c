/* SPDX-License-Identifier: MIT */
/* Peer A harness. Usage: bench_a time|instr|verify [reps]     (own code)
 * Every operation list is made before the clock starts, from splitmix64 with the seeds below,
 * and does not depend on what the allocator answers (a failed alloc leaves its slot empty,
 * and the free of an empty slot is skipped). */
#define _GNU_SOURCE
#include "pf_if.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <pthread.h>
#include <sched.h>
#include <valgrind/callgrind.h>
#define FRAMES (1ull << 20)            /* 4 GiB of 4 KiB */
#define MAXTH 2
enum { TIME, INSTR, VERIFY }; static int mode, reps = 7;
static uint64_t sm_next(uint64_t *s) { uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull; z = (z ^ (z >> 27)) * 0x94D049BB133111EBull; return z ^ (z >> 31); }
static uint32_t sm_below(uint64_t *s, uint32_t n) { return (uint32_t)(((sm_next(s) >> 32) * (uint64_t)n) >> 32); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
/* ---- shadow state for verify mode ---- */
static uint8_t *shadow; static uint64_t errs;
static void sh_set(uint64_t p, unsigned o, int v) {
  if (p == PF_FAIL) return;
  if ((p & ((1ull << o) - 1)) || p + (1ull << o) > FRAMES) { errs++; return; }
  for (uint64_t i = 0; i < 1ull << o; i++) { if (shadow[p + i] == v) errs++; shadow[p + i] = (uint8_t)v; }
}
static inline uint64_t A(unsigned c, unsigned o) { uint64_t p = pf_alloc(c, o); if (__builtin_expect(mode == VERIFY, 0)) sh_set(p, o, 1); return p; }
static inline void F(unsigned c, uint64_t p, unsigned o) { if (__builtin_expect(mode == VERIFY, 0)) sh_set(p, o, 0); pf_free(c, p, o); }
/* ---- traces ---- */
struct op { uint32_t slot; int8_t order; uint8_t free; };
struct trace { struct op *fill, *churn; uint32_t nfill, nchurn, slots, nlive; uint32_t *live; int8_t *sorder; };
/* geometric: order o with weight 2^(9-o) (each order has equal memory); uniform: each order 1/10 */
static unsigned pick_order(uint64_t *s, int uni) {
  if (uni) return sm_below(s, 10);
  uint32_t r = sm_below(s, 1023), acc = 0;
  for (unsigned o = 0; o < 10; o++) { acc += 512u >> o; if (r < acc) return o; }
  return 9;
}
static void make_trace(struct trace *t, uint64_t seed, uint64_t frames, uint32_t nchurn, int uni) {
  uint64_t s = seed, live = 0, lo = frames * 70 / 100, mid = frames * 75 / 100, hi = frames * 80 / 100;
  uint32_t cap = (uint32_t)frames + nchurn;
  t->fill = malloc(frames * sizeof(struct op)); t->churn = malloc(nchurn * sizeof(struct op));
  t->live = malloc(cap * 4); t->sorder = malloc(cap); t->nfill = t->nchurn = t->slots = t->nlive = 0;
  while (live < mid) {
    unsigned o = pick_order(&s, uni); uint32_t sl = t->slots++;
    t->fill[t->nfill++] = (struct op){sl, (int8_t)o, 0}; t->sorder[sl] = (int8_t)o; t->live[t->nlive++] = sl; live += 1ull << o;
  }
  while (t->nchurn < nchurn) {
    int al = live < lo ? 1 : live > hi ? 0 : (int)(sm_next(&s) >> 63);
    if (al) {
      unsigned o = pick_order(&s, uni); uint32_t sl = t->slots++;
      t->churn[t->nchurn++] = (struct op){sl, (int8_t)o, 0}; t->sorder[sl] = (int8_t)o; t->live[t->nlive++] = sl; live += 1ull << o;
    } else {
      uint32_t i = sm_below(&s, t->nlive), sl = t->live[i]; t->live[i] = t->live[--t->nlive];
      t->churn[t->nchurn++] = (struct op){sl, t->sorder[sl], 1}; live -= 1ull << t->sorder[sl];
    }
  }
}
/* ---- results ---- */
struct res { char key[64]; unsigned th; uint64_t ops; double v[64]; int n; };
static struct res R[64]; static int nR;
static struct res *res(const char *k, unsigned th) {
  for (int i = 0; i < nR; i++) if (R[i].th == th && !strcmp(R[i].key, k)) return &R[i];
  snprintf(R[nR].key, 64, "%s", k); R[nR].th = th; return &R[nR++];
}
static void fig(const char *work, const char *metric, double v) { printf("peer=A impl=%s threads=1 work=%s metric=%s value=%.6g\n", pf_name, work, metric, v); }
static uint64_t t0;
static void begin(void) { if (mode == INSTR) { CALLGRIND_ZERO_STATS; } t0 = now(); }
static void end(const char *k, unsigned th, uint64_t ops) {
  uint64_t t = now() - t0;
  if (mode == INSTR) { char b[96]; snprintf(b, 96, "%s:%llu", k, (unsigned long long)ops); CALLGRIND_DUMP_STATS_AT(b); return; }
  struct res *r = res(k, th); r->ops = ops; if (r->n < 64) r->v[r->n++] = (double)t / (double)ops;
}
static int cmpd(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }
static void report(void) {
  if (mode != TIME) return;
  for (int i = 0; i < nR; i++) { struct res *r = &R[i]; qsort(r->v, r->n, sizeof(double), cmpd);
    printf("peer=A impl=%s threads=%u work=%s metric=ns_per_op value=%.2f min=%.2f reps=%d ops=%llu\n",
      pf_name, r->th, r->key, r->v[r->n / 2], r->v[0], r->n, (unsigned long long)r->ops); }
}
/* ---- single core ---- */
static uint64_t *fr;
static void check(const char *w, uint64_t want) {
  pf_drain(); uint64_t g = pf_free_frames();
  if (g != want && strcmp(pf_name, "null")) { fprintf(stderr, "%s %s: free frames %llu, want %llu\n", pf_name, w, (unsigned long long)g, (unsigned long long)want); errs++; }
}
static void shuffle(uint32_t *a, uint32_t n, uint64_t *s) { for (uint32_t i = n; i > 1; i--) { uint32_t j = sm_below(s, i), x = a[i - 1]; a[i - 1] = a[j]; a[j] = x; } }
static void w0(void) { pf_init(FRAMES, 1); begin(); for (uint32_t i = 0; i < 1000000; i++) { uint64_t p = A(0, 0); F(0, p, 0); } end("w0_pair0", 1, 1000000); check("w0", FRAMES); }
static void w1(int rep) {
  uint64_t n = 0, p; pf_init(FRAMES, 1); int nul = !strcmp(pf_name, "null");
  begin(); while (n < FRAMES && (p = A(0, 0)) != PF_FAIL) fr[n++] = p; if (!nul && A(0, 0) != PF_FAIL) errs++; end("w1_bulk0_alloc", 1, n);
  if (n != FRAMES) { fprintf(stderr, "w1: only %llu\n", (unsigned long long)n); errs++; }
  begin(); for (uint64_t i = 0; i < n; i++) F(0, fr[i], 0); end("w1_bulk0_free", 1, n);
  check("w1", FRAMES); if (!rep) { fig("w1_bulk0", "order9_free_after", (double)pf_free_order9()); fig("any", "meta_bytes_per_frame", (double)pf_meta_bytes() / FRAMES); }
}
static uint64_t alloc9_until_full(void) { uint64_t n = 0, *v = malloc(4096 * 8); while (n < 4096 && (v[n] = A(0, 9)) != PF_FAIL) n++; for (uint64_t i = 0; i < n; i++) F(0, v[i], 9); free(v); return n; }
#define N90 943718u
static uint32_t *w2i;
static void w2(int rep) {
  pf_init(FRAMES, 1); for (uint32_t i = 0; i < N90; i++) fr[i] = A(0, 0);
  begin(); for (uint32_t i = 0; i < 1000000; i++) { uint32_t k = w2i[i]; F(0, fr[k], 0); fr[k] = A(0, 0); } end("w2_churn0_pair", 1, 1000000);
  check("w2", FRAMES - N90);
  if (rep || !strcmp(pf_name, "null")) return;
  fig("w2_churn0", "order9_free_at_90pct", (double)pf_free_order9());
  uint32_t *ix = malloc(N90 * 4); for (uint32_t i = 0; i < N90; i++) ix[i] = i; uint64_t s = 0x5EED0003; shuffle(ix, N90, &s);
  for (uint32_t i = 0; i < N90 / 2; i++) F(0, fr[ix[i]], 0);
  check("w2b", FRAMES - N90 + N90 / 2); fig("w2_churn0", "order9_free_after_random_half_freed", (double)pf_free_order9());
  fig("w2_churn0", "order9_alloc_after_random_half_freed", (double)alloc9_until_full());
  for (uint32_t i = N90 / 2; i < N90; i++) F(0, fr[ix[i]], 0);
  check("w2c", FRAMES); fig("w2_churn0", "order9_free_after_all_freed", (double)pf_free_order9()); free(ix);
}
static uint32_t *w2bi;   /* 15625 batches of 64 distinct indices */
static void w2b(int rep) {
  pf_init(FRAMES, 1); for (uint32_t i = 0; i < N90; i++) fr[i] = A(0, 0);
  begin();
  for (uint32_t b = 0; b < 15625; b++) { const uint32_t *k = w2bi + b * 64;
    for (int j = 0; j < 64; j++) F(0, fr[k[j]], 0);
    for (int j = 0; j < 64; j++) fr[k[j]] = A(0, 0); }
  end("w2b_churn0_batch64_pair", 1, 1000000); check("w2b", FRAMES - N90);
  if (rep || !strcmp(pf_name, "null")) return;
  fig("w2b_churn0_batch64", "order9_free_at_90pct", (double)pf_free_order9());
  uint32_t *ix = malloc(N90 * 4); for (uint32_t i = 0; i < N90; i++) ix[i] = i; uint64_t s = 0x5EED0003; shuffle(ix, N90, &s);
  for (uint32_t i = 0; i < N90 / 2; i++) F(0, fr[ix[i]], 0);
  check("w2b.half", FRAMES - N90 + N90 / 2); fig("w2b_churn0_batch64", "order9_free_after_random_half_freed", (double)pf_free_order9());
  free(ix);
}
static void w3(struct trace *t, const char *tag, int rep) {
  char k[64]; uint64_t *sl = malloc(t->slots * 8ull); uint64_t fails[11] = {0}, nf = 0; memset(sl, 0xff, t->slots * 8ull);
  pf_init(FRAMES, 1);
  begin(); for (uint32_t i = 0; i < t->nfill; i++) { struct op o = t->fill[i]; if ((sl[o.slot] = A(0, o.order)) == PF_FAIL) fails[o.order]++; }
  snprintf(k, 64, "%s_fill", tag); end(k, 1, t->nfill);
  begin();
  for (uint32_t i = 0; i < t->nchurn; i++) { struct op o = t->churn[i];
    if (o.free) { if (sl[o.slot] != PF_FAIL) { F(0, sl[o.slot], o.order); sl[o.slot] = PF_FAIL; } }
    else if ((sl[o.slot] = A(0, o.order)) == PF_FAIL) fails[o.order]++; }
  snprintf(k, 64, "%s_churn", tag); end(k, 1, t->nchurn);
  if (!rep && strcmp(pf_name, "null")) {
    uint64_t live = 0; for (uint32_t i = 0; i < t->nlive; i++) if (sl[t->live[i]] != PF_FAIL) live += 1ull << t->sorder[t->live[i]];
    check(tag, FRAMES - live);
    for (int o = 0; o < 10; o++) { nf += fails[o]; if (fails[o]) { snprintf(k, 64, "failed_allocs_order%d", o); fig(tag, k, (double)fails[o]); } }
    fig(tag, "failed_allocs", (double)nf); fig(tag, "live_frames_end", (double)live); fig(tag, "order9_free_after_churn", (double)pf_free_order9());
    uint32_t *ix = malloc(t->nlive * 4ull); memcpy(ix, t->live, t->nlive * 4ull); uint64_t s = 0x5EED0004; shuffle(ix, t->nlive, &s); uint64_t lv = live;
    for (uint32_t i = 0; i < t->nlive / 2; i++) if (sl[ix[i]] != PF_FAIL) { F(0, sl[ix[i]], t->sorder[ix[i]]); lv -= 1ull << t->sorder[ix[i]]; }
    check(tag, FRAMES - lv); fig(tag, "free_frames_after_random_half_freed", (double)(FRAMES - lv));
    fig(tag, "order9_free_after_random_half_freed", (double)pf_free_order9()); fig(tag, "order9_alloc_after_random_half_freed", (double)alloc9_until_full());
    for (uint32_t i = t->nlive / 2; i < t->nlive; i++) if (sl[ix[i]] != PF_FAIL) F(0, sl[ix[i]], t->sorder[ix[i]]);
    check(tag, FRAMES); fig(tag, "order9_free_after_all_freed", (double)pf_free_order9()); free(ix);
  }
  free(sl);
}
static void w4(void) {
  pf_init(FRAMES, 1); uint64_t n = 0;
  begin(); for (int r = 0; r < 64; r++) { for (n = 0; n < 2048; n++) { fr[n] = A(0, 9); if (fr[n] == PF_FAIL) { errs++; break; } } for (uint64_t i = 0; i < n; i++) F(0, fr[i], 9); }
  end("w4_order9_pair", 1, 64 * 2048); check("w4", FRAMES);
}
/* ---- two threads ---- */
struct th { pthread_t t; unsigned id; struct trace *tr; uint64_t *fr, *sl, n; uint32_t *ix; uint64_t a[4], b[4]; };
static pthread_barrier_t bar; static struct th T[MAXTH];
#define PHASE(i, body) pthread_barrier_wait(&bar); h->a[i] = now(); body; h->b[i] = now(); pthread_barrier_wait(&bar);
static int tw;
static void *thmain(void *p) {
  struct th *h = p; unsigned c = h->id; cpu_set_t m; CPU_ZERO(&m); CPU_SET(c, &m); pthread_setaffinity_np(pthread_self(), sizeof m, &m);
  uint64_t q;
  if (tw == 0) { PHASE(0, for (uint32_t i = 0; i < 1000000; i++) { q = pf_alloc(c, 0); pf_free(c, q, 0); }) }
  if (tw == 1) { PHASE(0, h->n = 0; while (h->n < FRAMES && (q = pf_alloc(c, 0)) != PF_FAIL) h->fr[h->n++] = q;) PHASE(1, for (uint64_t i = 0; i < h->n; i++) pf_free(c, h->fr[i], 0);) }
  if (tw == 2) { PHASE(0, for (uint32_t i = 0; i < N90 / 2; i++) h->fr[i] = pf_alloc(c, 0);) PHASE(1, for (uint32_t i = 0; i < 500000; i++) { uint32_t k = h->ix[i]; pf_free(c, h->fr[k], 0); h->fr[k] = pf_alloc(c, 0); }) }
  if (tw == 3) { struct trace *t = h->tr;
    PHASE(0, for (uint32_t i = 0; i < t->nfill; i++) h->sl[t->fill[i].slot] = pf_alloc(c, t->fill[i].order);)
    PHASE(1, for (uint32_t i = 0; i < t->nchurn; i++) { struct op o = t->churn[i]; if (o.free) { if (h->sl[o.slot] != PF_FAIL) { pf_free(c, h->sl[o.slot], o.order); h->sl[o.slot] = PF_FAIL; } } else h->sl[o.slot] = pf_alloc(c, o.order); }) }
  if (tw == 4) { PHASE(0, for (int r = 0; r < 64; r++) { for (h->n = 0; h->n < 1024; h->n++) if ((h->fr[h->n] = pf_alloc(c, 9)) == PF_FAIL) break; for (uint64_t i = 0; i < h->n; i++) pf_free(c, h->fr[i], 9); }) }
  return 0;
}
static void mt(int w, int ph, const char *k, uint64_t ops) {   /* ops: total over both threads; ns_per_op = wall / (ops per thread) */
  uint64_t a = UINT64_MAX, b = 0; for (int i = 0; i < MAXTH; i++) { if (T[i].a[ph] < a) a = T[i].a[ph]; if (T[i].b[ph] > b) b = T[i].b[ph]; }
  (void)w; struct res *r = res(k, MAXTH); r->ops = ops; if (r->n < 64) r->v[r->n++] = (double)(b - a) / ((double)ops / MAXTH);
}
static void run_mt(int w) {
  pf_init(FRAMES, MAXTH); tw = w; pthread_barrier_init(&bar, 0, MAXTH);
  for (int i = 0; i < MAXTH; i++) { if (w == 3) memset(T[i].sl, 0xff, T[i].tr->slots * 8ull); pthread_create(&T[i].t, 0, thmain, &T[i]); }
  for (int i = 0; i < MAXTH; i++) pthread_join(T[i].t, 0);
  if (w == 0) mt(w, 0, "w0_pair0", 2000000);
  if (w == 1) { uint64_t n = T[0].n + T[1].n; if (n < FRAMES - 2 * 512 && strcmp(pf_name, "null")) { fprintf(stderr, "mt w1 only %llu\n", (unsigned long long)n); } mt(w, 0, "w1_bulk0_alloc", n); mt(w, 1, "w1_bulk0_free", n); check("mt w1", FRAMES); }
  if (w == 2) { mt(w, 1, "w2_churn0_pair", 1000000); check("mt w2", FRAMES - 2 * (N90 / 2)); }
  if (w == 3) mt(w, 1, "w3_mixgeo_churn", T[0].tr->nchurn + T[1].tr->nchurn);
  if (w == 4) { mt(w, 0, "w4_order9_pair", 64 * 2048); check("mt w4", FRAMES); }
}
int main(int c, char **v) {
  mode = c > 1 && !strcmp(v[1], "instr") ? INSTR : c > 1 && !strcmp(v[1], "verify") ? VERIFY : TIME; if (c > 2) reps = atoi(v[2]); if (mode != TIME) reps = 1;
  cpu_set_t m; CPU_ZERO(&m); CPU_SET(0, &m); if (mode == TIME) sched_setaffinity(0, sizeof m, &m);
  fr = malloc(FRAMES * 8); memset(fr, 0, FRAMES * 8); shadow = calloc(FRAMES, 1); w2i = malloc(4000000);
  uint64_t s = 0x5EED0002; for (uint32_t i = 0; i < 1000000; i++) w2i[i] = sm_below(&s, N90);
  w2bi = malloc(4000000); s = 0x5EED0005; for (uint32_t b = 0; b < 15625; b++) for (int j = 0; j < 64; j++) { again:; uint32_t x = sm_below(&s, N90); for (int q = 0; q < j; q++) if (w2bi[b * 64 + q] == x) goto again; w2bi[b * 64 + j] = x; }
  static struct trace g, u; make_trace(&g, 0x5EED0030, FRAMES, 1000000, 0); make_trace(&u, 0x5EED0031, FRAMES, 1000000, 1);
  printf("peer=A impl=%s trace w3_mixgeo fill=%u churn=%u live=%u ; w3_mixuni fill=%u churn=%u live=%u\n", pf_name, g.nfill, g.nchurn, g.nlive, u.nfill, u.nchurn, u.nlive);
  int only_mt = !!getenv("ONLY_MT");   /* ONLY_MT=1: just the two-thread figures */
  for (int r = 0; r < (only_mt ? 0 : reps); r++) {
#define V if (mode == VERIFY) memset(shadow, 0, FRAMES)
    V; { begin(); pf_init(FRAMES, 1); if (mode != INSTR) end("init_per_frame", 1, FRAMES); } w0(); V; w1(r); V; w2(r); V; w2b(r); V; w3(&g, "w3_mixgeo", r); V; w3(&u, "w3_mixuni", r); V; w4();
  }
  if (mode == TIME && pf_mt) {
    for (int i = 0; i < MAXTH; i++) { T[i].id = i; T[i].fr = malloc(FRAMES * 8); memset(T[i].fr, 0, FRAMES * 8); T[i].tr = malloc(sizeof(struct trace));
      make_trace(T[i].tr, 0x5EED0040 + i, FRAMES / 2, 500000, 0); T[i].sl = malloc(T[i].tr->slots * 8ull); memset(T[i].sl, 0xff, T[i].tr->slots * 8ull);
      T[i].ix = malloc(500000 * 4); uint64_t q = 0x5EED0020 + i; for (int j = 0; j < 500000; j++) T[i].ix[j] = sm_below(&q, N90 / 2); }
    for (int r = 0; r < reps; r++) for (int w = 0; w <= 4; w++) run_mt(w);
  }
  report(); if (mode == VERIFY) printf("peer=A impl=%s metric=verify_errors value=%llu\n", pf_name, (unsigned long long)errs);
  return errs && strcmp(pf_name, "null") ? 1 : 0;
}
