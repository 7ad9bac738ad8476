/* SPDX-License-Identifier: MIT */
/*
 * Aging. All memory is allocated frame by frame until there is none; then single frames, drawn at random
 * by frame number, are freed again: as many as the workload takes and the page tables may need, or one in eight. What is
 * free then lies scattered over all blocks, and in what order depends on the seed and the row's n alone, so that
 * every policy finds the same machine.
 */
#ifndef TESTS_LAB_AGING_H
#define TESTS_LAB_AGING_H

#include "kernel/base/rng.h"
#include "kernel/base/types.h"

/* Hold every frame there is, under a mark that nobody else uses (not 0). Returns how many. */
u64 aging_hold_all(u64 mark);
/* Free so many of the frames held, drawn at random; there are as many. */
void aging_free_some(struct rng *rng, u64 mark, u64 nr);
/* Free the rest. */
void aging_free_all(u64 mark);

/* Frames that the page tables of a row may take: one per block that can be split, and some for aliases. */
u64 aging_table_frames(void);

#endif
