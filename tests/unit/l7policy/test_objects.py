# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import envelope, yamltree
from l7policy.model import CidrPeer, LabelPeer, Operator, Requirement
from l7policy.objects import Objects, read
from l7policy.reader import Reader

GROUPS = """
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: vpn, labels: {team: net}}
spec: {externalCIDRs: [192.0.2.0/24, '2001:db8::/32', 192.0.2.0/24]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumCIDRGroup
metadata: {name: office, labels: {team: net}}
spec: {externalCIDRs: [198.51.100.0/24]}
"""
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop, labels: {role: data}}
spec: {selector: {app: db}, ports: [{port: 5432}], clusterIP: 192.0.2.9}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop, labels: {role: data}}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, namespace: shop, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
endpoints: [{addresses: [203.0.113.7], conditions: {ready: true}}, {addresses: [203.0.113.8]}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {}
"""
DB = LabelPeer(
    (
        Requirement("k8s:app", Operator.IN, ("db",)),
        Requirement("k8s:io.kubernetes.pod.namespace", Operator.IN, ("shop",)),
    )
)
OUTSIDE = (CidrPeer("203.0.113.7/32"), CidrPeer("203.0.113.8/32"))


def labelled(key: str, value: str) -> tuple[Requirement, ...]:
    return (Requirement(f"k8s:{key}", Operator.IN, (value,)),)


def given(text: str) -> tuple[Objects, list[str]]:
    reader, objects = Reader(), Objects()
    for node in yamltree.parse("f", text):
        for document in envelope.objects(reader, node):
            objects.add(read(reader, document))
    return objects, [str(error) for error in reader.errors]


def test_groups_are_found_by_name_and_by_label() -> None:
    objects, errors = given(GROUPS)
    assert errors == []
    assert objects.group("vpn") == ("192.0.2.0/24", "2001:db8::/32")
    assert objects.groups(labelled("team", "net")) == ("198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32")


def test_who_is_behind_a_service_is_whom_it_selects_or_the_addresses_of_its_slices() -> None:
    objects, errors = given(SERVICES)
    assert errors == []
    assert objects.service("shop", "db") == (DB,)
    assert objects.service("shop", "outside") == OUTSIDE
    assert objects.services("", labelled("role", "data")) == (DB, *OUTSIDE)
    assert objects.services("shop", labelled("role", "data")) == (DB, *OUTSIDE)


def test_what_is_not_there_is_a_mistake_and_not_nobody() -> None:
    objects, _ = given(GROUPS + "---" + SERVICES)
    for ask, fault in (
        (lambda: objects.group("vnp"), "no CiliumCIDRGroup 'vnp' among the files"),
        (lambda: objects.groups(labelled("team", "x")), "no CiliumCIDRGroup among the files has such labels"),
        (lambda: objects.service("other", "db"), "no Service other/db among the files: give its YAML"),
        (lambda: objects.service("shop", "empty"), "has no addresses: give its EndpointSlice"),
        (lambda: objects.services("other", labelled("role", "data")), "no Service among the files has such labels"),
    ):
        with pytest.raises(ValueError, match=fault):
            ask()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: a}\nspec: {cidrGroupRef: a}",
            "f:4:8: field cidrGroupRef is not allowed here: a group holds prefixes, and never other groups",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: a}\nspec: {externalCIDRs: [x]}",
            "f:4:24: prefix: 'x' is not a prefix like 192.0.2.0/24",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\nendpoints: [{addresses: [x]}]",
            "f:4:26: address: 'x' is not an address",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: [a]}",
            "f:4:18: selector must be a mapping, not a list",
        ),
    ],
)
def test_an_object_that_is_wrong_is_told_with_its_place(text: str, expected: str) -> None:
    assert expected in given(text)[1]


def test_of_a_cluster_only_what_policies_refer_to_is_read() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: 7}\n"
    text += "- {apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {selector: {x: y}}}\n"
    objects, errors = given(text + "---\nnothing: at all\n---\n- a list\n")
    assert errors == []
    assert objects.service("b", "a")
