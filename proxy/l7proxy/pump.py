# SPDX-License-Identifier: Apache-2.0
"""Moves one direction of a connection from socket to socket within the kernel, for bytes that nobody has to look at.

The bytes go through a pipe by splice(2), as references to where they are; this process never copies them. Half of the
processor time of a large body or of a TLS stream is saved by that. It costs four descriptors and four calls to set up,
so it is for what has proved large (`relay` decides).

The transports on either side must not read from `source` or write to `target` meanwhile; their sockets are duplicated,
because an event loop does not let others wait for its own descriptors. Whoever closes a transport stops its pumps
first, or the duplicate keeps the connection open.

It reports how many bytes moved, and stops by itself: at its limit or at the source's end, with everything delivered, to
let the transport read what comes then; or when a side is broken, naming it.
"""

import asyncio
import contextlib
import enum
import fcntl
import os
from typing import Final, Protocol

PIPE_BYTES: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_AT_ONCE: Final = 4
"""Pipes full in one go, before other connections get their turn."""
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Stop(enum.Enum):
    """Why a pump stopped."""

    DONE = enum.auto()
    """The limit is reached, or the source has ended."""
    SOURCE_BROKEN = enum.auto()
    TARGET_BROKEN = enum.auto()


class Owner(Protocol):
    """Who is told. Any of the calls may stop the pump."""

    def moved(self, size: int) -> None:
        """So many bytes more were delivered."""
        ...

    def slow(self, slow: bool) -> None:
        """The target takes no more for now, or has caught up."""
        ...

    def stopped(self, reason: Stop) -> None:
        """It has stopped by itself."""
        ...


class Pump:
    """One direction. Raises OSError if there are no descriptors left for it."""

    __slots__ = ("_held", "_left", "_loop", "_owner", "_read", "_source", "_target", "_waits_to_write", "_write")

    def __init__(self, source: int, target: int, limit: int, owner: "Owner") -> None:
        """Starts it. `source` and `target` are descriptors of non-blocking sockets; `limit` is in bytes."""
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._left = limit
        self._held = 0
        """Bytes in the pipe."""
        self._waits_to_write = False
        with contextlib.ExitStack() as undo:
            self._source = os.dup(source)
            undo.callback(os.close, self._source)
            self._target = os.dup(target)
            undo.callback(os.close, self._target)
            self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.pop_all()
        with contextlib.suppress(OSError):  # more than the user may have: it works with less
            fcntl.fcntl(self._write, _F_SETPIPE_SZ, PIPE_BYTES)
        self._loop.add_reader(self._source, self._step)

    @property
    def active(self) -> bool:
        """Whether it has not stopped."""
        return self._source >= 0

    def stop(self) -> None:
        """Gives everything back. What is in the pipe is lost: only for a connection that ends."""
        if not self.active:
            return
        self._loop.remove_reader(self._source)
        if self._waits_to_write:
            self._loop.remove_writer(self._target)
        for descriptor in (self._source, self._target, self._read, self._write):
            os.close(descriptor)
        self._source = -1

    def _step(self) -> None:
        moved = 0
        reason = None
        for _ in range(_AT_ONCE):
            if not self._held:
                got = self._fill()
                if got is None or isinstance(got, Stop):
                    reason = got
                    break
            sent = self._empty()
            if isinstance(sent, Stop):
                reason = sent
                break
            moved += sent
            if self._held:
                break
            if not self._left:
                reason = Stop.DONE
                break
        if moved:
            self._owner.moved(moved)
        if self.active:
            self._wait(write=self._held > 0)
        if self.active and reason is not None:
            self.stop()
            self._owner.stopped(reason)

    def _fill(self) -> "int | Stop | None":
        """Bytes that came; None: nothing is there."""
        try:
            got = os.splice(self._source, self._write, min(self._left, PIPE_BYTES), flags=_FLAGS)
        except BlockingIOError:
            return None
        except OSError:
            return Stop.SOURCE_BROKEN
        self._held += got
        self._left -= got
        return got or Stop.DONE

    def _empty(self) -> "int | Stop":
        """Bytes that went."""
        try:
            sent = os.splice(self._read, self._target, self._held, flags=_FLAGS)
        except BlockingIOError:
            return 0
        except OSError:
            return Stop.TARGET_BROKEN
        self._held -= sent
        return sent

    def _wait(self, *, write: bool) -> None:
        if write == self._waits_to_write:
            return
        self._waits_to_write = write
        if write:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._step)
        else:
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self._source, self._step)
        self._owner.slow(write)
