# SPDX-License-Identifier: Apache-2.0
"""The smallest change that would allow what is denied, found by trying.

Each candidate (a port more, a peer more, a wider path, one deny rule less…) is made to a copy of the rules, and the
engine is asked again: what is proposed works. Candidates cost what they open up; the cheapest that works is told, with
the file and line of the rule. Where one change is not enough, changes are combined.

May not decide, and may not say that a change is a good idea. Failure verdict: no proposal.
"""

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from l7policy import relax
from l7policy.hop import Hop, answer, passes
from l7policy.model import Origin, Rule
from l7policy.policydoc import Policy
from l7policy.question import Question
from l7policy.relax import Change
from l7policy.verdict import Direction, Reason

_MOST_TRIED: Final = 2000
_DEPTH: Final = 3

_DENY_GONE: Final = 4
_NEW_ELEMENT: Final = 4
"""Less than a port and a peer more: together those would open every old port to the new peer, and the reverse."""


@dataclass(frozen=True, slots=True)
class _State:
    """A hop after some changes."""

    hop: Hop
    texts: tuple[str, ...]


def nearest(policies: Sequence[Policy], hops: Sequence[Hop], question: Question) -> str:
    """What to change so that every hop lets the question pass; empty if nothing was found."""
    places = {policy.name: policy for policy in reversed(policies)}
    found: list[str] = []
    for hop in hops:
        if not passes(hop, question):
            change = _search(hop, question, places)
            if not change:
                return ""
            found.append(change)
    return "; and ".join(found)


def _search(hop: Hop, question: Question, places: Mapping[str, Policy]) -> str:
    """The cheapest changes that make the hop pass."""
    order = itertools.count()
    queue: list[tuple[int, int, _State]] = [(0, next(order), _State(hop, ()))]
    tried = 0
    while queue:
        cost, _, state = heapq.heappop(queue)
        if state.texts and passes(state.hop, question):
            return ", and ".join(state.texts)
        tried += 1
        if tried > _MOST_TRIED or len(state.texts) >= _DEPTH:
            continue
        for more, changed in _changes(state.hop, question, places):
            heapq.heappush(queue, (cost + more, next(order), _State(changed.hop, (*state.texts, *changed.texts))))
    return ""


def _changes(hop: Hop, question: Question, places: Mapping[str, Policy]) -> Iterator[tuple[int, _State]]:
    """What could help against the reason the hop refuses now, with its cost."""
    reply = next(reply for protocol in question.protocols if not (reply := answer(hop, question, protocol)).allowed)
    origins = set(reply.judgement.origins)
    limiting = [rule for rule in hop.policy.rules if rule.direction == hop.direction and rule.origin in origins]
    changes: Iterator[Change] = iter(())
    match reply.reason:
        case Reason.POLICY_DENY:
            yield _without(hop, limiting)
        case Reason.POLICY_DENIED:
            changes = itertools.chain.from_iterable(
                relax.cover(rule, hop.remote, question) for rule in hop.policy.rules if rule.direction == hop.direction
            )
            yield from _new_element(hop, question, places)
        case Reason.HTTP_DENIED if question.http is not None:
            request = question.http
            changes = itertools.chain.from_iterable(relax.http(rule, request) for rule in limiting)
        case Reason.DNS_DENIED if question.dns is not None:
            name = question.dns
            changes = itertools.chain.from_iterable(relax.dns(rule, name) for rule in limiting)
        case Reason.SNI_DENIED if question.sni:
            server = question.sni
            changes = itertools.chain.from_iterable(relax.server_names(rule, server) for rule in limiting)
    for change in changes:
        yield change.cost, _State(_replaced(hop, change), (change.text,))


def _replaced(hop: Hop, change: Change) -> Hop:
    rules = tuple(change.after if rule is change.before else rule for rule in hop.policy.rules)
    policy = msgspec.structs.replace(hop.policy, rules=rules)
    return replace(hop, policy=policy, remote=hop.remote | change.learnt)


def _without(hop: Hop, denying: Sequence[Rule]) -> tuple[int, _State]:
    rules = tuple(rule for rule in hop.policy.rules if not any(rule is gone for gone in denying))
    policy = msgspec.structs.replace(hop.policy, rules=rules)
    where = " and ".join(dict.fromkeys(relax.place(rule.origin) for rule in denying))
    return _DENY_GONE, _State(replace(hop, policy=policy), (f"remove or narrow the deny rule {where}",))


def _new_element(hop: Hop, question: Question, places: Mapping[str, Policy]) -> Iterator[tuple[int, _State]]:
    """A rule of its own for this peer and port, in the first policy that has a say here and can hold one."""
    found = relax.element(hop.direction, hop.remote, question)
    holder = next((name for name in hop.policy.selected_by if name in places), None)
    if found is None or holder is None:
        return
    peer, words, learnt = found
    policy = places[holder]
    origin = Origin(holder, "new", policy.file, policy.line)
    rule = Rule(hop.direction, origin, peers=(peer,), ports=relax.ports(question))
    changed = replace(
        hop,
        policy=msgspec.structs.replace(hop.policy, rules=(*hop.policy.rules, rule)),
        remote=hop.remote | learnt,
    )
    article = "an egress" if hop.direction == Direction.EGRESS else "an ingress"
    text = f"add {article} rule to {holder} ({policy.file}:{policy.line}): {words}, {relax.ports_text(question)}"
    yield _NEW_ELEMENT, _State(changed, (text,))
