# SPDX-License-Identifier: Apache-2.0
"""Trust: whose answers about names count for a policy.

An address has one identity on the node, so what one workload learns could open the address for all. It counts for a
policy only if the policy itself lets its endpoints ask the server that said it (docs/adr/0005). Policies whose DNS
rules ask the same servers share a *scope*, and the kernel knows a selector by its label and the scope of its policy.

Mostly all DNS rules of a policy name the same servers and ports; then which names they allow makes no difference to
whom they trust, and is left out of the scope. Where they differ, a server is heeded only for the names it may be asked.

This module may not know addresses. Its failure verdict: a policy without DNS rules trusts no server.
"""

import hashlib
from functools import lru_cache
from typing import Final

import msgspec

from l7policy.judgement import PolicyVerdict, judge
from l7policy.model import Action, EndpointPolicy, FqdnPeer, Labels, Origin, Rule
from l7policy.names import NameSet, name_set
from l7policy.verdict import Direction, Protocol

EVERY_NAME: Final = (FqdnPeer(match_pattern="*"),)
_NOWHERE: Final = Origin("", "")
_TRANSPORTS: Final = (Protocol.UDP, Protocol.TCP)


class Scope:
    """What policies with the same DNS rules have in common."""

    __slots__ = ("_policy", "name")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._policy = EndpointPolicy(rules, enforce_egress=True)
        self.name = hashlib.blake2b(msgspec.msgpack.encode(rules), digest_size=4).hexdigest()
        """Equal in every process."""

    def heeds(self, server: Labels, port: int) -> tuple[NameSet, ...]:
        """For which names a server's answers count: those in any of these."""
        found: dict[NameSet, None] = {}
        for protocol in _TRANSPORTS:
            judgement = judge(self._policy, Direction.EGRESS, server, protocol, port)
            if judgement.verdict == PolicyVerdict.REDIRECT and judgement.dns is not None:
                found[name_set(judgement.dns)] = None
        return tuple(found)


@lru_cache(maxsize=1024)
def _scope(rules: tuple[Rule, ...]) -> Scope:
    return Scope(rules)


def scope(policy: EndpointPolicy) -> Scope:
    """The scope of a policy; the same object for equal ones."""
    decisive = [
        msgspec.structs.replace(rule, origin=_NOWHERE, log="")
        for rule in policy.rules
        if rule.direction == Direction.EGRESS and (rule.dns is not None or rule.action != Action.ALLOW)
    ]
    if len({(rule.peers, rule.ports) for rule in decisive if rule.dns is not None}) == 1:
        decisive = [rule if rule.dns is None else msgspec.structs.replace(rule, dns=EVERY_NAME) for rule in decisive]
    return _scope(tuple(dict.fromkeys(decisive)))


def scoped(label: str, scope_name: str) -> str:
    """A selector's name in the kernel: for the policies of one scope, or with an empty one for all."""
    return f"{label}@{scope_name}" if scope_name else label


def unscoped(label: str) -> str:
    """As people know it."""
    return label.partition("@")[0]


def selectors(policy: EndpointPolicy) -> set[str]:
    """Labels of every name selector in the policy's rules."""
    return {
        peer.label
        for rule in policy.rules
        if rule.peers is not None
        for peer in rule.peers
        if isinstance(peer, FqdnPeer)
    }
