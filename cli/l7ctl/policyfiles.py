# SPDX-License-Identifier: Apache-2.0
"""Policy files as named on a command line: files, directories, or ``-`` for standard input.

Reads, and judges nothing. A directory stands for its ``*.yaml`` and ``*.yml`` in name order, as for the daemon.
A pipe is read only if it is named itself. What cannot be read is a problem beside the others, so that one run tells
all.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from l7agent import textfile
from l7policy.documents import Source
from l7policy.errors import PolicyError

STDIN: Final = "<stdin>"


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """What was read, and what could not be."""

    sources: tuple[Source, ...]
    problems: tuple[PolicyError, ...]
    empty: tuple[str, ...]
    """Directories without a policy file."""


def read(names: Sequence[str]) -> PolicyFiles:
    """Reads them all. A file named twice is read once."""
    sources: dict[str, Source] = {}
    problems: list[PolicyError] = []
    empty: list[str] = []
    for name in names:
        try:
            paths = _expand(name)
        except OSError as error:
            problems.append(_problem(name, error))
            continue
        if not paths:
            empty.append(name)
        named = paths == [name]
        for path in paths:
            if path in sources:
                continue
            try:
                sources[path] = Source(path, _text(path, named=named))
            except (OSError, UnicodeDecodeError) as error:
                problems.append(_problem(path, error))
    return PolicyFiles(tuple(sources.values()), tuple(problems), tuple(empty))


def _expand(name: str) -> list[str]:
    if name == "-":
        return [STDIN]
    path = Path(name)
    if not path.is_dir():
        return [name]
    return [str(file) for file in sorted(path.iterdir()) if file.suffix in (".yaml", ".yml")]


def _text(path: str, *, named: bool) -> str:
    if path == STDIN:
        return sys.stdin.buffer.read().decode("utf-8")
    return textfile.read(Path(path), named=named)


def _problem(path: str, error: OSError | UnicodeDecodeError) -> PolicyError:
    if isinstance(error, UnicodeDecodeError):
        return PolicyError(path, 0, 0, f"is not UTF-8: {error.reason} at byte {error.start}")
    hint = "name a file of policies, or a folder of them" if isinstance(error, FileNotFoundError) else ""
    return PolicyError(path, 0, 0, f"cannot be read: {error.strerror or error}", hint)
