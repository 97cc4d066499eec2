# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import selectors, yamltree
from l7policy.ciliumpeers import KINDS, REFUSED_ENTITIES, Peers, in_namespace, is_namespace_key
from l7policy.model import CidrPeer, EntityPeer, FqdnPeer, LabelPeer, NodePeer, Operator, Peer, Requirement
from l7policy.objects import Objects
from l7policy.reader import Reader

IN_SHOP = Requirement("k8s:io.kubernetes.pod.namespace", Operator.IN, ("shop",))
IN_ANY = Requirement("k8s:io.kubernetes.pod.namespace", Operator.EXISTS)
WEB = Requirement("any:app", Operator.IN, ("web",))


def read(kind: str, text: str, namespace: str = "shop") -> tuple[tuple[Peer, ...], list[str]]:
    reader = Reader()
    found = Peers(reader, namespace, Objects()).read(kind, yamltree.parse("f", text)[0])
    return found, [error.message for error in reader.errors]


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
