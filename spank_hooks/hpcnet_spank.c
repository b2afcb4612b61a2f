/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpcnet_spank.so: puts the tasks of a job into the network that the node's Prolog built for it.
 *
 *     required /opt/hpcnet/lib/hpcnet/hpcnet_spank.so [state=/run/hpcnet]
 *
 * The Prolog leaves what to join, or why not, in the job's state directory. The plugin acts on it in these steps:
 *
 *     init                  in slurmstepd, as root: environment.c, verdict.c, and the relay (pmix.c, relay.c)
 *                           in srun, sbatch and salloc, as the user: what cannot work there (launch.c)
 *     task_init_privileged  in the forked task, as root: join (join.c)
 *     task_init             in the task, as the user, stdio in place: where the PMIx server is, the gate
 *     task_post_fork        in the slurmstepd of the extern step, as root: its relay (x11.c)
 *     exit                  in slurmstepd, at the step's end: the relay's end
 *
 * Only the gate stops a task. An error from init or user_init drains the node of a batch job (slurmstepd/mgr.c), and a
 * child that dies before slurmstepd has put it into its process container may fail the launch. A task that exits in
 * task_init is a task that failed: its user reads why, and the node stays in service. Nothing here relies on a return
 * code: Slurm ignores it when plugstack.conf says "optional", and on 22.05 when it is positive.
 *
 * Keep the plugin first in plugstack.conf: Slurm ends a round of callbacks at the first required plugin that fails.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC visibility push(default)
SPANK_PLUGIN(hpcnet, 1)
const char hpcnet_version[] = HPCNET_VERSION;	/* "hpcnet doctor" compares it with its own */
#pragma GCC visibility pop

/* ---------------------------------------------------------------- init: environment and verdict */

static void init_step(spank_t sp)
{
	if (spank_get_item(sp, S_JOB_ID, &step.job_id) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_STEPID, &step.step_id) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_UID, &step.uid) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_GID, &step.gid) != ESPANK_SUCCESS) {
		refuse("slurmstepd does not say which job this is");
		return;
	}
	if (step.step_id == SLURM_EXTERN_CONT)
		return;
	drop_inherited(sp);
	read_verdict(sp);
	if (!is_ordinary_step()) {
		if (step.join)
			prepare_launchers(sp);
		step.join = false;
	}
	if (step.join && !step.refusal[0])
		prepare_pmix(sp);
	if (step.refusal[0])
		slurm_info("hpcnet: %s", step.refusal);
}

static bool read_arguments(int argc, char *argv[])
{
	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "state=/", 7) != 0) {
			slurm_error("hpcnet: plugstack.conf: unknown argument %s (known: state=/absolute/path)", argv[i]);
			return refuse("plugstack.conf on this node has an unknown argument: %s", argv[i]);
		}
		state_dir = argv[i] + 6;
	}
	return true;
}

int slurm_spank_init(spank_t sp, int argc, char *argv[])
{
	bool known = read_arguments(argc, argv);

	switch (spank_context()) {
	case S_CTX_REMOTE:
		init_step(sp);	/* an unknown argument is for the gate: a failure here would drain the node */
		return ESPANK_SUCCESS;
	case S_CTX_LOCAL:
		refuse_inside();
		break;
	case S_CTX_ALLOCATOR:
		refuse_inside();
		/* A job submitted from inside a job asks by its own option only; sbatch and salloc set this after us. */
		if (asks_for_network(getenv("SLURM_NETWORK")))
			unsetenv("SLURM_NETWORK");
		break;
	default:
		break;
	}
	return known ? ESPANK_SUCCESS : -1;
}

/* ---------------------------------------------------------------- task_init_privileged: join */

int slurm_spank_task_init_privileged(spank_t sp, int argc, char *argv[])
{
	(void)sp, (void)argc, (void)argv;
	if (!step.join || step.refusal[0])
		return ESPANK_SUCCESS;
	step.joined = join_network();
	return ESPANK_SUCCESS;
}

/* ---------------------------------------------------------------- task_init: the gate */

int slurm_spank_task_init(spank_t sp, int argc, char *argv[])
{
	int local_task = 0;

	(void)argc, (void)argv;
	if (step.join && !step.joined && !step.refusal[0]) {
		errno = ENOTSUP;
		cannot_join("an earlier plugin of plugstack.conf failed");
	}
	if (!step.refusal[0])
		reach_pmix(sp);
	if (!step.refusal[0] || step.step_id == SLURM_EXTERN_CONT)
		return ESPANK_SUCCESS;
	spank_get_item(sp, S_TASK_ID, &local_task);
	if (local_task == 0 || step.every_task_says)
		dprintf(STDERR_FILENO, "hpcnet: %s\n", step.refusal);
	_exit(EXIT_FAILURE);
}

/* ---------------------------------------------------------------- task_post_fork: X11 */

int slurm_spank_task_post_fork(spank_t sp, int argc, char *argv[])
{
	(void)argc, (void)argv;
	if (step.step_id == SLURM_EXTERN_CONT)
		forward_x11(sp);
	return ESPANK_SUCCESS;
}

/* ---------------------------------------------------------------- exit: the relay's end */

int slurm_spank_exit(spank_t sp, int argc, char *argv[])
{
	(void)sp, (void)argc, (void)argv;
	end_relay();
	return ESPANK_SUCCESS;
}

/* ---------------------------------------------------------------- srun, before Slurm 24.11 */

#if SLURM_VERSION_NUMBER < SLURM_VERSION_NUM(24, 11, 0)

/* The value of --network among srun's own arguments: the last one given, as with getopt. */
static const char *network_option(char *arg, size_t count)
{
	static const char option[] = "--network";
	const char *value = NULL;
	size_t length;

	for (; count > 0; count--, arg += strlen(arg) + 1) {
		/* getopt_long takes --ne, the shortest that is no other option's, for it too. */
		length = strcspn(arg, "=");
		if (length < 4 || length >= sizeof(option) || strncmp(arg, option, length) != 0)
			continue;
		if (arg[length] == '=')
			value = arg + length + 1;
		else if (count > 1)
			value = arg + length + 1;	/* the next argument */
	}
	return value;
}

/*
 * srun puts --network into the tasks' environment since Slurm 24.05.1 only, and a step's option reaches slurmstepd in no
 * other way. Before that, do here what it does there: its own arguments are those before the command's.
 */
int slurm_spank_local_user_init(spank_t sp, int argc, char *argv[])
{
	static char arguments[FILE_MAX_BYTES];
	char **command;
	const char *value;
	size_t length, i, count = 0;
	int commands = 0;
	FILE *file;

	(void)argc, (void)argv;
	if (spank_get_item(sp, S_JOB_ARGV, &commands, &command) != ESPANK_SUCCESS ||
	    !(file = fopen("/proc/self/cmdline", "re")))
		return ESPANK_SUCCESS;
	length = fread(arguments, 1, sizeof(arguments) - 1, file);
	fclose(file);
	for (i = 0; i < length; i++)
		count += arguments[i] == '\0';
	if (count <= (size_t)commands)
		return ESPANK_SUCCESS;
	value = network_option(arguments, count - (size_t)commands);
	if (asks_for_network(value))
		setenv("SLURM_NETWORK", value, 1);
	return ESPANK_SUCCESS;
}

#endif
