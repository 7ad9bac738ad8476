/* SPDX-License-Identifier: MIT */
/*
 * Formatting: the subset of printf that needs no allocation and no floating point.
 * Conversions d i u x X c s p %, flags - 0 #, width and precision (also *), lengths hh h l ll z.
 */
#ifndef KERNEL_BASE_FMT_H
#define KERNEL_BASE_FMT_H

#include <stdarg.h>

#include "kernel/base/types.h"

/*
 * Write at most size bytes, the closing NUL among them (none if size is 0). Returns the length the
 * whole text has, without the NUL: a result >= size means it was cut. Any context.
 */
size_t fmt_vprint(char *buf, size_t size, const char *fmt, va_list args);
size_t fmt_print(char *buf, size_t size, const char *fmt, ...) __printf(3, 4);

#endif
