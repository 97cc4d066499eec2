# SPDX-License-Identifier: Apache-2.0
"""From a policy to the kernel's policy entries for one identity.

The kernel's map is a longest-prefix trie over (policy, identity, direction, protocol, port). For a packet it looks up
the remote identity and then identity 0 (any peer), and the higher precedence of the two wins. Within one identity it
sees only the *longest* match, so each entry must already hold the strongest verdict of all rules that cover it; and an
entry that says no more than the next shorter one is left out. Ranges of ports become prefixes, at most 30 each.

An entry carries the verdict and the proxy, not the HTTP or DNS rules: the proxy joins those (`l7policy.judgement`).

This module may not write to the kernel. Its failure verdict is the kernel's for a missing entry: deny.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from l7policy.ids import ANY_IDENTITY, Cookie, IdentityId
from l7policy.judgement import LAST_PORT, Effect, PolicyVerdict, effect, port_keys
from l7policy.model import EndpointPolicy, EntityPeer, Labels, Rule
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
    therefore in no other identity's entries. No entries where a direction is not enforced: the kernel does not ask.
    """
    if (remote is None) != (identity == ANY_IDENTITY):
        raise ValueError("identity 0, and only that, has no labels")
    found: list[Entry] = []
    for direction in Direction:
        if policy.enforces(direction):
            rules = [rule for rule in policy.rules if rule.direction == direction and _applies(rule, remote)]
            if rules:
                found.extend(_compile(rules, direction, identity))
    return found


def _applies(rule: Rule, remote: Labels | None) -> bool:
    if rule.peers is None or _EVERYBODY in rule.peers:
        return remote is None
    return remote is not None and matches_any(rule.peers, remote)


_EVERYBODY = EntityPeer("all")

_Node = tuple[int, int, int]
"""Protocol, port bits, port."""


def _compile(rules: Iterable[Rule], direction: Direction, identity: IdentityId) -> list[Entry]:
    nodes: dict[_Node, tuple[Effect, Rule]] = {}
    for rule in rules:
        does = effect(rule)
        for protocol, first, last in port_keys(rule):
            for port, bits in port_prefixes(first, last):
                node = (protocol, bits, port)
                known = nodes.get(node)
                if known is None or does.precedence > known[0].precedence:
                    nodes[node] = (does, rule)

    # Shorter prefixes first, so that what a longer one would inherit is settled before it is looked at. All the
    # nodes that contain a port are nested, so a node that is stronger than what it inherits is the strongest of all.
    kept: dict[_Node, int] = {}
    compiled: list[Entry] = []
    for node in sorted(nodes):
        does, rule = nodes[node]
        if does.precedence > _inherited(kept, node):
            kept[node] = does.precedence
            protocol, bits, port = node
            compiled.append(
                Entry(
                    direction,
                    identity,
                    protocol,
                    port,
                    bits,
                    does.verdict,
                    does.proxy,
                    does.precedence,
                    rule.origin.cookie,
                )
            )
    return compiled


def _inherited(kept: dict[_Node, int], node: _Node) -> int:
    """Precedence of the longest entry shorter than `node` that contains it, -1 if there is none."""
    protocol, bits, port = node
    if protocol == Protocol.ANY:
        return -1
    for shorter in range(bits - 1, -1, -1):
        precedence = kept.get((protocol, shorter, port & ~(LAST_PORT >> shorter)))
        if precedence is not None:
            return precedence
    return kept.get((Protocol.ANY, 0, 0), -1)
