/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How a packet gets to a proxy: by a mark. `ip rule` sends marked packets to local delivery, where
 * the kernel finds an established socket by itself and the sk_lookup program a listener. Packets
 * are never rewritten. The proxies' own packets carry marks too (SO_MARK), which no workload can
 * forge: veth clears marks between namespaces, and what is forwarded has an ingress device.
 */
#pragma once

#define MARK_MASK      0xf00
#define MARK_TO_PROXY  0x200
#define MARK_FROM_HOST 0x300 /* to a proxy too, from a process of the node: see turn_back() */
#define MARK_TO_CLIENT 0xa00 /* of the proxies' listeners and what they accept */
#define MARK_TO_SERVER 0xb00 /* of the proxies' upstream sockets */

static __always_inline void mark_to_proxy(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_TO_PROXY;
}

/* A packet of one of the node's own processes that needs a proxy, on its way out. */
static __always_inline int must_turn_back(const struct __sk_buff *skb)
{
	return (skb->mark & MARK_MASK) == MARK_FROM_HOST && !skb->ingress_ifindex;
}

/*
 * Back into the node over its loopback, as if it came from there: a rule sends the mark to local
 * delivery. The socket has its source address from the real route by now. Loopback takes only
 * frames for its own address, which is all zero.
 */
static __always_inline int turn_back(struct __sk_buff *skb)
{
	u8 address[ETH_ALEN] = {};

	if (bpf_skb_store_bytes(skb, 0, address, sizeof(address), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

/* The replies to a proxy's upstream socket must come back to it, also from a port of its own, and also
 * when a full table has let go of the flow since it began. */
static __always_inline u8 remember_upstream(struct packet *p, u32 length)
{
	struct conntrack_entry *e, new = {};
	u64 now = bpf_ktime_get_coarse_ns();

	if (p->flags & PACKET_FRAGMENT)
		return 0;
	e = conntrack.lookup(&p->flow);
	if (p->tcp_flags & TCP_RST) {
		/* A server that the proxy resets says no more: with the client's FIN all is over. */
		if (e)
			e->state |= CONNTRACK_FIN_ANSWER;
		return 0;
	}
	if (e && conntrack_alive(e, p->flow.protocol, now)) {
		if (e->upstream && !(p->flags & PACKET_SYN) && p->flow.protocol == IPPROTO_TCP)
			return 0;
		e->last_seen_ns = now;
		e->upstream = 1;
		if (e->state & CONNTRACK_FIN_ANSWER)
			e->state &= ~CONNTRACK_FIN_ANSWER; /* a server that has yet to answer */
		return 0;
	}
	new.last_seen_ns = now;
	new.packets = 1;
	new.bytes = length;
	new.revision = current_revision();
	new.upstream = 1;
	return conntrack_make(&p->flow, &new);
}

/*
 * What the node forwards in its own name (masquerade): the answer comes for the node, before its address
 * is put back, and is no new flow of the node's. Of every packet, so that a reload changes nothing.
 */
static __always_inline void remember_masqueraded(struct packet *p, u32 length)
{
	struct conntrack_entry *e, new = {};
	u64 now = bpf_ktime_get_coarse_ns();

	if (p->flags & PACKET_FRAGMENT)
		return;
	e = conntrack_find(p, 1, 1, now);
	if (e) {
		if (p->flags & PACKET_REVERSE)
			return; /* begun outside, for one of its ports: that was judged, and is again */
		e->last_seen_ns = now;
		e->revision = current_revision();
		e->flags &= ~CONNTRACK_DENIED;
		return;
	}
	new.last_seen_ns = now;
	new.packets = 1;
	new.bytes = length;
	new.revision = current_revision();
	new.state = conntrack_state(p);
	conntrack_make(&p->flow, &new);
}
