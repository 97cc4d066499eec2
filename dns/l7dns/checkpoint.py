# SPDX-License-Identifier: Apache-2.0
"""Checkpoint: what the DNS process must know again after it was killed, in three files of one folder.

- ``dns-rules.msgpack``: the snapshots in force and prepared, so that names are judged with the agent down;
- ``dns-names.msgpack``: the name cache, replaced in one step;
- ``dns-journal.<generation>``: what was learnt since then, appended before each answer is released. A process that is
  killed loses nothing; a last record cut short is ignored.

Nothing is flushed to the disk: what the machine forgets by crashing, its kernel's maps forget too, and files of
another boot are not used. Failure verdict: a damaged, foreign or missing file is as if there were none; a failed
write is counted.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from l7policy.model import Snapshot

VERSION: Final = 3
"""Of the format. Files of another one are as if there were none: names are learnt again as they are asked for."""
_JOURNAL_LIMIT: Final = 1 << 20
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

T = TypeVar("T")


class NameState(msgspec.Struct, frozen=True, array_like=True):
    """A name and its addresses: one item of the cache file, and one record of the journal."""

    name: str
    server: str
    """Who said so."""
    port: int
    endpoint: int
    addresses: list[tuple[bytes, float]]
    """Packed address and expiry, in seconds since boot."""


class _Names(msgspec.Struct, frozen=True):
    """Head of the file. The names follow one by one, as in the journal: to write them takes no memory."""

    version: int
    boot: str
    generation: int
    next_identity: int


class _Rules(msgspec.Struct, frozen=True):
    version: int
    boot: str
    snapshots: list[Snapshot]


class State(msgspec.Struct, frozen=True):
    """What was found at the start."""

    snapshots: list[Snapshot]
    """The one in force, then the one prepared, if any."""
    names: Iterable[NameState]
    """To be read once; what comes behind a damaged one is not there."""
    next_identity: int


class Checkpoint:
    """The files of one DNS process."""

    def __init__(self, folder: Path) -> None:
        """Reads and writes nothing yet."""
        self._folder = folder
        self._rules = folder / "dns-rules.msgpack"
        self._names = folder / "dns-names.msgpack"
        self._journal = -1
        self._written = 0
        self._size = 0
        self._generation = 0
        self._encoder = msgspec.msgpack.Encoder()
        self.errors = 0
        """Writes that failed."""
        self.error = ""
        """The last failure, empty once a write succeeds again."""

    @property
    def due(self) -> bool:
        """Whether the journal has grown so long, or was lost, that the cache should be written anew."""
        return self._journal < 0 or self._written > max(_JOURNAL_LIMIT, 2 * self._size)

    def load(self) -> State:
        """Everything found; empty where nothing usable is. The journal that was found whole goes on being written."""
        rules = self._read(self._rules, _Rules)
        snapshots = [] if rules is None or (rules.version, rules.boot) != (VERSION, _boot()) else rules.snapshots
        frames, length = self._frames(self._names)
        if length != self._length(self._names):
            frames = []  # this file is replaced in one step: what is not whole is damaged
        try:
            base = msgspec.msgpack.decode(frames[0], type=_Names) if frames else None
        except msgspec.MsgspecError as error:
            self._failed(error)
            base = None
        if base is None or base.version != VERSION or base.boot != _boot():
            return State(snapshots, [], 0)
        self._generation = base.generation
        journal = self._journal_path(base.generation)
        for stale in self._folder.glob("dns-journal.*"):
            if stale != journal:
                stale.unlink(missing_ok=True)
        records, end = self._frames(journal)
        if not self.error:
            self._resume(journal, end, length)
        return State(snapshots, self._decode(frames[1:], records), base.next_identity)

    def save_rules(self, snapshots: list[Snapshot]) -> bool:
        """Remembers what is in force and what is prepared."""
        rules = self._encoder.encode(_Rules(VERSION, _boot(), snapshots))
        return self._replace(self._rules, [rules])

    def save_names(self, names: Iterable[NameState], next_identity: int) -> bool:
        """Remembers the whole cache, and begins a new journal."""
        old = self._generation
        generation = old + 1
        journal = self._open_journal(generation)
        # Records go to the new journal from here on. Until the new cache file is in place, a reader finds the old one
        # with the old journal, which is what this one was made from.
        head = _Names(VERSION, _boot(), generation, next_identity)
        frames = (self._frame(record) for record in itertools.chain((head,), names))
        if journal < 0 or not self._replace(self._names, frames):
            if journal >= 0:
                os.close(journal)
                self._journal_path(generation).unlink(missing_ok=True)
            return False
        self.close()
        self._journal, self._generation, self._written = journal, generation, 0
        self._size = self._names.stat().st_size
        self._journal_path(old).unlink(missing_ok=True)
        return True

    def append(self, record: NameState) -> bool:
        """Adds one learnt name to the journal."""
        if self._journal < 0:
            return False
        frame = self._frame(record)
        try:
            written = os.write(self._journal, frame)
        except OSError as error:
            return self._failed(error)
        if written != len(frame):
            # A torn record would hide all that follow it.
            self.close()
            return self._failed(OSError("the journal could not take a whole record"))
        self._written += len(frame)
        return True

    def close(self) -> None:
        """Closes the journal."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            self._failed(error)
            return None

    def _frame(self, record: object) -> bytes:
        body = self._encoder.encode(record)
        return len(body).to_bytes(4, "big") + body

    def _resume(self, journal: Path, end: int, size: int) -> None:
        """Goes on with a journal, behind its last whole record."""
        try:
            descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return  # then the cache is due to be written anew
        try:
            os.ftruncate(descriptor, end)
        except OSError as error:
            os.close(descriptor)
            self._failed(error)
            return
        self._journal, self._written, self._size = descriptor, end, size

    @staticmethod
    def _length(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0

    @staticmethod
    def _frames(path: Path) -> tuple[list[bytes], int]:
        """The whole records of a file, and where the last of them ends."""
        try:
            data = path.read_bytes()
        except OSError:
            return [], 0
        frames: list[bytes] = []
        position = 0
        while position + 4 <= len(data):
            end = position + 4 + int.from_bytes(data[position : position + 4], "big")
            if end > len(data):
                break
            frames.append(data[position + 4 : end])
            position = end
        return frames, position

    def _decode(self, *files: Iterable[bytes]) -> Iterator[NameState]:
        for frames in files:
            try:
                for frame in frames:
                    yield msgspec.msgpack.decode(frame, type=NameState)
            except msgspec.MsgspecError as error:
                self._failed(error)
                self.close()  # so that the cache is due to be written anew

    def _replace(self, path: Path, parts: Iterable[bytes]) -> bool:
        draft = path.with_name(path.name + ".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
            draft.replace(path)
        except OSError as error:
            return self._failed(error)
        self.error = ""
        return True

    def _journal_path(self, generation: int) -> Path:
        return self._folder / f"dns-journal.{generation}"

    def _open_journal(self, generation: int) -> int:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            return os.open(self._journal_path(generation), flags, 0o600)
        except OSError as error:
            self._failed(error)
            return -1

    def _failed(self, error: Exception) -> bool:
        self.errors += 1
        self.error = str(error)
        return False


def _boot() -> str:
    return _BOOT_ID.read_text().strip()
