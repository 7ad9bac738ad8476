/* SPDX-License-Identifier: MIT */
/*
 * Error numbers. Functions that can fail return 0 or one of these, negated.
 * The values are those of POSIX systems on x86-64, so that a hosted build may
 * print them with strerror(); with a libc's own <errno.h> in sight that one is used.
 */
#ifndef KERNEL_BASE_ERRNO_H
#define KERNEL_BASE_ERRNO_H

#if __STDC_HOSTED__
#include <errno.h>
#else
#define EPERM 1		/* the request would break a protection rule (W^X, owner class) */
#define ENOENT 2	/* nothing of that name */
#define EIO 5		/* a device did not answer */
#define E2BIG 7		/* more than there can be */
#define ENOEXEC 8	/* not an executable of the right kind */
#define EAGAIN 11	/* try again: something changed under the caller */
#define ENOMEM 12	/* no frame (or object) to be had */
#define EFAULT 14	/* an address that is not mapped */
#define EBUSY 16	/* in use, already mapped */
#define EEXIST 17	/* already there */
#define ENODEV 19	/* no such hardware */
#define EINVAL 22	/* an argument out of its documented range */
#define ENOSPC 28	/* no room in an address range */
#define ERANGE 34	/* outside the object */
#define ENOSYS 38	/* not on this machine */
#define EOVERFLOW 75	/* a counter or field is too small */
#define ETIMEDOUT 110	/* no answer in time */
#endif

#endif
