# SPDX-License-Identifier: Apache-2.0
"""YAML as a tree that remembers where everything stood, so that every later error can name file:line:column.

Reads what Kubernetes reads (YAML 1.1 scalars, several documents, anchors) and refuses what two readers could understand
differently: duplicate keys, numbers that are not plain decimals, keys that are not text, merge keys, foreign tags.
Aliases share nodes, but each use counts against `MAX_NODES`, so an alias bomb is refused while it is read and whoever
walks a tree walks a bounded one.

libyaml does the scanning: PyYAML's own scanner is ten times slower and breaks on some escapes.

Failure verdict: `PolicyErrors`, and no tree. Never any other exception, whatever the text.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.resolver import Resolver

from l7policy.errors import PolicyError, PolicyErrors

MAX_CHARACTERS: Final = 8 << 20
MAX_NODES: Final = 200_000
"""Of one text, an aliased node counted once per use."""
MAX_DEPTH: Final = 64

_RESOLVER: Final[Any] = Resolver()
_TAG: Final = "tag:yaml.org,2002:"
_STR: Final = f"{_TAG}str"
_UNREADABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAK: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_DOCUMENT: Final = re.compile(r"\n---(?=[ \t\r\n]|\Z)")
_SMALL_PART: Final = 100
"""No policy is as small as that: a file of such documents is not worth taking apart."""
_DECIMAL: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_NO_MARK: Final = yaml.Mark("", 0, 0, 0, None, 0)


class Kind(StrEnum):
    """What a node is; the text is what people are told."""

    MAPPING = "a mapping"
    SEQUENCE = "a list"
    TEXT = "text"
    INTEGER = "a number"
    FLOAT = "a fraction"
    BOOLEAN = "true/false"
    NULL = "nothing"


_KINDS: Final = {
    _STR: Kind.TEXT,
    f"{_TAG}timestamp": Kind.TEXT,
    f"{_TAG}value": Kind.TEXT,
    f"{_TAG}int": Kind.INTEGER,
    f"{_TAG}float": Kind.FLOAT,
    f"{_TAG}bool": Kind.BOOLEAN,
    f"{_TAG}null": Kind.NULL,
}
"""By the tag of a scalar."""
_REMEMBERED: Final = 64
"""Longer texts are not kept by `_plain_tag`."""


def _resolved(value: str) -> str:
    """What YAML 1.1 takes a scalar without quotes for."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, value, (True, False)))


_plain_tag: Final = functools.lru_cache(maxsize=4096)(_resolved)
"""Policies say the same few hundred words over and over."""


_NO_FIELDS: Final[Mapping[str, "Node"]] = MappingProxyType({})


class Node(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One value of the document. Lines and columns count from 1.

    Not for the garbage collector, which would walk every tree over and over: nothing in a tree points back.
    """

    path: str
    line: int
    column: int
    kind: Kind
    text: str = ""
    """A scalar as it was written, without quotes."""
    items: tuple["Node", ...] = ()
    """Of a list."""
    fields: Mapping[str, "Node"] = _NO_FIELDS
    """Of a mapping."""
    keys: Mapping[str, "Node"] = _NO_FIELDS
    """Of a mapping: each key itself, for its position."""
    size: int = 1
    """How many nodes a walk of this tree meets."""

    @property
    def value(self) -> Any:
        """As plain Python: dict, list, str, int, float, bool or None."""
        match self.kind:
            case Kind.MAPPING:
                return {key: node.value for key, node in self.fields.items()}
            case Kind.SEQUENCE:
                return [node.value for node in self.items]
            case Kind.INTEGER:
                return int(self.text)
            case Kind.FLOAT:
                return float(self.text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case Kind.BOOLEAN:
                return self.text.lower() in {"true", "yes", "on"}
            case Kind.NULL:
                return None
            case _:
                return self.text

    def error(self, message: str, hint: str = "") -> PolicyError:
        """A mistake at this place."""
        return PolicyError(self.path, self.line, self.column, message, hint)


class Part(NamedTuple):
    """Some whole documents of a file."""

    line: int
    """On which line of the file it begins."""
    text: str


def parts(path: str, text: str) -> list[Part]:
    """A file taken apart between its documents, for whoever reads one that has changed in places. Raises PolicyErrors.

    Reading the parts comes to the same as reading the whole; a mistake is told better by the whole.
    """
    text = _checked(path, text)
    starts = [0, *(found.start() + 1 for found in _DOCUMENT.finditer(text))]
    # A directive (%YAML, %TAG) stands before the document that it is about.
    if len(text) < _SMALL_PART * len(starts) or text.startswith("%") or "\n%" in text:
        return [Part(1, text)]
    found, line = [], 1
    for start, end in zip(starts, (*starts[1:], len(text)), strict=True):
        part = text[start:end]
        found.append(Part(line, part))
        line += part.count("\n") if part.isascii() and "\r" not in part else len(_BREAK.findall(part))
    return found


def _checked(path: str, text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise PolicyErrors([PolicyError(path, 0, 0, f"the file is larger than {MAX_CHARACTERS >> 20} MiB")])
    return text.removeprefix("\ufeff")


def parse(path: str, text: str, line: int = 1) -> list[Node]:
    """Every document of the text that is not empty, in order. Raises PolicyErrors. `line`: that of the text's start."""
    text = _checked(path, text)
    if found := _UNREADABLE.search(text):
        line += text.count("\n", 0, found.start())
        column = found.start() - text.rfind("\n", 0, found.start())
        raise PolicyErrors([PolicyError(path, line, column, f"character {found[0]!a} is not allowed in YAML")])
    builder = _Builder(path, line)
    try:
        loader = yaml.CSafeLoader(text)
        while (event := loader.get_event()) is not None:
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        builder.errors.append(_broken(path, text, error, line - 1))
    except yaml.YAMLError as error:
        builder.errors.append(PolicyError(path, 0, 0, f"not YAML: {error}"))
    if builder.errors:
        raise PolicyErrors(builder.errors)
    return builder.documents


def _broken(path: str, text: str, error: yaml.MarkedYAMLError, above: int) -> PolicyError:
    mark = error.problem_mark or error.context_mark or _NO_MARK
    problem = ", ".join(filter(None, (error.context, error.problem))) or "unreadable"
    line, column = mark.line + 1, mark.column + 1
    breaks = [found.end() for found in _BREAK.finditer(text)]
    if line > len(breaks) + 1:  # The scanner is one line past the end of a text without a last newline.
        line, column = len(breaks) + 1, len(text) - (breaks[-1] if breaks else 0) + 1
    if error.context_mark is not None and error.context_mark.line + 1 != line:
        problem += f" (it began on line {error.context_mark.line + 1 + above})"
    return PolicyError(path, line + above, column, f"not YAML: {problem}")


def too_many(path: str, line: int, column: int = 1) -> PolicyError:
    """There are more than `MAX_NODES` in a file, counted to here."""
    return PolicyError(path, line, column, f"more than {MAX_NODES} values, aliases counted at each use")


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    event: NodeEvent
    mapping: bool
    items: list[Node] = field(default_factory=list)
    """A mapping's keys and values take turns."""
    seen: dict[str, Node] = field(default_factory=dict)


class _Builder:
    """Makes nodes from events. No recursion: the depth of the text is the text's author's choice."""

    def __init__(self, path: str, line: int) -> None:
        self._line = line
        self.documents: list[Node] = []
        self.errors: list[PolicyError] = []
        self._path = path
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def feed(self, event: Any) -> None:
        """Takes the parser's next event. Raises PolicyErrors when reading on makes no sense."""
        kind = type(event)  # of thousands of events each is asked, so not by isinstance
        if kind is ScalarEvent:
            node = self._scalar(event)
            self._add(node if event.anchor is None else self._anchored(event, node))
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            self._check_tag(event, "map" if kind is MappingStartEvent else "seq")
            if len(self._open) >= MAX_DEPTH:
                raise PolicyErrors([*self.errors, self._error(event, f"nested deeper than {MAX_DEPTH} levels")])
            self._open.append(_Open(event, kind is MappingStartEvent))
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            closed = self._open.pop()
            self._add(self._anchored(closed.event, self._collection(closed)))
        elif kind is AliasEvent:
            self._add(self._alias(event))
        elif kind is DocumentEndEvent:
            self._anchors.clear()

    def _error(self, event: NodeEvent, message: str, hint: str = "") -> PolicyError:
        mark = event.start_mark or _NO_MARK
        return PolicyError(self._path, mark.line + self._line, mark.column + 1, message, hint)

    def _anchored(self, event: NodeEvent, node: Node) -> Node:
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent) -> Node:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            inside = any(opened.event.anchor == event.anchor for opened in self._open)
            problem = "is inside of what it names" if inside else "names no anchor before it"
            raise PolicyErrors([*self.errors, self._error(event, f"alias *{event.anchor} {problem}")])
        self._nodes += node.size - 1
        return node

    def _check_tag(self, event: Any, expected: str) -> None:
        if event.tag not in {None, "!", _TAG + expected}:
            self.errors.append(self._error(event, f"tag {event.tag} is not supported"))

    def _scalar(self, event: ScalarEvent) -> Node:
        value, tag, mark = event.value, event.tag, event.start_mark or _NO_MARK
        # Only in double quotes can a text say what does not stand in the file.
        if event.style == '"' and (found := _UNREADABLE.search(value)):
            self.errors.append(self._error(event, f"character {found[0]!a} is not allowed, escaped or not"))
        if tag is None:
            tag = _STR if not event.implicit[0] else _plain_tag(value) if len(value) < _REMEMBERED else _resolved(value)
        elif tag == "!":
            tag = _STR
        kind = _KINDS.get(tag)
        if kind is None or (event.tag not in {None, "!"} and kind is not Kind.TEXT):
            problem = "merge keys (<<) are not supported" if value == "<<" else f"tag {tag} is not supported"
            self.errors.append(self._error(event, problem, "write the values out"))
            kind = Kind.TEXT
        elif kind is Kind.INTEGER and not _DECIMAL.fullmatch(value):
            if ":" not in value:  # YAML 1.1 reads 1:30 in base 60. Kubernetes does not, nobody means it.
                hint = "write it in decimal or in quotes"
                self.errors.append(self._error(event, f"{value[:40]} is not a plain decimal number", hint))
            kind = Kind.TEXT
        elif kind is Kind.FLOAT:
            kind = Kind.TEXT if ":" in value or "_" in value else kind
        return Node(self._path, mark.line + self._line, mark.column + 1, kind, value)

    def _collection(self, opened: _Open) -> Node:
        size = 1 + sum([item.size for item in opened.items])
        mark = opened.event.start_mark or _NO_MARK
        line, column = mark.line + self._line, mark.column + 1
        if not opened.mapping:
            return Node(self._path, line, column, Kind.SEQUENCE, "", tuple(opened.items), size=size)
        fields: dict[str, Node] = {}
        keys: dict[str, Node] = {}
        pairs = iter(opened.items)
        for key, value in zip(pairs, pairs, strict=True):
            if key.kind is not Kind.TEXT:
                simple = key.kind not in {Kind.MAPPING, Kind.SEQUENCE}
                self.errors.append(key.error(f"a key must be text, not {key.kind}", "quote it" if simple else ""))
            elif key.text in keys:
                first = keys[key.text]
                self.errors.append(key.error(f"key {key.text[:80]} is repeated; first on line {first.line}"))
            else:
                keys[key.text] = key
                fields[key.text] = value
        return Node(self._path, line, column, Kind.MAPPING, "", (), fields, keys, size)

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise PolicyErrors([*self.errors, too_many(self._path, node.line, node.column)])
        if self._open:
            self._open[-1].items.append(node)
        elif node.kind is not Kind.NULL:
            self.documents.append(node)
