# SPDX-License-Identifier: Apache-2.0
"""The oracle: a second evaluator of policies, slow and plain, written from what Cilium and Kubernetes document.

It reads policy documents as plain dictionaries and imports nothing of l7gate, so it shares neither its mistakes nor its
indexes. It knows the vocabulary that `generated` makes and raises KeyError at any other.

Where the documents leave something open, it follows docs/reference/policy.md: an allow voids L7 limits only on exactly
the same ports; where a port has several kinds of limits HTTP goes before TLS and that before DNS; HTTP and TLS mean
TCP, DNS means TCP and UDP; default deny ends the normal tier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plain import selecting
from plain.party import Party

Document = dict[str, Any]
ADMIN, NORMAL, BASELINE, LEFT = range(4)
SPEAKS = {"http": ("TCP",), "serverNames": ("TCP",), "dns": ("TCP", "UDP")}
"""Protocols of each kind of limit, the strongest first."""
TRANSPORTS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True)
class Span:
    """Ports of one protocol, or message types."""

    protocol: str
    first: int
    last: int
    named: bool = False

    def covers(self, protocol: str, port: int) -> bool:
        return self.protocol == protocol and self.first <= port <= self.last


@dataclass(frozen=True)
class Answer:
    """What is to become of a flow."""

    verdict: str
    """``allow`` or ``deny``; ``http``, ``serverNames`` or ``dns``: a proxy looks at each request."""
    limits: tuple[tuple[Any, str], ...] = ()
    """Elements of the lists of limits, one of which must match, each with its policy's namespace."""
    audit: bool = False
    """What is refused passes, and is recorded."""
    features: frozenset[str] = frozenset()
    """Parts of the vocabulary that decided."""

    def name_passes(self, name: str) -> bool:
        return any(selecting.name_matches(selector, name) for selector, _ in self.limits)

    def server_name_passes(self, name: str) -> bool:
        return any(selecting.server_name_matches(pattern, name) for pattern, _ in self.limits)


@dataclass(frozen=True)
class Statement:
    """What one rule says about the flow in question, which it covers."""

    tier: int
    strength: tuple[int, int]
    """Within the tier; the lowest first."""
    action: str
    spans: frozenset[tuple[str, int, int]] | None
    """Those of its ports that cover the flow; None: it names no ports."""
    kind: str = ""
    """Of its limits."""
    limits: tuple[tuple[Any, str], ...] = ()
    features: frozenset[str] = frozenset()


class Oracle:
    """All documents of a cluster. `mode`: default, always or never."""

    def __init__(self, documents: list[Document], mode: str = "default") -> None:
        kinds = ("CiliumCIDRGroup", "Service", "EndpointSlice")
        self.policies = [document for document in documents if document["kind"] not in kinds]
        self.groups = {one["metadata"]["name"]: one for one in documents if one["kind"] == "CiliumCIDRGroup"}
        self.services = [one for one in documents if one["kind"] == "Service"]
        self.slices = [one for one in documents if one["kind"] == "EndpointSlice"]
        self.mode = mode

    def judge(self, own: Party, direction: str, peer: Party, protocol: str, port: int) -> Answer:
        """What the policies of `own` say about a flow with `peer`. `direction`: ``ingress`` or ``egress``."""
        if self.mode == "never":
            return Answer("allow", features=frozenset({"mode never"}))
        flow = _Flow(self, own, direction, peer, protocol, port)
        statements: list[Statement] = []
        default_deny = False
        for document, spec in self._selecting(own):
            read = flow.admin if "policy.networking" in document["apiVersion"] else flow.cilium
            denies, found = (flow.kubernetes if document["kind"] == "NetworkPolicy" else read)(document, spec)
            default_deny |= denies
            statements.extend(found)
        if default_deny:
            statements = [one for one in statements if one.tier != BASELINE]
        elif own.kind == "host" or (own.kind == "pod" and self.mode == "default"):
            statements.append(Statement(LEFT, (0, 0), "allow", None, features=frozenset({"nobody denies by default"})))
        if direction == "ingress" and own.kind != "host" and peer.kind == "host":
            statements.append(Statement(NORMAL, (0, 0), "allow", None, features=frozenset({"the node itself"})))
        return _decided(statements, own)

    def _selecting(self, own: Party) -> Iterator[tuple[Document, Document]]:
        for document in self.policies:
            namespace = document["metadata"].get("namespace", "")
            for spec in [document["spec"]] if "spec" in document else document["specs"]:
                if self._selects(document["kind"], namespace, spec, own):
                    yield document, spec

    def _selects(self, kind: str, namespace: str, spec: Document, own: Party) -> bool:
        if "nodeSelector" in spec:
            return own.kind == "host" and selecting.selected(spec["nodeSelector"], own.node_key)
        if own.kind == "init":  # in no namespace yet, so no policy of one selects it that does not say so
            of_cilium, keys = "endpointSelector" in spec, selecting.keys_of(spec.get("endpointSelector", {}))
            return (of_cilium and (not namespace or "reserved:init" in keys)) and selecting.selected(
                spec["endpointSelector"], own.key
            )
        if own.kind != "pod":
            return False
        if kind == "NetworkPolicy":
            return selecting.pods(None, spec["podSelector"], namespace, own)
        if "subject" in spec:
            return _who(spec["subject"], own)
        keys = selecting.keys_of(spec["endpointSelector"])
        in_namespace = namespace in ("", own.namespace) or "reserved:init" in keys
        return in_namespace and selecting.selected(spec["endpointSelector"], own.key)


def _decided(statements: list[Statement], own: Party) -> Answer:
    """Tier by tier, and in it by strength; the strongest statements that do not pass decide."""
    passed: set[int] = set()
    for tier, strength in sorted({(one.tier, one.strength) for one in statements}):
        if tier in passed:
            continue
        here = [one for one in statements if (one.tier, one.strength) == (tier, strength)]
        if all(one.action == "pass" for one in here):
            passed.add(tier)
            continue
        features = {f"tier {tier}", *(f"tier {skipped} passed" for skipped in passed)}
        denying = [one for one in here if one.action == "deny"]
        plain = [one for one in here if one.action == "allow" and not one.kind]
        if denying:
            return _answer("deny", denying, own, features | {"deny"})
        for kind in SPEAKS:
            limiting = [one for one in here if one.kind == kind]
            if limiting:
                free = {span for one in plain for span in one.spans or ()}
                voids = kind != "serverNames" and any(span in free for one in limiting for span in one.spans or ())
                if voids:
                    wild = {"http": {}, "dns": {"matchPattern": "*"}}[kind]
                    limiting.append(
                        Statement(tier, strength, "allow", None, kind, ((wild, ""),), frozenset({"voided"}))
                    )
                return _answer(kind, limiting, own, features | {kind})
        return _answer("allow", plain, own, features)
    return Answer("deny", (), own.audit, frozenset({"default deny", *(f"tier {tier} passed" for tier in passed)}))


def _answer(verdict: str, deciding: list[Statement], own: Party, features: set[str]) -> Answer:
    of_all = [one.features for one in deciding]
    limits = tuple(limit for one in deciding for limit in one.limits)
    return Answer(verdict, limits, own.audit and verdict != "allow", frozenset(features).union(*of_all))


def _who(peer: Document, party: Party) -> bool:
    """``namespaces`` or ``pods`` of the cluster administrator's policies."""
    if "namespaces" in peer:
        return selecting.pods(peer["namespaces"], None, "", party)
    return selecting.pods(peer["pods"]["namespaceSelector"], peer["pods"]["podSelector"], "", party)


class _Flow:
    """Reads policies with one flow in mind."""

    def __init__(self, oracle: Oracle, own: Party, direction: str, peer: Party, protocol: str, port: int) -> None:
        self.oracle = oracle
        self.direction = direction
        self.side = "from" if direction == "ingress" else "to"
        self.peer = peer
        self.protocol = protocol
        self.port = port
        self.names = own.ports if direction == "ingress" else peer.ports
        """Names of ports are the destination's."""

    # -- Cilium -------------------------------------------------------------------------------------------------------

    def cilium(self, document: Document, spec: Document) -> tuple[bool, list[Statement]]:
        """Whether it asks for default deny, and what its rules say."""
        namespace = document["metadata"].get("namespace", "")
        rules, denials = spec.get(self.direction, []), spec.get(f"{self.direction}Deny", [])
        more = {"host policy"} if "nodeSelector" in spec else set()
        found: list[Statement] = []
        for action, elements in (("allow", rules), ("deny", denials)):
            for rule in elements:
                features = self._cilium_peer(rule, namespace)
                if features is not None:
                    found += self._cilium_ports(rule, action, namespace, features | more)
        return spec.get("enableDefaultDeny", {}).get(self.direction, bool(rules or denials)), found

    def _cilium_peer(self, rule: Document, namespace: str) -> set[str] | None:
        """What an element calls the peer, None if it is not about the peer."""
        named = [key for key in rule if key.startswith(self.side) and key != "toPorts"]
        if not named:
            return {"any peer"} if "toPorts" in rule or "icmps" in rule else None  # an empty element allows nothing
        (key,) = named
        kind = key.removeprefix(self.side)
        return {kind} if any(self._cilium_one(kind, one, namespace) for one in rule[key]) else None

    def _cilium_one(self, kind: str, one: Any, namespace: str) -> bool:
        peer = self.peer
        match kind:
            case "Endpoints":
                return selecting.cilium_endpoint(one, namespace, peer)
            case "Entities":
                return selecting.entity(one, peer)
            case "CIDR":
                return selecting.in_cidr(one, peer)
            case "CIDRSet":
                inside = any(selecting.in_cidr(cidr, peer) for cidr in self._prefixes(one))
                return inside and not any(selecting.in_cidr(carved, peer) for carved in one.get("except", []))
            case "FQDNs":
                return any(selecting.name_matches(one, name) for name in peer.names)
            case "Nodes":
                return selecting.nodes(one, peer)
            case "Services":
                return any(self._behind(service) for service in self._services(one))
        raise KeyError(kind)

    def _prefixes(self, block: Document) -> list[str]:
        if "cidr" in block:
            return [block["cidr"]]
        if "cidrGroupRef" in block:
            return list(self.oracle.groups[block["cidrGroupRef"]]["spec"]["externalCIDRs"])
        chosen = [
            group
            for group in self.oracle.groups.values()
            if selecting.selected(block["cidrGroupSelector"], group["metadata"]["labels"].get)
        ]
        return [cidr for group in chosen for cidr in group["spec"]["externalCIDRs"]]

    def _services(self, one: Document) -> Iterator[Document]:
        for service in self.oracle.services:
            metadata = service["metadata"]
            if "k8sService" in one:
                wanted = one["k8sService"]
                if (metadata["namespace"], metadata["name"]) == (wanted["namespace"], wanted["serviceName"]):
                    yield service
            else:
                wanted = one["k8sServiceSelector"]
                if wanted.get("namespace", metadata["namespace"]) == metadata["namespace"] and selecting.selected(
                    wanted["selector"], metadata["labels"].get
                ):
                    yield service

    def _behind(self, service: Document) -> bool:
        """Whether the peer is one of those that the service stands for."""
        namespace, peer = service["metadata"]["namespace"], self.peer
        if "selector" in service["spec"]:
            labels = service["spec"]["selector"].items()
            return peer.kind == "pod" and peer.namespace == namespace and labels <= peer.labels.items()
        return any(
            selecting.in_cidr(address, peer)
            for one in self.oracle.slices
            if one["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
            for endpoint in one["endpoints"]
            for address in endpoint["addresses"]
        )

    def _cilium_ports(self, rule: Document, action: str, namespace: str, features: set[str]) -> Iterator[Statement]:
        """Those parts of an element that cover the flow."""
        if "icmps" in rule:
            for element in rule["icmps"]:
                covering = self._covering([_message(one) for one in element["fields"]])
                if covering:
                    spans, _ = covering
                    yield Statement(NORMAL, (0, 0), action, spans, features=frozenset({*features, "icmps"}))
            return
        if "toPorts" not in rule:
            yield Statement(NORMAL, (0, 0), action, None, features=frozenset(features))
        for element in rule.get("toPorts", []):
            limits = {**element.get("rules", {}), **{key: element[key] for key in ("serverNames",) if key in element}}
            kind = next(iter(limits), "")
            covering = self._covering([span for port in element["ports"] for span in self._cilium_spans(port)])
            if covering is None or (kind and self.protocol not in SPEAKS[kind]):
                continue
            spans, more = covering
            of_limits = tuple((limit, namespace) for limit in limits.get(kind, ()))
            yield Statement(NORMAL, (0, 0), action, spans, kind, of_limits, frozenset({*features, *more}))

    def _cilium_spans(self, port: Document) -> Iterator[Span]:
        protocol = port.get("protocol", "ANY")
        if not port["port"].isdecimal():
            yield from self._named(port["port"], protocol)
            return
        first = int(port["port"])
        last = port.get("endPort", first) if first else 65535
        for one in TRANSPORTS if protocol == "ANY" else (protocol,):
            yield Span(one, first, last)

    # -- Kubernetes ---------------------------------------------------------------------------------------------------

    def kubernetes(self, document: Document, spec: Document) -> tuple[bool, list[Statement]]:
        """Whether it isolates the pod in this direction, and what its rules say."""
        types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
        if self.direction.capitalize() not in types:
            return False, []
        found: list[Statement] = []
        namespace = document["metadata"]["namespace"]
        for rule in spec.get(self.direction, []):
            peers, ports = rule.get(self.side, []), rule.get("ports", [])
            if peers and not any(self._kubernetes_peer(peer, namespace) for peer in peers):
                continue
            covering = self._covering([span for port in ports for span in self._kubernetes_spans(port)])
            if not ports:
                found.append(Statement(NORMAL, (0, 0), "allow", None, features=frozenset({"NetworkPolicy"})))
            elif covering:
                spans, more = covering
                features = frozenset({"NetworkPolicy", *more})
                found.append(Statement(NORMAL, (0, 0), "allow", spans, features=features))
        return True, found

    def _kubernetes_peer(self, peer: Document, namespace: str) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            carved = any(selecting.in_cidr(one, self.peer) for one in block.get("except", []))
            return selecting.in_cidr(block["cidr"], self.peer) and not carved
        return selecting.pods(peer.get("namespaceSelector"), peer.get("podSelector"), namespace, self.peer)

    def _kubernetes_spans(self, port: Document) -> Iterator[Span]:
        protocol, number = port.get("protocol", "TCP"), port.get("port", 0)
        if isinstance(number, str):
            yield from self._named(number, protocol)
            return
        yield Span(protocol, number, port.get("endPort", number or 65535))

    # -- the cluster's administrator ----------------------------------------------------------------------------------

    def admin(self, document: Document, spec: Document) -> tuple[bool, list[Statement]]:
        """Never asks for default deny. Its rules, each weaker than the one before."""
        tier = BASELINE if document["kind"].startswith("Baseline") or spec.get("tier") == "Baseline" else ADMIN
        action = {"Accept": "allow", "Allow": "allow", "Deny": "deny", "Pass": "pass"}
        found: list[Statement] = []
        for index, rule in enumerate(spec.get(self.direction, [])):
            features = {feature for peer in rule[self.side] for feature in self._admin_peer(peer)}
            if not features:
                continue
            strength, does = (spec.get("priority", 0), index), action[rule["action"]]
            ports = [*rule.get("ports", []), *rule.get("protocols", [])]
            covering = self._covering([span for port in ports for span in self._admin_spans(port)])
            if not ports:
                found.append(Statement(tier, strength, does, None, features=frozenset(features)))
            elif covering:
                spans, more = covering
                found.append(Statement(tier, strength, does, spans, features=frozenset({*features, *more})))
        return False, found

    def _admin_peer(self, peer: Document) -> Iterator[str]:
        """The kind of a peer that the flow's is."""
        ((kind, value),) = peer.items()
        if {
            "namespaces": lambda: _who(peer, self.peer),
            "pods": lambda: _who(peer, self.peer),
            "networks": lambda: any(selecting.in_cidr(cidr, self.peer) for cidr in value),
            "nodes": lambda: selecting.nodes(value, self.peer),
            "domainNames": lambda: any(
                selecting.domain_matches(domain, name) for domain in value for name in self.peer.names
            ),
        }[kind]():
            yield kind

    def _admin_spans(self, port: Document) -> Iterator[Span]:
        ((kind, value),) = port.items()
        match kind:
            case "namedPort" | "destinationNamedPort":
                yield from self._named(value, "ANY")
            case "portNumber":
                yield Span(value.get("protocol", "TCP"), value["port"], value["port"])
            case "portRange":
                yield Span(value.get("protocol", "TCP"), value["start"], value["end"])
            case _:
                wanted = value.get("destinationPort", {"range": {"start": 0, "end": 65535}})
                number = wanted.get("number", 0)
                span = wanted.get("range", {"start": number, "end": number})
                yield Span(kind.upper(), span["start"], span["end"])

    # -- ports --------------------------------------------------------------------------------------------------------

    def _named(self, wanted: str, protocol: str) -> Iterator[Span]:
        for name, of, number in self.names:
            if name == wanted and protocol in ("ANY", of):
                yield Span(of, number, number, named=True)

    def _covering(self, spans: list[Span]) -> tuple[frozenset[tuple[str, int, int]], set[str]] | None:
        """Those that cover the flow, and what is special about them."""
        covering = [span for span in spans if span.covers(self.protocol, self.port)]
        if not covering:
            return None
        features = {"named port"} if all(span.named for span in covering) else set()
        return frozenset((span.protocol, span.first, span.last) for span in covering), features


def _message(one: Document) -> Span:
    types = {"EchoRequest": {"IPv4": 8, "IPv6": 128}, "EchoReply": {"IPv4": 0, "IPv6": 129}}
    family = one.get("family", "IPv4")
    number = types[one["type"]][family] if one["type"] in types else int(one["type"])
    return Span({"IPv4": "ICMP", "IPv6": "ICMPV6"}[family], number, number)
