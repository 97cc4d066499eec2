# SPDX-License-Identifier: Apache-2.0
"""TLS server names against ``serverNames`` patterns, in the dialect of Cilium's proxy (cilium/network_policy.h).

Not the dialect of `l7policy.names`:

- ``*`` is any number of the characters ``-a-z0-9_``, none included. It never crosses a dot.
- ``**`` as a whole label, *anywhere*, is one or more whole labels.
- ``*`` alone is any name that is not empty.
- No trailing dot, no empty label. Without a star the whole name is compared, without case.

A ClientHello without a name matches no pattern: what is limited to names must say one.

Failure verdict: ValueError for a text that is no pattern, when the rules are read; *no match* afterwards.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

from l7policy.names import label_matches

MAX_PATTERN: Final = 255
_LABEL: Final = r"(?:[*]{1,2}|[*]?[-a-zA-Z0-9_]+(?:[*][-a-zA-Z0-9_]+)*[*]?)"
_VALID: Final = re.compile(rf"(?:{_LABEL}[.])*{_LABEL}")
_CHARACTER: Final = "[-a-z0-9_]"


def check(text: str) -> str:
    """The pattern in lower case, if it is one. Raises ValueError."""
    if len(text) > MAX_PATTERN:
        raise ValueError(f"{len(text)} characters are more than the {MAX_PATTERN} a server name can have")
    if not _VALID.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a pattern of server names: {_fault(text)}")
    return text.lower()


def _fault(text: str) -> str:
    if not text.isascii():
        return "write an international name in its xn-- form"
    if text.endswith("."):
        return "it ends in a dot, and no TLS server name does"
    if ".." in text or text.startswith(".") or not text:
        return "it has an empty label"
    if "**" in text:
        return "at most two stars, and ** only as a whole label"
    return "labels of letters, digits, -, _ and * with single dots between them"


class ServerNames:
    """Patterns, compiled. An empty list lets no name pass."""

    __slots__ = ("_any", "_exact", "_labels", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(map(check, patterns))
        self._any = "*" in self.patterns
        self._exact = frozenset(pattern for pattern in self.patterns if "*" not in pattern)
        self._labels = tuple(
            tuple(map(_label, pattern.split("."))) for pattern in self.patterns if "*" in pattern and pattern != "*"
        )

    def matches(self, name: str) -> bool:
        """Whether a server name may pass; "" is a ClientHello that has none."""
        if not name or len(name) > MAX_PATTERN or not name.isascii():
            return False
        name = name.lower()
        if name in self._exact:
            return True
        if not _WELL_FORMED.fullmatch(name):
            return False
        labels = name.split(".")
        return (self._any and all(labels)) or any(_labels_match(pattern, labels) for pattern in self._labels)


_WELL_FORMED: Final = re.compile(rf"{_CHARACTER}*(?:[.]{_CHARACTER}*)*")


def _label(text: str) -> tuple[str, ...]:
    """The literals between the stars of one label; () for ``**``."""
    return () if text == "**" else tuple(text.split("*"))


def _labels_match(pattern: tuple[tuple[str, ...], ...], labels: list[str]) -> bool:
    """Whether the labels match. Keeps the set of places where the pattern can be, so that no name takes long."""
    places = {0}
    for label in pattern:
        if not places:
            return False
        if label:
            places = {at + 1 for at in places if at < len(labels) and label_matches(label, labels[at])}
            continue
        reached: set[int] = set()
        for at in places:
            while at < len(labels) and labels[at]:
                at += 1
                reached.add(at)
        places = reached
    return len(labels) in places


@functools.lru_cache(maxsize=256)
def server_names(patterns: tuple[str, ...]) -> ServerNames:
    """The same `ServerNames` for equal lists."""
    return ServerNames(patterns)
