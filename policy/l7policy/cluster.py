# SPDX-License-Identifier: Apache-2.0
"""Cluster: workloads, nodes and services read from plain Kubernetes YAML, so that people can ask by name.

Reads Pod, Namespace, Node, Service and CiliumEndpoint, each as `kubectl get -o yaml` prints it, Lists included; objects
of other kinds are passed over and counted. A pod gets the labels that Cilium gives it: its own, its namespace's, and
those of cluster, namespace and service account. A CiliumEndpoint's labels win over what its pod suggests.

May not read files or judge. Failure verdict: `PolicyErrors` with every mistake; then there is no cluster at all.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from l7policy import labels, yamltree
from l7policy.envelope import OBJECTS
from l7policy.errors import PolicyErrors
from l7policy.labels import LabelError
from l7policy.model import Labels, NamedPort
from l7policy.policydoc import Source
from l7policy.reader import Reader
from l7policy.selectors import HOST_LABEL, is_node
from l7policy.verdict import Protocol
from l7policy.yamltree import Kind, Node

CLUSTER: Final = "k8s:io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT: Final = "k8s:io.cilium.k8s.policy.serviceaccount"
_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
_HOST: Final[Labels] = frozenset({HOST_LABEL})
_PROTOCOLS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload or node."""

    name: str
    """``namespace/pod``, or ``node/name``."""
    labels: Labels
    addresses: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    audit: bool | None = None
    """Whether it is audited; None: as everybody."""

    def port(self, name: str, protocol: Protocol = Protocol.ANY) -> NamedPort | None:
        """The port of that name, of any protocol if none is given."""
        return next(
            (port for port in self.ports if port.name == name and protocol in (Protocol.ANY, port.protocol)), None
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A service: no peer of any policy itself, since its address is translated before policy is asked."""

    name: str
    addresses: tuple[str, ...]
    backends: tuple[str, ...]
    """Names of the workloads that it selects."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that was read, by name and by address."""

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    namespaces: Mapping[str, Labels] = field(default_factory=dict)
    """What each namespace adds to the labels of the workloads in it."""
    passed_over: tuple[str, ...] = ()
    """What was not read: ``2 Deployment``."""

    @property
    def ports(self) -> dict[Labels, tuple[NamedPort, ...]]:
        """The named ports of every workload, by its labels."""
        found: dict[Labels, tuple[NamedPort, ...]] = {}
        for endpoint in self.endpoints.values():
            if endpoint.ports:
                found[endpoint.labels] = tuple(dict.fromkeys((*found.get(endpoint.labels, ()), *endpoint.ports)))
        return found

    def at(self, address: str) -> Endpoint | None:
        """The workload or node that has the address; a workload's own comes first."""
        found = [endpoint for endpoint in self.endpoints.values() if address in endpoint.addresses]
        return min(found, key=lambda endpoint: is_node(endpoint.labels), default=None)

    def service_at(self, address: str) -> Service | None:
        """The service that has the address."""
        return next((service for service in self.services.values() if address in service.addresses), None)


@dataclass(slots=True)
class _Found:
    """Nodes by namespace and name, before they are put together."""

    pods: dict[tuple[str, str], Node] = field(default_factory=dict)
    cilium: dict[tuple[str, str], Node] = field(default_factory=dict)
    namespaces: dict[tuple[str, str], Node] = field(default_factory=dict)
    nodes: dict[tuple[str, str], Node] = field(default_factory=dict)
    services: dict[tuple[str, str], Node] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def of(self, kind: str, version: str) -> dict[tuple[str, str], Node] | None:
        """Where an object of this kind belongs."""
        tables = {
            ("Pod", "v1"): self.pods,
            ("Namespace", "v1"): self.namespaces,
            ("Node", "v1"): self.nodes,
            ("Service", "v1"): self.services,
            ("CiliumEndpoint", "cilium.io/v2"): self.cilium,
        }
        return tables.get((kind, version))


def read(sources: Sequence[Source], cluster_name: str = "default") -> Cluster:
    """The cluster that all sources describe together. Raises PolicyErrors."""
    reader = Reader()
    found = _Found()
    for source in sources:
        try:
            documents = yamltree.parse(source.path, source.text)
        except PolicyErrors as broken:
            reader.errors.extend(broken.errors)
            continue
        for node in documents:
            _collect(reader, node, found)
    namespaces = {name: namespace_labels(name, _labels(reader, node)) for (_, name), node in found.namespaces.items()}
    endpoints: dict[str, Endpoint] = {}
    for key in sorted(found.pods.keys() | found.cilium.keys()):
        endpoint = _endpoint(reader, key, found, namespaces, cluster_name)
        if endpoint is not None:
            endpoints[endpoint.name] = endpoint
    for (_, name), node in sorted(found.nodes.items()):
        own = {f"k8s:{key}={value}" for key, value in _labels(reader, node).items()}
        endpoints[f"node/{name}"] = Endpoint(f"node/{name}", _HOST | own, _node_addresses(reader, node))
    services = {
        f"{namespace}/{name}": _service(reader, namespace, name, node, endpoints)
        for (namespace, name), node in sorted(found.services.items())
    }
    if reader.errors:
        raise PolicyErrors(reader.errors)
    passed_over = tuple(f"{count} {kind}" for kind, count in sorted(found.others.items()))
    return Cluster(endpoints, services, namespaces, passed_over)


def namespace_labels(name: str, own: Mapping[str, str]) -> Labels:
    """What a namespace with these labels adds to those of its workloads. Kubernetes labels each with its name."""
    return frozenset(
        f"k8s:{labels.NAMESPACE_LABELS_KEY}{key}={value}" for key, value in {_NAMESPACE_NAME: name, **own}.items()
    )


def _collect(reader: Reader, node: Node, found: _Found) -> None:
    kind, version = _text(node, "kind"), _text(node, "apiVersion")
    if not kind or not version:
        reader.fail(node, "no apiVersion and kind: this is not a Kubernetes object")
        return
    if kind == "List" or (kind.endswith("List") and _child(node, "items") is not None):
        for item in _items(reader, node, "items"):
            _collect(reader, item, found)
        return
    table = found.of(kind, version)
    if table is None:
        if kind not in OBJECTS:  # Those are what policies refer to: `l7policy.objects` reads them.
            found.others[kind] += 1
        return
    name = _text(node, "metadata", "name")
    if not name:
        reader.fail(_child(node, "metadata") or node, f"this {kind} has no metadata.name")
        return
    namespace = "" if kind in {"Namespace", "Node"} else _text(node, "metadata", "namespace") or "default"
    first = table.setdefault((namespace, name), node)
    if first is not node:
        title = f"{namespace}/{name}" if namespace else name
        reader.fail(node, f"{kind} {title} is there twice; first at {first.path}:{first.line}")


def _endpoint(
    reader: Reader,
    key: tuple[str, str],
    found: _Found,
    namespaces: Mapping[str, Labels],
    cluster_name: str,
) -> Endpoint | None:
    namespace, name = key
    pod, cilium = found.pods.get(key), found.cilium.get(key)
    endpoint = Endpoint(f"{namespace}/{name}", frozenset())
    if pod is not None:
        if _text(pod, "status", "phase") in {"Succeeded", "Failed"} and cilium is None:
            return None  # Its address may be another pod's by now.
        if _text(pod, "spec", "hostNetwork").lower() == "true":
            # It has the node's address and is, to every policy, the node.
            return replace(endpoint, labels=_HOST, ports=_container_ports(reader, pod))
        account = _text(pod, "spec", "serviceAccountName") or "default"
        own = {f"k8s:{name}={value}" for name, value in _labels(reader, pod).items()}
        endpoint = replace(
            endpoint,
            labels=frozenset(own)
            | (namespaces.get(namespace) or namespace_labels(namespace, {}))
            | {
                f"{labels.NAMESPACE}={namespace}",
                f"{CLUSTER}={cluster_name}",
                f"{SERVICE_ACCOUNT}={account}",
            },
            addresses=_pod_addresses(reader, pod),
            ports=_container_ports(reader, pod),
        )
    if cilium is not None:
        given = _cilium_labels(reader, cilium)
        if not given and pod is None:
            # Without labels it would pass for somebody outside.
            reader.fail(cilium, f"CiliumEndpoint {namespace}/{name} has no status.identity.labels", "give its Pod, too")
        addresses = tuple(
            address
            for pair in _items(reader, cilium, "status", "networking", "addressing")
            for family in ("ipv4", "ipv6")
            for address in _address(reader, _child(pair, family))
        )
        ports = tuple(
            port
            for element in _items(reader, cilium, "status", "named-ports")
            for port in _port(reader, element, "port")
        )
        endpoint = replace(
            endpoint,
            labels=given or endpoint.labels,
            addresses=addresses or endpoint.addresses,
            ports=ports or endpoint.ports,
        )
    return endpoint


def _cilium_labels(reader: Reader, node: Node) -> Labels:
    """Labels of the endpoint's identity, as the agent that made it saw them."""
    found: set[str] = set()
    for element in _items(reader, node, "status", "identity", "labels"):
        if element.text.startswith(f"{labels.RESERVED}:"):
            found.add(element.text)
        elif (label := reader.checked(element, "label", _given_label)) is not None:
            found.add(label)
    return frozenset(found)


def _given_label(text: str) -> str:
    # A label of the namespace may be longer than a label's name can be, because of what Cilium puts before it.
    key, value = labels.split(text)
    source, rest = labels.split_source(key, labels.K8S)
    if source not in labels.WORKLOAD_SOURCES:
        raise LabelError(f"unknown label source {source[:80]!r}")
    labels.check_key(rest.removeprefix(labels.NAMESPACE_LABELS_KEY))
    return f"{source}:{rest}={labels.check_value(value)}"


def _labels(reader: Reader, node: Node) -> dict[str, str]:
    """``metadata.labels``, checked."""
    found = _child(node, "metadata", "labels")
    if found is None or found.kind is Kind.NULL:
        return {}
    if found.kind is not Kind.MAPPING:
        reader.fail(found, f"labels must be a mapping, not {found.kind}")
        return {}
    values: dict[str, str] = {}
    for key, value in found.fields.items():
        name = reader.attempt(found.keys[key], "labels", lambda key=key: labels.check_key(key))  # type: ignore[misc]
        text = reader.checked(value, f"label {key[:80]}", labels.check_value)
        if name is not None and text is not None:
            values[name] = text
    return values


def _pod_addresses(reader: Reader, pod: Node) -> tuple[str, ...]:
    found = [*_address(reader, _child(pod, "status", "podIP"))]
    for element in _items(reader, pod, "status", "podIPs"):
        found.extend(_address(reader, _child(element, "ip")))
    return tuple(dict.fromkeys(found))


def _node_addresses(reader: Reader, node: Node) -> tuple[str, ...]:
    return tuple(
        address
        for element in _items(reader, node, "status", "addresses")
        if _text(element, "type") in {"InternalIP", "ExternalIP"}
        for address in _address(reader, _child(element, "address"))
    )


def _container_ports(reader: Reader, pod: Node) -> tuple[NamedPort, ...]:
    return tuple(
        port
        for group in ("initContainers", "containers")
        for container in _items(reader, pod, "spec", group)
        for element in _items(reader, container, "ports")
        for port in _port(reader, element, "containerPort")
    )


def _port(reader: Reader, node: Node, key: str) -> Iterable[NamedPort]:
    name = _text(node, "name")
    if not name:
        return
    protocol = _PROTOCOLS.get(_text(node, "protocol") or "TCP")
    number = _text(node, key)
    if protocol is None:
        reader.fail(_child(node, "protocol") or node, f"port {name}: the protocol is none of TCP, UDP and SCTP")
    elif not number.isdecimal() or not 0 < int(number) < 65536:
        reader.fail(_child(node, key) or node, f"port {name}: {key} must be a number from 1 to 65535")
    else:
        yield NamedPort(name, protocol, int(number))


def _service(reader: Reader, namespace: str, name: str, node: Node, endpoints: Mapping[str, Endpoint]) -> Service:
    addresses = [*_address(reader, _child(node, "spec", "clusterIP"))]
    for element in (*_items(reader, node, "spec", "clusterIPs"), *_items(reader, node, "spec", "externalIPs")):
        addresses.extend(_address(reader, element))
    selector = _child(node, "spec", "selector")
    wanted = {f"{labels.NAMESPACE}={namespace}"}
    if selector is None or not selector.fields:
        return Service(f"{namespace}/{name}", tuple(dict.fromkeys(addresses)), ())
    wanted |= {f"k8s:{key}={value.text}" for key, value in selector.fields.items()}
    backends = tuple(endpoint.name for endpoint in endpoints.values() if wanted <= endpoint.labels)
    return Service(f"{namespace}/{name}", tuple(dict.fromkeys(addresses)), backends)


def _address(reader: Reader, node: Node | None) -> Iterable[str]:
    if node is None or node.text in {"", "None"}:
        return
    try:
        yield str(ipaddress.ip_address(node.text))
    except ValueError:
        reader.fail(node, f"{node.text[:80]!r} is not an IP address")


def _child(node: Node, *path: str) -> Node | None:
    for name in path:
        found = node.fields.get(name)
        if found is None:
            return None
        node = found
    return node


def _text(node: Node, *path: str) -> str:
    found = _child(node, *path)
    return found.text if found is not None and found.kind is not Kind.NULL else ""


def _items(reader: Reader, node: Node, *path: str) -> tuple[Node, ...]:
    found = _child(node, *path)
    if found is None or found.kind is Kind.NULL:
        return ()
    return reader.sequence(found, path[-1])
