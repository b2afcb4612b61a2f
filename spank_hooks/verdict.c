/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the node's Prolog left for this job, and so whether its tasks may start: STATE/jobs/<job id>/ holds "network",
 * what to join and which HPCNET_* variables the job gets, or "refused", one line that says why there is no network.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *state_dir = "/run/hpcnet";
struct step step;

/* The first reason stands: what comes after it follows from it. Returns false, for the caller to hand on. */
bool refuse(const char *format, ...)
{
	va_list args;

	if (!step.refusal[0]) {
		va_start(args, format);
		vsnprintf(step.refusal, sizeof(step.refusal), format, args);
		va_end(args);
	}
	return false;
}

static bool refuse_start(const char *what, const char *why)
{
	return refuse("job %" PRIu32 " gets no network, so it does not start: %s%s%s", step.job_id, what,
		      *what ? ": " : "", why);
}

/* The batch script and the shell of salloc call Slurm's commands, which reach the controller from the host only. */
bool is_ordinary_step(void)
{
	return step.step_id != SLURM_BATCH_SCRIPT && step.step_id != SLURM_INTERACTIVE_STEP &&
	       step.step_id != SLURM_EXTERN_CONT;
}

/* Whether a --network option, or the variable made of it, is for hpcnet: its first word is exactly "ib". */
bool asks_for_network(const char *option)
{
	return option && strncmp(option, "ib", 2) == 0 && (option[2] == '\0' || option[2] == ',');
}

static bool distrust(const char *name, const char *why)
{
	return refuse("job %" PRIu32 " gets no network, so it does not start: %s under %s: %s", step.job_id, name,
		      state_dir, why);
}

/* What anyone but root could have written must not decide where a task goes. */
bool only_root_writes(int fd, const char *name)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return distrust(name, strerror(errno));
	if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return distrust(name, "not owned by root, or others may write to it");
	return true;
}

/* Opens NAME under DIR and closes DIR. -1: refused, or (no refusal) there is no such thing. */
static int descend(int dir, const char *name, int flags)
{
	int fd = openat(dir, name, flags | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int error = errno;

	if (dir >= 0)
		close(dir);
	if (fd < 0) {
		if (error != ENOENT)
			distrust(name, strerror(error));
		return -1;
	}
	if (!only_root_writes(fd, name)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The job's state directory; -1: refused, or (no refusal) the job has no state here. */
static int open_job_dir(void)
{
	char id[16];
	int fd = descend(AT_FDCWD, state_dir, O_DIRECTORY);

	snprintf(id, sizeof(id), "%" PRIu32, step.job_id);
	if (fd >= 0)
		fd = descend(fd, "jobs", O_DIRECTORY);
	if (fd >= 0)
		fd = descend(fd, id, O_DIRECTORY);
	return fd;
}

/* The file's text, which the caller frees; NULL: refused, or (no refusal) there is no such file. */
static char *read_state(int dir, const char *name)
{
	size_t have = 0;
	ssize_t got = 0;
	char *text;
	int fd = descend(dup(dir), name, O_NONBLOCK);

	if (fd < 0)
		return NULL;
	text = malloc(FILE_MAX_BYTES + 1);
	while (text && have <= FILE_MAX_BYTES &&
	       (got = read(fd, text + have, FILE_MAX_BYTES + 1 - have)) > 0)
		have += (size_t)got;
	close(fd);
	if (!text || got < 0 || have > FILE_MAX_BYTES || memchr(text, '\0', have)) {
		distrust(name, "cannot be read, is too long or is not text");
		free(text);
		return NULL;
	}
	text[have] = '\0';
	return text;
}

static bool is_variable(const char *name)
{
	return strncmp(name, PREFIX, strlen(PREFIX)) == 0 &&
	       name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")] == '\0';
}

/* Copies a word of the network file. False: it does not fit. */
static bool keep(char *to, size_t size, const char *value)
{
	return (size_t)snprintf(to, size, "%s", value) < size;
}

/* One key=value of the network file. Keys that only a later hpcnet knows are passed over. */
static bool take(spank_t sp, const char *key, char *value, bool *owned)
{
	char uid[16];

	if (strcmp(key, LIBRARIES) == 0) {
		if (step.join && is_ordinary_step())
			tell_libraries(sp, value);
		return true;
	}
	if (is_variable(key))
		return step.step_id == SLURM_EXTERN_CONT || spank_setenv(sp, key, value, 1) == ESPANK_SUCCESS;
	if (strcmp(key, "uid") == 0) {
		snprintf(uid, sizeof(uid), "%" PRIu32, (uint32_t)step.uid);
		*owned = strcmp(value, uid) == 0;
	} else if (strcmp(key, "join") == 0) {
		step.join = strcmp(value, "tasks") == 0;
		return step.join || strcmp(value, "none") == 0;
	} else if (strcmp(key, "netns") == 0) {
		return *value && *value != '.' && !strchr(value, '/') && keep(step.netns, sizeof(step.netns), value);
	} else if (strcmp(key, "hosts") == 0) {
		return *value == '/' && keep(step.hosts, sizeof(step.hosts), value);
	} else if (strcmp(key, "resolv") == 0) {
		return *value == '/' && keep(step.resolv, sizeof(step.resolv), value);
	}
	return true;
}

static void take_network(spank_t sp, char *text)
{
	bool owned = false;
	char *line, *equals, *rest = text;

	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			continue;
		equals = strchr(line, '=');
		if (equals)
			*equals = '\0';
		if (!equals || !take(sp, line, equals + 1, &owned)) {
			refuse_start("network file not understood", line);
			return;
		}
	}
	if (!owned)
		refuse_start("network file", "it is of another user's job");
	else if (step.join && (!step.netns[0] || !step.hosts[0]))
		refuse_start("network file", "it does not say what to join");
}

/* The reason may quote what a user typed: one line, and nothing that a terminal acts on. */
static void take_refusal(char *text)
{
	char *c;

	text[strcspn(text, "\n")] = '\0';
	for (c = text; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
	refuse_start("", *text ? text : "the node's Prolog did not say why");
}

/* No state on this node: right for a job that did not ask, and nothing to start in for one that did. */
static void judge_without_state(spank_t sp)
{
	char option[1100];
	bool perhaps_no_prolog;

	if (spank_getenv(sp, "SLURM_NETWORK", option, sizeof(option)) != ESPANK_SUCCESS || !asks_for_network(option))
		return;
	/* A step may have asked by itself; in a batch script or the shell of salloc it was the job. */
	perhaps_no_prolog = !is_ordinary_step() || access(state_dir, F_OK) < 0;
	refuse("this job has no network of its own; ask for it at sbatch/salloc/srun time of the job: --network=ib%s",
	       perhaps_no_prolog ? " (or the node's Prolog did not run hpcnet)"
				 : " (or this node was booted since, and lost it)");
}

void read_verdict(spank_t sp)
{
	char *text;
	int dir = open_job_dir();

	if (dir < 0) {
		judge_without_state(sp);
		return;
	}
	if ((text = read_state(dir, "refused"))) {
		take_refusal(text);
	} else if (!step.refusal[0] && (text = read_state(dir, "network"))) {
		take_network(sp, text);
	} else {
		judge_without_state(sp);
	}
	free(text);
	close(dir);
}
