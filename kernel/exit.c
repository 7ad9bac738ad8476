/* SPDX-License-Identifier: MIT */
/*
 * One row per way to end. A way that turns out not to be there becomes a halt: nothing returns. The report's last line is the
 * log's last line, so only what goes wrong here is said; behind it, a monitor has a log of its own.
 */
#include "kernel/exit.h"

#include "arch/x86_64/exit.h"
#include "kernel/base/log.h"
#include "kernel/cmdline.h"
#include "kernel/efi_runtime.h"
#include "kernel/monitor.h"

static void end_exit(bool pass)
{
	exit_debug(pass ? DEBUG_EXIT_PASS : DEBUG_EXIT_FAIL);
}

static void end_halt(bool pass)
{
	(void)pass;
}

static void end_reboot(bool pass)
{
	(void)pass;
	efi_runtime_reset(EFI_RESET_WARM);	/* memory keeps the log: a cold one may switch the power off */
	exit_reset();
}

static void end_poweroff(bool pass)
{
	(void)pass;
	efi_runtime_reset(EFI_RESET_SHUTDOWN);
	log_warn("exit: the firmware did not switch the machine off");
}

static void end_monitor(bool pass);

static void (*const ends[])(bool pass) = {
	[END_EXIT] = end_exit,	       [END_HALT] = end_halt,	     [END_REBOOT] = end_reboot,
	[END_POWEROFF] = end_poweroff, [END_MONITOR] = end_monitor,
};

/* A machine that cannot be switched off goes on. */
static void end_monitor(bool pass)
{
	enum cmdline_end how;

	do {
		how = monitor_run();
		ends[how](pass);
	} while (how != END_EXIT);
	log_info("exit: halted");
}

__noreturn void kernel_exit(bool pass)
{
	ends[cmdline.end](pass);
	exit_halt();
}

__noreturn void kernel_exit_panic(void)
{
	exit_debug(DEBUG_EXIT_FAIL);
	exit_halt();
}
