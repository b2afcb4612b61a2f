// SPDX-License-Identifier: GPL-2.0
/* Queue pairs, completion queues and the work requests between them. */
#include <linux/slab.h>
#include <linux/version.h>
#include "softib.h"

/* What comes from user space, which never asks here. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define CQ_USER_DATA struct uverbs_attr_bundle
#else
#define CQ_USER_DATA struct ib_udata
#endif

static atomic_t last_qpn = ATOMIC_INIT(0x100);

static void drop_all(struct list_head *wqes)
{
	struct softib_wqe *wqe, *next;

	list_for_each_entry_safe(wqe, next, wqes, node)
		kfree(wqe);
}

/* Completion queues: lists of finished work requests. */

static int create_cq(struct ib_cq *ib, const struct ib_cq_init_attr *attr, CQ_USER_DATA *udata)
{
	struct softib_cq *cq = to_cq(ib);

	spin_lock_init(&cq->lock);
	INIT_LIST_HEAD(&cq->done);
	ib->cqe = attr->cqe;
	return 0;
}

static int destroy_cq(struct ib_cq *ib, struct ib_udata *udata)
{
	softib_switch_drain();
	drop_all(&to_cq(ib)->done);
	return 0;
}

static int poll_cq(struct ib_cq *ib, int room, struct ib_wc *wc)
{
	struct softib_cq *cq = to_cq(ib);
	unsigned long flags;
	int polled = 0;

	spin_lock_irqsave(&cq->lock, flags);
	while (polled < room && !list_empty(&cq->done)) {
		struct softib_wqe *wqe = list_first_entry(&cq->done, struct softib_wqe, node);

		wc[polled++] = wqe->wc;
		list_del(&wqe->node);
		kfree(wqe);
	}
	spin_unlock_irqrestore(&cq->lock, flags);
	return polled;
}

static int req_notify_cq(struct ib_cq *ib, enum ib_cq_notify_flags wanted)
{
	struct softib_cq *cq = to_cq(ib);
	unsigned long flags;
	int missed;

	spin_lock_irqsave(&cq->lock, flags);
	cq->armed = true;
	missed = (wanted & IB_CQ_REPORT_MISSED_EVENTS) && !list_empty(&cq->done);
	spin_unlock_irqrestore(&cq->lock, flags);
	return missed;
}

/* The work request is done; its completion goes to the queue, which owns it from now on. */
void softib_complete(struct softib_wqe *wqe, struct ib_cq *ib)
{
	struct softib_cq *cq = to_cq(ib);
	unsigned long flags;
	bool fire;

	spin_lock_irqsave(&cq->lock, flags);
	list_add_tail(&wqe->node, &cq->done);
	fire = cq->armed;
	cq->armed = false;
	spin_unlock_irqrestore(&cq->lock, flags);
	if (fire && ib->comp_handler) {
		/* Handlers may schedule NAPI, whose softirq runs when bottom halves are enabled again. */
		local_bh_disable();
		ib->comp_handler(ib, ib->cq_context);
		local_bh_enable();
	}
}

/* Take the completions of a queue pair that ends out of its queue. */
static void forget(struct ib_cq *ib, struct softib_qp *qp)
{
	struct softib_cq *cq = to_cq(ib);
	struct softib_wqe *wqe, *next;
	unsigned long flags;

	spin_lock_irqsave(&cq->lock, flags);
	list_for_each_entry_safe(wqe, next, &cq->done, node)
		if (wqe->qp == qp) {
			list_del(&wqe->node);
			kfree(wqe);
		}
	spin_unlock_irqrestore(&cq->lock, flags);
}

/* Queue pairs. */

static int create_qp(struct ib_qp *ib, struct ib_qp_init_attr *attr, struct ib_udata *udata)
{
	struct softib_qp *qp = to_qp(ib);

	if (attr->srq)
		return -EOPNOTSUPP;
	switch (attr->qp_type) {
	case IB_QPT_SMI:
		ib->qp_num = 0;
		break;
	case IB_QPT_GSI:
		ib->qp_num = 1;
		break;
	case IB_QPT_UD:
	case IB_QPT_RC:
		ib->qp_num = atomic_inc_return(&last_qpn);
		break;
	default:
		return -EOPNOTSUPP;
	}
	qp->hca = to_hca(ib->device);
	qp->state = IB_QPS_RESET;
	qp->all_signaled = attr->sq_sig_type == IB_SIGNAL_ALL_WR;
	spin_lock_init(&qp->lock);
	INIT_LIST_HEAD(&qp->receives);
	INIT_LIST_HEAD(&qp->groups);
	mutex_lock(&softib_lock);
	list_add(&qp->node, &qp->hca->qps);
	mutex_unlock(&softib_lock);
	return 0;
}

/* The oldest posted receive, or NULL; the caller owns it. */
struct softib_wqe *softib_next_receive(struct softib_qp *qp)
{
	struct softib_wqe *wqe;
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	wqe = list_first_entry_or_null(&qp->receives, struct softib_wqe, node);
	if (wqe)
		list_del(&wqe->node);
	spin_unlock_irqrestore(&qp->lock, flags);
	return wqe;
}

/* In state ERR every work request comes back as flushed (10.3.1.6). */
static void flush(struct softib_wqe *wqe, struct ib_cq *cq)
{
	wqe->wc.status = IB_WC_WR_FLUSH_ERR;
	softib_complete(wqe, cq);
}

static int modify_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_udata *udata)
{
	struct softib_qp *qp = to_qp(ib);
	struct softib_wqe *wqe;
	unsigned long flags;

	mutex_lock(&softib_lock);
	spin_lock_irqsave(&qp->lock, flags);
	if (mask & IB_QP_PKEY_INDEX)
		qp->pkey_index = attr->pkey_index;
	if (mask & IB_QP_QKEY)
		qp->qkey = attr->qkey;
	if (mask & IB_QP_DEST_QPN)
		qp->peer_qpn = attr->dest_qp_num;
	if (mask & IB_QP_AV)
		qp->peer_lid = rdma_ah_get_dlid(&attr->ah_attr);
	if (mask & IB_QP_STATE)
		qp->state = attr->qp_state;
	spin_unlock_irqrestore(&qp->lock, flags);
	mutex_unlock(&softib_lock);
	if (!(mask & IB_QP_STATE) || (attr->qp_state != IB_QPS_ERR && attr->qp_state != IB_QPS_RESET))
		return 0;
	softib_switch_drain();
	while ((wqe = softib_next_receive(qp))) {
		if (attr->qp_state == IB_QPS_ERR)
			flush(wqe, ib->recv_cq);
		else
			kfree(wqe);
	}
	return 0;
}

static int query_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_qp_init_attr *init)
{
	struct softib_qp *qp = to_qp(ib);

	memset(attr, 0, sizeof(*attr));
	memset(init, 0, sizeof(*init));
	attr->qp_state = attr->cur_qp_state = qp->state;
	attr->pkey_index = qp->pkey_index;
	attr->qkey = qp->qkey;
	attr->dest_qp_num = qp->peer_qpn;
	attr->port_num = 1;
	return 0;
}

static int destroy_qp(struct ib_qp *ib, struct ib_udata *udata)
{
	struct softib_qp *qp = to_qp(ib);
	struct softib_group *group, *next;

	mutex_lock(&softib_lock);
	list_del(&qp->node);
	list_for_each_entry_safe(group, next, &qp->groups, node)
		kfree(group);
	mutex_unlock(&softib_lock);
	softib_switch_drain();
	drop_all(&qp->receives);
	if (ib->send_cq)
		forget(ib->send_cq, qp);
	if (ib->recv_cq)
		forget(ib->recv_cq, qp);
	return 0;
}

static int attach_mcast(struct ib_qp *ib, union ib_gid *gid, u16 lid)
{
	struct softib_group *group = kmalloc(sizeof(*group), GFP_KERNEL);

	if (!group)
		return -ENOMEM;
	group->gid = *gid;
	mutex_lock(&softib_lock);
	list_add(&group->node, &to_qp(ib)->groups);
	mutex_unlock(&softib_lock);
	return 0;
}

static int detach_mcast(struct ib_qp *ib, union ib_gid *gid, u16 lid)
{
	struct softib_group *group, *next;

	mutex_lock(&softib_lock);
	list_for_each_entry_safe(group, next, &to_qp(ib)->groups, node)
		if (!memcmp(&group->gid, gid, sizeof(*gid))) {
			list_del(&group->node);
			kfree(group);
			break;
		}
	mutex_unlock(&softib_lock);
	return 0;
}

/* Work requests. */

static struct softib_wqe *new_wqe(struct softib_qp *qp, struct ib_cqe *cqe, struct ib_sge *sge, int sges)
{
	struct softib_wqe *wqe;

	if (sges > SOFTIB_SGES)
		return NULL;
	wqe = kzalloc(sizeof(*wqe), GFP_ATOMIC);
	if (!wqe)
		return NULL;
	wqe->qp = qp;
	wqe->sges = sges;
	memcpy(wqe->sge, sge, sges * sizeof(*sge));
	wqe->wc.wr_cqe = cqe; /* shares its place with wr_id */
	wqe->wc.qp = &qp->ib;
	wqe->wc.port_num = 1;
	return wqe;
}

static int post_recv(struct ib_qp *ib, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad)
{
	struct softib_qp *qp = to_qp(ib);
	unsigned long flags;
	bool broken;

	for (; wr; wr = wr->next) {
		struct softib_wqe *wqe = new_wqe(qp, wr->wr_cqe, wr->sg_list, wr->num_sge);

		if (!wqe) {
			*bad = wr;
			return -ENOMEM;
		}
		wqe->wc.opcode = IB_WC_RECV;
		spin_lock_irqsave(&qp->lock, flags);
		broken = qp->state == IB_QPS_ERR;
		if (!broken)
			list_add_tail(&wqe->node, &qp->receives);
		spin_unlock_irqrestore(&qp->lock, flags);
		if (broken)
			flush(wqe, ib->recv_cq);
	}
	return 0;
}

static void address(struct softib_wqe *wqe, const struct ib_ud_wr *ud)
{
	const struct rdma_ah_attr *attr = ud->ah ? &container_of(ud->ah, struct softib_ah, ib)->attr : NULL;

	wqe->qpn = ud->remote_qpn;
	wqe->qkey = ud->remote_qkey;
	wqe->pkey_index = ud->pkey_index;
	if (!attr)
		return;
	wqe->dlid = rdma_ah_get_dlid(attr);
	wqe->global = rdma_ah_get_ah_flags(attr) & IB_AH_GRH;
	if (wqe->global)
		wqe->dgid = rdma_ah_read_grh(attr)->dgid;
}

static int post_send(struct ib_qp *ib, const struct ib_send_wr *wr, const struct ib_send_wr **bad)
{
	struct softib_qp *qp = to_qp(ib);

	for (; wr; wr = wr->next) {
		struct softib_wqe *wqe = NULL;

		if (wr->opcode == IB_WR_SEND)
			wqe = new_wqe(qp, wr->wr_cqe, wr->sg_list, wr->num_sge);
		if (!wqe) {
			*bad = wr;
			return wr->opcode == IB_WR_SEND ? -ENOMEM : -EOPNOTSUPP;
		}
		wqe->wc.opcode = IB_WC_SEND;
		wqe->signaled = wr->send_flags & IB_SEND_SIGNALED || qp->all_signaled;
		if (ib->qp_type == IB_QPT_RC) {
			wqe->dlid = qp->peer_lid;
			wqe->qpn = qp->peer_qpn;
		} else {
			address(wqe, ud_wr(wr));
		}
		if (ib->qp_type != IB_QPT_GSI && ib->qp_type != IB_QPT_SMI)
			wqe->pkey_index = qp->pkey_index;
		if (READ_ONCE(qp->state) == IB_QPS_ERR)
			flush(wqe, ib->send_cq);
		else
			softib_switch_send(wqe);
	}
	return 0;
}

/* What has nothing to it here. */

static int alloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static int dealloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static struct ib_mr *get_dma_mr(struct ib_pd *pd, int access)
{
	struct ib_mr *mr = kzalloc(sizeof(*mr), GFP_KERNEL);

	return mr ?: ERR_PTR(-ENOMEM);
}

static struct ib_mr *reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 address, int access,
				 struct ib_udata *udata)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static int dereg_mr(struct ib_mr *mr, struct ib_udata *udata)
{
	kfree(mr);
	return 0;
}

static int create_ah(struct ib_ah *ib, struct rdma_ah_init_attr *init, struct ib_udata *udata)
{
	container_of(ib, struct softib_ah, ib)->attr = *init->ah_attr;
	return 0;
}

static int query_ah(struct ib_ah *ib, struct rdma_ah_attr *attr)
{
	*attr = container_of(ib, struct softib_ah, ib)->attr;
	return 0;
}

static int destroy_ah(struct ib_ah *ib, u32 flags)
{
	return 0;
}

const struct ib_device_ops softib_verbs = {
	.alloc_pd = alloc_pd,
	.dealloc_pd = dealloc_pd,
	.create_cq = create_cq,
	.destroy_cq = destroy_cq,
	.poll_cq = poll_cq,
	.req_notify_cq = req_notify_cq,
	.create_qp = create_qp,
	.modify_qp = modify_qp,
	.query_qp = query_qp,
	.destroy_qp = destroy_qp,
	.attach_mcast = attach_mcast,
	.detach_mcast = detach_mcast,
	.post_send = post_send,
	.post_recv = post_recv,
	.get_dma_mr = get_dma_mr,
	.reg_user_mr = reg_user_mr,
	.dereg_mr = dereg_mr,
	.create_ah = create_ah,
	.query_ah = query_ah,
	.destroy_ah = destroy_ah,
	INIT_RDMA_OBJ_SIZE(ib_pd, softib_pd, ib),
	INIT_RDMA_OBJ_SIZE(ib_cq, softib_cq, ib),
	INIT_RDMA_OBJ_SIZE(ib_qp, softib_qp, ib),
	INIT_RDMA_OBJ_SIZE(ib_ah, softib_ah, ib),
};
