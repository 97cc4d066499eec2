# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.question."""

import pytest

from l7policy import question
from l7policy.cluster import Cluster, Endpoint, Service
from l7policy.model import FqdnPeer, NamedPort
from l7policy.question import HttpRequest, QuestionError, Side
from l7policy.verdict import Protocol

WEB = Endpoint(
    "shop/web-1",
    frozenset({"k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"}),
    ("192.0.2.7",),
    (NamedPort("http", Protocol.TCP, 8080), NamedPort("dns", Protocol.UDP, 5353)),
)
CLUSTER = Cluster(
    {WEB.name: WEB, "default/db": Endpoint("default/db", frozenset({"k8s:app=db"}))},
    {"shop/web": Service("shop/web", ("203.0.113.5",), ("shop/web-1",))},
    {"shop": frozenset({"k8s:io.cilium.k8s.namespace.labels.team=sales"})},
)
EMPTY = Cluster()
ANYWHERE = Side("192.0.2.1", prefix="192.0.2.1/32")


def test_labels_are_those_that_a_pod_with_them_would_have() -> None:
    assert question.side("app=web, k8s:io.kubernetes.pod.namespace=other", EMPTY).labels == {
        "k8s:app=web",
        "k8s:io.kubernetes.pod.namespace=other",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=other",
        "k8s:io.cilium.k8s.policy.cluster=default",
    }


def test_labels_of_any_source_are_the_pods_as_selectors_are_copied() -> None:
    assert question.side("any:app=web,k8s:tier=front", Cluster()).labels >= {"k8s:app=web", "k8s:tier=front"}
    assert question.side("container:app=web", Cluster()).labels >= {"container:app=web"}


def test_labels_in_a_known_namespace_come_with_its_labels_but_those_given_win() -> None:
    found = question.side("app=a,io.kubernetes.pod.namespace=shop", CLUSTER).labels
    assert "k8s:io.cilium.k8s.namespace.labels.team=sales" in found
    text = "app=a,io.kubernetes.pod.namespace=shop,io.cilium.k8s.namespace.labels.team=other"
    assert "k8s:io.cilium.k8s.namespace.labels.team=sales" not in question.side(text, CLUSTER).labels


@pytest.mark.parametrize("text", ["shop/web-1", "192.0.2.7", "192.0.2.7/32"])
def test_a_workload_is_found_by_name_and_by_address(text: str) -> None:
    side = question.side(text, CLUSTER)
    assert (side.labels, side.ports) == (WEB.labels, WEB.ports)


def test_a_name_without_namespace_is_in_default() -> None:
    assert question.side("db", CLUSTER).labels == {"k8s:app=db"}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("reserved:host", {"reserved:host"}),
        ("reserved:remote-node", {"reserved:remote-node"}),
        ("reserved:kube-apiserver", {"reserved:kube-apiserver", "reserved:world"}),
        ("reserved:world", {"reserved:world", "cidr:0.0.0.0/0"}),
        ("reserved:world-ipv6", {"reserved:world", "cidr:::/0"}),
        ("192.0.2.9", {"reserved:world", "cidr:192.0.2.9/32", "cidr:192.0.2.0/24"}),
        ("192.0.2.0/25", {"reserved:world", "cidr:192.0.2.0/25", "cidr:192.0.2.0/24"}),
        ("2001:db8::9", {"reserved:world", "cidr:2001:db8::9/128"}),
        ("fqdn:img.Example.com", {"reserved:world", "cidr:0.0.0.0/0", "fqdn:*.example.com"}),
        ("fqdn:example.org", {"reserved:world", "cidr:0.0.0.0/0"}),
    ],
)
def test_what_is_outside_has_the_labels_of_prefixes_and_names_around_it(text: str, labels: set[str]) -> None:
    selectors = [FqdnPeer(match_pattern="*.example.com."), FqdnPeer(match_name="api.example.com.")]
    assert question.side(text, CLUSTER).identity({"192.0.2.0/24"}, selectors) == labels


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shop/web-2", "did you mean shop/web-1?"),
        ("shop/web", "is the service shop/web; policy is asked about the workload behind it: shop/web-1"),
        ("203.0.113.5", "is the service shop/web; policy is asked about the workload behind it: shop/web-1"),
        ("reserved:hots", "did you mean host?"),
        ("reserved:all", "is no identity"),
        ("fqdn:*.example.com", "is not a DNS name"),
        ("app=-x-", "is not a label value"),
        (
            "shop/app=web",
            "write app=web,io.kubernetes.pod.namespace=shop; if you mean the label write k8s:shop/app=web",
        ),
        ("tier=a,shop/app=web", "is a label with the key shop/app"),
        ("cidr:192.0.2.0/24=", "cannot carry labels of source cidr"),
        (",", "no labels"),
        ("", "is neither labels, an address"),
    ],
)
def test_what_is_no_peer_is_refused_with_a_reason(text: str, problem: str) -> None:
    with pytest.raises(QuestionError, match=problem.replace("?", r"\?")):
        question.side(text, CLUSTER)


def test_a_pods_name_without_a_cluster_says_what_is_missing() -> None:
    with pytest.raises(QuestionError, match="namespace/name needs --cluster"):
        question.side("shop/web-1", EMPTY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ((Protocol.TCP,), 80)),
        ("80/tcp", ((Protocol.TCP,), 80)),
        ("53/ANY", ((Protocol.TCP, Protocol.UDP), 53)),
        ("9/SCTP", ((Protocol.SCTP,), 9)),
        ("icmp:8", ((Protocol.ICMP,), 8)),
        ("icmp:echo-request", ((Protocol.ICMP,), 8)),
        ("icmpv6:echo-request", ((Protocol.ICMPV6,), 128)),
        ("ICMPv6:NeighborSolicitation", ((Protocol.ICMPV6,), 135)),
        ("http", ((Protocol.TCP,), 8080)),
        ("http/TCP", ((Protocol.TCP,), 8080)),
        ("dns/ANY", ((Protocol.UDP,), 5353)),
    ],
)
def test_a_port_is_read(text: str, expected: tuple[tuple[Protocol, ...], int]) -> None:
    assert question.port(text, question.side("shop/web-1", CLUSTER)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a port"),
        ("0/TCP", "is not a port"),
        ("65536/TCP", "is not a port"),
        ("80/TPC", "known here: ANY, SCTP, TCP, UDP"),
        ("80/", "unknown protocol"),
        ("icmp:256", "a number from 0 to 255"),
        ("icmp:echo-requets", "did you mean echorequest"),
        ("igmp:1", "is not icmp or icmpv6"),
        ("http/UDP", "has no port named 'http'; it has http=8080/TCP, dns=5353/UDP"),
    ],
)
def test_what_is_no_port_is_refused_with_a_reason(text: str, problem: str) -> None:
    with pytest.raises(QuestionError, match=problem):
        question.port(text, question.side("shop/web-1", CLUSTER))


def test_a_request_is_read() -> None:
    assert question.request("GET /a?b=c", "example.com", ["X-Key: 1: 2", "Y:"]) == HttpRequest(
        "GET", "/a?b=c", "example.com", (("X-Key", "1: 2"), ("Y", ""))
    )


@pytest.mark.parametrize("line", ["", "GET", "/path", "GET path", "G T /", "GET /a b"])
def test_what_is_no_request_is_refused(line: str) -> None:
    with pytest.raises(QuestionError, match="is not a request"):
        question.request(line)


def test_what_is_no_header_is_refused() -> None:
    with pytest.raises(QuestionError, match="write 'Name: value'"):
        question.request("GET /", headers=["X-Key"])


def test_http_and_tls_ask_about_tcp_alone() -> None:
    assert question.ask(ANYWHERE, ANYWHERE, "80/ANY", sni="").protocols == (Protocol.TCP,)
    assert question.ask(ANYWHERE, ANYWHERE, "80/ANY").where == "80/ANY"
    assert question.ask(ANYWHERE, ANYWHERE, "icmp:8").where == "icmp:8"


@pytest.mark.parametrize(
    ("port", "parts", "problem"),
    [
        ("80/UDP", {"http": HttpRequest("GET", "/")}, "HTTP and TLS go over TCP"),
        ("9/SCTP", {"dns": "a.example"}, "DNS goes over UDP and TCP"),
        ("53/UDP", {"dns": " "}, "no name to ask for"),
        ("80/TCP", {"dns": "a.example", "sni": "b"}, "ask about one of them"),
        ("80/TCP", {"http": HttpRequest("GET", "/"), "sni": "b"}, "ask about one of them"),
    ],
)
def test_parts_that_do_not_fit_are_refused(port: str, parts: dict[str, object], problem: str) -> None:
    with pytest.raises(QuestionError, match=problem):
        question.ask(ANYWHERE, ANYWHERE, port, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["k8s:shop/app=web", "app.kubernetes.io/name=web", "tools/team=a"])
def test_a_key_with_a_domain_that_is_meant_or_known_is_a_label(text: str) -> None:
    known = Cluster(endpoints={"shop/a": Endpoint("shop/a", frozenset({"k8s:tools/team=a", "k8s:app=a"}))})
    assert f"k8s:{text.removeprefix('k8s:')}" in question.side(text, known).labels
