/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space hears: an event for every drop and audited flow, and for what passed while somebody
 * listens. */
#pragma once

/*
 * Whether this processor may make another event of the kind: EVENTS_PER_SECOND, and as many at once
 * after a quiet second. A flood of one kind leaves the others their share. The row holds when the
 * next event would be due.
 */
static __always_inline int within_budget(u32 kind, u64 now)
{
	u64 *due = event_budget.lookup(&kind), next;

	if (!due)
		return 0;
	next = *due > now ? *due : now;
	if (next - now >= SECOND_NS)
		return 0;
	*due = next + SECOND_NS / EVENTS_PER_SECOND;
	return 1;
}

/*
 * One event for all that there is to tell of a packet: `kinds` is a mask of 1 << EVENT_…. A ring that
 * nobody reads never delays or changes a verdict: the loss is counted.
 */
static __always_inline void emit(const struct packet *p, const struct judgement *j, u32 kinds,
				 u8 reason, u8 verdict, u32 length)
{
	u32 passed_by = verdict != VERDICT_DROPPED && verdict != VERDICT_AUDIT;
	u64 now = bpf_ktime_get_boot_ns();
	struct event *e = 0;

	if (within_budget(passed_by, now)) {
		if (passed_by)
			e = passed.ringbuf_reserve(sizeof(*e));
		else
			e = events.ringbuf_reserve(sizeof(*e));
	}
	if (!e) {
		count(passed_by ? METRIC_PASSED_LOST : METRIC_EVENTS_LOST, length);
		return;
	}
	e->time_ns = now;
	e->cookie = j->cookie;
	e->endpoint_id = j->endpoint_id;
	e->source_identity = j->source_identity;
	e->destination_identity = j->destination_identity;
	e->policy_id = j->policy_id;
	e->revision = j->revision;
	e->length = length;
	e->source = p->flow.source;
	e->destination = p->flow.destination;
	e->source_port = p->flow.source_port;
	/* A packet against the flow's direction is not asked for its port unless it is judged. */
	e->destination_port = p->flags & PACKET_REVERSE ? policy_port(&p->flow) : p->port;
	e->protocol = p->flow.protocol;
	e->family = p->flow.family;
	e->direction = j->direction;
	e->verdict = verdict;
	e->reason = reason;
	e->kinds = kinds;
	e->tcp_flags = p->tcp_flags;
	e->point = j->point;
	e->reply = !!(p->flags & PACKET_REVERSE);
	e->judged = j->judged;
	e->proxy = j->proxy;
	e->pad = 0;
	events.ringbuf_submit(e, 0); /* to the ring that it is of */
}

/* A drop, outside of finish(). */
static __always_inline void report(const struct packet *p, const struct judgement *j, u8 reason,
				   u32 length)
{
	count(reason, length);
	emit(p, j, EVENT_DROP, reason, VERDICT_DROPPED, length);
}

/* All that there is to tell of a packet. Nothing of what passed, for nobody. */
static __always_inline void tell(const struct packet *p, const struct judgement *j, u8 reason,
				 u32 length)
{
	u32 kinds = reason ? EVENT_DROP : j->audited ? EVENT_VERDICT : 0;
	u8 verdict = j->to_proxy ? VERDICT_REDIRECTED : VERDICT_FORWARDED;

	if (j->observe) {
		if (j->judged)
			kinds |= j->observe & EVENT_VERDICT;
		if (!reason)
			kinds |= j->observe & EVENT_TRACE;
	}
	if (!kinds)
		return;
	if (reason)
		verdict = VERDICT_DROPPED;
	else if (j->audited)
		verdict = VERDICT_AUDIT;
	emit(p, j, kinds, reason ? reason : j->audited, verdict, length);
}
