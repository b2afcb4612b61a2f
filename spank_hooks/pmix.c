/* SPDX-License-Identifier: Apache-2.0 */
/*
 * srun --mpi=pmix: a step's tasks find their PMIx server, which is in slurmstepd, by variables such as
 *
 *     PMIX_SERVER_URI21=pmix-server.72;tcp4://127.0.0.1:35435
 *
 * of which there is one for each protocol that the server speaks. mpi/pmix starts the server after SPANK's init, and
 * sets the variables between task_init_privileged and task_init: the relay is made ready in the first, and told the
 * port in the last.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVER "PMIX_SERVER_URI"
#define LOOPBACK "tcp4://127.0.0.1:"

/*
 * Where srun chose mpi/pmix: srun's side of it sends a map of the step's tasks in this variable. The fence is the one that
 * waits for all tasks, unless the user or mpi.conf says another: docs/programs.md, MPI.
 */
void prepare_pmix(spank_t sp)
{
	char value[1];

	if (spank_getenv(sp, "SLURM_PMIX_MAPPING_SERV", value, sizeof(value)) == ESPANK_ENV_NOEXIST)
		return;
	spank_setenv(sp, "SLURM_PMIX_FENCE", "ring", 0);
	start_relay("PMIx server");
}

/* The server's port in one "NAME=URI", and from where to where it is written; 0: none there. */
static uint16_t find_port(const char *variable, const char **from, const char **to)
{
	unsigned long port;
	char *rest;

	if (strncmp(variable, SERVER, strlen(SERVER)) != 0 || !(*from = strstr(variable, LOOPBACK)))
		return 0;
	*from += strlen(LOOPBACK);
	port = strtoul(*from, &rest, 10);
	*to = rest;
	return port <= UINT16_MAX ? (uint16_t)port : 0;
}

/* Puts another port in its place. */
static void set_port(spank_t sp, const char *variable, const char *from, const char *to, uint16_t port)
{
	int name = (int)strcspn(variable, "="), before = (int)(from - variable) - name - 1;
	char *key = NULL, *value = NULL;

	if (asprintf(&key, "%.*s", name, variable) > 0 &&
	    asprintf(&value, "%.*s%" PRIu16 "%s", before, variable + name + 1, port, to) > 0)
		spank_setenv(sp, key, value, 1);
	free(key);
	free(value);
}

/* In a task that has joined. A server at another address than 127.0.0.1 is the site's choice and left alone. */
void reach_pmix(spank_t sp)
{
	uint16_t port, server = 0, inside = 0;
	const char *from, *to;
	char **env = NULL;
	size_t i;

	for (i = 0; spank_get_item(sp, S_JOB_ENV, &env) == ESPANK_SUCCESS && env && env[i]; i++) {
		port = find_port(env[i], &from, &to);
		if (!port)
			continue;
		if (!server) {
			server = port;
			inside = ask_relay(server);
			if (!inside)
				return;
		}
		if (port == server && inside != server)
			set_port(sp, env[i], from, to, inside);
	}
}
