/* SPDX-License-Identifier: MIT */
/* What of the panic code can be asked for on purpose. The rest is kernel/base/panic.h. */
#ifndef KERNEL_PANIC_H
#define KERNEL_PANIC_H

#include "kernel/cmdline.h"

/* Crash in the way that `panic=` names, or return for PANIC_NONE. Task context. */
void panic_on_purpose(enum cmdline_panic how);

#endif
