/* SPDX-License-Identifier: MIT */
/* Peer A: the interface that every page-frame allocator implements to be measured.
 * Linked as a separate object (no LTO), so each operation pays one direct call. */
#ifndef PF_IF_H
#define PF_IF_H
#include <stdint.h>
#define PF_FAIL UINT64_MAX
#ifdef __cplusplus
extern "C" {
#endif
extern const char *const pf_name;
extern const int pf_mt;                              /* 1: safe to call from two threads */
void     pf_init(uint64_t frames, unsigned cores);   /* (re)initialise: every frame free */
uint64_t pf_alloc(unsigned core, unsigned order);    /* 2^order frames, naturally aligned; PF_FAIL */
void     pf_free(unsigned core, uint64_t pfn, unsigned order);
void     pf_drain(void);                             /* give per-core caches back (untimed) */
uint64_t pf_free_frames(void);                       /* after pf_drain */
uint64_t pf_free_order9(void);                       /* free aligned 512-frame blocks, after pf_drain */
uint64_t pf_meta_bytes(void);                        /* all metadata for `frames` */
#ifdef __cplusplus
}
#endif
#endif
