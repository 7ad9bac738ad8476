/* SPDX-License-Identifier: MIT */
/* Page owner as the command line asks for it. */
#ifndef KERNEL_PAGE_OWNER_INIT_H
#define KERNEL_PAGE_OWNER_INIT_H

/* Give addresses their names, and start it for `page_owner=on`; no memory for it is named in the log. */
void page_owner_init(void);

#endif
