/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launchers. What srun starts is in the job's network, the batch script is not: so programs that start others must do it
 * by srun, and srun itself must stay out, since the nodes connect back to it.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Open MPI's mpirun starts the ranks of its own node itself, in the network that it is in. Told so, it starts a daemon
 * there by srun, as on all other nodes: the first name is of releases up to 4, the second of 5 and PRRTE.
 */
void prepare_launchers(spank_t sp)
{
	spank_setenv(sp, "OMPI_MCA_ras_base_launch_orted_on_hn", "1", 0);
	spank_setenv(sp, "PRTE_MCA_ras_base_launch_orted_on_hn", "1", 0);
}

/* Whether this process is in the network of the job whose variables it has. */
static bool is_inside(void)
{
	const char *name = getenv(PREFIX "NETNS");
	struct stat own, of_job;
	char path[sizeof(NETNS_DIR) + sizeof(step.netns) + 1];

	if (!name || strchr(name, '/') || strlen(name) >= sizeof(step.netns))
		return false;
	snprintf(path, sizeof(path), NETNS_DIR "/%s", name);
	return stat("/proc/self/ns/net", &own) == 0 && stat(path, &of_job) == 0 && own.st_dev == of_job.st_dev &&
	       own.st_ino == of_job.st_ino;
}

/* srun and salloc would wait for ever for connections that nothing lets in. sbatch only asks, and is let go on. */
void refuse_inside(void)
{
	const char *command = program_invocation_short_name;

	if (strcmp(command, "sbatch") == 0 || !is_inside())
		return;
	slurm_error("hpcnet: %s does not work in a task of a job with a network: Slurm could not connect back to it; "
		    "call it in the batch script, or outside of the job", command);
	exit(EXIT_FAILURE);
}
