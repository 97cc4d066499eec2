# SPDX-License-Identifier: Apache-2.0
"""Whether a peer of a rule, or the subject of a policy, selects an identity by its labels.

Peers never look at addresses: a CIDR selects the identities that carry its label, so a workload or a node inside the
range is not selected by it (identity wins over IP), and an address learnt for a name keeps the CIDR labels it had.

This module may not know identities' numbers or rules' verdicts. An entity that does not exist is a bug of whoever
loaded the policy and raises; selecting nothing instead would turn a deny rule off.
"""

import functools
from collections.abc import Iterable
from typing import Final

from l7policy.model import (
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    LabelPeer,
    Labels,
    NodePeer,
    Operator,
    Peer,
    Requirement,
    WorkloadPeer,
)

SYNTHETIC_SOURCES: Final = frozenset({"reserved", "cidr", "fqdn"})
"""Sources of labels that this program gives itself; all others describe workloads."""

HOST_LABEL: Final = "reserved:host"
REMOTE_NODE_LABEL: Final = "reserved:remote-node"
NODE_LABELS: Final = frozenset({HOST_LABEL, REMOTE_NODE_LABEL})
INIT_LABEL: Final = "reserved:init"
"""Of a workload that has no labels of its own yet."""
KUBE_APISERVER_LABEL: Final = "reserved:kube-apiserver"
WORLD_LABEL: Final = "reserved:world"
EVERY_IPV4: Final = "0.0.0.0/0"
EVERY_IPV6: Final = "::/0"

ENTITIES: Final = frozenset(
    {
        "all",
        "cluster",
        "health",
        "host",
        "ingress",
        "init",
        "kube-apiserver",
        "none",
        "remote-node",
        "unmanaged",
        "world",
        "world-ipv4",
        "world-ipv6",
    }
)
"""Every entity that `matches` knows."""

_FAMILY_CIDR: Final = {"world-ipv4": f"cidr:{EVERY_IPV4}", "world-ipv6": f"cidr:{EVERY_IPV6}"}


def matches(peer: Peer, labels: Labels) -> bool:
    """Whether `peer` selects an identity with these labels."""
    match peer:
        case FqdnPeer():
            return peer.label in labels
        case CidrPeer():
            return f"cidr:{peer.cidr}" in labels and not any(f"cidr:{carved}" in labels for carved in peer.excepts)
        case EntityPeer():
            return _entity_matches(peer.entity, labels)
        case LabelPeer():
            return _label_peer_matches(peer, labels)
        case NodePeer():
            return is_node(labels) and selects(peer.requirements, labels)
        case WorkloadPeer():
            return labels == _exactly(peer.labels)


def matches_any(peers: Iterable[Peer] | None, labels: Labels) -> bool:
    """Whether one of a rule's peers selects the identity. None selects everybody, an empty list nobody."""
    return peers is None or any(matches(peer, labels) for peer in peers)


def selects(requirements: Iterable[Requirement], labels: Labels) -> bool:
    """Whether the labels meet every requirement. No requirement: always, also without labels."""
    parsed = _parsed(labels)
    return all(_met(requirement, parsed) for requirement in requirements)


def _label_peer_matches(peer: LabelPeer, labels: Labels) -> bool:
    # Without this, `{}` and `app DoesNotExist` of a clusterwide policy would select the world and the nodes.
    # Naming a reserved label is the way to mean those.
    names_reserved = any(requirement.key.startswith("reserved:") for requirement in peer.requirements)
    return (names_reserved or is_workload(labels)) and selects(peer.requirements, labels)


def _entity_matches(entity: str, labels: Labels) -> bool:
    match entity:
        case "all":
            return True
        case "none":
            return False
        case "cluster":
            # Everything with an identity that is not outside. The API server belongs to it wherever it runs.
            return bool(labels) and (WORLD_LABEL not in labels or KUBE_APISERVER_LABEL in labels)
        case "world-ipv4" | "world-ipv6":
            # `resolve.cidrs` gives the family's whole range an identity when a policy names this entity.
            return WORLD_LABEL in labels and _FAMILY_CIDR[entity] in labels
        case _ if entity in ENTITIES:
            return f"reserved:{entity}" in labels
        case _:
            raise ValueError(f"no such entity: {entity!r}")


@functools.lru_cache(maxsize=8192)
def is_workload(labels: Labels) -> bool:
    """Whether any label describes a workload. A node may have labels of its own, and is none."""
    return not is_node(labels) and any(label.partition(":")[0] not in SYNTHETIC_SOURCES for label in labels)


def has_policy(labels: Labels) -> bool:
    """Whether policies may select who has these labels: a workload, with or without labels of its own, or this node."""
    return is_workload(labels) or HOST_LABEL in labels or INIT_LABEL in labels


def is_node(labels: Labels) -> bool:
    """Whether they are the labels of a node: this one or another."""
    return not labels.isdisjoint(NODE_LABELS)


@functools.lru_cache(maxsize=8192)
def _exactly(labels: tuple[str, ...]) -> Labels:
    return frozenset(labels)


@functools.lru_cache(maxsize=8192)
def _parsed(labels: Labels) -> dict[str, tuple[str, ...]]:
    """Values by key: ``k8s:app`` for a label of that source, ``any:app`` for one of any source of workloads."""
    parsed: dict[str, tuple[str, ...]] = {}
    for label in labels:
        source, _, rest = label.partition(":")
        key, _, value = rest.partition("=")
        names = (source,) if source in SYNTHETIC_SOURCES else (source, "any")
        for name in names:
            full = f"{name}:{key}"
            parsed[full] = (*parsed.get(full, ()), value)
    return parsed


def _met(requirement: Requirement, parsed: dict[str, tuple[str, ...]]) -> bool:
    values = parsed.get(requirement.key)
    match requirement.operator:
        case Operator.EXISTS:
            return values is not None
        case Operator.DOES_NOT_EXIST:
            return values is None
        case Operator.IN:
            return values is not None and any(value in requirement.values for value in values)
        case Operator.NOT_IN:
            # As in Kubernetes, an absent label is not in the list.
            return values is None or not any(value in requirement.values for value in values)
