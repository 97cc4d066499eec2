# SPDX-License-Identifier: Apache-2.0
"""FlowPolicy: what one flow came to, and its answer to each request or question that flows.

Made by `l7policy.enforcement`, kept by a proxy for as long as the connection lives.

This module may not look anything up: that is its `Resolver`'s. Its failure verdict is deny.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from l7policy.headers import Edit, Review, edited
from l7policy.http import HttpRules
from l7policy.ids import HOST
from l7policy.judgement import PolicyVerdict
from l7policy.model import Labels
from l7policy.names import NameSet
from l7policy.pinning import agrees
from l7policy.sni import ServerNames
from l7policy.verdict import Direction, Reason


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a flow."""

    address: str
    endpoint: int
    """EndpointId if it is a workload of this node, else 0."""
    identity: int
    policy_id: int
    """Of that workload, else 0."""
    labels: Labels
    """Empty if no snapshot knows the identity."""


@dataclass(frozen=True, slots=True)
class L7Decision:
    """Whether something may pass, and who says so."""

    allowed: bool
    reason: Reason
    rule: str
    """The rule, or the first few, that decided: ``shop/web egress[0].toPorts[0]``. Empty for a default deny."""
    policies: tuple[str, ...]
    """Policies that selected the endpoint."""
    direction: Direction
    endpoint: int
    """EndpointId of the workload whose policy decided."""
    audited: bool = False
    """It is allowed only because the endpoint is audited; `reason` is why it would be refused. Recorded as AUDIT."""
    edits: tuple[Edit, ...] = ()
    """What the rules want changed in the request's headers before it goes on."""
    missing: tuple[str, ...] = ()
    """Headers that were not as the rules want them, for the record; secrets are redacted."""
    rejected: tuple[str, ...] = ()
    """Headers that the edits take out, for the record."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the one or two policies a flow has to pass."""

    verdict: PolicyVerdict
    http: HttpRules | None
    names: NameSet | None
    passed: L7Decision
    refused: L7Decision
    """For a denied flow and for a request or question that no rule allows alike. Of an audited endpoint it allows."""
    server_names: ServerNames | None = None
    pins: NameSet | None = None
    """Names that a request must give as its Host, None if it does not matter."""

    @property
    def direction(self) -> Direction:
        return self.passed.direction

    def misdirected(self) -> L7Decision:
        """The flow belongs to the other proxy by now."""
        refused = self.refused
        return L7Decision(
            False, Reason.POLICY_CHANGED, refused.rule, refused.policies, refused.direction, refused.endpoint
        )


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a flow came to under one revision."""

    revision: int
    settled: bool
    """False if something that the verdict takes is not known (yet): to be resolved again at the next request."""
    source: Side
    destination: Side
    stages: tuple[Stage, ...]
    client_port: int = 0
    """What it took to know the source; 0 if its address was enough."""


def closed(direction: Direction, endpoint: int, policies: tuple[str, ...] = ()) -> Stage:
    """Nothing passes: what the endpoint's policy would say is not known."""
    refused = L7Decision(False, Reason.POLICY_CHANGED, "", policies, direction, endpoint)
    return Stage(PolicyVerdict.DENY, None, None, refused, refused)


class Resolver(Protocol):
    """Where a flow asks whether it is still up to date."""

    def revision_in_force(self) -> int:
        """Asked for every request, so it must cost next to nothing."""

    def renew(self, old: Resolution, protocol: int, port: int) -> Resolution:
        """`old` under the revision in force now."""


class FlowPolicy:
    """The policy of one connection, or of the questions between two addresses. Not to be shared between threads."""

    __slots__ = ("_resolution", "_resolver", "_seen", "port", "protocol")

    def __init__(self, resolver: Resolver, resolution: Resolution, protocol: int, port: int) -> None:
        self._resolver = resolver
        self._keep(resolution)
        self.protocol = protocol
        self.port = port

    @property
    def revision(self) -> int:
        """Under which the flow was resolved last."""
        return self._resolution.revision

    @property
    def source(self) -> Side:
        return self._resolution.source

    @property
    def destination(self) -> Side:
        return self._resolution.destination

    @property
    def shared(self) -> bool:
        """Whether the source's address is others' too, so that this is the policy of one connection only."""
        return self._resolution.client_port != 0

    @property
    def upstream_address(self) -> str:
        """From which address a proxy speaks to the server: from the client's, that it sees who asks.

        To the node itself, and what is delivered to it, from any of the node's own: a server there would answer the
        client's address past the proxy (as Cilium's proxies do towards the host).
        """
        destination = self.destination
        if destination.identity != HOST:
            return self.source.address
        return "::" if ":" in destination.address else "0.0.0.0"  # noqa: S104 - where from, not where at

    def admitted(self) -> L7Decision:
        """Whether the flow as such may go on, whatever its requests: for a new connection, or one that is opaque."""
        allowed = audited = None
        for stage in self._current():
            if stage.verdict == PolicyVerdict.DENY:
                if not stage.refused.audited:
                    return stage.refused
                audited = audited or stage.refused
            allowed = allowed or stage.passed
        return audited or allowed or self._nobody()

    def http_required(self) -> bool:
        """Whether what flows must be HTTP: some policy limits requests."""
        return any(stage.http is not None for stage in self._current())

    def http(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> L7Decision:
        """Whether a request may pass, judged as `HttpRules.match` describes, and what is to be changed in it.

        The second of two policies judges the request as the first one leaves it.
        """
        allowed = audited = None
        reviews: list[Review] = []
        stages = self._current()
        if len(stages) > 1:
            headers = tuple(headers)
        for stage in stages:
            if stage.pins is not None and not agrees(stage.pins, host):
                refused = replace(stage.refused, reason=Reason.HOST_MISMATCH)
                if not refused.audited:
                    return refused
                audited = audited or refused
            if stage.http is not None:
                if stage.http.edits:
                    review = stage.http.review(method, path, host, headers)
                    passes = review.allowed
                    reviews.append(review)
                    headers = edited(headers, review.edits)
                else:
                    passes = stage.http.match(method, path, host, headers)
                if not passes:
                    if not stage.refused.audited:
                        return stage.refused
                    audited = audited or stage.refused
                allowed = stage.passed
            elif stage.verdict == PolicyVerdict.ALLOW:
                allowed = allowed or stage.passed
            elif stage.verdict == PolicyVerdict.DENY:
                if not stage.refused.audited:
                    return stage.refused
                audited = audited or stage.refused
            else:
                return stage.misdirected()
        decision = audited or allowed or self._nobody()
        return _reviewed(decision, reviews) if reviews else decision

    def tls_required(self) -> bool:
        """Whether what flows must be TLS: some policy limits server names."""
        return any(stage.server_names is not None for stage in self._current())

    def tls(self, name: str) -> L7Decision:
        """Whether a TLS connection that asks for a server name may pass; "" asks for none, or is no TLS at all."""
        allowed = audited = None
        for stage in self._current():
            refused = stage.verdict == PolicyVerdict.DENY
            if stage.verdict == PolicyVerdict.REDIRECT:
                if stage.server_names is None:
                    return stage.misdirected()
                refused = not stage.server_names.matches(name)
            if refused:
                if not stage.refused.audited:
                    return stage.refused
                audited = audited or stage.refused
            allowed = allowed or stage.passed
        return audited or allowed or self._nobody()

    def dns(self, name: str) -> L7Decision:
        """Whether a name may be asked for. Names are limited on egress; ingress may only refuse the flow."""
        allowed = audited = None
        for stage in self._current():
            refused = stage.verdict == PolicyVerdict.DENY
            if stage.direction == Direction.EGRESS and stage.verdict == PolicyVerdict.REDIRECT:
                if stage.names is None:
                    return stage.misdirected()
                refused = not stage.names.matches(name)
            if refused:
                if not stage.refused.audited:
                    return stage.refused
                audited = audited or stage.refused
            allowed = allowed or stage.passed
        return audited or allowed or self._nobody()

    def _current(self) -> tuple[Stage, ...]:
        # The one comparison that every request pays for being judged under the policy in force.
        if self._resolver.revision_in_force() != self._seen:
            self._keep(self._resolver.renew(self._resolution, self.protocol, self.port))
        return self._resolution.stages

    def _keep(self, resolution: Resolution) -> None:
        self._resolution = resolution
        # No revision is negative, so what is not settled is never up to date.
        self._seen = resolution.revision if resolution.settled else -1

    def _nobody(self) -> L7Decision:
        """Neither side's policy has a say (any more): what neither enforces is allowed."""
        source, destination = self.source, self.destination
        direction = Direction.EGRESS if source.endpoint else Direction.INGRESS
        return L7Decision(True, Reason.NONE, "", (), direction, source.endpoint or destination.endpoint)


def _reviewed(decision: L7Decision, reviews: Iterable[Review]) -> L7Decision:
    edits = tuple(edit for review in reviews for edit in review.edits)
    missing = tuple(text for review in reviews for text in review.missing)
    rejected = tuple(text for review in reviews for text in review.rejected)
    if not (edits or missing or rejected):
        return decision
    return replace(decision, edits=edits, missing=missing, rejected=rejected)
