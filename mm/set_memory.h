/* SPDX-License-Identifier: MIT */
/*
 * Rights by virtual address, in any mapping of the kernel half (SPEC PT2, PT5).
 *
 * W^X: a frame is never executable while any alias of it in a shared root is writable. A request that would break
 * this, or make a frame executable whose owner class does not allow it, is -EPERM.
 *
 * ro, rw and rox of another alias than the direct map's also change W of the direct-map alias, in the same batch; x and
 * nx leave that one NX. Who makes a frame read-only through an alias makes it writable again before the alias or the frame is
 * given up: unmapping one alias says nothing of the others (vfree() does it for the frames it owns). A call that finds nothing to do still waits until earlier changes of the range are flushed
 * everywhere.
 *
 * Task context, no spinlock held, interrupts on. 0 or a negative errno; on error nothing has changed, in tables,
 * counters or the TLB. va must be 4 KiB-aligned; nr counts 4 KiB pages.
 *   -EINVAL  not aligned, nr is 0, wraps, not in the kernel half
 *   -EFAULT  part of the range is not mapped (said before -EPERM, wherever the hole is)
 *   -EPERM   W^X or owner class. Also a frame that appears twice in one area, once writable, made executable there
 *   -ENOMEM  no frame for a table
 *   -EBUSY   (break-before-make) the leaf to split holds what the split itself runs on
 *   -EIO     a CPU that was given up: it may have rights that a request for others has to wait for; or it has not
 *            acknowledged this change, which is the one error after which the tables have changed
 */
#ifndef MM_SET_MEMORY_H
#define MM_SET_MEMORY_H

#include "mm/pgtable.h"

enum memory_rights {
	MEMORY_RO,
	MEMORY_RW,
	MEMORY_X,
	MEMORY_NX,
	MEMORY_ROX,
};

int set_memory_ro(u64 va, u64 nr) __must_check;
int set_memory_rw(u64 va, u64 nr) __must_check;
int set_memory_x(u64 va, u64 nr) __must_check;
int set_memory_nx(u64 va, u64 nr) __must_check;
int set_memory_rox(u64 va, u64 nr) __must_check;

/* The same as part of a batch: many changes, one shootdown. The caller finishes the batch, also after an error. */
int set_memory_batch(u64 va, u64 nr, enum memory_rights rights, struct tlb_batch *batch) __must_check;

#endif
