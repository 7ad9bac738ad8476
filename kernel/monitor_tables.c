/* SPDX-License-Identifier: MIT */
/* Monitor commands that show what parts of the kernel know of themselves, and switch policies. */
#include "kernel/base/errno.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/base/string.h"
#include "kernel/base/trace.h"
#include "kernel/monitor.h"
#include "kernel/thread.h"
#include "kernel/trace.h"
#include "mm/buddy.h"
#include "mm/execmem.h"
#include "mm/pgtable.h"
#include "mm/unmapped.h"
#include "mm/vm_area.h"

/* ---- Tables that exist already ---- */

static void show_buddy(void)
{
	for (unsigned node = 0; node < buddy_nodes(); node++) {
		struct buddy_stats s;
		char text[256];
		size_t n = 0;

		buddy_read_node_stats(node, &s);
		for (unsigned order = 0; order <= ORDER_MAX; order++)
			n += fmt_print(text + n, sizeof(text) - n, " %lu", s.blocks[order]);
		log_info("node %u: frames=%lu free=%lu on_stacks=%lu steered=%lu deferred=%lu", node, s.frames, s.free, s.cached,
			 s.steered, s.deferred_now);
		log_info("node %u: free blocks of order 0 to %u:%s", node, ORDER_MAX, text);
	}
}

MONITOR_COMMAND(buddy) = { "buddy", "", "free memory by node and order", .show = show_buddy };

MONITOR_COMMAND(um) = { "um", "", "unmapped pages, by order", .show = unmapped_print };

static void show_xm(void)
{
	log_info("policy %s", execmem_policy_name(execmem_policy()));
	execmem_print();
}

MONITOR_COMMAND(xm) = { "xm", "", "executable memory by type", .show = show_xm };

MONITOR_COMMAND(vmalloc) = { "vmalloc", "", "areas of the kernel's address space", .show = vm_area_print };

/* ---- tlb, cpus ---- */

static void show_tlb(void)
{
	const struct pt_space *space = &kernel_space;
	struct tlb_stats t;

	tlb_read_stats(&t);
	log_info("flushes on own account or asked for: all=%lu one=%lu; pages invalidated=%lu", t.nr_tlb_local_flush_all,
		 t.nr_tlb_local_flush_one, t.pages_invalidated);
	log_info("shootdowns: sent=%lu received=%lu cycles=%lu; batches=%lu", t.nr_tlb_remote_flush,
		 t.nr_tlb_remote_flush_received, t.shootdown_cycles, t.batches);
	log_info("frames: freed=%lu waiting=%lu quarantined=%lu", t.frames_freed, t.frames_waiting, t.frames_quarantined);
	log_info("space %s: generation %lu", space->name, load_relaxed(&space->gen));
	for_each_cpu(cpu, arch_cpus_online())
		log_info("CPU %u: flushed up to %lu, %lu behind", cpu, load_relaxed(&space->cpu_gen[cpu]),
			 space->gen - MIN(space->gen, load_relaxed(&space->cpu_gen[cpu])));
}

MONITOR_COMMAND(tlb) = { "tlb", "", "flushes, and how far each CPU has got", .show = show_tlb };

static void show_cpus(void)
{
	for_each_cpu(cpu, arch_cpus_online()) {
		const struct thread *thread = thread_of_cpu(cpu);
		struct thread_stats s;

		thread_read_stats(cpu, &s);
		log_info("CPU %u: thread %s, switches=%lu wakes=%lu halts=%lu timer=%lu", cpu, thread ? thread_name(thread) : "none",
			 s.switches, s.wakes, s.halts, s.timer);
	}
}

MONITOR_COMMAND(cpus) = { "cpus", "", "CPUs that are up, and what they run", .show = show_cpus };

/* ---- policy ---- */

static u32 get_collapse(void)
{
	return kernel_space.policy;
}

static int set_collapse(u32 value)
{
	pt_set_policy(&kernel_space, value);
	return 0;
}

static u32 get_execmem(void)
{
	return execmem_policy();
}

static int set_execmem(u32 value)
{
	return execmem_set_policy(value);
}

static u32 get_um(void)
{
	return unmapped_mode();
}

static int set_um(u32 value)
{
	return unmapped_set_mode(value);
}

/* Keys of the command line that can be changed later. */
static const struct {
	const char *key;
	u32 (*get)(void);
	int (*set)(u32 value);
} policies[] = {
	{ "collapse", get_collapse, set_collapse },
	{ "execmem", get_execmem, set_execmem },
	{ "um", get_um, set_um },
};

static void set_policy(char *word)
{
	char *equals = strchr(word, '=');
	u32 value;
	int rc;

	if (!equals) {
		monitor_error("policy: \"%.64s\" is not of the form key=value", word);
		return;
	}
	*equals = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(policies); i++) {
		if (strcmp(policies[i].key, word) != 0)
			continue;
		if (!cmdline_choice(word, equals + 1, &value)) {
			monitor_error("policy: %s= has no value \"%.64s\"", word, equals + 1);
			return;
		}
		rc = policies[i].set(value);
		if (rc)
			monitor_error("policy: %s=%s: %s", word, equals + 1, rc == -EBUSY ? "memory is in use under the old one" :
				      "no memory");
		return;
	}
	monitor_error("policy: there is no key \"%.64s\" that can be changed", word);
}

static void run_policy(unsigned nr, char **args)
{
	for (unsigned i = 0; i < nr; i++)
		set_policy(args[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(policies); i++)
		log_info("%s=%s", policies[i].key, cmdline_word(policies[i].key, policies[i].get()));
}

/* The i-th of all key=value there are. */
static const char *policy_word(unsigned arg, unsigned i)
{
	static char words[16][32];
	unsigned nr = 0;

	(void)arg;
	for (unsigned p = 0; p < ARRAY_SIZE(policies); p++) {
		const char *value;

		for (u32 v = 0; nr < ARRAY_SIZE(words) && (value = cmdline_word(policies[p].key, v)); v++)
			fmt_print(words[nr++], sizeof(words[0]), "%s=%s", policies[p].key, value);
	}
	return i < nr ? words[i] : NULL;
}

MONITOR_COMMAND(policy) = { "policy", "[KEY=VALUE]...", "show or change collapse=, execmem=, um=",
			    .more = "The words are those of the command line. A change that memory in use forbids\n"
				    "is refused.",
			    .max = ARRAY_SIZE(policies), .run = run_policy, .word = policy_word };

/* ---- trace ---- */

#define TRACE_SHOWN 32u		/* records of each CPU */

static void run_trace(unsigned nr, char **args)
{
	struct trace_filter filter;

	if (nr && strcmp(args[0], "show") != 0 && trace_parse(args[0], &filter) == 0)
		trace_start(filter.mask);
	if (nr && strcmp(args[0], "show") == 0)
		trace_say_last(TRACE_SHOWN);
	for (unsigned event = 0; event < TRACE_EVENTS; event++)
		if (trace_on(event))
			log_info("records %s", trace_rows[event].name);
	if (!trace_mask)
		log_info("records nothing");
}

static const char *trace_word(unsigned arg, unsigned i)
{
	static const char *const words[] = { "show", "on", "off" };

	(void)arg;
	if (i < ARRAY_SIZE(words))
		return words[i];
	return i - ARRAY_SIZE(words) < TRACE_EVENTS ? trace_rows[i - ARRAY_SIZE(words)].name : NULL;
}

MONITOR_COMMAND(trace) = { "trace", "[show|on|off|EVENT,...]", "choose what is recorded, show the last",
			   .more = "Events: split collapse flush send receive refill return fill fault. Without\n"
				   "an argument: what is recorded.",
			   .max = 1, .run = run_trace, .word = trace_word };
