/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Launchers. What srun starts is in the job's network, the batch script is not: so programs that start others must do it
 * by srun, and srun itself must stay out, since the nodes connect back to it.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIST_MAX 256

/* The interface with the address of the node's own name; false: it has none, or one of the loopback's. */
static bool find_own_interface(char interface[IF_NAMESIZE])
{
	struct addrinfo wanted = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *own = NULL;
	struct ifaddrs *all = NULL, *each;
	const struct sockaddr_in *address;
	char host[HOST_NAME_MAX + 1];
	bool found = false;

	if (gethostname(host, sizeof(host)) < 0 || getaddrinfo(host, NULL, &wanted, &own) != 0)
		return false;
	address = (const struct sockaddr_in *)(const void *)own->ai_addr;
	if (getifaddrs(&all) == 0)
		for (each = all; each && !found; each = each->ifa_next)
			if (each->ifa_addr && each->ifa_addr->sa_family == AF_INET && !(each->ifa_flags & IFF_LOOPBACK) &&
			    ((const struct sockaddr_in *)(const void *)each->ifa_addr)->sin_addr.s_addr ==
				    address->sin_addr.s_addr)
				found = snprintf(interface, IF_NAMESIZE, "%s", each->ifa_name) < IF_NAMESIZE;
	if (all)
		freeifaddrs(all);
	freeaddrinfo(own);
	return found;
}

/* Sets a variable that the user has not, and lists it: it is none of a job that is submitted from here. */
static void tell(spank_t sp, char list[], const char *name, const char *value)
{
	size_t length = strlen(list);

	if (spank_setenv(sp, name, value, 0) == ESPANK_SUCCESS)
		snprintf(list + length, LIST_MAX - length, "%s%s=%s", length ? " " : "", name, value);
}

/*
 * Open MPI's mpirun starts the ranks of its own node itself, in the network that it is in. Told so, it starts a daemon
 * there by srun, as on all other nodes: the first name is of releases up to 4, the second of 5 and PRRTE.
 *
 * Hydra (MPICH, Intel MPI) has what it starts call back at the node's name, which in the job's network is the job's
 * address, where nobody listens. Told an interface, it has them call an address.
 */
void prepare_launchers(spank_t sp)
{
	char list[LIST_MAX] = "", interface[IF_NAMESIZE];

	tell(sp, list, "OMPI_MCA_ras_base_launch_orted_on_hn", "1");
	tell(sp, list, "PRTE_MCA_ras_base_launch_orted_on_hn", "1");
	if (find_own_interface(interface)) {
		tell(sp, list, "HYDRA_IFACE", interface);
		tell(sp, list, "I_MPI_HYDRA_IFACE", interface);
	}
	spank_setenv(sp, LAUNCHERS, list, 1);
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
