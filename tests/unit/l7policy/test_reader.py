# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import yamltree
from l7policy.reader import Reader, fields
from l7policy.yamltree import Node

KNOWN = fields("a b", ignored="status", required="a", refused={"d": "it was removed"})


def node(text: str) -> Node:
    return yamltree.parse("f", text)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a: 1, b: 2, status: }", []),
        ("{a: 1, d: 2}", ["f:1:8: field d is not allowed here: it was removed"]),
        ("{a: 1, B: 2}", ["f:1:8: unknown field B (hint: did you mean b?)"]),
        ("{a: }", ["f:1:2: field a has no value (hint: leave it out, or write [] or {} if you mean empty)"]),
        ("{b: 1}", ["f:1:1: thing needs the field a"]),
        ("[]", ["f:1:1: thing must be a mapping, not a list"]),
    ],
)
def test_each_field_is_supported_known_or_a_mistake(text: str, expected: list[str]) -> None:
    reader = Reader()
    reader.mapping(node(text), "thing", KNOWN)
    assert [str(error) for error in reader.errors] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 'f:1:1: word must be text, not a number (hint: quote it: "1")'),
        ("yes", 'f:1:1: word must be text, not true/false (hint: quote it: "yes")'),
        ("1.20", 'f:1:1: word must be text, not a fraction (hint: quote it: "1.20")'),
        ("[a]", "f:1:1: word must be text, not a list"),
        ("{a: b}", "f:1:1: word must be text, not a mapping"),
    ],
)
def test_what_yaml_takes_for_something_else_is_no_text(text: str, expected: str) -> None:
    reader = Reader()
    assert reader.text(node(text), "word") == ""
    assert reader.checked(node(text), "word", str.upper) is None
    assert [str(error) for error in reader.errors] == [expected, expected]


def test_a_check_tells_by_a_value_error_what_is_wrong() -> None:
    reader = Reader()
    assert reader.checked(node("'12'"), "number", int) == 12
    assert reader.checked(node("x"), "number", int) is None
    assert len(reader.errors) == 1
    assert reader.errors[0].message.startswith("number: invalid literal")
