# SPDX-License-Identifier: Apache-2.0
"""Turns what an exchange recorded into the `Flow` that is observed: who, with whom, what, and which rule said so.

Header values are never part of it, and no password: a target's userinfo is cut before it gets here.
"""

from l7observe.flow import Flow, FlowPeer, HttpSummary, L7Type
from l7policy.verdict import Direction, Protocol, Reason, Verdict
from l7proxy.commands import Record
from l7proxy.judge import FlowPolicy, Side
from l7proxy.sockets import Address


class Flows:
    """Makes the flows of one connection. The peers are made once for each revision of the policy."""

    __slots__ = ("_client", "_destination", "_destination_side", "_peers", "_policy", "_source_side")

    def __init__(self, policy: FlowPolicy, client: Address, destination: Address) -> None:
        self._policy = policy
        self._client = client
        self._destination = destination
        self._source_side: Side | None = None
        self._destination_side: Side | None = None
        self._peers = (FlowPeer(client[0], client[1]), FlowPeer(destination[0], destination[1]))

    def flow(self, record: Record, time: float) -> Flow:
        """The flow of one record."""
        source, destination = self._policy.source, self._policy.destination
        if source is not self._source_side or destination is not self._destination_side:
            self._source_side, self._destination_side = source, destination
            self._peers = (_peer(self._client, source), _peer(self._destination, destination))
        # What could not be judged as a request is put down to the rule that wanted it to be one.
        decision = record.decision or self._policy.admitted()
        summary = None
        if record.method or record.status:
            summary = HttpSummary(
                record.method, record.host, record.path, record.status, decision.missing, decision.rejected
            )
        return Flow(
            time=time,
            layer="http",
            verdict=record.verdict,
            reason=record.reason,
            direction=decision.direction,
            protocol=Protocol.TCP,
            source=self._peers[0],
            destination=self._peers[1],
            endpoint=decision.endpoint,
            http=summary,
            rule=decision.rule,
            policies=decision.policies,
            revision=self._policy.revision,
            detail=record.detail,
            l7_type=L7Type.RESPONSE if record.verdict == Verdict.FORWARDED else L7Type.REQUEST,
        )


def refused(reason: Reason, detail: str, client: Address, destination: Address, time: float) -> Flow:
    """The flow of a connection that was not even begun."""
    return Flow(
        time=time,
        layer="http",
        verdict=Verdict.DROPPED,
        reason=reason,
        direction=Direction.EGRESS,
        protocol=Protocol.TCP,
        source=FlowPeer(client[0], client[1]),
        destination=FlowPeer(destination[0], destination[1]),
        detail=detail,
    )


def _peer(address: Address, side: Side) -> FlowPeer:
    return FlowPeer(
        address=address[0],
        port=address[1],
        identity=side.identity,
        labels=tuple(sorted(side.labels)),
        endpoint=side.endpoint,
    )
