# SPDX-License-Identifier: Apache-2.0
"""Turns what an exchange recorded into the `Flow` that is observed: who, with whom, what, and which rule said so.

What must not be shown is left out here (`redaction`), so that it never leaves the process.
"""

from typing import Final

from l7observe import flowbytes
from l7observe.flow import Flow, FlowPeer, FlowType, HttpSummary, L7Type, TlsSummary
from l7observe.flowbytes import Template
from l7policy.verdict import Direction, Protocol, Reason, Verdict
from l7proxy.commands import Record
from l7proxy.head import RequestHead
from l7proxy.judge import Decision, FlowPolicy, Side
from l7proxy.redaction import Redaction
from l7proxy.sockets import Address
from l7proxy.transaction import Transaction

_TCP: Final = Protocol.TCP
_FORWARDED: Final = Verdict.FORWARDED
_L7: Final = FlowType.L7
_REQUEST: Final = L7Type.REQUEST
_RESPONSE: Final = L7Type.RESPONSE
_PROTOCOLS: Final = {1: "HTTP/1.1", 0: "HTTP/1.0", -1: ""}


class Flows:
    """Makes the flows of one connection. The peers are made once for each revision of the policy."""

    __slots__ = (
        "_client",
        "_decision",
        "_destination",
        "_destination_side",
        "_part",
        "_peers",
        "_policy",
        "_redaction",
        "_request",
        "_sizes",
        "_source_side",
        "_template",
    )

    def __init__(self, policy: FlowPolicy, client: Address, destination: Address, redaction: Redaction) -> None:
        self._policy = policy
        self._redaction = redaction
        self._client = client
        self._destination = destination
        self._source_side: Side | None = None
        self._destination_side: Side | None = None
        self._peers = (FlowPeer(client[0], client[1]), FlowPeer(destination[0], destination[1]))
        self._decision: Decision | None = None
        """Of whose rows `_template` is."""
        self._template: Template | None = None
        self._request: RequestHead | None = None
        """Of which `_part` is, with its status and sizes."""
        self._sizes = (0, 0, 0)
        self._part = b""

    def flow(self, record: Record, time: float) -> Flow:
        """The flow of one record."""
        self._look()
        # What could not be judged as a request is put down to the rule that wanted it to be one.
        decision = record.decision or self._policy.admitted()
        summary, hello = None, record.hello
        if record.method or record.status:
            summary = self._summary(record, decision.missing, decision.rejected)
        # By position: by name it takes four times as long, and this is done for every request.
        return Flow(
            time,
            record.layer,
            record.verdict,
            record.reason,
            decision.direction,
            _TCP,
            self._peers[0],
            self._peers[1],
            decision.endpoint,
            summary,
            None,
            None if hello is None else TlsSummary(hello.sent, hello.version, hello.alpn, hello.ech),
            None,
            _L7,
            _RESPONSE if record.verdict == _FORWARDED else _REQUEST,
            int(record.latency * 1e9),
            record.layer,
            decision.rule,
            decision.policies,
            self._policy.revision,
            record.detail,
        )

    def row(self, answered: Transaction, time: float) -> bytes:
        """The flow of a request that passed, as a row of `l7observe.flowbytes`. Costs a third of making it."""
        head = answered.head
        if head is None:
            raise AssertionError("what was answered has a head")
        self._look()
        decision, request = answered.decision, answered.request
        if self._template is None or decision is not self._decision:
            flow = self.flow(answered.record(_FORWARDED, Reason.NONE, head.status), time)
            if decision.missing or decision.rejected:
                return flowbytes.row(flow)
            self._template, self._decision = Template(flow), decision
        # A client mostly asks for what it asked for before.
        sizes = head.status, answered.request_bytes, answered.size
        if request is not self._request or sizes != self._sizes:
            shown = self._summary(answered.record(_FORWARDED, Reason.NONE, head.status), (), ())
            self._part, self._request, self._sizes = flowbytes.part(shown), request, sizes
        return self._template.row(time, int((answered.first_byte - answered.began) * 1e9), self._part)

    def _look(self) -> None:
        """Sees to it that the ends are what policy says now."""
        source, destination = self._policy.source, self._policy.destination
        if source is not self._source_side or destination is not self._destination_side:
            self._source_side, self._destination_side = source, destination
            self._peers = (_peer(self._client, source), _peer(self._destination, destination))
            self._template = None

    def _summary(self, record: Record, missing: tuple[str, ...], rejected: tuple[str, ...]) -> HttpSummary:
        redaction, host, path = self._redaction, record.host, record.path
        return HttpSummary(
            record.method,
            redaction.host(host) if "@" in host else host,
            redaction.target(path) if "?" in path or "@" in path else path,
            record.status,
            redaction.fields(missing) if missing else missing,
            redaction.fields(rejected) if rejected else rejected,
            _PROTOCOLS[record.minor],
            record.request_bytes,
            record.response_bytes,
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
        proxy="http",
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
