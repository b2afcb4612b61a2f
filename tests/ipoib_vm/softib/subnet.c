// SPDX-License-Identifier: GPL-2.0
/*
 * What the subnet administration says to ib_sa and ib_ipoib (15.2). Groups are made when somebody joins; whoever is in
 * the partition may.
 */
#include <linux/crc32.h>
#include <linux/module.h>
#include <rdma/ib_sa.h>
#include "softib.h"

#define QKEY 0x0b1b
#define EXACTLY (2 << 6)
#define LIFE_TIME 14
#define RESPONSE_TIME 14
#define LINK_LOCAL 0x20
#define REQUEST_INVALID cpu_to_be16(0x0200)
#define NO_RECORDS cpu_to_be16(0x0300)
#define UNSUPPORTED cpu_to_be16(0x000c)

static unsigned int group_mtu = 4096;
module_param(group_mtu, uint, 0644);
MODULE_PARM_DESC(group_mtu, "IB MTU of multicast groups: 256, 512, 1024, 2048 or 4096 (default); for those that join later");

struct member_record {		/* MCMemberRecord, 15.2.5.17 */
	union ib_gid mgid, port_gid;
	__be32 qkey;
	__be16 mlid;
	u8 mtu, tclass;
	__be16 pkey;
	u8 rate, life_time;
	__be32 sl_flow_hop;
	u8 scope_state, proxy;
} __packed;

struct path_record {		/* PathRecord, 15.2.5.16 */
	__be64 service_id;
	union ib_gid dgid, sgid;
	__be16 dlid, slid;
	__be32 flow_hop;
	u8 tclass, reversible_paths;
	__be16 pkey, qos_sl;
	u8 mtu, rate, life_time, preference;
} __packed;

static __be16 join(struct softib_hca *from, struct member_record *record)
{
	if (!softib_pkey(from, be16_to_cpu(record->pkey)))
		return REQUEST_INVALID;
	record->qkey = cpu_to_be32(QKEY);
	/* The same group has the same LID; two groups of one LID are told apart by their GIDs. */
	record->mlid = cpu_to_be16(SOFTIB_FIRST_MLID + crc32_le(~0, record->mgid.raw, sizeof(record->mgid)) % 0x3ffe);
	record->mtu = EXACTLY | ib_mtu_int_to_enum(group_mtu);
	record->rate = EXACTLY | IB_RATE_100_GBPS;
	record->life_time = EXACTLY | LIFE_TIME;
	record->scope_state |= LINK_LOCAL;
	return 0;
}

static __be16 path(struct path_record *record)
{
	struct softib_hca *to = softib_by_gid(&record->dgid), *from = softib_by_gid(&record->sgid);
	u16 pkey = be16_to_cpu(record->pkey);

	if (!to || !from || to->state != IB_PORT_ACTIVE)
		return NO_RECORDS;
	if (pkey && !softib_same_partition(softib_pkey(to, pkey), softib_pkey(from, pkey)))
		return NO_RECORDS;
	record->dlid = cpu_to_be16(to->lid);
	record->slid = cpu_to_be16(from->lid);
	record->mtu = EXACTLY | IB_MTU_4096;
	record->rate = EXACTLY | IB_RATE_100_GBPS;
	record->life_time = EXACTLY | LIFE_TIME;
	return 0;
}

static void class_port_info(void *data)
{
	struct ib_class_port_info *info = data;

	memset(info, 0, sizeof(*info));
	info->base_version = IB_MGMT_BASE_VERSION;
	info->class_version = IB_SA_CLASS_VERSION;
	ib_set_cpi_resp_time(info, RESPONSE_TIME);
}

/* With softib_lock held. */
void softib_subnet_request(struct softib_hca *from, const struct ib_mad *request)
{
	struct ib_sa_mad mad;
	u8 method = request->mad_hdr.method;

	memcpy(&mad, request, sizeof(mad));
	if (mad.mad_hdr.mgmt_class != IB_MGMT_CLASS_SUBN_ADM || (method & IB_MGMT_METHOD_RESP))
		return;
	mad.mad_hdr.method = method == IB_SA_METHOD_DELETE ? IB_SA_METHOD_DELETE_RESP : IB_MGMT_METHOD_GET_RESP;
	mad.mad_hdr.status = 0;
	switch (be16_to_cpu(mad.mad_hdr.attr_id)) {
	case IB_SA_ATTR_CLASS_PORTINFO:
		class_port_info(mad.data);
		break;
	case IB_SA_ATTR_MC_MEMBER_REC:
		if (method != IB_SA_METHOD_DELETE)
			mad.mad_hdr.status = join(from, (struct member_record *)mad.data);
		break;
	case IB_SA_ATTR_PATH_REC:
		mad.mad_hdr.status = path((struct path_record *)mad.data);
		break;
	default:
		mad.mad_hdr.status = UNSUPPORTED;
	}
	softib_answer(from, (struct ib_mad *)&mad);
}
