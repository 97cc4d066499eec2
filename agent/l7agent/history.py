# SPDX-License-Identifier: Apache-2.0
"""The rule sets that were in force: their sources, on disk, so that a restart and a rollback need no policy files."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from l7agent import statefile
from l7agent.statefile import StateError
from l7policy.policydoc import Source

KEPT: Final = 20

_log = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True):
    """One rule set that was in force."""

    revision: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]
    time: float
    """Seconds since the epoch at which it came into force."""
    sources: list[tuple[str, str]]
    """Path and text of each file."""
    note: str = ""
    policies: int = 0


class UnknownRevision(Exception):
    """No rule set of that number is kept."""


class History:
    """The last `KEPT` rule sets; the newest is the one in force."""

    def __init__(self, folder: Path) -> None:
        """Reads the folder. A damaged file costs that revision, not the others."""
        self._folder = folder
        self._kept: list[Kept] = []
        for path in sorted(folder.glob("*.json")):
            try:
                kept = statefile.load(path, Kept)
            except StateError as error:
                _log.error("a kept rule set is lost: %s", error)
                continue
            if kept is not None:
                self._kept.append(kept)
        self._kept.sort(key=lambda kept: kept.revision)
        for index in range(1, len(self._kept)):
            self._kept[index] = _sharing(self._kept[index], self._kept[index - 1])

    def __iter__(self) -> Iterator[Kept]:
        return iter(tuple(self._kept))

    @property
    def active(self) -> Kept | None:
        """The rule set in force."""
        return self._kept[-1] if self._kept else None

    def find(self, revision: int | None) -> Kept:
        """The rule set of a revision, or the one before the active. Raises UnknownRevision."""
        if revision is None:
            if len(self._kept) < 2:
                raise UnknownRevision("there is no revision before the one in force")
            return self._kept[-2]
        for kept in self._kept:
            if kept.revision == revision:
                return kept
        numbers = ", ".join(str(kept.revision) for kept in self._kept) or "none"
        raise UnknownRevision(f"revision {revision} is not kept (kept: {numbers})")

    def add(self, kept: Kept) -> None:
        """Makes it the active one. Raises OSError when it could not be written: a restart would not know it."""
        self._kept.append(_sharing(kept, self.active))
        statefile.save(self._path(kept), kept, indented=False)
        while len(self._kept) > KEPT:
            self._path(self._kept.pop(0)).unlink(missing_ok=True)

    def _path(self, kept: Kept) -> Path:
        return self._folder / f"{kept.revision:08d}.json"


def _sharing(kept: Kept, before: Kept | None) -> Kept:
    """The same, with the texts that did not change held once: twenty rule sets cost what is different in them."""
    texts = dict(before.sources) if before is not None else {}
    shared = [(path, known if (known := texts.get(path)) == text else text) for path, text in kept.sources]
    return msgspec.structs.replace(kept, sources=shared)


def sources_of(kept: Kept) -> tuple[Source, ...]:
    """What `l7policy.documents.load` reads."""
    return tuple(Source(path, text) for path, text in kept.sources)
