/* SPDX-License-Identifier: MIT */
/*
 * kernel/base/log.h and panic.h in a process: lines to standard output, written at once, so that what a test
 * said is there even if the next instruction ends the process.
 */
#include "tests/host/log_host.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernel/base/log.h"
#include "kernel/base/panic.h"
#include "tests/test.h"

u64 log_warnings;
bool log_silent;

static void put_line(const char *lead, const char *text)
{
	printf("%s%s\n", lead, text);
	fflush(stdout);
}

static void put_diagnostic(const char *lead, const char *fmt, va_list args)
{
	char text[1024];
	char *line = text;

	if (log_silent)
		return;
	vsnprintf(text, sizeof(text), fmt, args);
	for (char *c = text;; c++) {
		bool end = !*c;

		if (!end && *c != '\n')
			continue;
		*c = '\0';
		put_line(lead, line);
		line = c + 1;
		if (end)
			break;
	}
}

void log_info(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_diagnostic("# ", fmt, args);
	va_end(args);
}

void log_warn(const char *fmt, ...)
{
	va_list args;

	__atomic_fetch_add(&log_warnings, 1, __ATOMIC_RELAXED);
	va_start(args, fmt);
	put_diagnostic("# warning: ", fmt, args);
	va_end(args);
}

void log_vraw(const char *fmt, va_list args)
{
	vprintf(fmt, args);
	putchar('\n');
	fflush(stdout);
}

void log_raw(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_vraw(fmt, args);
	va_end(args);
}

void panic(const char *fmt, ...)
{
	void *frames[32];
	va_list args;

	va_start(args, fmt);
	put_diagnostic("# panic: ", fmt, args);
	va_end(args);
	log_info("seed=%llu; repeat with --seed", (unsigned long long)test_seed);
	backtrace_symbols_fd(frames, backtrace(frames, 32), STDOUT_FILENO);
	abort();
}
