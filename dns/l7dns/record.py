# SPDX-License-Identifier: Apache-2.0
"""Record: what is written down about a query.

May not do I/O. Failure verdict: none.
"""

from l7dns import names
from l7dns.addresses import address_text
from l7dns.exchange import Query
from l7dns.message import rcode_name, type_name
from l7dns.sockets import Address
from l7dns.transaction import Answered
from l7observe.flow import DnsSummary, Flow, FlowPeer, L7Type
from l7policy.enforcement import Side
from l7policy.verdict import Direction, Reason, Verdict

_ERRORS = frozenset(
    {
        Reason.UPSTREAM_UNREACHABLE,
        Reason.DNS_UPSTREAM_TIMEOUT,
        Reason.DNS_UPSTREAM_INVALID,
        Reason.DNS_LEARN_FAILED,
    }
)


def audited(time: float, query: Query, reason: Reason) -> Flow:
    """A query that policy refuses and that is forwarded all the same: written before there is an answer."""
    return _flow(time, query, Answered(None, reason), Verdict.AUDIT)


def flow(time: float, query: Query, answered: Answered, seconds: float = 0.0) -> Flow:
    """One query and its end, which came `seconds` after it."""
    if answered.reason == Reason.NONE:
        verdict = Verdict.FORWARDED
    else:
        verdict = Verdict.ERROR if answered.reason in _ERRORS else Verdict.DROPPED
    return _flow(time, query, answered, verdict, seconds)


def _flow(time: float, query: Query, answered: Answered, verdict: Verdict, seconds: float = 0.0) -> Flow:
    question, decision = query.transaction.question, query.transaction.decision
    policy = query.policy
    rcode = "" if answered.wire is None else rcode_name(answered.rcode)
    if question is None:
        summary = DnsSummary(rcode=rcode)
    else:
        summary = DnsSummary(
            query=question.name[:-1] or ".",
            qtype=type_name(question.qtype),
            rcode=rcode,
            addresses=tuple(address_text(address) for address in answered.addresses),
            cnames=tuple(names.text(alias)[:-1] for alias in answered.aliases),
            ttl=answered.ttl,
        )
    source = None if policy is None else policy.source
    return Flow(
        time=time,
        layer="dns",
        verdict=verdict,
        reason=answered.reason,
        direction=Direction.EGRESS if decision is None else decision.direction,
        protocol=query.protocol,
        source=_peer(query.client, source),
        destination=_peer(query.server, None if policy is None else policy.destination),
        endpoint=decision.endpoint if decision is not None else (0 if source is None else source.endpoint),
        dns=summary,
        rule="" if decision is None else decision.rule,
        policies=() if decision is None else decision.policies,
        revision=0 if policy is None else max(0, policy.revision),
        detail=answered.detail,
        latency_ns=int(seconds * 1e9),
        l7_type=L7Type.RESPONSE if verdict == Verdict.FORWARDED else L7Type.REQUEST,
    )


def _peer(address: Address, side: Side | None) -> FlowPeer:
    if side is None:
        return FlowPeer(*address)
    return FlowPeer(*address, identity=side.identity, labels=tuple(sorted(side.labels)), endpoint=side.endpoint)
