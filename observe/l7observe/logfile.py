# SPDX-License-Identifier: Apache-2.0
"""LogFile: a file of lines that is rotated by size, may be moved away at any time, and never holds half a line of ours.

`append` blocks on the disk, so it belongs on a thread of its own (`l7observe.audit`). It takes from the caller's queue
exactly the lines that are in the file, also when the disk fills up in the middle of one: what was written of that line
is cut off again. A file that ends in half a line (a crash, somebody else's write) is continued on a fresh line.

Failure verdict: OSError; what is still queued was not written, and the next call starts again from opening the file.
"""

import contextlib
import grp
import itertools
import os
import stat
from collections import deque
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
CHUNK: Final = 256 << 10


class LogFile:
    """A rotated file of lines. One owner, one thread."""

    def __init__(self, path: Path, max_bytes: int, backups: int, group: str | None = None) -> None:
        """`backups` older files are kept as ``path.1`` (the newest) and so on. `group` may read, if it exists."""
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._group = group
        self._fd = -1
        self._identity = (0, 0)
        self._regular = True

    def append(self, lines: deque[bytes]) -> int:
        """Writes the lines, each with its end, and removes what was written from the left. Returns how many were.

        Raises OSError when not all could be; those written before the error have been removed.
        """
        before = len(lines)
        while lines:
            size = self._ready()
            if self._regular and size and size + len(lines[0]) > self._max_bytes:
                self._rotate()
                continue
            self._write(lines, size)
        return before - len(lines)

    def open(self) -> None:
        """Opens the file if it is not open, or if its name now means another file. Raises OSError."""
        self._ready()

    def close(self) -> None:
        """Lets go of the file; the next append opens it by name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> int:
        """The open file's size, after making sure that the name still means it."""
        if self._fd >= 0:
            try:
                found = self._path.stat()
            except OSError:
                self.close()
            else:
                if (found.st_dev, found.st_ino) == self._identity:
                    return found.st_size
                self.close()
        return self._open()

    def _open(self) -> int:
        if not self._path.parent.is_dir():
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True)
            self._give_to_group(self._path.parent)
        # Not blocking matters for a FIFO only: without a reader it is an error, and not a thread that hangs.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self._path, flags, FILE_MODE)
        try:
            found = os.fstat(fd)
            self._regular = stat.S_ISREG(found.st_mode)
            if self._regular:
                # The mode given to open() was cut by the umask.
                os.fchmod(fd, FILE_MODE)
                self._give_to_group(fd)
                if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
                    os.write(fd, b"\n")
                    found = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._identity = (found.st_dev, found.st_ino)
        return found.st_size

    def _write(self, lines: deque[bytes], size: int) -> None:
        chunk = bytearray(lines[0])
        for line in itertools.islice(lines, 1, None):
            if len(chunk) + len(line) > CHUNK or (self._regular and size + len(chunk) + len(line) > self._max_bytes):
                break
            chunk += line
        written = 0
        try:
            while written < len(chunk):
                written += os.write(self._fd, memoryview(chunk)[written:])
        except OSError:
            self._undo_partial(chunk, written)
            raise
        finally:
            complete = chunk.rfind(b"\n", 0, written) + 1
            for _ in range(chunk.count(b"\n", 0, complete)):
                lines.popleft()

    def _undo_partial(self, chunk: bytearray, written: int) -> None:
        """Cuts off what was written of the line that failed."""
        complete = chunk.rfind(b"\n", 0, written) + 1
        if complete == written or not self._regular:
            return
        # If even this fails, opening the file again starts on a fresh line.
        with contextlib.suppress(OSError):
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            os.ftruncate(self._fd, end - (written - complete))
        self.close()

    def _rotate(self) -> None:
        self.close()
        if not self._backups:
            self._path.unlink()
            return
        for number in range(self._backups, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._backup(number - 1).replace(self._backup(number))
        self._path.replace(self._backup(1))

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _give_to_group(self, target: int | Path) -> None:
        """Lets the group read. Without the group, or the right to give files away, they stay the owner's alone."""
        if self._group is None:
            return
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(target, -1, grp.getgrnam(self._group).gr_gid)
