/* SPDX-License-Identifier: MIT */
/* One row per way to end. A way that turns out not to be there says so and becomes a halt: nothing returns. */
#include "kernel/exit.h"

#include "arch/x86_64/exit.h"
#include "kernel/base/log.h"
#include "kernel/cmdline.h"
#include "kernel/efi_runtime.h"

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
	efi_runtime_reset(EFI_RESET_COLD);
	exit_reset();
}

static void end_poweroff(bool pass)
{
	(void)pass;
	efi_runtime_reset(EFI_RESET_SHUTDOWN);
	log_warn("exit: the firmware did not switch the machine off");
}

static void end_monitor(bool pass)
{
	(void)pass;
	log_info("exit: there is no monitor yet");
}

static void (*const ends[])(bool pass) = {
	[END_EXIT] = end_exit,	       [END_HALT] = end_halt,	    [END_REBOOT] = end_reboot,
	[END_POWEROFF] = end_poweroff, [END_MONITOR] = end_monitor,
};

__noreturn void kernel_exit(bool pass)
{
	ends[cmdline.end](pass);
	log_info("exit: halted; it is safe to switch off");
	exit_halt();
}

__noreturn void kernel_exit_panic(void)
{
	exit_debug(DEBUG_EXIT_FAIL);
	exit_halt();
}
