/* SPDX-License-Identifier: MIT */
/*
 * For who stands before a machine with a screen: how far the run is and how long it may take, on a line that stays, and at the end
 * its result in large letters. The log says all of this, too; without a screen nothing happens.
 */
#ifndef TESTS_MACHINE_PROGRESS_H
#define TESTS_MACHINE_PROGRESS_H

#include "kernel/base/types.h"

/* Before the first run. */
void progress_begin(void);

/* Behind the report. */
void progress_end(bool pass);

#endif
