# SPDX-License-Identifier: Apache-2.0
"""DNS names against name selectors, in the dialect of Cilium's matchName and matchPattern.

- A name is compared whole, lower-cased, with its trailing dot.
- ``*`` is any number of the characters ``-a-z0-9_``, none included. It never crosses a dot.
- ``**.`` at the very start is one or more whole labels.
- A pattern of stars alone matches every well-formed name, the root included.

Cilium translates a pattern to a regular expression; here it is matched label by label, which is the same language
(a property test holds the two equal) at a cost that grows with the name's length alone, whatever the workload asks for.

This module may not know what a match is good for. Its failure verdict is *no match*: a name with any character
outside ``-a-z0-9_.`` (an escaped byte of a hostile label, say) matches no selector at all.
"""

import functools
import hashlib
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from l7policy.model import FqdnPeer

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_WELL_FORMED: Final = re.compile(r"[-a-z0-9_.]*")
_LONGEST: Final = 255
"""Of a name with its dots. The wire format allows no more, and so no more is ever searched."""
_KEPT_NAMES: Final = 1024
"""Names that a set remembers: workloads ask the same ones over and over."""


def fold(name: str) -> str:
    """`name` in lower case with a trailing dot. Only ASCII is folded: U+212A is no ``k`` on the wire."""
    lowered = name.lower() if name.isascii() else name.translate(_LOWER)
    return lowered if lowered.endswith(".") else lowered + "."


def canonical(name: str) -> str:
    """A name or pattern as policy text gives it, in the form that `FqdnPeer` holds.

    >>> canonical(" A*.Example.COM ")
    'a*.example.com.'
    """
    trimmed = name.strip()
    return trimmed if _is_everything(trimmed) else fold(trimmed)


def hash64(text: str) -> int:
    """The 64-bit name of a selector's label in the kernel's `fqdn_identities`: the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _is_everything(pattern: str) -> bool:
    """Whether `pattern` is stars alone, with or without a dot. Cilium gives those a meaning of their own."""
    stars = pattern.removesuffix(".")
    return bool(stars) and not stars.strip("*")


@dataclass(frozen=True, slots=True)
class _Glob:
    """The part of a pattern before its literal suffix: what must match the labels before that suffix in a name."""

    index: int
    deep: bool
    """One or more whole labels come first."""
    head: tuple[tuple[str, ...], ...]
    """Each label, as the literals between its stars."""

    def matches(self, labels: list[str]) -> bool:
        extra = len(labels) - len(self.head)
        if self.deep:
            if extra < 1 or not all(labels[:extra]):
                return False
        elif extra:
            return False
        return all(map(label_matches, self.head, labels[extra:]))


def label_matches(literals: tuple[str, ...], label: str) -> bool:
    """Whether `label` is the literals in order, with anything between them."""
    if len(literals) == 1:
        return label == literals[0]
    first, *between, last = literals
    end = len(label) - len(last)
    if end < len(first) or not label.startswith(first) or not label.endswith(last):
        return False
    position = len(first)
    # Taking each literal at its first place leaves the most room for the rest, so no step need ever be undone.
    for literal in between:
        position = label.find(literal, position, end)
        if position < 0:
            return False
        position += len(literal)
    return True


class NameSet:
    """Name selectors, indexed: whole names by hash, patterns by the literal labels they end in."""

    __slots__ = ("_everything", "_exact", "_globs", "_matched", "peers")

    def __init__(self, peers: Iterable[FqdnPeer]) -> None:
        self.peers = tuple(peers)
        self._everything: list[int] = []
        self._exact: dict[str, list[int]] = {}
        self._globs: dict[str, list[_Glob]] = {}
        self._matched: dict[str, bool] = {}
        for index, peer in enumerate(self.peers):
            if peer.match_name:
                self._exact.setdefault(fold(peer.match_name), []).append(index)
            elif peer.match_pattern:
                self._add_pattern(index, canonical(peer.match_pattern))

    def _add_pattern(self, index: int, pattern: str) -> None:
        if _is_everything(pattern):
            self._everything.append(index)
            return
        if "*" not in pattern:
            self._exact.setdefault(pattern, []).append(index)
            return
        labels = pattern.split(".")
        # Stars alone, at least two of them, in the first label: the only place where `**` is more than `*`.
        deep = len(labels[0]) > 1 and not labels[0].strip("*")
        rest = labels[1:] if deep else labels
        split = max((place + 1 for place, label in enumerate(rest) if "*" in label), default=0)
        head = tuple(tuple(label.split("*")) for label in rest[:split])
        self._globs.setdefault(".".join(rest[split:]), []).append(_Glob(index, deep, head))

    def matches(self, name: str) -> bool:
        """Whether any selector matches `name`, in any case, with or without its trailing dot."""
        known = self._matched.get(name)
        if known is None:
            known = bool(self._found(fold(name), first=True))
            if len(name) <= _LONGEST:
                if len(self._matched) >= _KEPT_NAMES:
                    self._matched.clear()
                self._matched[name] = known
        return known

    def matching(self, name: str) -> tuple[FqdnPeer, ...]:
        """Every selector that matches `name`, in the order they were given."""
        return tuple(self.peers[index] for index in sorted(self._found(fold(name), first=False)))

    def _found(self, name: str, *, first: bool) -> list[int]:
        found = list(self._exact.get(name, ()))
        if (first and found) or not (self._everything or self._globs):
            return found
        if len(name) > _LONGEST or not _WELL_FORMED.fullmatch(name):
            return found
        labels = name.split(".")
        if self._everything and (name == "." or all(labels[:-1])):
            found.extend(self._everything)
        start = 0
        for count in range(len(labels)):
            for glob in self._globs.get(name[start:], ()):
                if first and found:
                    return found
                if glob.matches(labels[:count]):
                    found.append(glob.index)
            start += len(labels[count]) + 1
        return found


@functools.lru_cache(maxsize=256)
def name_set(peers: tuple[FqdnPeer, ...]) -> NameSet:
    """The same `NameSet` for equal selectors: endpoints with equal rules share one."""
    return NameSet(peers)


def matching(peers: tuple[FqdnPeer, ...], name: str) -> tuple[FqdnPeer, ...]:
    """Every one of `peers` that matches `name`."""
    return name_set(peers).matching(name)
