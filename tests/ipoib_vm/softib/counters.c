// SPDX-License-Identifier: GPL-2.0
/*
 * What a port has counted. ports/1/counters in sysfs comes from its performance management (16.1), as with hardware;
 * ports/1/hw_counters has what the specification has no counter for that sysfs shows.
 */
#include <rdma/ib_pma.h>
#include <rdma/ib_verbs.h>
#include "softib.h"

static __be32 clamped(u64 value)
{
	return cpu_to_be32(min_t(u64, value, U32_MAX));
}

static void port_counters(const struct softib_hca *hca, struct ib_pma_portcounters *out)
{
	out->port_select = 1;
	out->port_xmit_data = clamped(hca->count.xmit_data);
	out->port_rcv_data = clamped(hca->count.rcv_data);
	out->port_xmit_packets = clamped(hca->count.xmit_packets);
	out->port_rcv_packets = clamped(hca->count.rcv_packets);
	out->port_xmit_discards = cpu_to_be16(min_t(u64, hca->count.xmit_discards, U16_MAX));
	out->link_downed_counter = min_t(u64, hca->count.link_downed, U8_MAX);
}

static void port_counters_ext(const struct softib_hca *hca, struct ib_pma_portcounters_ext *out)
{
	u64 sent = hca->count.multicast_xmit_packets, received = hca->count.multicast_rcv_packets;

	out->port_select = 1;
	out->port_xmit_data = cpu_to_be64(hca->count.xmit_data);
	out->port_rcv_data = cpu_to_be64(hca->count.rcv_data);
	out->port_xmit_packets = cpu_to_be64(hca->count.xmit_packets);
	out->port_rcv_packets = cpu_to_be64(hca->count.rcv_packets);
	out->port_unicast_xmit_packets = cpu_to_be64(hca->count.xmit_packets - sent);
	out->port_unicast_rcv_packets = cpu_to_be64(hca->count.rcv_packets - received);
	out->port_multicast_xmit_packets = cpu_to_be64(sent);
	out->port_multicast_rcv_packets = cpu_to_be64(received);
}

/* ib_core asks this for what it shows in ports/1/counters, and ib_mad for every packet that comes in. */
static int process_mad(struct ib_device *ib, int flags, u32 port, const struct ib_wc *wc, const struct ib_grh *grh,
		       const struct ib_mad *in, struct ib_mad *out, size_t *out_size, u16 *out_pkey_index)
{
	struct softib_hca *hca = to_hca(ib);
	struct ib_pma_mad *answer = (struct ib_pma_mad *)out;

	if (in->mad_hdr.mgmt_class != IB_MGMT_CLASS_PERF_MGMT || in->mad_hdr.method != IB_MGMT_METHOD_GET)
		return IB_MAD_RESULT_SUCCESS; /* whom it is for will see it */
	memset(out, 0, sizeof(*out));
	out->mad_hdr = in->mad_hdr;
	out->mad_hdr.method = IB_MGMT_METHOD_GET_RESP;
	mutex_lock(&softib_lock);
	if (in->mad_hdr.attr_id == IB_PMA_CLASS_PORT_INFO)
		((struct ib_class_port_info *)answer->data)->capability_mask = IB_PMA_CLASS_CAP_EXT_WIDTH;
	else if (in->mad_hdr.attr_id == IB_PMA_PORT_COUNTERS)
		port_counters(hca, (struct ib_pma_portcounters *)answer->data);
	else if (in->mad_hdr.attr_id == IB_PMA_PORT_COUNTERS_EXT)
		port_counters_ext(hca, (struct ib_pma_portcounters_ext *)answer->data);
	else
		out->mad_hdr.status = cpu_to_be16(0x000c) /* attribute not supported */;
	mutex_unlock(&softib_lock);
	return IB_MAD_RESULT_SUCCESS | IB_MAD_RESULT_REPLY;
}

static const struct rdma_stat_desc refused[] = {
	{ .name = "bad_pkey" }, { .name = "bad_qkey" }, { .name = "out_of_buffer" },
};

static struct rdma_hw_stats *alloc_hw_port_stats(struct ib_device *ib, u32 port)
{
	return rdma_alloc_hw_stats_struct(refused, ARRAY_SIZE(refused), 0);
}

static int get_hw_stats(struct ib_device *ib, struct rdma_hw_stats *stats, u32 port, int index)
{
	const struct softib_count *count = &to_hca(ib)->count;

	mutex_lock(&softib_lock);
	stats->value[0] = count->bad_pkey;
	stats->value[1] = count->bad_qkey;
	stats->value[2] = count->out_of_buffer;
	mutex_unlock(&softib_lock);
	return ARRAY_SIZE(refused);
}

const struct ib_device_ops softib_counter_verbs = {
	.process_mad = process_mad,
	.alloc_hw_port_stats = alloc_hw_port_stats,
	.get_hw_stats = get_hw_stats,
};
