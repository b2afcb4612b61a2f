/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the plugin share: this step, and the verdict on it. */
#ifndef HPCNET_SPANK_H
#define HPCNET_SPANK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Slurm finds its callbacks by name: those are visible, all else is the plugin's own (-fvisibility=hidden). */
#pragma GCC visibility push(default)
#include <slurm/slurm.h>
#include <slurm/spank.h>
#pragma GCC visibility pop

#define PREFIX "HPCNET_"
#define NETNS_DIR "/run/netns"
#define LIBRARIES PREFIX "ENV"
#define LAUNCHERS PREFIX "LAUNCH"
#define FILE_MAX_BYTES 65536

/* This step on this node; in a forked task, a copy of its own. */
struct step {
	uint32_t job_id;
	uint32_t step_id;
	uid_t uid;
	gid_t gid;
	bool join;		/* the network file says so, and this kind of step does */
	bool joined;
	char netns[64];		/* a name in /run/netns */
	char hosts[256];	/* absolute path */
	char resolv[256];	/* the same; empty: tasks have the node's resolv.conf */
	char refusal[512];	/* what the gate prints; empty: the task may start */
	bool every_task_says;	/* the refusal is this task's own, not the step's */
};

extern struct step step;
extern const char *state_dir;

/* environment.c */
void drop_inherited(spank_t sp);
void tell_libraries(spank_t sp, char *list);

/* verdict.c */
bool refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool only_root_writes(int fd, const char *name);
bool is_ordinary_step(void);
bool asks_for_network(const char *option);
void read_verdict(spank_t sp);

/* join.c */
bool cannot_join(const char *what);
bool join_namespace(void);
bool join_network(void);

/* relay.c */
void start_relay(const char *what);
uint16_t ask_relay(uint16_t port);
void end_relay(void);

/* pmix.c */
void prepare_pmix(spank_t sp);
void reach_pmix(spank_t sp);

/* x11.c */
void forward_x11(spank_t sp);

/* launch.c */
void prepare_launchers(spank_t sp);
void refuse_inside(void);

#endif
