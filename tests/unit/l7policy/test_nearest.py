# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.nearest: what is proposed for which deny, and that carrying it out works."""

from typing import Any

import pytest

from l7policy import documents, question
from l7policy.cluster import Cluster
from l7policy.explain import Explanation, explain
from l7policy.policydoc import Source

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints:
        - matchLabels: {app: api}
      toPorts:
        - ports:
            - {port: "80", protocol: TCP}
          rules:
            http:
              - {method: GET, path: "/a"}
              - {method: GET, path: "/h", host: "api[.]test", headers: ["X-Key: 1"]}
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules:
            dns:
              - matchPattern: "*.example.com"
    - toFQDNs:
        - matchName: api.example.com
      toPorts:
        - ports: [{port: "443", protocol: TCP}]
    - toEntities: [host]
    - toCIDR:
        - 198.51.100.0/24
  egressDeny:
    - toCIDR: [198.51.100.7/32]
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: []
"""
HTTP = "rules.http of default/web egress[0].toPorts[0] (p.yaml:10)"
NAMESPACE = "io.kubernetes.pod.namespace=default"


def ask(text: str, destination: str, port: str, **parts: Any) -> Explanation:
    policies = documents.load([Source("p.yaml", text), Source("i.yaml", INGRESS)])
    if "http" in parts:
        parts["http"] = question.request(*parts["http"])
    sides = question.side("app=web", Cluster()), question.side(destination, Cluster())
    return explain(policies, question.ask(*sides, port, **parts))


@pytest.mark.parametrize(
    ("destination", "port", "parts", "nearest"),
    [
        ("app=api", "81", {}, "add port 81/TCP to default/web egress[0].toPorts[0] (p.yaml:10)"),
        (
            "app=db",
            "80",
            {"http": ("GET /a",)},
            f"add toEndpoints {{app=db, {NAMESPACE}}} to default/web egress[0].toPorts[0] (p.yaml:10)",
        ),
        ("app=api", "80", {"http": ("POST /a",)}, f'in {HTTP}: change method "GET" to "GET|POST"'),
        ("app=api", "80", {"http": ("GET /a?q",)}, f'in {HTTP}: change path "/a" to "/a(\\?.*)?"'),
        ("app=api", "80", {"http": ("GET /a/",)}, f'in {HTTP}: change path "/a" to "/a/?"'),
        ("app=api", "80", {"http": ("GET /a/b",)}, f'in {HTTP}: change path "/a" to "/a/.*"'),
        ("app=api", "80", {"http": ("GET /b.c",)}, f'in {HTTP}: change path "/a" to "/a|/b\\.c"'),
        (
            "app=api",
            "80",
            {"http": ("GET /h", "api.test")},
            f'in {HTTP}: send the header "X-Key: 1", or do not ask for it',
        ),
        (
            "192.0.2.10",
            "53/UDP",
            {"dns": "b.example"},
            "add matchName: b.example to rules.dns of default/web egress[1]",
        ),
        (
            "fqdn:b.example.com",
            "443",
            {},
            "add toFQDNs matchName: b.example.com to default/web egress[2].toPorts[0] (p.yaml:25)",
        ),
        ("203.0.113.1", "443/UDP", {}, "add toCIDR 203.0.113.1/32 to default/web egress[4] (p.yaml:27)"),
        ("reserved:remote-node", "22", {}, "add toEntities remote-node to default/web egress[3] (p.yaml:26)"),
        (
            "198.51.100.7",
            "80",
            {},
            "remove or narrow the deny rule default/web egressDeny[0] (p.yaml:30)",
        ),
        (
            "app=closed",
            "80",
            {"http": ("PUT /c",)},
            (
                f"add an egress rule to default/web (p.yaml:1): toEndpoints {{app=closed, {NAMESPACE}}}, port 80/TCP;"
                " and add an ingress rule to networkpolicy:default/closed (i.yaml:1):"
                f" fromEndpoints {{app=web, {NAMESPACE}}}, port 80/TCP"
            ),
        ),
        ("app=api", "icmp:8", {}, "add an egress rule to default/web (p.yaml:1): toEndpoints"),
    ],
)
def test_the_smallest_change_is_told(destination: str, port: str, parts: dict[str, Any], nearest: str) -> None:
    found = ask(POLICY, destination, port, **parts).nearest
    assert found is not None
    assert found.startswith(nearest)


@pytest.mark.parametrize(
    ("destination", "port", "parts", "before", "after"),
    [
        ("app=api", "80", {"http": ("POST /a",)}, 'method: GET, path: "/a"', 'method: GET|POST, path: "/a"'),
        ("app=api", "80", {"http": ("GET /a?q",)}, 'path: "/a"', "path: '/a(\\?.*)?'"),
        (
            "203.0.113.1",
            "443/UDP",
            {},
            "        - 198.51.100.0/24",
            "        - 198.51.100.0/24\n        - 203.0.113.1/32",
        ),
        (
            "fqdn:b.example.com",
            "443",
            {},
            "        - matchName: api.example.com",
            "        - matchName: api.example.com\n        - matchName: b.example.com",
        ),
        ("198.51.100.7", "80", {}, "  egressDeny:\n    - toCIDR: [198.51.100.7/32]\n", ""),
    ],
)
def test_doing_what_is_told_allows_it(
    destination: str, port: str, parts: dict[str, Any], before: str, after: str
) -> None:
    assert not ask(POLICY, destination, port, **parts).allowed
    assert before in POLICY
    assert ask(POLICY.replace(before, after), destination, port, **parts).allowed


def test_nothing_is_proposed_against_what_no_rule_can_allow() -> None:
    found = ask(POLICY, "app=api", "80", sni="api.test")
    assert (found.reason, found.nearest) == ("HTTP_MALFORMED", None)


@pytest.mark.parametrize(
    ("port", "nearest"),
    [
        ("80/TCP", "add port 80/TCP to default/web egress[1].toPorts[0] (p.yaml:8)"),
        ("icmp:0", "add icmps icmp:0 to default/web egress[0].icmps[0] (p.yaml:7)"),
        ("443/UDP", "add an egress rule to default/web (p.yaml:1): toCIDR 192.0.2.9/32, port 443/UDP"),
    ],
)
def test_an_element_of_message_types_or_of_limits_for_tcp_gets_no_other_ports(port: str, nearest: str) -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec:\n"
        "  endpointSelector: {matchLabels: {app: web}}\n  egress:\n"
        "  - {toCIDR: [192.0.2.0/24], icmps: [{fields: [{type: 8}]}]}\n"
        "  - {toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '443', protocol: TCP}], serverNames: [a.example]}]}\n"
    )
    found = ask(text, "192.0.2.9", port).nearest
    assert found is not None
    assert found.startswith(nearest), found
