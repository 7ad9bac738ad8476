/* SPDX-License-Identifier: MIT */
/* The tests as the kernel's payload. */
#ifndef TESTS_MACHINE_PAYLOAD_H
#define TESTS_MACHINE_PAYLOAD_H

struct boot_info;

/* Run tests and lab, write the report; nothing may be logged afterwards. 0: pass, 1: fail. Task context. */
int kernel_payload(const struct boot_info *bi);

#endif
