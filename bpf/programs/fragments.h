/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments: only the first has ports, so what it says is remembered for those that follow.
 *
 * They must come in order and may not overlap: of bytes that come twice the receiver might take those
 * that we did not judge. One that breaks this dooms the rest of its packet. What comes without its
 * first, or after more than LIFETIME_FRAGMENTS_NS, keeps REASON_FRAGMENT: policy cannot name it.
 */
#pragma once

#define LIFETIME_FRAGMENTS_NS (30 * SECOND_NS)
#define FRAGMENTS_DOOMED      0xffffffff

/* Completes `p` if it is a fragment. 0 or the reason to drop it. */
static __always_inline u8 follow_fragments(struct __sk_buff *skb, struct packet *p, u8 point)
{
	struct fragment_key k = {
		.source = p->flow.source,
		.destination = p->flow.destination,
		.id = p->fragment_id,
		.ifindex = skb->ifindex,
		.point = point,
		.family = p->flow.family,
	};
	struct fragment_entry *e, new = {};
	u64 now = bpf_ktime_get_coarse_ns();

	if (!(p->flags & (PACKET_FRAGMENT | PACKET_FIRST)))
		return 0;
	if (p->flow.family == 4) /* of IPv6, only the first knows it for sure */
		k.protocol = p->flow.protocol;
	e = fragments.lookup(&k);
	if (e && now - e->begun_ns > LIFETIME_FRAGMENTS_NS)
		e = 0;
	if (e && p->fragment_start < e->end && !(p->flags & PACKET_FIRST && e->complete)) {
		e->end = FRAGMENTS_DOOMED;
		e->complete = 0;
		return REASON_FRAGMENT_OVERLAP;
	}
	if (p->flags & PACKET_FRAGMENT) {
		if (!e)
			return 0;
		e->end = p->fragment_end;
		e->complete = !(p->flags & PACKET_MORE);
		p->flow.protocol = e->protocol;
		p->flow.source_port = e->source_port;
		p->flow.destination_port = e->destination_port;
		p->port = e->port;
		p->flags = e->flags;
		p->opaque = e->opaque;
		return 0;
	}
	/* Of what is judged by its content, or belongs to one link, no more than the first passes. */
	if (p->flags & (PACKET_ICMP_ERROR | PACKET_NEIGHBOUR))
		return 0;
	new.begun_ns = now;
	new.end = p->fragment_end;
	new.protocol = p->flow.protocol;
	new.source_port = p->flow.source_port;
	new.destination_port = p->flow.destination_port;
	new.port = p->port;
	new.flags = p->flags &(PACKET_ECHO_REQUEST | PACKET_ECHO_REPLY);
	new.opaque = p->opaque;
	if (!fragments.insert(&k, &new))
		count(METRIC_FRAGMENTS_MADE, 0);
	else
		fragments.update(&k,
				 &new); /* no room: then those that follow find nothing, and drop */
	return 0;
}
