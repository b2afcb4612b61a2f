// SPDX-License-Identifier: GPL-2.0
/*
 * The worker that sees to queue pairs with something to do. They take turns of AT_ONCE messages, so nobody waits long for
 * another; what one of them sends keeps its order.
 */
#include <linux/workqueue.h>
#include "softib.h"

#define AT_ONCE 64
#define RNR_TRIES 250 /* each a tick after the one before */

static void carry_all(struct work_struct *unused);
static void try_again(struct work_struct *unused);

static struct workqueue_struct *queue;
static DECLARE_WORK(work, carry_all);
static DECLARE_DELAYED_WORK(later, try_again);
static LIST_HEAD(ready); /* queue pairs that have something to do */
static LIST_HEAD(waiting); /* those whose receiver was not ready, until later */
static DEFINE_SPINLOCK(ready_lock); /* of both */

int softib_worker_start(void)
{
	queue = alloc_ordered_workqueue("softib", WQ_MEM_RECLAIM);
	return queue ? 0 : -ENOMEM;
}

void softib_worker_stop(void)
{
	if (!queue)
		return;
	cancel_delayed_work_sync(&later);
	destroy_workqueue(queue);
}

static void add_to(struct list_head *list, struct softib_qp *qp)
{
	unsigned long flags;

	spin_lock_irqsave(&ready_lock, flags);
	if (list_empty(&qp->ready))
		list_add_tail(&qp->ready, list);
	spin_unlock_irqrestore(&ready_lock, flags);
}

/* The queue pair has something to send or to flush. Callable from any context. */
void softib_wake(struct softib_qp *qp)
{
	add_to(&ready, qp);
	queue_work(queue, &work);
}

/* With softib_lock held, under which the worker has it in hand. */
void softib_forget(struct softib_qp *qp)
{
	unsigned long flags;

	spin_lock_irqsave(&ready_lock, flags);
	list_del_init(&qp->ready);
	spin_unlock_irqrestore(&ready_lock, flags);
}

/* A datagram's sender does not learn that it did not arrive; a connection that loses a message is over (10.7.2). */
static void finish(struct softib_wqe *wqe, int error)
{
	bool reliable = wqe->qp->ib.qp_type == IB_QPT_RC;

	if (error == -EMSGSIZE)
		wqe->wc.status = IB_WC_LOC_LEN_ERR;
	else if (error == -ECANCELED)
		wqe->wc.status = IB_WC_WR_FLUSH_ERR;
	else if (reliable && error)
		wqe->wc.status = error == -EAGAIN ? IB_WC_RNR_RETRY_EXC_ERR : IB_WC_RETRY_EXC_ERR;
	if (reliable && error) {
		unsigned long flags;

		spin_lock_irqsave(&wqe->qp->lock, flags);
		wqe->qp->state = IB_QPS_ERR;
		spin_unlock_irqrestore(&wqe->qp->lock, flags);
	}
	if (wqe->signaled || wqe->wc.status)
		softib_complete(wqe, wqe->qp->ib.send_cq);
	else
		softib_free(wqe);
}

/* In state ERR every work request comes back as flushed (10.3.1.6). */
static void flush(struct softib_qp *qp)
{
	struct softib_wqe *wqe;

	while ((wqe = softib_take(qp, &qp->sends)))
		finish(wqe, -ECANCELED);
	while ((wqe = softib_take(qp, &qp->receives))) {
		wqe->wc.status = IB_WC_WR_FLUSH_ERR;
		softib_complete(wqe, qp->ib.recv_cq);
	}
}

/* Carry what a queue pair has sent, for a while. */
static void serve(struct softib_qp *qp)
{
	struct softib_wqe *wqe;
	int left, error;

	for (left = AT_ONCE; left && qp->state != IB_QPS_ERR; left--) {
		wqe = softib_take(qp, &qp->sends);
		if (!wqe)
			return;
		error = softib_carry(wqe);
		if (error == -EAGAIN && qp->ib.qp_type == IB_QPT_RC && ++qp->tries < RNR_TRIES) {
			/* Receiver not ready: nothing behind it in this queue pair may overtake it, all others may. */
			softib_put_back(qp, wqe);
			add_to(&waiting, qp);
			queue_delayed_work(queue, &later, 1);
			return;
		}
		qp->tries = 0;
		finish(wqe, error);
	}
	if (qp->state == IB_QPS_ERR)
		flush(qp);
	else
		softib_wake(qp);
}

static struct softib_qp *take_first(struct list_head *list)
{
	struct softib_qp *qp;
	unsigned long flags;

	spin_lock_irqsave(&ready_lock, flags);
	qp = list_first_entry_or_null(list, struct softib_qp, ready);
	if (qp)
		list_del_init(&qp->ready);
	spin_unlock_irqrestore(&ready_lock, flags);
	return qp;
}

static void move(struct list_head *from, struct list_head *to)
{
	unsigned long flags;

	spin_lock_irqsave(&ready_lock, flags);
	list_splice_tail_init(from, to);
	spin_unlock_irqrestore(&ready_lock, flags);
}

static void try_again(struct work_struct *unused)
{
	move(&waiting, &ready);
	queue_work(queue, &work);
}

/* One turn of each queue pair that is ready when it begins: a run ends, however much is sent meanwhile. */
static void carry_all(struct work_struct *unused)
{
	struct softib_qp *qp;
	LIST_HEAD(turn);

	move(&ready, &turn);
	do {
		mutex_lock(&softib_lock);
		qp = take_first(&turn);
		if (qp)
			serve(qp);
		mutex_unlock(&softib_lock);
		cond_resched();
	} while (qp);
}
