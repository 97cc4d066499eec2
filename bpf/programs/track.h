/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What happens to a packet because of the flow it belongs to: the known verdict or a new one. */
#pragma once

/* Where track() runs. Always a constant: each program keeps only its own branches. */
#define FROM_ENDPOINT 0
#define FROM_UPLINK   1
#define TO_ENDPOINT   2

/*
 * The judgement of a known flow that is out of date, written into its entry.
 *
 * A flow that is no longer allowed keeps its entry, marked: were it deleted, the peer's next packet
 * could begin the same flow the other way round, and the workload would answer it.
 */
static __always_inline u8 renew(struct packet *p, struct judgement *j, struct conntrack_entry *e,
				u8 reason)
{
	if (reason) {
		e->flags |= CONNTRACK_DENIED;
		e->revision = j->revision;
		return reason;
	}
	/* A proxied flow stays with its proxy, which judges for itself. A direct one that needs a
	 * proxy now goes to local delivery, where nobody knows it: the kernel resets it. */
	if (j->proxy && !(p->flags & PACKET_REVERSE && e->upstream))
		e->proxy = j->proxy;
	e->flags &= ~CONNTRACK_DENIED;
	e->revision = j->revision;
	return 0;
}

/*
 * A datagram to a workload whose own datagrams of this tuple go to a proxy, or are denied by a rule: it
 * may pass, but it makes no flow, and what it was remembered as is forgotten. In a flow, whatever the
 * workload sent would be an answer, so that one datagram with the resolver's address, forged or merely
 * late, would lead around the DNS proxy. That holds also where ingress policy names the peer: to let it
 * speak to the workload is not to let the workload ask it unheard. The price is that a client which
 * sends from such a port (a name server that asks from port 53) has its answers go to the proxy.
 */
static __always_inline u8 forget(struct packet *p, const struct conntrack_entry *e, u8 reason)
{
	if (!e)
		return 0;
	conntrack_forget(&p->flow);
	/* This one is lost. The workload's next datagram begins a flow of its own. */
	return p->flags & PACKET_REVERSE ? reason : 0;
}

/*
 * Whether a packet that the node forwards to a workload has another workload's source address, and did not
 * come by that one's interface: where nothing is attached, nobody else looks at whose a source is.
 */
static __always_inline int came_another_way(const struct __sk_buff *skb, u8 family,
					    const struct address *source)
{
	u32 id = endpoint_of(family, source);
	struct endpoint *e;

	if (!id)
		return 0;
	e = endpoints.lookup(&id);
	return !e || e->ifindex != skb->ingress_ifindex;
}

/* Takes over what user space wants of every packet. */
static __always_inline void heed_config(struct judgement *j, u64 now)
{
	u32 zero = 0;
	struct config *c = config.lookup(&zero);

	if (!c)
		return;
	j->revision = *(volatile u32 *)&c->revision;
	/* All ones while it lasts: no branch, which the verifier would follow both ways to the end. */
	j->observe = c->observe & (s64)(now - c->observe_until_ns) >> 63;
}

/*
 * 0 or the reason to drop; judgement.to_proxy tells whether the packet goes to a proxy. `own_id` is
 * the endpoint whose packet it is: the source's FROM_ENDPOINT, else the destination's. p->flow is
 * turned to the direction in which the flow began.
 */
static __always_inline u8 track(struct __sk_buff *skb, struct packet *p, struct judgement *j,
				u32 own_id, const int where)
{
	const struct address peer = where == FROM_ENDPOINT ? p->flow.destination : p->flow.source;
	struct conntrack_entry *e, new = {};
	u64 now = bpf_ktime_get_coarse_ns();
	u32 length = skb->len, peer_id;
	int from_node = where == TO_ENDPOINT && skb->ingress_ifindex == 0, own_began;
	u16 flags = 0;
	u8 reason;

	/* Before any row of `endpoints` is read: a reload flips those first and the revision last,
	 * so that what was judged by an old row is dated old and judged again. */
	heed_config(j, now);

	/* A SYN starts over, whatever was there; on its way out it finds what it made on its way in. */
	e = conntrack_find(p, where == TO_ENDPOINT, where == FROM_ENDPOINT, now);
	if (where == TO_ENDPOINT && !from_node && (!e || e->flags & CONNTRACK_LOCAL) &&
	    came_another_way(skb, p->flow.family, &peer))
		return REASON_INVALID_SOURCE_IP;
	if (e) {
		if (where == FROM_UPLINK && e->flags & CONNTRACK_LOCAL)
			return REASON_INVALID_SOURCE_IP;
		conntrack_touch(e, p, length, now);
		/* An entry that only a proxy's upstream socket made is no verdict on the workload's
		 * own packets of the same tuple. */
		if (e->revision == j->revision && !(e->flags & CONNTRACK_DENIED) &&
		    (p->flags & PACKET_REVERSE || e->proxy || !e->upstream)) {
			j->to_proxy = e->proxy || e->upstream;
			if (where == FROM_UPLINK)
				j->receiver = own_id;
			if (where == FROM_ENDPOINT && e->flags & CONNTRACK_LOCAL)
				j->receiver = endpoint_of(p->flow.family, &peer);
			goto known;
		}
		flags = e->flags;
		/* Under another policy who began matters: each packet speaks for its own side again. */
		if (flags & CONNTRACK_GUESSED && e->revision != j->revision && !e->proxy &&
		    !e->upstream) {
			conntrack_forget(&p->flow);
			e = 0;
			flags = 0;
			if (p->flags & PACKET_REVERSE)
				flip(&p->flow);
			p->flags &= ~PACKET_REVERSE;
		}
	}

	own_began = (where == FROM_ENDPOINT) == !(p->flags & PACKET_REVERSE);
	peer_id = endpoint_of(p->flow.family, &peer);
	if (where == FROM_UPLINK && peer_id)
		return REASON_INVALID_SOURCE_IP;
	if (p->flags & PACKET_REVERSE)
		p->port = policy_port(&p->flow);
	j->established = e && !(p->flags & PACKET_SYN);
	reason = judge(p, j, own_began ? own_id : peer_id, own_began ? peer_id : own_id, &flags,
		       from_node, length);
	if (where == FROM_UPLINK && flags & CONNTRACK_LOCAL)
		return REASON_INVALID_SOURCE_IP; /* the node's own address, which only IPv6 lets in */

	/* What goes to a proxy both ways goes around none. */
	if (!reason && j->answer_barred && !(e && (e->proxy || e->upstream)))
		return forget(p, e, j->answer_barred);
	if (e) {
		reason = renew(p, j, e, reason);
		if (reason)
			return reason;
		j->to_proxy = e->proxy || (e->upstream && p->flags & PACKET_REVERSE);
		goto known;
	}
	if (reason)
		return reason;
	if (where == TO_ENDPOINT && j->proxy)
		return REASON_REDIRECT_IMPOSSIBLE;
	j->to_proxy = j->proxy;

	if (p->flags & (PACKET_FRAGMENT | PACKET_ECHO_REPLY))
		return 0;
	/* Met half way: which side began is a guess. Remembered, it would let the workload answer a
	 * connection that its own egress policy might not have let it begin. A workload that is
	 * audited may begin what it likes: until it no longer is, the guess saves a report of every
	 * packet. */
	if (p->flow.protocol == IPPROTO_TCP && !(p->flags & PACKET_SYN)) {
		if (j->answer_matters == ENDPOINT_ENFORCE_EGRESS)
			return 0;
		flags |= CONNTRACK_GUESSED;
	}
	new.last_seen_ns = now;
	new.packets = 1;
	new.bytes = length;
	new.revision = j->revision;
	new.proxy = j->proxy;
	new.flags = flags;
	new.state = conntrack_state(p);
	return conntrack_make(&p->flow, &new);

known:
	/* Too late for a redirect here: only the kernel's own packets for the proxy's sockets (a
	 * reset, say) come this far without a mark. */
	if (where == TO_ENDPOINT && j->to_proxy && !from_node)
		return REASON_REDIRECT_IMPOSSIBLE;
	return 0;
}
