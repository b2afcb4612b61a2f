/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment of a step: what an outer job left in it goes, and tasks in the network are told their interface by
 * the variables that their libraries read. HPCNET_ENV says which these are, with their values:
 *
 *     NCCL_SOCKET_IFNAME==hpc0 GLOO_SOCKET_IFNAME=hpc0 ...
 *
 * So in a job that was submitted from such a task, by which they come along, hpcnet's are told from the user's own.
 * HPCNET_LAUNCH is the same for those of a batch script (launch.c): not one list, for Hydra gives its ranks what it has.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INCLUDE "_include"
#define EXCLUDE "_exclude"
#define VALUE_MAX 1024

/* Calls act for each NAME=VALUE of a list, which it takes apart. */
static void for_each(spank_t sp, char *list, void (*act)(spank_t sp, const char *name, const char *value))
{
	char *word, *equals;

	while ((word = strsep(&list, " "))) {
		equals = strchr(word, '=');
		if (!equals)
			continue;
		*equals = '\0';
		act(sp, word, equals + 1);
	}
}

static bool has(spank_t sp, const char *name)
{
	char value[1];

	return spank_getenv(sp, name, value, sizeof(value)) != ESPANK_ENV_NOEXIST;
}

/* Open MPI takes a list of what to use, or of what not to use: never both. */
static bool rules_out(spank_t sp, const char *name)
{
	size_t length = strlen(name), end = strlen(INCLUDE);
	char *rival = NULL;
	bool found;

	if (length < end || strcmp(name + length - end, INCLUDE) != 0 ||
	    asprintf(&rival, "%.*s" EXCLUDE, (int)(length - end), name) < 0)
		return false;
	found = has(sp, rival);
	free(rival);
	return found;
}

static void set_unless_given(spank_t sp, const char *name, const char *value)
{
	if (!rules_out(sp, name))
		spank_setenv(sp, name, value, 0);
}

static void drop_if_same(spank_t sp, const char *name, const char *value)
{
	char have[VALUE_MAX];

	if (spank_getenv(sp, name, have, sizeof(have)) == ESPANK_SUCCESS && strcmp(have, value) == 0)
		spank_unsetenv(sp, name);
}

/* Drops what a variable of an outer job lists. */
static void drop_listed(spank_t sp, const char *name)
{
	char **env = NULL, *list = NULL;
	size_t i, length = strlen(name);

	if (spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env)
		return;
	for (i = 0; env[i] && !list; i++)
		if (strncmp(env[i], name, length) == 0 && env[i][length] == '=')
			list = strdup(env[i] + length + 1);
	if (list)
		for_each(sp, list, drop_if_same);
	free(list);
}

/* An outer job's variables come along with srun and sbatch; in this job they would be lies. */
void drop_inherited(spank_t sp)
{
	char **env = NULL, *name;
	size_t i;

	drop_listed(sp, LIBRARIES);
	drop_listed(sp, LAUNCHERS);
	for (i = 0; spank_get_item(sp, S_JOB_ENV, &env) == ESPANK_SUCCESS && env && env[i];) {
		if (strncmp(env[i], PREFIX, strlen(PREFIX)) == 0 && strchr(env[i], '=') &&
		    (name = strndup(env[i], strcspn(env[i], "=")))) {
			spank_unsetenv(sp, name);	/* the next one moves up into its place */
			free(name);
		} else {
			i++;
		}
	}
}

/* What the network file lists, of which nothing is set over a value of the user's, be it empty. */
void tell_libraries(spank_t sp, char *list)
{
	spank_setenv(sp, LIBRARIES, list, 1);
	for_each(sp, list, set_unless_given);
}
