/* SPDX-License-Identifier: MIT */
/*
 * A flat model of the kernel's mappings: for each frame whether it is in the direct map and writable there,
 * for each page of one area which frame it maps and with what rights. It knows nothing of tables, leaves,
 * splits or TLBs. Each operation says what the real one must return, by SPEC (PT2, PT5) and the documentation
 * of set_memory.h, directmap.h and kernel_map.h, and makes the change if that is 0.
 *
 * Only the frames given to it are known; operations on others are not its business.
 */
#ifndef TESTS_HOST_MODEL_H
#define TESTS_HOST_MODEL_H

#include "kernel/base/types.h"
#include "mm/set_memory.h"

struct model_frame {
	u32 pfn;
	bool direct;		/* in the direct map */
	bool direct_w;		/* writable there; meaningless if it is not in it */
	bool exec_class;	/* its owner class may be executable */
	u16 w, x;		/* writable and executable aliases, in the area or not */
};

/* A page of the area. */
struct model_page {
	u32 frame;		/* index + 1, 0: nothing mapped */
	bool w, x;
};

struct model {
	struct model_frame *frames;
	u32 nr_frames, max_frames;
	u32 *index;		/* by frame number: index + 1, 0: not known */
	u64 max_pfn;
	struct model_page *pages;
	u64 va;			/* of page 0 of the area */
	u64 nr_pages;
};

/* What a page is expected to be. */
struct model_view {
	bool present, w, x;
	u64 pfn;
};

void model_init(struct model *m, u64 max_frames, u64 max_pfn, u64 va, u64 nr_pages);
void model_free(struct model *m);
/* Frames as the allocator gave them: in the direct map, writable. */
void model_add(struct model *m, u64 pfn, u64 nr, bool exec_class);

struct model_frame *model_frame(struct model *m, u64 pfn);
/* false: the address is of neither the area nor the direct map of a known frame. */
bool model_at(struct model *m, u64 va, struct model_view *out);

int model_set_memory(struct model *m, u64 va, u64 nr, enum memory_rights rights);
int model_set_direct(struct model *m, u64 pfn, u64 nr, bool valid);
/* Page i of the range gets pfns[i]. */
int model_map(struct model *m, u64 va, const u64 *pfns, u64 nr, bool w, bool x);
int model_unmap(struct model *m, u64 va, u64 nr);

#endif
