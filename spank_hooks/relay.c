/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carries connections from one TCP port of 127.0.0.1 in the job's network to the same port in the node's, for one step
 * (of which the extern step's is the whole job's) on one node. A socket belongs to the network it was made in, wherever its process is: the relay, a child of
 * slurmstepd in the node's network, listens on a socket made in the job's, so nothing is routed or translated.
 *
 * start_relay()  in slurmstepd: the process, with one socket of the job's network and no privilege
 * ask_relay()    in a task: which port
 * end_relay()    in slurmstepd, at the step's end; if slurmstepd is killed, the kernel kills the relay
 */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024	/* a task has one; further ones wait in the listener's queue */
#define BUFFER_BYTES 16384
#define ANSWER_SECONDS 10

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static pid_t relay;
static const char *carried;	/* what is reached by it, for messages */
static int channel = -1;	/* to the relay; tasks inherit it until they exec */

/* To a task, which asks with a port of the node's network: the one in the job's, or why there is none. */
struct answer {
	uint16_t port;
	int error;
};

/* ---------------------------------------------------------------- the relay: what it carries */

/* One direction of a connection: from its own socket to the other one. */
struct way {
	size_t have, sent;
	bool ended;
	char bytes[BUFFER_BYTES];
};

struct connection {
	int fd[2];		/* of the task, of the server; -1: has ended */
	struct way way[2];	/* way[i] is read from fd[i] */
};

static int open_socket(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

static void drop(struct connection *c)
{
	close(c->fd[0]);
	close(c->fd[1]);
	c->fd[0] = c->fd[1] = -1;
}

/* Carries what can be carried now. False: the connection is broken. */
static bool carry(struct connection *c, int i)
{
	struct way *way = &c->way[i];
	ssize_t n;

	if (!way->have && !way->ended) {
		n = recv(c->fd[i], way->bytes, sizeof(way->bytes), MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		way->have = (size_t)n;
		way->ended = n == 0;
		if (way->ended)
			return shutdown(c->fd[!i], SHUT_WR) == 0;
	}
	if (way->sent < way->have) {
		n = send(c->fd[!i], way->bytes + way->sent, way->have - way->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		way->sent += (size_t)n;
		if (way->sent == way->have)
			way->sent = way->have = 0;
	}
	return true;
}

static void serve(struct connection *c)
{
	if (!carry(c, 0) || !carry(c, 1) || (c->way[0].ended && c->way[1].ended))
		drop(c);
}

/* What to wait for on a socket: nothing (-1, or a closed peer would be reported for ever), input, room for output. */
static struct pollfd watch(const struct connection *c, int i)
{
	short events = 0;

	if (!c->way[i].have && !c->way[i].ended)
		events |= POLLIN;
	if (c->way[!i].have)
		events |= POLLOUT;
	return (struct pollfd){ .fd = events ? c->fd[i] : -1, .events = events };
}

/* False: no connection; errno says whether it was for want of descriptors. */
static bool accept_one(int listener, uint16_t port, struct connection *c)
{
	struct sockaddr_in server = loopback(port);
	int one = 1, i;

	c->fd[1] = open_socket();
	if (c->fd[1] < 0)
		return false;
	c->fd[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (c->fd[0] < 0) {
		i = errno;
		close(c->fd[1]);
		errno = i;
		return false;
	}
	for (i = 0; i < 2; i++) {
		setsockopt(c->fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		c->way[i].have = c->way[i].sent = 0;
		c->way[i].ended = false;
	}
	if (connect(c->fd[1], (struct sockaddr *)&server, sizeof(server)) == 0 || errno == EINPROGRESS)
		return true;
	drop(c);
	return false;
}

/* The server's own port, or, should a program of the job have it already, any other. */
static struct answer listen_inside(int listener, uint16_t port)
{
	struct sockaddr_in address = loopback(port);
	socklen_t size = sizeof(address);
	bool bound = bind(listener, (struct sockaddr *)&address, size) == 0;

	if (!bound && errno == EADDRINUSE) {
		address = loopback(0);
		bound = bind(listener, (struct sockaddr *)&address, size) == 0;
	}
	if (!bound || listen(listener, SOMAXCONN) < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
		return (struct answer){ .error = errno };
	return (struct answer){ .port = ntohs(address.sin_port) };
}

/* Until slurmstepd and all tasks that have not started yet have closed their end. */
static void relay_until_end(int questions, int listener)
{
	static struct pollfd polled[2 + 2 * CONNECTIONS_MAX];
	const size_t size = CONNECTIONS_MAX * sizeof(struct connection);
	uint16_t question, server = 0;
	struct answer answer = { 0 };
	struct connection *all = mmap(NULL, size, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int used = 0, i;	/* all[0 .. used-1] are connections */
	bool full = false;	/* no more of them until one ends */

	if (all == MAP_FAILED)
		return;
	for (;;) {
		polled[0] = (struct pollfd){ .fd = questions, .events = POLLIN };
		polled[1] = (struct pollfd){ .fd = answer.port && !full ? listener : -1, .events = POLLIN };
		for (i = 0; i < 2 * used; i++)
			polled[2 + i] = watch(&all[i / 2], i % 2);
		if (poll(polled, 2 + 2 * (nfds_t)used, -1) < 0)
			continue;
		for (i = used - 1; i >= 0; i--) {
			if (polled[2 + 2 * i].revents || polled[3 + 2 * i].revents)
				serve(&all[i]);
			if (all[i].fd[0] < 0) {
				full = false;
				if (i != --used)
					all[i] = all[used];
			}
		}
		if (polled[1].revents) {
			if (accept_one(listener, server, &all[used]))
				full = ++used == CONNECTIONS_MAX;
			else
				full = used > 0 && (errno == EMFILE || errno == ENFILE);
		}
		if (polled[0].revents) {
			if (recv(questions, &question, sizeof(question), 0) != sizeof(question))
				return;
			if (!server) {
				server = question;
				answer = listen_inside(listener, server);
			}
			send(questions, &answer, sizeof(answer), MSG_NOSIGNAL);
		}
	}
}

/* ---------------------------------------------------------------- the relay: its process */

static bool open_socket_inside(int *inside)
{
	int host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	return host >= 0 && join_namespace() && (*inside = open_socket()) >= 0 && setns(host, CLONE_NEWNET) == 0;
}

/*
 * No privilege, and nothing of slurmstepd's. By system calls, since the C library's would look for slurmstepd's other
 * threads, which the copy does not have.
 */
static bool become_user(uid_t uid, gid_t gid)
{
	return syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, gid, gid, gid) == 0 &&
	       syscall(SYS_setresuid, uid, uid, uid) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0 &&
	       prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0;
}

static void close_from_to(unsigned int first, unsigned int last)
{
	unsigned int end = (unsigned int)sysconf(_SC_OPEN_MAX);

	if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
		return;
	for (; first <= last && first < end; first++)	/* before Linux 5.9 */
		close((int)first);
}

static void close_all_but(int a, int b)
{
	unsigned int low = (unsigned int)(a < b ? a : b), high = (unsigned int)(a < b ? b : a);

	if (low > 0)
		close_from_to(0, low - 1);
	close_from_to(low + 1, high - 1);
	close_from_to(high + 1, ~0U);
}

static void __attribute__((noreturn)) run_relay(int questions, pid_t slurmstepd)
{
	struct answer ready = { 0 };
	struct rlimit files;
	sigset_t all;
	int listener = -1;

	/* What scancel sends to the step is for its tasks, and slurmstepd's handlers are not for a copy of it. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "hpcnet-relay");
	if (!open_socket_inside(&listener) || !become_user(step.uid, step.gid) || chdir("/") < 0)
		ready.error = errno;
	else
		close_all_but(questions, listener);
	send(questions, &ready, sizeof(ready), MSG_NOSIGNAL);
	if (!ready.error && getppid() == slurmstepd) {
		if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
			files.rlim_cur = files.rlim_max;
			setrlimit(RLIMIT_NOFILE, &files);
		}
		relay_until_end(questions, listener);
	}
	_exit(EXIT_SUCCESS);
}

/* ---------------------------------------------------------------- slurmstepd and its tasks */

static bool cannot_relay(int error)
{
	return refuse("job %" PRIu32 " cannot reach its %s from its network, so it does not start: %s", step.job_id,
		      carried, error ? strerror(error) : "the relay to it has ended");
}

/* Waits for an answer; false: refused. */
static bool hear(struct answer *answer)
{
	ssize_t n = recv(channel, answer, sizeof(*answer), 0);

	return (n == sizeof(*answer) && !answer->error) ||
	       cannot_relay(n < 0 ? errno : n > 0 ? answer->error : 0);
}

/*
 * Without an exit signal the relay is a child that no wait() of slurmstepd's finds, which waits for tasks with wait3()
 * and would take its end for theirs.
 */
void start_relay(const char *what)
{
	const struct timeval patience = { .tv_sec = ANSWER_SECONDS };
	struct answer ready;
	pid_t slurmstepd = getpid();
	int ends[2];

	carried = what;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		cannot_relay(errno);
		return;
	}
	channel = ends[0];
	setsockopt(channel, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	relay = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	if (relay == 0)
		run_relay(ends[1], slurmstepd);
	if (relay < 0)
		cannot_relay(errno);
	close(ends[1]);
	if (relay > 0)
		hear(&ready);
}

/* The port in the job's network for this one of the node's; 0: there is no relay, or refused. */
uint16_t ask_relay(uint16_t port)
{
	struct answer answer;
	bool heard;

	if (relay <= 0)
		return 0;
	if (send(channel, &port, sizeof(port), MSG_NOSIGNAL) < 0)
		heard = cannot_relay(errno == EPIPE ? 0 : errno);
	else
		heard = hear(&answer);
	step.every_task_says = !heard;
	return heard ? answer.port : 0;
}

void end_relay(void)
{
	if (relay > 0) {
		kill(relay, SIGKILL);
		waitpid(relay, NULL, __WALL);
	}
	if (channel >= 0)
		close(channel);
	relay = 0;
	channel = -1;
}
