/* SPDX-License-Identifier: GPL-2.0 */
/*
 * softib: InfiniBand adapters (HCAs) made of software, all on one switch with a subnet manager.
 *
 *   hca.c       the adapters as the kernel sees them, their controls in sysfs
 *   verbs.c     completion queues, and verbs that have nothing to do here
 *   qp.c        queue pairs and their work requests
 *   worker.c    whose turn it is to send
 *   switch.c    carries a message from a queue pair to others: addresses, partitions, multicast
 *   subnet.c    answers as the subnet administration (SA)
 *   counters.c  a port's counters: those of its performance management (PMA), and of what it refused
 *
 * Enough for the kernel's ib_ipoib: UD in datagram mode, RC (send and receive only) in connected mode. No DMA: addresses
 * in work requests are the kernel's own. No user space verbs. Section numbers in comments are those of the InfiniBand
 * Architecture Specification, volume 1, release 1.
 */
#ifndef SOFTIB_H
#define SOFTIB_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <rdma/ib_mad.h>
#include <rdma/ib_verbs.h>

#define SOFTIB_PKEYS 32
#define SOFTIB_GIDS 8
#define SOFTIB_SGES 24 /* ib_ipoib wants MAX_SKB_FRAGS + 1 of them */
#define SOFTIB_SM_LID 1
#define SOFTIB_FIRST_MLID 0xc000
#define SOFTIB_MAX_MESSAGE 65536
#define SOFTIB_GRH 40

/* What a port has counted; data in words of 4 bytes. */
struct softib_count {
	u64 xmit_data, rcv_data, xmit_packets, rcv_packets;
	u64 multicast_xmit_packets, multicast_rcv_packets;
	u64 link_downed;
	u64 xmit_discards;	/* sent while the port was not active */
	u64 bad_pkey, bad_qkey;	/* came in, and were not for the queue pair that they named */
	u64 out_of_buffer;	/* datagrams that found no receive */
};

/* An adapter with its one port. What can change is written under softib_lock. */
struct softib_hca {
	struct ib_device ib;
	struct list_head node;	/* in softib_hcas */
	struct list_head qps;
	struct platform_device *parent;
	u16 lid;
	enum ib_port_state state;
	bool sm;		/* whether the subnet manager answers this port */
	u16 pkeys[SOFTIB_PKEYS];
	struct softib_count count;
};

struct softib_pd {
	struct ib_pd ib;
};

struct softib_ah {
	struct ib_ah ib;
	struct rdma_ah_attr attr;
};

struct softib_cq {
	struct ib_cq ib;
	spinlock_t lock;
	struct list_head done;	/* of softib_wqe */
	bool armed;
};

struct softib_qp {
	struct ib_qp ib;
	struct softib_hca *hca;
	struct list_head node;	/* in hca->qps */
	struct list_head groups; /* of softib_group */
	struct list_head ready;	/* in the worker's list of those that have something to do */
	spinlock_t lock;	/* of both queues, and of the state together with softib_lock */
	struct list_head sends, receives; /* of softib_wqe, the oldest first */
	enum ib_qp_state state;
	int tries;		/* RC: how often the oldest send found no receive */
	bool all_signaled;
	u16 pkey_index;
	u32 qkey;
	u32 peer_qpn;		/* RC */
	u16 peer_lid;
};

/* A multicast group that a queue pair listens to. */
struct softib_group {
	struct list_head node;
	union ib_gid gid;
};

/* A work request from when it is posted until its completion is polled. */
struct softib_wqe {
	struct list_head node;
	struct softib_qp *qp;
	struct ib_wc wc;
	int sges;
	struct ib_sge sge[SOFTIB_SGES];
	/* of a send: where to */
	bool signaled;
	bool global;		/* with a global route header */
	u16 dlid;
	u16 pkey_index;
	u32 qpn, qkey;
	union ib_gid dgid;
};

/* A packet on its way; the data follow the room for a global route header. */
struct softib_packet {
	struct softib_hca *from;
	enum ib_qp_type type;
	u32 source_qpn, qpn, qkey;
	u16 dlid, pkey;
	bool global;
	union ib_gid dgid;
	u32 length;
	u8 *grh;
	u8 *data;
};

extern struct list_head softib_hcas;
extern struct mutex softib_lock;

static inline struct softib_hca *to_hca(struct ib_device *ib) { return container_of(ib, struct softib_hca, ib); }
static inline struct softib_cq *to_cq(struct ib_cq *ib) { return container_of(ib, struct softib_cq, ib); }
static inline struct softib_qp *to_qp(struct ib_qp *ib) { return container_of(ib, struct softib_qp, ib); }

/* hca.c */
void softib_own_gid(const struct softib_hca *hca, union ib_gid *gid);
u16 softib_pkey(const struct softib_hca *hca, u16 pkey);
struct softib_hca *softib_by_gid(const union ib_gid *gid);

/* verbs.c */
extern const struct ib_device_ops softib_verbs;
void softib_complete(struct softib_wqe *wqe, struct ib_cq *cq);
void softib_forget_completions(struct ib_cq *cq, struct softib_qp *qp);

/* qp.c */
extern const struct ib_device_ops softib_qp_verbs;
struct softib_wqe *softib_take(struct softib_qp *qp, struct list_head *wqes);
void softib_put_back(struct softib_qp *qp, struct softib_wqe *wqe);
void softib_free(struct softib_wqe *wqe);
bool softib_all_freed(void);

/* switch.c */
int softib_switch_start(void);
void softib_switch_stop(void);
int softib_carry(struct softib_wqe *wqe);
bool softib_same_partition(u16 one, u16 other);
void softib_answer(struct softib_hca *to, const struct ib_mad *mad);

/* worker.c */
int softib_worker_start(void);
void softib_worker_stop(void);
void softib_wake(struct softib_qp *qp);
void softib_forget(struct softib_qp *qp);

/* subnet.c */
void softib_subnet_request(struct softib_hca *from, const struct ib_mad *request);

/* counters.c */
extern const struct ib_device_ops softib_counter_verbs;

#endif
