/* SPDX-License-Identifier: MIT */
/*
 * The audit: walk every root and prove W^X frame by frame (SPEC PT5).
 *
 * Found are: leaves that are writable and executable; executable leaves that map a frame whose class does not
 * allow it; frames executable through one alias and writable through another one of the kernel's, in whatever root; alias
 * counts in struct page that differ from what the walk sees. "Effective" rights count, ANDed over levels.
 * Registered windows (PT5: the poke window, EFI's W+X leaves) are counted apart.
 */
#ifndef MM_PT_AUDIT_H
#define MM_PT_AUDIT_H

#include "mm/pgtable.h"

enum pt_violation {
	PT_AUDIT_WX,		/* writable and executable leaf */
	PT_AUDIT_CLASS,		/* executable, wrong owner class */
	PT_AUDIT_CROSS,		/* executable here, writable there */
	PT_AUDIT_COUNT,		/* alias counts wrong */
	PT_AUDIT_KINDS,
};

struct pt_audit {
	u64 found[PT_AUDIT_KINDS];
	u64 windows;		/* registered windows that were found mapped */
	u64 leaves;		/* looked at */
	u64 exec_leaves;
	struct {		/* the first one found */
		enum pt_violation kind;
		const char *space;
		u64 va;
		u64 entry;
	} first;
};

/*
 * Walk everything. Returns the number of violations (windows are none). Task context, no lock held; other CPUs may go on
 * meanwhile, and wait where they change a mapping.
 */
u64 pt_audit(struct pt_audit *out);

/* Register and forget a range of a space in which a writable alias of executable frames is expected. */
int pt_audit_window_add(struct pt_space *space, struct range va) __must_check;
void pt_audit_window_remove(struct pt_space *space, struct range va);

#endif
