/* SPDX-License-Identifier: MIT */
/*
 * The hosted test program: every machine of machine.c in a process of its own, the suites on each, KTAP 1 to
 * standard output with one nested subtest per machine (SPEC RP1), and `# N passed, N failed` as the last
 * line.
 *
 * 	--suite GLOB[,GLOB]	these tests only (suite or suite.name)
 * 	--machine NAME		on this machine only, in this very process (for a debugger)
 * 	--seed N		seed of every random choice; printed
 * 	--full			the full number of random operations (also HOST_TEST_FULL=1)
 * 	--list			name the machines and tests
 *
 * Exit code: 0 all passed, 1 something failed, 2 wrong usage.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/base/panic.h"
#include "tests/host/machine.h"
#include "tests/report.h"
#include "tests/runner.h"

struct options {
	const char *suites;
	const char *machine;
	bool list;
};

/* What the process of one machine leaves behind, in shared memory. */
struct outcome {
	bool passed;
	struct test_totals totals;
};

static void usage(void)
{
	fputs("usage: host-test [--suite GLOB[,GLOB]] [--machine NAME] [--seed N] [--full] [--list]\n", stderr);
	exit(2);
}

static u64 number(const char *text)
{
	char *end;
	u64 n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || end == text || *end) {
		fprintf(stderr, "host-test: '%s' is not a number\n", text);
		exit(2);
	}
	return n;
}

static void parse(int argc, char **argv, struct options *o)
{
	const char *full = getenv("HOST_TEST_FULL");

	machine_full = full && !strcmp(full, "1");
	for (int i = 1; i < argc; i++) {
		bool value = i + 1 < argc;

		if (!strcmp(argv[i], "--suite") && value)
			o->suites = argv[++i];
		else if (!strcmp(argv[i], "--machine") && value)
			o->machine = argv[++i];
		else if (!strcmp(argv[i], "--seed") && value)
			test_seed = number(argv[++i]);
		else if (!strcmp(argv[i], "--full"))
			machine_full = true;
		else if (!strcmp(argv[i], "--list"))
			o->list = true;
		else
			usage();
	}
}

static int list(void)
{
	unsigned nr;
	const struct test_case *const *cases = test_case_list(&nr);

	for (unsigned i = 0; i < nr_machines; i++)
		printf("machine %s\n", machines[i].name);
	for (unsigned i = 0; i < nr; i++)
		printf("test %s.%s %s\n", cases[i]->suite, cases[i]->name, cases[i]->ids);
	return 0;
}

/* Everything on one machine, in this process. */
static bool run_machine(const struct machine *m, const struct options *o, struct outcome *out)
{
	struct report_setup setup = {
		.build = "hosted", .cpus = m->cpus, .memory = machine_memory(m), .seed = test_seed
	};

	machine_build(m, test_seed);
	machine_check();
	if (host_faults()) {
		printf("Bail out! setting up %s broke %llu rules\n", m->name,
		       (unsigned long long)host_faults());
		return false;
	}
	report_begin(&setup);
	printf("# Subtest: %s\n", m->name);
	host.testing = true;
	test_after = machine_check;
	test_run_all(o->suites);
	host.testing = false;
	out->passed = report_end();
	out->totals = test_totals;
	return out->passed;
}

/* Copy what the process says, two spaces further in. */
static void indent(FILE *from)
{
	char line[4096];
	bool at_start = true;

	while (fgets(line, sizeof(line), from)) {
		size_t n = strlen(line);

		printf("%s%s", at_start ? "  " : "", line);
		at_start = n && line[n - 1] == '\n';
		fflush(stdout);
	}
	if (!at_start)
		putchar('\n');
}

static bool run_in_process(const struct machine *m, const struct options *o, struct outcome *out)
{
	int fds[2], status = 0;
	FILE *from;
	pid_t pid;

	fflush(stdout);
	if (pipe(fds) || (pid = fork()) < 0) {
		perror("host-test");
		exit(1);
	}
	if (!pid) {
		dup2(fds[1], STDOUT_FILENO);
		dup2(fds[1], STDERR_FILENO);	/* what a sanitizer has to say belongs here */
		close(fds[0]);
		close(fds[1]);
		exit(!run_machine(m, o, out));
	}
	close(fds[1]);
	from = fdopen(fds[0], "r");
	indent(from);
	fclose(from);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		printf("  # the process ended by signal %d\n", WTERMSIG(status));
	/* A sanitizer speaks by the exit code alone. */
	return out->passed && WIFEXITED(status) && !WEXITSTATUS(status);
}

static int run_all(const struct options *o)
{
	struct outcome *out = mmap(NULL, nr_machines * sizeof(*out), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned passed = 0, failed = 0;

	if (out == MAP_FAILED)
		panic("no memory");
	printf("KTAP version 1\n# host-test seed=%llu full=%d\n1..%u\n", (unsigned long long)test_seed,
	       machine_full, nr_machines);
	for (unsigned i = 0; i < nr_machines; i++) {
		bool ok;

		ok = run_in_process(&machines[i], o, &out[i]);
		printf("%sok %u %s\n", ok ? "" : "not ", i + 1, machines[i].name);
		passed += out[i].totals.passed;
		failed += out[i].totals.failed + (!ok && !out[i].totals.failed);
	}
	printf("# %u passed, %u failed\n", passed, failed);
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct outcome out = { 0 };

	parse(argc, argv, &o);
	if (o.list)
		return list();
	if (!o.machine)
		return run_all(&o);
	for (unsigned i = 0; i < nr_machines; i++)
		if (!strcmp(machines[i].name, o.machine))
			return !run_machine(&machines[i], &o, &out);
	fprintf(stderr, "host-test: no machine '%s' (--list names them)\n", o.machine);
	return 2;
}
