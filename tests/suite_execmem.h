/* SPDX-License-Identifier: MIT */
/* Parts of the execmem suite that the machine's own suite repeats at length. */
#ifndef TESTS_SUITE_EXECMEM_H
#define TESTS_SUITE_EXECMEM_H

#include "kernel/base/types.h"

/* So many fills with the audit in the middle of each, as checks of the test that runs. */
void suite_execmem_audit_fills(u64 fills);

#endif
