/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows that were judged, keyed by the tuple of the side that began.
 *
 * An entry is a verdict with a date: it counts only under the revision it was made for, and only
 * while the flow is alive. The table is an LRU: the oldest flow makes room, and is judged again.
 */
#pragma once

/* Silence after which a flow is over, as Cilium has it (bpf-ct-timeout-*). */
#define SECOND_NS	    1000000000ULL
#define LIFETIME_TCP_NS	    (8000 * SECOND_NS)
#define LIFETIME_BEGUN_NS   (60 * SECOND_NS) /* TCP that nobody has answered yet */
#define LIFETIME_CLOSING_NS (10 * SECOND_NS)
#define LIFETIME_OTHERS_NS  (60 * SECOND_NS)

static __always_inline u32 current_revision(void)
{
	u32 zero = 0;
	struct config *c = config.lookup(&zero);

	return c ? *(volatile u32 *)&c->revision : 0;
}

static __always_inline void flip(struct conntrack_key *k)
{
	struct address a = k->source;
	__be16 port = k->source_port;

	k->source = k->destination;
	k->source_port = k->destination_port;
	k->destination = a;
	k->destination_port = port;
}

static __always_inline int conntrack_alive(const struct conntrack_entry *e, u8 protocol, u64 now)
{
	u8 state = e->state;
	u64 lifetime = LIFETIME_OTHERS_NS;

	if (protocol == IPPROTO_TCP) {
		lifetime = state & CONNTRACK_ANSWERED ? LIFETIME_TCP_NS : LIFETIME_BEGUN_NS;
		if (state & CONNTRACK_RESET || (state & CONNTRACK_FINS) == CONNTRACK_FINS)
			lifetime = LIFETIME_CLOSING_NS;
	}
	/* Signed: another processor's clock may be a tick ahead. */
	return (s64)(now - e->last_seen_ns) <= (s64)lifetime;
}

/* What a packet tells of its connection. */
static __always_inline u8 conntrack_state(const struct packet *p)
{
	u8 state = p->flags & PACKET_REVERSE ? CONNTRACK_ANSWERED : 0;

	if (p->tcp_flags & TCP_FIN)
		state |= state ? CONNTRACK_FIN_ANSWER : CONNTRACK_FIN;
	if (p->tcp_flags & TCP_RST)
		state |= CONNTRACK_RESET;
	return state;
}

/* Services have the lower port, as a rule: what comes from one is for the side that began. */
static __always_inline int looks_like_answer(const struct conntrack_key *k)
{
	return bpf_ntohs(k->source_port) < bpf_ntohs(k->destination_port);
}

/*
 * The entry of a packet's flow. Turns p->flow round, and says so, if the other side began.
 *
 * A connection may have an entry of each side, made by a SYN of each. To what a workload sends its own
 * applies, so that nobody outside can make an answer of it by beginning the same connection in reverse.
 * To what it receives either may: it was let begin both. So there the likelier is looked for first.
 */
static __always_inline struct conntrack_entry *conntrack_find(struct packet *p, const int syn_finds,
							      const int of_sender, u64 now)
{
	int i, reverse = !of_sender && looks_like_answer(&p->flow);
	struct conntrack_entry *e;

	if (p->flags & PACKET_FRAGMENT) /* no tuple */
		return 0;
	if (p->flags & PACKET_SYN && !syn_finds)
		return 0;
	if (reverse)
		flip(&p->flow);
#pragma nounroll
	for (i = 0; i < 2; i++) {
		if (!(p->flags &
		      (reverse ? PACKET_ECHO_REQUEST | PACKET_SYN : PACKET_ECHO_REPLY))) {
			e = conntrack.lookup(&p->flow);
			if (e && conntrack_alive(e, p->flow.protocol, now)) {
				if (reverse)
					p->flags |= PACKET_REVERSE;
				return e;
			}
		}
		flip(&p->flow);
		reverse = !reverse;
	}
	if (reverse)
		flip(&p->flow);
	return 0;
}

static __always_inline void conntrack_touch(struct conntrack_entry *e, const struct packet *p,
					    u32 length, u64 now)
{
	u8 state = conntrack_state(p);

	/* A proxy's answers do not come by here; the client's second packet shows that there were some. */
	if (e->proxy && !(p->flags & PACKET_SYN))
		state |= CONNTRACK_ANSWERED;
	/* Nor does its FIN. With no server behind it, the client's is the last that matters. */
	if (e->proxy && !e->upstream && state & CONNTRACK_FIN)
		state |= CONNTRACK_FIN_ANSWER;
	if (state & ~e->state)
		e->state |= state;
	e->last_seen_ns = now;
	__sync_fetch_and_add(&e->packets, 1);
	__sync_fetch_and_add(&e->bytes, length);
}

/* Remembers a new flow, in the place of an older one of its tuple. 0 or the reason to drop. */
static __always_inline u8 conntrack_make(struct conntrack_key *k, struct conntrack_entry *e)
{
	if (!conntrack.insert(k, e)) {
		count(METRIC_CONNTRACK_MADE, 0);
		return 0;
	}
	return conntrack.update(k, e) ? REASON_CONNTRACK_FULL : 0;
}

static __always_inline void conntrack_forget(struct conntrack_key *k)
{
	if (!conntrack.delete(k))
		count(METRIC_CONNTRACK_GONE, 0);
}

#define UNRELATED	 0
#define RELATED		 1
#define RELATED_TO_PROXY 2

/*
 * Whether an ICMP error belongs to a flow that may pass now. It must go to the sender of what it
 * quotes: otherwise a workload could send anything to anyone as an "error" about a flow of its own.
 *
 * Routers report about packets of others, a workload is none: its errors must be about packets that
 * were sent to itself (from_endpoint has checked that the source is its own), or it could send
 * anything to whoever takes part in some flow.
 */
static __always_inline int related(struct packet *p, struct packet *quoted, const int by_workload)
{
	struct conntrack_entry *e;
	u64 now = bpf_ktime_get_coarse_ns();

	if (!quoted->flow.family)
		return UNRELATED;
	if (!same_address(&quoted->flow.source, &p->flow.destination))
		return UNRELATED;
	if (by_workload && !same_address(&quoted->flow.destination, &p->flow.source))
		return UNRELATED;
	e = conntrack_find(quoted, 0, 1, now);
	if (!e || e->revision != current_revision() || e->flags & CONNTRACK_DENIED)
		return UNRELATED;
	return e->proxy || e->upstream ? RELATED_TO_PROXY : RELATED;
}
