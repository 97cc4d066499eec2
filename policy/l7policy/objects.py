# SPDX-License-Identifier: Apache-2.0
"""What policies refer to by name or by label: CIDR groups, and services with the addresses behind them.

A policy that refers to nothing is a mistake here, told where the reference stands. Cilium waits for the object instead,
and until it comes an allow allows nothing; but a deny denies nothing either.

This module may not ask a cluster: all it knows stands in the files it is given.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from l7policy import labels, prefixes
from l7policy.envelope import CIDR_GROUP, SERVICE, Document
from l7policy.model import CidrPeer, LabelPeer, Operator, Peer, Requirement
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


@dataclass(frozen=True, slots=True)
class _Group:
    document: Document
    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Service:
    document: Document
    selector: tuple[Requirement, ...] | None
    """None: its addresses stand in slices."""


class Objects:
    """Everything that was given, by name."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._services: dict[tuple[str, str], _Service] = {}
        self._addresses: dict[tuple[str, str], list[str]] = {}

    def add(self, reader: Reader, document: Document) -> None:
        """Takes in one document of `envelope.OBJECTS`."""
        match document.kind:
            case kind if kind == CIDR_GROUP:
                if document.spec is not None:
                    self._groups[document.name] = _Group(document, _cidrs(reader, document.spec))
            case kind if kind == SERVICE:
                self._services[document.namespace, document.name] = _Service(document, _selector(reader, document))
            case _:
                of = document.namespace, document.labels.get(_SERVICE_OF_SLICE, "")
                self._addresses.setdefault(of, []).extend(_slice_addresses(reader, document.node))

    def group(self, name: str) -> tuple[str, ...]:
        """The prefixes of a CIDR group. Raises ValueError."""
        if name not in self._groups:
            raise ValueError(f"no {CIDR_GROUP} {name[:80]!r} among the files")
        return self._groups[name].cidrs

    def groups(self, requirements: Iterable[Requirement]) -> tuple[str, ...]:
        """The prefixes of all CIDR groups with such labels. Raises ValueError if there is none."""
        wanted = tuple(requirements)
        chosen = [group for group in self._groups.values() if selects(wanted, _k8s(group.document))]
        if not chosen:
            raise ValueError(f"no {CIDR_GROUP} among the files has such labels")
        return tuple(dict.fromkeys(cidr for group in chosen for cidr in group.cidrs))

    def service(self, namespace: str, name: str) -> tuple[Peer, ...]:
        """Who is behind a service. Raises ValueError."""
        if (namespace, name) not in self._services:
            raise ValueError(f"no Service {namespace[:80]}/{name[:80]} among the files: give its YAML with the policy")
        return self._behind(self._services[namespace, name])

    def services(self, namespace: str, requirements: Iterable[Requirement]) -> tuple[Peer, ...]:
        """Who is behind the services with such labels; no namespace: in any. Raises ValueError if there is none."""
        wanted = tuple(requirements)
        chosen = [
            service
            for (of, _), service in self._services.items()
            if namespace in ("", of) and selects(wanted, _k8s(service.document))
        ]
        if not chosen:
            raise ValueError("no Service among the files has such labels: give its YAML with the policy")
        return tuple(dict.fromkeys(peer for service in chosen for peer in self._behind(service)))

    def _behind(self, service: _Service) -> tuple[Peer, ...]:
        document = service.document
        if service.selector is not None:
            within = Requirement(labels.NAMESPACE, Operator.IN, (document.namespace,))
            return (LabelPeer((*service.selector, within)),)
        addresses = self._addresses.get((document.namespace, document.name))
        if not addresses:
            raise ValueError(
                f"Service {document.namespace}/{document.name} selects no workloads and has no addresses:"
                f" give its EndpointSlice with the policy"
            )
        return tuple(CidrPeer(prefix) for prefix in sorted(set(addresses)))


def _k8s(document: Document) -> frozenset[str]:
    return frozenset(f"{labels.K8S}:{key}={value}" for key, value in document.labels.items())


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
