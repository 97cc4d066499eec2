# SPDX-License-Identifier: Apache-2.0
"""What policies may say and l7d would enforce by halves: told before a reload, and refused.

`rules check`, `explain` and `test` understand all that documents may hold. But one node cannot find out by itself which
addresses are other nodes', the API server's or those of workloads that nobody manages: its configuration says so. For
as long as it does not, a rule that allows them allows nobody, which is safe, and one that denies them, or means
everybody else, would let through what its author forbade. Those are refused.

May not read documents. Failure verdict: what is not known to be enforced is refused.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from l7policy.errors import PolicyError
from l7policy.model import Action, EntityPeer, LabelPeer, NodePeer, Operator, Origin, Peer, Rule
from l7policy.policydoc import Policy, SubjectKind

NODES: Final = "nodes"
"""Other nodes: the entity ``remote-node``, and whom ``fromNodes`` and ``toNodes`` select beside this node."""
TOLD: Final = {
    "kube-apiserver": "entities.kube-apiserver",
    "remote-node": NODES,
    "unmanaged": "entities.unmanaged",
}
"""Reserved labels that nothing carries until a key of l7d's configuration says who does."""
CONFIGURED: Final = frozenset({NODES, "kube-apiserver", "unmanaged"})
"""All that the configuration can tell."""

_NEGATIVE: Final = frozenset({Operator.NOT_IN, Operator.DOES_NOT_EXIST})


def unsupported(policies: Iterable[Policy], told: Collection[str] = ()) -> tuple[PolicyError, ...]:
    """Everything that would not be enforced as written, at the place of its rule.

    `told`: which of `CONFIGURED` the configuration says something about, be it that there is none.
    """
    found: list[PolicyError] = []
    for policy in policies:
        for rule in policy.rules:
            if policy.subject_kind == SubjectKind.NODE and rule.inspects:
                what = "a rule for requests, names or server names of the node itself"
                found.append(_error(rule.origin, f"{what} is not enforced", "l7d looks into what workloads send only"))
            for what, name in _unknown(rule, told):
                found.append(
                    _error(
                        rule.origin,
                        f"l7d is not told who {what} is, and would let through what this rule forbids",
                        f"say it in the configuration of l7d, key {TOLD[name]}; [] if there is nobody",
                    )
                )
    return tuple(sorted(set(found)))


def _error(origin: Origin, message: str, hint: str) -> PolicyError:
    return PolicyError(origin.file, origin.line, origin.column, f"{str(origin).strip()}: {message}", hint)


def _unknown(rule: Rule, told: Collection[str]) -> Iterator[tuple[str, str]]:
    """Whom a rule is about, in words, and which of `TOLD` would say who that is."""
    for peer in rule.peers or ():
        for what, name, negative in _of_peer(peer):
            known = (NODES if name == "remote-node" else name) in told
            if not known and (negative or rule.action != Action.ALLOW):
                yield what, name


def _of_peer(peer: Peer) -> Iterator[tuple[str, str, bool]]:
    match peer:
        case EntityPeer() if peer.entity in TOLD:
            yield f"the entity {peer.entity}", peer.entity, False
        case NodePeer():
            yield "another node", "remote-node", False
        case LabelPeer():
            for requirement in peer.requirements:
                source, _, name = requirement.key.partition(":")
                if source == "reserved" and name in TOLD:
                    yield f"{requirement.key}", name, requirement.operator in _NEGATIVE
