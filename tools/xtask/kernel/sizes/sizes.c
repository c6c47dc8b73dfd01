// SPDX-License-Identifier: GPL-2.0-only
/*
 * The size of each symbol is the size of the structure it is named after, as the prepared tree
 * has it. They are compared with what the kernel says of itself in its BTF.
 */
#include <linux/fs.h>
#include <linux/filelock.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/workqueue.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#define SIZE(name) char size_of_##name[sizeof(struct name)]

SIZE(sock);
SIZE(socket);
SIZE(sk_buff);
SIZE(net);
SIZE(net_device);
SIZE(genl_family);
SIZE(file);
SIZE(file_lock);
SIZE(file_operations);
SIZE(inode);
SIZE(kobject);
SIZE(miscdevice);
SIZE(module);
SIZE(task_struct);
SIZE(work_struct);
