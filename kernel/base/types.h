/* SPDX-License-Identifier: MIT */
/*
 * The words every other file is written in.
 *
 * Physical addresses are wrapped in a struct, so that a physical and a virtual
 * address cannot be mixed up without the compiler saying so. Virtual addresses
 * are plain u64 (`va`), or pointers where they are about to be used.
 */
#ifndef KERNEL_BASE_TYPES_H
#define KERNEL_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

/* A physical address. */
typedef struct {
	u64 raw;
} phys_t;

static inline phys_t phys(u64 raw)
{
	return (phys_t){ raw };
}

/* A page-frame number: a physical address divided by 4 KiB. */
typedef u64 pfn_t;

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

#define PAGE_SHIFT 12
#define PAGE_SIZE (1ull << PAGE_SHIFT)

#define __must_check __attribute__((warn_unused_result))
#define __packed __attribute__((packed))
#define __aligned(n) __attribute__((aligned(n)))
#define __section(name) __attribute__((section(name)))
#define __used __attribute__((used))
#define __noreturn __attribute__((noreturn))
#define __noinline __attribute__((noinline))
#ifndef __always_inline	/* a libc in sight has it already */
#define __always_inline inline __attribute__((always_inline))
#endif
#define __printf(fmt, args) __attribute__((format(printf, fmt, args)))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
