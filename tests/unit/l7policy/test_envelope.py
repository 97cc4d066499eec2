# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import envelope, yamltree
from l7policy.envelope import Document
from l7policy.reader import Reader


def read(text: str) -> tuple[list[Document], list[str]]:
    reader = Reader()
    found = [document for node in yamltree.parse("f", text) for document in envelope.documents(reader, node)]
    return found, [str(error) for error in reader.errors]


ADMIN = "apiVersion: policy.networking.k8s.io/{}\nkind: {}\nmetadata: {{name: a}}\nspec: {{}}"
CNP = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
CCNP = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n"
NP = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (CNP + "metadata: {name: a}", "default/a"),
        (CNP + "metadata: {name: a.b-c, namespace: shop}", "shop/a.b-c"),
        (CCNP + "metadata: {name: a}", "a"),
        (NP + "metadata: {name: a, namespace: shop}\nspec: {}", "networkpolicy:shop/a"),
        (ADMIN.format("v1alpha1", "AdminNetworkPolicy"), "adminnetworkpolicy:a"),
        (ADMIN.format("v1alpha1", "BaselineAdminNetworkPolicy"), "baselineadminnetworkpolicy:a"),
        (ADMIN.format("v1alpha2", "ClusterNetworkPolicy"), "clusternetworkpolicy:a"),
        (
            CNP
            + "metadata: {name: a, creationTimestamp: null, labels: {a: b}, annotations: {x: 1}, uid: u}\nstatus: {}",
            "default/a",
        ),
    ],
)
def test_a_document_has_a_title_that_no_other_kind_shares(text: str, title: str) -> None:
    documents, errors = read(text)
    assert errors == []
    assert [document.title for document in documents] == [title]


def test_a_list_is_unpacked() -> None:
    item = "\n  ".join((NP + "metadata: {name: NAME}\nspec: {}").splitlines())
    items = "".join(f"- {item.replace('NAME', name)}\n" for name in ("a", "b"))
    documents, errors = read(f"apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n{items}")
    assert errors == []
    assert [document.title for document in documents] == ["networkpolicy:default/a", "networkpolicy:default/b"]
    assert [document.node.line for document in documents] == [5, 9]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "f:1:1: a policy must be a mapping, not a list"),
        ("spec: {}", "f:1:1: no field apiVersion and no field kind: this is not a policy"),
        (
            "apiversion: cilium.io/v2\nkind: CiliumNetworkPolicy",
            "f:1:1: no field apiVersion: this is not a policy (hint: apiversion: did you mean apiVersion?)",
        ),
        ("apiVersion: v1\nkind: 1", 'f:2:7: kind must be text, not a number (hint: quote it: "1")'),
        (
            "apiVersion: apps/v1\nkind: Deployment",
            (
                "f:2:7: kind Deployment is not supported (hint: known here: AdminNetworkPolicy,"
                " BaselineAdminNetworkPolicy, CiliumCIDRGroup, CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy,"
                " ClusterNetworkPolicy, EndpointSlice, List, NetworkPolicy, Service)"
            ),
        ),
        (
            "apiVersion: v1\nkind: CiliumNetworkpolicy",
            "f:2:7: kind CiliumNetworkpolicy is not supported (hint: did you mean CiliumNetworkPolicy?)",
        ),
        (
            "apiVersion: cilium.io/v1\nkind: CiliumNetworkPolicy",
            "f:1:13: a CiliumNetworkPolicy has apiVersion cilium.io/v2, not cilium.io/v1",
        ),
        (CNP + "spec: {}", "f:1:1: a CiliumNetworkPolicy needs the field metadata"),
        (CNP + "metadata: {}", "f:3:11: metadata needs the field name"),
        (
            CNP + "metadata: {name: A}",
            "f:3:18: name: 'A' cannot name a policy: lower-case letters, digits, '-' and '.', at most 253",
        ),
        (CNP + "metadata: {name: 1}", 'f:3:18: name must be text, not a number (hint: quote it: "1")'),
        (
            CNP + "metadata: {name: a, namespace: a.b}",
            "f:3:32: namespace: 'a.b' cannot name a namespace: lower-case letters, digits and '-', at most 63",
        ),
        (CNP + "metadata: {name: a, namespce: b}", "f:3:21: unknown field namespce (hint: did you mean namespace?)"),
        (CNP + "metadata: {name: a}\nSpec: {}", "f:4:1: unknown field Spec (hint: did you mean spec?)"),
        (
            CCNP + "metadata: {name: a, namespace: b}",
            "f:3:21: a clusterwide policy is in no namespace (hint: leave it out, or use CiliumNetworkPolicy)",
        ),
        (
            ADMIN.format("v1alpha1", "ClusterNetworkPolicy"),
            (
                "f:1:13: a ClusterNetworkPolicy has apiVersion policy.networking.k8s.io/v1alpha2,"
                " not policy.networking.k8s.io/v1alpha1"
            ),
        ),
        (
            ADMIN.format("v1alpha1", "AdminNetworkPolicy").replace("name: a", "name: a, namespace: b"),
            "f:3:21: AdminNetworkPolicy is in no namespace (hint: leave it out)",
        ),
        (NP + "metadata: {name: a}", "f:1:1: a NetworkPolicy needs the field spec"),
        (NP + "metadata: {name: a}\nspecs: []\nspec: {}", "f:4:1: unknown field specs (hint: did you mean spec?)"),
        ("apiVersion: v1\nkind: List", "f:1:1: a List needs the field items"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: []}",
            "f:4:3: a List inside of a List",
        ),
    ],
)
def test_what_is_not_a_policy_is_refused(text: str, expected: str) -> None:
    assert expected in read(text)[1]
