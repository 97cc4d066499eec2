# SPDX-License-Identifier: Apache-2.0
"""Warnings that take more than one rule, or a cluster, to see.

Works on loaded policies. Where two policies are compared without a cluster, only those are whose subjects surely select
the same endpoints; a warning must be right, a missing one costs nothing.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from l7policy import capability
from l7policy.cluster import Cluster
from l7policy.findings import Finding, finding_at
from l7policy.judgement import ANYTHING, PortKey, covers, level, port_keys
from l7policy.model import (
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    LabelPeer,
    NodePeer,
    Operator,
    Origin,
    Peer,
    Requirement,
    Rule,
)
from l7policy.names import name_set
from l7policy.policydoc import Policy, SubjectKind
from l7policy.prefixes import network
from l7policy.resolve import selects_endpoint
from l7policy.selectors import is_node, matches
from l7policy.verdict import Direction, Protocol
from l7policy.wording import describe_peer

_Key = tuple[Direction, int, PortKey]
_Subject = tuple[SubjectKind, frozenset[Requirement]]
_MOST_COMPARED: Final = 64
"""Rules alike that are compared with one other, so that thousands of policies do not take minutes."""
_SSH: Final = 22
"""Where people log in. l7d itself needs no port: its API is a unix socket, which no policy closes."""
_CILIUMS_OWN: Final = frozenset({"reserved:health", "reserved:ingress"})
_MOST_CONDITIONS: Final = 6
"""Of a subject whose parts are looked up one by one."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A rule, and the policy it is in."""

    policy: Policy
    rule: Rule


def warnings(
    policies: Sequence[Policy], cluster: Cluster | None = None, told: Collection[str] = ()
) -> Iterator[Finding]:
    """Everything that can be seen in all policies together. `told`: see `capability.unsupported`."""
    placed = [_Placed(policy, rule) for policy in policies for rule in policy.rules]
    yield from _voided(placed)
    yield from _shadowed(placed)
    yield from _without_dns(policies)
    yield from _lock_out([policy for policy in policies if policy.subject_kind == SubjectKind.NODE])
    yield from _not_enforced(policies, told)
    yield from _of_others(policies)
    if cluster is not None and cluster.endpoints:
        yield from _select_nothing(policies, cluster)


def _limited(rule: Rule) -> bool:
    return rule.http is not None or rule.dns is not None


def _plain(rule: Rule) -> bool:
    return rule.action == Action.ALLOW and not rule.inspects


def _voided(placed: Iterable[_Placed]) -> Iterator[Finding]:
    """Plain allows for exactly the ports and a peer of a limited rule: what `judgement` calls voiding."""
    limited: dict[_Key, list[_Placed]] = defaultdict(list)
    plain: list[_Placed] = []
    for one in placed:
        if one.rule.action == Action.ALLOW and _limited(one.rule):
            for key in port_keys(one.rule):
                limited[one.rule.direction, level(one.rule), key].append(one)
        elif _plain(one.rule):
            plain.append(one)
    for one in plain:
        found = next(
            (
                other
                for key in port_keys(one.rule)
                for other in limited.get((one.rule.direction, level(one.rule), key), ())[:_MOST_COMPARED]
                if _same_endpoints(one.policy, other.policy) and _peers_meet(one.rule, other.rule)
            ),
            None,
        )
        if found is not None:
            what = "HTTP" if found.rule.http is not None else "DNS"
            yield finding_at(
                "voided-l7",
                one.rule.origin,
                f"this allow without limits voids the {what} rules of {_where(found.rule.origin)} for the same peer"
                " and port",
                "remove one of the two, or give this one limits of its own",
            )


def _shadowed(placed: Sequence[_Placed]) -> Iterator[Finding]:
    wide: dict[tuple[Direction, _Subject], list[_Placed]] = defaultdict(list)
    for one in placed:
        if one.rule.action == Action.DENY or _plain(one.rule):
            wide[one.rule.direction, _subject(one.policy)].append(one)
    for one in placed:
        others = (
            other
            for subject in _wider(one.policy)
            for other in wide.get((one.rule.direction, subject), ())[:_MOST_COMPARED]
        )
        found = next((other for other in others if other is not one and _shadows(other, one)), None)
        if found is not None:
            does = "denies" if found.rule.action == Action.DENY else "allows"
            yield finding_at(
                "shadowed-rule",
                one.rule.origin,
                f"this rule decides nothing: {_where(found.rule.origin)} {does} all of it",
                "remove it, or narrow the other one",
            )


def _subject(policy: Policy) -> _Subject:
    return policy.subject_kind, frozenset(policy.subject)


def _wider(policy: Policy) -> Iterator[_Subject]:
    """The subjects that surely select all that the policy selects: parts of its conditions."""
    kind, conditions = _subject(policy)
    if len(conditions) > _MOST_CONDITIONS:
        yield kind, conditions
        return
    for count in range(len(conditions) + 1):
        for chosen in itertools.combinations(policy.subject, count):
            yield kind, frozenset(chosen)


def _shadows(strong: _Placed, weak: _Placed) -> bool:
    """Whether `weak` can be left out without any difference, because of `strong`."""
    upper, lower = strong.rule, weak.rule
    if upper.action == Action.DENY:
        if lower.action == Action.DENY and level(upper) == level(lower) and _equal(upper, lower):
            return _comes_first(upper, lower) and _covers_endpoints(strong.policy, weak.policy)
        fits = level(upper) <= level(lower)
    else:
        # What is limited stays: it is redirected whatever else allows it.
        fits = _plain(lower) and level(upper) == level(lower)
        if fits and _equal(upper, lower) and not _comes_first(upper, lower):
            return False
    return (
        fits
        and bool(port_keys(lower))
        and all(_covers_port(upper, key) for key in port_keys(lower))
        and _covers_peers(upper, lower)
        and _covers_endpoints(strong.policy, weak.policy)
    )


def _equal(one: Rule, other: Rule) -> bool:
    return (one.peers, one.ports, one.action) == (other.peers, other.ports, other.action)


def _comes_first(one: Rule, other: Rule) -> bool:
    """Of two equal rules, the later is told."""
    mine, its = one.origin, other.origin
    return (mine.file, mine.line, mine.column, mine.rule) < (its.file, its.line, its.column, its.rule)


def _covers_port(rule: Rule, key: PortKey) -> bool:
    return any(
        own == ANYTHING or (own[0] == key[0] and own[1] <= key[1] and key[2] <= own[2]) for own in port_keys(rule)
    )


def _covers_peers(wide: Rule, narrow: Rule) -> bool:
    if wide.peers is None:
        return True
    if not narrow.peers:
        return False  # Any peer; or nobody, which is no mistake that a wider rule makes.
    return all(any(_covers_peer(outer, inner) for outer in wide.peers) for inner in narrow.peers)


def _covers_peer(outer: Peer, inner: Peer) -> bool:
    if outer == inner or outer == EntityPeer("all"):
        return True
    if outer == EntityPeer("world"):  # Prefixes and names are addresses outside.
        return isinstance(inner, CidrPeer | FqdnPeer) or inner in (EntityPeer("world-ipv4"), EntityPeer("world-ipv6"))
    if isinstance(outer, CidrPeer) and isinstance(inner, CidrPeer) and not outer.excepts:
        mine, its = network(outer.cidr), network(inner.cidr)
        return mine.version == its.version and its.subnet_of(mine)  # type: ignore[arg-type]
    if isinstance(outer, LabelPeer) and isinstance(inner, LabelPeer):
        return set(outer.requirements) <= set(inner.requirements)
    return False


def _peers_meet(one: Rule, other: Rule) -> bool:
    if one.peers is None or other.peers is None:
        return True
    return any(_covers_peer(mine, its) or _covers_peer(its, mine) for mine in one.peers for its in other.peers)


def _covers_endpoints(wide: Policy, narrow: Policy) -> bool:
    return wide.subject_kind == narrow.subject_kind and set(wide.subject) <= set(narrow.subject)


def _same_endpoints(one: Policy, other: Policy) -> bool:
    return _covers_endpoints(one, other) or _covers_endpoints(other, one)


def _lock_out(policies: Sequence[Policy]) -> Iterator[Finding]:
    """Of host policies only: together they deny by default who comes in, and none lets anybody in to the SSH port whom
    another does not deny."""
    closing = [policy for policy in policies if policy.default_deny(Direction.INGRESS)]
    rules = [
        rule
        for policy in policies
        for rule in policy.rules
        if rule.direction == Direction.INGRESS and covers(rule, Protocol.TCP, _SSH)
    ]
    denying = [rule for rule in rules if rule.action == Action.DENY]
    opening = (
        rule for rule in rules if rule.action == Action.ALLOW and not any(_covers_peers(deny, rule) for deny in denying)
    )
    if closing and next(opening, None) is None:
        first = closing[0]
        yield finding_at(
            "locks-out",
            Origin(first.name, first.part, first.file, first.line, first.column),
            "no host policy lets anybody in to port 22/TCP of the node",
            "allow it from where you log in; to try first, let the node be audited: node.audit in config.yaml",
        )


def _without_dns(policies: Sequence[Policy]) -> Iterator[Finding]:
    asking: dict[_Subject, list[FqdnPeer]] = defaultdict(list)
    for policy in policies:
        names = [peer for rule in policy.rules for peer in rule.dns or () if rule.action == Action.ALLOW]
        if names:
            asking[_subject(policy)].extend(names)
    for policy in policies:
        wanted = [(rule, peer) for rule in policy.rules for peer in rule.peers or () if isinstance(peer, FqdnPeer)]
        if not wanted:
            continue
        allowed = tuple(dict.fromkeys(name for subject in _wider(policy) for name in asking.get(subject, ())))
        for rule, peer in wanted:
            text = peer.label.removeprefix("fqdn:")
            if not allowed:
                message = f"no DNS rule lets the workload ask for {text}, so no address of it is ever learnt"
            elif peer.match_name and not name_set(allowed).matches(peer.match_name):
                message = f"no DNS rule allows the name {text}: the question for it is refused"
            else:
                continue
            yield finding_at(
                "fqdn-without-dns",
                rule.origin,
                message,
                f"toFQDNs does not allow the question: add a rule to the resolver, port 53, with rules.dns for {text}",
            )


def _not_enforced(policies: Sequence[Policy], told: Collection[str]) -> Iterator[Finding]:
    for error in capability.unsupported(policies, told):
        place = Origin("", "", error.path, error.line, error.column)
        yield finding_at("not-enforced", place, error.message, error.hint)


def _of_others(policies: Sequence[Policy]) -> Iterator[Finding]:
    """Policies for what Cilium makes for itself on each node."""
    for policy in policies:
        for requirement in policy.subject:
            if requirement.key in _CILIUMS_OWN and requirement.operator in (Operator.EXISTS, Operator.IN):
                yield finding_at(
                    "selects-nothing",
                    Origin(policy.name, policy.part or "spec", policy.file, policy.line, policy.column),
                    f"{policy.name} selects nothing: {requirement.key} is an endpoint of Cilium's own",
                    "leave it out where Cilium does not run",
                )


def _select_nothing(policies: Sequence[Policy], cluster: Cluster) -> Iterator[Finding]:
    known = {endpoint.labels for endpoint in cluster.endpoints.values()}
    nodes = any(is_node(labels) for labels in known)
    told: set[tuple[str, str]] = set()
    for policy in policies:
        if policy.subject_kind == SubjectKind.NODE and not nodes:
            continue
        if not any(selects_endpoint(policy, labels) for labels in known):
            place = Origin(policy.name, policy.part or "spec", policy.file, policy.line, policy.column)
            yield finding_at(
                "selects-nothing",
                place,
                f"{policy.name} selects nothing in the cluster",
                "compare its selector and namespace with the pods' labels",
            )
        for rule in policy.rules:
            for peer in rule.peers or ():
                if not isinstance(peer, LabelPeer | NodePeer) or (isinstance(peer, NodePeer) and not nodes):
                    continue
                if any(matches(peer, labels) for labels in known):
                    continue
                if any(requirement.key.startswith("reserved:") for requirement in peer.requirements):
                    continue
                words = describe_peer(peer)
                if (str(rule.origin), words) not in told:
                    told.add((str(rule.origin), words))
                    yield finding_at(
                        "selects-nothing",
                        rule.origin,
                        f"the peer {words} matches nothing in the cluster",
                        "compare its labels and namespace with the pods'",
                    )


def _where(origin: Origin) -> str:
    return f"{origin} ({origin.file}:{origin.line})"
