/* SPDX-License-Identifier: MIT */
/* Peer B: the interface that every page-table library implements to be measured. */
#ifndef PT_IF_H
#define PT_IF_H
#include <stdint.h>
#define PT_W  1u     /* writable */
#define PT_X  2u     /* executable */
struct pt_range { uint64_t va, pa, len; unsigned fl; };
extern const char *const pt_name;
void     pt_new(void);                                     /* empty 4-level table, 1 GiB leaves allowed; frees the old one */
int      pt_map(uint64_t va, uint64_t pa, uint64_t len, unsigned fl);   /* 0 = done; largest leaves that fit */
int      pt_unmap(uint64_t va, uint64_t len);
int      pt_protect(uint64_t va, uint64_t len, unsigned fl);            /* changes only W (and X) */
uint64_t pt_ranges(struct pt_range *out, uint64_t cap);    /* whole table as maximal equal ranges; returns their number */
uint64_t pt_root(void);                                    /* address of the PML4 (for the harness's own walker) */
uint64_t pt_pages_used(void);                              /* page-table pages handed out and not given back */
#endif
