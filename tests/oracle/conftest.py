# SPDX-License-Identifier: Apache-2.0
"""The oracle: a second evaluator of policies, slow and plain, written from what Cilium and Kubernetes document.

It reads policy documents as plain dictionaries and imports nothing of l7gate, so it shares neither its mistakes nor its
indexes. It knows the vocabulary that `test_oracle.py` generates and raises KeyError at any other.

Where Cilium's documents leave something open, it follows docs/reference/policy.md: an allow voids L7 limits only on
exactly the same ports; where a port has HTTP and DNS limits HTTP goes first; HTTP means TCP, DNS means TCP and UDP.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

Document = dict[str, Any]
Range = tuple[str, int, int]
NAMESPACE = "io.kubernetes.pod.namespace"
TEAM_PREFIX = "io.cilium.k8s.namespace.labels."


@dataclass(frozen=True)
class Party:
    """One end of a flow: a pod, this node (``host``), another node (``remote-node``), or an address outside."""

    kind: str
    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = ""
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    names: tuple[str, ...] = ()
    """DNS names that the address was learnt for."""

    def key(self, key: str) -> str | None:
        """The value of a label by the key in a Cilium selector."""
        source, colon, rest = key.partition(":")
        if not colon:
            source, rest = "any", key
        if source == "reserved":
            kind = "world" if self.kind == "outside" else self.kind
            return "" if rest == kind else None
        if self.kind != "pod" or source not in ("any", "k8s"):
            return None
        if rest == NAMESPACE:
            return self.namespace
        if rest.startswith(TEAM_PREFIX):
            return self.namespace_labels.get(rest.removeprefix(TEAM_PREFIX))
        return self.labels.get(rest)


@dataclass(frozen=True)
class Answer:
    """What is to become of a flow."""

    verdict: str
    """``allow``, ``deny``, ``http`` or ``dns``: the last two go to a proxy."""
    passes: Callable[[Any], bool] = lambda _: True
    """Whether a request (method, path) or a name gets through the proxy."""


@dataclass(frozen=True)
class Allowance:
    """One rule that lets a flow in question through, maybe with limits."""

    ranges: tuple[Range, ...] | None
    """Those of its port ranges that cover the flow; None: it names no ports."""
    http: list[Document] | None = None
    dns: list[Document] | None = None


# -- selectors ---------------------------------------------------------------------------------------------------------


def selected(selector: Document, value_of: Callable[[str], str | None]) -> bool:
    """A LabelSelector, as Kubernetes documents it."""
    for key, value in selector.get("matchLabels", {}).items():
        if value_of(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        value = value_of(expression["key"])
        if not {
            "In": lambda: value is not None and value in expression["values"],  # noqa: B023
            "NotIn": lambda: value is None or value not in expression["values"],  # noqa: B023
            "Exists": lambda: value is not None,  # noqa: B023
            "DoesNotExist": lambda: value is None,  # noqa: B023
        }[expression["operator"]]():
            return False
    return True


def keys_of(selector: Document) -> list[str]:
    return [*selector.get("matchLabels", {}), *(e["key"] for e in selector.get("matchExpressions", []))]


def cilium_endpoint(selector: Document, namespace: str, party: Party) -> bool:
    """An element of fromEndpoints or toEndpoints; `namespace` is the policy's, empty for a clusterwide one."""
    keys = keys_of(selector)
    if any(key.startswith("reserved:") for key in keys):
        return selected(selector, party.key)
    if party.kind != "pod" or not selected(selector, party.key):
        return False
    bare = [key.partition(":")[2] or key for key in keys]
    names_namespace = NAMESPACE in bare or any(key.startswith(TEAM_PREFIX) for key in bare)
    return not namespace or names_namespace or party.namespace == namespace


def entity(name: str, party: Party) -> bool:
    outside = party.kind == "outside"
    return {
        "all": True,
        "none": False,
        "world": outside,
        "world-ipv4": outside and "." in party.address,
        "world-ipv6": outside and ":" in party.address,
        "cluster": not outside,
        "host": party.kind == "host",
        "remote-node": party.kind == "remote-node",
    }[name]


def in_cidr(cidr: str, party: Party) -> bool:
    """Prefixes mean what is outside: pods and nodes are known by their labels."""
    return party.kind == "outside" and ipaddress.ip_address(party.address) in ipaddress.ip_network(cidr)


def in_cidr_set(block: Document, party: Party) -> bool:
    return in_cidr(block["cidr"], party) and not any(in_cidr(carved, party) for carved in block.get("except", []))


def name_matches(selector: Document, name: str) -> bool:
    """matchName and matchPattern."""
    labels = name.lower().rstrip(".").split(".")
    if "matchName" in selector:
        return selector["matchName"].lower().rstrip(".").split(".") == labels
    pattern = selector["matchPattern"].lower().rstrip(".")
    if not pattern.strip("*"):
        return True
    if pattern.startswith("**."):
        wanted = pattern.removeprefix("**.").split(".")
        return len(labels) > len(wanted) and _labels_match(wanted, labels[-len(wanted) :])
    return _labels_match(pattern.split("."), labels)


def _labels_match(wanted: list[str], labels: list[str]) -> bool:
    return len(wanted) == len(labels) and all(map(_glob, wanted, labels))


def _glob(wanted: str, text: str) -> bool:
    if not wanted:
        return not text
    if wanted[0] == "*":
        return any(_glob(wanted[1:], text[skip:]) for skip in range(len(text) + 1))
    return bool(text) and wanted[0] == text[0] and _glob(wanted[1:], text[1:])


# -- Cilium ------------------------------------------------------------------------------------------------------------


def cilium_peer(rule: Document, side: str, namespace: str, party: Party) -> bool:
    """Whether an element is about the peer; one without a peer field is about everybody."""
    found = []
    if f"{side}Endpoints" in rule:
        found.append(any(cilium_endpoint(one, namespace, party) for one in rule[f"{side}Endpoints"]))
    if f"{side}Entities" in rule:
        found.append(any(entity(one, party) for one in rule[f"{side}Entities"]))
    if f"{side}CIDR" in rule:
        found.append(any(in_cidr(one, party) for one in rule[f"{side}CIDR"]))
    if f"{side}CIDRSet" in rule:
        found.append(any(in_cidr_set(one, party) for one in rule[f"{side}CIDRSet"]))
    if "toFQDNs" in rule:
        found.append(any(name_matches(one, name) for one in rule["toFQDNs"] for name in party.names))
    if not found and "toPorts" not in rule:
        return False  # an empty element allows nothing
    return all(found)


def cilium_ranges(element: Document) -> Iterator[Range]:
    for port in element["ports"]:
        first = int(port["port"])
        last = port.get("endPort", first)
        if first == 0:
            first, last = 0, 65535
        protocol = port.get("protocol", "ANY")
        for one in ("TCP", "UDP", "SCTP") if protocol == "ANY" else (protocol,):
            yield one, first, last


def cilium_allowances(rule: Document, protocol: str, port: int) -> Iterator[Allowance]:
    """Those parts of an element that cover the flow."""
    if "toPorts" not in rule:
        yield Allowance(None)
    for element in rule.get("toPorts", []):
        limits = element.get("rules", {})
        covering = tuple(one for one in cilium_ranges(element) if one[0] == protocol and one[1] <= port <= one[2])
        if "http" in limits and protocol != "TCP":
            continue
        if "dns" in limits and protocol not in ("TCP", "UDP"):
            continue
        if covering:
            yield Allowance(covering, limits.get("http"), limits.get("dns"))


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def kubernetes_peer(peer: Document, namespace: str, party: Party) -> bool:
    if "ipBlock" in peer:
        return in_cidr_set(peer["ipBlock"], party)
    if party.kind != "pod":
        return False
    if "podSelector" in peer and not selected(peer["podSelector"], party.labels.get):
        return False
    if "namespaceSelector" in peer:
        labels = {**party.namespace_labels, "kubernetes.io/metadata.name": party.namespace}
        return selected(peer["namespaceSelector"], labels.get)
    return party.namespace == namespace


def kubernetes_covers(ports: list[Document], protocol: str, port: int) -> tuple[Range, ...] | None:
    """The ranges that cover the flow; None: ports are not named at all."""
    if not ports:
        return None
    ranges = [
        (one.get("protocol", "TCP"), one.get("port", 0), one.get("endPort", one.get("port", 65535))) for one in ports
    ]
    return tuple(one for one in ranges if one[0] == protocol and one[1] <= port <= one[2])


# -- together ----------------------------------------------------------------------------------------------------------


class Oracle:
    """All policies of a cluster."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents

    def judge(self, pod: Party, direction: str, peer: Party, protocol: str, port: int) -> Answer:
        """What the policies that select `pod` say about a flow with `peer`. `direction`: ``ingress`` or ``egress``."""
        side = "from" if direction == "ingress" else "to"
        default_deny = False
        enforced = False
        denied = False
        allowances: list[Allowance] = []
        for kind, namespace, spec in self._selecting(pod):
            if kind == "NetworkPolicy":
                types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
                if direction.capitalize() not in types:
                    continue
                enforced = default_deny = True
                for rule in spec.get(direction, []):
                    covering = kubernetes_covers(rule.get("ports", []), protocol, port)
                    peers = rule.get(side, [])
                    if covering == () or (peers and not any(kubernetes_peer(p, namespace, peer) for p in peers)):
                        continue
                    allowances.append(Allowance(covering))
                continue
            rules, denials = spec.get(direction, []), spec.get(f"{direction}Deny", [])
            if rules or denials:
                asked = spec.get("enableDefaultDeny", {}).get(direction, True)
                default_deny |= asked
                # An element that says nothing but "this direction" only asks for default deny.
                enforced |= asked or any(rules) or any(denials)
            else:
                asked = spec.get("enableDefaultDeny", {}).get(direction, False)
                default_deny |= asked
                enforced |= asked
            for rule in rules:
                if cilium_peer(rule, side, namespace, peer):
                    allowances.extend(cilium_allowances(rule, protocol, port))
            for rule in denials:
                if cilium_peer(rule, side, namespace, peer) and any(cilium_allowances(rule, protocol, port) or ()):
                    denied = True
        if not enforced:
            return Answer("allow")
        if denied:
            return Answer("deny")
        if not default_deny:
            allowances.append(Allowance(None))
        if direction == "ingress" and peer.kind == "host":
            allowances.append(Allowance(None))
        return self._allowed(allowances)

    def _selecting(self, pod: Party) -> Iterator[tuple[str, str, Document]]:
        for document in self.documents:
            kind, namespace = document["kind"], document["metadata"].get("namespace", "")
            for spec in [document["spec"]] if "spec" in document else document["specs"]:
                if kind == "NetworkPolicy":
                    if pod.namespace == namespace and selected(spec["podSelector"], pod.labels.get):
                        yield kind, namespace, spec
                elif (not namespace or pod.namespace == namespace) and selected(spec["endpointSelector"], pod.key):
                    yield kind, namespace, spec

    def _allowed(self, allowances: list[Allowance]) -> Answer:
        plain = {one for found in allowances if found.http is None and found.dns is None for one in found.ranges or ()}
        if http := [found for found in allowances if found.http is not None]:
            requests = [rule for found in http for rule in found.http or []]
            free = _voided(http, plain)
            return Answer("http", lambda request: free or any(http_matches(rule, request) for rule in requests))
        if dns := [found for found in allowances if found.dns is not None]:
            selectors = [rule for found in dns for rule in found.dns or []]
            open_ = _voided(dns, plain)
            return Answer("dns", lambda name: open_ or any(name_matches(rule, name) for rule in selectors))
        return Answer("allow" if allowances else "deny")


def _voided(limiting: list[Allowance], plain: set[Range]) -> bool:
    return any(one in plain for found in limiting for one in found.ranges or ())


def http_matches(rule: Document, request: tuple[str, str]) -> bool:
    return all(
        re.fullmatch(f"(?:{rule[name]})", value) is not None
        for name, value in zip(("method", "path"), request, strict=True)
        if name in rule
    )


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture(scope="session")
def party() -> type[Party]:
    return Party
