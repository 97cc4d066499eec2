# SPDX-License-Identifier: Apache-2.0
"""The engine and the oracle agree: on generated clusters, policies and flows, from the YAML to the kernel's entries.

For each flow three answers are compared: the oracle's, `judge`'s, and what the kernel finds in the entries that the
incremental resolver made. Where a proxy is asked, so are the proxies' matchers. L7GATE_ORACLE_EXAMPLES sets how many
clusters (default: what a few seconds allow; a night of it: 100000).
"""

import ipaddress
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l7policy import documents, names, resolve
from l7policy.entries import Entry
from l7policy.http import http_rules
from l7policy.ids import ANY_IDENTITY, EndpointId, IdentityId
from l7policy.judgement import PolicyVerdict, judge
from l7policy.labels import workload_labels
from l7policy.model import Labels
from l7policy.policydoc import Policy, Source
from l7policy.resolver import Resolver, Workload, keyed
from l7policy.verdict import Direction, Protocol, ProxyKind

EXAMPLES = int(os.environ.get("L7GATE_ORACLE_EXAMPLES", "150"))

Document = dict[str, Any]
NAMESPACES = {"shop": {"team": "red"}, "bank": {"team": "blue", "env": "prod"}}
PODS = [
    ("shop", {"app": "web", "tier": "front"}),
    ("shop", {"app": "db"}),
    ("bank", {"app": "web"}),
    ("bank", {"app": "api", "tier": ""}),
]
OUTSIDE = [
    ("192.0.2.1", ()),
    ("192.0.2.130", ("www.example.com",)),
    ("198.51.100.7", ("api.example.com", "www.example.net")),
    ("203.0.113.9", ("a.b.example.com",)),
    ("2001:db8::5", ()),
    ("2001:db8:1::5", ("example.com",)),
]
PREFIXES = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.1/32", "198.51.100.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32"]
INSIDE = {"192.0.2.0/24": ["192.0.2.0/25", "192.0.2.1/32", "192.0.2.128/25"], "2001:db8::/32": ["2001:db8:1::/48"]}
NAMES = [
    {"matchName": "www.example.com"},
    {"matchName": "Example.com."},
    {"matchPattern": "*.example.com"},
    {"matchPattern": "**.example.com"},
    {"matchPattern": "*.*.example.com"},
    {"matchPattern": "w*w.example.*"},
    {"matchPattern": "*"},
]
QUERIES = [
    "example.com.",
    "www.example.com.",
    "WWW.example.com",
    "a.b.example.com.",
    "www.example.net.",
    "ww.example.org.",
]
REQUESTS = [("GET", "/"), ("GET", "/items?x=1"), ("POST", "/items"), ("get", "/items"), ("GET", "/items/7")]
NUMBERS = [80, 80, 53, 1, 79, 81, 443]
PROTOCOLS = ["TCP", "UDP", "SCTP", "ICMP"]


def subsets(elements: list[Any], low: int = 0, high: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(elements), min_size=low, max_size=high, unique_by=repr)


def selectors(keys: dict[str, list[str]]) -> st.SearchStrategy[Document]:
    """Label selectors over these keys and values."""
    labels = st.sampled_from([(key, value) for key, values in keys.items() for value in values])
    expressions = st.sampled_from(sorted(keys)).flatmap(
        lambda key: (
            st.fixed_dictionaries(
                {
                    "key": st.just(key),
                    "operator": st.sampled_from(["In", "NotIn"]),
                    "values": st.lists(st.sampled_from(keys[key]), min_size=1, max_size=2, unique=True),
                }
            )
            | st.fixed_dictionaries({"key": st.just(key), "operator": st.sampled_from(["Exists", "DoesNotExist"])})
        )
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "matchLabels": st.lists(labels, max_size=2).map(dict),
            "matchExpressions": st.lists(expressions, max_size=1),
        },
    )


PLAIN = {"app": ["web", "db", "api"], "tier": ["front", ""]}
CILIUM = selectors({**PLAIN, "k8s:app": ["web", "db"]})
PEERS = (
    CILIUM
    | selectors(
        {
            **PLAIN,
            "k8s:io.kubernetes.pod.namespace": ["shop", "bank"],
            "io.kubernetes.pod.namespace": ["bank"],
            "k8s:io.cilium.k8s.namespace.labels.team": ["red", "blue"],
        }
    )
    | st.sampled_from([{"matchLabels": {"reserved:host": ""}}, {"matchLabels": {"reserved:world": ""}}])
)
KUBERNETES = selectors(PLAIN)
OF_NAMESPACES = selectors({"team": ["red", "blue"], "env": ["prod"], "kubernetes.io/metadata.name": ["shop", "bank"]})


@st.composite
def blocks(draw: st.DrawFn) -> Document:
    cidr = draw(st.sampled_from(PREFIXES))
    block: Document = {"cidr": cidr}
    if carved := draw(subsets(INSIDE.get(cidr, []), high=1) if cidr in INSIDE else st.just([])):
        block["except"] = carved
    return block


@st.composite
def port_ranges(draw: st.DrawFn, protocols: list[str], *, ranges: bool = True, zero: bool = True) -> Document:
    first = draw(st.sampled_from([*NUMBERS, 0] if zero else NUMBERS))
    found: Document = {"port": str(first)}
    if protocols != ["ANY"]:
        found["protocol"] = draw(st.sampled_from(protocols))
    if ranges and first and draw(st.booleans()):
        found["endPort"] = draw(st.sampled_from([number for number in NUMBERS if number >= first]))
    return found


@st.composite
def to_ports(draw: st.DrawFn, direction: str, *, deny: bool) -> Document:
    kind = draw(st.sampled_from(["plain", "http", "http", *(["dns", "dns"] if direction == "egress" else [])]))
    if deny or kind == "plain":
        strategy = port_ranges(["TCP", "UDP", "SCTP", "ANY"])
        return {"ports": draw(st.lists(strategy, min_size=1, max_size=2))}
    if kind == "http":
        requests = st.sampled_from(
            [
                {},
                {"method": "GET"},
                {"path": "/items"},
                {"method": "GET|POST", "path": "/items|/"},
                {"path": "/items/.*"},
            ]
        )
        return {
            "ports": draw(st.lists(port_ranges(["TCP"], zero=False), min_size=1, max_size=2)),
            "rules": {"http": draw(st.lists(requests, min_size=1, max_size=2))},
        }
    strategy = port_ranges(["TCP", "UDP", "ANY"], ranges=False, zero=False)
    return {
        "ports": draw(st.lists(strategy, min_size=1, max_size=2)),
        "rules": {"dns": draw(subsets(NAMES, low=1))},
    }


@st.composite
def cilium_rules(draw: st.DrawFn, direction: str, *, deny: bool) -> Document:
    side = "from" if direction == "ingress" else "to"
    rule: Document = {}
    kinds = ["any", "Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet"]
    match draw(st.sampled_from(["any", *kinds] + (["FQDNs"] if side == "to" and not deny else []))):
        case "Endpoints":
            rule[f"{side}Endpoints"] = draw(st.lists(PEERS, max_size=2))
        case "Entities":
            entities = ["all", "world", "none", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node"]
            rule[f"{side}Entities"] = draw(subsets(entities))
        case "CIDR":
            rule[f"{side}CIDR"] = draw(subsets(PREFIXES))
        case "CIDRSet":
            rule[f"{side}CIDRSet"] = draw(st.lists(blocks(), max_size=2))
        case "FQDNs":
            rule["toFQDNs"] = draw(subsets(NAMES))
    if draw(st.booleans()) or (deny and not rule):
        rule["toPorts"] = draw(st.lists(to_ports(direction, deny=deny), min_size=1, max_size=2))
    return rule


@st.composite
def cilium_specs(draw: st.DrawFn) -> Document:
    spec: Document = {"endpointSelector": draw(st.just({}) | CILIUM)}
    sections = draw(subsets(["ingress", "egress", "ingressDeny", "egressDeny"], low=1, high=3))
    for section in sections:
        deny = section.endswith("Deny")
        rules = cilium_rules(section.removesuffix("Deny"), deny=deny)
        spec[section] = draw(st.lists(rules, min_size=1, max_size=2))
    if draw(st.integers(0, 2)) == 0:
        spec["enableDefaultDeny"] = draw(
            st.fixed_dictionaries({}, optional={"ingress": st.booleans(), "egress": st.booleans()})
        )
    return spec


@st.composite
def kubernetes_specs(draw: st.DrawFn) -> Document:
    spec: Document = {"podSelector": draw(st.just({}) | KUBERNETES)}
    ports = st.fixed_dictionaries({}, optional={"protocol": st.sampled_from(["TCP", "UDP", "SCTP"])}) | st.tuples(
        st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.booleans()
    ).map(lambda drawn: {"port": min(drawn[:2]), **({"endPort": max(drawn[:2])} if drawn[2] else {})})
    peers = (
        st.fixed_dictionaries({"podSelector": KUBERNETES}, optional={"namespaceSelector": OF_NAMESPACES})
        | st.fixed_dictionaries({"namespaceSelector": OF_NAMESPACES})
        | st.fixed_dictionaries({"ipBlock": blocks()})
    )
    for section, side in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            rules = st.fixed_dictionaries(
                {}, optional={side: st.lists(peers, max_size=2), "ports": st.lists(ports, max_size=2)}
            )
            spec[section] = draw(st.lists(rules, max_size=2))
    if draw(st.booleans()):
        spec["policyTypes"] = draw(subsets(["Ingress", "Egress"]))
    return spec


@st.composite
def policy_documents(draw: st.DrawFn, number: int) -> Document:
    kind = draw(st.sampled_from(["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"]))
    metadata = {"name": f"p{number}"}
    if kind != "CiliumClusterwideNetworkPolicy":
        metadata["namespace"] = draw(st.sampled_from(sorted(NAMESPACES)))
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    document: Document = {"apiVersion": version, "kind": kind, "metadata": metadata}
    if kind == "NetworkPolicy":
        document["spec"] = draw(kubernetes_specs())
    elif draw(st.integers(0, 4)) == 0:
        document["specs"] = draw(st.lists(cilium_specs(), min_size=1, max_size=2))
    else:
        document["spec"] = draw(cilium_specs())
    return document


SETS = st.integers(1, 4).flatmap(
    lambda count: st.tuples(*(policy_documents(number) for number in range(count))).map(list)
)
FLOWS = st.lists(
    st.tuples(
        st.integers(0, len(PODS) - 1),
        st.sampled_from(["ingress", "egress"]),
        st.integers(0, len(PODS) + len(OUTSIDE) + 1),
        st.sampled_from(["TCP", "TCP", "TCP", "TCP", "UDP", *PROTOCOLS]),
        st.sampled_from([80, 80, 80, 53, *NUMBERS, 0, 8, 65535]),
    ),
    min_size=12,
    max_size=30,
)


def pod_labels(namespace: str, labels: dict[str, str]) -> Labels:
    of_namespace = {f"io.cilium.k8s.namespace.labels.{key}": value for key, value in NAMESPACES[namespace].items()}
    everything = {**labels, **of_namespace, "io.kubernetes.pod.namespace": namespace}
    return workload_labels(f"{key}={value}" for key, value in everything.items())


def outside_labels(policies: tuple[Policy, ...], address: str, learnt: tuple[str, ...]) -> Labels:
    """What the agent and the DNS process give an address outside."""
    parsed = ipaddress.ip_address(address)
    around = [cidr for cidr in resolve.cidrs(policies) if parsed in ipaddress.ip_network(cidr)]
    longest = max(around, key=lambda cidr: int(cidr.partition("/")[2]), default=None)
    labels = resolve.cidr_labels(longest, resolve.cidrs(policies)) if longest else frozenset({"reserved:world"})
    selecting = resolve.selectors(policies)
    return labels | {peer.label for name in learnt for peer in names.matching(selecting, name)}


class Engine:
    """l7policy as the agent, the kernel and the proxies use it."""

    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self.labels: list[Labels] = [
            *(pod_labels(*pod) for pod in PODS),
            *(outside_labels(policies, *one) for one in OUTSIDE),
            frozenset({"reserved:host"}),
            frozenset({"reserved:remote-node"}),
        ]
        self.resolver = Resolver()
        delta = self.resolver.update(
            policies=keyed(policies),
            endpoints={EndpointId(number + 1): Workload(self.labels[number]) for number in range(len(PODS))},
            identities={IdentityId(256 + number): labels for number, labels in enumerate(self.labels)},
        )
        self.rows: dict[tuple[bytes, int, int, int, int], Entry] = {}
        for row in delta.rows:
            for entry in row.added():
                bits = entry.prefix_bits
                head = (entry.protocol << 16 | entry.port) >> (24 - bits)
                self.rows[row.policy, entry.identity, entry.direction, bits, head] = entry

    def kernel(
        self, pod: int, direction: Direction, peer: int, protocol: int, port: int
    ) -> tuple[PolicyVerdict, ProxyKind]:
        """As the datapath looks it up."""
        digest = self.resolver.digest_of(EndpointId(pod + 1))
        found = [self._longest(digest, identity, direction, protocol, port) for identity in (256 + peer, ANY_IDENTITY)]
        strongest = max((entry for entry in found if entry is not None), key=lambda e: e.precedence, default=None)
        return (PolicyVerdict.DENY, ProxyKind.NONE) if strongest is None else (strongest.verdict, strongest.proxy)

    def _longest(self, digest: bytes, identity: int, direction: int, protocol: int, port: int) -> Entry | None:
        heads = (((protocol << 16 | port) >> (24 - bits), bits) for bits in range(24, -1, -1))
        rows = (self.rows.get((digest, identity, direction, bits, head)) for head, bits in heads)
        return next((row for row in rows if row is not None), None)


def expected(answer: Any) -> tuple[PolicyVerdict, ProxyKind]:
    return {
        "allow": (PolicyVerdict.ALLOW, ProxyKind.NONE),
        "deny": (PolicyVerdict.DENY, ProxyKind.NONE),
        "http": (PolicyVerdict.REDIRECT, ProxyKind.HTTP),
        "dns": (PolicyVerdict.REDIRECT, ProxyKind.DNS),
    }[answer.verdict]


@pytest.fixture(scope="session")
def compare(oracle: Callable[..., Any], party: Callable[..., Any]) -> Callable[..., None]:
    parties = [
        *(party("pod", labels, namespace, NAMESPACES[namespace]) for namespace, labels in PODS),
        *(party("outside", address=address, names=learnt) for address, learnt in OUTSIDE),
        party("host"),
        party("remote-node"),
    ]

    def compared(found: list[Document], flows: list[tuple[int, str, int, str, int]]) -> None:
        text = "\n---\n".join(json.dumps(document) for document in found)
        engine, truth = Engine(documents.load([Source("generated.yaml", text)])), oracle(found)
        for pod, side, peer, protocol_name, port in flows:
            direction, protocol = Direction[side.upper()], Protocol[protocol_name]
            answer = truth.judge(parties[pod], side, parties[peer], protocol_name, port)
            policy = engine.resolver.policy_of(EndpointId(pod + 1))
            judged = judge(policy, direction, engine.labels[peer], protocol, port)
            flow = f"{side} of pod {pod} with {parties[peer]} {protocol_name} {port}\n{text}"
            assert (judged.verdict, judged.proxy) == expected(answer), f"judge: {flow}"
            if policy.enforces(direction):
                assert engine.kernel(pod, direction, peer, protocol, port) == expected(answer), f"kernel: {flow}"
            if answer.verdict == "http":
                matcher = http_rules(judged.http or ())
                for method, path in REQUESTS:
                    passed = matcher.match(method.encode(), path.encode(), b"host", ())
                    assert passed == answer.passes((method, path)), f"{method} {path}: {flow}"
            if answer.verdict == "dns":
                for name in QUERIES:
                    passed = names.name_set(judged.dns or ()).matches(names.canonical(name))
                    assert passed == answer.passes(name), f"{name}: {flow}"

    return compared


@given(SETS, FLOWS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@pytest.mark.timeout(0 if "L7GATE_ORACLE_EXAMPLES" in os.environ else 120)
def test_the_engine_and_the_oracle_agree(
    compare: Callable[..., None], found: list[Document], flows: list[tuple[int, str, int, str, int]]
) -> None:
    compare(found, flows)
