# SPDX-License-Identifier: Apache-2.0
from typing import Annotated, Any

import msgspec
import pytest

from l7policy import schemapath, yamltree
from l7policy.errors import PolicyErrors


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    netns: str
    labels: dict[str, str] | list[str] = []


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1
    timeout: float = 1.0


class File(msgspec.Struct, forbid_unknown_fields=True):
    limits: Limits | None = None
    entries: list[Entry] = []
    by_name: dict[str, Limits] = {}


def complaint(text: str, schema: Any = File) -> str:
    (node,) = yamltree.parse("f.yaml", text)
    with pytest.raises(PolicyErrors) as caught:
        schemapath.to_struct(node, schema)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limit: {}", "f.yaml:1:1: unknown field limit (hint: did you mean limits?)"),
        ("limits:\n  max_byte: 1", "f.yaml:2:3: unknown field max_byte (hint: did you mean max_bytes?)"),
        ("limits: {zzz: 1}", "f.yaml:1:10: unknown field zzz (hint: known here: max_bytes, timeout)"),
        ("limits:\n  max_bytes: many", "f.yaml:2:14: limits.max_bytes: expected a number, got text"),
        ("limits:\n  max_bytes: 0", "f.yaml:2:14: limits.max_bytes: expected a number >= 1"),
        ("entries:\n- netns: a\n- {}", "f.yaml:3:3: entries: object missing required field netns"),
        ("entries:\n- netns: 1", "f.yaml:2:10: entries.netns: expected text, got a number"),
        ("entries:\n- netns: a\n  label: []", "f.yaml:3:3: unknown field label (hint: did you mean labels?)"),
        ("entries: [{netns: a, labels: {x: y, n: 1}}]", "f.yaml:1:40: entries.labels: expected text, got a number"),
        ("by_name: {a: {maxbytes: 1}}", "f.yaml:1:15: unknown field maxbytes (hint: did you mean max_bytes?)"),
        ("[]", "f.yaml:1:1: expected a mapping, got a list"),
    ],
)
def test_what_msgspec_refuses_is_told_with_its_place(text: str, expected: str) -> None:
    assert complaint(text) == expected


def test_lists_and_plain_values_have_places_too() -> None:
    assert complaint("- netns: a\n- x", list[Entry]) == "f.yaml:2:3: expected a mapping, got text"
    assert complaint("- 1\n- x", list[int]) == "f.yaml:2:3: expected a number, got text"


def test_a_node_becomes_a_struct() -> None:
    (node,) = yamltree.parse("f.yaml", "limits: {timeout: 3}\nentries: [{netns: a, labels: [b]}]\nby_name: {c: {}}")
    assert schemapath.to_struct(node, File) == File(Limits(timeout=3), [Entry("a", ["b"])], {"c": Limits()})
