# SPDX-License-Identifier: Apache-2.0
"""Gathers what the kernel and the proxies tell, completes it with names, and hands it to the audit log and the hub."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import msgspec

from l7agent import wire
from l7agent.endpoints import Endpoints
from l7bpf.layouts import EVENT_DROP, EVENT_TRACE, EVENT_VERDICT, POINTS, Event
from l7observe.audit import AuditLog
from l7observe.flow import Flow, FlowPeer, FlowType, PacketSummary
from l7observe.hub import Hub
from l7policy.ids import EndpointId, PolicyId
from l7policy.model import EndpointPolicy, Origin
from l7policy.verdict import Direction, ProxyKind, Reason, Verdict

REMEMBERED_RULES: Final = 65536
_KINDS: Final = (
    (EVENT_VERDICT, FlowType.POLICY_VERDICT),
    (EVENT_DROP, FlowType.DROP),
    (EVENT_TRACE, FlowType.TRACE),
)
_PROXIES: Final = {kind.value: kind.name.lower() for kind in ProxyKind if kind}

_log = logging.getLogger(__name__)


class Auditing:
    """Turns events into complete flows. Names of older revisions are remembered: events may refer to them."""

    def __init__(
        self,
        log: AuditLog,
        hub: Hub,
        endpoints: Endpoints,
        labels_of: Callable[[int], tuple[str, ...]],
        identity_of: Callable[[str], int],
    ) -> None:
        """`labels_of` an identity, `identity_of` an address."""
        self._log = log
        self._hub = hub
        self._endpoints = endpoints
        self._labels_of = labels_of
        self._identity_of = identity_of
        self._origins: OrderedDict[int, Origin] = OrderedDict()
        self._selected_by: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._selected_now: dict[EndpointId, tuple[str, ...]] = {}
        # The kernel stamps events with the boot clock: suspend counts, steps of the wall clock do not.
        self._boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def learn(
        self,
        origins: Mapping[int, Origin],
        policies: Mapping[PolicyId, EndpointPolicy],
        endpoints: Mapping[EndpointId, EndpointPolicy],
    ) -> None:
        """Remembers the names behind a revision's cookies and policy ids, and what selects each endpoint."""
        self._selected_now = {endpoint: policy.selected_by for endpoint, policy in endpoints.items()}
        for cookie, origin in origins.items():
            self._origins[cookie] = origin
            self._origins.move_to_end(cookie)
        for policy_id, policy in policies.items():
            self._selected_by[policy_id] = policy.selected_by
            self._selected_by.move_to_end(policy_id)
        for table in (self._origins, self._selected_by):
            while len(table) > REMEMBERED_RULES:
                table.popitem(last=False)

    def origin(self, cookie: int) -> str:
        """The rule a kernel entry came from."""
        origin = self._origins.get(cookie)
        return str(origin) if origin is not None else ""

    def kernel_events(self, events: Iterable[Event]) -> None:
        """Records what the datapath tells."""
        flows = []
        for event in events:
            # 0: one from the time of a datapath that told of denies only.
            kinds = event.kinds or (EVENT_VERDICT if event.verdict == Verdict.AUDIT else EVENT_DROP)
            flows += [self._flow(event, flow_type) for kind, flow_type in _KINDS if kinds & kind]
        self._write(flows)

    def flows(self, told: wire.Flows) -> None:
        """Records what the proxies tell. What passed is not looked into while nobody listens."""
        flows, passed = told.flows, told.passed
        if passed and self._hub.subscribers:
            flows, passed = sorted([*flows, *wire.decoded(passed)], key=lambda flow: flow.time), b""
        self._write(flows)
        if passed:
            self._hub.keep(told.count, len(passed), partial(self._passed, passed))

    def _passed(self, passed: bytes) -> list[Flow]:
        try:
            flows = wire.decoded(passed)
        except wire.WireError as error:
            # They came from a process of another version, which has been replaced since, or will be.
            _log.warning("records of a process that speaks another version are lost: %s", error)
            return []
        return [self._complete(flow) for flow in flows]

    def _flow(self, event: Event, flow_type: FlowType) -> Flow:
        try:
            reason = Reason(event.reason)
        except ValueError:
            reason = Reason.POLICY_DENIED
        source = FlowPeer(event.source, event.source_port, event.source_identity)
        destination = FlowPeer(event.destination, event.destination_port, event.destination_identity)
        direction = Direction(event.direction)
        point = POINTS[event.point] if event.point < len(POINTS) else ""
        if flow_type == FlowType.TRACE:
            # Policy was not asked about most of these: who they are is looked up here, and not for every packet there.
            for peer in (source, destination):
                peer.identity = peer.identity or self._identity_of(peer.address)
            if event.reply:
                source, destination = destination, source
            direction = Direction.EGRESS if point == "from-endpoint" else Direction.INGRESS
        return Flow(
            time=self._boot + event.time_ns / 1e9,
            layer="packet",
            type=flow_type,
            verdict=Verdict(event.verdict),
            reason=reason,
            direction=direction,
            protocol=event.protocol,
            source=source,
            destination=destination,
            endpoint=event.endpoint_id,
            rule=self.origin(event.cookie),
            policies=self._selected_by.get(event.policy_id, ()),
            revision=event.revision,
            packet=PacketSummary(event.tcp_flags, event.length, bool(event.reply), bool(event.judged), point),
            proxy=_PROXIES.get(event.proxy, "") if event.verdict == Verdict.REDIRECTED else "",
        )

    def _write(self, flows: Iterable[Flow]) -> None:
        complete = [self._complete(flow) for flow in flows]
        self._log.write(*complete)
        for flow in complete:
            self._hub.publish(flow)

    def _complete(self, flow: Flow) -> Flow:
        endpoint = self._endpoints.get(flow.endpoint)
        source, destination = self._named(flow.source), self._named(flow.destination)
        if endpoint is not None:
            subject = source if flow.direction == Direction.EGRESS else destination
            subject.endpoint, subject.name = endpoint.id, endpoint.declared.name
            subject.labels = subject.labels or endpoint.declared.labels
        # Empty: a deny that was no rule's matter (bytes that are not HTTP), or one from the time of an agent before us.
        policies = flow.policies or self._selected_now.get(EndpointId(flow.endpoint), ())
        return msgspec.structs.replace(flow, source=source, destination=destination, policies=policies)

    def _named(self, peer: FlowPeer) -> FlowPeer:
        endpoint = self._endpoints.get(peer.endpoint) if peer.endpoint else self._endpoints.at(peer.address)
        return msgspec.structs.replace(
            peer,
            labels=peer.labels or self._labels_of(peer.identity),
            endpoint=endpoint.id if endpoint is not None else peer.endpoint,
            name=endpoint.declared.name if endpoint is not None else peer.name,
        )
