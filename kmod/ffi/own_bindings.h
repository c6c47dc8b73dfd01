/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Headers that the kernel's own Rust bindings leave out, and static inline functions for what is a
 * macro or takes a variable number of arguments. Nothing here decides anything.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/notifier.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/tcp.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

static inline struct workqueue_struct *own_alloc_workqueue(const char *name, unsigned int flags,
							   int max_active)
{
	return alloc_workqueue("%s", flags, max_active, name);
}

static inline struct workqueue_struct *own_alloc_ordered_workqueue(const char *name,
								   unsigned int flags)
{
	return alloc_ordered_workqueue("%s", flags, name);
}

static inline unsigned int own_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}

static inline void own_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

static inline unsigned int own_memalloc_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

static inline void own_memalloc_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}

static inline gfp_t own_gfp_noio(void)
{
	return GFP_NOIO;
}

static inline void own_cond_resched(void)
{
	cond_resched();
}

static inline u64 own_boottime_ms(void)
{
	return ktime_to_ms(ktime_get_boottime());
}

/* Who changes callbacks and user data of a socket holds this lock; the callbacks hold it shared. */
static inline void own_sk_callbacks_lock(struct sock *sk)
{
	write_lock_bh(&sk->sk_callback_lock);
}

static inline void own_sk_callbacks_unlock(struct sock *sk)
{
	write_unlock_bh(&sk->sk_callback_lock);
}

static inline void own_sk_callbacks_read_lock(struct sock *sk)
{
	read_lock_bh(&sk->sk_callback_lock);
}

static inline void own_sk_callbacks_read_unlock(struct sock *sk)
{
	read_unlock_bh(&sk->sk_callback_lock);
}

/* The bit keeps sockets that are accepted from inheriting the pointer. */
static inline void own_sk_set_user_data(struct sock *sk, void *data)
{
	if (data)
		data = (void *)((uintptr_t)data | SK_USER_DATA_NOCOPY);
	rcu_assign_pointer(__sk_user_data(sk), data);
}

static inline void *own_sk_user_data(struct sock *sk)
{
	return (void *)((uintptr_t)sk->sk_user_data & SK_USER_DATA_PTRMASK);
}

static inline int own_sk_state(struct sock *sk)
{
	return READ_ONCE(sk->sk_state);
}

/* How often in a row TCP has repeated the oldest data that the other end has not confirmed. */
static inline unsigned int own_tcp_retransmits(const struct sock *sk)
{
	return READ_ONCE(inet_csk(sk)->icsk_retransmits);
}

/* What sk_stream_write_space() does, but for waking sleepers: there are none. */
static inline void own_sk_clear_nospace(struct sock *sk)
{
	struct socket *sock = READ_ONCE(sk->sk_socket);

	if (sock)
		clear_bit(SOCK_NOSPACE, &sock->flags);
}
