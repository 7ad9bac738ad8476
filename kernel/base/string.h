/* SPDX-License-Identifier: MIT */
/*
 * The memory and string functions of the C library that the kernel uses (the compiler calls the
 * first four by itself). Implemented in kernel/base/string.c; a hosted build takes the libc's.
 */
#ifndef KERNEL_BASE_STRING_H
#define KERNEL_BASE_STRING_H

#include "kernel/base/types.h"

void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
char *strchr(const char *s, int c);

#endif
