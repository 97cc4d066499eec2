# SPDX-License-Identifier: Apache-2.0
"""Flow: one observed event at any layer, and the only record that observation knows.

Fields follow Hubble's flow.proto where they mean the same. The data-plane processes fill what they know; the agent adds
the endpoint's name before it is logged.
"""

import msgspec

from l7policy.verdict import Direction, Reason, Verdict


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


class DnsSummary(msgspec.Struct, omit_defaults=True):
    """A query and what came of it."""

    query: str = ""
    """Without the trailing dot."""
    qtype: str = ""
    rcode: str = ""
    """What the client was answered, empty if nothing."""
    addresses: tuple[str, ...] = ()


class Flow(msgspec.Struct, omit_defaults=True):
    """One L3/L4 verdict, HTTP request or DNS query."""

    time: float
    """Seconds since the epoch."""
    layer: str
    """``packet``, ``http`` or ``dns``."""
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
    rule: str = ""
    """Rule that caused the verdict: ``namespace/name egress[0].toPorts[0]``. Empty for a default deny."""
    policies: tuple[str, ...] = ()
    """Policies that selected the endpoint."""
    revision: int = 0
    detail: str = ""
    """What the reason alone does not say, for people."""
