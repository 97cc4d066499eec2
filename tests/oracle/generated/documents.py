# SPDX-License-Identifier: Apache-2.0
"""Whole documents of every dialect, and sets of them."""

from collections.abc import Callable

from generated import cilium
from generated.shapes import KUBERNETES, NODES, OF_NAMESPACES, Document, blocks, subsets
from generated.world import NAMESPACES, NUMBERS, OBJECTS, PREFIXES
from hypothesis import strategies as st

SPANS = st.tuples(*[st.sampled_from(NUMBERS)] * 2).map(sorted)
KINDS = [
    *["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"] * 2,
    *["NetworkPolicy", "AdminNetworkPolicy", "ClusterNetworkPolicy", "ClusterNetworkPolicy"],
]
VERSIONS = {
    "NetworkPolicy": "networking.k8s.io/v1",
    "AdminNetworkPolicy": "policy.networking.k8s.io/v1alpha1",
    "BaselineAdminNetworkPolicy": "policy.networking.k8s.io/v1alpha1",
    "ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2",
}
DOMAINS = ["www.example.com", "*.example.com", "example.com.", "*.example.net"]


@st.composite
def kubernetes_specs(draw: st.DrawFn) -> Document:
    spec: Document = {"podSelector": draw(st.just({}) | KUBERNETES)}
    protocols = st.fixed_dictionaries({}, optional={"protocol": st.sampled_from(["TCP", "UDP", "SCTP"])})
    numbers = st.builds(
        lambda span, range_: {"port": span[0], **({"endPort": span[1]} if range_ else {})}, SPANS, st.booleans()
    )
    names = st.builds(lambda name, more: {"port": name, **more}, st.sampled_from(["http", "dns"]), protocols)
    peers = (
        st.fixed_dictionaries({"podSelector": KUBERNETES}, optional={"namespaceSelector": OF_NAMESPACES})
        | st.fixed_dictionaries({"namespaceSelector": OF_NAMESPACES})
        | st.fixed_dictionaries({"ipBlock": blocks()})
    )
    for section, side in (("ingress", "from"), ("egress", "to")):
        if draw(st.booleans()):
            rules = st.fixed_dictionaries(
                {},
                optional={
                    side: st.lists(peers, max_size=2),
                    "ports": st.lists(protocols | numbers | names, max_size=2),
                },
            )
            spec[section] = draw(st.lists(rules, max_size=2))
    if draw(st.booleans()):
        spec["policyTypes"] = draw(subsets(["Ingress", "Egress"]))
    return spec


WHO = st.fixed_dictionaries({"namespaces": OF_NAMESPACES}) | st.fixed_dictionaries(
    {"pods": st.fixed_dictionaries({"namespaceSelector": OF_NAMESPACES, "podSelector": KUBERNETES})}
)
TRANSPORTS = st.sampled_from(["TCP", "TCP", "UDP", "SCTP"])
ADMIN_PORTS = st.builds(
    lambda number, of: {"portNumber": {"port": number, "protocol": of}}, st.sampled_from(NUMBERS), TRANSPORTS
) | st.builds(lambda span, of: {"portRange": {"start": span[0], "end": span[1], "protocol": of}}, SPANS, TRANSPORTS)
ADMIN_PROTOCOLS = st.builds(
    lambda of, where: {of.lower(): {"destinationPort": where} if where else {}},
    TRANSPORTS,
    st.just({})
    | st.sampled_from(NUMBERS).map(lambda number: {"number": number})
    | SPANS.map(lambda span: {"range": {"start": span[0], "end": span[1]}}),
)


@st.composite
def admin_rules(draw: st.DrawFn, kind: str, tier: str, direction: str) -> Document:
    accept = "Accept" if kind == "ClusterNetworkPolicy" else "Allow"
    passes = [] if kind == "BaselineAdminNetworkPolicy" else ["Pass"]
    rule: Document = {"action": draw(st.sampled_from([accept, "Deny", *passes]))}
    peers, inside = [WHO, WHO], True
    if direction == "egress":
        outside = [
            st.fixed_dictionaries({"networks": subsets(PREFIXES, low=1)}),
            st.fixed_dictionaries({"nodes": NODES}),
        ]
        if rule["action"] == accept and tier == "Admin":
            outside += [st.fixed_dictionaries({"domainNames": subsets(DOMAINS, low=1)})] * 4  # nowhere but here
        inside = draw(st.booleans())
        peers = peers if inside else outside
    side = "from" if direction == "ingress" else "to"
    rule[side] = draw(st.lists(st.one_of(peers), min_size=1, max_size=2))
    if draw(st.booleans()):
        named = draw(st.integers(0, 2)) == 0 and inside
        name = st.sampled_from(["http", "dns"])
        if kind == "ClusterNetworkPolicy":
            ports = name.map(lambda one: {"destinationNamedPort": one}) if named else ADMIN_PROTOCOLS
            rule["protocols"] = draw(st.lists(ports, min_size=1, max_size=2))
        else:
            ports = name.map(lambda one: {"namedPort": one}) if named else ADMIN_PORTS
            rule["ports"] = draw(st.lists(ports, min_size=1, max_size=2))
    return rule


@st.composite
def admin_specs(draw: st.DrawFn, kind: str) -> Document:
    spec: Document = {"subject": draw(WHO)}
    tier = "Baseline" if kind == "BaselineAdminNetworkPolicy" else "Admin"
    if kind == "ClusterNetworkPolicy":
        spec["tier"] = tier = draw(st.sampled_from(["Admin", "Baseline"]))
    if kind != "BaselineAdminNetworkPolicy":
        spec["priority"] = draw(st.integers(0, 2))
    for direction in draw(subsets(["ingress", "egress"], low=1)):
        spec[direction] = draw(st.lists(admin_rules(kind, tier, direction), min_size=1, max_size=3))
    return spec


@st.composite
def documents(draw: st.DrawFn, number: int) -> Document:
    # There is one baseline policy of the older kind, so only the first document may be it.
    kind = draw(st.sampled_from([*KINDS, *(["BaselineAdminNetworkPolicy"] if number == 0 else [])]))
    metadata = {"name": "default" if kind.startswith("Baseline") else f"p{number}"}
    if kind in ("CiliumNetworkPolicy", "NetworkPolicy"):
        metadata["namespace"] = draw(st.sampled_from(sorted(NAMESPACES)))
    document: Document = {"apiVersion": VERSIONS.get(kind, "cilium.io/v2"), "kind": kind, "metadata": metadata}
    if kind == "NetworkPolicy":
        document["spec"] = draw(kubernetes_specs())
    elif not kind.startswith("Cilium"):
        document["spec"] = draw(admin_specs(kind))
    else:
        specs = cilium.specs(clusterwide="namespace" not in metadata)
        if draw(st.integers(0, 4)) == 0:
            document["specs"] = draw(st.lists(specs, min_size=1, max_size=2))
        else:
            document["spec"] = draw(specs)
    return document


@st.composite
def limits(draw: st.DrawFn, number: int) -> Document:
    namespace = draw(st.sampled_from([{"namespace": "shop"}, {"namespace": "bank"}, {}]))
    kind = "CiliumNetworkPolicy" if namespace else "CiliumClusterwideNetworkPolicy"
    metadata = {"name": f"p{number}", **namespace}
    spec = draw(cilium.limiting_specs())
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def together(one: Callable[[int], st.SearchStrategy[Document]], most: int) -> st.SearchStrategy[list[Document]]:
    return (
        st.integers(1, most)
        .flatmap(lambda count: st.tuples(*(one(number) for number in range(count))))
        .map(lambda found: [*found, *OBJECTS])
    )


SETS = together(documents, 4)
LIMITS = together(limits, 3)
"""Clusters in which much is said of requests."""
