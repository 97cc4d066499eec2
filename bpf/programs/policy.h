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
	u32 endpoint_id; /* of the endpoint whose policy decided */
	u32 policy_id;
	u32 source_identity;
	u32 destination_identity;
	u8 direction;
	u8 proxy;
	u8 to_proxy;
	u8 answer_matters; /* the destination's egress is enforced */
};

static __always_inline u32 endpoint_of(u8 family, const struct address *a)
{
	struct address_key k = {.family = family, .address = *a};
	u32 *id = endpoint_by_address.lookup(&k);

	return id ? *id : 0;
}

static __always_inline u32 identity_of(u8 family, const struct address *a)
{
	struct ipcache_key k = {.prefixlen = 32 + 128, .family = family, .address = *a};
	struct ipcache_entry *e = ipcache.lookup(&k);

	return e ? e->identity : IDENTITY_WORLD;
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

/* One side. 0, with judgement.proxy set for a redirect, or the reason to drop. */
static __always_inline u8 judge_side(const struct packet *p, struct judgement *j, u32 endpoint_id,
				     const struct endpoint *e, const u8 direction, u32 length)
{
	struct policy_entry *v;

	if (!(e->flags &
	      (direction == DIRECTION_EGRESS ? ENDPOINT_ENFORCE_EGRESS : ENDPOINT_ENFORCE_INGRESS)))
		return 0; /* 2 */
	j->endpoint_id = endpoint_id;
	j->policy_id = e->policy_id;
	j->direction = direction;
	j->cookie = 0;
	if (p->opaque)
		return p->opaque; /* 4 */
	v = find_policy(e->policy_id,
			direction == DIRECTION_EGRESS ? j->destination_identity
						      : j->source_identity,
			direction, p->flow.protocol, p->port);
	if (!v)
		return REASON_POLICY_DENIED; /* 5 */
	__sync_fetch_and_add(&v->packets, 1);
	__sync_fetch_and_add(&v->bytes, length);
	j->cookie = v->cookie;
	if (v->verdict == POLICY_ALLOW)
		return 0;
	if (v->verdict != POLICY_REDIRECT)
		return REASON_POLICY_DENY;
	if (j->proxy && j->proxy != v->proxy)
		return REASON_REDIRECT_IMPOSSIBLE; /* 8 */
	j->proxy = v->proxy;
	return 0;
}

/*
 * Judges p->flow, which runs in the direction in which the flow began. source_id and destination_id
 * are the endpoints of its two ends, 0 for none. `flags` are those of its conntrack entry.
 */
static __always_inline u8 judge(const struct packet *p, struct judgement *j, u32 source_id,
				u32 destination_id, u16 *flags, const int begun_by_node, u32 length)
{
	struct endpoint *source = 0, *destination = 0;
	u8 reason;

	if (source_id) {
		source = endpoints.lookup(&source_id);
		if (!source)
			return REASON_ENDPOINT_UNKNOWN; /* 1 */
	}
	if (destination_id) {
		destination = endpoints.lookup(&destination_id);
		if (!destination)
			return REASON_ENDPOINT_UNKNOWN; /* 1 */
	}
	j->source_identity =
		source ? source->identity : identity_of(p->flow.family, &p->flow.source);
	j->destination_identity = destination ? destination->identity
					      : identity_of(p->flow.family, &p->flow.destination);
	if (begun_by_node && j->source_identity == IDENTITY_NODE)
		*flags |= CONNTRACK_FROM_NODE;
	if ((source && destination) || j->source_identity == IDENTITY_NODE ||
	    j->destination_identity == IDENTITY_NODE)
		*flags |= CONNTRACK_LOCAL;

	j->answer_matters = destination && destination->flags & ENDPOINT_ENFORCE_EGRESS;

	if (source) {
		reason = judge_side(p, j, source_id, source, DIRECTION_EGRESS, length);
		if (reason)
			return reason; /* 7 */
	}
	if (destination && !(*flags & CONNTRACK_FROM_NODE)) { /* 3 */
		reason = judge_side(p, j, destination_id, destination, DIRECTION_INGRESS, length);
		if (reason)
			return reason; /* 7 */
	}
	if (j->proxy && p->flow.protocol != IPPROTO_TCP && p->flow.protocol != IPPROTO_UDP)
		return REASON_REDIRECT_IMPOSSIBLE; /* 8 */
	return 0;				   /* 9, 10 */
}
