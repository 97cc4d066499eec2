# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.labelfilter import check, identity_labels

NAMESPACE = "k8s:io.kubernetes.pod.namespace=shop"


def kept(*labels: str, rules: tuple[str, ...] = ()) -> set[str]:
    return set(identity_labels(frozenset(labels), rules))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("k8s:app=web", True),
        ("container:app=web", True),
        (NAMESPACE, True),
        ("k8s:io.cilium.k8s.namespace.labels.team=a", True),
        ("k8s:io.cilium.k8s.policy.serviceaccount=web", True),
        ("k8s:app.kubernetes.io/name=web", True),
        ("k8s:pod-template-hash=5f8d", False),
        ("k8s:controller-revision-hash=5f8d", False),
        ("k8s:statefulset.kubernetes.io/pod-name=db-0", False),
        ("k8s:io.kubernetes.container.name=web", False),
        ("k8s:beta.kubernetes.io/arch=amd64", False),
        ("k8s:annotation.checksum=1", False),
        ("reserved:host", True),
        ("cidr:192.0.2.0/24", True),
        ("fqdn:*.example.com", True),
    ],
)
def test_what_changes_with_every_pod_does_not_count(label: str, expected: bool) -> None:
    assert bool(kept(label)) is expected


def test_a_rule_that_leaves_out_takes_the_rest_along() -> None:
    assert kept("k8s:app=web", "k8s:build=7", "k8s:team=a", rules=("!build",)) == {"k8s:app=web", "k8s:team=a"}


def test_a_rule_that_takes_in_leaves_out_the_rest_but_what_policies_need() -> None:
    labels = ("k8s:app=web", "k8s:build=7", NAMESPACE, "reserved:init", "k8s:app.kubernetes.io/name=x")
    assert kept(*labels, rules=("k8s:app$",)) == {
        "k8s:app=web",
        NAMESPACE,
        "reserved:init",
        "k8s:app.kubernetes.io/name=x",
    }


def test_a_rule_with_a_source_speaks_of_that_source() -> None:
    assert kept("k8s:app=web", "container:app=web", rules=("!container:app",)) == {"k8s:app=web"}


def test_the_longer_match_decides_where_rules_disagree() -> None:
    labels = ("k8s:team-shop=a", "k8s:team-other=b")
    assert kept(*labels, rules=("!team", "team-shop")) == {"k8s:team-shop=a"}
    assert kept(*labels, rules=("team", "!team-shop")) == {"k8s:team-other=b"}


def test_a_pattern_is_compared_from_the_beginning_of_the_key() -> None:
    assert kept("k8s:myapp=web", rules=("!app",)) == {"k8s:myapp=web"}
    assert kept("k8s:myapp=web", rules=("!.*app",)) == set()


@pytest.mark.parametrize("rule", ["(", "!k8s:(?=a)", "!", "k8s:"])
def test_a_rule_that_cannot_be_used_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="label rule"):
        check([rule])
    assert check(["!app"]) == ("!app",)
