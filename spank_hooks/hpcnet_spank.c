/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hpcnet_spank.so: puts the tasks of a job into the network that the node's Prolog built for it.
 *
 *     required /opt/hpcnet/lib/hpcnet/hpcnet_spank.so [state=/run/hpcnet]
 *
 * The Prolog leaves one of two files in STATE/jobs/<job id>/: "network", what to join and which HPCNET_* variables the
 * job gets, or "refused", one line that says why there is no network. The plugin reads them in three steps:
 *
 *     init                  in slurmstepd, as root: environment and verdict
 *     task_init_privileged  in the forked task, as root: join
 *     task_init             in the task, as the user, stdio in place: the gate
 *
 * Only the gate stops a task. An error from init or user_init drains the node of a batch job (slurmstepd/mgr.c), and a
 * child that dies before slurmstepd has put it into its process container may fail the launch. A task that exits in
 * task_init is a task that failed: its user reads why, and the node stays in service. Nothing here relies on a return
 * code: Slurm ignores it when plugstack.conf says "optional", and until 24.05 when it is positive.
 *
 * Keep the plugin first in plugstack.conf: Slurm ends a round of callbacks at the first required plugin that fails.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <slurm/slurm.h>
#include <slurm/spank.h>

#define NETNS_DIR "/run/netns"
#define PREFIX "HPCNET_"
#define FILE_MAX_BYTES 65536
#define SUBMOUNTS_MAX 32

/* Slurm finds its callbacks by name: those, and nothing else here, are not static. */
SPANK_PLUGIN(hpcnet, 1)

static const char *state_dir = "/run/hpcnet";

/* This step on this node; in a forked task, a copy of its own. */
static struct {
	uint32_t job_id;
	uint32_t step_id;
	uid_t uid;
	bool join;		/* the network file says so, and this kind of step does */
	bool joined;
	char netns[64];		/* a name in NETNS_DIR */
	char hosts[256];	/* absolute path */
	char refusal[512];	/* what the gate prints; empty: the task may start */
	bool every_task_says;	/* the refusal is this task's own, not the step's */
} step;

/* The first reason stands: what comes after it follows from it. Returns false, for the caller to hand on. */
__attribute__((format(printf, 1, 2))) static bool refuse(const char *format, ...)
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
static bool is_ordinary_step(void)
{
	return step.step_id != SLURM_BATCH_SCRIPT && step.step_id != SLURM_INTERACTIVE_STEP;
}

/* Whether a --network option, or the variable made of it, is for hpcnet: its first word is exactly "ib". */
static bool asks_for_network(const char *option)
{
	return option && strncmp(option, "ib", 2) == 0 && (option[2] == '\0' || option[2] == ',');
}

/* ---------------------------------------------------------------- the node's state */

static bool distrust(const char *name, const char *why)
{
	return refuse("job %" PRIu32 " gets no network, so it does not start: %s under %s: %s", step.job_id, name,
		      state_dir, why);
}

/* What anyone but root could have written must not decide where a task goes. */
static bool only_root_writes(int fd, const char *name)
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
static bool take(spank_t sp, const char *key, const char *value, bool *owned)
{
	char uid[16];

	if (is_variable(key))
		return spank_setenv(sp, key, value, 1) == ESPANK_SUCCESS;
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

/* ---------------------------------------------------------------- init: environment and verdict */

/* An outer job's variables come along with srun and sbatch; in this job they would be lies. */
static void drop_inherited(spank_t sp)
{
	char **env = NULL, *name;
	size_t i = 0;

	if (spank_get_item(sp, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env)
		return;
	while (env[i]) {
		if (strncmp(env[i], PREFIX, strlen(PREFIX)) == 0 && strchr(env[i], '=') &&
		    (name = strndup(env[i], strcspn(env[i], "=")))) {
			spank_unsetenv(sp, name);	/* the next one moves up into its place */
			free(name);
		} else {
			i++;
		}
	}
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
	       perhaps_no_prolog ? " (or the node's Prolog did not run hpcnet)" : "");
}

static void read_verdict(spank_t sp)
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

static void init_step(spank_t sp)
{
	if (spank_get_item(sp, S_JOB_ID, &step.job_id) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_STEPID, &step.step_id) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_UID, &step.uid) != ESPANK_SUCCESS) {
		refuse("slurmstepd does not say which job this is");
		return;
	}
	if (step.step_id == SLURM_EXTERN_CONT)
		return;
	drop_inherited(sp);
	read_verdict(sp);
	if (!is_ordinary_step())
		step.join = false;
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
	case S_CTX_ALLOCATOR:
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

static bool cannot_join(const char *what)
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

static bool join_namespace(void)
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

/* Opens what is mounted below /sys (control groups above all), outermost only. Returns how many, -1: failed. */
static int open_submounts(struct submount found[SUBMOUNTS_MAX])
{
	char *line = NULL, path[256];
	size_t size = 0, length;
	int count = 0, i;
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
		if (i < count || count == SUBMOUNTS_MAX)
			continue;
		strcpy(found[count].path, path);
		found[count].fd = open(path, O_PATH | O_CLOEXEC);
		if (found[count].fd >= 0)
			count++;
	}
	free(line);
	fclose(mounts);
	return count;
}

/*
 * A sysfs shows the network devices of the namespace it was mounted from, and UCX among others finds its devices in
 * /sys/class/net: the tasks get a sysfs of the job's namespace, with all that was mounted below the old one.
 */
static bool show_own_devices(void)
{
	static struct submount below[SUBMOUNTS_MAX];
	struct statfs sys;
	int count, i;
	bool done;

	if (statfs("/sys", &sys) < 0 || sys.f_type != SYSFS_MAGIC)
		return true;
	count = open_submounts(below);
	done = count >= 0 && mount("sysfs", "/sys", "sysfs",
				   MS_NOSUID | MS_NODEV | MS_NOEXEC | (sys.f_flags & MS_RDONLY), NULL) == 0;
	for (i = 0; i < count; i++) {
		done = done && bind_over(below[i].fd, below[i].path);
		close(below[i].fd);
	}
	return done || cannot_join("/sys");
}

static bool resolve_own_names(void)
{
	bool done;
	int fd = open(step.hosts, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return cannot_join(step.hosts);
	done = only_root_writes(fd, step.hosts) && (bind_over(fd, "/etc/hosts") || cannot_join("/etc/hosts"));
	close(fd);
	return done;
}

int slurm_spank_task_init_privileged(spank_t sp, int argc, char *argv[])
{
	(void)sp, (void)argc, (void)argv;
	if (!step.join || step.refusal[0])
		return ESPANK_SUCCESS;
	/* A slave: the node's later mounts still arrive, nothing of ours leaves. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		cannot_join("mount namespace");
	else
		step.joined = join_namespace() && show_own_devices() && resolve_own_names();
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
	if (!step.refusal[0] || step.step_id == SLURM_EXTERN_CONT)
		return ESPANK_SUCCESS;
	spank_get_item(sp, S_TASK_ID, &local_task);
	if (local_task == 0 || step.every_task_says)
		dprintf(STDERR_FILENO, "hpcnet: %s\n", step.refusal);
	_exit(EXIT_FAILURE);
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
