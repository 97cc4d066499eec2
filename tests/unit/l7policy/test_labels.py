# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import labels
from l7policy.labels import LabelError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app=web", "k8s:app=web"),
        (" app=web ", "k8s:app=web"),
        ("k8s:app=web", "k8s:app=web"),
        ("container:com.example/tier=a_b.c", "container:com.example/tier=a_b.c"),
        ("app=", "k8s:app="),
        ("app", "k8s:app="),
    ],
)
def test_a_label_of_a_workload_is_kubernetes_unless_it_says_otherwise(text: str, expected: str) -> None:
    assert labels.workload_label(text) == expected
    assert labels.workload_label(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reserved:host", "a workload cannot carry labels of source reserved"),
        ("reserved.host=", "a workload cannot carry labels of source reserved"),
        ("cidr:192.0.2.0/24", "a workload cannot carry labels of source cidr"),
        ("fqdn:example.com", "a workload cannot carry labels of source fqdn"),
        ("k8:app=web", "unknown label source 'k8'; did you mean k8s?"),
        ("=web", "'' is not a label key"),
        ("app=a=b", "'a=b' is not a label value"),
        ("app=" + "x" * 64, "is not a label value"),
        ("a b=c", "'a b' is not a label key"),
        ("UPPER.example/x=y", "before the '/' belongs a DNS name in lower case"),
        ("app=web\n", ""),
    ],
)
def test_a_workload_cannot_carry(text: str, expected: str) -> None:
    if not expected:
        assert labels.workload_label(text) == "k8s:app=web"
        return
    with pytest.raises(LabelError, match=r"^label ") as caught:
        labels.workload_label(text)
    assert expected in str(caught.value)


def test_workloads_are_in_namespace_default_unless_they_say_otherwise() -> None:
    assert labels.workload_labels(["app=web"]) == {"k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"}
    assert labels.workload_labels(["io.kubernetes.pod.namespace=shop"]) == {"k8s:io.kubernetes.pod.namespace=shop"}
    assert labels.workload_labels([]) == frozenset()


def test_one_key_has_one_value() -> None:
    with pytest.raises(LabelError, match=r"label k8s:app has two values, 'a' and 'b'"):
        labels.workload_labels(["app=b", "k8s:app=a"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", "any:app"),
        ("any:app", "any:app"),
        ("k8s:example.com/app", "k8s:example.com/app"),
        ("k8s:io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"),
        ("reserved:host", "reserved:host"),
        ("reserved.host", "reserved:host"),
        ("reserved:kube-apiserver", "reserved:kube-apiserver"),
    ],
)
def test_a_key_of_a_selector_without_a_source_means_any_source(text: str, expected: str) -> None:
    assert labels.selector_key(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not a label key"),
        ("k8s:", "is not a label key"),
        ("k8s:a:b", "is not a label key"),
        ("k8:app", "unknown label source 'k8'; did you mean k8s?"),
        ("cidr:192.0.2.0/24", "unknown label source 'cidr'"),
        ("reserved:all", "unknown label reserved:all"),
        (
            "k8s.io.kubernetes.pod.namespace",
            "no workload has the label k8s.io.kubernetes.pod.namespace; did you mean k8s:io.kubernetes.pod.namespace?",
        ),
        ("reserved:hots", "unknown label reserved:hots; did you mean host?"),
    ],
)
def test_a_selector_cannot_ask_for(text: str, expected: str) -> None:
    with pytest.raises(LabelError) as caught:
        labels.selector_key(text)
    assert expected in str(caught.value)


def test_a_key_of_a_selector_of_nodes_may_name_its_source() -> None:
    assert labels.node_key("role") == "any:role"
    assert labels.node_key("node:example.com/role") == "node:example.com/role"
    with pytest.raises(LabelError, match="unknown label source 'reserved'"):
        labels.node_key("reserved:host")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("k8s:app=web", ("k8s:app", "web")),
        ("reserved:world", ("reserved:world", "")),
        ("cidr:2001:db8::/32", ("cidr:2001:db8::/32", "")),
        ("k8s:app=", ("k8s:app", "")),
    ],
)
def test_a_canonical_label_splits_into_key_and_value(label: str, expected: tuple[str, str]) -> None:
    assert labels.split(label) == expected


def test_names_of_objects_and_namespaces_follow_rfc_1123() -> None:
    assert labels.is_subdomain("a.b-c.0")
    assert not any(map(labels.is_subdomain, ("", "A", "a_b", "-a", "a.", "a..b", "a" * 254)))
    assert labels.is_namespace("a-b")
    assert not any(map(labels.is_namespace, ("a.b", "a" * 64, "")))
