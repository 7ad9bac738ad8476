/* SPDX-License-Identifier: MIT */
/* The log of a process. What mm/ uses of it is kernel/base/log.h. */
#ifndef TESTS_HOST_LOG_HOST_H
#define TESTS_HOST_LOG_HOST_H

#include "kernel/base/log.h"

/* Diagnostics go nowhere: for processes that are broken on purpose. */
extern bool log_silent;

#endif
