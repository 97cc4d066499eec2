# SPDX-License-Identifier: Apache-2.0
"""What policies may say and this version of l7d does not enforce: told before a reload, and never enforced by halves.

`rules check`, `explain` and `test` understand all that documents may hold. The datapath and the proxies do not yet: a
deny that they pass over would let through what its author forbade. So the agent refuses such policies, by what this
module finds. Whoever teaches l7d one of these things takes it out here.

May not read documents. Failure verdict: what is not known to be enforced is refused.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from l7policy.errors import PolicyError
from l7policy.model import EntityPeer, LabelPeer, NodePeer, Origin, Peer, Requirement, Rule
from l7policy.policydoc import Policy, SubjectKind

UNKNOWN_RESERVED: Final = frozenset({"health", "ingress", "init", "kube-apiserver", "unmanaged"})
"""Nothing here gives an address one of these labels, so a rule for it would match nothing."""

_NOT_ENFORCED: Final = "is not enforced by this version of l7d"
_HINT: Final = "rules check, explain and test understand it; l7d loads no policy that it would enforce by halves"


def unsupported(policies: Iterable[Policy]) -> tuple[PolicyError, ...]:
    """Everything that would not be enforced as written, at the place of its rule."""
    found: list[PolicyError] = []
    for policy in policies:
        here = Origin(policy.name, policy.part, policy.file, policy.line, policy.column)
        found.extend(_error(here, what) for what in _of_subject(policy))
        for rule in policy.rules:
            found.extend(_error(rule.origin, what) for what in _of_rule(rule))
            if policy.subject_kind == SubjectKind.NODE and rule.inspects:
                found.append(_error(rule.origin, "a rule for requests, names or server names of the node itself"))
    return tuple(sorted(set(found)))


def _error(origin: Origin, what: str) -> PolicyError:
    return PolicyError(origin.file, origin.line, origin.column, f"{str(origin).strip()}: {what} {_NOT_ENFORCED}", _HINT)


def _of_subject(policy: Policy) -> Iterator[str]:
    yield from _reserved(policy.subject)


def _of_rule(rule: Rule) -> Iterator[str]:
    for peer in rule.peers or ():
        yield from _of_peer(peer)


def _of_peer(peer: Peer) -> Iterator[str]:
    match peer:
        case EntityPeer() if peer.entity in UNKNOWN_RESERVED:
            yield f"the entity {peer.entity}"
        case LabelPeer():
            yield from _reserved(peer.requirements)
        case NodePeer():
            yield "a selector of nodes"


def _reserved(requirements: Iterable[Requirement]) -> Iterator[str]:
    for requirement in requirements:
        source, _, name = requirement.key.partition(":")
        if source == "reserved" and name in UNKNOWN_RESERVED:
            yield f"the label {requirement.key}"
