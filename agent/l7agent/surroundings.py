# SPDX-License-Identifier: Apache-2.0
"""Surroundings: who besides this node and its workloads is known by more than an address, as the configuration says.

Other nodes with their labels, and addresses that carry one of Cilium's reserved labels. One node cannot find out by
itself who they are; an address of which nothing is said is outside. May not resolve names or ask anybody.

Failure verdict: what the configuration does not tell is not known (`told`), and `l7policy.capability` refuses the rules
that would then let through what they forbid.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from l7policy.capability import NODES
from l7policy.labels import K8S, RESERVED, LabelError, check_key, check_value
from l7policy.model import Labels
from l7policy.selectors import HOST_LABEL, KUBE_APISERVER_LABEL, REMOTE_NODE_LABEL

_OPTIONAL: Final = ("kube-apiserver", "unmanaged")
"""Entities that exist whether or not anybody tells; the other two are only there where somebody made them."""


class OtherNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node of the same cluster."""

    name: str
    addresses: list[str]
    labels: dict[str, str] = {}


class Entities(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Whose addresses carry a reserved label; None: nothing is known of it."""

    health: list[str] = []
    ingress: list[str] = []
    kube_apiserver: list[str] | None = None
    unmanaged: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it, in canonical form. Prefixes hold one address each: no network of a policy lies inside of them."""

    told: frozenset[str] = frozenset()
    """What of `capability.TOLD` the configuration says something about, be it that there is none."""
    places: Mapping[str, Labels] = field(default_factory=dict)
    """By prefix: those who are known by labels alone, whatever network their address is in."""
    apiservers: frozenset[str] = frozenset()
    """Prefixes of API servers that are no node: outside, and known by the networks around them as well."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What people call the prefixes."""
    own: Labels = frozenset()
    """Labels of this node, beside ``reserved:host``."""

    def host(self, addresses: Iterable[str]) -> Labels:
        """The labels of this node, which has these addresses."""
        serves = any("/" not in one and _prefix(one) in self._serving for one in addresses)
        return self.own | {HOST_LABEL} | ({KUBE_APISERVER_LABEL} if serves else set())

    @property
    def _serving(self) -> Collection[str]:
        nodes = {prefix for prefix, labels in self.places.items() if KUBE_APISERVER_LABEL in labels}
        return self.apiservers | nodes


def gather(own: Mapping[str, str], nodes: Iterable[OtherNode] | None, entities: Entities) -> Surroundings:
    """What the three sections of the configuration say. Raises ValueError that names the key."""
    given: dict[str, list[str] | None] = msgspec.to_builtins(entities)
    told = {name for name in _OPTIONAL if given[name] is not None}
    places: dict[str, Labels] = {}
    names: dict[str, str] = {}
    serving = frozenset(_prefixes("entities.kube-apiserver", given["kube-apiserver"] or ()))

    def place(key: str, prefix: str, name: str, labels: Labels) -> None:
        if prefix in names:
            raise ValueError(f"{key}: {prefix.partition('/')[0]} is {names[prefix]} already")
        places[prefix], names[prefix] = labels, name

    if nodes is not None:
        told.add(NODES)
        for index, node in enumerate(nodes):
            key = f"nodes[{index}]"
            if not node.name or not node.addresses:
                raise ValueError(f"{key}: a node needs a name and at least one address")
            labels = _labels(f"{key}.labels", node.labels) | {REMOTE_NODE_LABEL}
            prefixes = tuple(_prefixes(f"{key}.addresses", node.addresses))
            if serving & set(prefixes):
                labels |= {KUBE_APISERVER_LABEL}
            for prefix in prefixes:
                place(f"{key}.addresses", prefix, f"node/{node.name}", labels)
    for name in ("health", "ingress", "unmanaged"):
        for prefix in _prefixes(f"entities.{name}", given[name] or ()):
            place(f"entities.{name}", prefix, f"{RESERVED}:{name}", frozenset({f"{RESERVED}:{name}"}))
    for prefix in sorted(serving - places.keys()):
        names[prefix] = KUBE_APISERVER_LABEL
    if mixed := [prefix for prefix in serving & places.keys() if not names[prefix].startswith("node/")]:
        raise ValueError(f"entities.kube-apiserver: {mixed[0].partition('/')[0]} is {names[mixed[0]]} already")
    return Surroundings(frozenset(told), places, serving - places.keys(), names, _labels("node.labels", own))


def _labels(key: str, given: Mapping[str, str]) -> Labels:
    try:
        return frozenset(f"{K8S}:{check_key(name)}={check_value(value)}" for name, value in given.items())
    except LabelError as error:
        raise ValueError(f"{key}: {error}") from error


def _prefixes(key: str, addresses: Iterable[str]) -> Iterator[str]:
    for text in addresses:
        try:
            yield _prefix(text)
        except ValueError:
            raise ValueError(f"{key}: {text[:80]!r} is not the address of one host; write it as 192.0.2.1") from None


def _prefix(text: str) -> str:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        raise ValueError
    return f"{address}/{address.max_prefixlen}"
