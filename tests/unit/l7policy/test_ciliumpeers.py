# SPDX-License-Identifier: Apache-2.0
from textwrap import indent

import pytest

from l7policy import ciliumpeers, labels, selectors, yamltree
from l7policy.ciliumpeers import KINDS, REFUSED_ENTITIES, Peers, in_namespace, is_namespace_key
from l7policy.documents import Policy, Source, load
from l7policy.errors import PolicyErrors
from l7policy.model import CidrPeer, EntityPeer, FqdnPeer, LabelPeer, NodePeer, Operator, Peer, Requirement, Rule
from l7policy.objects import Objects
from l7policy.reader import Reader

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
CLUSTERWIDE = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: base}\n"
IN_SHOP = Requirement("k8s:io.kubernetes.pod.namespace", Operator.IN, ("shop",))
IN_ANY = Requirement("k8s:io.kubernetes.pod.namespace", Operator.EXISTS)
WEB = Requirement("any:app", Operator.IN, ("web",))


def read(kind: str, text: str, namespace: str = "shop") -> tuple[tuple[Peer, ...], list[str]]:
    reader = Reader()
    found = Peers(reader, namespace, Objects()).read(kind, yamltree.parse("f", text)[0])
    return found, [error.message for error in reader.errors]


def policy(spec: str, head: str = HEAD) -> Policy:
    """A policy for every endpoint of the namespace; `spec` holds its other fields."""
    (found,) = load([Source("f", f"{head}spec:\n  endpointSelector: {{}}\n{indent(spec, '  ')}\n")])
    return found


def rule(spec: str, head: str = HEAD) -> Rule:
    (found,) = policy(spec, head).rules
    return found


def peers(spec: str, head: str = HEAD) -> tuple[Peer, ...] | None:
    return rule(spec, head).peers


def is_in(key: str, *values: str) -> Requirement:
    return Requirement(key, Operator.IN, values)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("fromEndpoints", "[{matchLabels: {app: web}}]", LabelPeer((WEB, IN_SHOP))),
        ("toNodes", "[{matchLabels: {app: web}}]", NodePeer((WEB,))),
        ("toCIDR", "[192.0.2.0/24]", CidrPeer("192.0.2.0/24")),
        ("fromCIDRSet", "[{cidr: 192.0.2.0/24, except: [192.0.2.0/25]}]", CidrPeer("192.0.2.0/24", ("192.0.2.0/25",))),
        ("toEntities", "[world]", EntityPeer("world")),
        ("toFQDNs", "[{matchName: a.example}]", FqdnPeer(match_name="a.example.")),
    ],
)
def test_each_kind_of_list_has_its_peer(kind: str, text: str, expected: Peer) -> None:
    assert read(kind, text) == ((expected,), [])


def test_a_clusterwide_policy_means_endpoints_of_some_namespace() -> None:
    assert read("toEndpoints", "[{}]", namespace="") == ((LabelPeer((IN_ANY,)),), [])


def test_the_same_peer_twice_is_one() -> None:
    assert read("toEntities", "[world, world]")[0] == (EntityPeer("world"),)


def test_every_entity_is_one_that_the_engine_knows_or_refused_with_a_reason() -> None:
    assert set(read("toEntities", f"[{', '.join(sorted(selectors.ENTITIES))}]")[0]) == {
        EntityPeer(entity) for entity in selectors.ENTITIES
    }
    for entity, reason in REFUSED_ENTITIES.items():
        assert read("toEntities", f"[{entity}]") == ((), [f"entity: {entity} is not supported: {reason}"])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_empty_list_is_nobody_and_what_is_no_list_is_a_mistake(kind: str) -> None:
    assert read(kind, "[]") == ((), [])
    assert read(kind, "{}")[1] == [f"{kind} must be a list, not a mapping"]
    assert read(kind, "[7]")[1]


def test_conditions_on_the_namespace_are_told_apart() -> None:
    assert in_namespace("shop") == IN_SHOP
    assert is_namespace_key("any:io.kubernetes.pod.namespace")
    assert not is_namespace_key("k8s:io.cilium.k8s.namespace.labels.team")


# ---- in a policy


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("egress: [{toPorts: [{ports: [{port: '80'}]}]}]", None),
        ("egress: [{toEndpoints: []}]", ()),
        ("egress: [{toEndpoints: [], toPorts: [{ports: [{port: '80'}]}]}]", ()),
        ("egress: [{toFQDNs: [], toPorts: [{ports: [{port: '80'}]}]}]", ()),
        ("egress: [{toCIDRSet: []}]", ()),
        ("egress: [{toEntities: []}]", ()),
        ("ingress: [{fromCIDR: []}]", ()),
        ("egress: [{toEndpoints: [{}]}]", (LabelPeer((IN_SHOP,)),)),
        ("ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]", (LabelPeer((is_in("any:app", "a"), IN_SHOP)),)),
        (
            "ingress: [{fromEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: other}}]}]",
            (LabelPeer((is_in("any:io.kubernetes.pod.namespace", "other"),)),),
        ),
        (
            (
                "ingress: [{fromEndpoints: ["
                "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}]}]"
            ),
            (LabelPeer((IN_ANY,)),),
        ),
        (
            "ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': a}}]}]",
            (LabelPeer((is_in("k8s:io.cilium.k8s.namespace.labels.team", "a"),)),),
        ),
        (
            "ingress: [{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}]",
            (LabelPeer((is_in("reserved:host", ""),)),),
        ),
        (
            "egress: [{toCIDR: [192.0.2.7/24, '2001:db8::/32', 192.0.2.0/24]}]",
            (CidrPeer("192.0.2.0/24"), CidrPeer("2001:db8::/32")),
        ),
        (
            "egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25, 192.0.2.1/32]}, {cidr: '::/0'}]}]",
            (CidrPeer("192.0.2.0/24", ("192.0.2.1/32", "192.0.2.128/25")), CidrPeer("::/0")),
        ),
        ("ingress: [{fromCIDRSet: [{cidr: 192.0.2.0/24}]}]", (CidrPeer("192.0.2.0/24"),)),
        ("ingress: [{fromEntities: [world, cluster]}]", (EntityPeer("world"), EntityPeer("cluster"))),
        (
            "egress: [{toFQDNs: [{matchName: A.Example.com}, {matchPattern: '*.Example.com.'}]}]",
            (FqdnPeer(match_name="a.example.com."), FqdnPeer(match_pattern="*.example.com.")),
        ),
    ],
)
def test_absent_peers_are_anybody_and_empty_peers_nobody(spec: str, expected: tuple[Peer, ...] | None) -> None:
    assert peers(spec) == expected


def test_peers_of_a_clusterwide_policy_are_in_some_namespace() -> None:
    assert peers("egress: [{toEndpoints: [{}]}]", CLUSTERWIDE) == (LabelPeer((IN_ANY,)),)
    assert peers("egress: [{toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': a}}]}]", CLUSTERWIDE) == (
        LabelPeer((is_in(labels.NAMESPACE, "a"),)),
    )


def test_every_entity_that_is_documented_is_accepted() -> None:
    names = sorted(ciliumpeers.ENTITIES)
    assert peers(f"egress: [{{toEntities: [{', '.join(names)}]}}]") == tuple(map(EntityPeer, names))


def with_objects(spec: str, beside: str, cluster: str = "") -> tuple[Peer, ...] | None:
    text = f"{HEAD}spec:\n  endpointSelector: {{}}\n{indent(spec, '  ')}\n"
    (found,) = load([Source("f", text), Source("o", beside)], [Source("c", cluster)])
    return found.rules[0].peers


GROUP = (
    "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: vpn, labels: {team: net}}\n"
    "spec: {externalCIDRs: [192.0.2.0/24, 198.51.100.0/24]}\n"
)


SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: data, labels: {a: b}}\n"
    "spec: {selector: {app: db}}\n"
)


@pytest.mark.parametrize(
    "reference", ["cidrGroupRef: vpn", "cidrGroupSelector: {matchLabels: {team: net}}"], ids=["by name", "by label"]
)
def test_a_cidr_group_stands_for_its_prefixes_and_exceptions_carve_from_those_around_them(reference: str) -> None:
    spec = f"egress: [{{toCIDRSet: [{{{reference}, except: [192.0.2.8/29]}}]}}]"
    expected = (CidrPeer("192.0.2.0/24", ("192.0.2.8/29",)), CidrPeer("198.51.100.0/24"))
    assert with_objects(spec, GROUP) == expected
    assert with_objects(spec.replace("egress", "egressDeny"), "", GROUP) == expected


@pytest.mark.parametrize(
    "reference",
    [
        "k8sService: {serviceName: db, namespace: data}",
        "k8sServiceSelector: {selector: {matchLabels: {a: b}}}",
        "k8sServiceSelector: {selector: {matchLabels: {a: b}}, namespace: data}",
    ],
)
def test_a_service_stands_for_the_workloads_behind_it(reference: str) -> None:
    spec = f"egress: [{{toServices: [{{{reference}}}]}}]"
    behind = (LabelPeer((is_in("k8s:app", "db"), is_in(labels.NAMESPACE, "data"))),)
    assert with_objects(spec, SERVICE) == behind
    assert with_objects(spec, "", SERVICE) == behind


def test_nodes_are_peers_by_their_labels() -> None:
    assert peers("egress: [{toNodes: [{}, {matchLabels: {'node:role': db}}]}]") == (
        NodePeer(),
        NodePeer((is_in("node:role", "db"),)),
    )
    assert peers("ingressDeny: [{fromNodes: [{matchLabels: {role: db}}]}]") == (NodePeer((is_in("any:role", "db"),)),)


def test_an_exception_outside_of_every_prefix_of_the_group_is_a_mistake() -> None:
    with pytest.raises(PolicyErrors, match=r"203\.0\.113\.0/24 is not inside of any prefix of the group"):
        with_objects("egress: [{toCIDRSet: [{cidrGroupRef: vpn, except: [203.0.113.0/24]}]}]", GROUP)


def test_an_empty_list_of_any_peers_selects_nobody() -> None:
    """CVE-2025-64715: an empty toCIDRSet selected everybody."""
    for section, direction in (("egress", "to"), ("ingress", "from"), ("egressDeny", "to"), ("ingressDeny", "from")):
        for kind in sorted(ciliumpeers.KINDS):
            if kind.startswith(direction) and not (kind == "toFQDNs" and section == "egressDeny"):
                assert peers(f"{section}: [{{{kind}: []}}]") == (), (section, kind)
