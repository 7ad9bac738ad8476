/* SPDX-License-Identifier: MIT */
/* A piece of a test in a process of its own. See apart.h. */
#define _GNU_SOURCE	/* memfd_create() */
#include "tests/host/apart.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/host/arch_host.h"
#include "tests/host/log_host.h"
#include "tests/test.h"

bool apart_run(struct apart *apart, int (*fn)(void *arg), void *arg)
{
	int words = memfd_create("words", 0);
	ssize_t nr;
	pid_t pid;

	apart->status = -1;
	apart->said[0] = 0;
	if (!CHECK(words >= 0))
		return false;
	/* Else what waits to be printed would be printed twice. */
	fflush(NULL);
	pid = fork();
	if (!pid) {
		int status;

		dup2(words, STDOUT_FILENO);
		dup2(words, STDERR_FILENO);
		host.quiet = log_silent = !apart->aloud;
		status = fn(arg);
		fflush(NULL);
		_exit(status);
	}
	if (!CHECK(pid > 0 && waitpid(pid, &apart->status, 0) == pid)) {
		close(words);
		return false;
	}
	nr = pread(words, apart->said, sizeof(apart->said) - 1, 0);
	apart->said[nr > 0 ? nr : 0] = 0;
	close(words);
	return true;
}

bool apart_came_back(const struct apart *apart)
{
	return WIFEXITED(apart->status) && !WEXITSTATUS(apart->status);
}

void apart_show(struct apart *apart)
{
	char *rest;

	for (char *line = strtok_r(apart->said, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		test_note("%s", line);
}

void *apart_shared(size_t size)
{
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return CHECK(shared != MAP_FAILED) ? shared : NULL;
}

void apart_unshare(void *shared, size_t size)
{
	if (shared)
		munmap(shared, size);
}
