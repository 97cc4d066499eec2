# SPDX-License-Identifier: Apache-2.0
"""Hop: one of the one or two policies that a question has to pass, and what it answers.

The egress policy of the source, if that is a workload, then the ingress policy of the destination. What decides are
`judgement.judge` and the matchers that the proxies use; there is no second evaluator here.

May not explain. Its failure verdict is the engine's: deny.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from l7policy.headers import Secrets, no_secrets
from l7policy.http import http_rules
from l7policy.judgement import Judgement, PolicyVerdict, judge
from l7policy.model import EndpointPolicy, Labels, NamedPort
from l7policy.names import name_set
from l7policy.pinning import agrees, pins
from l7policy.policydoc import Policy
from l7policy.question import Question, Side
from l7policy.resolve import Mode, cidrs, endpoint_policy, selectors
from l7policy.selectors import has_policy
from l7policy.sni import server_names
from l7policy.verdict import Direction, Protocol, ProxyKind, Reason

Response = int | str | None
"""What a refused client is answered: an HTTP status, a DNS code, or nothing."""


_UNREADABLE: Final = frozenset({Reason.HTTP_MALFORMED, Reason.DNS_MALFORMED})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one hop says."""

    judgement: Judgement
    allowed: bool
    reason: Reason
    response: Response = None

    @property
    def audited(self) -> bool:
        """Whether it is refused, but passes because that is only recorded. What cannot be read never passes."""
        return not self.allowed and self.judgement.audit and self.reason not in _UNREADABLE

    @property
    def packets_pass(self) -> bool:
        """Whether there is a connection at all, on which something can be refused."""
        return self.judgement.verdict != PolicyVerdict.DENY or self.judgement.audit


@dataclass(frozen=True, slots=True)
class Setting:
    """What besides policies and the question decides."""

    mode: Mode = Mode.DEFAULT
    audit: bool = False
    """Of ends that say nothing of it themselves."""
    ports: Mapping[Labels, Collection[NamedPort]] = field(default_factory=dict)
    """Named ports of every workload that is known."""
    pin_names: bool = False
    """Whether Host must be a name by which the destination was allowed."""
    secrets: Secrets = no_secrets
    """What headers are compared with, where rules say so."""
    heeds: Callable[[Labels, str, str], bool] = lambda own, prefix, name: True  # noqa: ARG005
    """Whether it counts for a workload with labels `own` that the address was learnt under the name (ADR 5)."""


DEFAULT: Final = Setting()


@dataclass(frozen=True, slots=True)
class Hop:
    """A policy, and the other end as it sees it."""

    direction: Direction
    policy: EndpointPolicy
    remote: Labels
    setting: Setting = DEFAULT


def hops(policies: Sequence[Policy], question: Question, setting: Setting = DEFAULT) -> tuple[Hop, ...]:
    """The policies that have a say: those of workloads, and of nodes where policies select those."""
    known, names = cidrs(policies), selectors(policies)
    found: list[Hop] = []
    for direction, end, other in (
        (Direction.EGRESS, question.source, question.destination),
        (Direction.INGRESS, question.destination, question.source),
    ):
        own = end.identity(known, names)
        if has_policy(own):
            counting = tuple(name for name in other.names if setting.heeds(own, other.prefix, name))
            remote = replace(other, names=counting).identity(known, names)
            found.append(Hop(direction, _policy(policies, end, own, setting), remote, setting))
    return tuple(found)


def _policy(policies: Sequence[Policy], end: Side, labels: Labels, setting: Setting) -> EndpointPolicy:
    return endpoint_policy(
        policies,
        labels,
        mode=setting.mode,
        audit=setting.audit if end.audit is None else end.audit,
        own_ports=end.ports or None,
        cluster_ports=setting.ports,
    )


def answer(hop: Hop, question: Question, protocol: Protocol) -> Answer:
    """What the hop says for one protocol of the question."""
    judgement = judge(hop.policy, hop.direction, hop.remote, protocol, question.port)
    if judgement.verdict == PolicyVerdict.DENY:
        return Answer(judgement, False, judgement.reason)
    if judgement.proxy == ProxyKind.HTTP:
        return _http(hop, judgement, question, protocol)
    if judgement.proxy == ProxyKind.DNS:
        return _dns(judgement, question)
    if judgement.proxy == ProxyKind.TLS:
        return _tls(judgement, question)
    return Answer(judgement, True, Reason.NONE)


def _http(hop: Hop, judgement: Judgement, question: Question, protocol: Protocol) -> Answer:
    if question.dns is not None or question.sni is not None:
        # A TLS ClientHello, or a DNS message with its length, is no HTTP: the proxy closes the connection.
        return Answer(judgement, False, Reason.HTTP_MALFORMED)
    request = question.http
    if request is None:
        return Answer(judgement, True, Reason.NONE)
    if request.malformed:
        return Answer(judgement, False, Reason.HTTP_MALFORMED, 400)
    if hop.setting.pin_names:
        pinned = pins(hop.policy, judgement, hop.direction, hop.remote, protocol, question.port)
        if pinned is not None and not agrees(pinned, request.host.encode()):
            return Answer(judgement, False, Reason.HOST_MISMATCH, 403)
    if judgement.http is None or http_rules(judgement.http, hop.setting.secrets).match(*request.fields):
        return Answer(judgement, True, Reason.NONE)
    return Answer(judgement, False, Reason.HTTP_DENIED, 403)


def _dns(judgement: Judgement, question: Question) -> Answer:
    if question.http is not None or question.sni is not None:
        return Answer(judgement, False, Reason.DNS_MALFORMED)
    if question.dns is None or judgement.dns is None or name_set(judgement.dns).matches(question.dns):
        return Answer(judgement, True, Reason.NONE)
    return Answer(judgement, False, Reason.DNS_DENIED, "REFUSED")


def _tls(judgement: Judgement, question: Question) -> Answer:
    if question.http is not None or question.dns is not None:
        # What is limited to server names must be TLS.
        return Answer(judgement, False, Reason.TLS_MALFORMED)
    if question.sni is None or judgement.server_names is None:
        return Answer(judgement, True, Reason.NONE)
    allowed = server_names(judgement.server_names).matches(question.sni)
    return Answer(judgement, allowed, Reason.NONE if allowed else Reason.SNI_DENIED)


def passes(hop: Hop, question: Question) -> bool:
    """Whether everything that is asked passes this hop."""
    return all(answer(hop, question, protocol).allowed for protocol in question.protocols)
