# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from l7policy import yamltree
from l7policy.errors import PolicyErrors
from l7policy.yamltree import Kind


def values(text: str) -> list[Any]:
    return [node.value for node in yamltree.parse("f.yaml", text)]


def complaint(text: str) -> str:
    with pytest.raises(PolicyErrors) as caught:
        yamltree.parse("f.yaml", text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment\n", []),
        ("---\n---\n# nothing\n---\n", []),
        ("a: 1\n---\n\n---\n- b\n", [{"a": 1}, ["b"]]),
        ("\ufeffa: b", [{"a": "b"}]),
        ("a: yes\nb: Off\nc: 'yes'\nd: y", [{"a": True, "b": False, "c": "yes", "d": "y"}]),
        ("a: ~\nb:\nc: null\nd: ''", [{"a": None, "b": None, "c": None, "d": ""}]),
        ("a: -5\nb: 1.5\nc: '1'\nd: 1.20", [{"a": -5, "b": 1.5, "c": "1", "d": 1.2}]),
        ("a: .inf\nb: -.Inf", [{"a": float("inf"), "b": float("-inf")}]),
        ("a: 2026-01-01\nb: 1:30\nc: 12:30:45\nd: =", [{"a": "2026-01-01", "b": "1:30", "c": "12:30:45", "d": "="}]),
        ("a: !!str 80\nb: ! 80\nc: !!map {}\nd: !!seq []", [{"a": "80", "b": "80", "c": {}, "d": []}]),
        ("a: &x [1]\nb: *x\nc: &x 2\nd: *x", [{"a": [1], "b": [1], "c": 2, "d": 2}]),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y", [{"a": "x\ny\n", "b": "x y"}]),
        ("a: é\n'ü': 😀", [{"a": "é", "ü": "😀"}]),
    ],
)
def test_text_is_read_as_kubernetes_reads_it(text: str, expected: list[Any]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [b", "f.yaml:1:6: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
        (
            "a: [b,\n\nc",
            (
                "f.yaml:3:2: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"
                " (it began on line 1)"
            ),
        ),
        ("ok: 1\na: b: c", "f.yaml:2:5: not YAML: mapping values are not allowed in this context"),
        (
            "a:\n\t- b",
            "f.yaml:2:1: not YAML: while scanning for the next token, found character that cannot start any token",
        ),
        ("é: 'x", "f.yaml:1:6: not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("%YAML 3.0\n---\na", "f.yaml:1:1: not YAML: found incompatible YAML document"),
        ("a: b\n  - \x01", "f.yaml:2:5: character '\\x01' is not allowed in YAML"),
        ("a: \ud800", "f.yaml:1:4: character '\\ud800' is not allowed in YAML"),
        ('a: "\\0"', "f.yaml:1:4: character '\\x00' is not allowed, escaped or not"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: key a is repeated; first on line 1"),
        ("a: 1\n'a': 3", "f.yaml:2:1: key a is repeated; first on line 1"),
        ("1: a", "f.yaml:1:1: a key must be text, not a number (hint: quote it)"),
        ("on: a", "f.yaml:1:1: a key must be text, not true/false (hint: quote it)"),
        ("? [a]\n: b", "f.yaml:1:3: a key must be text, not a list"),
        ("a: 010", "f.yaml:1:4: 010 is not a plain decimal number (hint: write it in decimal or in quotes)"),
        ("a: 0x1F", "f.yaml:1:4: 0x1F is not a plain decimal number (hint: write it in decimal or in quotes)"),
        ("a: 1_000", "f.yaml:1:4: 1_000 is not a plain decimal number (hint: write it in decimal or in quotes)"),
        ("a: &x {b: c}\nd:\n  <<: *x", "f.yaml:3:3: merge keys (<<) are not supported (hint: write the values out)"),
        ("a: !secret x", "f.yaml:1:4: tag !secret is not supported (hint: write the values out)"),
        ("!python/object {}", "f.yaml:1:1: tag !python/object is not supported"),
        ("a: *x", "f.yaml:1:4: alias *x names no anchor before it"),
        ("a: &x [*x]", "f.yaml:1:8: alias *x is inside of what it names"),
        ("a: &x 1\n---\nb: *x", "f.yaml:3:4: alias *x names no anchor before it"),
        ("[" * 100, "f.yaml:1:65: nested deeper than 64 levels"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused_at_its_place(text: str, expected: str) -> None:
    assert complaint(text) == expected


def test_all_mistakes_are_told_at_once() -> None:
    assert complaint("a: 1\na: 2\nb: 010\n1: x").count("\n") == 2


def test_an_alias_bomb_is_refused_while_it_is_read() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(20))
    assert f"more than {yamltree.MAX_NODES} values, aliases counted at each use" in complaint(bomb)


def test_too_large_a_text_is_refused_unread() -> None:
    assert complaint("#" * (yamltree.MAX_CHARACTERS + 1)) == "f.yaml: the file is larger than 8 MiB"


def test_every_node_and_key_knows_where_it_stood() -> None:
    (node,) = yamltree.parse("f.yaml", "# first\nspec:\n  egress:\n    - {toCIDR: [x]}\n")
    egress = node.fields["spec"].fields["egress"]
    cidr = egress.items[0].fields["toCIDR"]
    places = [(n.line, n.column) for n in (node, node.keys["spec"], egress, egress.items[0], cidr, cidr.items[0])]
    assert places == [(2, 1), (2, 1), (4, 5), (4, 7), (4, 16), (4, 17)]
    assert node.path == "f.yaml"
    assert (node.kind, egress.kind, cidr.items[0].kind) == (Kind.MAPPING, Kind.SEQUENCE, Kind.TEXT)
