# SPDX-License-Identifier: Apache-2.0
"""What policies refer to by name or by label: CIDR groups, and services with the addresses behind them.

A policy that refers to nothing is a mistake here, told where the reference stands. Cilium waits for the object instead,
and until it comes an allow allows nothing; but a deny denies nothing either.

This module may not ask a cluster: all it knows stands in the files it is given.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from l7policy import labels, prefixes
from l7policy.envelope import CIDR_GROUP, SERVICE, Document
from l7policy.model import CidrPeer, LabelPeer, Labels, Operator, Peer, Requirement
from l7policy.reader import Reader, fields
from l7policy.selectors import selects
from l7policy.yamltree import Kind, Node

_GROUP: Final = fields(
    "externalCIDRs",
    required="externalCIDRs",
    refused={
        "cidrGroupRef": "a group holds prefixes, and never other groups",
        "cidrGroupSelector": "a group holds prefixes, and never other groups",
    },
)
_SERVICE_OF_SLICE: Final = "kubernetes.io/service-name"


class Unsettled(Exception):
    """Asked for an object while there may be more to come: ask again when all are known."""


@dataclass(frozen=True, slots=True)
class Group:
    """A CiliumCIDRGroup."""

    name: str
    labels: Labels
    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A Service."""

    namespace: str
    name: str
    labels: Labels
    selector: tuple[Requirement, ...] | None
    """None: its addresses stand in slices."""


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice: some of the addresses behind a service."""

    namespace: str
    service: str
    prefixes: tuple[str, ...]


Object = Group | Service | Slice


def read(reader: Reader, document: Document) -> Object | None:
    """One document of `envelope.OBJECTS`. None: a mistake."""
    labelled = frozenset(f"{labels.K8S}:{key}={value}" for key, value in document.labels.items())
    if document.kind == CIDR_GROUP:
        return None if document.spec is None else Group(document.name, labelled, _cidrs(reader, document.spec))
    if document.kind == SERVICE:
        return Service(document.namespace, document.name, labelled, _selector(reader, document))
    addresses = tuple(_slice_addresses(reader, document.node))
    return Slice(document.namespace, document.labels.get(_SERVICE_OF_SLICE, ""), addresses)


@dataclass(slots=True)
class Objects:
    """Everything that was given, by name. Two of them are equal when policies can see no difference."""

    settled: bool = True
    """Whether all objects are known. While they are not, nothing is told of any: `Unsettled`."""
    _groups: dict[str, Group] = field(default_factory=dict)
    _services: dict[tuple[str, str], Service] = field(default_factory=dict)
    _addresses: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, found: Object | None) -> None:
        """Takes in one, as `read` made it."""
        match found:
            case Group():
                self._groups[found.name] = found
            case Service():
                self._services[found.namespace, found.name] = found
            case Slice():
                self._addresses.setdefault((found.namespace, found.service), []).extend(found.prefixes)

    def _check_settled(self) -> None:
        if not self.settled:
            raise Unsettled

    def group(self, name: str) -> tuple[str, ...]:
        """The prefixes of a CIDR group. Raises ValueError."""
        self._check_settled()
        if name not in self._groups:
            raise ValueError(f"no {CIDR_GROUP} {name[:80]!r} among the files")
        return self._groups[name].cidrs

    def groups(self, requirements: Iterable[Requirement]) -> tuple[str, ...]:
        """The prefixes of all CIDR groups with such labels. Raises ValueError if there is none."""
        self._check_settled()
        wanted = tuple(requirements)
        chosen = [group for _, group in sorted(self._groups.items()) if selects(wanted, group.labels)]
        if not chosen:
            raise ValueError(f"no {CIDR_GROUP} among the files has such labels")
        return tuple(dict.fromkeys(cidr for group in chosen for cidr in group.cidrs))

    def service(self, namespace: str, name: str) -> tuple[Peer, ...]:
        """Who is behind a service. Raises ValueError."""
        self._check_settled()
        if (namespace, name) not in self._services:
            raise ValueError(f"no Service {namespace[:80]}/{name[:80]} among the files: give its YAML with the policy")
        return self._behind(self._services[namespace, name])

    def services(self, namespace: str, requirements: Iterable[Requirement]) -> tuple[Peer, ...]:
        """Who is behind the services with such labels; no namespace: in any. Raises ValueError if there is none."""
        self._check_settled()
        wanted = tuple(requirements)
        chosen = [
            service
            for (of, _), service in sorted(self._services.items())
            if namespace in ("", of) and selects(wanted, service.labels)
        ]
        if not chosen:
            raise ValueError("no Service among the files has such labels: give its YAML with the policy")
        return tuple(dict.fromkeys(peer for service in chosen for peer in self._behind(service)))

    def _behind(self, service: Service) -> tuple[Peer, ...]:
        if service.selector is not None:
            within = Requirement(labels.NAMESPACE, Operator.IN, (service.namespace,))
            return (LabelPeer((*service.selector, within)),)
        addresses = self._addresses.get((service.namespace, service.name))
        if not addresses:
            raise ValueError(
                f"Service {service.namespace}/{service.name} selects no workloads and has no addresses:"
                f" give its EndpointSlice with the policy"
            )
        return tuple(CidrPeer(prefix) for prefix in sorted(set(addresses)))


def _cidrs(reader: Reader, spec: Node) -> tuple[str, ...]:
    found = reader.mapping(spec, "spec", _GROUP)
    if "externalCIDRs" not in found:
        return ()
    elements = reader.sequence(found["externalCIDRs"], "externalCIDRs")
    networks = (reader.checked(element, "prefix", prefixes.network) for element in elements)
    return tuple(dict.fromkeys(str(network) for network in networks if network is not None))


def _selector(reader: Reader, document: Document) -> tuple[Requirement, ...] | None:
    found = document.spec.fields.get("selector") if document.spec is not None else None
    if found is None or found.kind is Kind.NULL:
        return None
    if found.kind is not Kind.MAPPING:
        reader.fail(found, f"selector must be a mapping, not {found.kind}")
    if not found.fields:
        return None
    return tuple(
        Requirement(f"{labels.K8S}:{key}", Operator.IN, (reader.text(value, key),))
        for key, value in sorted(found.fields.items())
    )


def _slice_addresses(reader: Reader, node: Node) -> Iterator[str]:
    if "endpoints" not in node.fields or node.fields["endpoints"].kind is Kind.NULL:
        return
    for endpoint in reader.sequence(node.fields["endpoints"], "endpoints"):
        for address in endpoint.fields["addresses"].items if "addresses" in endpoint.fields else ():
            prefix = reader.checked(address, "address", _one_address)
            if prefix is not None:
                yield prefix


def _one_address(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not an address") from None
