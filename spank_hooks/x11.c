/* SPDX-License-Identifier: Apache-2.0 */
/*
 * srun --x11: a job's tasks find its X11 display by
 *
 *     DISPLAY=localhost:20.0
 *
 * which is port 6020 of the node's 127.0.0.1, and there the job's extern step listens. As long as that step lives, a
 * relay of its own carries connections to it from the same port in the job's network: one for all steps of the job. It
 * is started before slurmd starts any of them, so nothing can have taken the port.
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* slurmstepd/x11_forwarding.c: displays 20 to 99 */
#define PORT_FIRST 6020
#define PORT_LAST 6099

/* The port on which this slurmstepd listens for X11 on 127.0.0.1; 0: it does not. No variable or item of SPANK's says. */
static uint16_t find_port(void)
{
	struct sockaddr_in address;
	socklen_t size;
	int listens, fd, end = (int)sysconf(_SC_OPEN_MAX);

	if (end < 0 || end > 1024)
		end = 1024;	/* it has opened few files by now */
	for (fd = 0; fd < end; fd++) {
		size = sizeof(listens);
		if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens)
			continue;
		size = sizeof(address);
		if (getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.sin_family == AF_INET &&
		    address.sin_addr.s_addr == htonl(INADDR_LOOPBACK) && ntohs(address.sin_port) >= PORT_FIRST &&
		    ntohs(address.sin_port) <= PORT_LAST)
			return ntohs(address.sin_port);
	}
	return 0;
}

/* In the extern step, which has no tasks to refuse: what fails is logged, and the job goes on without a display. */
void forward_x11(spank_t sp)
{
	uint16_t port = find_port();

	if (!port)
		return;
	read_verdict(sp);
	if (!step.join || step.refusal[0])
		return;
	start_relay("X11 display");
	if (ask_relay(port) != port && !step.refusal[0])
		refuse("job %u has no X11 display in its network: a program there has its port", step.job_id);
	if (step.refusal[0])
		slurm_error("hpcnet: %s", step.refusal);
}
