/* SPDX-License-Identifier: MIT */
/* Page owner as the command line asks for it. See page_owner_init.h. */
#include "kernel/page_owner_init.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/cmdline.h"
#include "kernel/symbols.h"
#include "mm/page_owner.h"

static void name_of(u64 address, char *buf, size_t size)
{
	struct symbol symbol;

	if (symbol_find(address, &symbol))
		fmt_print(buf, size, "%s+%#llx", symbol.name, (unsigned long long)(address - symbol.start));
	else
		fmt_print(buf, size, "?");
}

void page_owner_init(void)
{
	int rc = 0;

	page_owner_name = name_of;
	if (cmdline.page_owner)
		rc = page_owner_start();
	if (rc)
		log_warn("page owner: not started (error %d)", -rc);
	else if (cmdline.page_owner)
		log_info("page owner: on; what is allocated from here on has one");
}
