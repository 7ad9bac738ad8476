/* SPDX-License-Identifier: MIT */
/*
 * From the entry point to the payload, by two tables: steps on the first stack, up to the one that brings stacks of
 * their own, and steps on the task stack behind it. Order matters, and is the reason for each row's place.
 *
 * The log works from the first instruction on: what is said before there is a console is shown once there is one.
 */
#include "kernel/main.h"

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/stack.h"
#include "kernel/acpi_init.h"
#include "kernel/base/arch_cpu.h"
#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "kernel/base/string.h"
#include "kernel/cmdline.h"
#include "kernel/console.h"
#include "kernel/console_serial.h"
#include "kernel/efi_runtime.h"
#include "kernel/execmem_init.h"
#include "kernel/exit.h"
#include "kernel/log_keep.h"
#include "kernel/memory.h"
#include "kernel/page_owner_init.h"
#include "kernel/panic.h"
#include "kernel/smp.h"
#include "kernel/stack.h"
#include "kernel/symbols.h"
#include "kernel/thread.h"
#include "kernel/trace.h"

struct init_step {
	const char *name;
	void (*run)(void);
};

/* The hand-over, where the loader left it and copied: nobody depends on that memory once memory_init() is through. */
static const struct boot_info *loader_info;
static struct boot_info boot_info;

static void init_log_keep(void)
{
	log_keep_init(&boot_info);
}

static void init_cmdline(void)
{
	boot_info.cmdline[BOOT_CMDLINE_MAX - 1] = 0;
	log_info("command line: %s", boot_info.cmdline);
	cmdline_parse(&cmdline, boot_info.cmdline);
}

static void init_early_console(void)
{
	console_serial_early(cmdline.console);
}

/* What the loader had to say, a line of the log each. */
static void init_notes(void)
{
	const struct boot_rights *r = &boot_info.rights;
	char *line = boot_info.notes;

	log_info("loader: firmware %s memory-attribute protocol, %u ranges changed; of the loader's %llu KiB, %llu KiB were writable "
		 "and executable", r->protocol ? "with" : "without", r->changed, r->bytes / KIB, r->writable_executable / KIB);

	boot_info.notes[BOOT_NOTES_MAX - 1] = 0;
	while (*line) {
		char *end = strchr(line, '\n');

		if (end)
			*end = 0;
		log_info("loader: %s", line);
		if (!end)
			break;
		line = end + 1;
	}
}

static void init_symbols(void)
{
	int rc = symbols_init(&boot_info);

	if (rc)
		log_warn("symbols: none to be had from kernel.elf (error %d): addresses stay numbers", -rc);
}

static void init_memory(void)
{
	memory_init(loader_info);
}

static void init_execmem(void)
{
	execmem_boot(&boot_info);
}

static void init_acpi(void)
{
	acpi_init(&boot_info);
}

static void init_nodes(void)
{
	memory_init_nodes();
}

static void init_serial(void)
{
	console_serial_find(&boot_info);
}

static void init_screen(void)
{
	console_init_screen(&boot_info.framebuffer);
}

static void init_efi_runtime(void)
{
	int rc = efi_runtime_init(&boot_info);

	if (rc)
		log_warn("efi: no runtime services (error %d): end=reboot and end=poweroff will do what they can", -rc);
}

static void init_planned_panic(void)
{
	panic_on_purpose(cmdline.panic);
}

static const struct init_step early_steps[] = {
	{ "kept log", init_log_keep },	/* before there is anything to say */
	{ "command line", init_cmdline },
	{ "early console", init_early_console },
	{ "CPU", cpu_init },
	{ "CPU log", cpu_log },
	{ "symbols", init_symbols },		/* a panic has names from here on */
	{ "loader's notes", init_notes },
	{ "memory", init_memory },
};

static const struct init_step late_steps[] = {
	{ "executable memory", init_execmem },
	{ "ACPI tables", init_acpi },
	{ "serial console", init_serial },	/* which one, the tables say */
	{ "screen", init_screen },
	{ "EFI runtime", init_efi_runtime },
	{ "interrupts", smp_init_boot_cpu },	/* late: from here on shootdowns insist on interrupts */
	{ "memory of nodes", init_nodes },
	{ "threads", thread_init },
	{ "other CPUs", smp_start_others },
	{ "trace", trace_init },		/* every CPU that is up gets a ring */
	{ "page owner", page_owner_init },	/* of what tests allocate, and leave */
	{ "planned panic", init_planned_panic },
};

static const char *current_step = "entry";

const char *kernel_step(void)
{
	return current_step;
}

static void run_steps(const struct init_step *steps, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		current_step = steps[i].name;
		steps[i].run();
	}
}

static void main_on_task_stack(void *arg)
{
	(void)arg;
	run_steps(late_steps, ARRAY_SIZE(late_steps));
	current_step = "payload";
	kernel_exit(kernel_payload(&boot_info) == 0);
}

__noreturn void kernel_main(const struct boot_info *bi)
{
	if (bi->magic != BOOT_INFO_MAGIC || bi->version != BOOT_INFO_VERSION || bi->size != sizeof(*bi)) {
		console_serial_early("");
		cpu_init();
		panic("hand-over of version %u and %u bytes (magic 0x%lx), this kernel takes version %u and %zu bytes: "
		      "BOOTX64.EFI and kernel.elf do not belong together",
		      bi->version, bi->size, bi->magic, BOOT_INFO_VERSION, sizeof(*bi));
	}
	loader_info = bi;
	boot_info = *bi;
	run_steps(early_steps, ARRAY_SIZE(early_steps));
	current_step = "stacks";
	stack_switch_call(stack_init(), main_on_task_stack, NULL);
}
