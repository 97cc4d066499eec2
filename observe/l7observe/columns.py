# SPDX-License-Identifier: Apache-2.0
"""Columns: one declarative table per kind of thing, which drives the table on a terminal, JSON, YAML and the docs.

A column says once what it is called, how its value is got and what it means. Nothing here draws: `l7ctl` does. Values
may come from a workload, so text for people never holds a control character (a terminal would obey it).

Failure verdict: a key that an older daemon does not send is an empty cell.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One property of the things in a list."""

    name: str
    """In JSON, YAML and the docs."""
    header: str
    """Above the table."""
    description: str
    """For the docs."""
    value: Callable[[T], object]
    """Gets it, in the type that JSON should show."""
    text: Callable[[object], str] | None = None
    """Shows the value to people, where `cell` would not do."""
    justify: Literal["left", "right"] = "left"
    width: int | None = None
    """At most this many characters in a table."""
    default: bool = True
    """Whether the table shows it unasked. JSON and YAML always hold every column."""


class Columns(Generic[T]):
    """The properties of one kind of thing, in order."""

    def __init__(self, *columns: Column[T]) -> None:
        self._columns = columns

    def __iter__(self) -> Iterator[Column[T]]:
        return iter(self._columns)

    def visible(self, wide: bool = False) -> tuple[Column[T], ...]:
        """What a table shows."""
        return tuple(column for column in self._columns if wide or column.default)

    def rows(self, items: Iterable[T], wide: bool = False) -> list[list[str]]:
        """Cells for people."""
        columns = self.visible(wide)
        return [[_cell(column, item) for column in columns] for item in items]

    def records(self, items: Iterable[T]) -> list[dict[str, Any]]:
        """Plain values for programs."""
        return [{column.name: column.value(item) for column in self._columns} for item in items]

    def markdown(self) -> str:
        """The table of the docs."""
        lines = ["| Column | JSON | Meaning |", "|---|---|---|"]
        lines.extend(f"| {column.header} | `{column.name}` | {column.description} |" for column in self._columns)
        return "\n".join(lines) + "\n"


def key(
    name: str,
    description: str,
    *,
    header: str = "",
    text: Callable[[object], str] | None = None,
    justify: Literal["left", "right"] = "left",
    default: bool = True,
) -> Column[Mapping[str, Any]]:
    """A column of mappings, named as its key."""
    return Column(
        name,
        header or name.replace("_", " ").upper(),
        description,
        lambda item: item.get(name),
        text=text,
        justify=justify,
        default=default,
    )


def cell(value: object) -> str:
    """A value as people read it: a list with commas, nothing as ``-``, a truth as yes or no."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return printable(value)
        case Sequence() | frozenset() | set():
            return ",".join(cell(part) for part in value) or "-"
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """The text with everything a terminal could obey written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def _cell(column: Column[T], item: T) -> str:
    value = column.value(item)
    text = printable(column.text(value)) if column.text is not None and value is not None else cell(value)
    if column.width is not None and len(text) > column.width:
        return text[: column.width - 1] + "…"
    return text
