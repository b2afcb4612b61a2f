// SPDX-License-Identifier: GPL-2.0
/*
 * The adapters: softib0, softib1, ... with a platform device each as parent, so that sysfs looks as with hardware
 * (/sys/class/net/ib0/device/infiniband/softib0). What a test may change is in /sys/class/infiniband/softibN/control:
 *
 *   port     active, init (no subnet manager has been by) or down (the cable is out)
 *   pkeys    the partition table, in hexadecimal: "0xffff 0x8001"
 *   sm       on or off: whether the subnet manager answers this port
 */
#include <linux/ctype.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include "softib.h"

#define GUID_BASE 0x02005efffe000100ull /* locally administered */
#define SUBNET_PREFIX 0xfe80000000000000ull
#define MAX_HCAS 64

static unsigned int hcas = 1;
module_param(hcas, uint, 0444);
MODULE_PARM_DESC(hcas, "number of adapters, 1 (default) to 64");

LIST_HEAD(softib_hcas);
DEFINE_MUTEX(softib_lock);

void softib_own_gid(const struct softib_hca *hca, union ib_gid *gid)
{
	gid->global.subnet_prefix = cpu_to_be64(SUBNET_PREFIX);
	gid->global.interface_id = hca->ib.node_guid;
}

struct softib_hca *softib_by_gid(const union ib_gid *gid)
{
	struct softib_hca *hca;

	list_for_each_entry(hca, &softib_hcas, node)
		if (gid->global.interface_id == hca->ib.node_guid)
			return hca;
	return NULL;
}

/* The port's entry for a partition, as a full or a limited member (10.9.3); 0 when it is in none such. */
u16 softib_pkey(const struct softib_hca *hca, u16 pkey)
{
	int i;

	for (i = 0; i < SOFTIB_PKEYS; i++)
		if ((hca->pkeys[i] & 0x7fff) && (hca->pkeys[i] & 0x7fff) == (pkey & 0x7fff))
			return hca->pkeys[i];
	return 0;
}

static int query_device(struct ib_device *ib, struct ib_device_attr *attr, struct ib_udata *udata)
{
	memset(attr, 0, sizeof(*attr));
	attr->sys_image_guid = ib->node_guid;
	attr->kernel_cap_flags = IBK_LOCAL_DMA_LKEY;
	attr->max_mr_size = ~0ull;
	attr->max_qp = attr->max_cq = attr->max_mr = attr->max_pd = attr->max_ah = 65536;
	attr->max_qp_wr = attr->max_cqe = 65536;
	attr->max_send_sge = attr->max_recv_sge = SOFTIB_SGES;
	attr->max_pkeys = SOFTIB_PKEYS;
	attr->max_mcast_grp = attr->max_mcast_qp_attach = 8192;
	return 0;
}

static int query_port(struct ib_device *ib, u32 number, struct ib_port_attr *attr)
{
	struct softib_hca *hca = to_hca(ib);

	attr->state = READ_ONCE(hca->state);
	attr->phys_state = attr->state == IB_PORT_DOWN ? IB_PORT_PHYS_STATE_POLLING : IB_PORT_PHYS_STATE_LINK_UP;
	attr->max_mtu = attr->active_mtu = IB_MTU_4096;
	attr->gid_tbl_len = SOFTIB_GIDS;
	attr->pkey_tbl_len = SOFTIB_PKEYS;
	attr->max_msg_sz = SOFTIB_MAX_MESSAGE;
	attr->lid = hca->lid;
	attr->sm_lid = SOFTIB_SM_LID;
	attr->active_width = IB_WIDTH_4X;
	attr->active_speed = IB_SPEED_EDR;
	attr->max_vl_num = 1;
	attr->bad_pkey_cntr = min_t(u64, hca->count.bad_pkey, U16_MAX);
	attr->qkey_viol_cntr = min_t(u64, hca->count.bad_qkey, U16_MAX);
	return 0;
}

static int port_immutable(struct ib_device *ib, u32 number, struct ib_port_immutable *immutable)
{
	immutable->core_cap_flags = RDMA_CORE_PORT_IBA_IB;
	immutable->pkey_tbl_len = SOFTIB_PKEYS;
	immutable->gid_tbl_len = SOFTIB_GIDS;
	immutable->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

static int modify_port(struct ib_device *ib, u32 number, int mask, struct ib_port_modify *modify)
{
	return 0; /* ib_cm tells that it is there; nobody here asks */
}

static int query_pkey(struct ib_device *ib, u32 number, u16 index, u16 *pkey)
{
	*pkey = index < SOFTIB_PKEYS ? READ_ONCE(to_hca(ib)->pkeys[index]) : 0;
	return 0;
}

static int query_gid(struct ib_device *ib, u32 number, int index, union ib_gid *gid)
{
	memset(gid, 0, sizeof(*gid));
	if (index == 0)
		softib_own_gid(to_hca(ib), gid);
	return 0;
}

static enum rdma_link_layer link_layer(struct ib_device *ib, u32 number)
{
	return IB_LINK_LAYER_INFINIBAND;
}

static void tell(struct softib_hca *hca, enum ib_event_type type)
{
	struct ib_event event = { .device = &hca->ib, .event = type, .element.port_num = 1 };

	ib_dispatch_event(&event);
}

static struct softib_hca *hca_of(struct device *device)
{
	return rdma_device_to_drv_device(device, struct softib_hca, ib);
}

static const char *const port_words[] = {
	[IB_PORT_DOWN] = "down", [IB_PORT_INIT] = "init", [IB_PORT_ACTIVE] = "active",
};

static ssize_t port_show(struct device *device, struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "%s\n", port_words[hca_of(device)->state]);
}

static ssize_t port_store(struct device *device, struct device_attribute *attr, const char *text, size_t size)
{
	struct softib_hca *hca = hca_of(device);
	int state;

	for (state = 0; state < ARRAY_SIZE(port_words); state++)
		if (port_words[state] && sysfs_streq(text, port_words[state]))
			break;
	if (state == ARRAY_SIZE(port_words))
		return -EINVAL;
	mutex_lock(&softib_lock);
	if (state == IB_PORT_DOWN && hca->state != IB_PORT_DOWN)
		hca->count.link_downed++;
	WRITE_ONCE(hca->state, state);
	mutex_unlock(&softib_lock);
	tell(hca, state == IB_PORT_ACTIVE ? IB_EVENT_PORT_ACTIVE : IB_EVENT_PORT_ERR);
	return size;
}
static DEVICE_ATTR_RW(port);

static ssize_t pkeys_show(struct device *device, struct device_attribute *attr, char *text)
{
	struct softib_hca *hca = hca_of(device);
	int i, size = 0;

	for (i = 0; i < SOFTIB_PKEYS; i++)
		if (hca->pkeys[i])
			size += sysfs_emit_at(text, size, "%s0x%04x", size ? " " : "", hca->pkeys[i]);
	return size + sysfs_emit_at(text, size, "\n");
}

static ssize_t pkeys_store(struct device *device, struct device_attribute *attr, const char *text, size_t size)
{
	struct softib_hca *hca = hca_of(device);
	u16 pkeys[SOFTIB_PKEYS] = {};
	char word[8];
	int i = 0, used;

	while (sscanf(text, " %7s%n", word, &used) == 1) {
		if (i == SOFTIB_PKEYS || kstrtou16(word, 16, &pkeys[i++]))
			return -EINVAL;
		text += used;
	}
	mutex_lock(&softib_lock);
	memcpy(hca->pkeys, pkeys, sizeof(pkeys));
	mutex_unlock(&softib_lock);
	tell(hca, IB_EVENT_PKEY_CHANGE);
	return size;
}
static DEVICE_ATTR_RW(pkeys);

static ssize_t sm_show(struct device *device, struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "%s\n", hca_of(device)->sm ? "on" : "off");
}

static ssize_t sm_store(struct device *device, struct device_attribute *attr, const char *text, size_t size)
{
	struct softib_hca *hca = hca_of(device);
	int error;

	mutex_lock(&softib_lock);
	error = kstrtobool(text, &hca->sm);
	mutex_unlock(&softib_lock);
	return error ?: size;
}
static DEVICE_ATTR_RW(sm);

static struct attribute *control_attributes[] = {
	&dev_attr_port.attr, &dev_attr_pkeys.attr, &dev_attr_sm.attr, NULL
};
static const struct attribute_group control = { .name = "control", .attrs = control_attributes };

static const struct ib_device_ops port_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_UNKNOWN,
	.device_group = &control,
	.query_device = query_device,
	.query_port = query_port,
	.modify_port = modify_port,
	.get_port_immutable = port_immutable,
	.get_link_layer = link_layer,
	.query_pkey = query_pkey,
	.query_gid = query_gid,
};

static int add(int number)
{
	struct softib_hca *hca;
	int i, error;

	hca = ib_alloc_device(softib_hca, ib);
	if (!hca)
		return -ENOMEM;
	hca->parent = platform_device_register_simple("softib", number, NULL, 0);
	if (IS_ERR(hca->parent)) {
		error = PTR_ERR(hca->parent);
		goto free;
	}
	INIT_LIST_HEAD(&hca->qps);
	hca->lid = SOFTIB_SM_LID + 1 + number;
	hca->state = IB_PORT_ACTIVE;
	hca->sm = true;
	hca->pkeys[0] = 0xffff;
	for (i = 1; i <= 8; i++)
		hca->pkeys[i] = 0x8000 + i;
	hca->ib.node_type = RDMA_NODE_IB_CA;
	hca->ib.node_guid = cpu_to_be64(GUID_BASE + number);
	hca->ib.phys_port_cnt = 1;
	hca->ib.num_comp_vectors = 1;
	hca->ib.dev.parent = &hca->parent->dev;
	snprintf(hca->ib.node_desc, sizeof(hca->ib.node_desc), "softib%d", number);
	ib_set_device_ops(&hca->ib, &port_ops);
	ib_set_device_ops(&hca->ib, &softib_verbs);
	ib_set_device_ops(&hca->ib, &softib_qp_verbs);
	ib_set_device_ops(&hca->ib, &softib_counter_verbs);
	mutex_lock(&softib_lock);
	list_add_tail(&hca->node, &softib_hcas);
	mutex_unlock(&softib_lock);
	error = ib_register_device(&hca->ib, "softib%d", NULL);
	if (!error)
		return 0;
	mutex_lock(&softib_lock);
	list_del(&hca->node);
	mutex_unlock(&softib_lock);
	platform_device_unregister(hca->parent);
free:
	ib_dealloc_device(&hca->ib);
	return error;
}

static void remove_all(void)
{
	struct softib_hca *hca, *next;

	list_for_each_entry_safe(hca, next, &softib_hcas, node) {
		struct platform_device *parent = hca->parent;

		ib_unregister_device(&hca->ib);
		mutex_lock(&softib_lock);
		list_del(&hca->node);
		mutex_unlock(&softib_lock);
		ib_dealloc_device(&hca->ib);
		platform_device_unregister(parent);
	}
}

static int __init softib_init(void)
{
	int i, error;

	if (hcas < 1 || hcas > MAX_HCAS)
		return -EINVAL;
	error = softib_switch_start() ?: softib_worker_start();
	for (i = 0; !error && i < hcas; i++)
		error = add(i);
	if (error) {
		remove_all();
		softib_worker_stop();
		softib_switch_stop();
	}
	return error;
}

static void __exit softib_exit(void)
{
	remove_all();
	softib_worker_stop();
	softib_switch_stop();
	WARN_ON(!softib_all_freed());
}

module_init(softib_init);
module_exit(softib_exit);
MODULE_DESCRIPTION("InfiniBand adapters made of software, on one switch");
MODULE_LICENSE("GPL");
