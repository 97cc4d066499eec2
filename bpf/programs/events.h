/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space hears: a count for every packet, an event for every drop and audited flow. */
#pragma once

static __always_inline void count(u32 row, u32 length)
{
	struct metric *m = metrics.lookup(&row);

	if (m) {
		m->packets += 1;
		m->bytes += length;
	}
}

/* A ring that nobody reads never delays or changes a verdict: the loss is counted. */
static __always_inline void report(const struct packet *p, const struct judgement *j, u8 reason,
				   u8 verdict, u32 length)
{
	struct event *e;

	count(verdict == VERDICT_AUDIT ? METRIC_AUDITED : reason, length);
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count(METRIC_EVENTS_LOST, length);
		return;
	}
	e->time_ns = bpf_ktime_get_boot_ns();
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
	e->destination_port = p->port;
	e->protocol = p->flow.protocol;
	e->family = p->flow.family;
	e->direction = j->direction;
	e->verdict = verdict;
	e->reason = reason;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	events.ringbuf_submit(e, 0);
}
