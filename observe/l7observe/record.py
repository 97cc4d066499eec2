# SPDX-License-Identifier: Apache-2.0
"""AuditRecord: one line of the audit log or of `l7ctl monitor -o json`, as it is written and as it is read again.

The names and types here are a contract with whoever ships the log elsewhere: a field may be added, none may change its
meaning. Every field is always there, except those that are there for their layer only, or for what passed. Strings
come from the workload or the network: JSON escapes what would break the line, and what is not Unicode is escaped as
text.

Not an owner of files (`l7observe.audit`) and not a formatter for people (`l7observe.compact`).
"""

import functools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from l7observe.columns import Column, Columns
from l7observe.flow import DnsSummary, Flow, FlowPeer, FlowType, HttpSummary, L7Type, PacketSummary, TlsSummary
from l7policy.verdict import Direction, Protocol, Reason, Verdict

PASSED: Final = frozenset({Verdict.FORWARDED, Verdict.REDIRECTED})
"""Verdicts that are no deny."""

TCP_FLAGS: Final = ((2, "SYN"), (16, "ACK"), (1, "FIN"), (4, "RST"), (8, "PSH"), (32, "URG"))
"""In the order in which people read them."""


class AuditEndpoint(msgspec.Struct, frozen=True):
    """The workload whose policy decided. Id 0: none is known behind the interface."""

    id: int
    name: str
    labels: tuple[str, ...]


class AuditPeer(msgspec.Struct, frozen=True):
    """One end of what was denied. Port 0: the protocol has none, or it could not be read."""

    address: str
    port: int
    identity: int
    labels: tuple[str, ...]
    name: str = ""
    """The endpoint's name, if this end is a workload of the node."""

    @property
    def where(self) -> str:
        """The name or address, with the port if there is one."""
        if not self.port:
            return self.name or self.address
        host = self.name or (f"[{self.address}]" if ":" in self.address else self.address)
        return f"{host}:{self.port}"


class AuditHttp(msgspec.Struct, frozen=True):
    """The request, as far as it could be read. Status: what the client was answered, 0 if nothing."""

    method: str
    host: str
    path: str
    status: int
    protocol: str | msgspec.UnsetType = msgspec.UNSET
    request_bytes: int | msgspec.UnsetType = msgspec.UNSET
    response_bytes: int | msgspec.UnsetType = msgspec.UNSET
    missing_headers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Headers that were not as the rule wants them, for rules that let the request pass all the same."""
    rejected_headers: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    """Headers that a rule took out."""


class AuditDns(msgspec.Struct, frozen=True):
    """The query, without the trailing dot. Rcode: what the client was answered, empty if nothing."""

    query: str
    qtype: str
    rcode: str
    addresses: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    cnames: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    ttl: int | msgspec.UnsetType = msgspec.UNSET


class AuditTls(msgspec.Struct, frozen=True):
    """The handshake, as far as it could be read."""

    sni: str
    version: str
    alpn: tuple[str, ...]
    ech: bool | msgspec.UnsetType = msgspec.UNSET
    """Encrypted Client Hello was offered: the name may be a front for another."""


class AuditPacket(msgspec.Struct, frozen=True):
    """The packet. Flags: ``SYN``, ``ACK, FIN``; empty if it is not TCP."""

    flags: str
    length: int
    reply: bool
    new: bool
    point: str


class AuditRecord(msgspec.Struct, frozen=True):
    """One flow at any layer: in the audit log, one deny."""

    time: str
    """RFC 3339, UTC, microseconds: ``2026-01-31T12:00:00.123456Z``."""
    node: str
    """Host name of the node."""
    layer: str
    """``packet``, ``http``, ``dns`` or ``tls``."""
    verdict: str
    """``DROPPED`` or ``ERROR`` if it was denied: a name of `l7policy.verdict.Verdict`."""
    reason: str
    """A name of `l7policy.verdict.Reason`: ``POLICY_DENIED``; ``NONE`` for what passed."""
    reason_text: str
    """The same for people."""
    direction: str
    """``egress`` or ``ingress``, seen from the endpoint."""
    protocol: str
    """``TCP``, ``UDP``, ``ICMP``…, or the number of one without a name."""
    endpoint: AuditEndpoint
    source: AuditPeer
    destination: AuditPeer
    rule: str
    """The rule that caused the deny; empty for a default deny."""
    policies: tuple[str, ...]
    """The policies that selected the endpoint: in a default deny, those that allow too little."""
    revision: int
    """Of the rule set that decided."""
    detail: str
    """What the reason alone does not say."""
    http: AuditHttp | msgspec.UnsetType = msgspec.UNSET
    dns: AuditDns | msgspec.UnsetType = msgspec.UNSET
    tls: AuditTls | msgspec.UnsetType = msgspec.UNSET
    packet: AuditPacket | msgspec.UnsetType = msgspec.UNSET
    type: str = ""
    """``drop``, ``policy-verdict``, ``trace`` or ``l7``; empty in logs of a time before there was more than denies."""
    l7_type: str | msgspec.UnsetType = msgspec.UNSET
    """``request`` or ``response``."""
    latency_ns: int | msgspec.UnsetType = msgspec.UNSET
    """Of a response, since its request."""
    proxy: str | msgspec.UnsetType = msgspec.UNSET
    """Where the flow was redirected to."""
    left_out: int | msgspec.UnsetType = msgspec.UNSET
    """Audited flows of the endpoint that have no record: before this one, more of them came than it may have."""


_VERDICTS: Final = {verdict: verdict.name for verdict in Verdict}
_REASONS: Final = {reason: reason.name for reason in Reason}
_PROTOCOLS: Final = {int(protocol): protocol.name for protocol in Protocol}
_TYPES: Final = {kind: kind.value for kind in FlowType}
_L7_TYPES: Final = {kind: kind.value for kind in L7Type}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AuditRecord)


def is_deny(flow: Flow) -> bool:
    """Whether the flow belongs into the audit log: anything but passed, once.

    A packet that policy refuses is a policy verdict, if somebody listens, and a drop; the drop is the deny.
    """
    if flow.verdict in PASSED:
        return False
    return flow.type in (FlowType.L7, FlowType.DROP) or flow.verdict == Verdict.AUDIT


def from_flow(flow: Flow, node: str = "", left_out: int = 0) -> AuditRecord:
    """The record of a flow. Raises ValueError or OverflowError for a time no calendar has."""
    subject = _subject(flow)
    l7 = flow.type == FlowType.L7
    # By position and with names looked up: a workload can make denies as fast as it is refused.
    return AuditRecord(
        timestamp(flow.time),
        node,
        flow.layer,
        _VERDICTS[flow.verdict],
        _REASONS[flow.reason],
        flow.reason.text,
        "egress" if flow.direction == Direction.EGRESS else "ingress",
        _PROTOCOLS.get(flow.protocol) or str(int(flow.protocol)),
        AuditEndpoint(flow.endpoint, subject.name, subject.labels),
        _peer(flow.source),
        _peer(flow.destination),
        flow.rule,
        flow.policies,
        flow.revision,
        flow.detail,
        _http(flow.http) if flow.http is not None else msgspec.UNSET,
        _dns(flow.dns) if flow.dns is not None else msgspec.UNSET,
        _tls(flow.tls) if flow.tls is not None else msgspec.UNSET,
        _packet(flow.packet) if flow.packet is not None else msgspec.UNSET,
        _TYPES[flow.type],
        _L7_TYPES[flow.l7_type] if l7 else msgspec.UNSET,
        flow.latency_ns or msgspec.UNSET,
        flow.proxy or msgspec.UNSET,
        left_out or msgspec.UNSET,
    )


def _http(http: HttpSummary) -> AuditHttp:
    return AuditHttp(
        http.method,
        http.host,
        http.path,
        http.status,
        http.protocol or msgspec.UNSET,
        http.request_bytes or msgspec.UNSET,
        http.response_bytes or msgspec.UNSET,
        http.missing_headers or msgspec.UNSET,
        http.rejected_headers or msgspec.UNSET,
    )


def _dns(dns: DnsSummary) -> AuditDns:
    return AuditDns(
        dns.query,
        dns.qtype,
        dns.rcode,
        dns.addresses or msgspec.UNSET,
        dns.cnames or msgspec.UNSET,
        dns.ttl or msgspec.UNSET,
    )


def _tls(tls: TlsSummary) -> AuditTls:
    return AuditTls(tls.sni, tls.version, tls.alpn, tls.ech or msgspec.UNSET)


def _packet(packet: PacketSummary) -> AuditPacket:
    flags = ", ".join(name for bit, name in TCP_FLAGS if packet.tcp_flags & bit)
    return AuditPacket(flags, packet.length, packet.reply, packet.new, packet.point)


def encode(record: AuditRecord) -> bytes:
    """One line, its end included."""
    try:
        return _encoder.encode(record) + b"\n"
    except UnicodeEncodeError:
        # A surrogate: bytes that were no text when they were read.
        return _encoder.encode(_unicode(msgspec.to_builtins(record))) + b"\n"


def decode(line: bytes | str) -> AuditRecord | None:
    """The record of a line, or None if it is none: torn by a crash, or written by somebody else."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC. Raises ValueError or OverflowError for a time no calendar has."""
    whole, micro = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second(whole)}.{micro:06}Z"


@functools.lru_cache(maxsize=16)
def _second(whole: int) -> str:
    """Many records are of the same second."""
    try:
        return datetime.fromtimestamp(whole, UTC).isoformat().removesuffix("+00:00")
    except OSError as error:  # what the C library says of some of them
        raise ValueError(f"{whole}: no calendar has this time") from error


def _subject(flow: Flow) -> FlowPeer:
    """The end of the flow whose policy decided."""
    for peer in (flow.source, flow.destination):
        if flow.endpoint and peer.endpoint == flow.endpoint:
            return peer
    return flow.source if flow.direction == Direction.EGRESS else flow.destination


def _peer(peer: FlowPeer) -> AuditPeer:
    return AuditPeer(peer.address, peer.port, peer.identity, peer.labels, peer.name)


def _unicode(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {key: _unicode(item) for key, item in value.items()}
        case list() | tuple():
            return [_unicode(item) for item in value]
        case _:
            return value


def _what(record: AuditRecord) -> str:
    if record.http:
        return f"{record.http.method} {record.http.host}{record.http.path}".strip()
    if record.dns:
        return f"{record.dns.query} {record.dns.qtype}".strip()
    if record.tls:
        return f"TLS {record.tls.sni}".strip()
    return record.protocol


def _because(record: AuditRecord) -> str | Iterable[str]:
    return record.rule or record.policies


COLUMNS: Final = Columns[AuditRecord](
    Column("time", "TIME", "When it was denied, UTC", lambda record: record.time),
    Column("node", "NODE", "Host name of the node", lambda record: record.node, default=False),
    Column("layer", "LAYER", "packet, http or dns", lambda record: record.layer),
    Column("direction", "DIRECTION", "Seen from the endpoint", lambda record: record.direction, default=False),
    Column("source", "SOURCE", "Workload or address, and port", lambda record: record.source.where),
    Column("destination", "DESTINATION", "Workload or address, and port", lambda record: record.destination.where),
    Column("what", "WHAT", "The request, the query or the protocol", _what, width=60),
    Column("verdict", "VERDICT", "DROPPED, ERROR, or AUDIT for what passed", lambda record: record.verdict),
    Column("reason", "REASON", "Why, by name", lambda record: record.reason),
    Column("because", "RULE", "The rule that denies, or the policies that do not allow it", _because),
    Column("revision", "REVISION", "Of the rule set", lambda record: record.revision, justify="right", default=False),
)
