# SPDX-License-Identifier: Apache-2.0
"""Golden vectors from Cilium's and Kubernetes' documents, and the traps where engines went wrong: from YAML to verdict.

What is about DNS messages is tested in tests/unit/l7dns and tests/integration/nameproxy.
"""

from dataclasses import replace
from typing import Any

import pytest

from l7policy import names, question, sni
from l7policy.cluster import Cluster
from l7policy.documents import load
from l7policy.errors import PolicyErrors
from l7policy.http import HttpRules
from l7policy.judgement import (
    ALLOW_PRECEDENCE,
    DENY_PRECEDENCE,
    DNS_PRECEDENCE,
    HTTP_PRECEDENCE,
    PASS_PRECEDENCE,
    TLS_PRECEDENCE,
    Judgement,
    PolicyVerdict,
    judge,
    redirect_precedence,
)
from l7policy.labels import workload_labels
from l7policy.model import Labels, Mismatch, NamedPort
from l7policy.policydoc import Source
from l7policy.resolve import cidrs, endpoint_policy, selectors
from l7policy.scalars import match_pattern
from l7policy.verdict import Direction, Protocol, ProxyKind

ALLOW, DENY, REDIRECT = PolicyVerdict.ALLOW, PolicyVerdict.DENY, PolicyVerdict.REDIRECT
NAMESPACE, TEAM = "io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels.team"
WEB, DB = (workload_labels([f"app={app}", f"{NAMESPACE}=shop", f"{TEAM}=red"]) for app in ("web", "db"))
BANK = workload_labels(["app=db", f"{NAMESPACE}=bank", f"{TEAM}=blue"])
HOST = frozenset({"reserved:host"})
PORT_80 = "{ports: [{port: '80', protocol: TCP}]}"
CNP, CCNP, NP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"


def http(*rules: str, port: str = "port: '80'") -> str:
    return f"{{ports: [{{{port}, protocol: TCP}}], rules: {{http: [{', '.join(rules)}]}}}}"


class Rules:
    """The specs of policies, each without its selector, and what they say about the workload `WEB`."""

    def __init__(self, *specs: str, kind: str = CNP) -> None:
        version = "networking.k8s.io/v1" if kind == NP else "cilium.io/v2"
        selector = "podSelector" if kind == NP else "endpointSelector"
        namespace = "" if kind == CCNP else ", namespace: shop"
        text = "\n---\n".join(
            f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p{number}{namespace}}}\n"
            f"spec: {{{selector}: {{}}, {spec}}}"
            for number, spec in enumerate(specs)
        )
        self.policies = load([Source("golden.yaml", text)])

    def judge(
        self, direction: str, peer: Labels | str, port: int = 80, protocol: str = "TCP", learnt: str = ""
    ) -> Judgement:
        """`peer`: labels, or an address outside, which may have been learnt under a name."""
        if isinstance(peer, str):
            side = replace(question.side(peer, Cluster()), names=(learnt,) if learnt else ())
            peer = side.identity(cidrs(self.policies), selectors(self.policies))
        policy = endpoint_policy(self.policies, WEB, own_ports=OWN_PORTS, cluster_ports=PORTS)
        return judge(policy, Direction[direction.upper()], peer, Protocol[protocol], port)

    def egress(self, peer: Labels | str, port: int = 80, **more: Any) -> PolicyVerdict:
        return self.judge("egress", peer, port, **more).verdict

    def ingress(self, peer: Labels | str, port: int = 80, **more: Any) -> PolicyVerdict:
        return self.judge("ingress", peer, port, **more).verdict

    def request(self, text: str, host: bytes = b"shop.example", port: int = 80) -> bool:
        """Whether a request to somewhere outside passes the proxy."""
        judged = self.judge("egress", "192.0.2.7", port)
        assert judged.proxy == ProxyKind.HTTP
        method, _, path = text.encode().partition(b" ")
        return HttpRules(judged.http or ()).match(method, path, host, ())


OWN_PORTS = (NamedPort("http", Protocol.TCP, 8080), NamedPort("dns", Protocol.UDP, 5353))
PORTS = {DB: (NamedPort("http", Protocol.TCP, 9090),), BANK: (NamedPort("http", Protocol.UDP, 9090),)}


def refused(spec: str, kind: str = CNP) -> str:
    with pytest.raises(PolicyErrors) as caught:
        Rules(spec, kind=kind)
    return str(caught.value)


# -- golden vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.cilium.io", "a.b.cilium.io.", False),
        ("**.cilium.io", "a.b.cilium.io.", True),
        ("**.cilium.io", "cilium.io.", False),
        ("*", ".", True),
        ("A*.Example.COM", "abc.example.com.", True),
        ("*.*.com", "a.b.com.", True),
        ("*.*.com", ".b.com.", True),
        ("*cilium.io", "subcilium.io.", True),
        ("*cilium.io", "www.cilium.io.", False),
        ("sub*.cilium.io", "sub.cilium.io.", True),
        ("sub*.cilium.io", "x.sub.cilium.io.", False),
        ("a.**.io", "a.b.io.", True),
        ("a.**.io", "a.b.c.io.", False),
    ],
)
def test_a_match_pattern_has_ciliums_dialect(pattern: str, name: str, matches: bool) -> None:
    assert names.name_set((match_pattern(pattern),)).matches(name) == matches


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [("*", "", False), ("a.**.com", "a.b.c.com", True), ("a.**.com", "a.com", False), ("*", "a.b", True)],
)
def test_a_server_name_pattern_has_a_dialect_of_its_own(pattern: str, name: str, matches: bool) -> None:
    assert sni.server_names((pattern,)).matches(name) == matches


@pytest.mark.parametrize("pattern", ["***.com", "x.com."])
def test_a_server_name_pattern_that_is_none_is_rejected_at_load(pattern: str) -> None:
    port = f"{{ports: [{{port: '443', protocol: TCP}}], serverNames: ['{pattern}']}}"
    assert "is not a pattern of server names" in refused(f"egress: [{{toPorts: [{port}]}}]")


def test_a_path_is_matched_in_full_and_with_its_query() -> None:
    rules = Rules(f"egress: [{{toPorts: [{http('{path: /public}')}]}}]")
    assert rules.request("GET /public")
    assert not rules.request("GET /public/x")
    assert not rules.request("GET /public?a=1")


def test_an_empty_http_rule_allows_every_request() -> None:
    rules = Rules(f"egress: [{{toPorts: [{http('{}')}]}}]")
    assert rules.egress("192.0.2.7") == REDIRECT
    assert rules.request("BREW /pot?milk")


def test_a_dot_in_host_is_any_character() -> None:
    rules = Rules(f"egress: [{{toPorts: [{http('{host: foo.bar.com}')}]}}]")
    assert rules.request("GET /", b"foo.bar.com")
    assert rules.request("GET /", b"fooXbar.com")
    assert not rules.request("GET /", b"foo.bar.com:8080")


def test_of_two_rules_that_match_both_change_the_headers() -> None:
    matches = (
        "{headerMatches: [{name: A, value: '1', mismatch: REPLACE}]}",
        "{headerMatches: [{name: B, value: '2', mismatch: REPLACE}]}",
    )
    judged = Rules(f"egress: [{{toPorts: [{http(*matches)}]}}]").judge("egress", "192.0.2.7")
    review = HttpRules(judged.http or ()).review(b"GET", b"/", b"h", [(b"a", b"0"), (b"b", b"0")])
    assert review.allowed
    assert [(edit.action, edit.name, edit.value) for edit in review.edits] == [
        (Mismatch.REPLACE, "A", b"1"),
        (Mismatch.REPLACE, "B", b"2"),
    ]


def test_an_allow_of_the_same_port_and_peer_voids_http_limits() -> None:
    rules = Rules(f"egress: [{{toPorts: [{PORT_80}]}}, {{toPorts: [{http('{method: GET, path: /}')}]}}]")
    assert rules.egress("192.0.2.7") == REDIRECT
    assert rules.request("POST /")


def test_a_deny_beside_l7_rules_drops_and_answers_no_403() -> None:
    limits = f"egress: [{{toCIDR: [192.0.2.0/24], toPorts: [{http('{}')}]}}]"
    assert Rules(limits).egress("192.0.2.7") == REDIRECT
    assert Rules(limits, "egressDeny: [{toCIDR: [192.0.2.0/24]}]").egress("192.0.2.7") == DENY


def test_the_low_byte_of_a_precedence_is_ciliums() -> None:
    assert DENY_PRECEDENCE == 255
    assert [redirect_precedence(priority) for priority in (1, 100, 101, 116, 121, 126, 0)] == [
        *(254, 155, 154, 139, 134, 129),
        2,
    ]
    assert (HTTP_PRECEDENCE, TLS_PRECEDENCE, DNS_PRECEDENCE) == (154, 139, 134)
    assert (ALLOW_PRECEDENCE, PASS_PRECEDENCE) == (1, 0)


# -- traps -------------------------------------------------------------------------------------------------------------


def test_an_empty_ingress_rule_denies_all_in_one_dialect_and_allows_all_in_the_other() -> None:
    assert Rules("ingress: [{}]").ingress(DB) == DENY
    assert Rules("ingress: [{}]", kind=NP).ingress(DB) == ALLOW


def test_an_empty_peer_list_is_nobody_in_one_dialect_and_everybody_in_the_other() -> None:
    assert Rules("ingress: [{fromEndpoints: []}]").ingress(DB) == DENY
    assert Rules("ingress: [{from: []}]", kind=NP).ingress(DB) == ALLOW


def test_an_omitted_protocol_is_any_in_one_dialect_and_tcp_in_the_other() -> None:
    cilium, kubernetes = (
        Rules("ingress: [{toPorts: [{ports: [{port: '80'}]}]}]"),
        Rules("ingress: [{ports: [{port: 80}]}]", kind=NP),
    )
    assert [cilium.ingress(DB, protocol=one) for one in ("TCP", "UDP", "SCTP")] == [ALLOW] * 3
    assert [kubernetes.ingress(DB, protocol=one) for one in ("TCP", "UDP", "SCTP")] == [ALLOW, DENY, DENY]


def test_a_network_policy_with_egress_and_no_types_isolates_ingress_too() -> None:
    rules = Rules("egress: [{}]", kind=NP)
    assert (rules.egress(DB), rules.ingress(DB)) == (ALLOW, DENY)


def test_an_allow_of_a_range_hides_no_l7_rule_inside_it_cve_2024_52529() -> None:
    wide = "{ports: [{port: '1', endPort: 1024, protocol: TCP}]}"
    rules = Rules(f"egress: [{{toPorts: [{wide}]}}, {{toPorts: [{http('{path: /a}')}]}}]")
    assert rules.egress("192.0.2.7") == REDIRECT
    assert not rules.request("GET /b")
    assert rules.egress("192.0.2.7", 81) == ALLOW


def test_an_allow_never_voids_server_names() -> None:
    limits = "{ports: [{port: '443', protocol: TCP}], serverNames: [a.example]}"
    rules = Rules(f"egress: [{{toPorts: [{limits}]}}, {{toPorts: [{{ports: [{{port: '443', protocol: TCP}}]}}]}}]")
    judged = rules.judge("egress", "192.0.2.7", 443)
    assert (judged.proxy, judged.server_names) == (ProxyKind.TLS, ("a.example",))


def test_default_deny_that_is_off_does_not_soften_l7_lists() -> None:
    rules = Rules(f"enableDefaultDeny: {{egress: false}}, egress: [{{toPorts: [{http('{path: /a}')}]}}]")
    assert not rules.request("GET /b")
    assert rules.egress("192.0.2.7", 81) == ALLOW


def test_an_alternation_is_grouped_before_it_is_anchored() -> None:
    rules = Rules(f"egress: [{{toPorts: [{http('{path: ^/a|/b$}')}]}}]")
    assert [rules.request(f"GET {path}") for path in ("/a", "/b", "/ax", "/x/b")] == [True, True, False, False]


@pytest.mark.parametrize("expression", ["(?=a)b", "(?!a)b", r"(a)\1"])
def test_what_re2_has_not_is_refused_at_load(expression: str) -> None:
    rule = f"{{path: '{expression}'}}"
    assert "RE2 refuses" in refused(f"egress: [{{toPorts: [{http(rule)}]}}]")


def test_a_namespace_is_injected_unless_the_selector_names_one_or_a_reserved_label() -> None:
    def peers(labels: str) -> list[PolicyVerdict]:
        rules = Rules(f"ingress: [{{fromEndpoints: [{{matchLabels: {{{labels}}}}}]}}]")
        return [rules.ingress(peer) for peer in (DB, BANK, frozenset({"reserved:remote-node"}))]

    assert peers("app: db") == [ALLOW, DENY, DENY]
    assert peers(f"app: db, 'k8s:{NAMESPACE}': bank") == [DENY, ALLOW, DENY]
    assert peers(f"app: db, 'k8s:{TEAM}': blue") == [DENY, ALLOW, DENY]
    assert peers("'reserved:remote-node': ''") == [DENY, DENY, ALLOW]


def test_every_endpoint_of_a_clusterwide_policy_is_neither_the_world_nor_a_node() -> None:
    rules = Rules("egress: [{toEndpoints: [{}]}]", kind=CCNP)
    assert [rules.egress(peer) for peer in (DB, BANK, HOST, "192.0.2.7")] == [ALLOW, ALLOW, DENY, DENY]


def test_a_named_port_is_the_destinations_own_and_of_its_protocol() -> None:
    ingress = Rules("ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]")
    assert [ingress.ingress(BANK, port) for port in (8080, 9090)] == [ALLOW, DENY]
    egress = Rules("egress: [{toEntities: [all], toPorts: [{ports: [{port: http}]}]}]")
    assert [egress.egress(DB, 9090, protocol=one) for one in ("TCP", "UDP")] == [ALLOW, DENY]
    assert [egress.egress(BANK, 9090, protocol=one) for one in ("TCP", "UDP")] == [DENY, ALLOW]
    assert egress.egress(DB, 8080) == DENY


def test_the_host_reaches_its_pods_and_pods_not_their_host() -> None:
    rules = Rules("ingress: [{}], egress: [{}]")
    assert (rules.ingress(HOST), rules.egress(HOST)) == (ALLOW, DENY)


def test_no_name_selects_nothing_with_ports_either() -> None:
    assert Rules(f"egress: [{{toFQDNs: [], toPorts: [{PORT_80}]}}]").egress("192.0.2.7") == DENY


@pytest.mark.parametrize(
    "allow",
    [
        "enableDefaultDeny: {egress: false}, egress: [{toCIDR: [192.0.2.7/32]}]",
        "enableDefaultDeny: {egress: false}, egress: [{toFQDNs: [{matchName: a.example}]}]",
        "egress: [{toEntities: [all]}]",
    ],
)
def test_a_narrower_allow_hides_no_deny_of_a_wide_prefix_cve_2024_47825(allow: str) -> None:
    rules = Rules("egressDeny: [{toCIDR: [192.0.0.0/8]}]", allow)
    assert rules.egress("192.0.2.7", learnt="a.example.") == DENY


@pytest.mark.parametrize("field", ["toCIDRSet", "toCIDR", "toEndpoints", "toEntities"])
def test_an_empty_list_of_peers_selects_nothing_cve_2025_64715(field: str) -> None:
    assert Rules(f"egress: [{{{field}: [], toPorts: [{PORT_80}]}}]").egress("192.0.2.7") == DENY
    assert Rules(f"egress: [{{{field}: []}}]").egress(DB) == DENY
