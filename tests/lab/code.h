/* SPDX-License-Identifier: MIT */
/* The lab's code workload, beside the pages of tests/lab/lab.h. */
#ifndef TESTS_LAB_CODE_H
#define TESTS_LAB_CODE_H

/* Its table in the summary (RP2): the policies that have run. */
void lab_code_summary(void);

#endif
