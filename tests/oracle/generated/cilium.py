# SPDX-License-Identifier: Apache-2.0
"""Specs of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy."""

from generated.shapes import CILIUM, NODES, PLAIN, Document, blocks, selectors, subsets
from generated.world import NAMES, NUMBERS, PREFIXES, SERVER_NAMES
from hypothesis import strategies as st

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
    | st.sampled_from(
        [
            {"matchLabels": {"reserved:host": ""}},
            {"matchLabels": {"reserved:world": ""}},
            {"matchLabels": {"reserved:init": ""}},
            {"matchExpressions": [{"key": "reserved:kube-apiserver", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "reserved:remote-node", "operator": "DoesNotExist"}]},
        ]
    )
)
BLOCKS = blocks() | st.sampled_from(
    [
        {"cidrGroupRef": "near"},
        {"cidrGroupRef": "near", "except": ["192.0.2.1/32"]},
        {"cidrGroupRef": "none"},
        {"cidrGroupSelector": {"matchLabels": {"of": "partner"}}},
        {"cidrGroupSelector": {"matchExpressions": [{"key": "of", "operator": "Exists"}]}},
    ]
)
SERVICES = st.sampled_from(
    [
        {"k8sService": {"serviceName": "web", "namespace": "shop"}},
        {"k8sService": {"serviceName": "billing", "namespace": "bank"}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "front"}}}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "back"}}, "namespace": "bank"}},
    ]
)
UNLABELLED = st.sampled_from(
    [
        {"matchLabels": {"reserved:init": ""}},
        {"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]},
    ]
)
MESSAGES = st.sampled_from(
    [
        {"type": 8},
        {"type": "EchoRequest", "family": "IPv4"},
        {"type": "EchoRequest", "family": "IPv6"},
        {"type": "EchoReply"},
        {"type": 128, "family": "IPv6"},
    ]
)
HEADERS: list[Document] = [
    {"headers": ["X-Team: shop"]},
    {"headers": ["X-Team", "X-Token: sesame"]},
    {"headerMatches": [{"name": "X-Team"}]},
    {"headerMatches": [{"name": "X-Team", "value": "shop,bank"}]},
    {"headerMatches": [{"name": "X-Team", "mismatch": "LOG"}, {"name": "Via", "value": "a", "mismatch": "ADD"}]},
    {"headerMatches": [{"name": "Via", "value": "b", "mismatch": "ADD"}]},
    {"headerMatches": [{"name": "X-Team", "value": "gold", "mismatch": "LOG"}]},
    {"headerMatches": [{"name": "X-Team", "value": "bank", "mismatch": "DELETE"}]},
    {"headerMatches": [{"name": "X-Token", "mismatch": "DELETE", "value": "none"}]},
    {"headerMatches": [{"name": "X-Team", "value": "shop", "mismatch": "REPLACE"}]},
    {"headerMatches": [{"name": "X-Token", "secret": {"name": "token"}, "mismatch": "REPLACE"}]},
    {"headerMatches": [{"name": "X-Token", "secret": {"name": "token", "namespace": "shop"}}]},
    {"headerMatches": [{"name": "X-Team", "secret": {"name": "team"}, "value": "shop", "mismatch": "ADD"}]},
    {"headerMatches": [{"name": "X-Token", "secret": {"name": "absent"}, "mismatch": "LOG"}]},
]
FIELDS: list[Document] = [
    {},
    {"method": "GET"},
    {"path": "/items"},
    {"method": "GET|POST", "path": "/items|/"},
    {"path": "/items/.*"},
    {"host": "shop.example"},
    {"host": "shop[.]example(:80)?", "path": "/(items.*)?"},
]
HTTP = st.sampled_from(FIELDS) | st.builds(
    lambda one, other: {**one, **other}, *map(st.sampled_from, (FIELDS, HEADERS))
)
PORT_NAMES = {"TCP": ["http", "http", "api", "dns"], "UDP": ["dns"], "SCTP": ["api"], "ANY": ["http", "dns"]}


@st.composite
def ports(draw: st.DrawFn, protocols: list[str], *, ranges: bool = True, zero: bool = True) -> Document:
    protocol = draw(st.sampled_from(protocols))
    found: Document = {} if protocol == "ANY" and draw(st.booleans()) else {"protocol": protocol}
    if draw(st.integers(0, 4)) == 0:
        return {"port": draw(st.sampled_from(PORT_NAMES[protocol])), **found}
    first = draw(st.sampled_from([*NUMBERS, 0] if zero else NUMBERS))
    if ranges and first and draw(st.booleans()):
        found["endPort"] = draw(st.sampled_from([number for number in NUMBERS if number >= first]))
    return {"port": str(first), **found}


@st.composite
def to_ports(draw: st.DrawFn, direction: str, *, deny: bool, host: bool) -> Document:
    kinds = ["plain", *(["dns", "dns"] if direction == "egress" else [])]
    if not host:
        kinds += ["http", "http", "serverNames"]
    kind = "plain" if deny else draw(st.sampled_from(kinds))
    match kind:
        case "plain":
            strategy = ports(["TCP", "UDP", "SCTP", "ANY"])
        case "dns":
            strategy = ports(["TCP", "UDP", "ANY"], ranges=False, zero=False)
        case _:
            strategy = ports(["TCP"], zero=False)
    found: Document = {"ports": draw(st.lists(strategy, min_size=1, max_size=2))}
    if kind == "dns":
        found["rules"] = {"dns": draw(subsets(NAMES, low=1))}
    elif kind == "http":
        found["rules"] = {"http": draw(st.lists(HTTP, min_size=1, max_size=2))}
    elif kind == "serverNames":
        found["serverNames"] = draw(subsets(SERVER_NAMES, low=1))
    return found


@st.composite
def rules(draw: st.DrawFn, direction: str, *, deny: bool, host: bool) -> Document:
    side = "from" if direction == "ingress" else "to"
    rule: Document = {}
    kinds = ["any", "any", "Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet", "CIDRSet", "Nodes"]
    if side == "to":
        kinds += ["Services", "Services"] + ["FQDNs", "FQDNs"] * (not deny)
    match draw(st.sampled_from(kinds)):
        case "Endpoints":
            rule[f"{side}Endpoints"] = draw(st.lists(PEERS, max_size=2))
        case "Entities":
            entities = ["all", "world", "none", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node"]
            entities += ["health", "ingress", "init", "kube-apiserver", "unmanaged"]
            rule[f"{side}Entities"] = draw(subsets(entities))
        case "CIDR":
            rule[f"{side}CIDR"] = draw(subsets(PREFIXES))
        case "CIDRSet":
            rule[f"{side}CIDRSet"] = draw(st.lists(BLOCKS, max_size=2))
        case "Nodes":
            rule[f"{side}Nodes"] = draw(st.lists(NODES, min_size=1, max_size=2))
        case "Services":
            rule["toServices"] = [draw(SERVICES)]
        case "FQDNs":
            rule["toFQDNs"] = draw(subsets(NAMES))
    what = draw(st.sampled_from(["ports", "ports", "ports", "everything", "icmps"]))
    if what == "icmps":
        rule["icmps"] = [{"fields": draw(st.lists(MESSAGES, min_size=1, max_size=2))}]
    elif what == "ports" or (deny and not rule):
        element = to_ports(direction, deny=deny, host=host)
        rule["toPorts"] = draw(st.lists(element, min_size=1, max_size=2))
    return rule


@st.composite
def specs(draw: st.DrawFn, *, clusterwide: bool) -> Document:
    host = clusterwide and draw(st.booleans())
    spec: Document = (
        {"nodeSelector": draw(NODES)} if host else {"endpointSelector": draw(st.just({}) | CILIUM | UNLABELLED)}
    )
    for section in draw(
        subsets(["ingress", "ingress", "egress", "egress", "ingressDeny", "egressDeny"], low=1, high=3)
    ):
        element = rules(section.removesuffix("Deny"), deny=section.endswith("Deny"), host=host)
        spec[section] = draw(st.lists(element, min_size=1, max_size=3))
    if draw(st.integers(0, 2)) == 0:
        spec["enableDefaultDeny"] = draw(
            st.fixed_dictionaries({}, optional={"ingress": st.booleans(), "egress": st.booleans()})
        )
    return spec


@st.composite
def limiting_specs(draw: st.DrawFn) -> Document:
    """Little but limits of requests on port 80, for whoever has an identity of any kind."""
    direction = draw(st.sampled_from(["ingress", "egress", "egress"]))
    peers: list[Document] = [{}, {f"{'from' if direction == 'ingress' else 'to'}Entities": ["all"]}]
    if direction == "egress":
        peers += [{"toFQDNs": [name]} for name in NAMES[:4]]
    rule = dict(draw(st.sampled_from(peers)))
    conditions = st.builds(lambda one, other: {**one, **other}, st.sampled_from(FIELDS[:3]), st.sampled_from(HEADERS))
    limits = draw(st.lists(conditions | st.sampled_from(HEADERS), min_size=1, max_size=3))
    rule["toPorts"] = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": limits}}]
    return {"endpointSelector": {}, direction: [rule]}
