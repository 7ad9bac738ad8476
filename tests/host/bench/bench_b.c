/* SPDX-License-Identifier: MIT */
/* Peer B harness (own code). Usage: bench_b time|instr|verify [reps]
 * Op lists are made before the clock from splitmix64; every stage is checked by an independent walker in verify mode. */
#define _GNU_SOURCE
#include "pt_if.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sched.h>
#include <valgrind/callgrind.h>
#define G (1ull << 30)
#define NPG (1u << 20)
#define BASE (1ull << 40)           /* where the 4 KiB-stepped window lies */
enum { TIME, INSTR, VERIFY }; static int mode, reps = 7, rep; static uint64_t errs;
static uint64_t sm_next(uint64_t *s) { uint64_t z = (*s += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull; z = (z ^ (z >> 27)) * 0x94D049BB133111EBull; return z ^ (z >> 31); }
static uint32_t sm_below(uint64_t *s, uint32_t n) { return (uint32_t)(((sm_next(s) >> 32) * (uint64_t)n) >> 32); }
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
struct res { char key[64]; uint64_t ops; double v[64]; int n; }; static struct res R[64]; static int nR; static uint64_t t0;
static void begin(void) { if (mode == INSTR) { CALLGRIND_ZERO_STATS; } t0 = now(); }
static void end(const char *k, uint64_t ops) { uint64_t t = now() - t0;
  if (mode == INSTR) { char b[96]; snprintf(b, 96, "%s:%llu", k, (unsigned long long)ops); CALLGRIND_DUMP_STATS_AT(b); return; }
  struct res *r = 0; for (int i = 0; i < nR; i++) if (!strcmp(R[i].key, k)) r = &R[i];
  if (!r) { r = &R[nR++]; snprintf(r->key, 64, "%s", k); } r->ops = ops; r->v[r->n++] = (double)t / ops; }
static int cmpd(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return x < y ? -1 : x > y; }
static void fig(const char *w, const char *m, uint64_t v) { if (!rep) printf("peer=B impl=%s work=%s metric=%s value=%llu\n", pt_name, w, m, (unsigned long long)v); }
static void OK(int x, const char *w) { if (x) { errs++; if (errs < 10) fprintf(stderr, "%s: operation failed\n", w); } }
/* own walker: returns leaf level (1..3; 0 = not mapped), pa, effective W */
static int walk(uint64_t va, uint64_t *pa, int *w) {
  uint64_t *t = (uint64_t *)pt_root(); *w = 1; if (!t) return 0;
  for (int l = 4; l; l--) { uint64_t e = t[(va >> (12 + 9 * (l - 1))) & 511]; if (!(e & 1)) return 0; if (!(e & 2)) *w = 0;
    if (l == 1 || (l < 4 && (e & 0x80))) { uint64_t m = (1ull << (12 + 9 * (l - 1))) - 1; *pa = (e & 0xFFFFFFFFFF000ull & ~m) | (va & m); return l; }
    t = (uint64_t *)(e & 0xFFFFFFFFFF000ull); }
  return 0; }
static uint64_t count_tables(uint64_t *t, int l) { uint64_t n = 1; if (l == 1) return 1; for (int i = 0; i < 512; i++) if ((t[i] & 1) && !(l < 4 && (t[i] & 0x80))) n += count_tables((uint64_t *)(t[i] & 0xFFFFFFFFFF000ull), l - 1); return n; }
static void stage(const char *w) { fig(w, "pt_pages", pt_pages_used()); if (!rep) { fig(w, "pt_pages_reachable", pt_root() ? count_tables((uint64_t *)pt_root(), 4) : 0); fig(w, "ranges", pt_ranges(0, 0)); } }
static uint8_t *ro; static uint32_t ix[4096], perm[4096];
static void chk_id(const char *w) { if (mode != VERIFY) return; for (uint32_t i = 0; i < NPG; i++) { uint64_t pa; int wr; uint64_t va = (uint64_t)i << 12; int l = walk(va, &pa, &wr);
  if (!l || pa != va || wr != !ro[i]) { if (errs++ < 5) fprintf(stderr, "%s: va %llx l %d pa %llx w %d\n", w, (unsigned long long)va, l, (unsigned long long)pa, wr); } }
  uint64_t pa; int wr; if (walk(4 * G, &pa, &wr)) errs++;
  static struct pt_range r[16384]; uint64_t n = pt_ranges(r, 16384), at = 0; if (n > 16384) { errs++; return; }
  for (uint64_t i = 0; i < n; i++) { if (r[i].va != at || r[i].pa != at) errs++; for (uint64_t p = r[i].va >> 12; p < (r[i].va + r[i].len) >> 12; p++) if (!!(r[i].fl & PT_W) != !ro[p]) errs++; at += r[i].len; }
  if (at != 4 * G) errs++; }
static void parse(const char *k, int n) { begin(); for (int i = 0; i < n; i++) pt_ranges(0, 0); end(k, n); }
static void identity(void) { pt_new(); for (int i = 0; i < 4; i++) OK(pt_map(i * G, i * G, G, PT_W | PT_X), "identity"); }
static void all(void) {
  char k[64]; (void)k; memset(ro, 0, NPG);
  begin(); for (int i = 0; i < 1000; i++) identity(); end("b0_identity4G_1Gleaves", 1000); /* one op = pt_new + 4 pt_map of 1 GiB */ stage("b0"); chk_id("b0"); parse("b4_parse_b0", 2000);
  begin(); for (int i = 0; i < 4096; i++) OK(pt_protect((uint64_t)ix[i] << 12, 4096, 0), "ro"); end("b1_ro_4096random", 4096);
  for (int i = 0; i < 4096; i++) ro[ix[i]] = 1;
  stage("b1"); chk_id("b1");
  begin(); for (int i = 0; i < 4096; i++) OK(pt_protect((uint64_t)ix[i] << 12, 4096, 0), "ro2"); end("b1b_ro_again_noop", 4096); stage("b1b");
  parse("b4_parse_b1", 20);
  begin(); for (int i = 0; i < 4096; i++) OK(pt_protect((uint64_t)ix[perm[i]] << 12, 4096, PT_W), "rw"); end("b2_rw_4096restore", 4096);
  memset(ro, 0, NPG); stage("b2"); chk_id("b2"); parse("b4_parse_b2", 20);
  begin(); for (int i = 0; i < 4; i++) OK(pt_map(i * G, i * G, G, PT_W | PT_X), "remap"); end("b2b_remap4G_1Gcalls", 4); stage("b2b"); chk_id("b2b");
  pt_new();
  begin(); for (uint32_t i = 0; i < 262144; i++) OK(pt_map(BASE + ((uint64_t)i << 12), 4 * G + ((uint64_t)i << 12), 4096, PT_W), "map4k"); end("b3_map1G_4Ksteps", 262144); stage("b3map");
  if (mode == VERIFY) for (uint32_t i = 0; i < 262144; i++) { uint64_t pa; int w; if (!walk(BASE + ((uint64_t)i << 12), &pa, &w) || pa != 4 * G + ((uint64_t)i << 12) || !w) errs++; }
  parse("b4_parse_b3map", 20);
  begin(); for (uint32_t i = 0; i < 262144; i++) OK(pt_unmap(BASE + ((uint64_t)i << 12), 4096), "unmap4k"); end("b3_unmap1G_4Ksteps", 262144); stage("b3unmap");
  if (mode == VERIFY) for (uint32_t i = 0; i < 262144; i++) { uint64_t pa; int w; if (walk(BASE + ((uint64_t)i << 12), &pa, &w)) errs++; }
  parse("b4_parse_b3unmap", 20);
  begin(); for (uint32_t i = 0; i < 262144; i++) OK(pt_map(BASE + ((uint64_t)i << 12), 4 * G + ((uint64_t)i << 12), 4096, PT_W), "remap4k"); end("b3_map1G_4Ksteps_again", 262144); stage("b3map2");
  pt_new(); begin(); OK(pt_map(BASE, 4 * G + 4096, G, PT_W), "mapbulk"); end("b3_map1G_onecall_4Kleaves_per_page", 262144); stage("b3bulk");
  begin(); OK(pt_protect(BASE, G, 0), "protbulk"); end("b3_protect1G_onecall_per_page", 262144);
  begin(); OK(pt_unmap(BASE, G), "unmapbulk"); end("b3_unmap1G_onecall_per_page", 262144); stage("b3bulkunmap");
  pt_new(); begin(); OK(pt_map(BASE, 4 * G, G, PT_W), "map1g"); end("b3_map1G_onecall_1Gleaf", 1); stage("b3big");
}
int main(int c, char **v) {
  mode = c > 1 && !strcmp(v[1], "instr") ? INSTR : c > 1 && !strcmp(v[1], "verify") ? VERIFY : TIME; if (c > 2) reps = atoi(v[2]); if (mode != TIME) reps = 1;
  cpu_set_t m; CPU_ZERO(&m); CPU_SET(c > 3 ? atoi(v[3]) : 1, &m); if (mode == TIME) sched_setaffinity(0, sizeof m, &m);
  ro = calloc(NPG, 1); uint64_t s = 0x5EED0100; uint32_t dup = 0, t2 = 0; static uint8_t seen[NPG], s2[2048];
  for (int i = 0; i < 4096; i++) { ix[i] = sm_below(&s, NPG); dup += seen[ix[i]]; seen[ix[i]] = 1; if (!s2[ix[i] >> 9]) { s2[ix[i] >> 9] = 1; t2++; } }
  s = 0x5EED0101; for (uint32_t i = 0; i < 4096; i++) perm[i] = i; for (uint32_t i = 4096; i > 1; i--) { uint32_t j = sm_below(&s, i), x = perm[i - 1]; perm[i - 1] = perm[j]; perm[j] = x; }
  rep = 0; fig("list", "duplicate_pages", dup); fig("list", "distinct_2M_regions", t2);
  for (rep = 0; rep < reps; rep++) all();
  if (mode == TIME) for (int i = 0; i < nR; i++) { struct res *r = &R[i]; qsort(r->v, r->n, sizeof(double), cmpd); printf("peer=B impl=%s work=%s metric=ns_per_op value=%.2f min=%.2f reps=%d ops=%llu\n", pt_name, r->key, r->v[r->n / 2], r->v[0], r->n, (unsigned long long)r->ops); }
  if (mode == VERIFY) printf("peer=B impl=%s metric=verify_errors value=%llu\n", pt_name, (unsigned long long)errs);
  return errs != 0;
}
