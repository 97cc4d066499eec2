# SPDX-License-Identifier: Apache-2.0
"""Reads policy trees strictly: a field is supported, refused with a reason, or a mistake; none is passed over.

Collects what is wrong and reads on, so that one run tells all. What a reading method returns after a mistake is only
good for finding more mistakes: whoever made the `Reader` must not use any result when `errors` is not empty.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from l7policy.errors import PolicyError, did_you_mean, nearest
from l7policy.yamltree import Kind, Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that a mapping may have in its dialect."""

    supported: frozenset[str]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Known, and why not here."""
    required: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    """Known, and without meaning for enforcement: anything may be in there."""


def fields(
    supported: str, *, required: str = "", ignored: str = "", refused: Mapping[str, str] | None = None
) -> Fields:
    """`Fields` from words with spaces between."""
    return Fields(
        supported=frozenset(supported.split()),
        refused=dict(refused or {}),
        required=frozenset(required.split()),
        ignored=frozenset(ignored.split()),
    )


class Reader:
    """One reading of any number of documents."""

    def __init__(self) -> None:
        self.errors: list[PolicyError] = []

    def fail(self, node: Node, message: str, hint: str = "") -> None:
        """Records a mistake at the node."""
        self.errors.append(node.error(message, hint))

    def mapping(self, node: Node, what: str, known: Fields) -> dict[str, Node]:
        """The supported fields that are there. A field without a value is a mistake: it reads differently in
        CiliumNetworkPolicy, in NetworkPolicy and in the mind of its author."""
        if node.kind is not Kind.MAPPING:
            self.fail(node, f"{what} must be a mapping, not {node.kind}")
            return {}
        found: dict[str, Node] = {}
        missing = known.required - node.fields.keys()
        for name, value in node.fields.items():
            key = node.keys[name]
            if name in known.ignored:
                continue
            if name in known.refused:
                self.fail(key, f"field {name} is not allowed here: {known.refused[name]}")
            elif name not in known.supported:
                self.fail(key, f"unknown field {name[:80]}", did_you_mean(name, known.supported | known.ignored))
                missing -= {nearest(name, known.supported | known.ignored)}
            elif value.kind is Kind.NULL:
                self.fail(key, f"field {name} has no value", "leave it out, or write [] or {} if you mean empty")
            else:
                found[name] = value
        for name in sorted(missing):
            self.fail(node, f"{what} needs the field {name}")
        return found

    def lacks(self, node: Node, known: Fields, names: str, message: str, hint: str = "") -> None:
        """Records that the node has none of the fields `names`; not if one of them is misspelt, which was told."""
        unknown = node.fields.keys() - known.supported - known.ignored - known.refused.keys()
        if not any(nearest(name, known.supported | known.ignored) in names.split() for name in unknown):
            self.fail(node, message, hint)

    def sequence(self, node: Node, what: str) -> tuple[Node, ...]:
        """The elements of a list."""
        if node.kind is not Kind.SEQUENCE:
            self.fail(node, f"{what} must be a list, not {node.kind}")
        return node.items

    def text(self, node: Node, what: str) -> str:
        """A text; a number or a word that YAML takes for one must be in quotes, as in Kubernetes."""
        if node.kind is Kind.TEXT:
            return node.text
        scalar = node.kind not in {Kind.MAPPING, Kind.SEQUENCE, Kind.NULL}
        self.fail(node, f"{what} must be text, not {node.kind}", f'quote it: "{node.text[:40]}"' if scalar else "")
        return ""

    def boolean(self, node: Node, what: str) -> bool:
        """True or false."""
        if node.kind is not Kind.BOOLEAN:
            self.fail(node, f"{what} must be true or false, not {node.kind}")
            return False
        return bool(node.value)

    def checked(self, node: Node, what: str, check: Callable[[str], T]) -> T | None:
        """A text as `check` understands it. `check` says by a ValueError what is wrong with it."""
        if node.kind is not Kind.TEXT:
            self.text(node, what)
            return None
        return self.attempt(node, what, lambda: check(node.text))

    def attempt(self, node: Node, what: str, make: Callable[[], T]) -> T | None:
        """What `make` makes, or None and a mistake at the node if it raises a ValueError."""
        try:
            return make()
        except ValueError as error:
            self.fail(node, f"{what}: {error}")
            return None
