# SPDX-License-Identifier: Apache-2.0
"""Tail: the last lines of a rotated log, and those that come after, whatever the writer does to the file meanwhile.

It reads ``path``, ``path.1``, ``path.2``… as one text. It never sleeps: the caller asks `poll` as often as it likes.
Half a line at the end is not read before the rest is there.

Failure verdict: a missing file has no lines until it exists; any other OSError is the caller's.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

BLOCK: Final = 64 << 10
MAX_BACKUPS: Final = 1000


class Tail:
    """A place in a rotated log."""

    def __init__(self, path: Path) -> None:
        """Starts at the end of what is there now."""
        self._path = path
        self._file: BinaryIO | None = None
        self._offset = 0
        for newest in (path, _backup(path, 1)):
            with contextlib.suppress(FileNotFoundError):
                self._offset = _end_of_last_line(self._open(newest))
                break

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def last(self, count: int, keep: Callable[[bytes], bool] = lambda _: True) -> list[bytes]:
        """The last `count` lines that `keep` accepts before the starting place, oldest first, without line ends."""
        found: list[bytes] = []
        if count <= 0 or self._file is None:
            return found
        for line in self._backwards(self._file):
            if keep(line):
                found.append(line)
                if len(found) == count:
                    break
        return found[::-1]

    def poll(self) -> list[bytes]:
        """The complete lines written since the last call, without line ends."""
        lines = self._read_new()
        while self._move_on():
            lines.extend(self._read_new())
        return lines

    def _open(self, path: Path) -> BinaryIO:
        file = path.open("rb")
        self.close()
        self._file = file
        self._offset = 0
        return file

    def _backwards(self, current: BinaryIO) -> Iterator[bytes]:
        yield from reversed_lines(current, self._offset)
        for number in range(self._number_of_current() + 1, MAX_BACKUPS):
            try:
                file = _backup(self._path, number).open("rb")
            except FileNotFoundError:
                return
            with file:
                yield from reversed_lines(file, file.seek(0, os.SEEK_END))

    def _read_new(self) -> list[bytes]:
        if self._file is None:
            return []
        fd = self._file.fileno()
        if os.fstat(fd).st_size < self._offset:
            # Truncated in place (logrotate's copytruncate).
            self._offset = 0
        data = bytearray()
        while block := os.pread(fd, BLOCK, self._offset + len(data)):
            data += block
        complete = data.rfind(b"\n") + 1
        self._offset += complete
        return bytes(data[:complete]).split(b"\n")[:-1]

    def _move_on(self) -> bool:
        """Opens the file that follows the one just read to its end, if there is one."""
        number = self._number_of_current()
        if number == 0:
            return False
        try:
            self._open(_backup(self._path, number - 1))
        except FileNotFoundError:
            return False
        return True

    def _number_of_current(self) -> int:
        """Which backup our file has become; 0 while it is the current one.

        A file that is in no place any more (deleted, or rotated out) counts as the first backup, so that the current
        one follows. When there was no file to start from, all that exist follow.
        """
        ours = os.fstat(self._file.fileno()) if self._file is not None else None
        missing = oldest = 0
        for number in range(MAX_BACKUPS):
            try:
                found = _backup(self._path, number).stat()
            except FileNotFoundError:
                # In the midst of a rotation one place is empty.
                missing += 1
                if missing > 1:
                    break
                continue
            oldest = number
            if ours is not None and os.path.samestat(found, ours):
                return number
        return 1 if ours is not None else oldest + 1


def _end_of_last_line(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        newline = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def reversed_lines(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines before offset `end`, last first, without line ends."""
    rest = b""
    while end > 0:
        start = max(0, end - BLOCK)
        block = os.pread(file.fileno(), end - start, start) + rest
        end = start
        first, *lines = block.split(b"\n")
        # The last piece is empty when the block ends a line, which it does at every block but a torn file's last.
        for line in reversed(lines):
            if line:
                yield line
        rest = first
    if rest:
        yield rest


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
