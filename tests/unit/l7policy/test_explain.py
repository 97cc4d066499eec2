# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.explain: the whole answer, for one policy of each kind."""

from dataclasses import replace
from typing import Any

import pytest

from l7policy import documents, question
from l7policy.cluster import Cluster, Endpoint
from l7policy.explain import Explanation, explain, plain
from l7policy.hop import Setting
from l7policy.model import NamedPort
from l7policy.policydoc import Source
from l7policy.verdict import Protocol

EGRESS = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints: [{matchLabels: {app: api}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/a"}, {method: PUT, path: "/b"}]}
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchPattern: "*.example.com"}]}
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "443", protocol: TCP}]
    - toCIDR: [198.51.100.0/24]
  egressDeny:
    - toCIDR: [198.51.100.7/32]
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 80}]
"""
VOID = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: wide}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints: [{matchLabels: {app: api}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
"""


def ask(source: str, destination: str, port: str, *more: str, **parts: Any) -> Explanation:
    policies = documents.load([Source(f"{n}.yaml", text) for n, text in enumerate((EGRESS, INGRESS, *more))])
    if "http" in parts:
        parts["http"] = question.request(parts["http"])
    sides = question.side(source, Cluster()), question.side(destination, Cluster())
    return explain(policies, question.ask(*sides, port, **parts))


def test_the_answer_is_what_scripts_rely_on() -> None:
    matched = {
        "policy": "default/web",
        "direction": "egress",
        "rule": 0,
        "path": "egress[0].toPorts[0]",
        "file": "0.yaml",
        "line": 9,
    }
    let_in = {
        "policy": "networkpolicy:default/api",
        "direction": "ingress",
        "rule": 0,
        "path": "ingress[0]",
        "file": "1.yaml",
        "line": 7,
    }
    assert plain(ask("app=web", "app=api", "80/TCP", http="POST /a")) == {
        "allowed": False,
        "verdict": "DROPPED",
        "egress": {
            "enforced": True,
            "allowed": False,
            "verdict": "DROPPED",
            "protocol": "TCP",
            "proxy": "http",
            "reason": "HTTP_DENIED",
            "matched": [matched],
            "selected_by": ["default/web"],
        },
        "ingress": {
            "enforced": True,
            "allowed": True,
            "verdict": "FORWARDED",
            "protocol": "TCP",
            "proxy": "none",
            "reason": "NONE",
            "matched": [let_in],
            "selected_by": ["networkpolicy:default/api"],
        },
        "l7": {"allowed": False, "response": 403},
        "reason": "HTTP_DENIED",
        "matched": [matched, let_in],
        "selected_by": ["default/web", "networkpolicy:default/api"],
        "nearest": 'in rules.http of default/web egress[0].toPorts[0] (0.yaml:9): change method "GET" to "GET|POST"',
    }


@pytest.mark.parametrize(
    ("source", "destination", "port", "parts", "verdict", "reason", "response"),
    [
        ("app=web", "app=api", "80/TCP", {}, "REDIRECTED", "NONE", None),
        ("app=web", "app=api", "80/TCP", {"http": "GET /a"}, "REDIRECTED", "NONE", None),
        ("app=web", "app=api", "80/TCP", {"http": "GET /a?x"}, "DROPPED", "HTTP_DENIED", 403),
        ("app=web", "app=api", "80/TCP", {"dns": "a.example.com"}, "DROPPED", "HTTP_MALFORMED", None),
        ("app=web", "app=api", "80/TCP", {"sni": "a.example.com"}, "DROPPED", "HTTP_MALFORMED", None),
        ("app=web", "app=api", "81/TCP", {}, "DROPPED", "POLICY_DENIED", None),
        ("app=other", "app=api", "80/TCP", {}, "DROPPED", "POLICY_DENIED", None),
        ("app=other", "app=another", "80/TCP", {"http": "GET /"}, "FORWARDED", "NONE", None),
        ("reserved:host", "app=api", "22/TCP", {}, "FORWARDED", "NONE", None),
        ("app=web", "192.0.2.10", "53/ANY", {}, "REDIRECTED", "NONE", None),
        ("app=web", "192.0.2.10", "53/UDP", {"dns": "A.example.com."}, "REDIRECTED", "NONE", None),
        ("app=web", "192.0.2.10", "53/UDP", {"dns": "a.b.example.com"}, "DROPPED", "DNS_DENIED", "REFUSED"),
        ("app=web", "192.0.2.10", "53/TCP", {"http": "GET /"}, "DROPPED", "DNS_MALFORMED", None),
        ("app=web", "fqdn:api.example.com", "443/TCP", {"sni": "api.example.com"}, "FORWARDED", "NONE", None),
        ("app=web", "fqdn:api.example.com", "443/UDP", {}, "DROPPED", "POLICY_DENIED", None),
        ("app=web", "fqdn:api.example.com", "443/ANY", {}, "DROPPED", "POLICY_DENIED", None),
        ("app=web", "198.51.100.6", "icmp:8", {}, "FORWARDED", "NONE", None),
        ("app=web", "198.51.100.7", "80/TCP", {}, "DROPPED", "POLICY_DENY", None),
        ("192.0.2.1", "198.51.100.7", "80/TCP", {}, "FORWARDED", "NONE", None),
    ],
)
def test_verdict_reason_and_response(
    source: str,
    destination: str,
    port: str,
    parts: dict[str, str],
    verdict: str,
    reason: str,
    response: int | str | None,
) -> None:
    found = ask(source, destination, port, **parts)
    assert (found.verdict, found.reason, found.l7.response) == (verdict, reason, response)
    assert found.allowed == found.l7.allowed == (verdict != "DROPPED")
    assert (found.nearest is None) == (found.allowed or reason.endswith("MALFORMED"))


def test_of_several_limiting_rules_the_one_that_lets_the_request_pass_is_told() -> None:
    more = EGRESS.replace("name: web", "name: more").replace('path: "/a"', 'path: "/c"')
    assert [one.policy for one in ask("app=web", "app=api", "80", more, http="GET /c").egress.matched] == [
        "default/more"
    ]
    assert [one.policy for one in ask("app=web", "app=api", "80", more, http="GET /d").egress.matched] == [
        "default/more",
        "default/web",
    ]


def test_a_rule_that_voids_limits_is_named_for_what_it_lets_pass() -> None:
    found = ask("app=web", "app=api", "80", VOID, http="DELETE /")
    assert (found.verdict, [one.policy for one in found.egress.matched]) == ("REDIRECTED", ["default/wide"])


def test_in_audit_mode_what_is_refused_passes_and_is_told_with_its_reason() -> None:
    policies = documents.load([Source("0.yaml", EGRESS)])
    sides = question.side("app=web", Cluster()), question.side("app=api", Cluster())
    asked = question.ask(*sides, "80", http=question.request("POST /a"))
    found = explain(policies, asked, Setting(audit=True))
    assert (found.allowed, found.verdict, found.reason) == (True, "AUDIT", "HTTP_DENIED")
    assert (found.egress.allowed, found.egress.verdict, found.l7.allowed) == (True, "AUDIT", True)
    assert found.nearest is not None


FULL = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: full}
spec:
  endpointSelector: {matchLabels: {app: full}}
  egress:
    - toCIDR: [192.0.2.0/24]
      toPorts:
        - ports: [{port: "443", protocol: TCP}]
          serverNames: ["*.example.com"]
    - toEntities: [world]
      icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]
"""
ADMIN = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: guard}
spec:
  priority: 10
  subject: {namespaces: {}}
  egress:
    - {name: pass-some, action: Pass, to: [{networks: [192.0.2.0/25]}]}
    - {name: deny-all, action: Deny, to: [{networks: [0.0.0.0/0]}]}
"""


@pytest.mark.parametrize(
    ("more", "destination", "port", "parts", "verdict", "reason", "nearest"),
    [
        (FULL, "192.0.2.1", "443", {"sni": "A.example.com"}, "REDIRECTED", "NONE", None),
        (FULL, "192.0.2.1", "443", {"sni": "b.test"}, "DROPPED", "SNI_DENIED", "add b.test to serverNames of"),
        (FULL, "192.0.2.1", "443", {"sni": ""}, "DROPPED", "SNI_DENIED", None),
        (FULL, "2001:db8::1", "icmpv6:echo-request", {}, "FORWARDED", "NONE", None),
        (FULL, "2001:db8::1", "icmp:echo-request", {}, "DROPPED", "POLICY_DENIED", "add icmps icmp:8 to default/full"),
        (FULL + "---\n" + ADMIN, "192.0.2.1", "443", {"sni": "a.example.com"}, "REDIRECTED", "NONE", None),
        (FULL + "---\n" + ADMIN, "192.0.2.200", "443", {}, "DROPPED", "POLICY_DENY", "remove or narrow the deny rule"),
    ],
)
def test_the_whole_vocabulary_is_explained(
    more: str,
    destination: str,
    port: str,
    parts: dict[str, str],
    verdict: str,
    reason: str,
    nearest: str | None,
) -> None:
    found = ask("app=full", destination, port, more, **parts)
    assert (found.verdict, found.reason, found.l7.response) == (verdict, reason, None)
    assert found.nearest is None if nearest is None else (found.nearest or "").startswith(nearest)


def test_a_named_port_is_the_destinations() -> None:
    text = VOID.replace('"80"', "http")
    pod = Endpoint("default/api", frozenset({"k8s:app=api"}), (), (NamedPort("http", Protocol.TCP, 8080),))
    labels = pod.labels | {"k8s:io.kubernetes.pod.namespace=default"}
    cluster = Cluster({pod.name: replace(pod, labels=labels)})
    sides = question.side("app=web", cluster), question.side("default/api", cluster)
    policies = documents.load([Source("0.yaml", text)])
    for port, allowed in (("8080", True), ("80", False), ("http", True)):
        assert explain(policies, question.ask(*sides, port), Setting(ports=cluster.ports)).allowed is allowed


def test_the_nodes_own_way_in_is_a_rule_without_a_place() -> None:
    (matched,) = ask("reserved:host", "app=api", "22/TCP").matched
    assert (matched.policy, matched.rule, matched.file, matched.line) == ("reserved/allow-localhost", None, "", 0)
