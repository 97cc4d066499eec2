# SPDX-License-Identifier: Apache-2.0
import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import yamltree
from l7policy.errors import PolicyErrors
from l7policy.yamltree import Node

YAMLISH = st.lists(
    st.sampled_from(
        [
            "a",
            "b: ",
            "- ",
            ": ",
            "\n",
            "\n  ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&x ",
            "*x",
            "'",
            '"',
            "|\n",
            "<<",
            "!!int ",
            "? ",
            "---\n",
            "# ",
            "%",
            "\t",
            "010",
            "1.5",
            "yes",
            "~",
            "\\x",
            "é",
            "\x00",
        ]
    )
).map("".join)
WORDS = st.text(
    st.characters(
        min_codepoint=0x20, max_codepoint=0x2FFF, exclude_characters="\x7f\u2028\u2029", exclude_categories=["Cc", "Cs"]
    )
)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


def nodes(node: Node) -> list[Node]:
    return [
        node,
        *(below for child in (*node.items, *node.keys.values(), *node.fields.values()) for below in nodes(child)),
    ]


def check_places(refused: PolicyErrors, lines: int) -> None:
    for error in refused.errors:
        assert 1 <= error.line <= lines
        assert error.column >= 1
        assert error.message


@settings(max_examples=200)
@given(YAMLISH | st.text())
def test_any_text_is_read_or_refused_with_a_place_inside_of_it(text: str) -> None:
    lines = len(re.findall("[\r\n\x85\u2028\u2029]", text)) + 1
    try:
        found = yamltree.parse("f", text)
    except PolicyErrors as refused:
        check_places(refused, lines)
    else:
        assert all(node.value is not None for node in found)


@settings(max_examples=100)
@given(TREES)
def test_json_is_read_as_what_it_says(tree: Any) -> None:
    found = yamltree.parse("f", json.dumps(tree, ensure_ascii=False))
    assert [node.value for node in found] == ([] if tree is None else [tree])
    for node in found:
        assert node.size == len(nodes(node))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_every_value_is_found_where_it_was_written(indents: list[int]) -> None:
    text = "".join(f"k{index}:\n{' ' * (indent + 1)}- v{index}\n" for index, indent in enumerate(indents))
    (root,) = yamltree.parse("f", text)
    lines = text.splitlines()
    for key, node in root.fields.items():
        item = node.items[0]
        assert lines[root.keys[key].line - 1][root.keys[key].column - 1 :] == f"{key}:"
        assert lines[item.line - 1][item.column - 1 :] == f"v{key[1:]}"


def shown(node: Node) -> Any:
    """All of a node."""
    keys = [(name, key.line, key.column) for name, key in node.keys.items()]
    inside = [*map(shown, node.items), *map(shown, node.fields.values())]
    return node.line, node.column, node.kind, node.text, keys, inside


def said(parts: list[yamltree.Part]) -> Any:
    """What a reader of the parts sees; nothing where one is broken."""
    try:
        return [shown(node) for part in parts for node in yamltree.parse("f", part.text, part.line)]
    except PolicyErrors:
        return None


@given(st.lists(YAMLISH, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_the_parts_of_a_file_say_what_the_whole_says(documents: list[str], end: str) -> None:
    # No document may be so small that it is not worth a part of its own.
    padding = f"# {'long ' * 25}{end}"
    text = f"{end}---{end}".join(padding + one.replace("\n", end) for one in documents)
    parts = yamltree.parts("f", text)
    assert "".join(part.text for part in parts) == text
    assert said(parts) == said([yamltree.Part(1, text)])
