# SPDX-License-Identifier: Apache-2.0
"""Single: that one process at a time works on a state folder, and how the next one takes over.

A lock on a file in the folder, which the kernel lets go when its holder dies. Failure verdict: `HeldError`.
"""

import asyncio
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Final

_PATIENCE: Final = 5.0
_STEP: Final = 0.002


class HeldError(Exception):
    """Another process works on the folder."""


class Single:
    """The lock of one folder, held until the process ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """Takes the lock if nobody holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getppid()} {os.getpid()}\n".encode(), 0)
        return True

    async def take_over(self) -> None:
        """Asks the holder to end, and waits for the lock. Raises HeldError if the holder does not end."""
        deadline = time.monotonic() + _PATIENCE
        asked = 0
        while not self.take():
            holder = self._holder()
            if holder and holder != asked:
                os.kill(holder, signal.SIGTERM)
                asked = holder
            if time.monotonic() > deadline:
                raise HeldError(f"{self._path}: process {holder} does not end")
            await asyncio.sleep(_STEP)

    def _holder(self) -> int:
        """The working process itself, 0 while another one is taking over."""
        words = os.pread(self._file, 64, 0).split()
        return int(words[1]) if len(words) == 2 else 0
