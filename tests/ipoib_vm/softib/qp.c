// SPDX-License-Identifier: GPL-2.0
/* Queue pairs and their work requests. What is posted waits in two lists of the queue pair; the worker takes it there. */
#include <linux/slab.h>
#include "softib.h"

static atomic_t last_qpn = ATOMIC_INIT(0x100);
static atomic_t wqes = ATOMIC_INIT(0); /* that are not freed yet */

static struct softib_wqe *new_wqe(struct softib_qp *qp, struct ib_cqe *cqe, struct ib_sge *sge, int sges)
{
	struct softib_wqe *wqe;

	if (sges > SOFTIB_SGES)
		return NULL;
	wqe = kzalloc(sizeof(*wqe), GFP_ATOMIC);
	if (!wqe)
		return NULL;
	atomic_inc(&wqes);
	wqe->qp = qp;
	wqe->sges = sges;
	memcpy(wqe->sge, sge, sges * sizeof(*sge));
	wqe->wc.wr_cqe = cqe; /* shares its place with wr_id */
	wqe->wc.qp = &qp->ib;
	wqe->wc.port_num = 1;
	return wqe;
}

void softib_free(struct softib_wqe *wqe)
{
	kfree(wqe);
	atomic_dec(&wqes);
}

bool softib_all_freed(void)
{
	return atomic_read(&wqes) == 0;
}

/* The oldest of one of the queue pair's lists, or NULL; the caller owns it. */
struct softib_wqe *softib_take(struct softib_qp *qp, struct list_head *list)
{
	struct softib_wqe *wqe;
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	wqe = list_first_entry_or_null(list, struct softib_wqe, node);
	if (wqe)
		list_del(&wqe->node);
	spin_unlock_irqrestore(&qp->lock, flags);
	return wqe;
}

/* A send that is tried again later, before all that follow it. */
void softib_put_back(struct softib_qp *qp, struct softib_wqe *wqe)
{
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	list_add(&wqe->node, &qp->sends);
	spin_unlock_irqrestore(&qp->lock, flags);
}

/* As if nothing had ever been posted. With softib_lock held. */
static void empty(struct softib_qp *qp)
{
	struct softib_wqe *wqe;

	softib_forget(qp);
	while ((wqe = softib_take(qp, &qp->sends)) || (wqe = softib_take(qp, &qp->receives)))
		softib_free(wqe);
	if (qp->ib.send_cq)
		softib_forget_completions(qp->ib.send_cq, qp);
	if (qp->ib.recv_cq)
		softib_forget_completions(qp->ib.recv_cq, qp);
}

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
	INIT_LIST_HEAD(&qp->sends);
	INIT_LIST_HEAD(&qp->receives);
	INIT_LIST_HEAD(&qp->ready);
	INIT_LIST_HEAD(&qp->groups);
	mutex_lock(&softib_lock);
	list_add(&qp->node, &qp->hca->qps);
	mutex_unlock(&softib_lock);
	return 0;
}

static int modify_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_udata *udata)
{
	struct softib_qp *qp = to_qp(ib);
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
	if (qp->state == IB_QPS_RESET)
		empty(qp);
	mutex_unlock(&softib_lock);
	if (mask & IB_QP_STATE)
		softib_wake(qp); /* in state ERR all is flushed */
	return 0;
}

static int query_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_qp_init_attr *init)
{
	struct softib_qp *qp = to_qp(ib);

	memset(attr, 0, sizeof(*attr));
	memset(init, 0, sizeof(*init));
	attr->qp_state = attr->cur_qp_state = READ_ONCE(qp->state);
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
	empty(qp);
	mutex_unlock(&softib_lock);
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

/* To the end of its list, if the queue pair's state allows that (10.3.1); in state ERR it comes back as flushed. */
static int post(struct softib_wqe *wqe, struct list_head *list, enum ib_qp_state first)
{
	struct softib_qp *qp = wqe->qp;
	enum ib_qp_state state;
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	state = qp->state;
	if (state >= first)
		list_add_tail(&wqe->node, list);
	spin_unlock_irqrestore(&qp->lock, flags);
	if (state < first) {
		softib_free(wqe);
		return -EINVAL;
	}
	if (list == &qp->sends || state == IB_QPS_ERR)
		softib_wake(qp);
	return 0;
}

static int post_recv(struct ib_qp *ib, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad)
{
	struct softib_qp *qp = to_qp(ib);

	for (; wr; wr = wr->next) {
		struct softib_wqe *wqe = new_wqe(qp, wr->wr_cqe, wr->sg_list, wr->num_sge);
		int error = -ENOMEM;

		if (wqe) {
			wqe->wc.opcode = IB_WC_RECV;
			error = post(wqe, &qp->receives, IB_QPS_INIT);
		}
		if (error) {
			*bad = wr;
			return error;
		}
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
		int error = wr->opcode == IB_WR_SEND ? -ENOMEM : -EOPNOTSUPP;

		if (wr->opcode == IB_WR_SEND)
			wqe = new_wqe(qp, wr->wr_cqe, wr->sg_list, wr->num_sge);
		if (wqe) {
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
			error = post(wqe, &qp->sends, IB_QPS_RTS);
		}
		if (error) {
			*bad = wr;
			return error;
		}
	}
	return 0;
}

const struct ib_device_ops softib_qp_verbs = {
	.create_qp = create_qp,
	.modify_qp = modify_qp,
	.query_qp = query_qp,
	.destroy_qp = destroy_qp,
	.attach_mcast = attach_mcast,
	.detach_mcast = detach_mcast,
	.post_send = post_send,
	.post_recv = post_recv,
	INIT_RDMA_OBJ_SIZE(ib_qp, softib_qp, ib),
};
