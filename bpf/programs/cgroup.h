/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two programs of a cgroup that is an endpoint: what the sockets of its processes send, and what
 * they are about to receive. They run for every IP packet of every socket that was made in the cgroup
 * or below it, whatever it was made with and whenever, after the route was chosen.
 *
 * What needs a proxy gets MARK_FROM_HOST. A destination of the node itself is then reached over the
 * loopback, where steer() picks the proxy; on its way out of any other interface the program there
 * (turn_back() in redirect.h) sends the packet back into the node.
 */
#pragma once

#define SOCKET_RAW 3

/* A packet that its process made by hand: it may carry any ports and any source. */
static __always_inline int is_raw(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = skb->sk;

	if (p->flow.protocol == (p->flow.family == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return 0; /* ping: policy names it by its type */
	if (!sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->type == SOCKET_RAW;
}

#define PEER_OTHER 0
#define PEER_INNER 1 /* a socket of the same endpoint */
#define PEER_PROXY 2 /* the listener of a proxy */

/* Whose socket of this node a packet over the loopback is for. */
static __always_inline int loopback_peer(struct __sk_buff *skb, const struct packet *p,
					 const struct cgroup_endpoint *here)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	u32 size = sizeof(t.ipv4);
	int found = PEER_OTHER;

	if (p->flow.family == 6) {
		size = sizeof(t.ipv6);
		__builtin_memcpy(t.ipv6.saddr, &p->flow.source, 16);
		__builtin_memcpy(t.ipv6.daddr, &p->flow.destination, 16);
		t.ipv6.sport = p->flow.source_port;
		t.ipv6.dport = p->flow.destination_port;
	} else {
		t.ipv4.saddr = p->flow.source.word[3];
		t.ipv4.daddr = p->flow.destination.word[3];
		t.ipv4.sport = p->flow.source_port;
		t.ipv4.dport = p->flow.destination_port;
	}
	if (p->flow.protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else if (p->flow.protocol == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		return PEER_OTHER;
	if (!sk)
		return PEER_OTHER;
	if ((sk->mark & MARK_MASK) == MARK_TO_CLIENT &&
	    sk->src_port == bpf_ntohs(p->flow.destination_port))
		found = PEER_PROXY;
	else if (bpf_sk_ancestor_cgroup_id(sk, here->level) == here->cgroup_id)
		found = PEER_INNER;
	bpf_sk_release(sk);
	return found;
}

static __always_inline int enforces(u32 endpoint_id, u32 direction)
{
	struct endpoint *e = endpoints.lookup(&endpoint_id);

	return !e || e->flags & direction;
}

/* What no policy can allow: 0, or the reason to drop what begins a flow or is judged anew. */
static __always_inline u8 refuse_host(struct __sk_buff *skb, const struct packet *p, u32 own_id,
				      u32 peer_id, int own_began, const int leaves)
{
	int over_loopback = skb->ifindex == LOOPBACK;

	if (leaves) {
		/* Its own address, whichever way it took: a transparent socket could have any. */
		if (own_began && identity_of(p->flow.family, &p->flow.source, 0) != IDENTITY_NODE)
			return REASON_INVALID_SOURCE_IP;
		/* An address that only some route made local: a listener of the node would take it. */
		if (own_began && over_loopback &&
		    identity_of(p->flow.family, &p->flow.destination, 0) != IDENTITY_NODE)
			return REASON_FORGED_MARK;
		return 0;
	}
	/* A proxy that speaks for somebody of this node, with the node's address: for whom, it has
	 * judged, but not by the policy of this endpoint. */
	if (!own_began && (!peer_id || peer_id == HOST_ENDPOINT) &&
	    (skb->mark & MARK_MASK) == MARK_TO_SERVER &&
	    identity_of(p->flow.family, &p->flow.source, 0) == IDENTITY_NODE &&
	    enforces(own_id, ENDPOINT_ENFORCE_INGRESS))
		return REASON_REDIRECT_IMPOSSIBLE;
	return 0;
}

/* Writes what was decided into the flow's row. 0, or the reason to drop. */
static __always_inline u8 renew_host(struct judgement *j, struct host_flow *f, u32 own_id,
				     int own_began, u8 reason)
{
	struct host_side *own = own_began ? &f->began : &f->other;

	own->revision = j->revision;
	own->endpoint_id = own_id;
	own->flags = reason ? HOST_SIDE_DENIED : 0;
	f->inner = 0;
	if (!reason && j->proxy)
		f->proxy = j->proxy; /* a proxied flow stays with its proxy */
	f->pending = 1;
	j->to_proxy = f->proxy;
	return reason;
}

/* Makes a row for a flow that begins with this packet, at the end that it leaves or arrives at. */
static __always_inline u8 make_host(struct packet *p, struct judgement *j, u32 own_id, u32 length,
				    u64 now, const int leaves)
{
	struct host_flow new = {
		.last_seen_ns = now,
		.packets = 1,
		.bytes = length,
		.proxy = j->proxy,
		.pending = 1,
	};
	struct host_side *own = leaves ? &new.began : &new.other;

	j->to_proxy = j->proxy;
	if (p->flags & (PACKET_FRAGMENT | PACKET_ECHO_REPLY))
		return 0;
	/* Met half way: that the other side began is a guess. Remembered, it would let the process
	 * answer, later, a connection that its own egress policy would not have let it begin. */
	if (!leaves && p->flow.protocol == IPPROTO_TCP && !(p->flags & PACKET_SYN))
		return 0;
	own->revision = j->revision;
	own->endpoint_id = own_id;
	return host_flow_make(&p->flow, &new);
}

static __always_inline u8 remember_inner(struct packet *p, struct judgement *j, u32 own_id,
					 u32 length, u64 now)
{
	struct host_flow new = {
		.last_seen_ns = now,
		.packets = 1,
		.bytes = length,
		.began = {.revision = j->revision, .endpoint_id = own_id},
		.other = {.revision = j->revision, .endpoint_id = own_id},
		.inner = 1,
	};

	return host_flow_make(&p->flow, &new);
}

/*
 * 0 or the reason to drop; judgement.to_proxy tells whether the packet goes to, or comes from, a
 * proxy. p->flow is turned to the direction in which the flow began.
 */
static __always_inline u8 track_host(struct __sk_buff *skb, struct packet *p, struct judgement *j,
				     const struct cgroup_endpoint *here, const int leaves)
{
	u64 now = bpf_ktime_get_coarse_ns();
	u32 length = skb->len, own_id = here->endpoint_id, peer_id = 0;
	int over_loopback = skb->ifindex == LOOPBACK, own_began, raw;
	struct host_flow *f;
	struct host_side *own;
	struct address peer;
	u16 flags = 0;
	u8 reason;

	heed_config(j, now); /* before any row of `endpoints` is read, see track() */
	raw = is_raw(skb, p);
	if (raw)
		/* Neither a flow of its own nor a part of another's. */
		return enforces(own_id, leaves ? ENDPOINT_ENFORCE_EGRESS : ENDPOINT_ENFORCE_INGRESS)
			       ? REASON_RAW_SOCKET
			       : 0;

	f = host_flow_find(p, !leaves && over_loopback, now);
	if (f && !leaves && !(p->flags & PACKET_REVERSE) && f->began.endpoint_id &&
	    !(over_loopback && host_flow_fresh(f, now)))
		f = 0; /* a row of the time when a process of the endpoint had this port */
	own_began = leaves == !(p->flags & PACKET_REVERSE);
	if (f) {
		own = own_began ? &f->began : &f->other;
		if (own->endpoint_id == own_id && (!f->inner || over_loopback) &&
		    (f->inner ||
		     (own->revision == j->revision && !(own->flags & HOST_SIDE_DENIED)))) {
			f->last_seen_ns = now;
			f->pending = leaves;
			__sync_fetch_and_add(&f->packets, 1);
			__sync_fetch_and_add(&f->bytes, length);
			j->to_proxy = f->proxy;
			return 0;
		}
		if (own->endpoint_id && own->endpoint_id != own_id) {
			/* Another endpoint had the port: the flow begins with this packet. */
			f = 0;
			own_began = leaves;
			if (p->flags & PACKET_REVERSE)
				flip(&p->flow);
			p->flags &= ~PACKET_REVERSE;
		} else if (!own_began) {
			peer_id = f->began.endpoint_id;
		}
	}

	if (p->flags & PACKET_REVERSE)
		p->port = policy_port(&p->flow);
	if (leaves && own_began && over_loopback) {
		int found = loopback_peer(skb, p, here);

		if (found == PEER_INNER)
			return remember_inner(p, j, own_id, length, now);
		if (found == PEER_PROXY && !(f && f->proxy))
			return REASON_PROXY_PORT;
	}
	if (!peer_id) {
		peer = p->flow.source;
		if (own_began)
			peer = p->flow.destination;
		asm volatile("" : : "r"(&peer) : "memory"); /* a copy, not a choice of pointers */
		peer_id = endpoint_of(p->flow.family, &peer);
	}
	reason = refuse_host(skb, p, own_id, peer_id, own_began, leaves);
	j->established = f && own->endpoint_id && !(p->flags & PACKET_SYN);
	if (!reason)
		reason = judge(p, j, own_began ? own_id : peer_id, own_began ? peer_id : own_id,
			       &flags, 0, length);
	/* What begins elsewhere has reached its socket: too late for a proxy. */
	if (!reason && j->proxy && !own_began)
		reason = REASON_REDIRECT_IMPOSSIBLE;
	if (!reason && j->answer_barred) {
		/* It may pass and makes no flow, see forget(). */
		if (f && !host_flows.delete(&p->flow))
			count(METRIC_HOST_FLOWS_GONE, 0);
		return p->flags & PACKET_REVERSE ? j->answer_barred : 0;
	}
	if (f)
		return renew_host(j, f, own_id, own_began, reason);
	return reason ? reason : make_host(p, j, own_id, length, now, leaves);
}

/* The packet's end: 1 to let it go on, 0 to drop it. */
static __always_inline int finish_host(struct __sk_buff *skb, const struct packet *p,
				       const struct judgement *j, u8 reason)
{
	tell(p, j, reason, skb->len);
	if (reason)
		count(reason, skb->len);
	else
		count(j->to_proxy ? METRIC_REDIRECTED : REASON_NONE, skb->len);
	if (!reason && j->audited)
		count(METRIC_AUDITED, skb->len);
	return !reason;
}

/* Whether a packet on its way out of this interface reaches steer(), or is turned back to it. */
static __always_inline int leads_back(u32 ifindex)
{
	u32 *row;

	if (ifindex == LOOPBACK)
		return 1;
	row = uplinks.lookup(&ifindex);
	if (row)
		return *row; /* 1 */
	row = endpoint_by_ifindex.lookup(&ifindex);
	return row ? *row : 0;
}

/* cgroup_skb egress: a socket's packet, whose route is chosen, on its way to the interface. */
int cgroup_egress(struct __sk_buff *skb)
{
	struct cgroup_endpoint *here = cgroup_endpoints.get_local_storage(0);
	struct packet p = {}, quoted = {};
	struct judgement j = {.point = POINT_CGROUP_EGRESS};
	u8 reason = parse(skb, &p, &quoted);

	/* The process may have set any mark, also a proxy's. */
	skb->mark &= ~MARK_MASK;
	j.endpoint_id = here->endpoint_id;
	if (!j.endpoint_id)
		reason = REASON_ENDPOINT_UNKNOWN;
	if (!reason)
		reason = track_host(skb, &p, &j, here, 1);
	if (!reason && j.to_proxy) {
		if (leads_back(skb->ifindex))
			skb->mark |= MARK_FROM_HOST;
		else
			reason = REASON_REDIRECT_IMPOSSIBLE;
	}
	return finish_host(skb, &p, &j, reason);
}

/* cgroup_skb ingress: a packet that has found its socket. */
int cgroup_ingress(struct __sk_buff *skb)
{
	struct cgroup_endpoint *here = cgroup_endpoints.get_local_storage(0);
	struct packet p = {}, quoted = {};
	struct judgement j = {.point = POINT_CGROUP_INGRESS};
	u8 reason = parse(skb, &p, &quoted);

	j.endpoint_id = here->endpoint_id;
	j.direction = DIRECTION_INGRESS;
	if (!j.endpoint_id)
		reason = REASON_ENDPOINT_UNKNOWN;
	if (!reason)
		reason = track_host(skb, &p, &j, here, 0);
	/* A proxy's packets are of this node. From elsewhere, somebody meddles with the connection. */
	if (!reason && j.to_proxy && skb->ifindex != LOOPBACK)
		reason = REASON_INVALID_SOURCE_IP;
	return finish_host(skb, &p, &j, reason);
}
