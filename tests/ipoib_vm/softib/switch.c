// SPDX-License-Identifier: GPL-2.0
/* The switch: where a message goes, and who may receive it. */
#include <linux/mm.h>
#include <linux/module.h>
#include "softib.h"

#define HEADERS (8 + 12 + 8 + 4) /* LRH, BTH, DETH, ICRC */
#define PATH_MTU 4096

static bool enforce = true;
module_param_named(partitions, enforce, bool, 0644);
MODULE_PARM_DESC(partitions, "whether a packet must be of a partition of its receiver (default Y)");

static u8 *wire; /* room for a GRH, then the message on its way */

int softib_switch_start(void)
{
	wire = kvzalloc(SOFTIB_GRH + SOFTIB_MAX_MESSAGE, GFP_KERNEL);
	return wire ? 0 : -ENOMEM;
}

void softib_switch_stop(void)
{
	kvfree(wire);
}

static void count(struct softib_hca *hca, const struct softib_packet *packet, bool received)
{
	u64 packets = max_t(u32, 1, DIV_ROUND_UP(packet->length, PATH_MTU));
	u64 words = (packets * (HEADERS + (packet->global ? SOFTIB_GRH : 0)) + ALIGN(packet->length, 4)) / 4;
	bool multicast = packet->dlid >= SOFTIB_FIRST_MLID;

	if (received) {
		hca->count.rcv_data += words;
		hca->count.rcv_packets += packets;
		hca->count.multicast_rcv_packets += multicast ? packets : 0;
	} else {
		hca->count.xmit_data += words;
		hca->count.xmit_packets += packets;
		hca->count.multicast_xmit_packets += multicast ? packets : 0;
	}
}

static u16 pkey_of(const struct softib_hca *hca, u16 index)
{
	return index < SOFTIB_PKEYS ? hca->pkeys[index] : 0;
}

/* Two limited members of a partition do not talk to each other (10.9.3). */
bool softib_same_partition(u16 one, u16 other)
{
	if (!enforce)
		return true;

	return (one & 0x7fff) && (one & 0x7fff) == (other & 0x7fff) && ((one | other) & 0x8000);
}

static int matching_pkey(const struct softib_hca *hca, u16 pkey)
{
	int i;

	for (i = 0; i < SOFTIB_PKEYS; i++)
		if (softib_same_partition(hca->pkeys[i], pkey))
			return i;
	return -1;
}

static bool accepts(const struct softib_qp *qp, const struct softib_packet *packet)
{
	u16 pkey = pkey_of(qp->hca, qp->pkey_index);

	if (qp->ib.qp_type != packet->type || (qp->state != IB_QPS_RTR && qp->state != IB_QPS_RTS))
		return false;
	if (packet->type == IB_QPT_RC && qp->peer_qpn != packet->source_qpn)
		return false;
	if (packet->type == IB_QPT_UD && qp->qkey != packet->qkey) {
		qp->hca->count.bad_qkey++;
		return false;
	}
	if (packet->type == IB_QPT_GSI ? matching_pkey(qp->hca, packet->pkey) >= 0
				       : softib_same_partition(pkey, packet->pkey))
		return true;
	qp->hca->count.bad_pkey++;
	return false;
}

static void scatter(struct softib_wqe *wqe, const u8 *from, u32 length)
{
	int i;

	for (i = 0; i < wqe->sges && length; i++) {
		u32 part = min(wqe->sge[i].length, length);

		memcpy((void *)(uintptr_t)wqe->sge[i].addr, from, part);
		from += part;
		length -= part;
	}
	if (length)
		wqe->wc.status = IB_WC_LOC_LEN_ERR;
}

/* Into the queue pair's oldest receive. Datagrams come behind 40 bytes for a GRH, filled or not (11.4.1.2). */
static int deliver(struct softib_qp *qp, const struct softib_packet *packet)
{
	bool datagram = packet->type != IB_QPT_RC;
	struct softib_wqe *wqe = softib_take(qp, &qp->receives);

	if (!wqe) {
		qp->hca->count.out_of_buffer += datagram;
		return -EAGAIN;
	}
	wqe->wc.byte_len = packet->length + (datagram ? SOFTIB_GRH : 0);
	scatter(wqe, datagram ? packet->grh : packet->data, wqe->wc.byte_len);
	wqe->wc.src_qp = packet->source_qpn;
	wqe->wc.slid = packet->from ? packet->from->lid : SOFTIB_SM_LID;
	wqe->wc.wc_flags = datagram && packet->global ? IB_WC_GRH : 0;
	if (packet->type == IB_QPT_GSI)
		wqe->wc.pkey_index = matching_pkey(qp->hca, packet->pkey);
	softib_complete(wqe, qp->ib.recv_cq);
	return 0;
}

static bool listens(const struct softib_qp *qp, const union ib_gid *gid)
{
	struct softib_group *group;

	list_for_each_entry(group, &qp->groups, node)
		if (!memcmp(&group->gid, gid, sizeof(*gid)))
			return true;
	return false;
}

/* Also to other queue pairs of the sending port, and to the sender itself: it knows its own by LID and number. */
static void multicast(const struct softib_packet *packet)
{
	struct softib_hca *hca;
	struct softib_qp *qp;

	list_for_each_entry(hca, &softib_hcas, node) {
		bool heard = false;

		if (hca->state != IB_PORT_ACTIVE)
			continue;
		list_for_each_entry(qp, &hca->qps, node)
			if (listens(qp, &packet->dgid) && accepts(qp, packet)) {
				heard = true;
				deliver(qp, packet);
			}
		if (heard)
			count(hca, packet, true);
	}
}

static int unicast(const struct softib_packet *packet)
{
	struct softib_hca *hca;
	struct softib_qp *qp;

	list_for_each_entry(hca, &softib_hcas, node) {
		if (hca->lid != packet->dlid)
			continue;
		if (hca->state != IB_PORT_ACTIVE)
			return -ENETUNREACH;
		list_for_each_entry(qp, &hca->qps, node)
			if (qp->ib.qp_num == packet->qpn && accepts(qp, packet)) {
				int error = deliver(qp, packet);

				if (!error)
					count(hca, packet, true);
				return error;
			}
	}
	return -ENETUNREACH;
}

static void fill_grh(const struct softib_packet *packet)
{
	struct ib_grh *grh = (struct ib_grh *)packet->grh;

	memset(grh, 0, sizeof(*grh));
	if (!packet->global)
		return;
	grh->version_tclass_flow = cpu_to_be32(6 << 28);
	grh->paylen = cpu_to_be16(packet->length);
	grh->next_hdr = 0x1b;
	grh->hop_limit = 1;
	softib_own_gid(packet->from, &grh->sgid);
	grh->dgid = packet->dgid;
}

static int gather(const struct softib_wqe *wqe, struct softib_packet *packet)
{
	u32 room = packet->type == IB_QPT_RC ? SOFTIB_MAX_MESSAGE : PATH_MTU;
	int i;

	packet->grh = wire;
	packet->data = wire + SOFTIB_GRH;
	packet->length = 0;
	for (i = 0; i < wqe->sges; i++) {
		u32 part = wqe->sge[i].length;

		if (part > room - packet->length)
			return -EMSGSIZE;
		memcpy(packet->data + packet->length, (void *)(uintptr_t)wqe->sge[i].addr, part);
		packet->length += part;
	}
	return 0;
}

/*
 * One message to where it goes, with softib_lock held. -EMSGSIZE: longer than a message may be; -ENETUNREACH: nobody is
 * there; -EAGAIN: the receiver has posted no receive.
 */
int softib_carry(struct softib_wqe *wqe)
{
	struct softib_qp *qp = wqe->qp;
	struct softib_packet packet = {
		.from = qp->hca, .type = qp->ib.qp_type, .source_qpn = qp->ib.qp_num, .qpn = wqe->qpn,
		.dlid = wqe->dlid, .pkey = pkey_of(qp->hca, wqe->pkey_index), .global = wqe->global, .dgid = wqe->dgid,
		/* A Q_Key with its high bit set stands for the sender's own (10.2.5). */
		.qkey = wqe->qkey & BIT(31) ? qp->qkey : wqe->qkey,
	};
	int error = gather(wqe, &packet);

	if (error)
		return error;
	if (packet.type == IB_QPT_SMI)
		return -ENETUNREACH;
	if (qp->hca->state != IB_PORT_ACTIVE) {
		qp->hca->count.xmit_discards++;
		return -ENETUNREACH;
	}
	fill_grh(&packet);
	if (packet.type == IB_QPT_GSI && packet.dlid == SOFTIB_SM_LID) {
		if (qp->hca->sm && packet.length == sizeof(struct ib_mad))
			softib_subnet_request(qp->hca, (struct ib_mad *)packet.data);
	} else if (packet.dlid >= SOFTIB_FIRST_MLID) {
		multicast(&packet);
	} else {
		error = unicast(&packet);
	}
	if (packet.type != IB_QPT_RC || error != -EAGAIN) /* else it has not left yet */
		count(qp->hca, &packet, false);
	return error;
}

/* The subnet manager's own words, without a GRH as the request was. */
void softib_answer(struct softib_hca *to, const struct ib_mad *mad)
{
	static u8 buffer[SOFTIB_GRH + sizeof(*mad)];
	struct softib_packet packet = {
		.type = IB_QPT_GSI, .source_qpn = 1, .qpn = 1, .dlid = to->lid, .pkey = 0xffff,
		.length = sizeof(*mad), .grh = buffer, .data = buffer + SOFTIB_GRH,
	};

	memcpy(packet.data, mad, sizeof(*mad));
	unicast(&packet);
}
