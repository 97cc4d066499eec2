# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.rulelint."""

import pytest

from l7policy import cluster, documents, rulelint
from l7policy.policydoc import Source

HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME}
spec:
  endpointSelector: {matchLabels: {SUBJECT}}
"""
TO_API = "toEndpoints: [{matchLabels: {app: api}}]"
HTTP = 'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]'
PORT_80 = 'toPorts: [{ports: [{port: "80", protocol: TCP}]}]'
PORT_81 = 'toPorts: [{ports: [{port: "81", protocol: TCP}]}]'
ALL_PORTS = 'toPorts: [{ports: [{port: "1", endPort: 65535, protocol: TCP}]}]'
DNS = 'toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*.example.com"}]}}]'
PODS = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n"


def policy(*rules: str, name: str = "web", subject: str = "app: web", deny: tuple[str, ...] = ()) -> str:
    text = HEAD.replace("NAME", name).replace("SUBJECT", subject)
    text += "  egress:\n" + "".join(f"    - {{{rule}}}\n" for rule in rules)
    return text + ("  egressDeny:\n" + "".join(f"    - {{{rule}}}\n" for rule in deny) if deny else "")


def found(*texts: str, pods: str = "") -> list[tuple[str, int, str]]:
    policies = documents.load([Source(f"{n}.yaml", text) for n, text in enumerate(texts)])
    known = cluster.read([Source("pods.yaml", pods)]) if pods else None
    return [(one.path, one.line, one.rule) for one in rulelint.warnings(policies, known)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((policy(f"{TO_API}, {HTTP}", f"{TO_API}, {PORT_80}"),), [("0.yaml", 8, "voided-l7")]),
        ((policy(f"{TO_API}, {HTTP}"), policy(f"{TO_API}, {PORT_80}", name="b")), [("1.yaml", 7, "voided-l7")]),
        ((policy(f"{TO_API}, {HTTP}"), policy(PORT_80, name="b", subject="")), [("1.yaml", 7, "voided-l7")]),
        ((policy(f"{TO_API}, {HTTP}", f"{TO_API}, {ALL_PORTS}"),), []),
        ((policy(f"{TO_API}, {HTTP}", f"{TO_API}, {PORT_81}"),), []),
        ((policy(f"{TO_API}, {HTTP}", f"toCIDR: [192.0.2.0/24], {PORT_80}"),), []),
        ((policy(f"{TO_API}, {HTTP}"), policy(f"{TO_API}, {PORT_80}", name="b", subject="app: c")), []),
    ],
)
def test_an_allow_that_voids_limits_is_told(texts: tuple[str, ...], expected: list[tuple[str, int, str]]) -> None:
    assert found(*texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (policy("toFQDNs: [{matchName: a.example.com}]"), [("0.yaml", 7, "fqdn-without-dns")]),
        (policy("toFQDNs: [{matchName: a.example.com}]", DNS), []),
        (policy("toFQDNs: [{matchName: a.b.example.com}]", DNS), [("0.yaml", 7, "fqdn-without-dns")]),
        (policy("toFQDNs: [{matchPattern: '*.b.example.com'}]", DNS), []),
    ],
)
def test_names_that_nobody_may_ask_for_are_told(text: str, expected: list[tuple[str, int, str]]) -> None:
    assert found(text) == expected


def test_the_rule_for_names_may_be_in_a_wider_policy() -> None:
    names = policy("toFQDNs: [{matchName: a.example.com}]")
    assert found(names, policy(DNS, name="dns", subject="")) == []
    assert found(names, policy(DNS, name="dns", subject="app: other")) == [("0.yaml", 7, "fqdn-without-dns")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (policy("toCIDR: [192.0.2.1/32]", "toCIDR: [192.0.2.0/24]"), [("0.yaml", 7, "shadowed-rule")]),
        (policy("toCIDR: [192.0.2.0/24]", "toCIDR: [192.0.2.0/24]"), [("0.yaml", 8, "shadowed-rule")]),
        (policy(f"toCIDR: [192.0.2.1/32], {PORT_80}", "toCIDR: [192.0.2.0/24]"), [("0.yaml", 7, "shadowed-rule")]),
        (policy(f"toCIDR: [192.0.2.1/32], {PORT_80}", PORT_81), []),
        (policy("toCIDR: [192.0.2.0/24]", "toCIDR: [192.0.2.1/32, 198.51.100.1/32]"), []),
        (policy("toCIDR: [192.0.2.0/24]", "toEntities: [world]"), [("0.yaml", 7, "shadowed-rule")]),
        (policy("toEntities: [world-ipv6]", "toEntities: [world]"), [("0.yaml", 7, "shadowed-rule")]),
        (policy(TO_API, "toEntities: [world]"), []),
        (policy(f"{TO_API}, {HTTP}", TO_API), []),
        (policy(f"{TO_API}, {HTTP}", deny=(TO_API,)), [("0.yaml", 7, "shadowed-rule")]),
        (policy(TO_API, deny=(f"{TO_API}, {PORT_80}",)), []),
        (policy(PORT_80, deny=("toEntities: [all]",)), []),
        (
            policy("toCIDR: [192.0.2.0/24]", deny=("toCIDR: [192.0.2.1/32]", "toCIDR: [192.0.2.1/32]")),
            [("0.yaml", 10, "shadowed-rule")],
        ),
    ],
)
def test_a_rule_that_never_decides_is_told(text: str, expected: list[tuple[str, int, str]]) -> None:
    assert found(text) == expected


def test_selectors_that_match_no_pod_are_told_when_the_pods_are_known() -> None:
    text = policy(TO_API, "toEndpoints: [{matchLabels: {app: web}}]", "toCIDR: [192.0.2.0/24]")
    assert found(text) == []
    assert found(text, pods=PODS) == [("0.yaml", 7, "selects-nothing")]
    assert found(policy(TO_API, subject="app: none"), pods=PODS) == [
        ("0.yaml", 1, "selects-nothing"),
        ("0.yaml", 7, "selects-nothing"),
    ]


def test_what_the_daemon_would_refuse_is_told() -> None:
    reading = "toEndpoints: [{matchExpressions: [{key: 'reserved:kube-apiserver', operator: DoesNotExist}]}]"
    assert found(policy(reading)) == [("0.yaml", 7, "not-enforced")]
    assert found(policy("toEntities: [kube-apiserver]")) == []


@pytest.mark.parametrize(
    ("ingress", "told"),
    [
        ("[{fromEntities: [world], toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]", True),
        ("[{fromCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '1', endPort: 1023, protocol: TCP}]}]}]", False),
        ("[{fromCIDR: [192.0.2.0/24]}]", False),
        ("[{}]", True),
        ("[{fromCIDR: [192.0.2.0/24]}]\n  ingressDeny: [{fromCIDR: [192.0.0.0/16]}]", True),
        ("[{fromCIDR: [192.0.2.0/24]}]\n  ingressDeny: [{fromCIDR: [192.0.2.0/25]}]", False),
        ("[{fromCIDR: [192.0.2.0/24]}]\n  ingressDeny: [{toPorts: [{ports: [{port: '23'}]}]}]", False),
        ("[{fromCIDR: [192.0.2.0/24]}]\n  ingressDeny: [{toPorts: [{ports: [{port: '22'}]}]}]", True),
    ],
)
def test_host_policies_that_nobody_can_log_in_by_are_told(ingress: str, told: bool) -> None:
    text = HEAD.replace("NetworkPolicy", "ClusterwideNetworkPolicy").replace("NAME", "node").partition("  endpoint")[0]
    expected = [("0.yaml", 1, "locks-out")] if told else []
    told_here = found(f"{text}  nodeSelector: {{}}\n  ingress: {ingress}\n")
    assert [one for one in told_here if one[2] != "shadowed-rule"] == expected


def test_a_policy_for_an_endpoint_of_ciliums_own_is_taken_and_told_to_select_nothing() -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: health}\nspec:\n"
        "  endpointSelector: {matchLabels: {'reserved:health': ''}}\n  ingress: [{fromEntities: [remote-node]}]\n"
    )
    assert found(text) == [("0.yaml", 1, "selects-nothing")]


def test_selectors_of_nodes_that_match_none_are_told_when_the_nodes_are_known() -> None:
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {role: a}}\n"
    text = policy("toNodes: [{matchLabels: {role: b}}]", "toNodes: [{matchLabels: {role: a}}]")
    assert found(text, pods=PODS) == []
    assert found(text, pods=f"{PODS}---\n{node}") == [("0.yaml", 7, "selects-nothing")]
