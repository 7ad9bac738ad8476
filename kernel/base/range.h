/* SPDX-License-Identifier: MIT */
/* Half-open ranges of addresses (physical or virtual) or frame numbers: start is in, end is not. */
#ifndef KERNEL_BASE_RANGE_H
#define KERNEL_BASE_RANGE_H

#include "kernel/base/types.h"

struct range {
	u64 start;
	u64 end;
};

static inline struct range range(u64 start, u64 end)
{
	return (struct range){ start, end };
}

static inline struct range range_len(u64 start, u64 len)
{
	return (struct range){ start, start + len };
}

static inline u64 range_size(struct range r)
{
	return r.end - r.start;
}

static inline bool range_empty(struct range r)
{
	return r.start >= r.end;
}

static inline bool range_has(struct range r, u64 x)
{
	return x >= r.start && x < r.end;
}

static inline bool range_covers(struct range outer, struct range inner)
{
	return inner.start >= outer.start && inner.end <= outer.end;
}

static inline bool range_overlaps(struct range a, struct range b)
{
	return a.start < b.end && b.start < a.end;
}

static inline struct range range_intersect(struct range a, struct range b)
{
	return range(MAX(a.start, b.start), MIN(a.end, b.end));
}

#endif
