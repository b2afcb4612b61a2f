/* SPDX-License-Identifier: Apache-2.0 */
/* A task enters the job's network: its namespace, its names, its view of /sys. Runs as root in the forked task. */
#define _GNU_SOURCE
#include "hpcnet_spank.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#define SUBMOUNTS_MAX 256

bool cannot_join(const char *what)
{
	step.every_task_says = true;
	return refuse("job %" PRIu32 " cannot enter its network, so it does not start: %s: %s", step.job_id, what,
		      strerror(errno));
}

/* Binds what an open descriptor stands for over a path: no name is looked up a second time. */
static bool bind_over(int fd, const char *path)
{
	char source[32];

	snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	return mount(source, path, NULL, MS_BIND | MS_REC, NULL) == 0;
}

bool join_namespace(void)
{
	char path[sizeof(NETNS_DIR) + sizeof(step.netns) + 1];
	bool joined;
	int fd;

	snprintf(path, sizeof(path), NETNS_DIR "/%s", step.netns);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cannot_join(path);
	joined = setns(fd, CLONE_NEWNET) == 0;
	if (!joined)
		cannot_join(path);
	close(fd);
	return joined;
}

struct submount {
	char path[256];
	int fd;
};

/* Opens the adapters of InfiniBand and RoCE: a sysfs of the job's namespace shows them without counters. */
static int open_adapters(struct submount found[SUBMOUNTS_MAX])
{
	int count = 0;
	glob_t names;
	size_t i;

	if (glob("/sys/class/infiniband/*", 0, NULL, &names) != 0)
		return 0;
	for (i = 0; i < names.gl_pathc && count < SUBMOUNTS_MAX / 2; i++) {
		char *path = realpath(names.gl_pathv[i], NULL);

		if (path && strlen(path) < sizeof(found[count].path)) {
			strcpy(found[count].path, path);
			found[count].fd = open(path, O_PATH | O_CLOEXEC);
			if (found[count].fd >= 0)
				count++;
		}
		free(path);
	}
	globfree(&names);
	return count;
}

/*
 * Opens what is mounted below /sys (control groups above all), outermost only, behind what is found already. Returns how
 * many there are now, -1: failed.
 */
static int open_submounts(struct submount found[SUBMOUNTS_MAX], int count)
{
	char *line = NULL, path[256];
	size_t size = 0, length;
	int i;
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	if (!mounts)
		return -1;
	while (getline(&line, &size, mounts) > 0) {
		/* A name with an octal escape is nothing the kernel offers under /sys. */
		if (sscanf(line, "%*d %*d %*s %*s %255s", path) != 1 || strncmp(path, "/sys/", 5) != 0)
			continue;
		for (i = 0; i < count; i++) {
			length = strlen(found[i].path);
			if (strncmp(path, found[i].path, length) == 0 && (path[length] == '/' || path[length] == '\0'))
				break;
		}
		if (i < count)
			continue;
		found[count].fd = open(path, O_PATH | O_CLOEXEC);
		if (found[count].fd < 0)
			continue;	/* it went meanwhile */
		strcpy(found[count].path, path);
		if (++count == SUBMOUNTS_MAX) {
			refuse("more than %d file systems are mounted below /sys", SUBMOUNTS_MAX - 1);
			break;
		}
	}
	free(line);
	fclose(mounts);
	return count;
}

/*
 * A sysfs shows the network devices of the namespace it was mounted from, and UCX among others finds its devices in
 * /sys/class/net: the tasks get a sysfs of the job's namespace, with adapters and all that was mounted below as in the
 * old one.
 */
static bool show_own_devices(void)
{
	static struct submount below[SUBMOUNTS_MAX];
	struct statfs sys;
	int adapters, count, i;
	bool done;

	if (statfs("/sys", &sys) < 0 || sys.f_type != SYSFS_MAGIC)
		return true;
	adapters = open_adapters(below);
	count = open_submounts(below, adapters);
	done = count >= 0 && mount("sysfs", "/sys", "sysfs",
				   MS_NOSUID | MS_NODEV | MS_NOEXEC | (sys.f_flags & MS_RDONLY), NULL) == 0;
	for (i = 0; i < count; i++) {
		/* Where RDMA is exclusive to namespaces (rdma-system(8)), the job's has no adapters. */
		if (i >= adapters || access(below[i].path, F_OK) == 0)
			done = done && bind_over(below[i].fd, below[i].path);
		close(below[i].fd);
	}
	return done || cannot_join("/sys");
}

/* Puts a file of the job's over one of the node's. */
static bool replace(const char *path, const char *own)
{
	bool done;
	int fd = open(own, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return cannot_join(own);
	done = only_root_writes(fd, own) && (bind_over(fd, path) || cannot_join(path));
	close(fd);
	return done;
}

/*
 * Services that answer for names before anybody reads /etc/hosts know the node's. Without their sockets libc goes on to the
 * next of nsswitch.conf. One that has none here is not there.
 */
static bool silence_name_services(void)
{
	if (mount("tmpfs", "/run/nscd", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "mode=755") < 0 &&
	    errno != ENOENT)
		return cannot_join("/run/nscd");
	if (mount("/dev/null", "/run/systemd/resolve/io.systemd.Resolve", NULL, MS_BIND, NULL) < 0 && errno != ENOENT &&
	    errno != ENOTDIR)
		return cannot_join("/run/systemd/resolve/io.systemd.Resolve");
	return true;
}

static bool resolve_own_names(void)
{
	return silence_name_services() && replace("/etc/hosts", step.hosts) && (!step.resolv[0] || replace("/etc/resolv.conf", step.resolv));
}

bool join_network(void)
{
	/*
	 * A slave: the node's later mounts still arrive, nothing of ours leaves. And shared again below us, as on the node:
	 * rootless Podman warns of a root that is not.
	 */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
		return cannot_join("mount namespace");
	return join_namespace() && show_own_devices() && resolve_own_names();
}
