# SPDX-License-Identifier: Apache-2.0
"""What no policy file can do: crash the reader, slip a field past it, or make a rule that says more than written."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import capability, entries, envelope, http, ids, resolve, sni
from l7policy.documents import Loader, Policy, Source, load, load_enforced
from l7policy.errors import PolicyErrors
from l7policy.model import LAST_PRIORITY, Action, NamedPort, Tier
from l7policy.verdict import Protocol

EXAMPLES = sorted((Path(__file__).parents[3] / "examples/policies").glob("*.yaml"))
VOCABULARY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: words}
spec:
  endpointSelector: {matchLabels: {'k8s:app': web}}
  log: {value: audited}
  enableDefaultDeny: {ingress: false}
  ingress: [{fromNodes: [{matchLabels: {role: db}}], icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]}]
  egressDeny: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.0/25]}]}]
  egress:
  - toEntities: [world]
    toPorts:
    - {ports: [{port: '443', protocol: TCP}], serverNames: ['**.example.com']}
    - ports: [{port: web, protocol: TCP}]
      rules: {http: [{headerMatches: [{name: X-A, secret: {name: s}, value: b, mismatch: ADD}], headers: ['X-B: c']}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: host}
spec: {nodeSelector: {matchLabels: {role: db}}, ingress: [{fromEntities: [kube-apiserver]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: admin}
spec:
  priority: 7
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress: [{action: Pass, from: [{namespaces: {}}], ports: [{portRange: {start: 1, end: 9, protocol: UDP}}]}]
  egress: [{action: Allow, to: [{domainNames: ['*.example.com']}], ports: [{portNumber: {port: 443}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: cluster}
spec:
  tier: Baseline
  priority: 1000
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]
  egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}, {nodes: {}}], protocols: [{sctp: {}}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: vpn, labels: {team: net}}
spec: {externalCIDRs: [192.0.2.0/24]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db, namespace: shop, labels: {kubernetes.io/service-name: db}}
endpoints: [{addresses: [192.0.2.7]}]
"""
DOCUMENTS = [
    *(document for path in EXAMPLES for document in yaml.safe_load_all(path.read_text("utf-8"))),
    *yaml.safe_load_all(VOCABULARY),
]
POLICIES = [document for document in DOCUMENTS if document["kind"] not in ("Service", "EndpointSlice")]
"""Of the other two, which are Kubernetes' own, only what a policy refers to is looked at."""
KEYS = st.sampled_from(
    """
    apiVersion kind metadata spec specs name namespace endpointSelector podSelector namespaceSelector ingress egress
    ingressDeny egressDeny enableDefaultDeny fromEndpoints toEndpoints toCIDR toCIDRSet fromCIDRSet toFQDNs toEntities
    fromEntities toPorts ports port endPort protocol rules http dns method path host headers matchName matchPattern
    matchLabels matchExpressions key operator values cidr except from to ipBlock policyTypes toServices icmps items
    labels description k8s:app reserved:host log value fields type family nodeSelector toNodes cidrGroupRef
    cidrGroupSelector k8sService k8sServiceSelector serviceName selector serverNames headerMatches mismatch secret
    priority tier subject namespaces pods networks domainNames nodes action portNumber portRange namedPort protocols
    tcp destinationPort number range start end externalCIDRs endpoints addresses
    """.split()  # noqa: SIM905  a list would take fifty lines
)
WORDS = st.sampled_from(
    """
    80 0 TCP UDP ANY GET ( *.example.com a.example 192.0.2.0/24 192.0.2.0/25 ::/0 world host In Exists NotIn Ingress
    Egress cilium.io/v2 networking.k8s.io/v1 CiliumNetworkPolicy NetworkPolicy List v1 X-Key:true
    http EchoRequest IPv6 ADD Accept Allow Pass Admin vpn db
    ClusterNetworkPolicy CiliumCIDRGroup Service
    """.split()  # noqa: SIM905
)
SCALARS = st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=8) | WORDS
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in the tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from places(tree[key])


def read(document: Any) -> tuple[Policy, ...]:
    return load([Source("f", json.dumps(document, indent=1, ensure_ascii=False))])


LABELS = (
    frozenset({"k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"}),
    frozenset({"reserved:host", "k8s:role=db"}),
)
CLUSTER_PORTS = {LABELS[0]: (NamedPort("web", Protocol.TCP, 8080), NamedPort("http", Protocol.TCP, 80))}


def check(policies: tuple[Policy, ...]) -> None:
    """What the engine takes for granted of every rule."""
    for policy in policies:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy) == policy
        for rule in policy.rules:
            assert rule.origin.policy == policy.name
            assert rule.origin.line >= 1
            assert all(0 <= port.first <= port.last <= 65535 for port in rule.ports)
            limits = [limit for limit in (rule.http, rule.dns, rule.server_names) if limit is not None]
            assert len(limits) <= (rule.action == Action.ALLOW)
            assert all(limits)
            assert rule.ports or not limits
            http.HttpRules(rule.http or ())
            sni.ServerNames(rule.server_names or ())
            assert rule.peers is not None or rule.ports or policy.kind == "NetworkPolicy"
            assert 0 <= rule.priority < LAST_PRIORITY
            assert rule.tier == Tier.NORMAL or not limits
    capability.unsupported(policies)
    for labels in LABELS:
        resolved = resolve.endpoint_policy(policies, labels, cluster_ports=CLUSTER_PORTS)
        assert not any(port.name for rule in resolved.rules for port in rule.ports)
        entries.entries(resolved, ids.ANY_IDENTITY, None)
        entries.entries(resolved, ids.IdentityId(300), labels)


def check_errors(refused: PolicyErrors) -> None:
    """What people take for granted of every error."""
    assert refused.errors
    for error in refused.errors:
        assert error.path == "f"
        assert error.message
        assert "\n" not in str(error)


def read_or_refuse(document: Any) -> None:
    try:
        found = read(document)
    except PolicyErrors as refused:
        check_errors(refused)
    else:
        check(found)


@settings(max_examples=150)
@given(st.data())
def test_a_document_with_anything_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(document))))
        container[key] = data.draw(TREES)
    read_or_refuse(document)


@settings(max_examples=150)
@given(st.sampled_from(sorted(set(envelope.API_VERSIONS) - {"List"})), TREES)
def test_a_spec_of_anything_is_read_or_refused(kind: str, spec: Any) -> None:
    read_or_refuse(
        {"apiVersion": envelope.API_VERSIONS[kind][0], "kind": kind, "metadata": {"name": "a"}, "spec": spec}
    )


@settings(max_examples=100)
@given(st.data())
def test_an_element_of_anything_is_read_or_refused(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(["ingress", "egress", "ingressDeny", "egressDeny"]))
    element = data.draw(st.dictionaries(KEYS, TREES, max_size=3))
    head = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"}}
    read_or_refuse({**head, "spec": {"endpointSelector": {}, section: [element]}})


@settings(max_examples=100)
@given(st.sampled_from(POLICIES), st.data())
def test_no_field_is_ever_passed_over(original: Any, data: st.DataObject) -> None:
    document = copy.deepcopy(original)
    mappings = [c[k] for c, k in places(document) if isinstance(c[k], dict) and k not in ("matchLabels", "labels")] + [
        document
    ]
    data.draw(st.sampled_from(mappings))["surprise"] = data.draw(st.none() | st.integers(0, 9))
    with pytest.raises(PolicyErrors) as caught:
        read(document)
    text = json.dumps(document, indent=1, ensure_ascii=False).splitlines()
    assert any(
        "unknown field surprise" in error.message and '"surprise"' in text[error.line - 1]
        for error in caught.value.errors
    )


@settings(max_examples=100)
@given(
    st.text()
    | st.sampled_from([path.read_text("utf-8") for path in EXAMPLES]).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda end: text[:end])
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = load([Source("f", text)])
    except PolicyErrors as refused:
        check_errors(refused)
    else:
        check(found)


def policy_text(name: str, spec: str) -> str:
    head = f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\n"
    return f"{head}spec: {{endpointSelector: {{}}, {spec}}}\n"


def group_text(cidr: str) -> str:
    return (
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: vpn, labels: {team: net}}\n"
        f"spec: {{externalCIDRs: [{cidr}]}}\n"
    )


TEXTS = st.lists(
    st.sampled_from(
        [
            policy_text("plain", "ingress: [{}]"),
            policy_text("plain", "egress: [{toCIDR: [192.0.2.0/24]}]"),
            policy_text("by-name", "egress: [{toCIDRSet: [{cidrGroupRef: vpn}]}]"),
            policy_text("by-label", "egress: [{toCIDRSet: [{cidrGroupSelector: {matchLabels: {team: net}}}]}]"),
            policy_text("nodes", "egress: [{toNodes: [{}]}]"),
            policy_text("wrong", "egres: []"),
            group_text("192.0.2.0/24"),
            group_text("198.51.100.0/24"),
            "# nothing\n",
            "a: [b\n",
        ]
    ),
    max_size=4,
).map("---\n".join)


def outcome(reading: Callable[[list[Source]], tuple[Policy, ...]], sources: list[Source]) -> Any:
    try:
        return reading(sources)
    except PolicyErrors as refused:
        return refused.errors


@settings(max_examples=150)
@given(st.lists(st.tuples(st.lists(TEXTS, max_size=2), st.booleans()), max_size=6))
def test_who_remembers_the_last_reading_comes_to_the_same_as_who_does_not(steps: list[tuple[list[str], bool]]) -> None:
    loader = Loader()
    for texts, enforced in steps:
        sources = [Source(f"{number}.yaml", text) for number, text in enumerate(texts)]
        remembering = loader.load_enforced if enforced else loader.load
        assert outcome(remembering, sources) == outcome(load_enforced if enforced else load, sources)
