# SPDX-License-Identifier: Apache-2.0
"""Label selectors: which conditions a selector means, and what is said of one that means none."""

import pytest

from l7policy import labelselector, yamltree
from l7policy.labels import selector_key
from l7policy.model import Operator, Requirement
from l7policy.reader import Reader


def read(text: str) -> tuple[tuple[Requirement, ...], list[str]]:
    reader = Reader()
    node = yamltree.parse("policy.yaml", text)[0]
    found = labelselector.requirements(reader, node, "endpointSelector", selector_key)
    return found, [str(error) for error in reader.errors]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", ()),
        ("matchLabels: {}", ()),
        ("matchLabels: {app: web}", (Requirement("any:app", Operator.IN, ("web",)),)),
        ("matchLabels: {k8s:app: web}", (Requirement("k8s:app", Operator.IN, ("web",)),)),
        (
            "matchExpressions: [{key: app, operator: NotIn, values: [b, a, a]}]",
            (Requirement("any:app", Operator.NOT_IN, ("a", "b")),),
        ),
        ("matchExpressions: [{key: app, operator: Exists}]", (Requirement("any:app", Operator.EXISTS),)),
        (
            "matchExpressions: [{key: app, operator: DoesNotExist, values: []}]",
            (Requirement("any:app", Operator.DOES_NOT_EXIST),),
        ),
    ],
)
def test_a_selector_means_its_conditions(text: str, expected: tuple[Requirement, ...]) -> None:
    assert read(text) == (expected, [])


def test_equal_selectors_are_equal_values_in_whatever_order_they_are_written() -> None:
    one = read("matchLabels: {a: x, b: y}\nmatchExpressions: [{key: c, operator: In, values: [q, p]}]")
    other = read("matchExpressions: [{operator: In, values: [p, q], key: c}]\nmatchLabels: {b: y, a: x}")
    assert one == other


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[]", "1:1", "endpointSelector must be a mapping"),
        ("matchLabel: {app: web}", "1:1", "did you mean matchLabels?"),
        ("matchLabels: {app: 'no good!'}", "1:20", "label app"),
        ("matchExpressions: [{operator: In, values: [a]}]", "1:20", "key"),
        ("matchExpressions: [{key: app, operator: in, values: [a]}]", "1:41", "did you mean In?"),
        ("matchExpressions: [{key: app, operator: In}]", "1:20", "operator In needs values"),
        ("matchExpressions: [{key: app, operator: Exists, values: [a]}]", "1:57", "operator Exists takes no values"),
    ],
)
def test_a_selector_that_means_nothing_is_named_with_its_place(text: str, place: str, message: str) -> None:
    _, errors = read(text)
    assert len(errors) == 1
    assert errors[0].startswith(f"policy.yaml:{place}: ")
    assert message in errors[0]
