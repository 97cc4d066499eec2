# SPDX-License-Identifier: Apache-2.0
"""The cluster that generated policies are about, what flows in it, and what policies may refer to."""

import random
from typing import Any, NamedTuple

from plain.party import Party
from plain.requests import Request

Document = dict[str, Any]
NAMESPACES = {"shop": {"team": "red"}, "bank": {"team": "blue", "env": "prod"}}
PODS = [
    Party("pod", {"app": "web", "tier": "front"}, "shop", ports=(("http", "TCP", 80), ("dns", "UDP", 53))),
    Party("pod", {"app": "db"}, "shop", ports=(("http", "TCP", 81), ("api", "TCP", 443))),
    Party("pod", {"app": "web"}, "bank", ports=(("http", "TCP", 80), ("dns", "UDP", 53), ("dns", "TCP", 53))),
    Party("pod", {"app": "api", "tier": ""}, "bank"),
]
OUTSIDE = [
    Party("outside", address="192.0.2.1"),
    Party("outside", address="192.0.2.130", names=("www.example.com",)),
    Party("outside", address="198.51.100.7", names=("api.example.com", "www.example.net"), apiserver=True),
    Party("outside", address="203.0.113.9", names=("a.b.example.com",)),
    Party("outside", address="2001:db8::5"),
    Party("outside", address="2001:db8:1::5", names=("example.com",)),
]
HOST = Party("host", {"zone": "a"})
REMOTE_NODE = Party("remote-node", {"zone": "b", "disk": "ssd"}, apiserver=True)
UNLABELLED = Party("init")
OTHERS = [REMOTE_NODE, Party("unmanaged")]
PREFIXES = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.1/32", "198.51.100.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32"]
INSIDE = {"192.0.2.0/24": ["192.0.2.0/25", "192.0.2.1/32", "192.0.2.128/25"], "2001:db8::/32": ["2001:db8:1::/48"]}
NAMES: list[Document] = [
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
SERVER_NAMES = [
    "*",
    "www.example.com",
    "WWW.Example.net",
    "*.example.com",
    "**.example.com",
    "a.**.com",
    "w*.example.*",
]
ASKED_SERVER_NAMES = ["", "example.com", "www.example.com", "a.b.example.com", "A.example.com", "w.example.org"]
REQUESTS = [
    Request("GET", "/"),
    Request("GET", "/items?x=1", headers=(("X-Team", "shop"), ("X-Token", "wrong"))),
    Request("POST", "/items", "shopXexample", (("x-team", "bank"), ("Via", "b"))),
    Request("get", "/items", headers=(("X-Token", "sesame"),)),
    Request("GET", "/items/7", "shop.example:80", (("X-Team", "shop"), ("X-Team", "bank"))),
    Request("GET", "/items", headers=(("x-token", "sesame"), ("X-Team", "shop"))),
]
SECRETS = {("shop", "token"): "sesame", ("default", "token"): "sesame", ("bank", "team"): "bank"}
OBJECTS: list[Document] = [
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": name, "labels": {"of": kind}},
        "spec": {"externalCIDRs": cidrs},
    }
    for name, kind, cidrs in (
        ("near", "partner", ["192.0.2.0/25", "2001:db8::/48"]),
        ("far", "partner", ["198.51.100.0/24"]),
        ("none", "nobody", []),
    )
] + [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "billing", "namespace": "bank", "labels": {"tier": "back"}},
        "spec": {"ports": [{"port": 443}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "billing-1",
            "namespace": "bank",
            "labels": {"kubernetes.io/service-name": "billing"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["203.0.113.9"]}, {"addresses": ["192.0.2.1"]}],
    },
]
NUMBERS = [80, 80, 53, 1, 79, 81, 443]
ASKED = [
    *(("TCP", 53), ("UDP", 53), ("TCP", 443), ("TCP", 81), ("TCP", 1), ("UDP", 80), ("SCTP", 80), ("TCP", 79)),
    *(("ICMP", 8), ("ICMP", 8), ("ICMPV6", 128), ("ICMP", 0), ("TCP", 0), ("UDP", 65535)),
]
"""What flows besides TCP to port 80, on which much is limited."""


class Flow(NamedTuple):
    """Seen from `own`, an endpoint of this node."""

    own: int
    direction: str
    peer: int
    protocol: str
    port: int


def parties(audited: int) -> list[Party]:
    """Everybody: first the endpoints of this node. Bit n of `audited`: endpoint n is."""
    pods = [
        Party(
            pod.kind,
            pod.labels,
            pod.namespace,
            NAMESPACES[pod.namespace],
            ports=pod.ports,
            audit=bool(audited >> n & 1),
        )
        for n, pod in enumerate(PODS)
    ]
    return [*pods, HOST, UNLABELLED, *OUTSIDE, *OTHERS]


ENDPOINTS = len(PODS) + 2
EVERYBODY = ENDPOINTS + len(OUTSIDE) + len(OTHERS)


def flows(seed: int) -> list[Flow]:
    """Between all pairs, in both directions, on port 80 and on some others."""
    chosen = random.Random(seed)
    return [
        Flow(own, direction, peer, *where)
        for own in range(ENDPOINTS)
        for direction in ("ingress", "egress")
        for peer in range(EVERYBODY)
        for where in [("TCP", 80), *chosen.sample(ASKED, 2)]
    ]
