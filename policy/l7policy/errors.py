# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a file, and where: every message a person gets about YAML has this shape.

Values, not exceptions, so that one reading collects all mistakes; `PolicyErrors` carries them out. A file with an error
is rejected whole: nothing of it takes effect.
"""

import difflib
from collections.abc import Collection, Iterable

import msgspec


class PolicyError(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """One mistake. Lines and columns count from 1; 0 means the whole file."""

    path: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"{place}: {self.message}{hint}"


class PolicyErrors(Exception):
    """All mistakes found, in the order of files, lines and columns. Never empty."""

    def __init__(self, errors: Iterable[PolicyError]) -> None:
        self.errors: tuple[PolicyError, ...] = tuple(sorted(set(errors)))
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def nearest(word: str, known: Collection[str]) -> str:
    """The known word that a misspelt one is near to, or an empty string."""
    # Without case first: `matchname` is nearer to `matchName` than difflib thinks.
    folded = {candidate.lower(): candidate for candidate in sorted(known)}
    near = difflib.get_close_matches(word.lower()[:64], folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else ""


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A hint for a misspelt word: the nearest known one, or all of them when there are few."""
    if near := nearest(word, known):
        return f"did you mean {near}?"
    if 0 < len(known) <= 12:
        return f"known here: {', '.join(sorted(known))}"
    return ""
