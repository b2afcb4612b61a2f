// SPDX-License-Identifier: GPL-2.0
/* Completion queues, and the verbs that have nothing to do here. */
#include <linux/slab.h>
#include <linux/version.h>
#include "softib.h"

/* What comes from user space, which never asks here. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define CQ_USER_DATA struct uverbs_attr_bundle
#else
#define CQ_USER_DATA struct ib_udata
#endif

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
	return 0; /* its queue pairs went before it, and their completions with them */
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
		softib_free(wqe);
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

/*
 * The work request is done; its completion goes to the queue, which owns it from now on. Only the worker calls
 * this, so the handler runs in no context but one.
 */
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
void softib_forget_completions(struct ib_cq *ib, struct softib_qp *qp)
{
	struct softib_cq *cq = to_cq(ib);
	struct softib_wqe *wqe, *next;
	unsigned long flags;

	spin_lock_irqsave(&cq->lock, flags);
	list_for_each_entry_safe(wqe, next, &cq->done, node)
		if (wqe->qp == qp) {
			list_del(&wqe->node);
			softib_free(wqe);
		}
	spin_unlock_irqrestore(&cq->lock, flags);
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
	.get_dma_mr = get_dma_mr,
	.reg_user_mr = reg_user_mr,
	.dereg_mr = dereg_mr,
	.create_ah = create_ah,
	.query_ah = query_ah,
	.destroy_ah = destroy_ah,
	INIT_RDMA_OBJ_SIZE(ib_pd, softib_pd, ib),
	INIT_RDMA_OBJ_SIZE(ib_cq, softib_cq, ib),
	INIT_RDMA_OBJ_SIZE(ib_ah, softib_ah, ib),
};
