/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet of a known flow that was judged where it came in is not judged again where its workload gets
 * it, microseconds later: the mark says so, and skb->tc_index whose it is, in case that its destination
 * is rewritten on the way (NAT). Neither can be forged: veth clears marks between namespaces, programs
 * that let something in write both, and the node's own packets have no ingress device.
 *
 * What begins or ends a connection is judged at both places, so that an entry of the receiver's own,
 * under a tuple that NAT made, lives as the connection does; fragments are, for each place knows its
 * own; and everything is while somebody listens to what passes.
 */
#pragma once

#define MARK_JUDGED 0x400

static __always_inline void hand_over(struct __sk_buff *skb, const struct packet *p,
				      const struct judgement *j)
{
	if (!j->receiver || j->receiver == HOST_ENDPOINT || j->observe ||
	    p->flags & (PACKET_FIRST | PACKET_MORE | PACKET_FRAGMENT) ||
	    p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return;
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_JUDGED;
	skb->tc_index = j->receiver;
}

static __always_inline int handed_over(const struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex, *id;

	if ((skb->mark & MARK_MASK) != MARK_JUDGED || !skb->ingress_ifindex)
		return 0;
	id = endpoint_by_ifindex.lookup(&ifindex);
	return id && *id == skb->tc_index;
}
