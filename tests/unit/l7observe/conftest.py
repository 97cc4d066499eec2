# SPDX-License-Identifier: Apache-2.0
"""Flows that were denied, one per layer."""

from collections.abc import Callable

import pytest

from l7observe.flow import DnsSummary, Flow, FlowPeer, FlowType, HttpSummary
from l7policy.verdict import Direction, Protocol, Reason, Verdict


@pytest.fixture
def packet_deny() -> Flow:
    return Flow(
        time=1767225600.25,
        layer="packet",
        verdict=Verdict.DROPPED,
        reason=Reason.POLICY_DENIED,
        direction=Direction.EGRESS,
        protocol=Protocol.TCP,
        source=FlowPeer("192.0.2.1", 40112, 256, ("k8s:app=web",), 1, "web"),
        destination=FlowPeer("198.51.100.7", 443, 2, ("reserved:world",)),
        endpoint=1,
        policies=("default/web",),
        revision=7,
        type=FlowType.DROP,
    )


@pytest.fixture
def http_deny() -> Flow:
    return Flow(
        time=1767225601.0,
        layer="http",
        verdict=Verdict.DROPPED,
        reason=Reason.HTTP_DENIED,
        direction=Direction.EGRESS,
        protocol=Protocol.TCP,
        source=FlowPeer("2001:db8::1", 40113, 256, ("k8s:app=web",), 1, "web"),
        destination=FlowPeer("2001:db8::80", 80, 16777217, ("cidr:2001:db8::80/128", "reserved:world")),
        endpoint=1,
        http=HttpSummary("POST", "api.example.com", "/admin?x=1", 403),
        policies=("default/web",),
        revision=7,
    )


@pytest.fixture
def dns_deny() -> Flow:
    return Flow(
        time=1767225602.5,
        layer="dns",
        verdict=Verdict.DROPPED,
        reason=Reason.DNS_DENIED,
        direction=Direction.EGRESS,
        protocol=Protocol.UDP,
        source=FlowPeer("192.0.2.1", 5353, 256, ("k8s:app=web",), 1, "web"),
        destination=FlowPeer("198.51.100.53", 53, 2),
        endpoint=1,
        dns=DnsSummary("forbidden.example", "A", "REFUSED"),
        policies=("default/web", "default/dns"),
        revision=7,
    )


@pytest.fixture
def denies(packet_deny: Flow) -> Callable[[int], list[Flow]]:
    """Numbered denies: the number is in `detail`."""

    def make(count: int) -> list[Flow]:
        flows = []
        for number in range(count):
            flow = Flow(**{name: getattr(packet_deny, name) for name in Flow.__struct_fields__})
            flow.detail = str(number)
            flows.append(flow)
        return flows

    return make
