/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows of the node's own processes, those that live in a cgroup which is an endpoint.
 *
 * Such processes share the node's addresses, so an address does not tell whose a flow is: the row of
 * the flow does, here and for the proxies. Each end is judged, and dated, by the endpoint whose
 * process it is; an end that is no such process has endpoint 0.
 */
#pragma once

#define LOOPBACK 1 /* the kernel gives the loopback of every network namespace this number */

static __always_inline int host_flow_alive(const struct host_flow *f, u8 protocol, u64 now)
{
	u64 lifetime = protocol == IPPROTO_TCP ? LIFETIME_TCP_NS : LIFETIME_OTHERS_NS;

	return (s64)(now - f->last_seen_ns) <= (s64)lifetime;
}

/*
 * Whether a packet that comes over the loopback may be of this flow's own process, whose program has
 * just seen it. A process of no endpoint may have got the same port since.
 */
static __always_inline int host_flow_fresh(const struct host_flow *f, u64 now)
{
	return (s64)(now - f->last_seen_ns) <= (s64)(10 * SECOND_NS);
}

/* The row of a packet's flow. Turns p->flow round, and says so, if the other side began. */
static __always_inline struct host_flow *host_flow_find(struct packet *p, int syn_finds, u64 now)
{
	struct host_flow *f;
	int i;

	if (p->flags & PACKET_FRAGMENT)
		return 0;
	if (p->flags & PACKET_SYN && !syn_finds)
		return 0;
#pragma nounroll
	for (i = 0; i < 2; i++) {
		if (!(p->flags & (i ? PACKET_ECHO_REQUEST | PACKET_SYN : PACKET_ECHO_REPLY))) {
			f = host_flows.lookup(&p->flow);
			if (f && host_flow_alive(f, p->flow.protocol, now)) {
				if (i)
					p->flags |= PACKET_REVERSE;
				return f;
			}
		}
		flip(&p->flow);
	}
	return 0;
}

/* Remembers a new flow, in the place of an older one of its tuple. 0 or the reason to drop. */
static __always_inline u8 host_flow_make(struct conntrack_key *k, struct host_flow *f)
{
	if (!host_flows.insert(k, f)) {
		count(METRIC_HOST_FLOWS_MADE, 0);
		return 0;
	}
	return host_flows.update(k, f) ? REASON_CONNTRACK_FULL : 0;
}

/* For steer(): which proxy a packet of a process of the node is for, 0 if for none. */
static __always_inline u8 host_proxy(const struct conntrack_key *flow, u32 *endpoint_id,
				     u32 *revision)
{
	struct host_flow *f = host_flows.lookup((struct conntrack_key *)flow);

	if (!f || !f->proxy || !f->pending || !host_flow_fresh(f, bpf_ktime_get_coarse_ns()))
		return 0;
	f->pending = 0;
	*endpoint_id = f->began.endpoint_id;
	*revision = f->began.revision;
	return f->proxy;
}
