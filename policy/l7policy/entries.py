# SPDX-License-Identifier: Apache-2.0
"""From a policy to the kernel's policy entries for one identity.

The kernel's map is a longest-prefix trie over (policy, identity, direction, protocol, port). For a packet it looks up
the remote identity and then identity 0 (any peer), and the higher precedence of the two wins. Within one identity it
sees only the *longest* match, so each entry must already hold the strongest verdict of all rules that cover it; and an
entry that says no more than the next shorter one is left out. Ranges of ports become prefixes, at most 30 each.

The kernel knows no *pass*. Where a rule passes, its entry holds what the later tiers come to, with the precedence of
the pass and a low byte of 0: stronger than the rest of the tier that it skips, and equal for one identity and for any
peer, so that the entry of the identity decides. That entry must then know the rules for any peer as well.

An entry carries the verdict and the proxy, not the HTTP or DNS rules: the proxy joins those (`l7policy.judgement`).

This module may not write to the kernel. Its failure verdict is the kernel's for a missing entry: deny.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from l7policy.ids import ANY_IDENTITY, Cookie, IdentityId
from l7policy.judgement import (
    LAST_PORT,
    PASS,
    PASS_PRECEDENCE,
    Effect,
    PolicyVerdict,
    effect,
    level,
    port_keys,
    precedence,
    tier_of,
)
from l7policy.model import Action, EndpointPolicy, EntityPeer, Labels, Rule, Tier
from l7policy.selectors import matches_any
from l7policy.verdict import Direction, Protocol, ProxyKind

_PORT_BITS = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the kernel's policy map, but for the policy it belongs to."""

    direction: Direction
    identity: IdentityId
    protocol: int
    """0: any protocol, and then any port."""
    port: int
    """The first port; of it `port_bits` count."""
    port_bits: int
    verdict: PolicyVerdict
    proxy: ProxyKind
    precedence: int
    cookie: Cookie

    @property
    def prefix_bits(self) -> int:
        """How many of the 24 bits of protocol and port are compared."""
        return 0 if self.protocol == Protocol.ANY else 8 + self.port_bits

    @property
    def last_port(self) -> int:
        """The last port that the entry covers."""
        return self.port | (LAST_PORT >> self.port_bits)


@functools.lru_cache(maxsize=4096)
def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, bits) prefixes that cover `first` to `last` and nothing else.

    >>> port_prefixes(8080, 8083)
    ((8080, 14),)
    """
    prefixes: list[tuple[int, int]] = []
    while first <= last:
        # The largest block that starts at `first`: as many low bits as are zero there and as fit before `last`.
        size = min(first & -first or 1 << _PORT_BITS, 1 << ((last - first + 1).bit_length() - 1))
        prefixes.append((first, _PORT_BITS - (size.bit_length() - 1)))
        first += size
    return tuple(prefixes)


def entries(policy: EndpointPolicy, identity: IdentityId, remote: Labels | None) -> list[Entry]:
    """The entries of `policy` for one remote identity with these labels, for both directions.

    Identity 0 with `remote` None gives the rules for any peer, which the kernel always looks up too and which are
    therefore in no other identity's entries unless some rule passes. No entries where a direction is not enforced: the
    kernel does not ask.
    """
    if (remote is None) != (identity == ANY_IDENTITY):
        raise ValueError("identity 0, and only that, has no labels")
    found: list[Entry] = []
    for direction in Direction:
        if policy.enforces(direction):
            rules = [rule for rule in policy.rules if rule.direction == direction]
            passing = any(rule.action == Action.PASS for rule in rules)
            rules = [rule for rule in rules if _applies(rule, remote, or_anybody=passing)]
            if rules:
                rows = _with_passes(rules) if passing else _strongest(rules)
                found.extend(
                    Entry(direction, identity, protocol, port, bits, *row) for (protocol, bits, port), row in rows
                )
    return found


def _applies(rule: Rule, remote: Labels | None, *, or_anybody: bool) -> bool:
    if rule.peers is None or _EVERYBODY in rule.peers:
        return remote is None or or_anybody
    return remote is not None and matches_any(rule.peers, remote)


_EVERYBODY = EntityPeer("all")

_Node = tuple[int, int, int]
"""Protocol, port bits, port."""

_Row = tuple[PolicyVerdict, ProxyKind, int, Cookie]
"""The value of an entry: verdict, proxy, precedence, cookie."""


def _nodes(rule: Rule) -> Iterator[_Node]:
    for protocol, first, last in port_keys(rule):
        for port, bits in port_prefixes(first, last):
            yield protocol, bits, port


def _row(rule: Rule, does: Effect, strength: int) -> _Row:
    return does.verdict, does.proxy, strength, rule.origin.cookie


def _strongest(rules: Iterable[Rule]) -> Iterator[tuple[_Node, _Row]]:
    """Where no rule passes: of each node the strongest rule, if it is stronger than what the node would inherit."""
    nodes: dict[_Node, tuple[int, Effect, Rule]] = {}
    for rule in rules:
        does = effect(rule)
        strength = precedence(level(rule), does.low_byte)
        for node in _nodes(rule):
            known = nodes.get(node)
            if known is None or strength > known[0]:
                nodes[node] = (strength, does, rule)
    # Shorter prefixes first, so that what a longer one would inherit is settled before it is looked at. All the
    # nodes that contain a port are nested, so a node that is stronger than what it inherits is the strongest of all.
    kept: dict[_Node, int] = {}
    for node in sorted(nodes):
        strength, does, rule = nodes[node]
        inherited = next((kept[shorter] for shorter in _around(node) if shorter in kept), -1)
        if strength > inherited:
            kept[node] = strength
            yield node, _row(rule, does, strength)


def _with_passes(rules: Iterable[Rule]) -> Iterator[tuple[_Node, _Row]]:
    """Where rules pass: each node judged by all the rules of the nodes around it, as `judgement.judge` does."""
    nodes: dict[_Node, list[tuple[int, int, Rule]]] = {}
    for index, rule in enumerate(rules):
        strength = precedence(level(rule), effect(rule).low_byte)
        for node in _nodes(rule):
            nodes.setdefault(node, []).append((strength, -index, rule))
    kept: dict[_Node, _Row] = {}
    for node in sorted(nodes):
        covering = [row for around in (node, *_around(node)) for row in nodes.get(around, ())]
        row = _judged([rule for _, _, rule in sorted(covering, key=lambda row: row[:2], reverse=True)])
        inherited = next((kept[shorter] for shorter in _around(node) if shorter in kept), None)
        if inherited is None or row[:3] != inherited[:3]:
            kept[node] = row
            yield node, row


def _judged(strongest_first: list[Rule]) -> _Row:
    first = strongest_first[0]
    passed: Tier | None = None
    for rule in strongest_first:
        at_level, does = level(rule), effect(rule)
        if tier_of(at_level) == passed:
            continue
        if does is not PASS:
            elevated = level(first), PASS_PRECEDENCE
            return _row(rule, does, precedence(*(elevated if passed is not None else (at_level, does.low_byte))))
        passed = tier_of(at_level)
    return _row(first, PASS, precedence(level(first), PASS_PRECEDENCE))


def _around(node: _Node) -> Iterator[_Node]:
    """The nodes that contain this one, the nearest first."""
    protocol, bits, port = node
    if protocol != Protocol.ANY:
        for shorter in range(bits - 1, -1, -1):
            yield protocol, shorter, port & ~(LAST_PORT >> shorter)
        yield Protocol.ANY, 0, 0
