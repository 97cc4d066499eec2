# SPDX-License-Identifier: Apache-2.0
"""Explains a verdict: which policies had a say, which rules decided, why, and the smallest change that would allow it.

May not decide: `l7policy.hop` asks the engine. Its failure verdict is the engine's: what nothing allows is denied.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from l7policy import nearest
from l7policy.hop import DEFAULT, Answer, Hop, Response, Setting, answer, hops
from l7policy.http import http_rules
from l7policy.judgement import PolicyVerdict, judge
from l7policy.model import Action, Frozen, Origin, Rule
from l7policy.names import name_set
from l7policy.policydoc import Policy
from l7policy.question import Question
from l7policy.sni import server_names
from l7policy.verdict import Direction, Protocol, Reason, Verdict

_INDEX: Final = re.compile(r"(?:ingress|egress)(?:Deny)?\[([0-9]+)\]")


class Matched(Frozen, frozen=True):
    """A rule that decided."""

    policy: str
    direction: str
    rule: int | None
    """Its place in its section, from 0; None for a rule that no document holds."""
    path: str
    """The whole place: ``egress[1].toPorts[0]``."""
    file: str
    line: int


class Side(Frozen, frozen=True):
    """What the policy of one end says about the packets, and about the request if it says more than that."""

    enforced: bool
    """False: whatever is not denied elsewhere passes, because no policy selects this end in this direction."""
    allowed: bool
    verdict: str
    protocol: str
    proxy: str
    reason: str
    matched: tuple[Matched, ...]
    selected_by: tuple[str, ...]


class Layer7(Frozen, frozen=True):
    """What becomes of the request, question or ClientHello."""

    allowed: bool
    response: Response
    """What the client is answered if it is refused."""


class Explanation(Frozen, frozen=True):
    """The whole answer. Field names are a contract with scripts."""

    allowed: bool
    verdict: str
    egress: Side
    ingress: Side
    l7: Layer7
    reason: str
    matched: tuple[Matched, ...]
    selected_by: tuple[str, ...]
    nearest: str | None
    """None if it is allowed, or if no change to one rule would be enough."""


def plain(explanation: Explanation) -> dict[str, Any]:
    """As values for JSON."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(explanation))
    return found


def explain(
    policies: Sequence[Policy], question: Question, setting: Setting = DEFAULT, *, propose: bool = True
) -> Explanation:
    """The answer to the question under these policies. Without `propose`, nothing is tried against a deny."""
    found = hops(policies, question, setting)
    judged = [[(hop, answer(hop, question, protocol)) for hop in found] for protocol in question.protocols]
    # Of several protocols, the one that fares worst.
    worst = min(range(len(judged)), key=lambda index: _merit([reply for _, reply in judged[index]]))
    protocol, steps = question.protocols[worst], judged[worst]
    # Packets meet every policy before the proxy sees the first byte. What is only recorded comes last.
    refusing = [reply for _, reply in steps if not reply.allowed]
    refused = min(refusing, key=lambda reply: (reply.audited, reply.packets_pass), default=None)
    allowed = refused is None or refused.audited
    sides = {
        hop.direction: _side(hop, reply, question, protocol)
        for hop, reply in steps
        if hop.policy.enforces(hop.direction)
    }
    egress = sides.get(Direction.EGRESS) or _silent(found, Direction.EGRESS, protocol)
    ingress = sides.get(Direction.INGRESS) or _silent(found, Direction.INGRESS, protocol)
    return Explanation(
        allowed=allowed,
        verdict=_verdict([reply for _, reply in steps]).name,
        egress=egress,
        ingress=ingress,
        l7=Layer7(allowed, None if allowed or refused is None else refused.response),
        reason=(refused.reason if refused is not None else Reason.NONE).name,
        matched=(*egress.matched, *ingress.matched),
        selected_by=tuple(dict.fromkeys((*egress.selected_by, *ingress.selected_by))),
        nearest=None if refused is None or not propose else nearest.nearest(policies, found, question) or None,
    )


def _merit(replies: Iterable[Answer]) -> int:
    found = list(replies)
    if all(reply.allowed for reply in found):
        return 3
    if all(reply.allowed or reply.audited for reply in found):
        return 2
    return 1 if all(reply.packets_pass for reply in found) else 0


def _verdict(replies: Sequence[Answer]) -> Verdict:
    if not all(reply.allowed for reply in replies):
        return Verdict.AUDIT if all(reply.allowed or reply.audited for reply in replies) else Verdict.DROPPED
    redirected = any(reply.judgement.verdict == PolicyVerdict.REDIRECT for reply in replies)
    return Verdict.REDIRECTED if redirected else Verdict.FORWARDED


def _silent(found: Sequence[Hop], direction: Direction, protocol: Protocol) -> Side:
    """An end without a policy in this direction. What else selects it is told all the same."""
    selected = next((hop.policy.selected_by for hop in found if hop.direction == direction), ())
    return Side(False, True, Verdict.FORWARDED.name, protocol.name, "none", Reason.NONE.name, (), selected)


def _side(hop: Hop, reply: Answer, question: Question, protocol: Protocol) -> Side:
    judgement = reply.judgement
    return Side(
        enforced=True,
        allowed=reply.allowed or reply.audited,
        verdict=_verdict([reply]).name,
        protocol=protocol.name,
        proxy=judgement.proxy.name.lower(),
        reason=reply.reason.name,
        matched=tuple(_matched(origin, hop.direction) for origin in deciding(hop, reply, question, protocol)),
        selected_by=hop.policy.selected_by,
    )


def deciding(hop: Hop, reply: Answer, question: Question, protocol: Protocol) -> tuple[Origin, ...]:
    """The rules that decided. Of those that limit what passes, the ones that let this request pass."""
    origins = reply.judgement.origins
    if reply.judgement.verdict != PolicyVerdict.REDIRECT or not reply.allowed:
        return origins
    rules = [rule for rule in hop.policy.rules if rule.direction == hop.direction and rule.origin in origins]
    fitting = tuple(dict.fromkeys(rule.origin for rule in rules if _fits(rule, question, hop.setting)))
    return fitting or _voiding(hop, question, protocol) or origins


def _fits(rule: Rule, question: Question, setting: Setting) -> bool:
    if rule.http is not None:
        return question.http is None or http_rules(rule.http, setting.secrets).match(*question.http.fields)
    if rule.dns is not None:
        return question.dns is None or name_set(rule.dns).matches(question.dns)
    if rule.server_names is not None:
        return question.sni is None or server_names(rule.server_names).matches(question.sni)
    return True


def _voiding(hop: Hop, question: Question, protocol: Protocol) -> tuple[Origin, ...]:
    """The rules without limits that make every request pass."""
    voiding = tuple(rule for rule in hop.policy.rules if rule.action == Action.ALLOW and not rule.inspects)
    policy = msgspec.structs.replace(hop.policy, rules=voiding)
    return judge(policy, hop.direction, hop.remote, protocol, question.port).origins


def _matched(origin: Origin, direction: Direction) -> Matched:
    index = _INDEX.search(origin.rule)
    return Matched(
        policy=origin.policy,
        direction=direction.name.lower(),
        rule=int(index[1]) if index else None,
        path=origin.rule,
        file=origin.file,
        line=origin.line,
    )
