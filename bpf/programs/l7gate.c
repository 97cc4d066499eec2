// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The datapath: five programs over the tables of maps.h, and with cgroup.h two for the node's own
 * processes. README.md has the picture.
 *
 * They fail closed: what is unknown, unreadable or does not fit is dropped, counted and reported.
 * A packet that may pass goes on to whatever other program is attached (TC_ACT_UNSPEC).
 */
/* clang-format off */
#define BPF_LICENSE Dual BSD/GPL
/* clang-format on */

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>

#include "reasons.h"
#include "maps.h"
#include "count.h"
#include "packet.h"
#include "conntrack.h"
#include "fragments.h"
#include "hostflow.h"
#include "policy.h"
#include "events.h"
#include "redirect.h"
#include "handover.h"
#include "track.h"
#include "cgroup.h"

/* The packet's end: `reason` to drop it, or 0. */
static __always_inline int finish(struct __sk_buff *skb, const struct packet *p,
				  const struct judgement *j, u8 reason)
{
	tell(p, j, reason, skb->len);
	if (reason) {
		count(reason, skb->len);
		return TC_ACT_SHOT;
	}
	if (j->audited)
		count(METRIC_AUDITED, skb->len);
	if (j->to_proxy) {
		mark_to_proxy(skb);
		count(METRIC_REDIRECTED, skb->len);
	} else {
		hand_over(skb, p, j);
		count(REASON_NONE, skb->len);
	}
	return TC_ACT_UNSPEC;
}

/* Talk with the link's other end, the node. A router's advertisement is not a workload's to send. */
static __always_inline int stays_on_link(const struct packet *p, int own_source)
{
	const struct conntrack_key *flow = &p->flow;

	if (!(p->flags & PACKET_NEIGHBOUR) || p->port == bpf_htons(134))
		return 0;
	if (!own_source && !is_link_local(&flow->source) && !is_unspecified(&flow->source))
		return 0;
	return is_link_local(&flow->destination) || is_link_multicast(&flow->destination) ||
	       identity_of(6, &flow->destination, 0) == IDENTITY_NODE;
}

/* A packet of or for j->endpoint_id: by its fragments, by the flow that it reports an error of, or by its own. */
static __always_inline u8 judge_packet(struct __sk_buff *skb, struct packet *p,
				       struct packet *quoted, struct judgement *j, const int where)
{
	u8 reason = follow_fragments(skb, p, j->point);
	int relation;

	if (reason)
		return reason;
	if (p->flags & PACKET_ICMP_ERROR) {
		relation = related(p, quoted, where == FROM_ENDPOINT);
		j->to_proxy = relation == RELATED_TO_PROXY;
		if (relation)
			return 0;
	}
	return track(skb, p, j, j->endpoint_id, where);
}

/*
 * Where a program writes what it reads of a packet: memory of this processor, which nothing else uses
 * while a program of the datapath runs. Not the stack, because the verifier follows what is known of
 * each byte there along every path through the parser; of this it knows nothing, and joins the paths.
 */
static __always_inline struct packet *fresh_packets(void)
{
	u32 only = 0;
	struct scratch *s = scratch.lookup(&only);

	if (s)
		__builtin_memset(s, 0, sizeof(*s));
	return s ? s->packets : 0;
}

/* TC ingress of the node's end of an endpoint's veth: what the workload sends. */
int from_endpoint(struct __sk_buff *skb)
{
	struct packet *p = fresh_packets(), *quoted;
	struct judgement j = {.point = POINT_FROM_ENDPOINT};
	u32 ifindex = skb->ifindex, *id;
	int own_source;
	u8 reason;

	skb->mark = 0;
	skb->tc_index = 0;
	if (!p)
		return TC_ACT_SHOT;
	quoted = p + 1;
	reason = parse(skb, p, quoted);
	id = endpoint_by_ifindex.lookup(&ifindex);
	if (!id) {
		reason = REASON_ENDPOINT_UNKNOWN;
		goto done;
	}
	j.endpoint_id = *id;
	if (skb->vlan_present && skb->vlan_tci & VLAN_ID)
		reason = REASON_VLAN_TAGGED;
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		goto pass;
	if (reason)
		goto done;

	own_source = endpoint_of(p->flow.family, &p->flow.source) == j.endpoint_id;
	if (stays_on_link(p, own_source))
		goto pass;
	if (!own_source) {
		reason = REASON_INVALID_SOURCE_IP;
		goto done;
	}
	if (is_host_internal(p->flow.family, &p->flow.destination)) {
		reason = REASON_GROUP_ADDRESS;
		goto done;
	}
	if (is_group(p->flow.family, &p->flow.destination))
		p->opaque = REASON_GROUP_ADDRESS;
	reason = judge_packet(skb, p, quoted, &j, FROM_ENDPOINT);
	goto done;
pass:
	reason = 0;
done:
	return finish(skb, p, &j, reason);
}

/* TC ingress of an uplink: what comes from other machines. The node's own traffic is ours only by host policies. */
int from_uplink(struct __sk_buff *skb)
{
	struct packet *p = fresh_packets(), *quoted;
	struct judgement j = {.point = POINT_FROM_UPLINK};
	u8 reason;

	if (!p)
		return TC_ACT_SHOT;
	quoted = p + 1;
	reason = parse(skb, p, quoted);
	j.endpoint_id = endpoint_of(p->flow.family, &p->flow.destination);
	if (!j.endpoint_id || (j.endpoint_id == HOST_ENDPOINT && p->flags & PACKET_NEIGHBOUR))
		return TC_ACT_UNSPEC;
	if (!reason)
		reason = judge_packet(skb, p, quoted, &j, FROM_UPLINK);
	return finish(skb, p, &j, reason);
}

/* Whether host policies may have to know of a packet that leaves: some policy selects the node. */
static __always_inline int concerns_host(const struct __sk_buff *skb)
{
	u32 id = HOST_ENDPOINT;

	return !(skb->mark & MARK_MASK) && endpoints.lookup(&id);
}

/*
 * TC egress of the node's end of an endpoint's veth: what the workload is about to receive. Flows
 * from endpoints and uplinks were judged where they came in and are handed over or found again; the
 * rest (the node itself, interfaces that nothing is attached to) is judged here.
 */
int to_endpoint(struct __sk_buff *skb)
{
	struct packet *p, *quoted;
	struct judgement j = {.point = POINT_TO_ENDPOINT};
	u32 ifindex = skb->ifindex, forwarded = skb->ingress_ifindex, mark = skb->mark & MARK_MASK;
	u32 *id;
	u8 reason;

	if ((mark == MARK_TO_CLIENT && !forwarded) || handed_over(skb)) {
		count(REASON_NONE, skb->len);
		return TC_ACT_UNSPEC;
	}
	if (must_turn_back(skb))
		return turn_back(skb);
	p = fresh_packets();
	if (!p)
		return TC_ACT_SHOT;
	quoted = p + 1;
	reason = parse(skb, p, quoted);
	id = endpoint_by_ifindex.lookup(&ifindex);
	if (!id) {
		reason = REASON_ENDPOINT_UNKNOWN;
		goto done;
	}
	j.endpoint_id = *id;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		goto pass;
	if (reason)
		goto done;
	if (mark == MARK_TO_CLIENT || mark == MARK_TO_SERVER) {
		reason = forwarded ? REASON_FORGED_MARK : remember_upstream(p, skb->len);
		if (reason)
			goto done;
		goto pass;
	}
	if (p->flags & PACKET_NEIGHBOUR && !forwarded)
		goto pass;
	reason = judge_packet(skb, p, quoted, &j, TO_ENDPOINT);
	goto done;
pass:
	reason = 0;
done:
	/* Past the last point where it could go to a proxy. */
	j.to_proxy = 0;
	return finish(skb, p, &j, reason);
}

/*
 * TC egress of an uplink: turns back what needs a proxy, learns which replies belong to one, and stops
 * what should have gone to one. That comes here when somebody took away the rule that leads marked
 * packets to the proxies, as network managers do with rules which are not theirs. What the node itself
 * sends is judged while some policy selects the node; what it forwards in its own name is not, and the
 * answers must find their way.
 */
int to_uplink(struct __sk_buff *skb)
{
	struct packet *p = fresh_packets(), *quoted;
	struct judgement j = {.point = POINT_TO_UPLINK};
	u32 mark = skb->mark & MARK_MASK;
	int host = concerns_host(skb);
	u8 reason;

	if (must_turn_back(skb))
		return turn_back(skb);
	if (!host && mark != MARK_TO_PROXY && (mark != MARK_TO_SERVER || skb->ingress_ifindex))
		return TC_ACT_UNSPEC;
	if (!p)
		return TC_ACT_SHOT;
	quoted = p + 1;
	reason = parse(skb, p, quoted);
	j.endpoint_id = endpoint_of(p->flow.family, &p->flow.source);
	if (host) {
		if (j.endpoint_id != HOST_ENDPOINT || p->flags & PACKET_NEIGHBOUR)
			return TC_ACT_UNSPEC;
		if (skb->ingress_ifindex) {
			remember_masqueraded(p, skb->len);
			return TC_ACT_UNSPEC;
		}
		if (!reason)
			reason = judge_packet(skb, p, quoted, &j, FROM_ENDPOINT);
		j.to_proxy = 0; /* host policies have no rules for requests */
		return finish(skb, p, &j, reason);
	}
	if (mark == MARK_TO_PROXY)
		reason = REASON_PROXY_UNAVAILABLE;
	else if (!reason)
		reason = remember_upstream(p, skb->len);
	if (!reason)
		return TC_ACT_UNSPEC;
	report(p, &j, reason, skb->len);
	return TC_ACT_SHOT;
}

/* A load that the compiler may not merge with another: the verifier wants plain offsets into ctx. */
#define FIELD(x) (*(volatile u32 *)&(x))

/* sk_lookup: which listener gets a connection or datagram that no connected socket of the node has. */
int steer(struct bpf_sk_lookup *ctx)
{
	struct packet p = {};
	struct judgement j = {.point = POINT_STEER};
	struct listener_key k = {};
	struct conntrack_entry *e;
	struct bpf_sock *sk;
	u32 host_id = 0;
	long failed;
	int slot;

	/* Of the family that the packet is not, the kernel gives zeros. */
	FIELD(p.flow.source.word[0]) = FIELD(ctx->remote_ip6[0]);
	FIELD(p.flow.source.word[1]) = FIELD(ctx->remote_ip6[1]);
	FIELD(p.flow.source.word[2]) = FIELD(ctx->remote_ip6[2]);
	FIELD(p.flow.source.word[3]) = FIELD(ctx->remote_ip6[3]) | FIELD(ctx->remote_ip4);
	FIELD(p.flow.destination.word[0]) = FIELD(ctx->local_ip6[0]);
	FIELD(p.flow.destination.word[1]) = FIELD(ctx->local_ip6[1]);
	FIELD(p.flow.destination.word[2]) = FIELD(ctx->local_ip6[2]);
	FIELD(p.flow.destination.word[3]) = FIELD(ctx->local_ip6[3]) | FIELD(ctx->local_ip4);
	p.flow.family = ctx->family == 2 ? 4 : 6;
	p.flow.protocol = ctx->protocol;
	p.flow.source_port = ctx->remote_port;
	p.flow.destination_port = p.port = bpf_htons(ctx->local_port);
	e = conntrack.lookup(&p.flow);
	if (e && e->proxy) {
		k.proxy = e->proxy;
		j.revision = e->revision;
	} else {
		k.proxy = host_proxy(&p.flow, &host_id, &j.revision);
	}
	if (!k.proxy)
		return SK_PASS;

	k.family = p.flow.family;
	k.protocol = p.flow.protocol;
#pragma unroll
	for (slot = 0; slot < LISTENER_SLOTS; slot++) {
		k.slot = slot;
		sk = (struct bpf_sock *)listeners.lookup(&k);
		if (!sk)
			continue;
		/* The kernel goes on to choose within the socket's SO_REUSEPORT group. */
		failed = bpf_sk_assign(ctx, sk, 0);
		bpf_sk_release(sk);
		if (!failed)
			return SK_PASS;
	}
	j.endpoint_id = host_id ? host_id : endpoint_of(p.flow.family, &p.flow.source);
	if (!j.endpoint_id) {
		j.direction = DIRECTION_INGRESS;
		j.endpoint_id = endpoint_of(p.flow.family, &p.flow.destination);
	}
	report(&p, &j, REASON_PROXY_UNAVAILABLE, 0);
	return SK_DROP;
}
