/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a flow may begin, and whether through a proxy. Pure lookups: nothing is remembered here.
 *
 * One side (an endpoint's egress, or an endpoint's ingress):
 *   1. An endpoint without a row in `endpoints` is being removed: drop.
 *   2. A direction that is not enforced for the endpoint: allow.
 *   3. What the node itself began is not limited by ingress policy: allow.
 *   4. A packet that policy cannot name (fragment, unknown transport): drop.
 *   5. Neither the peer's identity nor "anybody" has an entry: drop.
 *   6. The entry of higher precedence wins, at a tie the one of the identity. The number holds the
 *      priority of the rule and below it deny > HTTP redirect > DNS redirect > allow, as in
 *      l7policy.entries. Within one identity the longest match holds the strongest verdict
 *      already: user space wrote it so.
 *      What 4 to 6 deny passes all the same where the endpoint is audited. It is reported once the
 *      packet may go.
 * Both sides:
 *   7. Egress is judged before ingress; the first drop names the reason.
 *   8. Two sides that need different proxies, or a proxy for what is neither TCP nor UDP: drop.
 *   9. A redirect of either side redirects.
 *  10. Allow.
 */
#pragma once

#define IDENTITY_ANY   0
#define IDENTITY_NODE  1
#define IDENTITY_WORLD 2

struct judgement {
	u64 cookie;
	u32 revision;
	u32 endpoint_id; /* of the endpoint whose policy decided, the first that was audited if any */
	u32 policy_id;
	u32 source_identity;
	u32 destination_identity;
	u32 receiver; /* the endpoint that a packet of a known flow is for, if one of this node; or 0 */
	u8 direction;
	u8 proxy;
	u8 to_proxy;
	u8 audited;	   /* why it would be dropped, were the endpoint not audited; or 0 */
	u8 answer_matters; /* the destination's ENDPOINT_ENFORCE_EGRESS and ENDPOINT_AUDIT */
	u8 judged;	   /* policy was asked */
	u8 observe;	   /* EVENT_…: what somebody listens for */
	u8 point;	   /* POINT_…: the program */
	u8 established;	   /* the flow has begun before, and was let */
	u8 answer_barred; /* why what would be the answer to this direct flow may not be one; or 0 */
};

static __always_inline u32 endpoint_of(u8 family, const struct address *a)
{
	struct address_key k = {
		.family = family,
		.word = {a->word[0], a->word[1], a->word[2], a->word[3]},
	};
	u32 *id = endpoint_by_address.lookup(&k);

	return id ? *id : 0;
}

/* Whose an address is. A name that is over opens nothing new, and what it opened goes on. */
static __always_inline u32 identity_of(u8 family, const struct address *a, u8 established)
{
	struct ipcache_key k = {.prefixlen = 32 + 128, .family = family, .address = *a};
	struct ipcache_entry *e = ipcache.lookup(&k);

	if (!e)
		return IDENTITY_WORLD;
	return established && e->established ? e->established : e->identity;
}

static __always_inline struct policy_entry *find_policy(u32 policy_id, u32 remote, u8 direction,
							u8 protocol, __be16 port)
{
	struct policy_key k = {
		.prefixlen = POLICY_PREFIX_FULL,
		.policy_id = policy_id,
		.identity = remote,
		.direction = direction,
		.protocol = protocol,
		.port = port,
	};
	struct policy_entry *one = policy.lookup(&k), *any;

	k.identity = IDENTITY_ANY;
	any = policy.lookup(&k);
	if (!one)
		return any;
	return any && any->precedence > one->precedence ? any : one; /* 6 */
}

/* One end of a flow. */
struct side {
	u32 endpoint_id; /* 0: no endpoint of this node */
	u32 identity;
	u32 policy_id;
	u32 flags;
};

/* Whether the side's endpoint is not being removed. */
static __always_inline int find_side(struct side *s, u32 endpoint_id, u8 family,
				     const struct address *a, u8 established)
{
	struct endpoint *e;

	s->endpoint_id = endpoint_id;
	if (!endpoint_id) {
		s->identity = identity_of(family, a, established);
		return 1;
	}
	e = endpoints.lookup(&endpoint_id);
	if (!e)
		return 0;
	s->identity = e->identity;
	s->policy_id = e->policy_id;
	s->flags = e->flags;
	return 1;
}

/* What the policy of one side says. 0, with judgement.proxy set for a redirect, or why to drop. */
static __always_inline u8 ask_policy(const struct packet *p, struct judgement *j,
				     const struct side *s, u32 remote, u8 direction, u32 length,
				     u64 *cookie)
{
	struct policy_entry *v;

	if (p->opaque)
		return p->opaque; /* 4 */
	v = find_policy(s->policy_id, remote, direction, p->flow.protocol, p->port);
	if (!v)
		return REASON_POLICY_DENIED; /* 5 */
	__sync_fetch_and_add(&v->packets, 1);
	__sync_fetch_and_add(&v->bytes, length);
	*cookie = v->cookie;
	if (v->verdict == POLICY_ALLOW)
		return 0;
	if (v->verdict != POLICY_REDIRECT)
		return REASON_POLICY_DENY;
	if (j->proxy && j->proxy != v->proxy)
		return REASON_REDIRECT_IMPOSSIBLE; /* 8 */
	j->proxy = v->proxy;
	return 0;
}

/* One side. 0, with judgement.proxy set for a redirect and .audited for what passes all the same. */
static __always_inline u8 judge_side(const struct packet *p, struct judgement *j,
				     const struct side *s, u32 remote, u8 direction, u32 length)
{
	u64 cookie = 0;
	u8 reason = ask_policy(p, j, s, remote, direction, length, &cookie), audited = 0;

	if (s->flags & ENDPOINT_AUDIT && reason != REASON_REDIRECT_IMPOSSIBLE) {
		audited = reason;
		reason = 0;
	}
	j->judged = 1;
	/* Of two sides that are audited, the record names the first. */
	if (reason || !j->audited) {
		j->endpoint_id = s->endpoint_id;
		j->policy_id = s->policy_id;
		j->direction = direction;
		j->cookie = cookie;
		j->audited = audited;
	}
	return reason;
}

/*
 * Why the destination's egress policy lets nothing go back to where p->flow is from as a mere answer:
 * it has a proxy for that, or a rule that denies it and no ingress policy that let the flow in. Or 0.
 *
 * Egress policy that merely does not allow the tuple is no reason: a server must be able to answer its
 * clients, whom it may not call.
 */
static __always_inline u8 answer_barred(const struct packet *p, const struct side *source,
					const struct side *destination)
{
	__be16 port = p->flow.source_port;
	struct policy_entry *v;

	if (p->opaque)
		return 0;
	if (p->flow.protocol == IPPROTO_ICMP)
		port = 0; /* the type of an echo's reply */
	if (p->flow.protocol == IPPROTO_ICMPV6)
		port = bpf_htons(129);
	v = find_policy(destination->policy_id, source->identity, DIRECTION_EGRESS,
			p->flow.protocol, port);
	if (v && v->verdict == POLICY_REDIRECT)
		return REASON_REDIRECT_IMPOSSIBLE;
	if (v && v->verdict == POLICY_DENY &&
	    !(destination->flags & (ENDPOINT_ENFORCE_INGRESS | ENDPOINT_AUDIT)))
		return REASON_POLICY_DENY;
	return 0;
}

/*
 * Judges p->flow, which runs in the direction in which the flow began. source_id and destination_id
 * are the endpoints of its two ends, 0 for none. `flags` are those of its conntrack entry.
 */
static __always_inline u8 judge(const struct packet *p, struct judgement *j, u32 source_id,
				u32 destination_id, u16 *flags, const int begun_by_node, u32 length)
{
	struct side source = {}, destination = {}, side;
	u32 direction, remote, enforced;
	u8 reason;

	if (!find_side(&source, source_id, p->flow.family, &p->flow.source, j->established) ||
	    !find_side(&destination, destination_id, p->flow.family, &p->flow.destination,
		       j->established))
		return REASON_ENDPOINT_UNKNOWN; /* 1 */
	j->source_identity = source.identity;
	j->destination_identity = destination.identity;
	j->answer_matters = destination.flags & (ENDPOINT_ENFORCE_EGRESS | ENDPOINT_AUDIT);
	if (begun_by_node && source.identity == IDENTITY_NODE)
		*flags |= CONNTRACK_FROM_NODE;
	if ((source_id || source.identity == IDENTITY_NODE) &&
	    (destination_id || destination.identity == IDENTITY_NODE))
		*flags |= CONNTRACK_LOCAL;

#pragma nounroll
	for (direction = DIRECTION_EGRESS; direction <= DIRECTION_INGRESS; direction++) { /* 7 */
		keep_opaque(direction);
		side = source;
		remote = destination.identity;
		enforced = source.flags & ENDPOINT_ENFORCE_EGRESS;
		if (direction == DIRECTION_INGRESS) {
			side = destination;
			remote = source.identity;
			enforced = destination.flags & ENDPOINT_ENFORCE_INGRESS &&
				   !(*flags & CONNTRACK_FROM_NODE); /* 3 */
		}
		if (!enforced) /* 2 */
			continue;
		reason = judge_side(p, j, &side, remote, direction, length);
		if (reason)
			return reason;
	}
	if (j->proxy && p->flow.protocol != IPPROTO_TCP && p->flow.protocol != IPPROTO_UDP)
		return REASON_REDIRECT_IMPOSSIBLE; /* 8 */
	/* A SYN did begin a connection, and only an answer to it continues that one. */
	if (j->answer_matters & ENDPOINT_ENFORCE_EGRESS && !j->proxy &&
	    p->flow.protocol != IPPROTO_TCP)
		j->answer_barred = answer_barred(p, &source, &destination);
	return 0; /* 9, 10 */
}
