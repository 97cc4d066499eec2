# SPDX-License-Identifier: Apache-2.0
"""Flow: one observed event at any layer, and the only record that observation knows.

Fields follow Hubble's flow.proto where they mean the same. The data-plane processes fill what they know; the agent adds
the endpoint's name before it is logged.
"""

from enum import StrEnum

import msgspec

from l7policy.verdict import Direction, Reason, Verdict


class FlowType(StrEnum):
    """What kind of event it is: the words of `l7ctl monitor --type`."""

    L7 = "l7"
    """A request, answer, query or handshake that a proxy judged."""
    DROP = "drop"
    """A packet that was dropped. Always recorded."""
    POLICY_VERDICT = "policy-verdict"
    """What policy said about a flow's first packet. Only while somebody listens, but for AUDIT, which always is."""
    TRACE = "trace"
    """A packet that passed. Only while somebody listens."""


class L7Type(StrEnum):
    """Which half of an exchange a record of layer 7 tells of."""

    REQUEST = "request"
    """Judged, not answered by the server: a deny, or a failure."""
    RESPONSE = "response"
    """The server's answer, with the request it is the answer to."""


class FlowPeer(msgspec.Struct, omit_defaults=True):
    """One end of a flow."""

    address: str
    port: int = 0
    identity: int = 0
    labels: tuple[str, ...] = ()
    endpoint: int = 0
    """EndpointId if the peer is a workload of this node, else 0."""
    name: str = ""
    """The endpoint's name, if it is one."""


class HttpSummary(msgspec.Struct, omit_defaults=True):
    """A request, or what could be read of it."""

    method: str = ""
    host: str = ""
    path: str = ""
    status: int = 0
    """What the client was answered, 0 if nothing."""
    missing_headers: tuple[str, ...] = ()
    """Headers that were not as the rule wants them (``mismatch`` LOG, ADD or REPLACE)."""
    rejected_headers: tuple[str, ...] = ()
    """Headers that were taken out on their way (``mismatch`` DELETE or REPLACE)."""
    protocol: str = ""
    """``HTTP/1.1``, ``HTTP/2``."""
    request_bytes: int = 0
    """Of the request's body, as far as it was forwarded."""
    response_bytes: int = 0
    """Of the answer's body."""


class DnsSummary(msgspec.Struct, omit_defaults=True):
    """A query and what came of it."""

    query: str = ""
    """Without the trailing dot."""
    qtype: str = ""
    rcode: str = ""
    """What the client was answered, empty if nothing."""
    addresses: tuple[str, ...] = ()
    cnames: tuple[str, ...] = ()
    """Aliases on the way from the query to the addresses, without the trailing dot."""
    ttl: int = 0
    """Seconds, the smallest of the answer's."""


class TlsSummary(msgspec.Struct, omit_defaults=True):
    """A handshake, or what could be read of it."""

    sni: str = ""
    """The server name that the client asked for."""
    version: str = ""
    """The highest that the client offers: ``TLS 1.3``."""
    alpn: tuple[str, ...] = ()
    """The protocols that the client offers."""
    ech: bool = False
    """Encrypted Client Hello was offered, or a dummy of it: the name may be a front for another."""


class PacketSummary(msgspec.Struct, omit_defaults=True):
    """What a packet was."""

    tcp_flags: int = 0
    """The byte of the header: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32."""
    length: int = 0
    """Bytes, with the link's header."""
    reply: bool = False
    """Whether it goes against the direction in which its flow began; then source and destination are turned back."""
    new: bool = False
    """Whether policy was asked, and not only conntrack."""
    point: str = ""
    """Where it was seen: ``from-endpoint``, ``to-endpoint``, ``from-uplink``, ``steer``, ``cgroup-egress``…"""


class Flow(msgspec.Struct, omit_defaults=True):
    """One packet, L3/L4 verdict, HTTP exchange, DNS query or TLS handshake."""

    time: float
    """Seconds since the epoch."""
    layer: str
    """``packet``, ``http``, ``dns`` or ``tls``."""
    verdict: Verdict
    reason: Reason
    direction: Direction
    """Of the policy that decided."""
    protocol: int
    """IP protocol number."""
    source: FlowPeer
    destination: FlowPeer
    endpoint: int = 0
    """EndpointId of the workload whose policy decided."""
    http: HttpSummary | None = None
    dns: DnsSummary | None = None
    tls: TlsSummary | None = None
    packet: PacketSummary | None = None
    type: FlowType = FlowType.L7
    l7_type: L7Type = L7Type.REQUEST
    """Of a flow of type L7."""
    latency_ns: int = 0
    """Of a response: from the request's first byte here to the answer's first byte here."""
    proxy: str = ""
    """``http``, ``dns``…: where the flow was redirected to."""
    rule: str = ""
    """Rule that caused the verdict: ``namespace/name egress[0].toPorts[0]``. Empty for a default deny."""
    policies: tuple[str, ...] = ()
    """Policies that selected the endpoint."""
    revision: int = 0
    detail: str = ""
    """What the reason alone does not say, for people."""
